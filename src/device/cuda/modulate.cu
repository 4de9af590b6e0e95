/* modulate.cu: layer norm without weights, scaled and shifted by vectors of the sample that a row is of, and
 * its backward. y = v (1 + scale) + shift, v = (x - mean) r, r = 1 / sqrt(variance + eps). */
#include "device/cuda/rows.cuh"

typedef struct moments {
    float mean, r;
} moments;

/* In two passes: the difference of mean square and squared mean would lose what a large mean hides. */
template <typename T, int V>
static __device__ inline moments moments_of(const mf_row<T, V> &x, int64_t width, const mf_modulate_args &a) {
    float sum = 0, squares = 0;
    mf_each_pack<V>(width, [&](int64_t at, int k) {
        float v[V];
        mf_row_get(x, at, k, v);
#pragma unroll
        for (int j = 0; j < V; j++) sum += v[j];
    });
    float mean = mf_row_sum(sum) / (float)a.h;
    mf_each_pack<V>(width, [&](int64_t at, int k) {
        float v[V];
        mf_row_get(x, at, k, v);
#pragma unroll
        for (int j = 0; j < V; j++) squares += (v[j] - mean) * (v[j] - mean);
    });
    return {mean, rsqrtf(mf_row_sum(squares) / (float)a.h + a.eps)};
}

/* Where the vectors of a row's sample begin. */
static __device__ inline int64_t vector_of(const mf_modulate_args &a, int64_t row) {
    return (a.first_row + row) / a.sample_rows * a.mod_ld;
}

template <typename T, int V> MF_ROW_KERNEL modulate_forward(mf_modulate_args a) {
    MF_FOR_BLOCK_ROWS(row, a.n) {
        int64_t width = row < a.n ? a.h : 0;
        const float *shift = a.shift + vector_of(a, row), *scale = a.scale + vector_of(a, row);
        mf_row<T, V> x = mf_row_hold<T, V>((const T *)a.x + row * a.h, width);
        moments m = moments_of(x, width, a);
        T *y = (T *)a.y + row * a.h;
        mf_each_pack<V>(width, [&](int64_t at, int k) {
            float v[V], s[V], b[V];
            mf_row_get(x, at, k, v);
            mf_load<V>(scale + at, s);
            mf_load<V>(shift + at, b);
#pragma unroll
            for (int j = 0; j < V; j++) v[j] = (v[j] - m.mean) * m.r * (1.0f + s[j]) + b[j];
            mf_store<V>(v, y + at);
        });
    }
}

/* Means over the row of e = dy (1 + scale) and of e v. */
typedef struct slopes {
    float mean, along;
} slopes;

template <typename T, int V>
static __device__ inline slopes slopes_of(const mf_row<T, V> &x, const mf_row<float, V> &dy, moments m,
                                          const float *scale, int64_t width, int64_t h) {
    float sum = 0, dot = 0;
    mf_each_pack<V>(width, [&](int64_t at, int k) {
        float v[V], d[V], s[V];
        mf_row_get(x, at, k, v);
        mf_row_get(dy, at, k, d);
        mf_load<V>(scale + at, s);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float e = d[j] * (1.0f + s[j]);
            sum += e;
            dot += e * ((v[j] - m.mean) * m.r);
        }
    });
    return {mf_row_sum(sum) / (float)h, mf_row_sum(dot) / (float)h};
}

/* dx += r (e - mean(e) - v mean(e v)); dshift += dy, dscale += dy v. */
template <typename T, int V>
static __device__ inline void backward_row(const mf_modulate_args &a, int64_t row, int64_t width,
                                           mf_sums<V> &dshift, mf_sums<V> &dscale) {
    const float *scale = a.scale + vector_of(a, row);
    mf_row<T, V> x = mf_row_hold<T, V>((const T *)a.x + row * a.h, width);
    mf_row<float, V> dy = mf_row_hold<float, V>(a.dy + row * a.h, width);
    moments m = moments_of(x, width, a);
    slopes s = slopes_of(x, dy, m, scale, width, a.h);
    float *to = a.dx + row * a.h;
    mf_each_pack<V>(width, [&](int64_t at, int k) {
        float v[V], d[V], w[V], dx[V];
        mf_row_get(x, at, k, v);
        mf_row_get(dy, at, k, d);
        mf_load<V>(scale + at, w);
        mf_load<V>(to + at, dx);
#pragma unroll
        for (int j = 0; j < V; j++) {
            v[j] = (v[j] - m.mean) * m.r;
            dx[j] += m.r * (d[j] * (1.0f + w[j]) - s.mean - v[j] * s.along);
            v[j] *= d[j];
        }
        mf_store<V>(dx, to + at);
        if (dscale.part) mf_sums_add(dscale, at, k, v);
        if (dshift.part) mf_sums_add(dshift, at, k, d);
    });
}

