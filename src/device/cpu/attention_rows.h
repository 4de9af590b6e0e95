/* attention_rows.h: what attention does to rows of n contiguous values. Rows of one call do not overlap. */
#ifndef MF_CPU_ATTENTION_ROWS_H
#define MF_CPU_ATTENTION_ROWS_H

#include <stdint.h>

#define MF_CPU_LOG2E 1.44269504f

/* 2^t to a relative 1e-7; 0 below 2^-127, infinity from 2^128, NaN of NaN. */
float mf_cpu_row_exp2(float t);
/* The largest of x * factor; NaN is passed over, -infinity of none. */
float mf_cpu_row_largest(const float *x, int64_t n, float factor);
/* x becomes 2^(x * factor - top). Returns the sum. */
float mf_cpu_row_exponentials(float *x, int64_t n, float factor, float top);
/* s becomes p = 2^(s * factor - lse), dp becomes p * (dp - delta) * scale. */
void mf_cpu_row_gradients(float *s, float *dp, const float *lse, const float *delta, int64_t n, float factor,
                          float scale);
void mf_cpu_row_scale(float *x, int64_t n, float factor);
/* out += in */
void mf_cpu_row_add(float *out, const float *in, int64_t n);
/* out becomes out * keep + in * add. */
void mf_cpu_row_mix_f32(float *out, float keep, const float *in, float add, int64_t n);
void mf_cpu_row_mix_bf16(float *out, float keep, const uint16_t *in, float add, int64_t n);
/* f32 to bf16 and back. */
void mf_cpu_row_narrow(uint16_t *out, const float *in, int64_t n);
void mf_cpu_row_widen(float *out, const uint16_t *in, int64_t n);
float mf_cpu_row_dot_f32(const float *a, const float *b, int64_t n);
float mf_cpu_row_dot_bf16(const uint16_t *a, const uint16_t *b, int64_t n);

#endif
