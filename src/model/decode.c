/* decode.c: one token more of some sequences. There is no sequence to cut, so weights stay where they are:
 * each rank multiplies with its own shards, as in tensor parallelism over the axes that weights are cut over.
 *
 *     own heads' q, k, v -> all heads on every rank -> own cached rows of each sequence -> merged over ranks
 *     -> own heads · Wo -> summed;  own inner features of the MLP -> summed;  own logits -> gathered */
#include "model/cache.h"

/* One call. */
typedef struct step {
    mf_cache *cache;
    const mf_next_call *call;
    int64_t n;                 /* sequences that go on */
    int *owner;                /* [n] the rank that keeps the new keys */
    mf_slice q, k;             /* own heads */
    mf_buffer ids;             /* [n] int32 */
    mf_buffer cos_sin;         /* [n, head_dim] f32 */
    mf_buffer x, normed;       /* [n, hidden] compute type */
    mf_buffer own, gathered;   /* own heads' q, k, v: [n, ...] each; all shards' */
    mf_buffer queries;         /* [n, heads of the tensor share * head_dim] */
    mf_buffer keys, values;    /* [n, key heads of the share * head_dim] */
    mf_buffer met, all_met;    /* [n][heads * head_dim + heads] f32; all ranks' */
    mf_buffer a;               /* as queries */
    mf_buffer gate, up, inner; /* [n, own inner features] */
    mf_buffer y;               /* [n, hidden] f32 */
    mf_buffer logits;          /* [n, own share of the vocabulary] f32 */
    mf_buffer all_logits;      /* all shares, one after another */
} step;

static const mf_model *model_of(const step *s) { return s->cache->model; }

/* This rank's shard of a matrix. */
static mf_slice own_slice(const mf_model *m, int param) {
    return mf_param_slice(m, param, mf_comm_rank(m->stream));
}

static const void *own_matrix(const mf_model *m, int param) {
    const mf_part *part = mf_part_of(m, param);
    return mf_at_const(m, m->store.weights.own,
                       part->offset[mf_comm_rank(m->stream)] + own_slice(m, param).offset);
}

/* Elements of a rank's results of all heads, with their log-sums. */
static int64_t met_elements(const step *s) {
    return s->n * (model_of(s)->side->exchange.width + model_of(s)->side->exchange.sizes.heads);
}

static int64_t heads_of(const step *s) { return model_of(s)->side->exchange.sizes.heads; }
static int64_t width_of(const step *s) { return model_of(s)->side->exchange.width; }

static mf_linear linear(const step *s, int64_t in, int64_t out) {
    return mf_linear_of(model_of(s), s->n, in, out);
}

/* The rank that has the fewest rows of the sequence; the first after the sequence's own number, so that the
 * first tokens of many sequences don't meet on one. */
static int fewest(const mf_cache *c, int sequence) {
    const mf_cached *s = &c->sequence[sequence];
    int ranks = mf_comm_size(c->model->sequence), best = sequence % ranks;
    for (int i = 1; i < ranks; i++) {
        int rank = (sequence + i) % ranks;
        if (s->held[rank] < s->held[best]) best = rank;
    }
    return best;
}

static mf_status check(const step *s) {
    for (int i = 0; i < s->call->count; i++) {
        const mf_cached *c = &s->cache->sequence[s->call->sequence[i]];
        if (c->tokens == c->most)
            return MF_FAIL(MF_EINVAL, "sequence %d has the %lld tokens that the cache has room for",
                           s->call->sequence[i], (long long)c->most);
    }
    return MF_OK;
}

static int64_t shard_elements(const step *s, int shard) {
    const mf_model *m = model_of(s);
    int64_t q = mf_param_slice(m, mf_layer_param(m, 0, MF_WQ), shard).count,
            k = mf_param_slice(m, mf_layer_param(m, 0, MF_WK), shard).count;
    return s->n * (q + 2 * k) * m->config.head_dim;
}

