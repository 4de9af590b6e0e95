/* attention_tiles.cuh: bf16 tiles of attention in shared memory, and their products by tensor cores.
 *
 * A tile of D columns has rows of D + 8 values: eight neighbouring rows then begin in eight different groups
 * of banks, so that matrices load without conflicts. A warp's sums are f32 in registers, [16 rows, 8 columns]
 * in four values a thread; where weights are the next product's left side, pairs of these tiles become its
 * fragments as they are. */
#ifndef MF_DEVICE_CUDA_ATTENTION_TILES_CUH
#define MF_DEVICE_CUDA_ATTENTION_TILES_CUH

#include "device/cuda/attention.cuh"
#include "device/cuda/tensor_core.cuh"

enum { TILE_PAD = 8 };

static __device__ __forceinline__ int lane_of(void) { return (int)threadIdx.x % MF_WARP; }
static __device__ __forceinline__ int warp_of(void) { return (int)threadIdx.x / MF_WARP; }
/* A thread's rows of a tile of 16 are lane_row() and 8 further; its columns of one of 8: lane_column(), the
 * next. */
static __device__ __forceinline__ int lane_row(void) { return lane_of() / 4; }
static __device__ __forceinline__ int lane_column(void) { return lane_of() % 4 * 2; }

/* Two neighbouring values, the first in the lower half. */
static __device__ __forceinline__ uint32_t packed(float first, float second) {
    return (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(first)) |
           (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(second)) << 16;
}

/* Eight values one by one, zeros past the head. */
static __device__ __forceinline__ void copy_piece(mf_bf16 *to, const mf_bf16 *from, int count) {
    for (int i = 0; i < 8; i++) to[i] = i < count ? from[i] : __float2bfloat16_rn(0.0f);
}

/* Begins to copy a tile: row r from from + at(r), zeros after `rows` and past the head. */
template <int D, int ROWS, int THREADS, typename At>
static __device__ __forceinline__ void begin_tile(mf_bf16 *to, const void *from, int rows, int head_dim,
                                                  bool wide, At at) {
    constexpr int pieces = D / 8;
    const mf_bf16 *values = (const mf_bf16 *)from;
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < ROWS * pieces; i += THREADS) {
        int row = i / pieces, column = i % pieces * 8;
        bool exists = row < rows && column < head_dim;
        mf_bf16 *piece = to + row * (D + TILE_PAD) + column;
        const mf_bf16 *source = exists ? values + at(row) + column : values;
        if (wide)
            mf_copy_begin(piece, source, exists);
        else
            copy_piece(piece, source, exists ? head_dim - column : 0);
    }
}

template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void begin_keys(mf_bf16 *to, const void *from, const attention_job &job,
                                                  const attention_view &view) {
    begin_tile<D, ROWS, THREADS>(to, from, view.rows, job.head_dim, job.wide,
                                 [&](int row) { return view.first + row * view.stride; });
}

template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void begin_queries(mf_bf16 *to, const void *from, int64_t ld,
                                                     const attention_job &job, const attention_tile &tile) {
    begin_tile<D, ROWS, THREADS>(to, from, attention_rows(tile), job.head_dim, job.wide, [&](int row) {
        attention_place place = attention_place_of(job, tile, row);
        return place.row * ld + (int64_t)place.head * job.head_dim;
    });
}

template <int TILES, int COLUMNS> struct warp_sums { float at[TILES][COLUMNS / 8][4]; };

template <int TILES, int COLUMNS>
static __device__ __forceinline__ void clear(warp_sums<TILES, COLUMNS> &sums) {
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums.at[t][n][i] = 0;
}

/* sums: [16 TILES, COLUMNS] = a: [16 TILES, D] · b: [COLUMNS, D] transposed. STEPS that the compiler may mix:
 * more need more registers. */
template <int D, int STEPS = 4, int TILES, int COLUMNS>
static __device__ __forceinline__ void multiply_rows(warp_sums<TILES, COLUMNS> &sums, const mf_bf16 *a,
                                                     const mf_bf16 *b) {
    constexpr int pitch = D + TILE_PAD;
    int lane = lane_of();
    a += lane % 16 * pitch + lane / 16 * 8;
    b += (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
    clear(sums);
#pragma unroll STEPS
    for (int d = 0; d < D; d += 16) {
        uint32_t left[TILES][4], right[4];
#pragma unroll
        for (int t = 0; t < TILES; t++) mf_load_matrices(left[t], a + t * 16 * pitch + d);
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n += 2) {
            mf_load_matrices(right, b + n * 8 * pitch + d);
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                mf_mma(sums.at[t][n], left[t], right[0], right[1]);
                mf_mma(sums.at[t][n + 1], left[t], right[2], right[3]);
            }
        }
    }
}

/* Sums rounded to bf16, as the left side of a product. */
template <int TILES, int COLUMNS> struct warp_weights { uint32_t at[TILES][COLUMNS / 16][4]; };

template <int TILES, int COLUMNS>
static __device__ __forceinline__ void narrow(warp_weights<TILES, COLUMNS> &weights,
                                              const warp_sums<TILES, COLUMNS> &sums) {
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int k = 0; k < COLUMNS / 16; k++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *pair = &sums.at[t][2 * k + i / 2][i % 2 * 2];
                weights.at[t][k][i] = packed(pair[0], pair[1]);
            }
}

/* sums: [16 TILES, COLUMNS] += weights: [16 TILES, ROWS] · b: [ROWS, COLUMNS of D]. */
template <int D, int TILES, int ROWS, int COLUMNS>
static __device__ __forceinline__ void multiply_weights(warp_sums<TILES, COLUMNS> &sums,
                                                        const warp_weights<TILES, ROWS> &weights,
                                                        const mf_bf16 *b) {
    constexpr int pitch = D + TILE_PAD;
    int lane = lane_of();
    b += (lane / 8 % 2 * 8 + lane % 8) * pitch + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) {
        uint32_t right[4];
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n += 2) {
            mf_load_matrices_transposed(right, b + k * 16 * pitch + n * 8);
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                mf_mma(sums.at[t][n], weights.at[t][k], right[0], right[1]);
                mf_mma(sums.at[t][n + 1], weights.at[t][k], right[2], right[3]);
            }
        }
    }
}

/* Calls each(column, first, second) for the pairs of columns that this thread has of a row of 16 t + 8 half +
 * lane_row(). */
template <int TILES, int COLUMNS, typename Each>
static __device__ __forceinline__ void each_pair(const warp_sums<TILES, COLUMNS> &sums, int t, int half,
                                                 Each each) {
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++)
        each(n * 8 + lane_column(), sums.at[t][n][half * 2], sums.at[t][n][half * 2 + 1]);
}

/* out: [columns] += a row's pairs times scale, of columns first .. head_dim - 1. */
template <int TILES, int COLUMNS>
static __device__ __forceinline__ void add_row(float *out, const warp_sums<TILES, COLUMNS> &sums, int t,
                                               int half, int columns, float scale, bool wide) {
    each_pair(sums, t, half, [&](int column, float first, float second) {
        if (column >= columns) return;
        if (wide) {
            float2 *pair = (float2 *)(out + column);
            float2 old = *pair;
            *pair = make_float2(old.x + first * scale, old.y + second * scale);
            return;
        }
        out[column] += first * scale;
        if (column + 1 < columns) out[column + 1] += second * scale;
    });
}

#endif
