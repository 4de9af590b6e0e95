/* exchange_keys.c: keys that come to the queries: where they lie, and how their gradients go home.
 *
 * Borrowed: keys are read where they lie, once their owner has signalled that they are written; a rank writes
 * over its own only when all have signalled that they are read. Key gradients are added straight to their
 * owner's, each rank to another owner's at a time; the count of steps of the rank above says when it has left
 * that owner.
 *
 * Sent: key gradients travel round the ring, each rank adding its share, and arrive at home for the last. */
#include "schedule/kinds.h"

typedef struct place { /* where one rank's keys or their gradients lie: elements */
    int64_t first, ld, batch_ld;
} place;

static int ranks_of(const mf_exchange *x) { return mf_comm_size(x->comm); }

static int64_t group_width(const mf_exchange *x) { return x->kv * x->sizes.head_dim; }

int64_t mf_keys_rows(const mf_exchange *x, int rank) {
    return mf_cut_rows(x->sizes.tokens, ranks_of(x), rank);
}

int64_t mf_keys_elements(const mf_exchange *x, int rank) {
    return x->sizes.batch * mf_keys_rows(x, rank) * group_width(x);
}

int64_t mf_keys_most(const mf_exchange *x) {
    int64_t most = 0;
    for (int rank = 0; rank < ranks_of(x); rank++) most = mf_max(most, mf_keys_elements(x, rank));
    return most;
}

void mf_keys_range(const mf_exchange *x, const mf_attention_args *args, int64_t *first, int64_t *count) {
    int64_t group = x->sizes.group;
    *first = args->first_head / group;
    *count = args->heads ? mf_ceil_div(args->first_head + args->heads, group) - *first : 0;
}

mf_attention_args mf_keys_narrow(const mf_exchange *x, const mf_attention_args *args, int64_t first_kv,
                                 int64_t kv) {
    mf_attention_args out = *args;
    int64_t group = x->sizes.group, end = mf_min(args->first_head + args->heads, (first_kv + kv) * group);
    out.first_kv_head = first_kv;
    out.kv_heads = kv;
    out.first_head = mf_max(args->first_head, first_kv * group);
    out.heads = end - out.first_head;
    int64_t skipped = out.first_head - args->first_head, elements = skipped * x->sizes.head_dim;
    out.q = mf_within_const(args->q, elements, args->type);
    out.o = mf_within(args->o, elements, args->type);
    out.lse = args->lse ? args->lse + skipped : NULL;
    out.d_o = mf_within_const(args->d_o, elements, args->type);
    out.dq = args->dq ? args->dq + elements : NULL;
    return out;
}

static void list_rank(mf_exchange *x, int rank, const void *keys, const void *values, place at) {
    mf_run runs[MF_RUNS];
    int n = mf_cut_runs(x->sizes.tokens, ranks_of(x), rank, runs);
    for (int i = 0; i < n; i++) {
        int64_t first = at.first + runs[i].first_row * at.ld;
        x->chunk[x->chunks++] = (mf_key_chunk){.rows = runs[i].rows,
                                               .position = runs[i].position,
                                               .k = mf_within_const(keys, first, x->sizes.type),
                                               .v = mf_within_const(values, first, x->sizes.type),
                                               .ld = at.ld,
                                               .batch_ld = at.batch_ld};
    }
    x->chunk_begin[rank + 1] = x->chunks;
}

void mf_keys_list_packed(mf_exchange *x, int rank, const void *packed) {
    int64_t width = group_width(x);
    place at = {.ld = width, .batch_ld = mf_keys_rows(x, rank) * width};
    list_rank(x, rank, packed, mf_within_const(packed, mf_keys_elements(x, rank), x->sizes.type), at);
}

/* The first element of the heads at work, of own or a peer's keys. */
static int64_t first_element(const mf_exchange *x) {
    return (x->first_kv - x->sizes.first_kv_head) * x->sizes.head_dim;
}

void mf_keys_list_borrowed(mf_exchange *x, int rank) {
    int64_t layer = x->sizes.batch * mf_keys_rows(x, rank) * x->kv_width;
    place at = {.first = (x->slots > 1 ? x->slot : 0) * layer + first_element(x),
                .ld = x->kv_width,
                .batch_ld = mf_keys_rows(x, rank) * x->kv_width};
    list_rank(x, rank, x->keys.peer[rank], x->values.peer[rank], at);
}

void mf_keys_count_borrowed(mf_exchange *x, int rank, mf_comm_op op) {
    if (rank == mf_comm_rank(x->comm)) return;
    mf_count_borrowed(x->comm, op, 2 * mf_keys_elements(x, rank) * (int64_t)mf_dtype_bytes(x->sizes.type));
}

mf_status mf_keys_pack(mf_exchange *x, void *out) {
    size_t size = mf_dtype_bytes(x->sizes.type), row = (size_t)group_width(x) * size;
    int64_t rows = x->sizes.batch * x->rows;
    MF_TRY(mf_copy_rows(x->device, rows, row, out, row, mf_exchange_keys(x, x->first_kv),
                        (size_t)x->kv_width * size));
    return mf_copy_rows(x->device, rows, row, mf_within(out, rows * group_width(x), x->sizes.type), row,
                        mf_exchange_values(x, x->first_kv), (size_t)x->kv_width * size);
}

void mf_keys_use(const mf_exchange *x, int rank, mf_attention_args *args) {
    args->keys = x->chunk + x->chunk_begin[rank];
    args->key_chunks = x->chunk_begin[rank + 1] - x->chunk_begin[rank];
}

static mf_status await_all(mf_exchange *x, int signal) {
    for (int rank = 0; rank < ranks_of(x); rank++)
        if (rank != mf_comm_rank(x->comm)) MF_TRY(mf_await(x->comm, rank, signal, x->published));
    return MF_OK;
}

