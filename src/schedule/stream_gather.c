/* stream_gather.c: the whole part is all-gathered before it is used, and its gradient reduce-scattered after
 * (ZeRO-3, arXiv 1910.02054; FSDP, arXiv 2304.11277). Matrices are cut by rows, each gathered into its place,
 * so that they are whole without a copy.
 *
 * The next part's gather runs while this part is at work, and the gradients of the last one leave meanwhile.
 * Nothing is borrowed: a matrix in pieces that lie apart can't be used whole. */
#include "schedule/kinds.h"

static int ranks_of(const mf_store *store) { return mf_comm_size(store->comm); }

/* Where shard j's share of a matrix begins in the whole part; j = ranks: where the matrix ends. */
static int64_t share_begin(const mf_store *store, const mf_part *part, int piece, int j) {
    return part->piece[piece * (ranks_of(store) + 1) + j];
}

static int64_t share_elements(const mf_store *store, const mf_part *part, int piece, int j) {
    return share_begin(store, part, piece, j + 1) - share_begin(store, part, piece, j);
}

static int64_t whole_elements(const mf_store *store, const mf_part *part) {
    return share_begin(store, part, part->pieces - 1, ranks_of(store));
}

/* Where this rank's share of a matrix lies in its store. */
static int64_t own_offset(const mf_store *store, const mf_part *part, int piece) {
    int64_t at = part->offset[mf_comm_rank(store->comm)];
    for (int i = 0; i < piece; i++) at += share_elements(store, part, i, mf_comm_rank(store->comm));
    return at;
}

static mf_status gather_piece(mf_store *store, mf_whole_part *whole, int piece) {
    mf_status status = MF_OK;
    size_t *offsets = NULL, size = mf_dtype_bytes(store->type);
    MF_TRY(mf_host_alloc((size_t)ranks_of(store) + 1, sizeof *offsets, &offsets));
    for (int j = 0; j <= ranks_of(store); j++)
        offsets[j] = (size_t)share_begin(store, whole->part, piece, j) * size;
    const void *own = mf_within(store->weights.own, own_offset(store, whole->part, piece), store->type);
    MF_GO(mf_allgather(store->comm, own, whole->data.data, offsets, &whole->request[piece]));
fail:
    mf_host_free(offsets);
    return status;
}

static mf_status gather(mf_store *store, const mf_part *part, mf_whole_part *out) {
    size_t bytes = (size_t)whole_elements(store, part) * mf_dtype_bytes(store->type);
    out->part = part;
    MF_TRY(
        mf_buffer_alloc(mf_device_memory(store->device), MF_STREAM, bytes, "a gathered layer", &out->data));
    for (int i = 0; i < part->pieces; i++) MF_TRY(gather_piece(store, out, i));
    return MF_OK;
}

static mf_status arrive(mf_store *store, mf_whole_part *whole) {
    for (int i = 0; whole->part && i < whole->part->pieces; i++)
        MF_TRY(mf_finish(store->comm, &whole->request[i]));
    return MF_OK;
}

void mf_whole_part_drop(mf_store *store, mf_whole_part *whole) {
    for (int i = 0; i < MF_PIECES; i++) mf_abandon(store->comm, &whole->request[i]);
    mf_buffer_free(mf_device_memory(store->device), &whole->data);
    *whole = (mf_whole_part){0};
}

/* The part that is open now is not sent for again: its stream leaves it when it closes. */
mf_status mf_gather_ahead(mf_store *store, const mf_part *part) {
    if (store->ahead.part) return MF_OK;
    store->ahead.part = part;
    return store->open_part == part ? MF_OK : gather(store, part, &store->ahead);
}

static mf_status begin(mf_stream *s) {
    mf_store *store = s->store;
    store->open_part = s->part;
    if (s->pass == MF_PASS_GRADS) return MF_OK;
    if (store->ahead.part != s->part) return gather(store, s->part, &s->whole);
    s->whole = store->ahead;
    store->ahead = (mf_whole_part){0};
    return MF_OK;
}

static int shard_of(const mf_stream *s, int turn) {
    (void)s, (void)turn;
    return MF_SHARD_WHOLE;
}

static mf_status turn_weights(mf_stream *s, const void **weights) {
    MF_TRY(arrive(s->store, &s->whole));
    *weights = s->whole.data.data;
    return MF_OK;
}

static mf_status grads(mf_stream *s, float **out) {
    mf_memory *memory = mf_device_memory(s->store->device);
    size_t bytes = (size_t)whole_elements(s->store, s->part) * sizeof(float);
    MF_TRY(mf_buffer_alloc(memory, MF_STREAM, bytes, "a layer's gradient in flight", &s->grads[0]));
    *out = s->grads[0].data;
    return mf_zero(s->store->device, s->grads[0].data, bytes);
}

static mf_status scatter_piece(mf_store *store, mf_whole_part *whole, int piece) {
    return mf_reduce_scatter(store->comm, whole->data.data,
                             &whole->part->piece[piece * (ranks_of(store) + 1)], MF_F32,
                             &whole->request[piece]);
}

static mf_status end_turn(mf_stream *s) {
    mf_store *store = s->store;
    if (s->pass == MF_PASS_FORWARD) return MF_OK;
    MF_TRY(mf_gather_settle(store));
    store->leaving = (mf_whole_part){.part = s->part, .data = s->grads[0]};
    s->grads[0] = (mf_buffer){0};
    for (int i = 0; i < s->part->pieces; i++) MF_TRY(scatter_piece(store, &store->leaving, i));
    return MF_OK;
}

static mf_status take_home(mf_store *store, const mf_whole_part *whole, int piece) {
    int own = mf_comm_rank(store->comm);
    int64_t n = share_elements(store, whole->part, piece, own);
    const float *sum = mf_within(whole->data.data, share_begin(store, whole->part, piece, own), MF_F32);
    float *to = mf_within(store->grads.own, own_offset(store, whole->part, piece), MF_F32);
    return mf_accumulate(store->device, 1, n, sum, n, to, n);
}

mf_status mf_gather_settle(mf_store *store) {
    mf_whole_part *whole = &store->leaving;
    const mf_part *part = whole->part;
    bool complete = whole->complete;
    if (!part) return MF_OK;
    MF_TRY(arrive(store, whole));
    for (int i = 0; i < part->pieces; i++) MF_TRY(take_home(store, whole, i));
    mf_whole_part_drop(store, whole);
    return complete ? mf_store_sum(store, part) : MF_OK;
}

static mf_status finish(mf_stream *s) {
    mf_store *store = s->store;
    store->open_part = NULL;
    if (store->ahead.part != s->part || store->ahead.data.data) return MF_OK;
    store->ahead = s->whole;
    s->whole = (mf_whole_part){0};
    return MF_OK;
}

const mf_stream_kind mf_stream_gather = {
    .name = "gather",
    .gathers = true,
    .shard = shard_of,
    .begin = begin,
    .turn = turn_weights,
    .grads = grads,
    .end_turn = end_turn,
    .finish = finish,
};
