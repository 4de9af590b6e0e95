/* reduce_scatter.c: between blocks every rank holds its share of the rows; they are all-gathered on the way
 * in and the partial sums reduce-scattered on the way out (Megatron's sequence parallelism, arXiv
 * 2205.05198). Backward gathers twice, gradient and input, since the weights' gradient needs all rows of
 * both. */
#include "schedule/kinds.h"

static mf_status sum(mf_reduction *r, void *values, mf_dtype type) {
    return mf_reduce_scatter(r->comm, values, r->offsets, type, NULL);
}

const mf_reduction_kind mf_reduction_scatter = {.name = "scatter", .scatters = true, .sum = sum};