static mf_status take_values(step *s) {
    const mf_model *m = model_of(s);
    int64_t h = m->config.hidden, ffn = own_slice(m, mf_layer_param(m, 0, MF_WGATE)).count;
    int64_t met = met_elements(s), own = shard_elements(s, mf_comm_rank(m->stream)), all = 0;
    size_t size = mf_dtype_bytes(m->options.type);
    for (int shard = 0; shard < m->shards; shard++) all += shard_elements(s, shard);
    MF_TRY(mf_work(m, s->n, sizeof(int32_t), "ids of new tokens", &s->ids));
    MF_TRY(mf_work(m, s->n * m->config.head_dim, sizeof(float), "angles of new tokens", &s->cos_sin));
    MF_TRY(mf_work(m, s->n * h, size, "new tokens", &s->x));
    MF_TRY(mf_work(m, s->n * h, size, "a block's input", &s->normed));
    MF_TRY(mf_work(m, own, size, "own heads", &s->own));
    MF_TRY(mf_work(m, all, size, "heads of all shards", &s->gathered));
    MF_TRY(mf_work(m, s->n * width_of(s), size, "queries", &s->queries));
    MF_TRY(mf_work(m, s->n * s->cache->kv_width, size, "keys", &s->keys));
    MF_TRY(mf_work(m, s->n * s->cache->kv_width, size, "values", &s->values));
    MF_TRY(mf_work(m, met, sizeof(float), "results over own rows", &s->met));
    MF_TRY(mf_work(m, met * mf_comm_size(m->sequence), sizeof(float), "all ranks' results", &s->all_met));
    MF_TRY(mf_work(m, s->n * width_of(s), size, "attention's heads", &s->a));
    MF_TRY(mf_work(m, s->n * ffn, size, "the MLP's gate", &s->gate));
    MF_TRY(mf_work(m, s->n * ffn, size, "the MLP's up", &s->up));
    MF_TRY(mf_work(m, s->n * ffn, size, "the MLP's inner values", &s->inner));
    MF_TRY(mf_work(m, s->n * h, sizeof(float), "a block's output", &s->y));
    MF_TRY(mf_work(m, s->n * own_slice(m, mf_head_param(m)).count, sizeof(float), "own logits", &s->logits));
    return mf_work(m, s->n * m->config.vocab, sizeof(float), "all logits", &s->all_logits);
}

static mf_status open_step(step *s) {
    const mf_model *m = model_of(s);
    MF_TRY(check(s));
    MF_TRY(mf_host_alloc((size_t)s->n, sizeof *s->owner, &s->owner));
    s->q = own_slice(m, mf_layer_param(m, 0, MF_WQ));
    s->k = own_slice(m, mf_layer_param(m, 0, MF_WK));
    MF_TRY(take_values(s));
    MF_TRY(mf_copy(m->device, MF_QUEUE_COMPUTE, s->ids.data, s->call->ids, (size_t)s->n * sizeof(int32_t)));
    for (int64_t i = 0; i < s->n; i++) {
        s->owner[i] = fewest(s->cache, s->call->sequence[i]);
        MF_TRY(mf_rope_table(
            m->device, &(mf_rope_table_args){.first = s->cache->sequence[s->call->sequence[i]].tokens,
                                             .rows = 1,
                                             .head_dim = m->config.head_dim,
                                             .theta = m->config.rope_theta,
                                             .scaling = m->config.scaling,
                                             .cos_sin = (float *)s->cos_sin.data + i * m->config.head_dim}));
    }
    return MF_OK;
}

static void close_step(step *s) {
    mf_buffer *all[] = {&s->ids,     &s->cos_sin, &s->x,      &s->normed, &s->own,     &s->gathered,
                        &s->queries, &s->keys,    &s->values, &s->met,    &s->all_met, &s->a,
                        &s->gate,    &s->up,      &s->inner,  &s->y,      &s->logits,  &s->all_logits};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(model_of(s)->memory, all[i]);
    mf_host_free(s->owner);
}

