/* dry.c: a device that computes nothing. It takes the workspace that the CPU's operations would take, to the
 * byte, and leaves values as they are: what it reports of them is zero. Buffers may be addresses that nobody
 * can read. */
#include "device/cpu/cpu.h"

static mf_status gemm(mf_device *device, const mf_gemm_args *args) {
    return mf_cpu_reserve_gemm(device, args);
}

static mf_status attention_forward(mf_device *device, const mf_attention_args *args) {
    return mf_cpu_reserve_attention(device, args, false);
}

static mf_status attention_backward(mf_device *device, const mf_attention_args *args) {
    return mf_cpu_reserve_attention(device, args, true);
}

static mf_status attention_delta(mf_device *device, const mf_attention_args *args, float *delta) {
    (void)device, (void)args, (void)delta;
    return MF_OK;
}

static mf_status rmsnorm_forward(mf_device *device, int64_t n, int64_t h, float eps, mf_dtype type,
                                 const void *x, const float *weight, void *y) {
    (void)device, (void)n, (void)h, (void)eps, (void)type, (void)x, (void)weight, (void)y;
    return MF_OK;
}

static mf_status rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *args) {
    return mf_cpu_reserve_rmsnorm_backward(device, args);
}

static mf_status rope(mf_device *device, const mf_rope_args *args) {
    (void)device, (void)args;
    return MF_OK;
}

static mf_status rope_table(mf_device *device, int64_t first, int64_t rows, int64_t head_dim, double theta,
                            float *cos_sin) {
    (void)device, (void)first, (void)rows, (void)head_dim, (void)theta, (void)cos_sin;
    return MF_OK;
}

static mf_status swiglu(mf_device *device, const mf_swiglu_args *args) {
    (void)device, (void)args;
    return MF_OK;
}

static mf_status embed(mf_device *device, const mf_embed_args *args) {
    (void)device, (void)args;
    return MF_OK;
}

static mf_status xent(mf_device *device, const mf_xent_args *args) {
    (void)device, (void)args;
    return MF_OK;
}

static mf_status xent_merge(mf_device *device, const mf_xent_args *args, int parts, const float *states) {
    (void)device, (void)args, (void)parts, (void)states;
    return MF_OK;
}

static mf_status xent_loss(mf_device *device, const mf_xent_args *args, double *loss) {
    (void)device, (void)args;
    *loss = 0;
    return MF_OK;
}

static mf_status adamw(mf_device *device, const mf_adamw_args *args) {
    (void)device, (void)args;
    return MF_OK;
}

static mf_status sum_squares(mf_device *device, int64_t n, const float *x, double *sum) {
    (void)device, (void)n, (void)x;
    *sum = 0;
    return MF_OK;
}

static mf_status cast(mf_device *device, const mf_cast_args *args) {
    (void)device, (void)args;
    return MF_OK;
}

static mf_status add(mf_device *device, int64_t n, mf_dtype type, const void *residual, const float *delta,
                     void *out) {
    (void)device, (void)n, (void)type, (void)residual, (void)delta, (void)out;
    return MF_OK;
}

static mf_status accumulate(mf_device *device, int64_t rows, int64_t width, const float *in, int64_t in_ld,
                            float *out, int64_t out_ld) {
    (void)device, (void)rows, (void)width, (void)in, (void)in_ld, (void)out, (void)out_ld;
    return MF_OK;
}

static mf_status fill(mf_device *device, int64_t n, float value, float *out) {
    (void)device, (void)n, (void)value, (void)out;
    return MF_OK;
}

static mf_status fill_normal(mf_device *device, const mf_normal_args *args) {
    (void)device, (void)args;
    return MF_OK;
}

static mf_status zero(mf_device *device, void *data, size_t bytes) {
    (void)device, (void)data, (void)bytes;
    return MF_OK;
}

static mf_status copy_rows(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                           const void *in, size_t in_ld) {
    (void)device, (void)rows, (void)bytes, (void)out, (void)out_ld, (void)in, (void)in_ld;
    return MF_OK;
}

const mf_device_ops mf_device_dry = {
    .name = "dry",
    .open = mf_cpu_open_dry,
    .close = mf_cpu_close,
    .gemm = gemm,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .attention_delta = attention_delta,
    .rmsnorm_forward = rmsnorm_forward,
    .rmsnorm_backward = rmsnorm_backward,
    .rope = rope,
    .rope_table = rope_table,
    .swiglu_forward = swiglu,
    .swiglu_backward = swiglu,
    .embed_forward = embed,
    .embed_backward = embed,
    .xent_begin = xent,
    .xent_update = xent,
    .xent_merge = xent_merge,
    .xent_grad = xent,
    .xent_loss = xent_loss,
    .adamw = adamw,
    .sum_squares = sum_squares,
    .cast = cast,
    .add = add,
    .accumulate = accumulate,
    .fill = fill,
    .fill_normal = fill_normal,
    .zero = zero,
    .copy_rows = copy_rows,
};
