/* attention.c: the attention block over whatever its weight stream and its exchange yield, forward and
 * backward.
 *
 *     for each shard j:  q, k, v = n · Wqkv[j];  a = attend(q, all k, all v);  y += a · Wo[j]
 *
 * A shard holds some query heads and the key heads whose first query head is among them (the shares are dealt
 * so that this is exact). Its last key head may serve query heads of later shards: backward takes the shards
 * in reverse, so a key head's gradient is whole when its owner's turn comes. */
#include "model/model.h"

typedef struct turn {
    mf_slice q, k, v, o;  /* in heads */
    int64_t first_kv, kv; /* key heads that the shard's queries read */
    int64_t q_width, kv_width;
    const void *wq, *wk, *wv, *wo;
} turn;

static turn describe(const mf_model *m, int64_t layer, const mf_turn *from) {
    const mf_model_config *c = &m->config;
    int64_t group = c->heads / c->kv_heads;
    turn t = {.q = mf_param_slice(m, mf_layer_param(layer, MF_WQ), from->shard),
              .k = mf_param_slice(m, mf_layer_param(layer, MF_WK), from->shard),
              .v = mf_param_slice(m, mf_layer_param(layer, MF_WV), from->shard),
              .o = mf_param_slice(m, mf_layer_param(layer, MF_WO), from->shard)};
    t.q_width = t.q.count * c->head_dim;
    t.kv_width = t.k.count * c->head_dim;
    t.first_kv = t.q.first / group;
    t.kv = t.q.count ? mf_ceil_div(t.q.first + t.q.count, group) - t.first_kv : 0;
    t.wq = mf_at_const(m, from->weights, t.q.offset);
    t.wk = mf_at_const(m, from->weights, t.k.offset);
    t.wv = mf_at_const(m, from->weights, t.v.offset);
    t.wo = mf_at_const(m, from->weights, t.o.offset);
    return t;
}

/* Kept buffers of a layer, at head `first`: [tokens, heads * head_dim]. */
static void *at_head(const mf_model *m, const mf_buffer *kept, int64_t layer, int64_t first) {
    int64_t width = m->config.heads * m->config.head_dim;
    return mf_at(m, kept->data, mf_attention_slot(m, layer) * m->tokens * width + first * m->config.head_dim);
}

static float *lse_at(const mf_model *m, int64_t layer, int64_t first) {
    float *base = m->lse.data;
    return base ? base + mf_attention_slot(m, layer) * m->tokens * m->config.heads + first : NULL;
}

static mf_linear linear(const mf_model *m, int64_t in, int64_t out) {
    return (mf_linear){.device = m->device, .type = m->options.type, .n = m->tokens, .in = in, .out = out};
}

static mf_rope_args rope(const mf_model *m, int64_t heads) {
    return (mf_rope_args){.type = m->options.type,
                          .batch = m->options.batch,
                          .tokens = m->rows,
                          .heads = heads,
                          .head_dim = m->config.head_dim,
                          .cos_sin = m->cos_sin.data};
}

static mf_status rope_in_place(const mf_model *m, void *x, int64_t heads, int64_t ld) {
    mf_rope_args args = rope(m, heads);
    args.in = args.out = x;
    args.in_ld = args.out_ld = ld;
    return mf_rope(m->device, &args);
}

/* f32 gradients of turned heads, turned back, dense in the compute type. */
static mf_status rope_back(const mf_model *m, const float *in, int64_t in_ld, int64_t heads, void *out) {
    mf_rope_args args = rope(m, heads);
    args.in = in;
    args.in_f32 = true;
    args.in_ld = in_ld;
    args.out = out;
    args.out_ld = heads * m->config.head_dim;
    args.inverse = true;
    return mf_rope(m->device, &args);
}