/* The call's first row of a run, or of those after it. */
static __device__ inline int64_t row_of(const mf_modulate_args &a, const mf_cuda_runs &runs, int64_t run) {
    int64_t row = run / runs.per_sample * a.sample_rows + run % runs.per_sample * runs.rows - a.first_row;
    row = row < 0 ? 0 : row;
    return row < a.n ? row : a.n;
}

/* A block a run. parts: [runs][2][h], the runs' shares of dshift and dscale; or NULL. */
template <typename T, int V>
MF_ROW_KERNEL modulate_backward(mf_modulate_args a, mf_cuda_runs runs, float *parts) {
    int64_t begin = row_of(a, runs, runs.first + blockIdx.x),
            end = row_of(a, runs, runs.first + blockIdx.x + 1);
    int64_t summed = parts ? a.h : 0;
    float *part = parts ? parts + (int64_t)blockIdx.x * 2 * a.h : NULL;
    mf_sums<V> dshift = mf_sums_begin<V>(part, summed);
    mf_sums<V> dscale = mf_sums_begin<V>(part ? part + a.h : NULL, summed);
    for (int64_t first = begin; first < end; first += blockDim.y) {
        int64_t row = first + threadIdx.y;
        backward_row<T, V>(a, row, row < end ? a.h : 0, dshift, dscale);
    }
    mf_sums_end(dshift, summed);
    mf_sums_end(dscale, summed);
}

template <typename T, int V> static mf_status launch_forward(mf_device *device, const mf_modulate_args *a) {
    dim3 block = mf_row_block(a->h);
    return mf_cuda_launch(device, "modulate_forward", modulate_forward<T, V>, mf_row_grid(a->n, block), block,
                          0, *a);
}

template <typename T, int V>
static mf_status launch_backward(mf_device *device, const mf_modulate_args *a, const mf_cuda_runs *runs,
                                 float *parts) {
    return mf_cuda_launch(device, "modulate_backward", modulate_backward<T, V>, dim3((unsigned)runs->count),
                          mf_row_block(a->h), 0, *a, *runs, parts);
}

mf_status mf_cuda_modulate_forward(mf_device *device, const mf_modulate_args *a) {
    bool packed = mf_packed(a->type, a->h, a->x, a->y, a->shift, a->scale, a->mod_ld * 4);
    return MF_OF_TYPE(launch_forward, a->type, packed, device, a);
}

/* part: the first run's share of to: [samples, h] */
static mf_status add_runs(mf_device *device, const mf_modulate_args *a, const mf_cuda_runs *runs,
                          const float *part, float *to) {
    int64_t sample = runs->first / runs->per_sample;
    int64_t last = (runs->first + runs->count - 1) / runs->per_sample;
    mf_part_sums sums = {};
    sums.parts = runs->count;
    sums.width = a->h;
    sums.part = part;
    sums.part_ld = 2 * a->h;
    sums.groups = last - sample + 1;
    sums.group_parts = runs->per_sample;
    sums.lead = runs->first % runs->per_sample;
    sums.to = to + sample * a->mod_ld;
    sums.to_ld = a->mod_ld;
    return mf_cuda_add_parts(device, &sums);
}

static mf_status grads(mf_device *device, const mf_modulate_args *a, float *parts) {
    mf_cuda_runs runs = mf_cuda_modulate_runs(a);
    bool packed = mf_packed(a->type, a->h, a->x, a->dy, a->dx, a->scale, a->mod_ld * 4);
    MF_TRY(MF_OF_TYPE(launch_backward, a->type, packed, device, a, &runs, parts));
    if (!parts) return MF_OK;
    MF_TRY(add_runs(device, a, &runs, parts, a->dshift));
    return add_runs(device, a, &runs, parts + a->h, a->dscale);
}

mf_status mf_cuda_modulate_backward(mf_device *device, const mf_modulate_args *a) {
    mf_buffer parts = {};
    MF_TRY(mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)mf_cuda_modulate_backward_workspace(a),
                           "sums of a modulation's gradient", &parts));
    mf_status status = grads(device, a, (float *)parts.data);
    mf_buffer_free(device->memory, &parts);
    return status;
}
