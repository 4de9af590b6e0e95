/* cuda.c: the workspace of a GPU's operations, for "dry-cuda": all but cuBLASLt's is held for one call. */
#include "device/cuda_workspace.h"
#include "device/dry/dry.h"

static mf_status take(mf_device *device, int64_t bytes, mf_buffer *out) {
    return mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)bytes, "a GPU's workspace", out);
}

static mf_status open(mf_device *device) {
    mf_buffer *held = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *held, &held));
    device->state = held;
    return take(device, MF_CUDA_GEMM_WORKSPACE, held);
}

static void close(mf_device *device) {
    if (device->state) mf_buffer_free(device->memory, device->state);
    mf_host_free(device->state);
}

const mf_workspaces mf_cuda_workspaces = {.open = open, .close = close};
