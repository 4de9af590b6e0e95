/* cuda.c: a GPU's operations table, and what the program's library finds it by. */
#include "device/cuda/library.h"
#include "device/cuda_sizes/pieces.h"

#include <stdlib.h>
#include <string.h>

static mf_status cuda_open(mf_device *device) {
    mf_cuda *cuda = NULL;
    mf_cuda_place *place = mf_cuda_place_of(device->memory);
    if (!place) return MF_FAIL(MF_EINVAL, "%s can't compute on memory of another device", device->name);
    MF_TRY(mf_host_alloc(1, sizeof *cuda, &cuda));
    device->state = cuda;
    const char *waits = getenv("MESHFOLD_CUDA_BLOCKING");
    device->waits_for_each = waits && strcmp(waits, "0") != 0;
    cuda->place = place;
    MF_TRY(mf_cuda_enter(device));
    return mf_cuda_gemms_create(device, &cuda->gemms);
}

static void cuda_close(mf_device *device) {
    mf_cuda *cuda = mf_cuda_of(device);
    if (!cuda) return;
    cudaSetDevice(cuda->place->number);
    for (int i = 0; i < MF_QUEUES; i++) cudaStreamSynchronize(cuda->place->queue[i]);
    mf_cuda_library_destroy(cuda->library);
    mf_cuda_gemms_destroy(cuda->gemms);
    mf_host_free(cuda);
}

static mf_status attention_forward(mf_device *device, const mf_attention_args *args) {
    bool library = device->uses_cudnn && mf_cuda_in_pieces(args);
    return library ? mf_cuda_library_forward(device, args) : mf_cuda_attention_forward(device, args);
}

static mf_status attention_backward(mf_device *device, const mf_attention_args *args) {
    bool library = device->uses_cudnn && mf_cuda_in_pieces(args);
    return library ? mf_cuda_library_backward(device, args) : mf_cuda_attention_backward(device, args);
}

static const mf_device_ops mf_device_cuda = {
    .name = "cuda",
    .has_cudnn = true,
    .open = cuda_open,
    .close = cuda_close,
    .source = mf_cuda_source,
    .event_create = mf_cuda_event_create,
    .event_destroy = mf_cuda_event_destroy,
    .event_record = mf_cuda_event_record,
    .event_follow = mf_cuda_event_follow,
    .event_wait = mf_cuda_event_wait,
    .finish = mf_cuda_finish,
    .holds = mf_cuda_holds,
    .pool_peak_bytes = mf_cuda_pool_peak_bytes,
    .pinned_take = mf_cuda_pinned_take,
    .pinned_give_back = mf_cuda_pinned_give_back,
    .reaches = mf_cuda_reaches,
    .copy = mf_cuda_copy,
    .sum = mf_cuda_sum,
    .gemm = mf_cuda_gemm,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .attention_delta = mf_cuda_attention_delta,
    .attention_merge = mf_cuda_attention_merge,
    .rmsnorm_forward = mf_cuda_rmsnorm_forward,
    .rmsnorm_backward = mf_cuda_rmsnorm_backward,
    .rope = mf_cuda_rope,
    .rope_table = mf_cuda_rope_table,
    .headnorm_forward = mf_cuda_headnorm_forward,
    .headnorm_backward = mf_cuda_headnorm_backward,
    .bias_forward = mf_cuda_bias_forward,
    .bias_backward = mf_cuda_bias_backward,
    .modulate_forward = mf_cuda_modulate_forward,
    .modulate_backward = mf_cuda_modulate_backward,
    .gate_scale = mf_cuda_gate_scale,
    .gate_add = mf_cuda_gate_add,
    .gate_grads = mf_cuda_gate_grads,
    .activation_forward = mf_cuda_activation_forward,
    .activation_backward = mf_cuda_activation_backward,
    .embed_forward = mf_cuda_embed_forward,
    .embed_backward = mf_cuda_embed_backward,
    .grid_embed = mf_cuda_grid_embed,
    .xent_begin = mf_cuda_xent_begin,
    .xent_update = mf_cuda_xent_update,
    .xent_merge = mf_cuda_xent_merge,
    .xent_grad = mf_cuda_xent_grad,
    .xent_loss = mf_cuda_xent_loss,
    .adamw = mf_cuda_adamw,
    .sum_squares = mf_cuda_sum_squares,
    .squared_error = mf_cuda_squared_error,
    .cast = mf_cuda_cast,
    .add = mf_cuda_add,
    .accumulate = mf_cuda_accumulate,
    .fill = mf_cuda_fill,
    .fill_normal = mf_cuda_fill_normal,
    .zero = mf_cuda_zero,
    .copy_rows = mf_cuda_copy_rows,
};

extern const mf_cuda_build mf_cuda_module_build;
const mf_cuda_build mf_cuda_module_build = MF_CUDA_BUILD;

extern const mf_cuda_module mf_cuda_module_table;
const mf_cuda_module mf_cuda_module_table = {.device = &mf_device_cuda,
                                             .links = &mf_cuda_links,
                                             .memory_bytes = mf_cuda_free_bytes,
                                             .count = mf_cuda_devices,
                                             .look = mf_cuda_look_for_gpus,
                                             .describe = mf_cuda_describe_libraries,
                                             .describe_gpu = mf_cuda_describe_gpu,
                                             .managed_take = mf_cuda_managed_take,
                                             .managed_give_back = mf_cuda_managed_give_back};
