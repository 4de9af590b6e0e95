/* reduce_allreduce.c: every rank has all rows between blocks, and computes its part of every sum
 * (Megatron-LM, arXiv 1909.08053). Forward and backward are the same: values come as they are, partial sums
 * are all-reduced. */
#include "schedule/kinds.h"

static mf_status sum(mf_reduction *r, void *values, mf_dtype type) {
    return mf_allreduce(r->comm, values, r->rows * r->width, type, NULL);
}

const mf_reduction_kind mf_reduction_allreduce = {.name = "allreduce", .sum = sum};
