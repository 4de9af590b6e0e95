/* merge.cu: around attention: the sums that its backward needs of each head, and results over parts of the
 * keys, weighted by what each part's softmax sums to. */
#include "device/cuda/rows.cuh"

/* Rows of these are heads: number u is head u % heads of row u / heads. */
template <typename T, int V> MF_ROW_KERNEL dot_heads(mf_attention_args a, float *delta) {
    int64_t n = a.batch * a.tokens * a.heads;
    MF_FOR_BLOCK_ROWS(u, n) {
        int64_t row = u / a.heads, head = u % a.heads * a.head_dim;
        const T *o = (const T *)a.o + row * a.o_ld + head, *d_o = (const T *)a.d_o + row * a.do_ld + head;
        float sum = 0;
        mf_each_pack<V>(u < n ? a.head_dim : 0, [&](int64_t at, int) {
            float x[V], y[V];
            mf_load<V>(o + at, x);
            mf_load<V>(d_o + at, y);
#pragma unroll
            for (int j = 0; j < V; j++) sum += x[j] * y[j];
        });
        sum = mf_row_sum(sum);
        if (threadIdx.x == 0 && u < n) delta[u] = sum;
    }
}

/* One head of one row: its values and its lse in the first part, what o holds and with which lse. */
typedef struct place {
    const float *value, *lse;
    int64_t part; /* elements from part to part */
    float held, top;
} place;

static __device__ inline place place_of(const mf_attention_merge_args &a, int64_t row, int64_t head) {
    int64_t width = a.heads * a.head_dim;
    const float *values = a.part + row * (width + a.heads);
    place p = {values + head * a.head_dim, values + width + head, a.rows * (width + a.heads), 0, -INFINITY};
    float held = a.lse ? a.lse[row * a.lse_ld + head] : -INFINITY;
    p.top = held;
    for (int i = 0; i < a.parts; i++) p.top = fmaxf(p.top, p.lse[i * p.part]);
    p.held = a.lse ? expf(held - p.top) : 0;
    return p;
}

/* Elements at.. of the head. o, where it holds nothing, may be anything: not even times 0 is it read. */
template <typename T, int V>
static __device__ inline void mix(const mf_attention_merge_args &a, const place &p, int64_t at, T *o) {
    float sum[V] = {}, weights = p.held, v[V];
    if (p.held > 0) {
        mf_load<V>(o + at, sum);
        for (int j = 0; j < V; j++) sum[j] *= p.held;
    }
    for (int i = 0; i < a.parts; i++) {
        float weight = expf(p.lse[i * p.part] - p.top);
        weights += weight;
        if (!(weight > 0)) continue;
        mf_load<V>(p.value + i * p.part + at, v);
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] += weight * v[j];
    }
#pragma unroll
    for (int j = 0; j < V; j++) sum[j] *= 1 / weights;
    mf_store<V>(sum, o + at);
}

template <typename T, int V> MF_ROW_KERNEL merge_heads(mf_attention_merge_args a) {
    int64_t n = a.rows * a.heads;
    MF_FOR_BLOCK_ROWS(u, n) {
        if (u >= n) break;
        int64_t row = u / a.heads, head = u % a.heads;
        T *o = (T *)a.o + row * a.o_ld + head * a.head_dim;
        place p = place_of(a, row, head);
        mf_each_pack<V>(a.head_dim, [&](int64_t at, int) {
            float none[V] = {};
            if (p.top == -INFINITY)
                mf_store<V>(none, o + at);
            else
                mix<T, V>(a, p, at, o);
        });
    }
}

template <typename T, int V>
static mf_status launch_delta(mf_device *device, const mf_attention_args *a, float *delta) {
    dim3 block = mf_row_block(a->head_dim), grid = mf_row_grid(a->batch * a->tokens * a->heads, block);
    return mf_cuda_launch(device, "attention_delta", dot_heads<T, V>, grid, block, 0, *a, delta);
}

template <typename T, int V>
static mf_status launch_merge(mf_device *device, const mf_attention_merge_args *a) {
    dim3 block = mf_row_block(a->head_dim), grid = mf_row_grid(a->rows * a->heads, block);
    return mf_cuda_launch(device, "attention_merge", merge_heads<T, V>, grid, block, 0, *a);
}

mf_status mf_cuda_attention_delta(mf_device *device, const mf_attention_args *a, float *delta) {
    int64_t bytes = (int64_t)mf_dtype_bytes(a->type);
    bool packed = mf_packed(a->type, a->head_dim, a->o, a->d_o, a->o_ld * bytes, a->do_ld * bytes);
    return MF_OF_TYPE(launch_delta, a->type, packed, device, a, delta);
}

mf_status mf_cuda_attention_merge(mf_device *device, const mf_attention_merge_args *a) {
    int64_t part_row = a->heads * (a->head_dim + 1) * 4, o_row = a->o_ld * (int64_t)mf_dtype_bytes(a->type);
    bool packed = mf_packed(a->type, a->head_dim, a->part, a->o, part_row, o_row);
    return MF_OF_TYPE(launch_merge, a->type, packed, device, a);
}
