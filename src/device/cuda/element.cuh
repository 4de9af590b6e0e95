/* element.cuh: elements of either compute type as f32, up to 16 bytes in one access; and the walk of kernels
 * that treat every element by itself, over rows at any distance.
 *
 *     template <typename T, int N> __global__ void twice(mf_extent all, const T *x, int64_t ld, T *y) {
 *         mf_by_share<N>(all, [&](auto share) {
 *             MF_FOR_ROWS(row, all) {
 *                 float v[MF_SHARE * N];
 *                 share.load(x + row * ld, v);
 *                 for (int i = 0; i < MF_SHARE * N; i++) v[i] *= 2;
 *                 share.store(v, y + row * all.width);
 *             }
 *         });
 *     }
 */
#ifndef MF_DEVICE_CUDA_ELEMENT_CUH
#define MF_DEVICE_CUDA_ELEMENT_CUH

#include "device/cuda/launch.cuh"

static __device__ inline float mf_as_f32(float x) { return x; }
static __device__ inline float mf_as_f32(mf_bf16 x) { return __bfloat162float(x); }
/* With the sign again, which the conversion takes from a NaN. */
static __device__ inline unsigned short mf_bf16_bits(float x) {
    return (unsigned short)(__bfloat16_as_ushort(__float2bfloat16(x)) | (__float_as_uint(x) >> 16 & 0x8000u));
}
template <typename T> static __device__ inline T mf_as(float x);
template <> __device__ inline float mf_as<float>(float x) { return x; }
template <> __device__ inline mf_bf16 mf_as<mf_bf16>(float x) {
    return __ushort_as_bfloat16(mf_bf16_bits(x));
}

/* Elements to a pack where a kernel reads and writes these types: the larger takes 16 bytes. */
template <typename A, typename B = A>
constexpr int mf_pack_size = 16 / (int)(sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));

/* Whether every row begins where a pack of n can. One row, or a vector: ld 0. */
template <typename T> static inline bool mf_holds_packs(int n, const T *data, int64_t ld) {
    return (uintptr_t)data % ((size_t)n * sizeof(T)) == 0 && ld % n == 0;
}

/* N neighbours, a power of two, in accesses of up to 16 bytes. Stored, in the GPU's memory, by __stwb: what
 * is merely assigned nvcc writes member by member where there is a loop around it. */
template <int N> static __device__ inline void mf_load(const float *from, float *to) {
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            float4 v = *reinterpret_cast<const float4 *>(from + i);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
    } else if constexpr (N == 2) {
        float2 v = *reinterpret_cast<const float2 *>(from);
        to[0] = v.x, to[1] = v.y;
    } else {
        *to = *from;
    }
}

template <int N> static __device__ inline void mf_store(const float *from, float *to) {
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 4)
            __stwb(reinterpret_cast<float4 *>(to + i),
                   make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]));
    } else if constexpr (N == 2) {
        __stwb(reinterpret_cast<float2 *>(to), make_float2(from[0], from[1]));
    } else {
        *to = *from;
    }
}

/* Two bf16 are a word, the first in its low half. */
static __device__ inline void mf_unpack(unsigned word, float *to) {
    to[0] = __uint_as_float(word << 16);
    to[1] = __uint_as_float(word & 0xffff0000u);
}
static __device__ inline unsigned mf_word_of(const float *from) {
    return mf_bf16_bits(from[0]) | (unsigned)mf_bf16_bits(from[1]) << 16;
}

template <int N> static __device__ inline void mf_load(const mf_bf16 *from, float *to) {
    if constexpr (N % 8 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 8) {
            uint4 v = *reinterpret_cast<const uint4 *>(from + i);
            mf_unpack(v.x, to + i), mf_unpack(v.y, to + i + 2);
            mf_unpack(v.z, to + i + 4), mf_unpack(v.w, to + i + 6);
        }
    } else if constexpr (N == 4) {
        uint2 v = *reinterpret_cast<const uint2 *>(from);
        mf_unpack(v.x, to), mf_unpack(v.y, to + 2);
    } else if constexpr (N == 2) {
        mf_unpack(*reinterpret_cast<const unsigned *>(from), to);
    } else {
        *to = __bfloat162float(*from);
    }
}

