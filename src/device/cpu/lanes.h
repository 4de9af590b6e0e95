/* lanes.h: runs of 16 values that the compiler keeps in vector registers, whatever their width; for loops
 * over short rows, whose sums gcc 12 would otherwise add lane by lane through memory. */
#ifndef MF_CPU_LANES_H
#define MF_CPU_LANES_H

#include "meshfold/base.h"

#include <string.h>

enum { MF_LANES = 16 };
typedef float mf_lanes __attribute__((vector_size(4 * MF_LANES)));

static inline mf_lanes mf_lanes_f32(const float *from) {
    mf_lanes v;
    memcpy(&v, from, sizeof v);
    return v;
}

/* Two runs of bf16 at once, those at even places and those at odd ones: a shift and a mask, where one run
 * after the other would need the values spread out. What meets them is in the same order: see mf_lanes_pair.
 */
typedef struct mf_lanes_pair_of {
    mf_lanes even, odd;
} mf_lanes_pair_of;
static inline mf_lanes_pair_of mf_lanes_bf16(const uint16_t *from) {
    typedef uint32_t words __attribute__((vector_size(4 * MF_LANES)));
    words v;
    memcpy(&v, from, sizeof v);
    return (mf_lanes_pair_of){(mf_lanes)(v << 16), (mf_lanes)(v & 0xffff0000u)}; /* little-endian */
}

static inline void mf_lanes_store(float *to, mf_lanes v) { memcpy(to, &v, sizeof v); }

/* Each one's lanes added up: halves are folded onto each other until each of the four has a lane. */
static inline void mf_lanes_sums(mf_lanes a, mf_lanes b, mf_lanes c, mf_lanes d, float out[4]) {
    mf_lanes ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                  __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    mf_lanes cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                  __builtin_shufflevector(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    mf_lanes all =
        __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
        __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    all += __builtin_shufflevector(all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    all += __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    all = __builtin_shufflevector(all, all, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
    memcpy(out, &all, 4 * sizeof *out);
}

/* Products of rows of x, at distance x_ld, with four rows of w: out: [count] rows of four, at distance
 * out_ld. count is a constant, 4 at most: then all sums stay in registers. */
static inline __attribute__((always_inline)) void mf_lanes_dots(const int count, const float *x, int64_t x_ld,
                                                                const float *w, int64_t w_ld, int64_t k,
                                                                float *out, int64_t out_ld) {
    mf_lanes sum[4][4] = {{{0}}};
    int64_t whole = k / MF_LANES * MF_LANES;
    for (int64_t i = 0; i < whole; i += MF_LANES) {
        mf_lanes row[4];
        for (int r = 0; r < 4; r++) row[r] = mf_lanes_f32(w + r * w_ld + i);
        for (int c = 0; c < count; c++) {
            mf_lanes of = mf_lanes_f32(x + c * x_ld + i);
            for (int r = 0; r < 4; r++) sum[c][r] += of * row[r];
        }
    }
#pragma GCC unroll 4
    for (int c = 0; c < count; c++)
        mf_lanes_sums(sum[c][0], sum[c][1], sum[c][2], sum[c][3], out + c * out_ld);
    for (int64_t i = whole; i < k; i++)
        for (int c = 0; c < count; c++)
            for (int r = 0; r < 4; r++) out[c * out_ld + r] += x[c * x_ld + i] * w[r * w_ld + i];
}

/* Rows of o: [count, k] at distance o_ld += so many rows of v, each by its weights: [count, rows] at distance
 * weight_ld. count is a constant, 4 at most. */
static inline __attribute__((always_inline)) void mf_lanes_add(const int count, float *o, int64_t o_ld,
                                                               const float *v, int64_t v_ld, int64_t rows,
                                                               int64_t k, const float *weight,
                                                               int64_t weight_ld) {
    int64_t whole = k / (2 * MF_LANES) * (2 * MF_LANES);
    for (int64_t i = 0; i < whole; i += 2 * MF_LANES) {
        mf_lanes sum[4][2];
        for (int c = 0; c < count; c++)
            for (int half = 0; half < 2; half++)
                sum[c][half] = mf_lanes_f32(o + c * o_ld + i + half * MF_LANES);
        for (int64_t r = 0; r < rows; r++) {
            mf_lanes low = mf_lanes_f32(v + r * v_ld + i), high = mf_lanes_f32(v + r * v_ld + i + MF_LANES);
            for (int c = 0; c < count; c++) {
                sum[c][0] += weight[c * weight_ld + r] * low;
                sum[c][1] += weight[c * weight_ld + r] * high;
            }
        }
        for (int c = 0; c < count; c++)
            for (int half = 0; half < 2; half++)
                mf_lanes_store(o + c * o_ld + i + half * MF_LANES, sum[c][half]);
    }
    for (int c = 0; c < count; c++)
        for (int64_t i = whole; i < k; i++)
            for (int64_t r = 0; r < rows; r++) o[c * o_ld + i] += weight[c * weight_ld + r] * v[r * v_ld + i];
}

/* x: [k], of each whole 2 * MF_LANES first those at even places, then those at odd ones. */
static inline void mf_lanes_pair(float *x, int64_t k) {
    for (float part[2 * MF_LANES]; k >= 2 * MF_LANES; k -= 2 * MF_LANES, x += 2 * MF_LANES) {
        for (int i = 0; i < 2 * MF_LANES; i++) part[i % 2 * MF_LANES + i / 2] = x[i];
        memcpy(x, part, sizeof part);
    }
}

/* Products of x, paired, with four rows at distance ld. */
static inline void mf_lanes_dots_bf16(const float *x, const uint16_t *w, int64_t ld, int64_t k,
                                      float out[4]) {
    mf_lanes sum[4] = {{0}};
    int64_t i = 0;
    for (; i + 2 * MF_LANES <= k; i += 2 * MF_LANES) {
        mf_lanes even = mf_lanes_f32(x + i), odd = mf_lanes_f32(x + i + MF_LANES);
        for (int r = 0; r < 4; r++) {
            mf_lanes_pair_of of = mf_lanes_bf16(w + r * ld + i);
            sum[r] += even * of.even + odd * of.odd;
        }
    }
    mf_lanes_sums(sum[0], sum[1], sum[2], sum[3], out);
    for (; i < k; i++)
        for (int r = 0; r < 4; r++) out[r] += x[i] * mf_f32_from_bf16(w[r * ld + i]);
}

#endif
