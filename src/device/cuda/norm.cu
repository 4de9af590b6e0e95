/* norm.cu: RMS norm of rows, and of each head of q or k in place, forward and backward. y = x r w with
 * r = 1 / sqrt(mean(x^2) + eps). */
#include "device/cuda/rows.cuh"

template <typename T, int V>
static __device__ inline float inverse_rms(const mf_row<T, V> &x, int64_t width, int64_t h, float eps) {
    float squares = 0;
    mf_each_pack<V>(width, [&](int64_t at, int k) {
        float v[V];
        mf_row_get(x, at, k, v);
#pragma unroll
        for (int j = 0; j < V; j++) squares += v[j] * v[j];
    });
    return rsqrtf(mf_row_sum(squares) / (float)h + eps);
}

/* y may be x. */
template <typename T, int V>
static __device__ inline void norm_row(const T *x, int64_t width, int64_t h, float eps, const float *weight,
                                       T *y) {
    mf_row<T, V> row = mf_row_hold<T, V>(x, width);
    float r = inverse_rms(row, width, h, eps);
    mf_each_pack<V>(width, [&](int64_t at, int k) {
        float v[V], w[V];
        mf_row_get(row, at, k, v);
        mf_load<V>(weight + at, w);
#pragma unroll
        for (int j = 0; j < V; j++) v[j] *= r * w[j];
        mf_store<V>(v, y + at);
    });
}

/* What a row's gradient is made of: dx = r w dy - along x, along = r^3 mean(w dy x). */
typedef struct slope {
    float r, along;
} slope;

template <typename T, typename D, int V>
static __device__ inline slope slope_of(const mf_row<T, V> &x, const mf_row<D, V> &dy, int64_t width,
                                        int64_t h, float eps, const float *weight) {
    float dot = 0;
    mf_each_pack<V>(width, [&](int64_t at, int k) {
        float v[V], d[V], w[V];
        mf_row_get(x, at, k, v);
        mf_row_get(dy, at, k, d);
        mf_load<V>(weight + at, w);
#pragma unroll
        for (int j = 0; j < V; j++) dot += w[j] * d[j] * v[j];
    });
    float r = inverse_rms(x, width, h, eps);
    return {r, mf_row_sum(dot) * r * r * r / (float)h};
}

template <typename T, int V>
MF_ROW_KERNEL rms_forward(int64_t n, int64_t h, float eps, const T *x, const float *weight, T *y) {
    MF_FOR_BLOCK_ROWS(t, n) norm_row<T, V>(x + t * h, t < n ? h : 0, h, eps, weight, y + t * h);
}

template <typename T, int V> MF_ROW_KERNEL rms_backward(mf_rmsnorm_grad a, float *parts) {
    mf_sums<V> dweight = mf_sums_begin<V>(parts + blockIdx.x * a.h, a.h);
    MF_FOR_BLOCK_ROWS(t, a.n) {
        int64_t width = t < a.n ? a.h : 0;
        mf_row<T, V> x = mf_row_hold<T, V>((const T *)a.x + t * a.h, width);
        mf_row<float, V> dy = mf_row_hold<float, V>(a.dy + t * a.h, width);
        slope s = slope_of(x, dy, width, a.h, a.eps, a.weight);
        float *to = a.dx + t * a.h;
        mf_each_pack<V>(width, [&](int64_t at, int k) {
            float v[V], d[V], w[V], dx[V];
            mf_row_get(x, at, k, v);
            mf_row_get(dy, at, k, d);
            mf_load<V>(a.weight + at, w);
            mf_load<V>(to + at, dx);
#pragma unroll
            for (int j = 0; j < V; j++) {
                dx[j] += s.r * w[j] * d[j] - s.along * v[j];
                d[j] *= v[j] * s.r;
            }
            mf_store<V>(dx, to + at);
            mf_sums_add(dweight, at, k, d);
        });
    }
    mf_sums_end(dweight, a.h);
}

/* Rows of these are heads: number u lies in row u / heads. */
static __device__ inline int64_t head_place(const mf_headnorm_args &a, int64_t u, int64_t ld) {
    return u / a.heads * ld + u % a.heads * a.head_dim;
}

template <typename T, int V> MF_ROW_KERNEL head_forward(mf_headnorm_args a) {
    int64_t n = a.rows * a.heads, h = a.head_dim;
    MF_FOR_BLOCK_ROWS(u, n) {
        T *x = (T *)a.x + head_place(a, u, a.ld);
        norm_row<T, V>(x, u < n ? h : 0, h, a.eps, a.weight, x);
    }
}

