/* kinds.h: the tables that a stream and an exchange fill in. */
#ifndef MF_SCHEDULE_KINDS_H
#define MF_SCHEDULE_KINDS_H

#include "meshfold/schedule.h"

/* Each member has the contract of the public function of its name. */
struct mf_stream_kind {
    const char *name;
    bool one_shard;                                  /* resident: one turn, whatever the axis */
    bool sends_weights, sends_grads;                 /* needs slots for them where memory is not borrowed */
    bool reduces_grads;                              /* needs slots for gradients where it is, too */
    int (*shard)(const mf_stream *stream, int turn); /* which shard a turn has */
    mf_status (*begin)(mf_stream *stream); /* optional: what can be sent for before the first turn */
    mf_status (*turn)(mf_stream *stream, const void **weights);
    mf_status (*grads)(mf_stream *stream, float **out);
    mf_status (*end_turn)(mf_stream *stream);
    mf_status (*finish)(mf_stream *stream); /* optional: waits for what the last turns sent */
};

struct mf_exchange_kind {
    const char *name;
    mf_status (*open)(mf_exchange *exchange);
    mf_status (*acquire)(mf_exchange *exchange);
    mf_status (*release)(mf_exchange *exchange);
    mf_status (*begin_grads)(mf_exchange *exchange);
    mf_status (*grads)(mf_exchange *exchange, int step, int owner);
    mf_status (*end_grads)(mf_exchange *exchange, int step, int owner);
};

/* Signals of an axis, so that no two uses share one. */
enum { MF_SIGNAL_RING, MF_SIGNAL_KEYS_READY, MF_SIGNAL_KEYS_READ, MF_SIGNAL_KEY_GRADS };

static inline int mf_stream_rank(const mf_stream *s) { return mf_comm_rank(s->store->comm); }
static inline int mf_stream_size(const mf_stream *s) { return mf_comm_size(s->store->comm); }
static inline size_t mf_shard_bytes(const mf_stream *s, int shard) {
    return (size_t)s->part->elements[shard] * mf_dtype_bytes(s->store->type);
}
/* The place `elements` into memory that is NULL where a rank holds nothing. */
static inline void *mf_within(void *base, int64_t elements, mf_dtype type) {
    return base ? (char *)base + elements * (int64_t)mf_dtype_bytes(type) : NULL;
}
static inline int64_t mf_own_offset(const mf_stream *s) {
    return s->part->offset[s->kind->one_shard ? 0 : mf_stream_rank(s)];
}
static inline const void *mf_own_weights(const mf_stream *s) {
    return mf_within(s->store->weights.own, mf_own_offset(s), s->store->type);
}
static inline float *mf_own_grads(const mf_stream *s) {
    return mf_within(s->store->grads.own, mf_own_offset(s), MF_F32);
}
static inline const void *mf_peer_weights(const mf_stream *s, int shard) {
    return mf_within(s->store->weights.peer[shard], s->part->offset[shard], s->store->type);
}
static inline float *mf_peer_grads(const mf_stream *s, int shard) {
    return mf_within(s->store->grads.peer[shard], s->part->offset[shard], MF_F32);
}

#endif
