/* exchange_allgather.c: keys and values of a head group from all ranks.
 *
 * Borrowed: they are read where they lie, once every rank has signalled that its own are written; a rank
 * writes over them only when all have signalled that they are read. Key gradients are added straight to their
 * owner's, each rank to another owner's at a time; the count of steps of the rank above says when it has left
 * that owner.
 *
 * Sent: own ones are packed and all-gathered. Key gradients travel round the ring, each rank adding its
 * share, and arrive at home for the last. */
#include "schedule/kinds.h"

typedef struct place { /* where one rank's keys or their gradients lie: elements */
    int64_t first, ld, batch_ld;
} place;

static int64_t rows_of(const mf_exchange *x, int rank) {
    return mf_cut_rows(x->sizes.tokens, mf_comm_size(x->comm), rank);
}

static int64_t group_width(const mf_exchange *x) { return x->heads * x->sizes.head_dim; }

/* Elements of one rank's keys of the group. */
static int64_t group_elements(const mf_exchange *x, int rank) {
    return x->sizes.batch * rows_of(x, rank) * group_width(x);
}

static const void *element(const void *base, int64_t index, mf_dtype type) {
    return base ? (const char *)base + index * (int64_t)mf_dtype_bytes(type) : NULL;
}

static void list_rank(mf_exchange *x, int rank, const void *keys, const void *values, place at) {
    mf_run runs[MF_RUNS];
    int n = mf_cut_runs(x->sizes.tokens, mf_comm_size(x->comm), rank, runs);
    for (int i = 0; i < n; i++) {
        int64_t first = at.first + runs[i].first_row * at.ld;
        x->chunk[x->chunks++] = (mf_key_chunk){.rows = runs[i].rows,
                                               .position = runs[i].position,
                                               .k = element(keys, first, x->sizes.type),
                                               .v = element(values, first, x->sizes.type),
                                               .ld = at.ld,
                                               .batch_ld = at.batch_ld};
    }
    x->chunk_begin[rank + 1] = x->chunks;
}

static void list_borrowed(mf_exchange *x) {
    for (int rank = 0; rank < mf_comm_size(x->comm); rank++) {
        int64_t rows = rows_of(x, rank);
        place at = {.first = x->slot * x->sizes.batch * rows * x->width + x->first_head * x->sizes.head_dim,
                    .ld = x->width,
                    .batch_ld = rows * x->width};
        list_rank(x, rank, x->keys.peer[rank], x->values.peer[rank], at);
    }
}

static mf_status await_all(mf_exchange *x, int signal) {
    for (int rank = 0; rank < mf_comm_size(x->comm); rank++)
        if (rank != mf_comm_rank(x->comm)) MF_TRY(mf_await(x->comm, rank, signal, x->published));
    return MF_OK;
}

static void count_borrowed_keys(mf_exchange *x) {
    int64_t elements = 0;
    for (int rank = 0; rank < mf_comm_size(x->comm); rank++)
        if (rank != mf_comm_rank(x->comm)) elements += 2 * group_elements(x, rank);
    mf_count_borrowed(x->comm, MF_OP_ALLGATHER, elements * (int64_t)mf_dtype_bytes(x->sizes.type));
}

static mf_status acquire_borrowed(mf_exchange *x) {
    MF_TRY(mf_signal(x->comm, MF_SIGNAL_KEYS_READY, ++x->published));
    MF_TRY(await_all(x, MF_SIGNAL_KEYS_READY));
    list_borrowed(x);
    count_borrowed_keys(x);
    return MF_OK;
}

static mf_status gather(mf_exchange *x, size_t *offsets) {
    mf_status status = MF_OK;
    mf_memory *memory = mf_device_memory(x->device);
    size_t size = mf_dtype_bytes(x->sizes.type), row = (size_t)group_width(x) * size;
    int64_t rows = x->sizes.batch * x->rows;
    mf_buffer packed = {0};
    MF_GO(mf_buffer_alloc(memory, MF_EXCHANGE, offsets[mf_comm_size(x->comm)], "keys of all ranks",
                          &x->gathered));
    MF_GO(mf_buffer_alloc(memory, MF_EXCHANGE, 2 * (size_t)rows * row, "packed keys", &packed));
    char *to = packed.data;
    MF_GO(mf_copy_rows(x->device, rows, row, to, row, mf_exchange_keys(x, x->first_head),
                       (size_t)x->width * size));
    if (to) to += (size_t)rows * row;
    MF_GO(mf_copy_rows(x->device, rows, row, to, row, mf_exchange_values(x, x->first_head),
                       (size_t)x->width * size));
    MF_GO(mf_allgather(x->comm, packed.data, x->gathered.data, offsets, NULL));
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
        offsets[rank + 1] = offsets[rank] + 2 * (size_t)group_elements(x, rank) * size;
    MF_GO(gather(x, offsets));
    for (int rank = 0; rank < ranks; rank++) {
        int64_t first = (int64_t)(offsets[rank] / size), width = group_width(x);
        place at = {.first = first, .ld = width, .batch_ld = rows_of(x, rank) * width};
        const void *values = element(x->gathered.data, group_elements(x, rank), x->sizes.type);
        list_rank(x, rank, x->gathered.data, values, at);
    }
fail:
    mf_host_free(offsets);
    return status;
}

