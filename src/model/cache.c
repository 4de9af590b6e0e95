/* cache.c: keys and values of the tokens that were read, each rank's share of them, and what the tokens of a
 * portion see of them. Within a portion attention is the layout's own; what came before is met by sending the
 * portion's queries round instead of all earlier keys:
 *
 *     all ranks' queries of the portion -> own cached rows -> results and log-sums -> home -> merged
 *
 * so that a rank never holds keys of more tokens than its own and the portion's. */
#include "model/cache.h"

#include <string.h>

static int ranks_of(const mf_cache *c) { return mf_comm_size(c->model->sequence); }

/* Rows that no rank has more of than this: of so many tokens that are read at once, and then go on one by
 * one. Whole portions are shared evenly. */
static int64_t room_of(const mf_cache *c, int64_t tokens) {
    int64_t ranks = ranks_of(c), rest = tokens % c->chunk;
    return tokens / c->chunk * (c->chunk / ranks) + mf_max(1, MF_RUNS * mf_ceil_div(rest, MF_RUNS * ranks));
}

static mf_status check(const mf_model *m, const int64_t *most, int sequences) {
    if (!m->options.cache || !m->options.forward_only || m->options.batch != 1)
        return MF_FAIL(MF_EINVAL, "a cache needs a forward model of batch 1 that was made for one");
    for (int i = 0; i < sequences; i++)
        if (most[i] < 1 || most[i] > INT32_MAX)
            return MF_FAIL(MF_EINVAL, "a cache for %lld tokens", (long long)most[i]);
    return MF_OK;
}

static mf_status open_sequences(mf_cache *c, const int64_t *most) {
    MF_TRY(mf_host_alloc((size_t)c->sequences, sizeof *c->sequence, &c->sequence));
    for (int i = 0; i < c->sequences; i++) {
        mf_cached *s = &c->sequence[i];
        int64_t room = room_of(c, most[i]);
        s->most = most[i];
        s->room = room;
        s->first_row = c->rows;
        c->rows += room;
        MF_TRY(mf_host_alloc((size_t)ranks_of(c), sizeof *s->held, &s->held));
        MF_TRY(mf_host_alloc((size_t)room, sizeof *s->position, &s->position));
    }
    return MF_OK;
}

/* Which rank has which ids of the head. */
static mf_status share_vocabulary(mf_cache *c) {
    const mf_model *m = c->model;
    int ranks = mf_comm_size(m->sharers);
    mf_slice own = mf_param_slice(m, mf_head_param(m), mf_comm_rank(m->stream));
    mf_vocabulary_share share = {own.first, own.count};
    MF_TRY(mf_host_alloc((size_t)ranks, sizeof *c->share, &c->share));
    MF_TRY(mf_host_alloc((size_t)ranks + 1, sizeof *c->share_offsets, &c->share_offsets));
    for (int r = 0; r <= ranks; r++) c->share_offsets[r] = (size_t)r * sizeof share;
    return mf_allgather(m->sharers, &share, c->share, c->share_offsets, NULL);
}

static mf_status build(mf_cache *c, const int64_t *most) {
    const mf_model *m = c->model;
    size_t ranks = (size_t)ranks_of(c);
    MF_TRY(open_sequences(c, most));
    MF_TRY(mf_host_alloc(ranks * MF_RUNS, sizeof *c->query, &c->query));
    MF_TRY(mf_host_alloc(ranks + 1, sizeof *c->offsets, &c->offsets));
    MF_TRY(share_vocabulary(c));
    size_t bytes = (size_t)(m->config.layers * c->rows * c->kv_width) * mf_dtype_bytes(m->options.type);
    MF_TRY(mf_buffer_alloc(m->memory, MF_ACTIVATIONS, bytes, "cached keys", &c->keys));
    return mf_buffer_alloc(m->memory, MF_ACTIVATIONS, bytes, "cached values", &c->values);
}

mf_status mf_cache_create(mf_model *m, const int64_t *most, int sequences, mf_cache **out) {
    mf_cache *c = NULL;
    *out = NULL;
    MF_TRY(check(m, most, sequences));
    MF_TRY(mf_host_alloc(1, sizeof *c, &c));
    *c = (mf_cache){.model = m,
                    .sequences = sequences,
                    .kv_width = m->side->exchange.kv_width,
                    .chunk = m->options.tokens};
    mf_status status = build(c, most);
    if (status) {
        mf_cache_destroy(c);
        return mf_error_pass(__FILE__, __LINE__, status);
    }
    *out = c;
    return MF_OK;
}

void mf_cache_destroy(mf_cache *c) {
    if (!c) return;
    for (int i = 0; c->sequence && i < c->sequences; i++) {
        mf_host_free(c->sequence[i].held);
        mf_host_free(c->sequence[i].position);
    }
    mf_buffer_free(c->model->memory, &c->keys);
    mf_buffer_free(c->model->memory, &c->values);
    mf_host_free(c->sequence);
    mf_host_free(c->query);
    mf_host_free(c->key);
    mf_host_free(c->offsets);
    mf_host_free(c->share);
    mf_host_free(c->share_offsets);
    mf_host_free(c);
}

