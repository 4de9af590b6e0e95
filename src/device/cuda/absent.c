/* absent.c: operations that are being written. */
#include "device/cuda/cuda.h"
#pragma GCC diagnostic ignored "-Wunused-parameter"
__attribute__((weak)) mf_status mf_cuda_sum(mf_device *device, mf_queue queue, const mf_sum_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_sum");
}
__attribute__((weak)) mf_status mf_cuda_gemm(mf_device *device, const mf_gemm_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_gemm");
}
__attribute__((weak)) mf_status mf_cuda_attention_forward(mf_device *device, const mf_attention_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_attention_forward");
}
__attribute__((weak)) mf_status mf_cuda_attention_backward(mf_device *device, const mf_attention_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_attention_backward");
}
__attribute__((weak)) mf_status mf_cuda_attention_delta(mf_device *device, const mf_attention_args *args,
                                                        float *delta) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_attention_delta");
}
__attribute__((weak)) mf_status mf_cuda_attention_merge(mf_device *device,
                                                        const mf_attention_merge_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_attention_merge");
}
__attribute__((weak)) mf_status mf_cuda_rmsnorm_forward(mf_device *device, int64_t n, int64_t h, float eps,
                                                        mf_dtype type, const void *x, const float *weight,
                                                        void *y) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_rmsnorm_forward");
}
__attribute__((weak)) mf_status mf_cuda_rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_rmsnorm_backward");
}
__attribute__((weak)) mf_status mf_cuda_headnorm_forward(mf_device *device, const mf_headnorm_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_headnorm_forward");
}
__attribute__((weak)) mf_status mf_cuda_headnorm_backward(mf_device *device, const mf_headnorm_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_headnorm_backward");
}
__attribute__((weak)) mf_status mf_cuda_bias_forward(mf_device *device, const mf_bias_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_bias_forward");
}
__attribute__((weak)) mf_status mf_cuda_bias_backward(mf_device *device, const mf_bias_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_bias_backward");
}
__attribute__((weak)) mf_status mf_cuda_modulate_forward(mf_device *device, const mf_modulate_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_modulate_forward");
}
__attribute__((weak)) mf_status mf_cuda_modulate_backward(mf_device *device, const mf_modulate_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_modulate_backward");
}
__attribute__((weak)) mf_status mf_cuda_gate_scale(mf_device *device, const mf_gate_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_gate_scale");
}
__attribute__((weak)) mf_status mf_cuda_gate_add(mf_device *device, const mf_gate_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_gate_add");
}
__attribute__((weak)) mf_status mf_cuda_gate_grads(mf_device *device, const mf_gate_grads_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_gate_grads");
}
__attribute__((weak)) mf_status mf_cuda_embed_forward(mf_device *device, const mf_embed_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_embed_forward");
}
__attribute__((weak)) mf_status mf_cuda_embed_backward(mf_device *device, const mf_embed_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_embed_backward");
}
__attribute__((weak)) mf_status mf_cuda_xent_begin(mf_device *device, const mf_xent_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_xent_begin");
}
__attribute__((weak)) mf_status mf_cuda_xent_update(mf_device *device, const mf_xent_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_xent_update");
}
__attribute__((weak)) mf_status mf_cuda_xent_merge(mf_device *device, const mf_xent_args *args, int parts,
                                                   const float *states) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_xent_merge");
}
__attribute__((weak)) mf_status mf_cuda_xent_grad(mf_device *device, const mf_xent_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_xent_grad");
}
__attribute__((weak)) mf_status mf_cuda_xent_loss(mf_device *device, const mf_xent_args *args, double *loss) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_xent_loss");
}
__attribute__((weak)) mf_status mf_cuda_sum_squares(mf_device *device, int64_t n, const float *x,
                                                    double *sum) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_sum_squares");
}
__attribute__((weak)) mf_status mf_cuda_squared_error(mf_device *device, const mf_squared_error_args *args,
                                                      double *loss) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_squared_error");
}
__attribute__((weak)) mf_status mf_cuda_gemms_create(mf_device *device, mf_cuda_gemms **out) {
    (void)device;
    *out = NULL;
    return MF_OK;
}
__attribute__((weak)) void mf_cuda_gemms_destroy(mf_cuda_gemms *gemms) { (void)gemms; }