/* Rows of other ranks' ids stay zero, for the sum. */
static mf_status embed(step *s) {
    const mf_model *m = model_of(s);
    mf_slice own = own_slice(m, mf_embedding_param(m));
    MF_TRY(
        mf_zero(m->device, s->x.data, (size_t)(s->n * m->config.hidden) * mf_dtype_bytes(m->options.type)));
    MF_TRY(mf_embed_forward(m->device, &(mf_embed_args){.type = m->options.type,
                                                        .n = s->n,
                                                        .h = m->config.hidden,
                                                        .first = own.first,
                                                        .rows = own.count,
                                                        .ids = s->ids.data,
                                                        .table = own_matrix(m, mf_embedding_param(m)),
                                                        .out = s->x.data}));
    return mf_allreduce(m->sharers, s->x.data, s->n * m->config.hidden, m->options.type, NULL);
}

static mf_status norm(step *s, int param) {
    const mf_model *m = model_of(s);
    return mf_rmsnorm_forward(m->device, s->n, m->config.hidden, (float)m->config.norm_eps, m->options.type,
                              s->x.data, mf_replica(m, param, 0), s->normed.data);
}

/* x += the sum over ranks of y. */
static mf_status add(step *s) {
    const mf_model *m = model_of(s);
    int64_t n = s->n * m->config.hidden;
    MF_TRY(mf_allreduce(m->sharers, s->y.data, n, MF_F32, NULL));
    return mf_add(m->device, n, m->options.type, s->x.data, s->y.data, s->x.data);
}

static mf_status project(step *s, int64_t layer) {
    const mf_model *m = model_of(s);
    mf_token_rows tokens = {.batch = 1, .rows = s->n, .cos_sin = s->cos_sin.data};
    int64_t at = 0;
    for (int matrix = MF_WQ; matrix <= MF_WV; matrix++) {
        int param = mf_layer_param(m, layer, matrix);
        mf_projection p =
            mf_projection_of(m, layer, matrix, matrix == MF_WQ ? s->q : s->k, own_matrix(m, param));
        MF_TRY(mf_project(m, &p, &tokens, s->normed.data, mf_at(m, s->own.data, at), p.width));
        at += s->n * p.width;
    }
    return MF_OK;
}

/* A shard's [n, count * head_dim] at *from to the columns of its heads. */
static mf_status spread(const step *s, mf_slice heads, int64_t first, int64_t ld, const void **from,
                        void *to) {
    const mf_model *m = model_of(s);
    int64_t d = m->config.head_dim;
    size_t size = mf_dtype_bytes(m->options.type), row = (size_t)(heads.count * d) * size;
    MF_TRY(mf_copy_rows(m->device, s->n, row, mf_at(m, to, (heads.first - first) * d), (size_t)ld * size,
                        *from, row));
    *from = mf_at_const(m, *from, s->n * heads.count * d);
    return MF_OK;
}

static mf_status spread_all(const step *s) {
    const mf_model *m = model_of(s);
    const mf_exchange_sizes *own = &m->side->exchange.sizes;
    const void *from = s->gathered.data;
    for (int shard = 0; shard < m->shards; shard++) {
        mf_slice q = mf_param_slice(m, mf_layer_param(m, 0, MF_WQ), shard),
                 k = mf_param_slice(m, mf_layer_param(m, 0, MF_WK), shard);
        MF_TRY(spread(s, q, own->first_head, width_of(s), &from, s->queries.data));
        MF_TRY(spread(s, k, own->first_kv_head, s->cache->kv_width, &from, s->keys.data));
        MF_TRY(spread(s, k, own->first_kv_head, s->cache->kv_width, &from, s->values.data));
    }
    return MF_OK;
}

/* Own heads to every rank of the stream's axes. */
static mf_status gather_heads(step *s) {
    mf_status status = MF_OK;
    const mf_model *m = model_of(s);
    size_t *offsets = NULL;
    MF_GO(mf_host_alloc((size_t)m->shards + 1, sizeof *offsets, &offsets));
    for (int shard = 0; shard < m->shards; shard++)
        offsets[shard + 1] =
            offsets[shard] + (size_t)shard_elements(s, shard) * mf_dtype_bytes(m->options.type);
    MF_GO(mf_allgather(m->stream, s->own.data, s->gathered.data, offsets, NULL));
    MF_GO(spread_all(s));
fail:
    mf_host_free(offsets);
    return status;
}

