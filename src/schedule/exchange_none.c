/* exchange_none.c: the whole sequence is on this rank. */
#include "schedule/kinds.h"

static mf_status nothing(mf_exchange *x) {
    (void)x;
    return MF_OK;
}

static mf_status acquire(mf_exchange *x) {
    x->chunk[0] = (mf_key_chunk){.rows = x->rows,
                                 .k = mf_exchange_keys(x, x->first_head),
                                 .v = mf_exchange_values(x, x->first_head),
                                 .ld = x->width,
                                 .batch_ld = x->rows * x->width};
    x->chunk_begin[0] = 0;
    x->chunk_begin[1] = x->chunks = 1;
    return MF_OK;
}

static mf_status grads(mf_exchange *x, int step, int owner) {
    (void)step, (void)owner;
    x->chunk[0].dk = mf_exchange_dkeys(x, x->first_head);
    x->chunk[0].dv = mf_exchange_dvalues(x, x->first_head);
    x->chunk[0].grad_ld = x->width;
    x->chunk[0].grad_batch_ld = x->rows * x->width;
    return MF_OK;
}

static mf_status end_grads(mf_exchange *x, int step, int owner) {
    (void)x, (void)step, (void)owner;
    return MF_OK;
}

const mf_exchange_kind mf_exchange_none = {
    .name = "none",
    .open = nothing,
    .acquire = acquire,
    .release = nothing,
    .begin_grads = nothing,
    .grads = grads,
    .end_grads = end_grads,
};