template <typename T, int V> MF_ROW_KERNEL head_backward(mf_headnorm_args a, float *parts) {
    int64_t n = a.rows * a.heads, h = a.head_dim;
    mf_sums<V> dweight = mf_sums_begin<V>(parts + blockIdx.x * h, h);
    MF_FOR_BLOCK_ROWS(u, n) {
        int64_t width = u < n ? h : 0;
        T *to = (T *)a.d + head_place(a, u, a.d_ld);
        mf_row<T, V> x = mf_row_hold<T, V>((const T *)a.x + head_place(a, u, a.ld), width);
        mf_row<T, V> dy = mf_row_hold<T, V>(to, width);
        slope s = slope_of(x, dy, width, h, a.eps, a.weight);
        mf_each_pack<V>(width, [&](int64_t at, int k) {
            float v[V], d[V], w[V], dx[V];
            mf_row_get(x, at, k, v);
            mf_row_get(dy, at, k, d);
            mf_load<V>(a.weight + at, w);
#pragma unroll
            for (int j = 0; j < V; j++) {
                dx[j] = s.r * w[j] * d[j] - s.along * v[j];
                d[j] *= v[j] * s.r;
            }
            mf_store<V>(dx, to + at);
            mf_sums_add(dweight, at, k, d);
        });
    }
    mf_sums_end(dweight, h);
}

template <typename T, int V>
static mf_status launch_rms_forward(mf_device *device, int64_t n, int64_t h, float eps, const void *x,
                                    const float *weight, void *y) {
    dim3 block = mf_row_block(h);
    return mf_cuda_launch(device, "rmsnorm_forward", rms_forward<T, V>, mf_row_grid(n, block), block, 0, n, h,
                          eps, (const T *)x, weight, (T *)y);
}

template <typename T, int V>
static mf_status launch_rms_backward(mf_device *device, const mf_rmsnorm_grad *a, float *parts) {
    return mf_cuda_launch(device, "rmsnorm_backward", rms_backward<T, V>, dim3((unsigned)mf_cuda_parts(a->n)),
                          mf_row_block(a->h), 0, *a, parts);
}

template <typename T, int V>
static mf_status launch_head_forward(mf_device *device, const mf_headnorm_args *a) {
    dim3 block = mf_row_block(a->head_dim);
    return mf_cuda_launch(device, "headnorm_forward", head_forward<T, V>,
                          mf_row_grid(a->rows * a->heads, block), block, 0, *a);
}

template <typename T, int V>
static mf_status launch_head_backward(mf_device *device, const mf_headnorm_args *a, float *parts) {
    return mf_cuda_launch(device, "headnorm_backward", head_backward<T, V>,
                          dim3((unsigned)mf_cuda_parts(a->rows * a->heads)), mf_row_block(a->head_dim), 0, *a,
                          parts);
}

mf_status mf_cuda_rmsnorm_forward(mf_device *device, int64_t n, int64_t h, float eps, mf_dtype type,
                                  const void *x, const float *weight, void *y) {
    bool packed = mf_packed(type, h, x, weight, y);
    if (h == 0) return MF_OK;
    return MF_OF_TYPE(launch_rms_forward, type, packed, device, n, h, eps, x, weight, y);
}

static mf_status rms_grads(mf_device *device, const mf_rmsnorm_grad *a, float *parts) {
    bool packed = mf_packed(a->type, a->h, a->x, a->weight, a->dy, a->dx);
    MF_TRY(MF_OF_TYPE(launch_rms_backward, a->type, packed, device, a, parts));
    return mf_cuda_add_all_parts(device, mf_cuda_parts(a->n), a->h, parts, a->dweight);
}

mf_status mf_cuda_rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *a) {
    mf_buffer parts = {};
    if (a->h == 0) return MF_OK;
    MF_TRY(mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)mf_cuda_rmsnorm_backward_workspace(a),
                           "sums of a norm's gradient", &parts));
    mf_status status = rms_grads(device, a, (float *)parts.data);
    mf_buffer_free(device->memory, &parts);
    return status;
}

static bool heads_packed(const mf_headnorm_args *a) {
    int64_t bytes = (int64_t)mf_dtype_bytes(a->type);
    return mf_packed(a->type, a->head_dim, a->x, a->d, a->weight, a->ld * bytes, a->d_ld * bytes);
}

mf_status mf_cuda_headnorm_forward(mf_device *device, const mf_headnorm_args *a) {
    return MF_OF_TYPE(launch_head_forward, a->type, heads_packed(a), device, a);
}

static mf_status head_grads(mf_device *device, const mf_headnorm_args *a, float *parts) {
    MF_TRY(MF_OF_TYPE(launch_head_backward, a->type, heads_packed(a), device, a, parts));
    return mf_cuda_add_all_parts(device, mf_cuda_parts(a->rows * a->heads), a->head_dim, parts, a->dweight);
}

mf_status mf_cuda_headnorm_backward(mf_device *device, const mf_headnorm_args *a) {
    mf_buffer parts = {};
    MF_TRY(mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)mf_cuda_headnorm_backward_workspace(a),
                           "sums of a norm's gradient", &parts));
    mf_status status = head_grads(device, a, (float *)parts.data);
    mf_buffer_free(device->memory, &parts);
    return status;
}
