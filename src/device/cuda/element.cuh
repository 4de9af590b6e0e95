/* element.cuh: elements of either compute type as f32, up to 16 bytes in one access; and the walk of kernels
 * that treat every element by itself, over rows at any distance.
 *
 *     template <typename T, int N> __global__ void twice(mf_extent all, const T *x, int64_t ld, T *y) {
 *         MF_FOR_ROWS(row, all) {
 *             float v[MF_SHARE * N];
 *             mf_load_share<N>(all, x + row * ld, v);
 *             for (int i = 0; i < MF_SHARE * N; i++) v[i] *= 2;
 *             mf_store_share<N>(all, v, y + row * all.width);
 *         }
 *     }
 */
#ifndef MF_DEVICE_CUDA_ELEMENT_CUH
#define MF_DEVICE_CUDA_ELEMENT_CUH

#include "device/cuda/launch.cuh"

static __device__ inline float mf_as_f32(float x) { return x; }
static __device__ inline float mf_as_f32(mf_bf16 x) { return __bfloat162float(x); }
template <typename T> static __device__ inline T mf_as(float x);
template <> __device__ inline float mf_as<float>(float x) { return x; }
template <> __device__ inline mf_bf16 mf_as<mf_bf16>(float x) { return __float2bfloat16(x); }

/* N neighbours, moved in one access. */
template <typename T, int N> struct alignas(N * sizeof(T)) mf_pack { T at[N]; };

/* Elements to a pack where a kernel reads and writes these types: the larger takes 16 bytes. */
template <typename A, typename B = A>
constexpr int mf_pack_size = 16 / (int)(sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));

/* Whether every row begins where a pack of n can. One row, or a vector: ld 0. */
template <typename T> static inline bool mf_holds_packs(int n, const T *data, int64_t ld) {
    return (uintptr_t)data % ((size_t)n * sizeof(T)) == 0 && ld % n == 0;
}

template <int N, typename T> static __device__ inline void mf_load(const T *from, float *to) {
    mf_pack<T, N> pack = *reinterpret_cast<const mf_pack<T, N> *>(from);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = mf_as_f32(pack.at[i]);
}

template <int N, typename T> static __device__ inline void mf_store(const float *from, T *to) {
    mf_pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) pack.at[i] = mf_as<T>(from[i]);
    *reinterpret_cast<mf_pack<T, N> *>(to) = pack;
}

/* The first `left` of them, where there are fewer than N; the others become 0. */
template <int N, typename T>
static __device__ inline void mf_load_some(const T *from, int64_t left, float *to) {
    if (left >= N) return mf_load<N>(from, to);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = i < left ? mf_as_f32(from[i]) : 0.0f;
}

template <int N, typename T>
static __device__ inline void mf_store_some(const float *from, int64_t left, T *to) {
    if (left >= N) return mf_store<N>(from, to);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (i < left) to[i] = mf_as<T>(from[i]);
}

/* Packs of a row that a thread has in flight at a time. */
enum { MF_SHARE = 2 };

typedef struct mf_extent {
    int64_t rows, width;
} mf_extent;

/* row goes over the rows that this thread has a share of. */
#define MF_FOR_ROWS(row, all)                                                                                \
    for (int64_t row = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; row < (all).rows;                     \
         row += (int64_t)gridDim.y * blockDim.y)

/* Column of the thread's pack i of a row; those of a block lie side by side. */
template <int N> static __device__ inline int64_t mf_share_column(int i) {
    return (((int64_t)blockIdx.x * MF_SHARE + i) * blockDim.x + threadIdx.x) * N;
}

/* Whether all of the thread's packs lie within the row. */
template <int N> static __device__ inline bool mf_share_whole(mf_extent all) {
    return mf_share_column<N>(MF_SHARE - 1) + N <= all.width;
}

/* Whole shares by themselves, without a branch between the accesses that are to be in flight together. */
template <int N, typename T>
static __device__ inline void mf_load_share(mf_extent all, const T *row, float *to) {
    if (mf_share_whole<N>(all)) {
#pragma unroll
        for (int i = 0; i < MF_SHARE; i++) mf_load<N>(row + mf_share_column<N>(i), to + i * N);
        return;
    }
#pragma unroll
    for (int i = 0; i < MF_SHARE; i++) {
        int64_t column = mf_share_column<N>(i);
        mf_load_some<N>(row + column, all.width - column, to + i * N);
    }
}

template <int N, typename T>
static __device__ inline void mf_store_share(mf_extent all, const float *from, T *row) {
    if (mf_share_whole<N>(all)) {
#pragma unroll
        for (int i = 0; i < MF_SHARE; i++) mf_store<N>(from + i * N, row + mf_share_column<N>(i));
        return;
    }
#pragma unroll
    for (int i = 0; i < MF_SHARE; i++) {
        int64_t column = mf_share_column<N>(i);
        mf_store_some<N>(from + i * N, all.width - column, row + column);
    }
}

/* Starts a kernel whose first argument is the extent and whose threads take shares of packs of n. Of short
 * rows a block takes several. */
template <typename... Parameters, typename... Arguments>
static mf_status mf_cuda_launch_shares(mf_device *device, const char *name,
                                       void (*kernel)(mf_extent, Parameters...), int n, mf_extent all,
                                       Arguments... arguments) {
    int64_t shares = mf_ceil_div(all.width, n * MF_SHARE);
    unsigned across = MF_WARP / 4, most_rows = 1 << 15;
    while (across < MF_BLOCK && across < shares) across *= 2;
    dim3 block(across, MF_BLOCK / across);
    dim3 grid((unsigned)mf_ceil_div(shares, across),
              (unsigned)mf_min(mf_ceil_div(all.rows, block.y), most_rows));
    return mf_cuda_launch(device, name, kernel, grid, block, 0, all, arguments...);
}

#endif
