/* sum.c: the addition inside reduce, all-reduce and reduce-scatter, the same for all engines so that they
 * give the same bits. */
#include "comm/ops.h"

#include <string.h>

enum { BF16_BYTES = 2, F32_BYTES = 4 };

static void widen_bf16(float *total, const uint16_t *term, int64_t n) {
    for (int64_t i = 0; i < n; i++) total[i] = mf_f32_from_bf16(term[i]);
}

static void round_bf16(uint16_t *to, const float *total, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = mf_bf16_from_f32(total[i]);
}

static void add_bf16(float *total, const uint16_t *term, int64_t n) {
    for (int64_t i = 0; i < n; i++) total[i] += mf_f32_from_bf16(term[i]);
}

static void add_f32(float *total, const float *term, int64_t n) {
    for (int64_t i = 0; i < n; i++) total[i] += term[i];
}

static void add_f64(double *total, const double *term, int64_t n) {
    for (int64_t i = 0; i < n; i++) total[i] += term[i];
}

static size_t block_bytes(const mf_sum *sum) { return (size_t)sum->n * (size_t)sum->element_bytes; }

void mf_sum_begin(mf_sum *sum, int element_bytes, const void *term, int64_t n) {
    sum->n = n;
    sum->element_bytes = element_bytes;
    if (element_bytes == BF16_BYTES)
        widen_bf16(sum->total.f32, term, n);
    else
        memcpy(&sum->total, term, block_bytes(sum));
}

void mf_sum_add(mf_sum *sum, const void *term) {
    if (sum->element_bytes == BF16_BYTES)
        add_bf16(sum->total.f32, term, sum->n);
    else if (sum->element_bytes == F32_BYTES)
        add_f32(sum->total.f32, term, sum->n);
    else
        add_f64(sum->total.f64, term, sum->n);
}

void mf_sum_store(const mf_sum *sum, void *to) {
    if (sum->element_bytes == BF16_BYTES)
        round_bf16(to, sum->total.f32, sum->n);
    else
        memcpy(to, &sum->total, block_bytes(sum));
}
