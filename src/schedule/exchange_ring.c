/* exchange_ring.c: one rank's keys and values at a time (ring attention, arXiv 2310.01889): while a block is
 * at work the next one comes from the rank above. Forward begins with own keys, so that every query has a
 * result to merge with; backward ends with them, so that their gradients, which go round too, end at home.
 *
 * Where memory is borrowed nothing travels: each rank's keys are awaited and read when their turn comes. */
#include "schedule/kinds.h"

static int ranks_of(const mf_exchange *x) { return mf_comm_size(x->comm); }

static bool is_own(const mf_exchange *x, int owner) { return owner == mf_comm_rank(x->comm); }

static size_t block_bytes(const mf_exchange *x, int rank) {
    return 2 * (size_t)mf_keys_elements(x, rank) * mf_dtype_bytes(x->sizes.type);
}

/* Own keys stand packed in the other block until the first hop has taken them. */
static mf_status begin(mf_exchange *x, const mf_attention_args *args) {
    mf_memory *memory = mf_device_memory(x->device);
    x->first_kv = args->first_kv_head;
    x->kv = args->kv_heads;
    if (x->borrows) return mf_keys_publish(x);
    size_t bytes = 2 * (size_t)mf_keys_most(x) * mf_dtype_bytes(x->sizes.type);
    for (int i = 0; i < 2; i++)
        MF_TRY(mf_buffer_alloc(memory, MF_EXCHANGE, bytes, "keys of another rank", &x->others[i]));
    return mf_keys_pack(x, x->others[1].data);
}

static mf_status end(mf_exchange *x) {
    mf_buffer_free(mf_device_memory(x->device), &x->others[0]);
    mf_buffer_free(mf_device_memory(x->device), &x->others[1]);
    return mf_keys_release(x);
}

/* Sends for the keys of `to`, into block `slot`; the other block holds those of `from`, the rank below it. */
static mf_status hop(mf_exchange *x, int from, int to, int slot) {
    return mf_shift(x->comm, x->others[1 - slot].data, block_bytes(x, from), x->others[slot].data,
                    block_bytes(x, to), &x->keys_travel);
}

/* Lists the owner's keys: own ones where they lie. */
static void list(mf_exchange *x, int owner, const void *block) {
    x->chunks = x->chunk_begin[owner] = 0;
    if (x->borrows || is_own(x, owner))
        mf_keys_list_borrowed(x, owner);
    else
        mf_keys_list_packed(x, owner, block);
}

/* Waits for the owner's keys, which come to block `slot`, and sends for those of `next`, -1: for none. */
static mf_status take(mf_exchange *x, int owner, int next, int slot, mf_attention_args *args) {
    if (x->borrows) {
        MF_TRY(mf_keys_await(x, owner));
        mf_keys_count_borrowed(x, owner, MF_OP_SHIFT);
    } else {
        MF_TRY(mf_finish(x->comm, &x->keys_travel));
        if (next >= 0) MF_TRY(hop(x, owner, next, 1 - slot));
    }
    list(x, owner, x->others[slot].data);
    mf_keys_use(x, owner, args);
    return MF_OK;
}

static mf_status forward_steps(mf_exchange *x, mf_attention_args *args) {
    int ranks = ranks_of(x), own = mf_comm_rank(x->comm);
    MF_TRY(begin(x, args));
    for (int step = 0; step < ranks; step++) {
        int owner = (own + step) % ranks, next = step + 1 < ranks ? (owner + 1) % ranks : -1;
        MF_TRY(take(x, owner, next, (step + 1) % 2, args));
        args->merge = step > 0;
        MF_TRY(mf_attention_forward(x->device, args));
    }
    return end(x);
}

/* Results are merged in f32 and rounded once, as where all keys come at once. */
static mf_status forward(mf_exchange *x, mf_attention_args *args) {
    mf_status status = MF_OK;
    mf_memory *memory = mf_device_memory(x->device);
    int64_t rows = x->sizes.batch * x->rows, width = args->heads * x->sizes.head_dim;
    mf_buffer sum = {0};
    mf_attention_args steps = *args;
    if (args->type == MF_F32) return forward_steps(x, args);
    MF_GO(mf_buffer_alloc(memory, MF_WORKSPACE, (size_t)(rows * width) * sizeof(float),
                          "attention's merged heads", &sum));
    steps.o = sum.data;
    steps.o_ld = width;
    steps.o_f32 = true;
    MF_GO(forward_steps(x, &steps));
    MF_GO(mf_cast(x->device, &(mf_cast_args){.rows = rows,
                                             .width = width,
                                             .in = sum.data,
                                             .in_ld = width,
                                             .in_type = MF_F32,
                                             .out = args->o,
                                             .out_ld = args->o_ld,
                                             .out_type = args->type}));
fail:
    mf_buffer_free(memory, &sum);
    return status;
}

static mf_status backward(mf_exchange *x, mf_attention_args *args) {
    int ranks = ranks_of(x), own = mf_comm_rank(x->comm);
    MF_TRY(mf_exchange_delta(x, args));
    MF_TRY(begin(x, args));
    if (!x->borrows) MF_TRY(hop(x, own, mf_keys_owner(x, 0), 0));
    for (int step = 0; step < ranks; step++) {
        int owner = mf_keys_owner(x, step), after = mf_keys_owner(x, step + 1);
        bool last_hop = is_own(x, owner) || is_own(x, after);
        MF_TRY(take(x, owner, last_hop ? -1 : after, step % 2, args));
        MF_TRY(mf_keys_grads(x, step));
        MF_TRY(mf_attention_backward(x->device, args));
        MF_TRY(mf_keys_end_grads(x, step));
    }
    return end(x);
}

const mf_exchange_kind mf_exchange_ring = {
    .name = "ring",
    .open = mf_keys_open,
    .forward = forward,
    .begin_grads = mf_keys_begin_grads,
    .backward = backward,
};