/* The new keys to their owners' caches: behind what those have. */
static mf_status keep(step *s, int64_t layer) {
    mf_cache *c = s->cache;
    const mf_model *m = model_of(s);
    size_t bytes = (size_t)c->kv_width * mf_dtype_bytes(m->options.type);
    for (int64_t i = 0; i < s->n; i++) {
        const mf_cached *to = &c->sequence[s->call->sequence[i]];
        int64_t row = to->first_row + to->rows - 1;
        if (s->owner[i] != mf_comm_rank(m->sequence)) continue;
        MF_TRY(mf_copy_rows(m->device, 1, bytes, mf_cache_row(c, &c->keys, layer, row), bytes,
                            mf_at(m, s->keys.data, i * c->kv_width), bytes));
        MF_TRY(mf_copy_rows(m->device, 1, bytes, mf_cache_row(c, &c->values, layer, row), bytes,
                            mf_at(m, s->values.data, i * c->kv_width), bytes));
    }
    return MF_OK;
}

/* Each sequence's query over own rows of it. */
static mf_status meet(step *s, int64_t layer) {
    mf_cache *c = s->cache;
    const mf_model *m = model_of(s);
    for (int64_t i = 0; i < s->n; i++) {
        const mf_cached *of = &c->sequence[s->call->sequence[i]];
        mf_cache_query query = {.layer = layer,
                                .first = m->side->exchange.sizes.first_head,
                                .heads = heads_of(s),
                                .tokens = 1,
                                .q = mf_at(m, s->queries.data, i * width_of(s)),
                                .q_ld = width_of(s),
                                .chunks = 1,
                                .out = (float *)s->met.data + i * (width_of(s) + heads_of(s))};
        c->query[0] = (mf_query_chunk){.rows = 1, .position = of->tokens - 1};
        MF_TRY(mf_cache_meet(c, of, &query));
    }
    return MF_OK;
}

static mf_status merge(step *s) {
    mf_cache *c = s->cache;
    const mf_model *m = model_of(s);
    int ranks = mf_comm_size(m->sequence);
    for (int r = 0; r <= ranks; r++) c->offsets[r] = (size_t)(r * met_elements(s)) * sizeof(float);
    MF_TRY(mf_allgather(m->sequence, s->met.data, s->all_met.data, c->offsets, NULL));
    return mf_attention_merge(m->device, &(mf_attention_merge_args){.type = m->options.type,
                                                                    .rows = s->n,
                                                                    .heads = heads_of(s),
                                                                    .head_dim = m->config.head_dim,
                                                                    .parts = ranks,
                                                                    .part = s->all_met.data,
                                                                    .o = s->a.data,
                                                                    .o_ld = width_of(s)});
}

/* y = own heads' results · own Wo'. */
static mf_status output(step *s, int64_t layer) {
    const mf_model *m = model_of(s);
    int param = mf_layer_param(m, layer, MF_WO);
    mf_slice own = own_slice(m, param);
    int64_t d = m->config.head_dim, h = m->config.hidden;
    mf_linear out = linear(s, own.count * d, h);
    const void *a = mf_at(m, s->a.data, (own.first - m->side->exchange.sizes.first_head) * d);
    return mf_linear_forward(&out, a, width_of(s), own_matrix(m, param), s->y.data, h, MF_F32, false);
}

static mf_status attention(step *s, int64_t layer) {
    const mf_model *m = model_of(s);
    MF_TRY(norm(s, mf_layer_param(m, layer, MF_NORM_ATTENTION)));
    MF_TRY(project(s, layer));
    MF_TRY(gather_heads(s));
    MF_TRY(keep(s, layer));
    MF_TRY(meet(s, layer));
    MF_TRY(merge(s));
    MF_TRY(output(s, layer));
    return add(s);
}

