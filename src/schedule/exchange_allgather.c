/* exchange_allgather.c: keys and values of some heads from all ranks: read in place where memory is borrowed,
 * else packed and all-gathered, a bucket of heads at a time. */
#include "schedule/kinds.h"

static mf_status gather(mf_exchange *x, const size_t *offsets) {
    mf_status status = MF_OK;
    mf_memory *memory = mf_device_memory(x->device);
    int ranks = mf_comm_size(x->comm), own = mf_comm_rank(x->comm);
    mf_buffer packed = {0};
    MF_GO(mf_buffer_alloc(memory, MF_EXCHANGE, offsets[ranks], "keys of all ranks", &x->others[0]));
    MF_GO(mf_buffer_alloc(memory, MF_EXCHANGE, offsets[own + 1] - offsets[own], "packed keys", &packed));
    MF_GO(mf_keys_pack(x, packed.data));
    MF_GO(mf_allgather(x->comm, packed.data, x->others[0].data, offsets, NULL));
fail:
    mf_buffer_free(memory, &packed);
    return status;
}

static mf_status acquire_sent(mf_exchange *x) {
    mf_status status = MF_OK;
    int ranks = mf_comm_size(x->comm);
    size_t *offsets = NULL, size = mf_dtype_bytes(x->sizes.type);
    MF_TRY(mf_host_alloc((size_t)ranks + 1, sizeof *offsets, &offsets));
    for (int rank = 0; rank < ranks; rank++)
        offsets[rank + 1] = offsets[rank] + 2 * (size_t)mf_keys_elements(x, rank) * size;
    MF_GO(gather(x, offsets));
    for (int rank = 0; rank < ranks; rank++)
        mf_keys_list_packed(
            x, rank, mf_within_const(x->others[0].data, (int64_t)(offsets[rank] / size), x->sizes.type));
fail:
    mf_host_free(offsets);
    return status;
}

static mf_status acquire_borrowed(mf_exchange *x) {
    MF_TRY(mf_keys_publish(x));
    for (int rank = 0; rank < mf_comm_size(x->comm); rank++) {
        MF_TRY(mf_keys_await(x, rank));
        mf_keys_list_borrowed(x, rank);
        mf_keys_count_borrowed(x, rank, MF_OP_ALLGATHER);
    }
    return MF_OK;
}

static mf_status acquire(mf_exchange *x, const mf_attention_args *args) {
    x->first_kv = args->first_kv_head;
    x->kv = args->kv_heads;
    x->chunks = x->chunk_begin[0] = 0;
    return x->borrows ? acquire_borrowed(x) : acquire_sent(x);
}

static mf_status release(mf_exchange *x) {
    mf_buffer_free(mf_device_memory(x->device), &x->others[0]);
    return mf_keys_release(x);
}

static mf_status forward_bucket(mf_exchange *x, mf_attention_args *args) {
    MF_TRY(acquire(x, args));
    args->keys = x->chunk;
    args->key_chunks = x->chunks;
    MF_TRY(mf_attention_forward(x->device, args));
    return release(x);
}

static mf_status backward_bucket(mf_exchange *x, mf_attention_args *args) {
    MF_TRY(mf_exchange_delta(x, args));
    MF_TRY(acquire(x, args));
    for (int step = 0; step < mf_comm_size(x->comm); step++) {
        MF_TRY(mf_keys_grads(x, step));
        mf_keys_use(x, mf_keys_owner(x, step), args);
        MF_TRY(mf_attention_backward(x->device, args));
        MF_TRY(mf_keys_end_grads(x, step));
    }
    return release(x);
}

static mf_status each_bucket(mf_exchange *x, const mf_attention_args *args,
                             mf_status (*work)(mf_exchange *, mf_attention_args *)) {
    int64_t bucket = x->sizes.bucket ? x->sizes.bucket : args->kv_heads;
    for (int64_t done = 0; done < args->kv_heads; done += bucket) {
        mf_attention_args some =
            mf_keys_narrow(x, args, args->first_kv_head + done, mf_min(bucket, args->kv_heads - done));
        MF_TRY(work(x, &some));
    }
    return MF_OK;
}

static mf_status forward(mf_exchange *x, mf_attention_args *args) {
    return each_bucket(x, args, forward_bucket);
}

static mf_status backward(mf_exchange *x, mf_attention_args *args) {
    return each_bucket(x, args, backward_bucket);
}

const mf_exchange_kind mf_exchange_allgather = {
    .name = "allgather",
    .open = mf_keys_open,
    .forward = forward,
    .begin_grads = mf_keys_begin_grads,
    .backward = backward,
};
