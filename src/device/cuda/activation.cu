/* activation.cu: silu and gelu, of plain values or as what gates others, forward and backward. Both are f(x)
 * = x s(z) with s(z) = 1 / (1 + exp(-z)): z is x in silu, and in gelu 2 sqrt(2 / pi) (x + 0.044715 x^3),
 * since 1 + tanh(z / 2) = 2 s(z). */
#include "device/cuda/element.cuh"

#define ROOT 1.59576912f /* 2 sqrt(2 / pi) */
#define CUBIC 0.044715f

/* 1 / s(z) */
template <mf_activation_kind KIND> static __device__ inline float divisor(float x) {
    float z = KIND == MF_SILU ? x : ROOT * (x + CUBIC * x * x * x);
    return 1.0f + expf(-z);
}

/* f' = s + x s (1 - s) z' */
template <mf_activation_kind KIND> static __device__ inline float slope(float x, float s) {
    float dz = KIND == MF_SILU ? 1.0f : ROOT * (1.0f + 3.0f * CUBIC * x * x);
    return s + s * (1.0f - s) * x * dz;
}

/* What multiplies f: up, or 1 where nothing is gated. */
template <typename T, int N, typename Share>
static __device__ inline void load_up(Share share, const mf_activation_args &a, int64_t in, float *up) {
    if (a.up) return share.load((const T *)a.up + in, up);
#pragma unroll
    for (int i = 0; i < MF_SHARE * N; i++) up[i] = 1.0f;
}

template <typename T, int N, mf_activation_kind KIND>
static __global__ void forward(mf_extent all, mf_activation_args a) {
    mf_by_share<N>(all, [&](auto share) {
        MF_FOR_ROWS(row, all) {
            int64_t in = row * a.in_ld;
            float x[MF_SHARE * N], up[MF_SHARE * N];
            share.load((const T *)a.gate + in, x);
            load_up<T, N>(share, a, in, up);
#pragma unroll
            for (int i = 0; i < MF_SHARE * N; i++) x[i] = x[i] / divisor<KIND>(x[i]) * up[i];
            share.store(x, (T *)a.out + row * all.width);
        }
    });
}

template <typename T, int N, mf_activation_kind KIND>
static __global__ void backward(mf_extent all, mf_activation_args a) {
    mf_by_share<N>(all, [&](auto share) {
        MF_FOR_ROWS(row, all) {
            int64_t in = row * a.in_ld, at = row * all.width;
            float x[MF_SHARE * N], up[MF_SHARE * N], d[MF_SHARE * N];
            share.load((const T *)a.gate + in, x);
            share.load((const T *)a.d_out + at, d);
            load_up<T, N>(share, a, in, up);
#pragma unroll
            for (int i = 0; i < MF_SHARE * N; i++) {
                float s = 1.0f / divisor<KIND>(x[i]), f = x[i] * s, u = up[i];
                up[i] = d[i] * f;
                d[i] *= u * slope<KIND>(x[i], s);
                x[i] = f * u;
            }
            share.store(x, (T *)a.out + at);
            share.store(d, (T *)a.d_gate + at);
            if (a.up) share.store(up, (T *)a.d_up + at);
        }
    });
}

template <typename T> static bool packs_fit(mf_extent all, int n, const mf_activation_args *a) {
    const void *in[] = {a->gate, a->up}, *dense[] = {a->out, a->d_out, a->d_gate, a->d_up};
    bool fit = true;
    for (const void *data : in) fit = fit && mf_fits(all, n, (const T *)data, a->in_ld);
    for (const void *data : dense) fit = fit && mf_fits(all, n, (const T *)data, all.width);
    return fit;
}

typedef void kernel(mf_extent all, mf_activation_args a);

template <typename T>
static mf_status launch(mf_device *device, const char *name, const mf_activation_args *a, kernel *by_pack,
                        kernel *by_one) {
    const int n = mf_pack_size<T>;
    mf_extent all = mf_extent_of(a->n, a->width, a->in_ld == a->width);
    bool packs = packs_fit<T>(all, n, a);
    return mf_cuda_launch_shares(device, name, packs ? by_pack : by_one, packs ? n : 1, all, *a);
}

template <typename T, mf_activation_kind KIND>
static mf_status launch_forward(mf_device *device, const mf_activation_args *a) {
    return launch<T>(device, "activation_forward", a, forward<T, mf_pack_size<T>, KIND>, forward<T, 1, KIND>);
}

template <typename T, mf_activation_kind KIND>
static mf_status launch_backward(mf_device *device, const mf_activation_args *a) {
    return launch<T>(device, "activation_backward", a, backward<T, mf_pack_size<T>, KIND>,
                     backward<T, 1, KIND>);
}

mf_status mf_cuda_activation_forward(mf_device *device, const mf_activation_args *args) {
    mf_activation_args a = *args; /* what backward alone has may be anything */
    a.d_out = a.d_gate = a.d_up = NULL;
    if (a.type == MF_F32)
        return a.kind == MF_SILU ? launch_forward<float, MF_SILU>(device, &a)
                                 : launch_forward<float, MF_GELU>(device, &a);
    return a.kind == MF_SILU ? launch_forward<mf_bf16, MF_SILU>(device, &a)
                             : launch_forward<mf_bf16, MF_GELU>(device, &a);
}

mf_status mf_cuda_activation_backward(mf_device *device, const mf_activation_args *args) {
    if (args->type == MF_F32)
        return args->kind == MF_SILU ? launch_backward<float, MF_SILU>(device, args)
                                     : launch_backward<float, MF_GELU>(device, args);
    return args->kind == MF_SILU ? launch_backward<mf_bf16, MF_SILU>(device, args)
                                 : launch_backward<mf_bf16, MF_GELU>(device, args);
}