mf_status mf_keys_open(mf_exchange *x) { return x->borrows ? await_all(x, MF_SIGNAL_KEYS_READ) : MF_OK; }

mf_status mf_keys_publish(mf_exchange *x) {
    if (!x->borrows) return MF_OK;
    x->published = mf_signalled(x->comm, MF_SIGNAL_KEYS_READY) + 1;
    return mf_signal(x->comm, MF_SIGNAL_KEYS_READY, x->published);
}

mf_status mf_keys_await(mf_exchange *x, int rank) {
    if (!x->borrows || rank == mf_comm_rank(x->comm)) return MF_OK;
    return mf_await(x->comm, rank, MF_SIGNAL_KEYS_READY, x->published);
}

mf_status mf_keys_release(mf_exchange *x) {
    return x->borrows ? mf_signal(x->comm, MF_SIGNAL_KEYS_READ, x->published) : MF_OK;
}

int mf_keys_owner(const mf_exchange *x, int step) { return (mf_comm_rank(x->comm) + 1 + step) % ranks_of(x); }

mf_status mf_keys_begin_grads(mf_exchange *x) {
    return x->borrows ? mf_signal_next(x->comm, MF_SIGNAL_KEY_GRADS) : MF_OK;
}

static void aim(mf_exchange *x, int owner, float *dk, float *dv, place at) {
    mf_run runs[MF_RUNS];
    int n = mf_cut_runs(x->sizes.tokens, ranks_of(x), owner, runs);
    for (int i = 0; i < n; i++) {
        mf_key_chunk *chunk = &x->chunk[x->chunk_begin[owner] + i];
        int64_t first = at.first + runs[i].first_row * at.ld;
        chunk->dk = dk ? dk + first : NULL;
        chunk->dv = dv ? dv + first : NULL;
        chunk->grad_ld = at.ld;
        chunk->grad_batch_ld = at.batch_ld;
    }
}

static void aim_at_owner(mf_exchange *x, int owner, float *dk, float *dv) {
    place at = {
        .first = first_element(x), .ld = x->kv_width, .batch_ld = mf_keys_rows(x, owner) * x->kv_width};
    aim(x, owner, dk, dv, at);
}

static mf_status grads_borrowed(mf_exchange *x, int owner) {
    int above = (mf_comm_rank(x->comm) + 1) % ranks_of(x);
    MF_TRY(mf_await(x->comm, above, MF_SIGNAL_KEY_GRADS, mf_signalled(x->comm, MF_SIGNAL_KEY_GRADS)));
    aim_at_owner(x, owner, x->dkeys.peer[owner], x->dvalues.peer[owner]);
    if (owner != mf_comm_rank(x->comm))
        mf_count_borrowed(x->comm, MF_OP_SHIFT, 2 * mf_keys_elements(x, owner) * (int64_t)sizeof(float));
    return MF_OK;
}

/* Adds what has arrived at home to own gradients. */
static mf_status take_home(mf_exchange *x, const float *arrived) {
    int64_t rows = x->sizes.batch * x->rows, width = group_width(x);
    MF_TRY(mf_accumulate(x->device, rows, width, arrived, width, mf_exchange_dkeys(x, x->first_kv),
                         x->kv_width));
    return mf_accumulate(x->device, rows, width, arrived ? arrived + rows * width : NULL, width,
                         mf_exchange_dvalues(x, x->first_kv), x->kv_width);
}

static mf_status begin_travel(mf_exchange *x, int owner) {
    mf_memory *memory = mf_device_memory(x->device);
    size_t bytes = 2 * (size_t)mf_keys_most(x) * sizeof(float);
    for (int i = 0; i < 2; i++)
        MF_TRY(mf_buffer_alloc(memory, MF_EXCHANGE, bytes, "key gradients in flight", &x->travelling[i]));
    return mf_zero(x->device, x->travelling[0].data, 2 * (size_t)mf_keys_elements(x, owner) * sizeof(float));
}

static mf_status grads_sent(mf_exchange *x, int step, int owner) {
    if (step == 0) MF_TRY(begin_travel(x, owner));
    MF_TRY(mf_finish(x->comm, &x->grads_travel));
    float *arrived = x->travelling[step % 2].data;
    if (owner == mf_comm_rank(x->comm)) {
        MF_TRY(take_home(x, arrived));
        aim_at_owner(x, owner, x->dkeys.own, x->dvalues.own);
        return MF_OK;
    }
    int64_t width = group_width(x);
    place at = {.ld = width, .batch_ld = mf_keys_rows(x, owner) * width};
    aim(x, owner, arrived, arrived ? arrived + mf_keys_elements(x, owner) : NULL, at);
    return MF_OK;
}

mf_status mf_keys_grads(mf_exchange *x, int step) {
    int owner = mf_keys_owner(x, step);
    return x->borrows ? grads_borrowed(x, owner) : grads_sent(x, step, owner);
}

mf_status mf_keys_end_grads(mf_exchange *x, int step) {
    int owner = mf_keys_owner(x, step), next = mf_keys_owner(x, step + 1);
    if (x->borrows) return mf_signal_next(x->comm, MF_SIGNAL_KEY_GRADS);
    if (owner != mf_comm_rank(x->comm))
        return mf_shift(x->comm, x->travelling[step % 2].data,
                        2 * (size_t)mf_keys_elements(x, owner) * sizeof(float),
                        x->travelling[(step + 1) % 2].data,
                        2 * (size_t)mf_keys_elements(x, next) * sizeof(float), &x->grads_travel);
    mf_buffer_free(mf_device_memory(x->device), &x->travelling[0]);
    mf_buffer_free(mf_device_memory(x->device), &x->travelling[1]);
    return MF_OK;
}
