/* activation.c: silu and gelu, of plain values or as what gates others, forward and backward. Both are f(x) =
 * x s(z) with s(z) = 1 / (1 + exp(-z)): z is x in silu, and in gelu 2 sqrt(2 / pi) (x + 0.044715 x^3), since
 * 1 + tanh(z / 2) = 2 s(z). */
#include "device/cpu/cpu.h"
#include "device/cpu/element.h"
#include "device/cpu/exp.h"

static const float root = 1.59576912f /* 2 sqrt(2 / pi) */, cubic = 0.044715f;

/* 1 / s(z) */
MF_INLINED float divisor(mf_activation_kind kind, float x) {
    float z = kind == MF_SILU ? x : root * (x + cubic * x * x * x);
    return 1.0f + mf_cpu_exp(-z);
}

/* f' = s + x s (1 - s) z' */
MF_INLINED float slope(mf_activation_kind kind, float x, float s) {
    float dz = kind == MF_SILU ? 1.0f : root * (1.0f + 3.0f * cubic * x * x);
    return s + s * (1.0f - s) * x * dz;
}

/* A loop of its own for each kind and type, gated or not. The pragmas spare the compiler its comparison of
 * six addresses, for which it would give up on vectors. */
MF_INLINED void forward_loop(const mf_activation_args *a, mf_activation_kind kind, mf_dtype type, bool gated,
                             int64_t row) {
    const void *gate = a->gate, *up = a->up;
    void *out = a->out;
    int64_t width = a->width, in = row * a->in_ld, at = row * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        float x = mf_element(gate, type, in + i);
        float y = x / divisor(kind, x);
        mf_element_store(out, type, at + i, gated ? y * mf_element(up, type, in + i) : y);
    }
}

MF_INLINED void backward_loop(const mf_activation_args *a, mf_activation_kind kind, mf_dtype type, bool gated,
                              int64_t row) {
    const void *gate = a->gate, *up = a->up, *d_out = a->d_out;
    void *out = a->out, *d_gate = a->d_gate, *d_up = a->d_up;
    int64_t width = a->width, in = row * a->in_ld, at = row * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        float x = mf_element(gate, type, in + i), d = mf_element(d_out, type, at + i);
        float s = 1.0f / divisor(kind, x), u = gated ? mf_element(up, type, in + i) : 1.0f;
        mf_element_store(out, type, at + i, x * s * u);
        mf_element_store(d_gate, type, at + i, d * u * slope(kind, x, s));
        if (gated) mf_element_store(d_up, type, at + i, d * x * s);
    }
}

typedef void loop(const mf_activation_args *a, mf_activation_kind kind, mf_dtype type, bool gated,
                  int64_t row);

MF_INLINED void choose_type(loop *run, const mf_activation_args *a, mf_activation_kind kind, int64_t row) {
    if (a->type == MF_F32 && a->up)
        run(a, kind, MF_F32, true, row);
    else if (a->type == MF_F32)
        run(a, kind, MF_F32, false, row);
    else if (a->up)
        run(a, kind, MF_BF16, true, row);
    else
        run(a, kind, MF_BF16, false, row);
}

MF_INLINED void choose(loop *run, const mf_activation_args *a, int64_t row) {
    if (a->kind == MF_SILU)
        choose_type(run, a, MF_SILU, row);
    else
        choose_type(run, a, MF_GELU, row);
}

/* Not inlined: within a parallel region gcc 12 would leave the loops scalar. */
__attribute__((noinline)) static void forward_row(const mf_activation_args *a, int64_t row) {
    choose(forward_loop, a, row);
}

__attribute__((noinline)) static void backward_row(const mf_activation_args *a, int64_t row) {
    choose(backward_loop, a, row);
}

mf_status mf_cpu_activation_forward(mf_device *device, const mf_activation_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->n; row++) forward_row(a, row);
    return MF_OK;
}

mf_status mf_cpu_activation_backward(mf_device *device, const mf_activation_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->n; row++) backward_row(a, row);
    return MF_OK;
}