static mf_status open_slot(mf_exchange *x) { return x->borrows ? await_all(x, MF_SIGNAL_KEYS_READ) : MF_OK; }

static mf_status acquire(mf_exchange *x) {
    x->chunk_begin[0] = 0;
    return x->borrows ? acquire_borrowed(x) : acquire_sent(x);
}

static mf_status release(mf_exchange *x) {
    if (x->borrows) return mf_signal(x->comm, MF_SIGNAL_KEYS_READ, x->published);
    mf_buffer_free(mf_device_memory(x->device), &x->gathered);
    return MF_OK;
}

static mf_status begin_grads(mf_exchange *x) {
    return x->borrows ? mf_signal(x->comm, MF_SIGNAL_KEY_GRADS, ++x->grad_step) : MF_OK;
}

static void aim(mf_exchange *x, int owner, float *dk, float *dv, place at) {
    mf_run runs[MF_RUNS];
    int n = mf_cut_runs(x->sizes.tokens, mf_comm_size(x->comm), owner, runs);
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
        .first = x->first_head * x->sizes.head_dim, .ld = x->width, .batch_ld = rows_of(x, owner) * x->width};
    aim(x, owner, dk, dv, at);
}

static mf_status grads_borrowed(mf_exchange *x, int owner) {
    int above = (mf_comm_rank(x->comm) + 1) % mf_comm_size(x->comm);
    MF_TRY(mf_await(x->comm, above, MF_SIGNAL_KEY_GRADS, x->grad_step));
    aim_at_owner(x, owner, x->dkeys.peer[owner], x->dvalues.peer[owner]);
    if (owner != mf_comm_rank(x->comm))
        mf_count_borrowed(x->comm, MF_OP_SHIFT, 2 * group_elements(x, owner) * (int64_t)sizeof(float));
    return MF_OK;
}

/* Adds what has arrived at home to own gradients. */
static mf_status take_home(mf_exchange *x, const float *arrived, float *dk, float *dv) {
    int64_t rows = x->sizes.batch * x->rows, width = group_width(x);
    MF_TRY(mf_accumulate(x->device, rows, width, arrived, width, dk, x->width));
    return mf_accumulate(x->device, rows, width, arrived ? arrived + rows * width : NULL, width, dv,
                         x->width);
}

static mf_status grads_sent(mf_exchange *x, int step, int owner) {
    mf_memory *memory = mf_device_memory(x->device);
    int64_t most = group_elements(x, 0), width = group_width(x), elements = group_elements(x, owner);
    for (int rank = 1; rank < mf_comm_size(x->comm); rank++) most = mf_max(most, group_elements(x, rank));
    if (step == 0) {
        for (int i = 0; i < 2; i++)
            MF_TRY(mf_buffer_alloc(memory, MF_EXCHANGE, 2 * (size_t)most * sizeof(float),
                                   "key gradients in flight", &x->travelling[i]));
        if (mf_comm_size(x->comm) > 1)
            MF_TRY(mf_zero(x->device, x->travelling[0].data, 2 * (size_t)elements * 4));
    }
    MF_TRY(mf_finish(x->comm, &x->travel));
    float *arrived = x->travelling[step % 2].data;
    if (owner == mf_comm_rank(x->comm)) {
        float *dk = mf_exchange_dkeys(x, x->first_head), *dv = mf_exchange_dvalues(x, x->first_head);
        if (step > 0) MF_TRY(take_home(x, arrived, dk, dv));
        aim_at_owner(x, owner, x->dkeys.own, x->dvalues.own);
        return MF_OK;
    }
    place at = {.ld = width, .batch_ld = rows_of(x, owner) * width};
    aim(x, owner, arrived, arrived ? arrived + elements : NULL, at);
    return MF_OK;
}

static mf_status grads(mf_exchange *x, int step, int owner) {
    return x->borrows ? grads_borrowed(x, owner) : grads_sent(x, step, owner);
}

static mf_status end_grads(mf_exchange *x, int step, int owner) {
    if (x->borrows) return mf_signal(x->comm, MF_SIGNAL_KEY_GRADS, ++x->grad_step);
    int size = mf_comm_size(x->comm), next = (owner + 1) % size;
    if (owner != mf_comm_rank(x->comm))
        return mf_shift(x->comm, x->travelling[step % 2].data,
                        2 * (size_t)group_elements(x, owner) * sizeof(float),
                        x->travelling[(step + 1) % 2].data,
                        2 * (size_t)group_elements(x, next) * sizeof(float), &x->travel);
    mf_buffer_free(mf_device_memory(x->device), &x->travelling[0]);
    mf_buffer_free(mf_device_memory(x->device), &x->travelling[1]);
    return MF_OK;
}

const mf_exchange_kind mf_exchange_allgather = {
    .name = "allgather",
    .open = open_slot,
    .acquire = acquire,
    .release = release,
    .begin_grads = begin_grads,
    .grads = grads,
    .end_grads = end_grads,
};
