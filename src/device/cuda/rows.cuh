/* rows.cuh: kernels that work row by row: which threads share a row, packs of elements that are read at once,
 * values kept in registers from one pass over a row to the next, sums along rows and sums over rows.
 *
 *     template <typename T, int V> static __global__ void scale_by_length(int64_t n, int64_t h, T *x) {
 *         MF_FOR_ROWS(t, n) {
 *             int64_t width = t < n ? h : 0;
 *             mf_row<T, V> row = mf_row_hold<T, V>(x + t * h, width);
 *             float squares = 0;
 *             mf_each_pack<V>(width, [&](int64_t at, int k) {
 *                 float v[V];
 *                 mf_row_get(row, at, k, v);
 *                 for (int j = 0; j < V; j++) squares += v[j] * v[j];
 *             });
 *             squares = mf_row_sum(squares);
 *             ...
 *
 * Every sum has one order, which depends on sizes and on what packs can be read, never on the GPU. */
#ifndef MF_DEVICE_CUDA_ROWS_CUH
#define MF_DEVICE_CUDA_ROWS_CUH

#include "device/cuda/launch.cuh"
#include "device/cuda_workspace.h"

/* Elements of a row that a thread keeps, and threads that share a row at most. Of a wider row the rest is
 * read again in each pass. */
enum { MF_HELD = 16, MF_ROW_THREADS = 512 };
#define MF_ROW_KERNEL static __global__ void __launch_bounds__(MF_ROW_THREADS)

/* x: threads of a row: a power of two within a warp, then y rows; or whole warps and one row. */
static inline dim3 mf_row_block(int64_t width) {
    int64_t threads = mf_ceil_div(width, MF_HELD), lanes = 1;
    if (threads > MF_WARP)
        return dim3((unsigned)mf_min(mf_ceil_div(threads, MF_WARP) * MF_WARP, MF_ROW_THREADS));
    while (lanes < threads) lanes *= 2;
    return dim3((unsigned)lanes, (unsigned)(MF_BLOCK / lanes));
}

static inline dim3 mf_row_grid(int64_t rows, dim3 block) {
    return dim3((unsigned)mf_min(mf_ceil_div(rows, (int64_t)block.y), MF_GRID_MOST));
}

/* row goes over the rows of this thread. All threads of a block make the same turns, so that they meet in
 * sums: in the last one `row` may be n or more. */
#define MF_FOR_ROWS(row, n)                                                                                  \
    for (int64_t first_ = (int64_t)blockIdx.x * blockDim.y, step_ = (int64_t)gridDim.x * blockDim.y,         \
                 row = first_ + threadIdx.y;                                                                 \
         first_ < (n); first_ += step_, row += step_)

/* Packs: V elements, 16 bytes of the compute type, or one. */

template <typename T, int V> struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) mf_pack { T at[V]; };

static __device__ inline float mf_widened(float x) { return x; }
static __device__ inline float mf_widened(mf_bf16 x) { return __bfloat162float(x); }
static __device__ inline void mf_narrow(float x, float *to) { *to = x; }
static __device__ inline void mf_narrow(float x, mf_bf16 *to) { *to = __float2bfloat16(x); }

template <typename T, int V> static __device__ inline void mf_load(const T *from, float (&to)[V]) {
    mf_pack<T, V> pack = *reinterpret_cast<const mf_pack<T, V> *>(from);
#pragma unroll
    for (int j = 0; j < V; j++) to[j] = mf_widened(pack.at[j]);
}

template <typename T, int V> static __device__ inline void mf_store(T *to, const float (&from)[V]) {
    mf_pack<T, V> pack;
#pragma unroll
    for (int j = 0; j < V; j++) mf_narrow(from[j], &pack.at[j]);
    *reinterpret_cast<mf_pack<T, V> *>(to) = pack;
}

/* Whether whole packs of 16 bytes make up rows of `width`. places: pointers and, in bytes, row distances. */
template <typename... Places> static inline bool mf_packed(mf_dtype type, int64_t width, Places... places) {
    return width % (int64_t)(16 / mf_dtype_bytes(type)) == 0 && (((uintptr_t)places) | ...) % 16 == 0;
}

/* function<T, V>(...) of the compute type and of packs or of elements. */
#define MF_OF_TYPE(function, type, packed, ...)                                                              \
    ((type) == MF_F32 ? ((packed) ? function<float, 4>(__VA_ARGS__) : function<float, 1>(__VA_ARGS__))       \
                      : ((packed) ? function<mf_bf16, 8>(__VA_ARGS__) : function<mf_bf16, 1>(__VA_ARGS__)))

/* body(at, k) for this thread's packs of a row; at: a pack's first element; k: its number among those that
 * are held, or that of all held. */
template <int V, typename Body> static __device__ inline void mf_each_pack(int64_t width, Body body) {
    int64_t at = (int64_t)threadIdx.x * V, step = (int64_t)blockDim.x * V;
#pragma unroll
    for (int k = 0; k < MF_HELD / V; k++, at += step)
        if (at < width) body(at, k);
    for (; at < width; at += step) body(at, MF_HELD / V);
}