static mf_status project(mf_model *m, int64_t layer, const turn *t, const void *normed) {
    const mf_model_config *c = &m->config;
    int64_t h = c->hidden, q_ld = c->heads * c->head_dim, kv_ld = c->kv_heads * c->head_dim;
    mf_dtype type = m->options.type;
    void *q = at_head(m, &m->q, layer, t->q.first);
    void *k = mf_exchange_keys(&m->exchange, t->k.first), *v = mf_exchange_values(&m->exchange, t->v.first);
    mf_linear to_q = linear(m, h, t->q_width), to_kv = linear(m, h, t->kv_width);
    MF_TRY(mf_linear_forward(&to_q, normed, h, t->wq, q, q_ld, type, false));
    MF_TRY(mf_linear_forward(&to_kv, normed, h, t->wk, k, kv_ld, type, false));
    MF_TRY(mf_linear_forward(&to_kv, normed, h, t->wv, v, kv_ld, type, false));
    MF_TRY(rope_in_place(m, q, t->q.count, q_ld));
    return rope_in_place(m, k, t->k.count, kv_ld);
}

static int own_queries(const mf_model *m, mf_query_chunk chunk[MF_RUNS]) {
    mf_run runs[MF_RUNS];
    int n =
        mf_cut_runs(m->options.tokens, mf_comm_size(m->sequence_comm), mf_comm_rank(m->sequence_comm), runs);
    for (int i = 0; i < n; i++)
        chunk[i] = (mf_query_chunk){
            .rows = runs[i].rows, .position = runs[i].position, .first_row = runs[i].first_row};
    return n;
}

/* What forward and backward of a turn share. `queries` must live as long as the result. */
static mf_attention_args attend_args(mf_model *m, int64_t layer, const turn *t,
                                     mf_query_chunk queries[MF_RUNS]) {
    const mf_model_config *c = &m->config;
    int64_t width = c->heads * c->head_dim;
    mf_attention_args args = {.type = m->options.type,
                              .batch = m->options.batch,
                              .tokens = m->rows,
                              .heads = t->q.count,
                              .first_head = t->q.first,
                              .group = c->heads / c->kv_heads,
                              .kv_heads = t->kv,
                              .first_kv_head = t->first_kv,
                              .head_dim = c->head_dim,
                              .queries = queries,
                              .q = at_head(m, &m->q, layer, t->q.first),
                              .q_ld = width,
                              .o = at_head(m, &m->a, layer, t->q.first),
                              .o_ld = width,
                              .lse = lse_at(m, layer, t->q.first),
                              .lse_ld = c->heads};
    args.scale = 1.0f / __builtin_sqrtf((float)c->head_dim);
    args.query_chunks = own_queries(m, queries);
    return args;
}

static mf_status attend(mf_model *m, int64_t layer, const turn *t) {
    mf_query_chunk queries[MF_RUNS];
    MF_TRY(mf_exchange_acquire(&m->exchange, t->first_kv, t->kv));
    mf_attention_args args = attend_args(m, layer, t, queries);
    args.keys = m->exchange.chunk;
    args.key_chunks = m->exchange.chunks;
    MF_TRY(mf_attention_forward(m->device, &args));
    return mf_exchange_release(&m->exchange);
}

static mf_status forward_turn(mf_model *m, int64_t layer, const mf_turn *from, const void *normed, float *y,
                              bool first) {
    turn t = describe(m, layer, from);
    MF_TRY(project(m, layer, &t, normed));
    MF_TRY(attend(m, layer, &t));
    mf_linear out = linear(m, t.q_width, m->config.hidden);
    return mf_linear_forward(&out, at_head(m, &m->a, layer, t.q.first), m->config.heads * m->config.head_dim,
                             t.wo, y, m->config.hidden, MF_F32, !first);
}

