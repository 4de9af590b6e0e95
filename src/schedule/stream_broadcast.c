/* stream_broadcast.c: owner after owner broadcasts its packed shard; in backward the owners come in reverse,
 * and the ranks' shares of a shard's gradient are summed to its owner while the next shard is at work. */
#include "schedule/kinds.h"

static int shard_of(const mf_stream *s, int turn) {
    return s->pass == MF_PASS_FORWARD ? turn : mf_stream_size(s) - 1 - turn;
}

static mf_status send_for(mf_stream *s, int turn) {
    if (s->borrows || turn >= s->turns || s->pass == MF_PASS_GRADS) return MF_OK;
    int shard = shard_of(s, turn);
    union {
        const void *in;
        void *out;
    } own = {mf_own_weights(s)}; /* the root's buffer is only read */
    void *buffer = shard == mf_stream_rank(s) ? own.out : s->weights[turn % 2].data;
    return mf_broadcast(s->store->comm, buffer, mf_shard_bytes(s, shard), shard, &s->weights_in[turn % 2]);
}

static mf_status begin(mf_stream *s) { return send_for(s, 0); }

static mf_status turn_weights(mf_stream *s, const void **weights) {
    int shard = shard_of(s, s->turn);
    if (s->pass == MF_PASS_GRADS) return MF_OK;
    if (s->borrows) {
        *weights = mf_peer_weights(s, shard);
        if (shard != mf_stream_rank(s))
            mf_count_borrowed(s->store->comm, MF_OP_BROADCAST, (int64_t)mf_shard_bytes(s, shard));
        return MF_OK;
    }
    MF_TRY(mf_finish(s->store->comm, &s->weights_in[s->turn % 2]));
    MF_TRY(send_for(s, s->turn + 1));
    *weights = shard == mf_stream_rank(s) ? mf_own_weights(s) : s->weights[s->turn % 2].data;
    return MF_OK;
}

/* Waits for the reduction that the slot is in, and adds its sum to the owner's gradient. */
static mf_status settle(mf_stream *s, int slot) {
    if (s->grads_out[slot].ticket == 0) return MF_OK;
    MF_TRY(mf_finish(s->store->comm, &s->grads_out[slot]));
    int shard = s->grads_shard[slot];
    if (shard != mf_stream_rank(s)) return MF_OK;
    int64_t n = s->part->elements[shard];
    return mf_accumulate(s->store->device, 1, n, s->grads[slot].data, n, mf_own_grads(s), n);
}

static mf_status grads(mf_stream *s, float **out) {
    int slot = s->turn % 2;
    MF_TRY(settle(s, slot));
    MF_TRY(mf_zero(s->store->device, s->grads[slot].data,
                   (size_t)s->part->elements[shard_of(s, s->turn)] * sizeof(float)));
    *out = s->grads[slot].data;
    return MF_OK;
}

static mf_status end_turn(mf_stream *s) {
    if (s->pass == MF_PASS_FORWARD) return MF_OK;
    int slot = s->turn % 2, shard = shard_of(s, s->turn);
    s->grads_shard[slot] = shard;
    return mf_reduce(s->store->comm, s->grads[slot].data, s->part->elements[shard], shard,
                     &s->grads_out[slot]);
}

static mf_status finish(mf_stream *s) {
    MF_TRY(settle(s, s->turns % 2)); /* the older first */
    return settle(s, (s->turns + 1) % 2);
}

const mf_stream_kind mf_stream_broadcast = {
    .name = "broadcast",
    .sends_weights = true,
    .reduces_grads = true,
    .shard = shard_of,
    .begin = begin,
    .turn = turn_weights,
    .grads = grads,
    .end_turn = end_turn,
    .finish = finish,
};
