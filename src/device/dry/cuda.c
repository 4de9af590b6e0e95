/* cuda.c: the workspace of a GPU's operations, for "dry-cuda": all but cuBLASLt's is held for one call. */
#include "device/cuda_attention.h"
#include "device/cuda_pieces.h"
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

static mf_status for_a_call(mf_device *device, int64_t bytes) {
    mf_buffer held = {0};
    MF_TRY(take(device, bytes, &held));
    mf_buffer_free(device->memory, &held);
    return MF_OK;
}

static mf_status by_cudnn(mf_device *device, const mf_attention_args *args, bool backward) {
    mf_cuda_piece *pieces = NULL;
    MF_TRY(mf_host_alloc((size_t)(2 * args->query_chunks * args->key_chunks), sizeof *pieces, &pieces));
    int count = mf_cuda_pieces(args, pieces);
    int64_t bytes = mf_cuda_pieces_workspace(args, backward, count, pieces) +
                    mf_cuda_library_workspace(args, backward, count, pieces);
    mf_host_free(pieces);
    return for_a_call(device, bytes);
}

static mf_status attention(mf_device *device, const mf_attention_args *args, bool backward) {
    if (device->uses_cudnn && mf_cuda_in_pieces(args)) return by_cudnn(device, args, backward);
    return for_a_call(device, mf_cuda_attention_workspace(args, backward));
}

static mf_status rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *args) {
    return for_a_call(device, mf_cuda_rmsnorm_backward_workspace(args));
}

static mf_status headnorm_backward(mf_device *device, const mf_headnorm_args *args) {
    return for_a_call(device, mf_cuda_headnorm_backward_workspace(args));
}

static mf_status bias_backward(mf_device *device, const mf_bias_args *args) {
    return for_a_call(device, mf_cuda_bias_backward_workspace(args));
}

static mf_status modulate_backward(mf_device *device, const mf_modulate_args *args) {
    return for_a_call(device, mf_cuda_modulate_backward_workspace(args));
}

static mf_status embed_backward(mf_device *device, const mf_embed_args *args) {
    return for_a_call(device, mf_cuda_embed_backward_workspace(args));
}

static mf_status sum(mf_device *device, int64_t n) { return for_a_call(device, mf_cuda_total_workspace(n)); }

const mf_workspaces mf_cuda_workspaces = {
    .open = open,
    .close = close,
    .attention = attention,
    .rmsnorm_backward = rmsnorm_backward,
    .headnorm_backward = headnorm_backward,
    .bias_backward = bias_backward,
    .modulate_backward = modulate_backward,
    .embed_backward = embed_backward,
    .sum = sum,
};
