/* kinds.h: the tables that a stream and an exchange fill in. */
#ifndef MF_SCHEDULE_KINDS_H
#define MF_SCHEDULE_KINDS_H

#include "meshfold/schedule.h"

/* Each member has the contract of the public function of its name. */
struct mf_stream_kind {
    const char *name;
    bool resident, gathers, staggers;
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
    bool all_heads;                               /* a call must have all heads */
    mf_status (*check)(int ranks, int64_t heads); /* optional */
    mf_status (*create)(mf_exchange *exchange);   /* optional: what it keeps beside own keys */
    void (*destroy)(mf_exchange *exchange);       /* optional */
    mf_status (*open)(mf_exchange *exchange);     /* optional */
    /* args: own queries, their heads and results; keys are the kind's to find. */
    mf_status (*forward)(mf_exchange *exchange, mf_attention_args *args);
    mf_status (*begin_grads)(mf_exchange *exchange); /* optional */
    mf_status (*backward)(mf_exchange *exchange, mf_attention_args *args);
};

struct mf_reduction_kind {
    const char *name;
    bool scatters;
    mf_status (*sum)(mf_reduction *reduction, void *values, mf_dtype type);
};

/* Signals of an axis, so that no two uses share one. */
enum {
    MF_SIGNAL_RING,
    MF_SIGNAL_KEYS_READY,
    MF_SIGNAL_KEYS_READ,
    MF_SIGNAL_KEY_GRADS,
    MF_SIGNAL_CUT_READY,
    MF_SIGNAL_CUT_READ
};

static inline mf_status mf_signal_next(mf_comm *comm, int slot) {
    return mf_signal(comm, slot, mf_signalled(comm, slot) + 1);
}

/* stream_gather.c */
mf_status mf_gather_ahead(mf_store *store, const mf_part *part);
/* Waits for the gradients that have left, and adds what came to own ones. */
mf_status mf_gather_settle(mf_store *store);
/* Gives up what is under way and frees it. */
void mf_whole_part_drop(mf_store *store, mf_whole_part *whole);
/* store.c: begins the sum over replicas, once a part's own gradient is whole. */
mf_status mf_store_sum(mf_store *store, const mf_part *part);

/* exchange_keys.c: keys where ranks can read each other's, and gradients that go home; for the kinds whose
 * keys come to the queries. */
/* Narrows args to the key heads first_kv .. + kv, and the query heads among args's that read them. */
mf_attention_args mf_keys_narrow(const mf_exchange *x, const mf_attention_args *args, int64_t first_kv,
                                 int64_t kv);
/* The key heads that args's queries read. */
void mf_keys_range(const mf_exchange *x, const mf_attention_args *args, int64_t *first, int64_t *count);
/* Elements of one rank's keys of the heads at work. */
int64_t mf_keys_elements(const mf_exchange *x, int rank);
int64_t mf_keys_most(const mf_exchange *x);
int64_t mf_keys_rows(const mf_exchange *x, int rank);
/* Lists a rank's keys, and its values behind them, packed: [batch * rows, kv * head_dim] each. */
void mf_keys_list_packed(mf_exchange *x, int rank, const void *packed);
/* Lists a rank's keys where they lie. */
void mf_keys_list_borrowed(mf_exchange *x, int rank);
void mf_keys_count_borrowed(mf_exchange *x, int rank, mf_comm_op op);
/* Own keys and values of the heads at work: [2][batch * rows][kv * head_dim]. */
mf_status mf_keys_pack(mf_exchange *x, void *out);
mf_status mf_keys_open(mf_exchange *x);
/* Borrowed: own keys are written; peers' may be read once they are awaited; they have been read. */
mf_status mf_keys_publish(mf_exchange *x);
mf_status mf_keys_await(mf_exchange *x, int rank);
mf_status mf_keys_release(mf_exchange *x);
/* The owner at a step of backward: the rank's own keys come last, since a sum that travels then ends at home.
 */
int mf_keys_owner(const mf_exchange *x, int step);
mf_status mf_keys_begin_grads(mf_exchange *x);
/* Says where the gradients of the owner's listed keys are added. */
mf_status mf_keys_grads(mf_exchange *x, int step);
mf_status mf_keys_end_grads(mf_exchange *x, int step);
/* The chunks of one rank, as args's keys. */
void mf_keys_use(const mf_exchange *x, int rank, mf_attention_args *args);

/* Row sums of own a * da for args's heads, in x->delta; sets args->delta. */
mf_status mf_exchange_delta(mf_exchange *x, mf_attention_args *args);

static inline int mf_stream_rank(const mf_stream *s) { return mf_comm_rank(s->store->comm); }
static inline int mf_stream_size(const mf_stream *s) { return mf_comm_size(s->store->comm); }
static inline size_t mf_shard_bytes(const mf_stream *s, int shard) {
    return (size_t)s->part->elements[shard] * mf_dtype_bytes(s->store->type);
}
/* The place `elements` into memory that is NULL where a rank holds nothing. */
static inline void *mf_within(void *base, int64_t elements, mf_dtype type) {
    return base ? (char *)base + elements * (int64_t)mf_dtype_bytes(type) : NULL;
}
static inline const void *mf_within_const(const void *base, int64_t elements, mf_dtype type) {
    return base ? (const char *)base + elements * (int64_t)mf_dtype_bytes(type) : NULL;
}
static inline const void *mf_own_weights(const mf_stream *s) {
    return mf_within(s->store->weights.own, s->part->offset[mf_stream_rank(s)], s->store->type);
}
static inline float *mf_own_grads(const mf_stream *s) {
    return mf_within(s->store->grads.own, s->part->offset[mf_stream_rank(s)], MF_F32);
}
static inline const void *mf_peer_weights(const mf_stream *s, int shard) {
    return mf_within(s->store->weights.peer[shard], s->part->offset[shard], s->store->type);
}
static inline float *mf_peer_grads(const mf_stream *s, int shard) {
    return mf_within(s->store->grads.peer[shard], s->part->offset[shard], MF_F32);
}

#endif
