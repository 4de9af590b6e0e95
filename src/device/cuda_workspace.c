/* cuda_workspace.c: see cuda_workspace.h. */
#include "device/cuda_workspace.h"

mf_status mf_cuda_gemm_workspace(mf_device *device, mf_buffer *out) {
    return mf_buffer_alloc(device->memory, MF_WORKSPACE, MF_CUDA_GEMM_WORKSPACE, "cuBLASLt's workspace", out);
}

/* What a GPU's device holds while it is open. */
static mf_status open(mf_device *device) {
    mf_buffer *held = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *held, &held));
    device->state = held;
    return mf_cuda_gemm_workspace(device, held);
}

static void close(mf_device *device) {
    if (device->state) mf_buffer_free(device->memory, device->state);
    mf_host_free(device->state);
}

const mf_workspaces mf_cuda_workspaces = {.open = open, .close = close};
