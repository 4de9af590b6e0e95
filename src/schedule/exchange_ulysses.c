/* exchange_ulysses.c: tokens for heads (DeepSpeed-Ulysses, arXiv 2309.14509): an all-to-all gives each rank
 * all tokens of some query heads and of the key heads that these read, attention is a rank's own affair, a
 * second all-to-all brings the results home. Key heads that queries of several ranks read go to each of them;
 * their gradients come back from each and are added in rank order.
 *
 * What attention needs again stays where it was computed, so backward moves gradients alone: those of the
 * results (and their row sums) out, those of queries, keys and values home. A call has all heads. */
#include "schedule/kinds.h"

/* The heads that a rank attends: q .. q + nq - 1, and the key heads that these read. */
typedef struct share {
    int64_t q, nq, kv, nkv;
} share;

/* What is kept for backward, of all tokens (rank after rank in each sequence) and this rank's share of heads:
 * [slots][batch, tokens, heads of the share, ...]. */
struct mf_ulysses {
    share own;
    mf_buffer q, k, v; /* compute type */
    mf_buffer lse;     /* f32 */
};

static int ranks_of(const mf_exchange *x) { return mf_comm_size(x->comm); }

static share share_of(const mf_exchange *x, int rank) {
    const mf_exchange_sizes *s = &x->sizes;
    int64_t begin = mf_share_begin(s->heads, ranks_of(x), rank);
    share out = {.q = s->first_head + begin, .nq = mf_share_begin(s->heads, ranks_of(x), rank + 1) - begin};
    out.kv = out.q / s->group;
    out.nkv = out.nq ? mf_ceil_div(out.q + out.nq, s->group) - out.kv : 0;
    return out;
}

static int64_t rows_of(const mf_exchange *x, int rank) {
    return mf_cut_rows(x->sizes.tokens, ranks_of(x), rank);
}

static int64_t all_tokens(const mf_exchange *x) { return x->sizes.batch * x->sizes.tokens; }

static mf_status check(int ranks, int64_t heads) {
    if (heads >= ranks) return MF_OK;
    return MF_FAIL(
        MF_EINVAL,
        "exchange ulysses over %d ranks needs at least as many query heads on each; there are %lld", ranks,
        (long long)heads);
}

static mf_status keep(mf_exchange *x, int64_t width, size_t size, const char *what, mf_buffer *out) {
    size_t bytes = (size_t)(x->sizes.slots * all_tokens(x) * width) * size;
    return mf_buffer_alloc(mf_device_memory(x->device), MF_ACTIVATIONS, bytes, what, out);
}

static mf_status create(mf_exchange *x) {
    struct mf_ulysses *u = NULL;
    size_t size = mf_dtype_bytes(x->sizes.type);
    int64_t d = x->sizes.head_dim;
    MF_TRY(mf_host_alloc(1, sizeof *u, &u));
    x->ulysses = u;
    x->slots = 1; /* what was projected is needed until it has been sent */
    u->own = share_of(x, mf_comm_rank(x->comm));
    MF_TRY(keep(x, u->own.nq * d, size, "queries of all tokens", &u->q));
    MF_TRY(keep(x, u->own.nkv * d, size, "keys of all tokens", &u->k));
    MF_TRY(keep(x, u->own.nkv * d, size, "values of all tokens", &u->v));
    return keep(x, u->own.nq, sizeof(float), "attention's log-sums of all tokens", &u->lse);
}

static void destroy(mf_exchange *x) {
    struct mf_ulysses *u = x->ulysses;
    if (!u) return;
    mf_buffer *all[] = {&u->q, &u->k, &u->v, &u->lse};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(mf_device_memory(x->device), all[i]);
    mf_host_free(u);
}

/* A tensor that lies at home, own tokens of all heads, and away, all tokens of the share's heads. */
typedef struct field {
    bool of_keys;  /* dealt as key heads, else as query heads */
    int64_t unit;  /* elements of a head */
    mf_dtype type; /* away, and on the way */
    void *home;    /* [batch * rows, ...] */
    int64_t home_ld;
    bool home_f32; /* home has f32 whatever travels */
    bool adds;     /* what comes home is added: f32 */
    void *away;    /* [batch, tokens, heads of the share * unit] */
} field;

