/* loss.cu: cross-entropy over a vocabulary that comes in slices. */
#include "device/cuda/rows.cuh"
#include "device/cuda/totals.cuh"

static __global__ void begin_rows(mf_xent_args a) {
    MF_FOR_EACH(t, a.n) {
        a.maximum[t] = -INFINITY;
        a.sum[t] = 0;
        a.label_logit[t] = 0;
    }
}

mf_status mf_cuda_xent_begin(mf_device *device, const mf_xent_args *a) {
    return mf_cuda_launch(device, "xent_begin", begin_rows, mf_cuda_grid(a->n), MF_BLOCK, 0, *a);
}

/* The sum of exp(x - maximum) over some columns; of none: -infinity and 0. */
typedef struct columns {
    float maximum, sum;
} columns;

static __device__ inline float larger(float a, float b) { return b > a ? b : a; } /* a NaN is no maximum */

/* The sum as it is held against a larger maximum. Where both are the same they may be infinite. */
static __device__ inline float moved(columns c, float maximum) {
    return c.maximum == maximum ? c.sum : c.sum * expf(c.maximum - maximum);
}

/* -infinity adds nothing, whatever the maximum; a NaN is in the sum for good. */
template <int V> static __device__ inline columns with(columns c, const float (&x)[V]) {
    float maximum = c.maximum;
#pragma unroll
    for (int j = 0; j < V; j++) maximum = larger(maximum, x[j]);
    c = {maximum, moved(c, maximum)};
#pragma unroll
    for (int j = 0; j < V; j++) c.sum += x[j] == -INFINITY ? 0.0f : expf(x[j] - maximum);
    return c;
}

/* One thread of the row adds its columns to the state. */
static __device__ inline void update_state(const mf_xent_args &a, int64_t t, columns seen) {
    columns before = {a.maximum[t], a.sum[t]};
    float maximum = larger(before.maximum, seen.maximum);
    int64_t label = (int64_t)a.labels[t] - a.first;
    a.maximum[t] = maximum;
    a.sum[t] = moved(before, maximum) + moved(seen, maximum);
    if (a.labels[t] >= 0 && label >= 0 && label < a.width) a.label_logit[t] = a.logits[t * a.width + label];
}

template <typename T, int V> MF_ROW_KERNEL update_rows(mf_xent_args a) {
    MF_FOR_ROWS(t, a.n) {
        columns seen = {-INFINITY, 0};
        const float *row = a.logits + t * a.width;
        mf_each_pack<V>(t < a.n ? a.width : 0, [&](int64_t at, int) {
            float x[V];
            mf_load(row + at, x);
            seen = with(seen, x);
        });
        float maximum = mf_row_join(seen.maximum, -INFINITY, [](float x, float y) { return larger(x, y); });
        seen = {maximum, mf_row_sum(moved(seen, maximum))};
        if (threadIdx.x == 0 && t < a.n) update_state(a, t, seen);
    }
}

template <typename T, int V> static mf_status launch_update(mf_device *device, const mf_xent_args *a) {
    dim3 block = mf_row_block(a->width);
    return mf_cuda_launch(device, "xent_update", update_rows<T, V>, mf_row_grid(a->n, block), block, 0, *a);
}

mf_status mf_cuda_xent_update(mf_device *device, const mf_xent_args *a) {
    bool packed = mf_packed(MF_F32, a->width, a->logits);
    return packed ? launch_update<float, 4>(device, a) : launch_update<float, 1>(device, a);
}

/* Parts without columns are left out: where no part has one, the difference of the maxima would be NaN. */
static __global__ void merge_rows(mf_xent_args a, int parts, const float *states) {
    MF_FOR_EACH(t, a.n) {
        float maximum = -INFINITY, sum = 0, label_logit = 0;
        for (int i = 0; i < parts; i++) maximum = larger(maximum, states[3 * i * a.n + t]);
        for (int i = 0; i < parts; i++) {
            const float *part = states + 3 * i * a.n + t;
            label_logit += part[2 * a.n];
            if (part[0] == -INFINITY && part[a.n] == 0) continue;
            sum += part[a.n] * expf(part[0] - maximum);
        }
        a.maximum[t] = maximum;
        a.sum[t] = sum;
        a.label_logit[t] = label_logit;
    }
}

mf_status mf_cuda_xent_merge(mf_device *device, const mf_xent_args *a, int parts, const float *states) {
    return mf_cuda_launch(device, "xent_merge", merge_rows, mf_cuda_grid(a->n), MF_BLOCK, 0, *a, parts,
                          states);
}

/* What makes a row's gradient: (exp(x - maximum) / sum - [the label's column]) scale. */
typedef struct slope {
    float maximum, each, scale;
    int64_t label;
} slope;

static __device__ inline slope slope_of(const mf_xent_args &a, int64_t t) {
    return {a.maximum[t], a.scale / a.sum[t], a.scale, (int64_t)a.labels[t] - a.first};
}

template <int V> static __device__ inline void follow(slope s, int64_t at, float (&x)[V]) {
#pragma unroll
    for (int j = 0; j < V; j++) {
        x[j] = expf(x[j] - s.maximum) * s.each;
        if (at + j == s.label) x[j] -= s.scale;
    }
}

/* A masked row may hold anything: it becomes 0 without being read. */
template <typename T, int V> MF_ROW_KERNEL grad_rows(mf_xent_args a) {
    MF_FOR_ROWS(t, a.n) {
        if (t >= a.n) break;
        const float *from = a.logits + t * a.width;
        T *to = (T *)a.d_logits + t * a.width;
        bool masked = a.labels[t] < 0;
        slope s = slope_of(a, t);
        mf_each_pack<V>(a.width, [&](int64_t at, int) {
            float x[V] = {};
            if (!masked) {
                mf_load(from + at, x);
                follow(s, at, x);
            }
            mf_store(to + at, x);
        });
    }
}

template <typename T, int V> static mf_status launch_grad(mf_device *device, const mf_xent_args *a) {
    dim3 block = mf_row_block(a->width);
    return mf_cuda_launch(device, "xent_grad", grad_rows<T, V>, mf_row_grid(a->n, block), block, 0, *a);
}

mf_status mf_cuda_xent_grad(mf_device *device, const mf_xent_args *a) {
    bool packed = mf_packed(a->type, a->width, a->logits, a->d_logits);
    return MF_OF_TYPE(launch_grad, a->type, packed, device, a);
}

static __global__ void share_of_loss(mf_xent_args a, double *shares) {
    double sum = 0;
    MF_FOR_EACH(t, a.n) {
        if (a.labels[t] >= 0) sum += log((double)a.sum[t]) + (double)a.maximum[t] - (double)a.label_logit[t];
    }
    sum = mf_block_total(sum);
    if (threadIdx.x == 0) shares[blockIdx.x] = sum;
}

static mf_status share_loss(mf_device *device, const void *of, dim3 grid, double *shares) {
    return mf_cuda_launch(device, "xent_loss", share_of_loss, grid, MF_BLOCK, 0, *(const mf_xent_args *)of,
                          shares);
}

mf_status mf_cuda_xent_loss(mf_device *device, const mf_xent_args *a, double *loss) {
    return mf_cuda_total(device, a->n, share_loss, a, loss);
}