int64_t mf_cache_tokens(const mf_cache *c, int sequence) { return c->sequence[sequence].tokens; }
int64_t mf_cache_bytes(const mf_cache *c) { return (int64_t)(c->keys.bytes + c->values.bytes); }
double mf_cache_read_bytes(const mf_cache *c) { return c->read_bytes; }

mf_status mf_cache_keep(mf_cache *c, int64_t layer) {
    const mf_model *m = c->model;
    const mf_exchange *x = &m->side->exchange;
    int64_t row = c->at->first_row + c->at->rows, first = x->sizes.first_kv_head;
    size_t bytes = (size_t)c->kv_width * mf_dtype_bytes(m->options.type);
    MF_TRY(mf_copy_rows(m->device, m->side->rows, bytes, mf_cache_row(c, &c->keys, layer, row), bytes,
                        mf_exchange_keys(x, first), bytes));
    return mf_copy_rows(m->device, m->side->rows, bytes, mf_cache_row(c, &c->values, layer, row), bytes,
                        mf_exchange_values(x, first), bytes);
}

/* What a portion's rank has of it, as queries behind what the sequence has: rows from `first_row` on. */
static int list_queries(mf_cache *c, int rank, int64_t first_row, int at) {
    mf_run runs[MF_RUNS];
    int n = mf_cut_runs(c->model->options.tokens, ranks_of(c), rank, runs);
    for (int i = 0; i < n; i++)
        c->query[at + i] = (mf_query_chunk){.rows = runs[i].rows,
                                            .position = c->at->tokens + runs[i].position,
                                            .first_row = first_row + runs[i].first_row};
    return n;
}