static int64_t first_of(const mf_exchange *x, const field *f, int rank) {
    share s = share_of(x, rank);
    return f->unit * (f->of_keys ? s.kv - x->sizes.first_kv_head : s.q - x->sizes.first_head);
}

static int64_t width_of(const mf_exchange *x, const field *f, int rank) {
    share s = share_of(x, rank);
    return f->unit * (f->of_keys ? s.nkv : s.nq);
}

/* Bytes of the block that goes from the tokens of `home` to the heads of `away`, or back. */
static size_t block_bytes(const mf_exchange *x, const field *f, int fields, int home, int away) {
    size_t bytes = 0;
    for (int i = 0; i < fields; i++)
        bytes += (size_t)(x->sizes.batch * rows_of(x, home) * width_of(x, &f[i], away)) *
                 mf_dtype_bytes(f[i].type);
    return bytes;
}

/* One all-to-all of all fields: blocks by rank, in each field after field. */
typedef struct crossing {
    mf_exchange *x;
    const field *fields;
    int count;
    size_t *at_home, *at_away; /* [ranks + 1] where a rank's block begins, at home and away */
    mf_buffer home, away;      /* the blocks */
} crossing;

static mf_status crossing_open(crossing *c, mf_exchange *x, const field *fields, int count) {
    mf_memory *memory = mf_device_memory(x->device);
    int ranks = ranks_of(x), own = mf_comm_rank(x->comm);
    *c = (crossing){.x = x, .fields = fields, .count = count};
    MF_TRY(mf_host_alloc((size_t)ranks + 1, sizeof *c->at_home, &c->at_home));
    MF_TRY(mf_host_alloc((size_t)ranks + 1, sizeof *c->at_away, &c->at_away));
    for (int r = 0; r < ranks; r++) {
        c->at_home[r + 1] = c->at_home[r] + block_bytes(x, fields, count, own, r);
        c->at_away[r + 1] = c->at_away[r] + block_bytes(x, fields, count, r, own);
    }
    MF_TRY(mf_buffer_alloc(memory, MF_EXCHANGE, c->at_home[ranks], "tokens to trade for heads", &c->home));
    return mf_buffer_alloc(memory, MF_EXCHANGE, c->at_away[ranks], "heads to trade for tokens", &c->away);
}

static void crossing_close(crossing *c) {
    mf_memory *memory = mf_device_memory(c->x->device);
    mf_buffer_free(memory, &c->home);
    mf_buffer_free(memory, &c->away);
    mf_host_free(c->at_home);
    mf_host_free(c->at_away);
}

static char *block(const mf_buffer *blocks, size_t at) {
    return blocks->data ? (char *)blocks->data + at : NULL;
}

static mf_status pack_home(const crossing *c, int rank) {
    mf_exchange *x = c->x;
    int64_t rows = x->sizes.batch * x->rows;
    char *to = block(&c->home, c->at_home[rank]);
    for (int i = 0; i < c->count; i++) {
        const field *f = &c->fields[i];
        size_t size = mf_dtype_bytes(f->type), row = (size_t)width_of(x, f, rank) * size;
        const void *from = mf_within_const(f->home, first_of(x, f, rank), f->type);
        MF_TRY(mf_copy_rows(x->device, rows, row, to, row, from, (size_t)f->home_ld * size));
        if (to) to += (size_t)rows * row;
    }
    return MF_OK;
}

/* A dense block to its columns at home, in their type; `wide`: room for it in f32 where it is added. */
static mf_status land(const crossing *c, const field *f, int rank, const void *from, float *wide) {
    mf_exchange *x = c->x;
    int64_t rows = x->sizes.batch * x->rows, width = width_of(x, f, rank);
    mf_dtype home_type = f->home_f32 ? MF_F32 : f->type;
    void *to = mf_within(f->home, first_of(x, f, rank), home_type);
    mf_cast_args cast = {.rows = rows,
                         .width = width,
                         .in = from,
                         .in_ld = width,
                         .in_type = f->type,
                         .out = f->adds ? wide : to,
                         .out_ld = f->adds ? width : f->home_ld,
                         .out_type = home_type};
    MF_TRY(mf_cast(x->device, &cast));
    return f->adds ? mf_accumulate(x->device, rows, width, wide, width, to, f->home_ld) : MF_OK;
}

