/* absent.c: operations that are being written. */
#include "device/cuda/cuda.h"
#pragma GCC diagnostic ignored "-Wunused-parameter"
__attribute__((weak)) mf_status mf_cuda_attention_forward(mf_device *device, const mf_attention_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_attention_forward");
}
__attribute__((weak)) mf_status mf_cuda_attention_backward(mf_device *device, const mf_attention_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_attention_backward");
}
__attribute__((weak)) mf_status mf_cuda_rope(mf_device *device, const mf_rope_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_rope");
}
__attribute__((weak)) mf_status mf_cuda_rope_table(mf_device *device, const mf_rope_table_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_rope_table");
}
__attribute__((weak)) mf_status mf_cuda_activation_forward(mf_device *device,
                                                           const mf_activation_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_activation_forward");
}
__attribute__((weak)) mf_status mf_cuda_activation_backward(mf_device *device,
                                                            const mf_activation_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_activation_backward");
}
__attribute__((weak)) mf_status mf_cuda_grid_embed(mf_device *device, const mf_grid_embed_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_grid_embed");
}
__attribute__((weak)) mf_status mf_cuda_adamw(mf_device *device, const mf_adamw_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_adamw");
}
__attribute__((weak)) mf_status mf_cuda_cast(mf_device *device, const mf_cast_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_cast");
}
__attribute__((weak)) mf_status mf_cuda_add(mf_device *device, int64_t n, mf_dtype type, const void *residual,
                                            const float *delta, void *out) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_add");
}
__attribute__((weak)) mf_status mf_cuda_accumulate(mf_device *device, int64_t rows, int64_t width,
                                                   const float *in, int64_t in_ld, float *out,
                                                   int64_t out_ld) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_accumulate");
}
__attribute__((weak)) mf_status mf_cuda_fill(mf_device *device, int64_t n, float value, float *out) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_fill");
}
__attribute__((weak)) mf_status mf_cuda_fill_normal(mf_device *device, const mf_normal_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_fill_normal");
}
__attribute__((weak)) mf_status mf_cuda_zero(mf_device *device, void *data, size_t bytes) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_zero");
}
__attribute__((weak)) mf_status mf_cuda_copy_rows(mf_device *device, int64_t rows, size_t bytes, void *out,
                                                  size_t out_ld, const void *in, size_t in_ld) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_copy_rows");
}