/* The first own row that a query at `position` sees. */
static int64_t first_seen(const mf_cached *s, int64_t position, int64_t window) {
    int64_t low = 0, high = s->rows;
    while (window && low < high) {
        int64_t middle = (low + high) / 2;
        if (s->position[middle] > position - window)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static mf_status add_keys(mf_cache *c, const mf_cached *s, int64_t layer, mf_key_chunk chunk, int64_t row,
                          int count) {
    if (count == c->key_room) {
        mf_key_chunk *more = NULL;
        MF_TRY(mf_host_alloc((size_t)(2 * c->key_room + 4), sizeof *more, &more));
        if (count) memcpy(more, c->key, (size_t)count * sizeof *more);
        mf_host_free(c->key);
        c->key = more;
        c->key_room = 2 * c->key_room + 4;
    }
    chunk.k = mf_cache_row(c, &c->keys, layer, s->first_row + row);
    chunk.v = mf_cache_row(c, &c->values, layer, s->first_row + row);
    chunk.ld = c->kv_width;
    c->key[count] = chunk;
    return MF_OK;
}

/* Own rows from the first that any query sees. Where none of them is hidden from a query that others see,
 * they are one run that ends where the first query is, whatever lies between them; else as they lie. */
static mf_status list_keys(mf_cache *c, const mf_cached *s, const mf_cache_query *q, int *count) {
    int64_t window = mf_window_of(c->model, q->layer), position = c->query[0].position;
    for (int i = 1; i < q->chunks; i++) position = mf_min(position, c->query[i].position);
    int64_t row = first_seen(s, position, window), rows = s->rows - row;
    *count = 0;
    if (!window || q->tokens == 1) {
        mf_key_chunk all = {.rows = rows, .position = position + 1 - rows};
        return add_keys(c, s, q->layer, all, row, (*count)++);
    }
    for (int64_t n = 1; row < s->rows; row += n) {
        for (n = 1; row + n < s->rows && s->position[row + n] == s->position[row] + n;) n++;
        MF_TRY(add_keys(c, s, q->layer, (mf_key_chunk){.rows = n, .position = s->position[row]}, row,
                        (*count)++));
    }
    return MF_OK;
}

mf_status mf_cache_meet(mf_cache *c, const mf_cached *s, const mf_cache_query *q) {
    const mf_model *m = c->model;
    const mf_exchange_sizes *own = &m->side->exchange.sizes;
    int64_t d = own->head_dim, width = q->heads * (d + 1);
    int keys = 0;
    MF_TRY(list_keys(c, s, q, &keys));
    mf_attention_args args = {.type = own->type,
                              .batch = 1,
                              .tokens = q->tokens,
                              .heads = q->heads,
                              .first_head = q->first,
                              .group = own->group,
                              .first_kv_head = own->first_kv_head,
                              .kv_heads = own->kv_heads,
                              .head_dim = d,
                              .window = mf_window_of(m, q->layer),
                              .scale = 1.0f / __builtin_sqrtf((float)d),
                              .query_chunks = q->chunks,
                              .queries = c->query,
                              .key_chunks = keys,
                              .keys = c->key,
                              .q = q->q,
                              .q_ld = q->q_ld,
                              .o = q->out,
                              .o_ld = width,
                              .o_f32 = true,
                              .lse = q->out ? q->out + q->heads * d : NULL,
                              .lse_ld = width};
    return mf_attention_forward(m->device, &args);
}

/* A portion's queries meet what is cached. */
typedef struct crossing {
    mf_cache *cache;
    int64_t first, heads;
    size_t *begin;          /* [ranks + 1] rows of the portion, rank after rank */
    mf_buffer queries, all; /* own ones packed; all ranks': [tokens, heads * head_dim] */
    mf_buffer met, home;    /* f32, [tokens] and [ranks][own rows] of heads * (head_dim + 1) */
} crossing;

static mf_status crossing_open(crossing *x) {
    mf_cache *c = x->cache;
    const mf_model *m = c->model;
    int64_t d = m->config.head_dim, tokens = m->options.tokens, ranks = ranks_of(c);
    size_t size = mf_dtype_bytes(m->options.type);
    MF_TRY(mf_host_alloc((size_t)ranks + 1, sizeof *x->begin, &x->begin));
    for (int r = 0; r < ranks; r++)
        x->begin[r + 1] = x->begin[r] + (size_t)mf_cut_rows(tokens, (int)ranks, r);
    MF_TRY(mf_work(m, m->side->rows * x->heads * d, size, "own queries", &x->queries));
    MF_TRY(mf_work(m, tokens * x->heads * d, size, "queries of all ranks", &x->all));
    MF_TRY(mf_work(m, tokens * x->heads * (d + 1), sizeof(float), "results over cached keys", &x->met));
    return mf_work(m, ranks * m->side->rows * x->heads * (d + 1), sizeof(float), "all ranks' results",
                   &x->home);
}

static void crossing_close(crossing *x) {
    mf_buffer *all[] = {&x->queries, &x->all, &x->met, &x->home};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(x->cache->model->memory, all[i]);
    mf_host_free(x->begin);
}

static mf_status send_queries(crossing *x) {
    mf_cache *c = x->cache;
    const mf_model *m = c->model;
    size_t size = mf_dtype_bytes(m->options.type), row = (size_t)(x->heads * m->config.head_dim) * size;
    for (int r = 0; r <= ranks_of(c); r++) c->offsets[r] = x->begin[r] * row;
    MF_TRY(mf_copy_rows(m->device, m->side->rows, row, x->queries.data, row,
                        mf_exchange_queries(&m->side->exchange, x->first),
                        (size_t)m->side->exchange.width * size));
    return mf_allgather(m->sequence, x->queries.data, x->all.data, c->offsets, NULL);
}

static mf_status meet(crossing *x, int64_t layer) {
    mf_cache *c = x->cache;
    int64_t width = x->heads * c->model->config.head_dim;
    mf_cache_query query = {.layer = layer,
                            .first = x->first,
                            .heads = x->heads,
                            .tokens = c->model->options.tokens,
                            .q = x->all.data,
                            .q_ld = width,
                            .out = x->met.data};
    for (int r = 0; r < ranks_of(c); r++)
        query.chunks += list_queries(c, r, (int64_t)x->begin[r], query.chunks);
    return mf_cache_meet(c, c->at, &query);
}

static mf_status send_home(crossing *x) {
    mf_status status = MF_OK;
    mf_cache *c = x->cache;
    int ranks = ranks_of(c);
    size_t row = (size_t)(x->heads * (c->model->config.head_dim + 1)) * sizeof(float), *home = NULL;
    MF_GO(mf_host_alloc((size_t)ranks + 1, sizeof *home, &home));
    for (int r = 0; r <= ranks; r++) {
        c->offsets[r] = x->begin[r] * row;
        home[r] = (size_t)(r * c->model->side->rows) * row;
    }
    MF_GO(mf_alltoall(c->model->sequence, x->met.data, c->offsets, x->home.data, home, NULL));
fail:
    mf_host_free(home);
    return status;
}

mf_status mf_cache_attend(mf_cache *c, int64_t layer, const mf_attend *call) {
    mf_status status = MF_OK;
    const mf_model *m = c->model;
    crossing x = {.cache = c, .first = call->first, .heads = call->heads};
    if (c->at->tokens == 0) return MF_OK;
    MF_GO(crossing_open(&x));
    MF_GO(send_queries(&x));
    MF_GO(meet(&x, layer));
    MF_GO(send_home(&x));
    MF_GO(mf_attention_merge(
        m->device, &(mf_attention_merge_args){.type = m->options.type,
                                              .rows = m->side->rows,
                                              .heads = call->heads,
                                              .head_dim = m->config.head_dim,
                                              .parts = ranks_of(c),
                                              .part = x.home.data,
                                              .o = call->a,
                                              .o_ld = m->side->exchange.width,
                                              .lse = mf_exchange_sums(&m->side->exchange, call->first),
                                              .lse_ld = m->side->exchange.sizes.heads}));
fail:
    crossing_close(&x);
    return status;
}
