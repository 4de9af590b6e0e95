/* exchange_none.c: the whole sequence is on this rank; by itself, or because the cut is switched between
 * blocks. */
#include "schedule/kinds.h"

static void own_keys(mf_exchange *x, mf_attention_args *args) {
    int64_t batch_ld = x->rows * mf_max(x->sizes.interleave, 1) * x->kv_width;
    x->chunk[0] = (mf_key_chunk){.rows = x->rows,
                                 .k = mf_exchange_keys(x, args->first_kv_head),
                                 .v = mf_exchange_values(x, args->first_kv_head),
                                 .ld = x->kv_width,
                                 .batch_ld = batch_ld,
                                 .dk = mf_exchange_dkeys(x, args->first_kv_head),
                                 .dv = mf_exchange_dvalues(x, args->first_kv_head),
                                 .grad_ld = x->kv_width,
                                 .grad_batch_ld = batch_ld};
    args->keys = x->chunk;
    args->key_chunks = 1;
}

static mf_status forward(mf_exchange *x, mf_attention_args *args) {
    own_keys(x, args);
    return mf_attention_forward(x->device, args);
}

static mf_status backward(mf_exchange *x, mf_attention_args *args) {
    own_keys(x, args);
    MF_TRY(mf_exchange_delta(x, args));
    return mf_attention_backward(x->device, args);
}

const mf_exchange_kind mf_exchange_none = {.name = "none", .forward = forward, .backward = backward};
const mf_exchange_kind mf_exchange_switch = {.name = "switch", .forward = forward, .backward = backward};