static mf_status unpack_home(const crossing *c, int rank, float *wide) {
    mf_exchange *x = c->x;
    const char *from = block(&c->home, c->at_home[rank]);
    for (int i = 0; i < c->count; i++) {
        const field *f = &c->fields[i];
        MF_TRY(land(c, f, rank, from, wide));
        if (from) from += block_bytes(x, f, 1, mf_comm_rank(x->comm), rank);
    }
    return MF_OK;
}

/* Between a rank's block and its rows of every sequence away. */
static mf_status move_away(const crossing *c, int rank, int64_t first_row, bool arriving) {
    mf_exchange *x = c->x;
    int own = mf_comm_rank(x->comm);
    char *at = block(&c->away, c->at_away[rank]);
    for (int i = 0; i < c->count; i++) {
        const field *f = &c->fields[i];
        int64_t width = width_of(x, f, own), tokens = x->sizes.tokens;
        size_t rows = (size_t)(rows_of(x, rank) * width) * mf_dtype_bytes(f->type);
        size_t whole = (size_t)(tokens * width) * mf_dtype_bytes(f->type);
        void *there = mf_within(f->away, first_row * width, f->type);
        MF_TRY(arriving ? mf_copy_rows(x->device, x->sizes.batch, rows, there, whole, at, rows)
                        : mf_copy_rows(x->device, x->sizes.batch, rows, at, rows, there, whole));
        if (at) at += (size_t)x->sizes.batch * rows;
    }
    return MF_OK;
}

static mf_status move_all_away(const crossing *c, bool arriving) {
    int64_t row = 0;
    for (int r = 0; r < ranks_of(c->x); row += rows_of(c->x, r++)) MF_TRY(move_away(c, r, row, arriving));
    return MF_OK;
}

static mf_status go_away(mf_exchange *x, const field *fields, int count) {
    mf_status status = MF_OK;
    crossing c;
    MF_GO(crossing_open(&c, x, fields, count));
    for (int r = 0; r < ranks_of(x); r++) MF_GO(pack_home(&c, r));
    MF_GO(mf_alltoall(x->comm, c.home.data, c.at_home, c.away.data, c.at_away, NULL));
    MF_GO(move_all_away(&c, true));
fail:
    crossing_close(&c);
    return status;
}

/* wide: [batch * rows, key heads of a share * head_dim] f32, where a field adds. */
static mf_status come_home(mf_exchange *x, const field *fields, int count, float *wide) {
    mf_status status = MF_OK;
    crossing c;
    MF_GO(crossing_open(&c, x, fields, count));
    MF_GO(move_all_away(&c, false));
    MF_GO(mf_alltoall(x->comm, c.away.data, c.at_away, c.home.data, c.at_home, NULL));
    for (int r = 0; r < ranks_of(x); r++) MF_GO(unpack_home(&c, r, wide));
fail:
    crossing_close(&c);
    return status;
}

static void *kept(const mf_exchange *x, const mf_buffer *buffer, int64_t width, mf_dtype type) {
    return mf_within(buffer->data, (x->sizes.slots > 1 ? x->slot : 0) * all_tokens(x) * width, type);
}

/* All tokens as queries, and as keys with gradients where dk, dv are not NULL: [batch, tokens, nkv *
 * head_dim]. */
static void list_all(mf_exchange *x, float *dk, float *dv, int *queries) {
    const struct mf_ulysses *u = x->ulysses;
    int64_t ld = u->own.nkv * x->sizes.head_dim, first = 0;
    mf_dtype type = x->sizes.type;
    const void *k = kept(x, &u->k, ld, type), *v = kept(x, &u->v, ld, type);
    mf_run runs[MF_RUNS];
    x->chunks = 0;
    for (int r = 0; r < ranks_of(x); first += rows_of(x, r++)) {
        int n = mf_cut_runs(x->sizes.tokens, ranks_of(x), r, runs);
        for (int i = 0; i < n; i++) {
            int64_t row = first + runs[i].first_row, batch_ld = x->sizes.tokens * ld;
            x->query[x->chunks] =
                (mf_query_chunk){.rows = runs[i].rows, .position = runs[i].position, .first_row = row};
            x->chunk[x->chunks++] = (mf_key_chunk){.rows = runs[i].rows,
                                                   .position = runs[i].position,
                                                   .k = mf_within_const(k, row * ld, type),
                                                   .v = mf_within_const(v, row * ld, type),
                                                   .ld = ld,
                                                   .batch_ld = batch_ld,
                                                   .dk = dk ? dk + row * ld : NULL,
                                                   .dv = dv ? dv + row * ld : NULL,
                                                   .grad_ld = ld,
                                                   .grad_batch_ld = batch_ld};
        }
    }
    *queries = x->chunks;
}

