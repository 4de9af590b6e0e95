/* cache.h: the inside of a cache of keys and values. */
#ifndef MF_MODEL_CACHE_H
#define MF_MODEL_CACHE_H

#include "model/model.h"

/* One sequence. */
typedef struct mf_cached {
    int64_t most, tokens;    /* it may have; it has */
    int64_t room;            /* rows of each rank */
    int64_t first_row, rows; /* here: where its rows begin in each layer, and how many there are */
    int64_t *held;           /* [ranks of the sequence] rows of each */
    int32_t *position;       /* [room] of own rows, rising */
} mf_cached;

/* Where the vocabulary's share of a rank begins, and its size. */
typedef struct mf_vocabulary_share {
    int64_t first, count;
} mf_vocabulary_share;

struct mf_cache {
    mf_model *model;
    int sequences;
    mf_cached *sequence;    /* [sequences] */
    int64_t rows, kv_width; /* of a layer, all sequences; own key heads * head_dim */
    mf_buffer keys, values; /* [layers][rows][kv_width] compute type */
    int64_t chunk;          /* tokens read at once, at most */
    mf_cached *at;          /* the sequence that is read */
    mf_query_chunk *query;  /* [ranks * MF_RUNS] */
    mf_key_chunk *key;      /* [key_room] */
    int64_t key_room;
    size_t *offsets;            /* [ranks of the sequence + 1] scratch */
    mf_vocabulary_share *share; /* [ranks of tensor and stream] of the head */
    size_t *share_offsets;      /* [the same + 1] scratch */
    double read_bytes;
};

/* Attention of some queries over the own rows of one sequence. */
typedef struct mf_cache_query {
    int64_t layer, first, heads; /* query heads */
    int64_t tokens;
    const void *q; /* [tokens, ...] compute type at distance q_ld, at head `first` */
    int64_t q_ld;
    int chunks; /* cache->query[chunks] */
    float *out; /* [tokens][heads * head_dim + heads] f32: results, then log-sums */
} mf_cache_query;
/* The queries see all rows but those that the layer's window has passed. */
mf_status mf_cache_meet(mf_cache *cache, const mf_cached *sequence, const mf_cache_query *query);

static inline void *mf_cache_row(const mf_cache *c, const mf_buffer *of, int64_t layer, int64_t row) {
    return mf_at(c->model, of->data, (layer * c->rows + row) * c->kv_width);
}

#endif
