/* embed.cu: rows of a table by their ids, and the table's gradient, in the order of the tokens. */
#include "device/cuda/rows.cuh"

/* What is copied as it lies. */
template <typename T, int V> struct alignas(sizeof(T) * V) bits { T at[V]; };

template <typename T, int V> MF_ROW_KERNEL take_rows(mf_embed_args a) {
    MF_FOR_BLOCK_ROWS(i, a.n) {
        int64_t row = i < a.n ? a.ids[i] - a.first : -1;
        const T *from = (const T *)a.table + row * a.h;
        T *to = (T *)a.out + i * a.h;
        mf_each_pack<V>(row >= 0 && row < a.rows ? a.h : 0, [&](int64_t at, int) {
            *reinterpret_cast<bits<T, V> *>(to + at) = *reinterpret_cast<const bits<T, V> *>(from + at);
        });
    }
}

template <typename T, int V> static mf_status launch_forward(mf_device *device, const mf_embed_args *a) {
    dim3 block = mf_row_block(a->h);
    return mf_cuda_launch(device, "embed_forward", take_rows<T, V>, mf_row_grid(a->n, block), block, 0, *a);
}

mf_status mf_cuda_embed_forward(mf_device *device, const mf_embed_args *a) {
    bool packed = mf_packed(a->type, a->h, a->table, a->out);
    return MF_OF_TYPE(launch_forward, a->type, packed, device, a);
}

/* The gradient. Tokens are first brought into the order of their rows, those of one row in their own order; a
 * token's place is the number of those before it, which each thread counts for one token. That is n^2
 * comparisons of whole numbers: some ms for 128K tokens, beside an attention that has h times as many. */

enum { TILE = 1024, OUTSIDE = INT32_MAX };

static __device__ inline int row_of(const mf_embed_args &a, int64_t i) {
    int64_t row = i < a.n ? a.ids[i] - a.first : -1;
    return row >= 0 && row < a.rows ? (int)row : OUTSIDE;
}

/* Of rows: [count] those that come before `row` of a token `earlier` places later than the first of them. */
static __device__ inline int count_before(const int *rows, int count, int row, int64_t earlier) {
    int before = 0, split = earlier < 0 ? 0 : earlier < count ? (int)earlier : count;
#pragma unroll 8
    for (int j = 0; j < split; j++) before += rows[j] <= row;
#pragma unroll 8
    for (int j = split; j < count; j++) before += rows[j] < row;
    return before;
}

/* order: [n] tokens by row, those outside the slice last. A block orders blockDim.x of them. */
static __global__ void order_tokens(mf_embed_args a, int32_t *order) {
    __shared__ int rows[TILE];
    int64_t own = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int row = row_of(a, own), place = 0;
    for (int64_t begin = 0; begin < a.n; begin += TILE) {
        int count = a.n - begin < TILE ? (int)(a.n - begin) : (int)TILE;
        for (int j = (int)threadIdx.x; j < count; j += (int)blockDim.x) rows[j] = row_of(a, begin + j);
        __syncthreads();
        place += count_before(rows, count, row, own - begin);
        __syncthreads();
    }
    if (own < a.n) order[place] = (int32_t)own;
}

/* Adds the tokens of one row, from place `at` of the order on, to V of its columns. Each lane looks up one
 * token, and all take the tokens in turns. */
template <typename D, int V>
static __device__ inline void add_tokens(const mf_embed_args &a, const int32_t *order, int64_t at, int row,
                                         int64_t column) {
    float sum[V] = {}, x[V] = {};
    float *to = a.d_table + row * a.h + column;
    int in_row = MF_WARP;
    if (column < a.h) mf_load<V>(to, sum);
    for (; in_row == MF_WARP; at += MF_WARP) {
        int32_t token = at + threadIdx.x < a.n ? order[at + threadIdx.x] : -1;
        in_row = __popc(__ballot_sync(0xffffffffu, token >= 0 && row_of(a, token) == row));
#pragma unroll 8
        for (int k = 0; k < in_row; k++) {
            int64_t from = __shfl_sync(0xffffffffu, token, k) * a.h + column;
            if (column < a.h) mf_load<V>((const D *)a.d_out + from, x);
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += x[j];
        }
    }
    if (column < a.h) mf_store<V>(sum, to);
}

/* A warp a place of the order: it works where a row's tokens begin. blockIdx.y: of columns, a warp's packs at
 * once. */
template <typename D, int V> static __global__ void add_ordered(mf_embed_args a, const int32_t *order) {
    int64_t at = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    if (at >= a.n) return;
    int row = row_of(a, order[at]);
    if (row == OUTSIDE || (at > 0 && row_of(a, order[at - 1]) == row)) return;
    for (int64_t begin = (int64_t)blockIdx.y * MF_WARP * V; begin < a.h;
         begin += (int64_t)gridDim.y * MF_WARP * V)
        add_tokens<D, V>(a, order, at, row, begin + threadIdx.x * V);
}

template <typename D, int V>
static mf_status launch_backward(mf_device *device, const mf_embed_args *a, const int32_t *order) {
    const int64_t warps = MF_BLOCK / MF_WARP, most_columns = 65535;
    dim3 grid((unsigned)mf_ceil_div(a->n, warps),
              (unsigned)mf_min(mf_ceil_div(a->h, MF_WARP * V), most_columns));
    return mf_cuda_launch(device, "embed_backward", add_ordered<D, V>, grid, dim3(MF_WARP, (unsigned)warps),
                          0, *a, order);
}

static mf_status add_grads(mf_device *device, const mf_embed_args *a, int32_t *order) {
    bool packed = mf_packed(a->d_out_type, a->h, a->d_out, a->d_table);
    MF_TRY(mf_cuda_launch(device, "order_tokens", order_tokens, dim3((unsigned)mf_ceil_div(a->n, MF_BLOCK)),
                          MF_BLOCK, 0, *a, order));
    return MF_OF_TYPE(launch_backward, a->d_out_type, packed, device, a, order);
}

mf_status mf_cuda_embed_backward(mf_device *device, const mf_embed_args *a) {
    mf_buffer order = {};
    if (a->h == 0) return MF_OK;
    if (a->n > INT32_MAX || a->rows > INT32_MAX)
        return MF_FAIL(MF_EINVAL, "embedding's gradient of %lld tokens and %lld rows", (long long)a->n,
                       (long long)a->rows);
    MF_TRY(mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)mf_cuda_embed_backward_workspace(a),
                           "tokens in the order of their ids", &order));
    mf_status status = add_grads(device, a, (int32_t *)order.data);
    mf_buffer_free(device->memory, &order);
    return status;
}