static mf_status mlp(step *s, int64_t layer) {
    const mf_model *m = model_of(s);
    int64_t h = m->config.hidden;
    int gate = mf_layer_param(m, layer, MF_WGATE), up = mf_layer_param(m, layer, MF_WUP),
        down = mf_layer_param(m, layer, MF_WDOWN);
    int64_t width = own_slice(m, gate).count;
    mf_linear in = linear(s, h, width), out = linear(s, width, h);
    MF_TRY(norm(s, mf_layer_param(m, layer, MF_NORM_MLP)));
    MF_TRY(mf_linear_forward(&in, s->normed.data, h, own_matrix(m, gate), s->gate.data, width,
                             m->options.type, false));
    MF_TRY(mf_linear_forward(&in, s->normed.data, h, own_matrix(m, up), s->up.data, width, m->options.type,
                             false));
    MF_TRY(mf_activation_forward(m->device, &(mf_activation_args){.type = m->options.type,
                                                                  .n = s->n,
                                                                  .width = width,
                                                                  .gate = s->gate.data,
                                                                  .up = s->up.data,
                                                                  .in_ld = width,
                                                                  .out = s->inner.data}));
    MF_TRY(mf_linear_forward(&out, s->inner.data, width, own_matrix(m, down), s->y.data, h, MF_F32, false));
    return add(s);
}

/* Every rank's share of the logits to its columns. */
static mf_status spread_logits(step *s) {
    mf_cache *c = s->cache;
    const mf_model *m = model_of(s);
    int ranks = mf_comm_size(m->sharers);
    size_t row = (size_t)m->config.vocab * sizeof(float);
    for (int r = 0; r < ranks; r++)
        c->share_offsets[r + 1] = c->share_offsets[r] + (size_t)(s->n * c->share[r].count) * sizeof(float);
    MF_TRY(mf_allgather(m->sharers, s->logits.data, s->all_logits.data, c->share_offsets, NULL));
    for (int r = 0; r < ranks; r++) {
        size_t share = (size_t)c->share[r].count * sizeof(float);
        MF_TRY(mf_copy_rows(m->device, s->n, share, s->call->logits + c->share[r].first, row,
                            (char *)s->all_logits.data + c->share_offsets[r], share));
    }
    return MF_OK;
}

static mf_status head(step *s) {
    const mf_model *m = model_of(s);
    int64_t h = m->config.hidden, own = own_slice(m, mf_head_param(m)).count;
    mf_linear to = linear(s, h, own);
    MF_TRY(norm(s, mf_final_norm_param(m)));
    MF_TRY(mf_linear_forward(&to, s->normed.data, h, own_matrix(m, mf_head_param(m)), s->logits.data, own,
                             MF_F32, false));
    return spread_logits(s);
}

/* The new tokens count from here on: their keys come layer by layer. */
static void extend(step *s) {
    mf_cache *c = s->cache;
    for (int64_t i = 0; i < s->n; i++) {
        mf_cached *to = &c->sequence[s->call->sequence[i]];
        if (s->owner[i] == mf_comm_rank(c->model->sequence)) to->position[to->rows++] = (int32_t)to->tokens;
        to->held[s->owner[i]]++;
        to->tokens++;
    }
}

/* Weights once, but of the embedding only the rows; of the caches what the layers' windows show. */
static void count_read(step *s) {
    mf_cache *c = s->cache;
    const mf_model *m = model_of(s);
    double elements = (double)m->store.elements;
    if (!m->config.tied) elements -= (double)(own_slice(m, mf_embedding_param(m)).count * m->config.hidden);
    for (int64_t i = 0; i < s->n; i++) {
        const mf_cached *of = &c->sequence[s->call->sequence[i]];
        for (int64_t layer = 0; layer < m->config.layers; layer++) {
            int64_t window = mf_window_of(m, layer);
            double rows = (double)of->rows;
            if (window && of->tokens > window) rows *= (double)window / (double)of->tokens;
            elements += 2 * rows * (double)c->kv_width;
        }
    }
    c->read_bytes = elements * (double)mf_dtype_bytes(m->options.type);
}

mf_status mf_cache_next(mf_cache *c, const mf_next_call *call) {
    mf_status status = MF_OK;
    step s = {.cache = c, .call = call, .n = call->count};
    MF_GO(open_step(&s));
    MF_GO(embed(&s));
    extend(&s);
    for (int64_t layer = 0; layer < c->model->config.layers; layer++) {
        MF_GO(attention(&s, layer));
        MF_GO(mlp(&s, layer));
    }
    MF_GO(head(&s));
    count_read(&s);
fail:
    close_step(&s);
    return status;
}