mf_status mf_attention_block(mf_model *m, int64_t layer, const void *x, void *out) {
    mf_status status = MF_OK;
    int64_t h = m->config.hidden, elements = m->tokens * h;
    mf_buffer normed = {0}, y = {0};
    mf_stream s = {0};
    MF_GO(mf_work(m, elements, mf_dtype_bytes(m->options.type), "attention's input", &normed));
    MF_GO(mf_work(m, elements, sizeof(float), "attention's output", &y));
    MF_GO(mf_norm_forward(m, mf_layer_param(layer, MF_NORM_ATTENTION), x, normed.data));
    MF_GO(mf_exchange_open(&m->exchange, (int)mf_attention_slot(m, layer)));
    MF_GO(mf_stream_open(&s, m->layout->attention, &m->store, mf_attention_part(m, layer), MF_PASS_FORWARD));
    for (mf_turn from; mf_stream_more(&s);) {
        MF_GO(mf_stream_turn(&s, &from));
        MF_GO(forward_turn(m, layer, &from, normed.data, y.data, s.turn == 0));
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
    MF_GO(mf_add(m->device, elements, m->options.type, x, y.data, out));
fail:
    mf_stream_close(&s);
    mf_buffer_free(m->memory, &y);
    mf_buffer_free(m->memory, &normed);
    return status;
}

/* What the turns of a backward pass share. */
typedef struct backward {
    const void *dy;                                         /* [tokens, hidden] compute type */
    const void *normed;                                     /* [tokens, hidden] compute type */
    float *dnormed;                                         /* [tokens, hidden] f32 += */
    mf_buffer da, delta, dq, dq_turned, dk_turned, dv_cast; /* of one turn */
} backward;

static mf_status backward_alloc(mf_model *m, int64_t q_heads, int64_t kv_heads, backward *b) {
    int64_t q = m->tokens * q_heads * m->config.head_dim, kv = m->tokens * kv_heads * m->config.head_dim;
    size_t size = mf_dtype_bytes(m->options.type);
    MF_TRY(mf_work(m, q, size, "gradient of attention's heads", &b->da));
    MF_TRY(mf_work(m, m->tokens * q_heads, sizeof(float), "attention's row sums", &b->delta));
    MF_TRY(mf_work(m, q, sizeof(float), "query gradients", &b->dq));
    MF_TRY(mf_work(m, q, size, "query gradients turned back", &b->dq_turned));
    MF_TRY(mf_work(m, kv, size, "key gradients turned back", &b->dk_turned));
    return mf_work(m, kv, size, "value gradients", &b->dv_cast);
}

static void backward_free(mf_model *m, backward *b) {
    mf_buffer *all[] = {&b->da, &b->delta, &b->dq, &b->dq_turned, &b->dk_turned, &b->dv_cast};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(m->memory, all[i]);
}

/* dq of the turn, and every rank's share of dk and dv, one rank's keys at a time. */
static mf_status attend_backward(mf_model *m, int64_t layer, const turn *t, backward *b) {
    mf_query_chunk queries[MF_RUNS];
    mf_attention_args args = attend_args(m, layer, t, queries);
    args.d_o = b->da.data;
    args.do_ld = args.dq_ld = t->q_width;
    args.delta = b->delta.data;
    args.dq = b->dq.data;
    MF_TRY(mf_attention_delta(m->device, &args, b->delta.data));
    MF_TRY(mf_zero(m->device, b->dq.data, (size_t)(m->tokens * t->q_width) * sizeof(float)));
    MF_TRY(mf_exchange_acquire(&m->exchange, t->first_kv, t->kv));
    for (int step = 0; step < mf_comm_size(m->sequence_comm); step++) {
        MF_TRY(mf_exchange_grads(&m->exchange, step, &args.keys, &args.key_chunks));
        MF_TRY(mf_attention_backward(m->device, &args));
        MF_TRY(mf_exchange_end_grads(&m->exchange, step));
    }
    MF_TRY(mf_exchange_release(&m->exchange));
    return rope_back(m, b->dq.data, t->q_width, t->q.count, b->dq_turned.data);
}

/* Own tokens' gradients of the shard's key heads, all ranks' shares added, in the compute type. */
static mf_status take_key_grads(mf_model *m, const turn *t, backward *b) {
    int64_t ld = m->config.kv_heads * m->config.head_dim;
    const float *dk = mf_exchange_dkeys(&m->exchange, t->k.first),
                *dv = mf_exchange_dvalues(&m->exchange, t->v.first);
    MF_TRY(rope_back(m, dk, ld, t->k.count, b->dk_turned.data));
    return mf_cast(m->device, &(mf_cast_args){.rows = m->tokens,
                                              .width = t->kv_width,
                                              .in = dv,
                                              .in_ld = ld,
                                              .in_type = MF_F32,
                                              .out = b->dv_cast.data,
                                              .out_ld = t->kv_width,
                                              .out_type = m->options.type});
}

static mf_status input_grads(mf_model *m, const turn *t, backward *b, bool first) {
    int64_t h = m->config.hidden;
    mf_linear to_q = linear(m, h, t->q_width), to_kv = linear(m, h, t->kv_width);
    MF_TRY(mf_linear_input_grad(&to_q, b->dq_turned.data, t->q_width, t->wq, b->dnormed, h, MF_F32, !first));
    MF_TRY(mf_linear_input_grad(&to_kv, b->dk_turned.data, t->kv_width, t->wk, b->dnormed, h, MF_F32, true));
    return mf_linear_input_grad(&to_kv, b->dv_cast.data, t->kv_width, t->wv, b->dnormed, h, MF_F32, true);
}

static mf_status weight_grads(mf_model *m, int64_t layer, const turn *t, backward *b, float *dw) {
    int64_t h = m->config.hidden, width = m->config.heads * m->config.head_dim;
    mf_linear to_q = linear(m, h, t->q_width), to_kv = linear(m, h, t->kv_width),
              out = linear(m, t->q_width, h);
    MF_TRY(mf_linear_weight_grad(&out, b->dy, h, at_head(m, &m->a, layer, t->q.first), width,
                                 mf_grad_at(dw, t->o.offset)));
    MF_TRY(mf_linear_weight_grad(&to_q, b->dq_turned.data, t->q_width, b->normed, h,
                                 mf_grad_at(dw, t->q.offset)));
    MF_TRY(mf_linear_weight_grad(&to_kv, b->dk_turned.data, t->kv_width, b->normed, h,
                                 mf_grad_at(dw, t->k.offset)));
    return mf_linear_weight_grad(&to_kv, b->dv_cast.data, t->kv_width, b->normed, h,
                                 mf_grad_at(dw, t->v.offset));
}

static mf_status backward_turn(mf_model *m, int64_t layer, mf_stream *s, backward *b) {
    mf_turn from;
    float *dw = NULL;
    MF_TRY(mf_stream_turn(s, &from));
    turn t = describe(m, layer, &from);
    mf_linear out = linear(m, t.q_width, m->config.hidden);
    MF_TRY(mf_linear_input_grad(&out, b->dy, m->config.hidden, t.wo, b->da.data, t.q_width, m->options.type,
                                false));
    MF_TRY(attend_backward(m, layer, &t, b));
    MF_TRY(take_key_grads(m, &t, b));
    MF_TRY(input_grads(m, &t, b, s->turn == 0));
    MF_TRY(mf_stream_grads(s, &dw));
    MF_TRY(weight_grads(m, layer, &t, b, dw));
    return mf_stream_end_turn(s);
}

mf_status mf_attention_block_backward(mf_model *m, int64_t layer, const void *x) {
    mf_status status = MF_OK;
    int64_t h = m->config.hidden, elements = m->tokens * h;
    int norm = mf_layer_param(layer, MF_NORM_ATTENTION);
    backward b = {0};
    mf_buffer dy = {0}, normed = {0}, dnormed = {0};
    mf_stream s = {0};
    MF_GO(mf_dx_cast(m, &dy, &b.dy));
    MF_GO(mf_work(m, elements, mf_dtype_bytes(m->options.type), "attention's input", &normed));
    MF_GO(mf_work(m, elements, sizeof(float), "gradient of attention's input", &dnormed));
    MF_GO(backward_alloc(m, mf_ceil_div(m->config.heads, m->shards),
                         mf_ceil_div(m->config.kv_heads, m->shards), &b));
    b.normed = normed.data;
    b.dnormed = dnormed.data;
    MF_GO(mf_norm_forward(m, norm, x, normed.data));
    MF_GO(mf_exchange_begin_grads(&m->exchange, (int)mf_attention_slot(m, layer)));
    MF_GO(mf_stream_open(&s, m->layout->attention, &m->store, mf_attention_part(m, layer), MF_PASS_BACKWARD));
    while (mf_stream_more(&s)) MF_GO(backward_turn(m, layer, &s, &b));
    MF_GO(mf_stream_finish(&s));
    MF_GO(mf_norm_backward(m, norm, x, b.dnormed));
fail:
    mf_stream_close(&s);
    backward_free(m, &b);
    mf_buffer_free(m->memory, &dnormed);
    mf_buffer_free(m->memory, &normed);
    mf_buffer_free(m->memory, &dy);
    return status;
}
