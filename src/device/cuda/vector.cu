/* vector.cu: operations on runs of values: AdamW, casts, sums of two, fills, copies. */
#include "device/cuda/element.cuh"

#include <limits.h>
#include <math.h>

typedef struct adamw_rates {
    float unbias1, unbias2;
} adamw_rates;

template <typename T, int N>
static __global__ void adamw(mf_extent all, mf_adamw_args a, adamw_rates rates, T *weights) {
    mf_by_share<N>(all, [&](auto share) {
        float g[MF_SHARE * N], p[MF_SHARE * N], m[MF_SHARE * N], v[MF_SHARE * N];
        share.load(a.grad, g);
        share.load(a.master, p);
        share.load(a.moment1, m);
        share.load(a.moment2, v);
#pragma unroll
        for (int i = 0; i < MF_SHARE * N; i++) {
            g[i] *= a.grad_scale;
            m[i] = a.beta1 * m[i] + (1.0f - a.beta1) * g[i];
            v[i] = a.beta2 * v[i] + (1.0f - a.beta2) * g[i] * g[i];
            p[i] -=
                a.lr * (a.weight_decay * p[i] + m[i] * rates.unbias1 / (sqrtf(v[i] * rates.unbias2) + a.eps));
        }
        share.store(p, a.master);
        share.store(m, a.moment1);
        share.store(v, a.moment2);
        if (weights) share.store(p, weights);
    });
}

template <typename T> static mf_status launch_adamw(mf_device *device, const mf_adamw_args *a) {
    constexpr int n = mf_pack_size<T, float>;
    T *weights = a->weights == a->master ? NULL : (T *)a->weights;
    /* In double: beta2^step lies so near 1 that f32 would leave four digits of the difference. */
    adamw_rates rates = {(float)(1.0 / (1.0 - pow((double)a->beta1, (double)a->step))),
                         (float)(1.0 / (1.0 - pow((double)a->beta2, (double)a->step)))};
    bool packs = mf_holds_packs(n, a->grad, 0) && mf_holds_packs(n, a->master, 0) &&
                 mf_holds_packs(n, a->moment1, 0) && mf_holds_packs(n, a->moment2, 0) &&
                 mf_holds_packs(n, weights, 0);
    return mf_cuda_launch_shares(device, "adamw", packs ? adamw<T, n> : adamw<T, 1>, packs ? n : 1,
                                 mf_extent{1, a->n}, *a, rates, weights);
}

mf_status mf_cuda_adamw(mf_device *device, const mf_adamw_args *args) {
    return args->type == MF_F32 ? launch_adamw<float>(device, args) : launch_adamw<mf_bf16>(device, args);
}

template <typename In, typename Out, int N>
static __global__ void cast(mf_extent all, const In *in, int64_t in_ld, Out *out, int64_t out_ld) {
    mf_by_share<N>(all, [&](auto share) {
        MF_FOR_ROWS(row, all) {
            float x[MF_SHARE * N];
            share.load(in + row * in_ld, x);
            share.store(x, out + row * out_ld);
        }
    });
}

template <typename In, typename Out> static mf_status launch_cast(mf_device *device, const mf_cast_args *a) {
    constexpr int n = mf_pack_size<In, Out>;
    mf_extent all = mf_extent_of(a->rows, a->width, a->in_ld == a->width && a->out_ld == a->width);
    const In *in = (const In *)a->in;
    Out *out = (Out *)a->out;
    bool packs = mf_fits(all, n, in, a->in_ld) && mf_fits(all, n, out, a->out_ld);
    return mf_cuda_launch_shares(device, "cast", packs ? cast<In, Out, n> : cast<In, Out, 1>, packs ? n : 1,
                                 all, in, a->in_ld, out, a->out_ld);
}

static mf_status copy_of_type(mf_device *device, const mf_cast_args *a) {
    size_t element = mf_dtype_bytes(a->in_type);
    return mf_cuda_copy_rows(device, a->rows, (size_t)a->width * element, a->out, (size_t)a->out_ld * element,
                             a->in, (size_t)a->in_ld * element);
}

mf_status mf_cuda_cast(mf_device *device, const mf_cast_args *args) {
    if (args->in_type == args->out_type) return copy_of_type(device, args);
    return args->in_type == MF_F32 ? launch_cast<float, mf_bf16>(device, args)
                                   : launch_cast<mf_bf16, float>(device, args);
}

template <typename T, int N>
static __global__ void add(mf_extent all, const T *residual, const float *delta, T *out) {
    mf_by_share<N>(all, [&](auto share) {
        float x[MF_SHARE * N], d[MF_SHARE * N];
        share.load(residual, x);
        share.load(delta, d);
#pragma unroll
        for (int i = 0; i < MF_SHARE * N; i++) x[i] += d[i];
        share.store(x, out);
    });
}