/* Attention of the share's heads over all tokens. */
static mf_attention_args args_away(mf_exchange *x, const mf_attention_args *home, float *dk, float *dv) {
    const struct mf_ulysses *u = x->ulysses;
    mf_attention_args a = *home;
    int64_t width = u->own.nq * x->sizes.head_dim;
    a.tokens = x->sizes.tokens;
    a.heads = a.lse_ld = u->own.nq;
    a.first_head = u->own.q;
    a.kv_heads = u->own.nkv;
    a.first_kv_head = u->own.kv;
    list_all(x, dk, dv, &a.query_chunks);
    a.keys = x->chunk;
    a.key_chunks = x->chunks;
    a.q = kept(x, &u->q, width, a.type);
    a.lse = kept(x, &u->lse, u->own.nq, MF_F32);
    a.q_ld = a.o_ld = a.do_ld = a.dq_ld = width;
    a.o = NULL;
    return a;
}

static field of_queries(const mf_exchange *x, const void *home, int64_t home_ld, const void *away) {
    union {
        const void *in;
        void *out;
    } h = {home}, a = {away}; /* one of the two is only read */
    return (field){
        .unit = x->sizes.head_dim, .type = x->sizes.type, .home = h.out, .home_ld = home_ld, .away = a.out};
}

static mf_status send_projected(mf_exchange *x) {
    struct mf_ulysses *u = x->ulysses;
    int64_t d = x->sizes.head_dim;
    mf_dtype type = x->sizes.type;
    field f[3] = {of_queries(x, x->queries.data, x->width, kept(x, &u->q, u->own.nq * d, type)),
                  of_queries(x, x->keys.own, x->kv_width, kept(x, &u->k, u->own.nkv * d, type)),
                  of_queries(x, x->values.own, x->kv_width, kept(x, &u->v, u->own.nkv * d, type))};
    f[1].of_keys = f[2].of_keys = true;
    return go_away(x, f, 3);
}

static mf_status forward(mf_exchange *x, mf_attention_args *args) {
    mf_status status = MF_OK;
    mf_memory *memory = mf_device_memory(x->device);
    size_t bytes =
        (size_t)(all_tokens(x) * x->ulysses->own.nq * x->sizes.head_dim) * mf_dtype_bytes(x->sizes.type);
    mf_buffer o = {0};
    MF_GO(send_projected(x));
    MF_GO(mf_buffer_alloc(memory, MF_EXCHANGE, bytes, "attention's heads of all tokens", &o));
    mf_attention_args away = args_away(x, args, NULL, NULL);
    away.o = o.data;
    MF_GO(mf_attention_forward(x->device, &away));
    field f[2] = {of_queries(x, args->o, args->o_ld, o.data),
                  {.unit = 1, .type = MF_F32, .home = args->lse, .home_ld = args->lse_ld, .away = away.lse}};
    MF_GO(come_home(x, f, x->sizes.sums_at_home ? 2 : 1, NULL));
fail:
    mf_buffer_free(memory, &o);
    return status;
}

/* Of all tokens and the share's heads. */
typedef struct gradients {
    mf_buffer d_o, delta;                         /* compute type, f32 */
    mf_buffer dq, dk, dv;                         /* f32 */
    mf_buffer narrow_q, narrow_k, narrow_v, wide; /* for the way home; not in f32 */
} gradients;

static mf_status take(mf_exchange *x, int64_t elements, size_t size, const char *what, mf_buffer *out) {
    return mf_buffer_alloc(mf_device_memory(x->device), MF_EXCHANGE, (size_t)elements * size, what, out);
}

static void gradients_free(mf_exchange *x, gradients *g) {
    mf_buffer *all[] = {&g->d_o,      &g->delta,    &g->dq,       &g->dk,  &g->dv,
                        &g->narrow_q, &g->narrow_k, &g->narrow_v, &g->wide};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(mf_device_memory(x->device), all[i]);
}