/* A row as one thread sees it. */
template <typename T, int V> struct mf_row {
    const T *data;
    float held[MF_HELD / V][V];
};

template <typename T, int V> static __device__ inline mf_row<T, V> mf_row_hold(const T *data, int64_t width) {
    mf_row<T, V> row;
    row.data = data;
    int64_t at = (int64_t)threadIdx.x * V, step = (int64_t)blockDim.x * V;
#pragma unroll
    for (int k = 0; k < MF_HELD / V; k++, at += step)
        if (at < width) mf_load(data + at, row.held[k]);
    return row;
}

template <typename T, int V>
static __device__ inline void mf_row_get(const mf_row<T, V> &row, int64_t at, int k, float (&out)[V]) {
    if (k < MF_HELD / V) {
#pragma unroll
        for (int j = 0; j < V; j++) out[j] = row.held[k][j];
    } else {
        mf_load(row.data + at, out);
    }
}

/* Over the threads that share a row, to each of them. none: what changes nothing. All threads of the block
 * call it. */
template <typename T, typename Join> static __device__ inline T mf_row_join(T x, T none, Join join) {
    __shared__ T of_warp[MF_ROW_THREADS / MF_WARP];
    unsigned lanes = blockDim.x;
    if (lanes > MF_WARP) lanes = MF_WARP;
    for (unsigned to = lanes / 2; to; to /= 2) x = join(x, __shfl_xor_sync(0xffffffffu, x, (int)to));
    if (blockDim.x == lanes) return x;
    unsigned lane = threadIdx.x % MF_WARP, warp = threadIdx.x / MF_WARP, warps = blockDim.x / MF_WARP;
    if (lane == 0) of_warp[warp] = x;
    __syncthreads();
    x = lane < warps ? of_warp[lane] : none;
    for (unsigned to = MF_WARP / 2; to; to /= 2) x = join(x, __shfl_xor_sync(0xffffffffu, x, (int)to));
    __syncthreads();
    return x;
}

template <typename T> static __device__ inline T mf_row_sum(T x) {
    return mf_row_join(x, (T)0, [](T a, T b) { return a + b; });
}

/* Sums over a block's rows of each column; part: [width], theirs. */
template <int V> struct mf_sums {
    float held[MF_HELD / V][V];
    float *part;
};

template <int V> static __device__ inline mf_sums<V> mf_sums_begin(float *part, int64_t width) {
    mf_sums<V> sums = {};
    sums.part = part;
    for (int64_t at = (int64_t)(MF_HELD / V * blockDim.x + threadIdx.x) * V; at < width; at += blockDim.x * V)
        for (int j = 0; j < V; j++) part[at + j] = 0;
    return sums;
}

template <int V>
static __device__ inline void mf_sums_add(mf_sums<V> &sums, int64_t at, int k, const float (&x)[V]) {
    if (k < MF_HELD / V) {
#pragma unroll
        for (int j = 0; j < V; j++) sums.held[k][j] += x[j];
    } else {
        float sum[V];
        mf_load(sums.part + at, sum);
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] += x[j];
        mf_store(sums.part + at, sum);
    }
}

/* x of the threads at the same place in all the block's rows, added in the order of rows, to the first row's
 * threads. */
template <int V> static __device__ inline void mf_block_rows_sum(float (&x)[V]) {
    __shared__ float of_thread[MF_BLOCK][V];
    unsigned own = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (int j = 0; j < V; j++) of_thread[own][j] = x[j];
    __syncthreads();
    for (unsigned other = own + blockDim.x; threadIdx.y == 0 && other < MF_BLOCK; other += blockDim.x)
#pragma unroll
        for (int j = 0; j < V; j++) x[j] += of_thread[other][j];
    __syncthreads();
}

/* Writes what is held to the part. All threads of the block call it. */
template <int V> static __device__ inline void mf_sums_end(mf_sums<V> &sums, int64_t width) {
    int64_t at = (int64_t)threadIdx.x * V, step = (int64_t)blockDim.x * V;
#pragma unroll
    for (int k = 0; k < MF_HELD / V; k++, at += step) {
        if (blockDim.y > 1) mf_block_rows_sum(sums.held[k]);
        if (threadIdx.y == 0 && at < width) mf_store(sums.part + at, sums.held[k]);
    }
}

/* columns.cu. to: [groups, width] += the group's parts. part: [parts, width]; group g has those from
 * g * group_parts - lead on, group_parts of them, as far as they are there. Row distances given. */
typedef struct mf_part_sums {
    int64_t parts, width, part_ld;
    const float *part;
    int64_t groups, group_parts, lead;
    float *to;
    int64_t to_ld;
} mf_part_sums;
mf_status mf_cuda_add_parts(mf_device *device, const mf_part_sums *sums);
/* All parts, dense, are of one group. */
mf_status mf_cuda_add_all_parts(mf_device *device, int64_t parts, int64_t width, const float *part,
                                float *to);

#endif
