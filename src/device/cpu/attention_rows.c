/* attention_rows.c: loops over one row, which the compiler turns into vector code; alone in a file because
 * gcc 12 leaves those with a reduction scalar where it inlines them into large functions. */
#include "device/cpu/attention_rows.h"

#include "meshfold/base.h"

#include <math.h>

static inline float madd(float a, float b, float c) {
#ifdef FP_FAST_FMAF
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* 2^t to a relative 1e-7; 0 below 2^-127, infinity from 2^128, NaN of NaN. Free of branches, so that loops
 * over it become vector code: t splits into an integer, which becomes the exponent, and a rest in [-1/2,
 * 1/2]. */
static inline float exp2_of(float t) {
    t = t < -127.0f ? -127.0f : t;
    t = t > 128.0f ? 128.0f : t;
    union {
        float f;
        uint32_t u;
    } whole = {t + 12582912.0f}, power; /* 1.5 * 2^23: the sum's low bits are t rounded */
    float r = t - (whole.f - 12582912.0f);
    float y = madd(1.54614449e-4f, r, 1.3400428e-3f);
    y = madd(y, r, 9.61805694e-3f);
    y = madd(y, r, 5.55032715e-2f);
    y = madd(y, r, 2.40226507e-1f);
    y = madd(y, r, 6.93147182e-1f);
    y = madd(y, r, 1.0f);
    power.u = (whole.u + 127u) << 23;
    return y * power.f;
}

float mf_cpu_row_exp2(float t) { return exp2_of(t); }

float mf_cpu_row_largest(const float *restrict x, int64_t n, float factor) {
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) top = x[i] * factor > top ? x[i] * factor : top;
    return top;
}

float mf_cpu_row_exponentials(float *restrict x, int64_t n, float factor, float top) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        x[i] = exp2_of(madd(x[i], factor, -top));
        sum += x[i];
    }
    return sum;
}

void mf_cpu_row_gradients(float *restrict s, float *restrict dp, const float *restrict lse,
                          const float *restrict delta, int64_t n, float factor, float scale) {
    for (int64_t i = 0; i < n; i++) {
        float p = exp2_of(madd(s[i], factor, -lse[i]));
        s[i] = p;
        dp[i] = p * (dp[i] - delta[i]) * scale;
    }
}

void mf_cpu_row_scale(float *restrict x, int64_t n, float factor) {
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

void mf_cpu_row_add(float *restrict out, const float *restrict in, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] += in[i];
}

void mf_cpu_row_mix_f32(float *restrict out, float keep, const float *restrict in, float add, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = out[i] * keep + in[i] * add;
}

void mf_cpu_row_mix_bf16(float *restrict out, float keep, const uint16_t *restrict in, float add, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = out[i] * keep + mf_f32_from_bf16(in[i]) * add;
}

void mf_cpu_row_narrow(uint16_t *restrict out, const float *restrict in, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = mf_bf16_from_f32(in[i]);
}

void mf_cpu_row_widen(float *restrict out, const uint16_t *restrict in, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = mf_f32_from_bf16(in[i]);
}

float mf_cpu_row_dot_f32(const float *restrict a, const float *restrict b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

float mf_cpu_row_dot_bf16(const uint16_t *restrict a, const uint16_t *restrict b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += mf_f32_from_bf16(a[i]) * mf_f32_from_bf16(b[i]);
    return sum;
}
