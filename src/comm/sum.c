/* sum.c: the addition inside reduce and all-reduce, the same for all engines so that they give the same bits.
 */
#include "comm/ops.h"

static void add_f32(float *total, const float *term, int64_t n) {
    for (int64_t i = 0; i < n; i++) total[i] += term[i];
}

static void add_f64(double *total, const double *term, int64_t n) {
    for (int64_t i = 0; i < n; i++) total[i] += term[i];
}

void mf_sum_add(void *total, const void *term, int64_t n, int element_bytes) {
    if (element_bytes == 4)
        add_f32(total, term, n);
    else
        add_f64(total, term, n);
}
