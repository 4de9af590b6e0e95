/* exchange.c: where own keys and values lie, and the walk over head groups; the kinds say how others' are
 * seen. */
#include "schedule/kinds.h"

mf_status mf_exchange_create(const mf_exchange_kind *kind, mf_comm *comm, mf_device *device,
                             const mf_exchange_sizes *sizes, mf_exchange *out) {
    mf_status status = MF_OK;
    mf_memory *memory = mf_device_memory(device);
    size_t ranks = (size_t)mf_comm_size(comm);
    *out = (mf_exchange){.kind = kind, .comm = comm, .device = device, .sizes = *sizes};
    out->borrows = mf_comm_borrows(comm);
    out->rows = mf_cut_rows(sizes->tokens, mf_comm_size(comm), mf_comm_rank(comm));
    out->width = sizes->kv_heads * sizes->head_dim;
    size_t one = (size_t)(sizes->batch * out->rows * out->width);
    size_t kept = one * (size_t)sizes->slots * mf_dtype_bytes(sizes->type);
    MF_GO(mf_host_alloc(ranks * MF_RUNS, sizeof *out->chunk, &out->chunk));
    MF_GO(mf_host_alloc(ranks + 1, sizeof *out->chunk_begin, &out->chunk_begin));
    MF_GO(mf_shared_alloc(comm, memory, MF_ACTIVATIONS, kept, "keys", &out->keys));
    MF_GO(mf_shared_alloc(comm, memory, MF_ACTIVATIONS, kept, "values", &out->values));
    if (!sizes->grads) return MF_OK;
    MF_GO(mf_shared_alloc(comm, memory, MF_ACTIVATIONS, one * sizeof(float), "key gradients", &out->dkeys));
    MF_GO(
        mf_shared_alloc(comm, memory, MF_ACTIVATIONS, one * sizeof(float), "value gradients", &out->dvalues));
    return MF_OK;
fail:
    mf_exchange_destroy(out);
    return status;
}

void mf_exchange_destroy(mf_exchange *x) {
    if (!x->comm) return;
    mf_memory *memory = mf_device_memory(x->device);
    mf_abandon(x->comm, &x->travel);
    mf_buffer_free(memory, &x->gathered);
    mf_buffer_free(memory, &x->travelling[0]);
    mf_buffer_free(memory, &x->travelling[1]);
    mf_shared_free(x->comm, memory, &x->keys);
    mf_shared_free(x->comm, memory, &x->values);
    mf_shared_free(x->comm, memory, &x->dkeys);
    mf_shared_free(x->comm, memory, &x->dvalues);
    mf_host_free(x->chunk);
    mf_host_free(x->chunk_begin);
    *x = (mf_exchange){0};
}

static void *at_head(const mf_exchange *x, const mf_shared *kept, int64_t head) {
    int64_t element = x->slot * x->sizes.batch * x->rows * x->width + head * x->sizes.head_dim;
    return mf_within(kept->own, element, x->sizes.type);
}

void *mf_exchange_keys(const mf_exchange *x, int64_t head) { return at_head(x, &x->keys, head); }
void *mf_exchange_values(const mf_exchange *x, int64_t head) { return at_head(x, &x->values, head); }

float *mf_exchange_dkeys(const mf_exchange *x, int64_t head) {
    return mf_within(x->dkeys.own, head * x->sizes.head_dim, MF_F32);
}

float *mf_exchange_dvalues(const mf_exchange *x, int64_t head) {
    return mf_within(x->dvalues.own, head * x->sizes.head_dim, MF_F32);
}

mf_status mf_exchange_open(mf_exchange *x, int slot) {
    x->slot = slot;
    return x->kind->open(x);
}

mf_status mf_exchange_acquire(mf_exchange *x, int64_t first, int64_t heads) {
    x->first_head = first;
    x->heads = heads;
    x->chunks = 0;
    return x->kind->acquire(x);
}

mf_status mf_exchange_release(mf_exchange *x) { return x->kind->release(x); }

mf_status mf_exchange_begin_grads(mf_exchange *x, int slot) {
    size_t bytes = (size_t)(x->sizes.batch * x->rows * x->width) * sizeof(float);
    x->slot = slot;
    MF_TRY(mf_zero(x->device, x->dkeys.own, bytes));
    MF_TRY(mf_zero(x->device, x->dvalues.own, bytes));
    return x->kind->begin_grads(x);
}

/* Own keys last: a sum that travels then ends at home. */
static int owner_of(const mf_exchange *x, int step) {
    return (mf_comm_rank(x->comm) + 1 + step) % mf_comm_size(x->comm);
}

mf_status mf_exchange_grads(mf_exchange *x, int step, const mf_key_chunk **chunk, int *chunks) {
    int owner = owner_of(x, step);
    *chunk = x->chunk + x->chunk_begin[owner];
    *chunks = x->chunk_begin[owner + 1] - x->chunk_begin[owner];
    return x->kind->grads(x, step, owner);
}

mf_status mf_exchange_end_grads(mf_exchange *x, int step) {
    return x->kind->end_grads(x, step, owner_of(x, step));
}