static mf_status receive_gradients(mf_exchange *x, mf_attention_args *args, gradients *g) {
    int64_t tokens = all_tokens(x), nq = x->ulysses->own.nq, d = x->sizes.head_dim;
    MF_TRY(mf_exchange_delta(x, args));
    MF_TRY(take(x, tokens * nq * d, mf_dtype_bytes(x->sizes.type), "gradient of attention's heads", &g->d_o));
    MF_TRY(take(x, tokens * nq, sizeof(float), "attention's row sums", &g->delta));
    field f[2] = {
        of_queries(x, args->d_o, args->do_ld, g->d_o.data),
        {.unit = 1, .type = MF_F32, .home = x->delta.data, .home_ld = x->sizes.heads, .away = g->delta.data}};
    return go_away(x, f, 2);
}

static mf_status clear(mf_exchange *x, int64_t width, const char *what, mf_buffer *out) {
    MF_TRY(take(x, all_tokens(x) * width, sizeof(float), what, out));
    return mf_zero(x->device, out->data, (size_t)(all_tokens(x) * width) * sizeof(float));
}

static mf_status compute_gradients(mf_exchange *x, mf_attention_args *args, gradients *g) {
    const share *own = &x->ulysses->own;
    int64_t d = x->sizes.head_dim;
    MF_TRY(clear(x, own->nq * d, "query gradients of all tokens", &g->dq));
    MF_TRY(clear(x, own->nkv * d, "key gradients of all tokens", &g->dk));
    MF_TRY(clear(x, own->nkv * d, "value gradients of all tokens", &g->dv));
    mf_attention_args away = args_away(x, args, g->dk.data, g->dv.data);
    away.d_o = g->d_o.data;
    away.delta = g->delta.data;
    away.dq = g->dq.data;
    return mf_attention_backward(x->device, &away);
}

/* In the compute type, as everything else that travels. The f32 values go. */
static mf_status narrow(mf_exchange *x, int64_t width, mf_buffer *wide, mf_buffer *out) {
    int64_t n = all_tokens(x) * width;
    if (x->sizes.type != MF_F32) {
        MF_TRY(take(x, n, mf_dtype_bytes(x->sizes.type), "gradients on their way home", out));
        MF_TRY(mf_convert(x->device, n, wide->data, MF_F32, out->data, x->sizes.type));
        mf_buffer_free(mf_device_memory(x->device), wide);
        return MF_OK;
    }
    *out = *wide;
    *wide = (mf_buffer){0};
    return MF_OK;
}

static int64_t widest_keys(const mf_exchange *x) {
    int64_t most = 0;
    for (int r = 0; r < ranks_of(x); r++) most = mf_max(most, share_of(x, r).nkv);
    return most * x->sizes.head_dim;
}

static mf_status send_gradients(mf_exchange *x, mf_attention_args *args, gradients *g) {
    const share *own = &x->ulysses->own;
    int64_t d = x->sizes.head_dim;
    MF_TRY(narrow(x, own->nq * d, &g->dq, &g->narrow_q));
    MF_TRY(narrow(x, own->nkv * d, &g->dk, &g->narrow_k));
    MF_TRY(narrow(x, own->nkv * d, &g->dv, &g->narrow_v));
    MF_TRY(
        take(x, x->sizes.batch * x->rows * widest_keys(x), sizeof(float), "gradients come home", &g->wide));
    field f[3] = {of_queries(x, args->dq, args->dq_ld, g->narrow_q.data),
                  of_queries(x, x->dkeys.own, x->kv_width, g->narrow_k.data),
                  of_queries(x, x->dvalues.own, x->kv_width, g->narrow_v.data)};
    for (int i = 0; i < 3; i++) f[i].home_f32 = true;
    f[1].of_keys = f[2].of_keys = f[1].adds = f[2].adds = true;
    return come_home(x, f, 3, g->wide.data);
}

static mf_status backward(mf_exchange *x, mf_attention_args *args) {
    mf_status status = MF_OK;
    gradients g = {0};
    MF_GO(receive_gradients(x, args, &g));
    MF_GO(compute_gradients(x, args, &g));
    mf_buffer_free(mf_device_memory(x->device), &g.d_o);
    MF_GO(send_gradients(x, args, &g));
fail:
    gradients_free(x, &g);
    return status;
}

const mf_exchange_kind mf_exchange_ulysses = {
    .name = "ulysses",
    .all_heads = true,
    .check = check,
    .create = create,
    .destroy = destroy,
    .forward = forward,
    .backward = backward,
};
