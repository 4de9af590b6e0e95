/* stream_ring.c: shards travel round the ring, one hop a turn, from rank + 1 to rank - 1.
 *
 * Forward, a rank begins with its own shard. Backward, it ends with its own, so that the gradient of a shard,
 * which starts at the rank below its owner and collects a share at every hop, arrives at its owner just when
 * that adds the last share: weights and gradients both make size - 1 hops.
 *
 * Where memory is borrowed nothing travels: shards are read where they lie, and each rank adds its share
 * straight to the owner's gradient. The rank above has added to the same shard one turn before; its count of
 * turns says when. */
#include "schedule/kinds.h"

static int shard_of(const mf_stream *s, int turn) {
    int first = s->pass == MF_PASS_FORWARD ? 0 : 1;
    return (mf_stream_rank(s) + first + turn) % mf_stream_size(s);
}

static bool is_own(const mf_stream *s, int turn) { return shard_of(s, turn) == mf_stream_rank(s); }

static bool travels(const mf_stream *s) { return !s->borrows && s->pass != MF_PASS_GRADS; }

static mf_status hop(mf_stream *s, const void *weights, int from_shard, int to_turn) {
    int slot = to_turn % 2;
    return mf_shift(s->store->comm, weights, mf_shard_bytes(s, from_shard), s->weights[slot].data,
                    mf_shard_bytes(s, shard_of(s, to_turn)), &s->weights_in[slot]);
}

static mf_status begin(mf_stream *s) {
    if (!travels(s) || is_own(s, 0)) return MF_OK;
    return hop(s, mf_own_weights(s), mf_stream_rank(s), 0);
}

static mf_status turn_weights(mf_stream *s, const void **weights) {
    int shard = shard_of(s, s->turn);
    if (s->pass == MF_PASS_GRADS) return MF_OK;
    if (s->borrows) {
        *weights = mf_peer_weights(s, shard);
        if (!is_own(s, s->turn))
            mf_count_borrowed(s->store->comm, MF_OP_SHIFT, (int64_t)mf_shard_bytes(s, shard));
        return MF_OK;
    }
    MF_TRY(mf_finish(s->store->comm, &s->weights_in[s->turn % 2]));
    *weights = is_own(s, s->turn) ? mf_own_weights(s) : s->weights[s->turn % 2].data;
    if (s->turn + 1 == s->turns || is_own(s, s->turn + 1)) return MF_OK;
    return hop(s, *weights, shard, s->turn + 1);
}

static mf_status borrow_grads(mf_stream *s, float **out) {
    int shard = shard_of(s, s->turn), above = (mf_stream_rank(s) + 1) % mf_stream_size(s);
    MF_TRY(mf_await(s->store->comm, above, MF_SIGNAL_RING, mf_signalled(s->store->comm, MF_SIGNAL_RING)));
    if (!is_own(s, s->turn))
        mf_count_borrowed(s->store->comm, MF_OP_SHIFT, s->part->elements[shard] * (int64_t)sizeof(float));
    *out = mf_peer_grads(s, shard);
    return MF_OK;
}

static mf_status grads(mf_stream *s, float **out) {
    if (s->borrows) return borrow_grads(s, out);
    int slot = s->turn % 2, shard = shard_of(s, s->turn);
    float *arriving = s->grads[slot].data;
    int64_t n = s->part->elements[shard];
    *out = arriving;
    if (s->turn == 0) return mf_zero(s->store->device, arriving, (size_t)n * sizeof(float));
    MF_TRY(mf_finish(s->store->comm, &s->grads_out[slot]));
    if (!is_own(s, s->turn)) return MF_OK;
    *out = mf_own_grads(s);
    return mf_accumulate(s->store->device, 1, n, arriving, n, *out, n);
}

static mf_status end_turn(mf_stream *s) {
    if (s->pass == MF_PASS_FORWARD) return MF_OK;
    if (s->borrows) return mf_signal_next(s->store->comm, MF_SIGNAL_RING);
    if (is_own(s, s->turn)) return MF_OK;
    int slot = s->turn % 2, next = (s->turn + 1) % 2;
    size_t bytes = (size_t)s->part->elements[shard_of(s, s->turn)] * sizeof(float);
    size_t next_bytes = (size_t)s->part->elements[shard_of(s, s->turn + 1)] * sizeof(float);
    return mf_shift(s->store->comm, s->grads[slot].data, bytes, s->grads[next].data, next_bytes,
                    &s->grads_out[next]);
}

const mf_stream_kind mf_stream_ring = {
    .name = "ring",
    .staggers = true,
    .sends_weights = true,
    .sends_grads = true,
    .shard = shard_of,
    .begin = begin,
    .turn = turn_weights,
    .grads = grads,
    .end_turn = end_turn,
};