template <typename T>
static mf_status launch_add(mf_device *device, int64_t count, const T *residual, const float *delta, T *out) {
    constexpr int n = mf_pack_size<T, float>;
    bool packs = mf_holds_packs(n, residual, 0) && mf_holds_packs(n, delta, 0) && mf_holds_packs(n, out, 0);
    return mf_cuda_launch_shares(device, "add", packs ? add<T, n> : add<T, 1>, packs ? n : 1,
                                 mf_extent{1, count}, residual, delta, out);
}

mf_status mf_cuda_add(mf_device *device, int64_t n, mf_dtype type, const void *residual, const float *delta,
                      void *out) {
    if (type == MF_F32) return launch_add(device, n, (const float *)residual, delta, (float *)out);
    return launch_add(device, n, (const mf_bf16 *)residual, delta, (mf_bf16 *)out);
}

template <int N>
static __global__ void accumulate(mf_extent all, const float *in, int64_t in_ld, float *out, int64_t out_ld) {
    mf_by_share<N>(all, [&](auto share) {
        MF_FOR_ROWS(row, all) {
            float x[MF_SHARE * N], sum[MF_SHARE * N];
            share.load(in + row * in_ld, x);
            share.load(out + row * out_ld, sum);
#pragma unroll
            for (int i = 0; i < MF_SHARE * N; i++) sum[i] += x[i];
            share.store(sum, out + row * out_ld);
        }
    });
}

mf_status mf_cuda_accumulate(mf_device *device, int64_t rows, int64_t width, const float *in, int64_t in_ld,
                             float *out, int64_t out_ld) {
    constexpr int n = mf_pack_size<float>;
    mf_extent all = mf_extent_of(rows, width, in_ld == width && out_ld == width);
    bool packs = mf_fits(all, n, in, in_ld) && mf_fits(all, n, out, out_ld);
    return mf_cuda_launch_shares(device, "accumulate", packs ? accumulate<n> : accumulate<1>, packs ? n : 1,
                                 all, in, in_ld, out, out_ld);
}

template <int N> static __global__ void fill(mf_extent all, float value, float *out) {
    mf_by_share<N>(all, [&](auto share) {
        float x[MF_SHARE * N];
#pragma unroll
        for (int i = 0; i < MF_SHARE * N; i++) x[i] = value;
        share.store(x, out);
    });
}

mf_status mf_cuda_fill(mf_device *device, int64_t count, float value, float *out) {
    constexpr int n = mf_pack_size<float>;
    bool packs = mf_holds_packs(n, out, 0);
    return mf_cuda_launch_shares(device, "fill", packs ? fill<n> : fill<1>, packs ? n : 1,
                                 mf_extent{1, count}, value, out);
}

mf_status mf_cuda_zero(mf_device *device, void *data, size_t bytes) {
    MF_TRY(mf_cuda_enter(device));
    return MF_CUDA(cudaMemsetAsync, data, 0, bytes, mf_cuda_stream(device));
}

/* Distances that CUDA's copy of rows takes; there are few rows at longer ones. */
static const size_t longest_pitch = INT_MAX;

static mf_status copy_far_rows(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                               const void *in, size_t in_ld) {
    for (size_t i = 0; i < (size_t)rows; i++)
        MF_TRY(MF_CUDA(cudaMemcpyAsync, (char *)out + i * out_ld, (const char *)in + i * in_ld, bytes,
                       cudaMemcpyDefault, mf_cuda_stream(device)));
    return MF_OK;
}

static mf_status ask_for_copy(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                              const void *in, size_t in_ld) {
    if (rows == 1 || (out_ld == bytes && in_ld == bytes))
        return copy_far_rows(device, 1, (size_t)rows * bytes, out, 0, in, 0);
    if (in_ld > longest_pitch || out_ld > longest_pitch)
        return copy_far_rows(device, rows, bytes, out, out_ld, in, in_ld);
    return MF_CUDA(cudaMemcpy2DAsync, out, out_ld, in, in_ld, bytes, (size_t)rows, cudaMemcpyDefault,
                   mf_cuda_stream(device));
}

mf_status mf_cuda_copy_rows(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                            const void *in, size_t in_ld) {
    MF_TRY(mf_cuda_enter(device));
    MF_TRY(ask_for_copy(device, rows, bytes, out, out_ld, in, in_ld));
    return mf_cuda_holds(out) && mf_cuda_holds(in) ? MF_OK : mf_cuda_finish(device, MF_QUEUE_COMPUTE);
}