template <int N> static __device__ inline void mf_store(const float *from, mf_bf16 *to) {
    if constexpr (N % 8 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 8)
            __stwb(reinterpret_cast<uint4 *>(to + i),
                   make_uint4(mf_word_of(from + i), mf_word_of(from + i + 2), mf_word_of(from + i + 4),
                              mf_word_of(from + i + 6)));
    } else if constexpr (N == 4) {
        __stwb(reinterpret_cast<uint2 *>(to), make_uint2(mf_word_of(from), mf_word_of(from + 2)));
    } else if constexpr (N == 2) {
        *reinterpret_cast<unsigned *>(to) = mf_word_of(from);
    } else {
        *to = mf_as<mf_bf16>(*from);
    }
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

/* What a thread has of a row: packs that lie side by side with those of the block's other threads. Where the
 * row is known to hold them all, nothing branches between accesses that are to be in flight together. */
template <int N, bool WHOLE> struct mf_share {
    int64_t width;

    static __device__ inline int64_t column(int pack) {
        return (((int64_t)blockIdx.x * MF_SHARE + pack) * blockDim.x + threadIdx.x) * N;
    }
    /* at(column): where the pack at this column lies. What lies behind the row's end becomes 0. */
    template <typename At> __device__ inline void load_at(At at, float *to) const {
#pragma unroll
        for (int i = 0; i < MF_SHARE; i++) {
            int64_t left = width - column(i);
            if (WHOLE)
                mf_load<N>(at(column(i)), to + i * N);
            else if (left > 0)
                mf_load_some<N>(at(column(i)), left, to + i * N);
            else
                for (int j = 0; j < N; j++) to[i * N + j] = 0.0f;
        }
    }
    template <typename At> __device__ inline void store_at(const float *from, At at) const {
#pragma unroll
        for (int i = 0; i < MF_SHARE; i++) {
            int64_t left = width - column(i);
            if (WHOLE)
                mf_store<N>(from + i * N, at(column(i)));
            else if (left > 0)
                mf_store_some<N>(from + i * N, left, at(column(i)));
        }
    }
    template <typename T> __device__ inline void load(const T *row, float *to) const {
        load_at([row](int64_t at) { return row + at; }, to);
    }
    template <typename T> __device__ inline void store(const float *from, T *row) const {
        store_at(from, [row](int64_t at) { return row + at; });
    }
};

/* body(share), with the calling thread's. */
template <int N, typename Body> static __device__ inline void mf_by_share(mf_extent all, Body body) {
    if (mf_share<N, true>::column(MF_SHARE - 1) + N <= all.width)
        body(mf_share<N, true>{all.width});
    else
        body(mf_share<N, false>{all.width});
}

/* Rows that lie together are one long row, which has a single end. */
static inline mf_extent mf_extent_of(int64_t rows, int64_t width, bool together) {
    return together || rows == 1 ? mf_extent{1, rows * width} : mf_extent{rows, width};
}

/* Whether packs of n fit an operand whose rows lie ld apart; of one row that does not matter. */
template <typename T> static inline bool mf_fits(mf_extent all, int n, const T *data, int64_t ld) {
    return mf_holds_packs(n, data, all.rows > 1 ? ld : 0);
}

/* Starts a kernel whose first argument is the extent and whose threads take shares of packs of n. Of short
 * rows a block takes several; of one row, only threads that have a share of it, or lie behind its end. */
template <typename... Parameters, typename... Arguments>
static mf_status mf_cuda_launch_shares(mf_device *device, const char *name,
                                       void (*kernel)(mf_extent, Parameters...), int n, mf_extent all,
                                       Arguments... arguments) {
    int64_t shares = mf_ceil_div(all.width, n * MF_SHARE);
    unsigned across = 1, most_rows = 1 << 15;
    while (across < MF_BLOCK && across < shares) across *= 2;
    dim3 block(across, (unsigned)mf_min(MF_BLOCK / across, all.rows));
    dim3 grid((unsigned)mf_ceil_div(shares, across),
              (unsigned)mf_min(mf_ceil_div(all.rows, block.y), most_rows));
    return mf_cuda_launch(device, name, kernel, grid, block, 0, all, arguments...);
}

#endif
