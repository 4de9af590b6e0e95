/* attention.c: the attention block over whatever its weight stream and its exchange yield, forward and
 * backward.
 *
 *     for each shard j:  q, k, v = n · Wqkv[j];  a = attend(q, all k, all v);  y += a · Wo[j]
 *
 * Where the family has them a bias is added to q, k and v, and q and k are normalised head by head before
 * they are turned; their vectors are whole on every rank, which uses those of its turn's heads.
 *
 * A shard holds some query heads and the key heads whose first query head is among them (the shares are dealt
 * so that this is exact). Its last key head may serve query heads of later shards: backward takes the shards
 * in reverse, so a key head's gradient is whole when its owner's turn comes.
 *
 * Where ranks have different shards at one time (ring) they can't attend together in a turn: then Wqkv goes
 * round first, all heads attend, and Wo goes round after. */
#include "model/model.h"

typedef struct turn {
    mf_slice q, k, v, o; /* in heads; k and v are the same */
    int64_t q_width, kv_width;
    const void *wq, *wk, *wv, *wo; /* where the part at work has them */
} turn;

static turn describe(const mf_model *m, int64_t layer, const mf_turn *from) {
    const mf_model_config *c = &m->config;
    turn t = {.q = mf_param_slice(m, mf_layer_param(m, layer, MF_WQ), from->shard),
              .k = mf_param_slice(m, mf_layer_param(m, layer, MF_WK), from->shard),
              .v = mf_param_slice(m, mf_layer_param(m, layer, MF_WV), from->shard),
              .o = mf_param_slice(m, mf_layer_param(m, layer, MF_WO), from->shard)};
    t.q_width = t.q.count * c->head_dim;
    t.kv_width = t.k.count * c->head_dim;
    t.wq = mf_at_const(m, from->weights, t.q.offset);
    t.wk = mf_at_const(m, from->weights, t.k.offset);
    t.wv = mf_at_const(m, from->weights, t.v.offset);
    t.wo = mf_at_const(m, from->weights, t.o.offset);
    return t;
}

/* Attention's results of a layer, at query head `first`: [tokens, own heads * head_dim]. */
static void *results_at(const mf_model *m, int64_t layer, int64_t first) {
    const mf_exchange *x = &m->side->exchange;
    int64_t tokens = m->attention_slots > 1 ? mf_tokens_before(m, layer) : 0;
    return mf_at(m, m->a.data, tokens * x->width + (first - x->sizes.first_head) * m->config.head_dim);
}

static mf_linear linear(const mf_model *m, int64_t in, int64_t out) {
    return mf_linear_of(m, m->side->tokens, in, out);
}

static mf_status in_compute_type(const mf_model *m, const float *in, int64_t in_ld, int64_t width,
                                 void *out) {
    return mf_cast(m->device, &(mf_cast_args){.rows = m->side->tokens,
                                              .width = width,
                                              .in = in,
                                              .in_ld = in_ld,
                                              .in_type = MF_F32,
                                              .out = out,
                                              .out_ld = width,
                                              .out_type = m->options.type});
}

/* f32 gradients of heads, turned back where they were turned, dense in the compute type. */
static mf_status rope_back(const mf_model *m, const float *in, int64_t in_ld, int64_t heads, void *out) {
    mf_token_rows tokens = mf_own_tokens(m);
    if (mf_is_video(m)) return in_compute_type(m, in, in_ld, heads * m->config.head_dim, out);
    mf_rope_args args = mf_rope_of(m, &tokens, heads);
    args.in = in;
    args.in_f32 = true;
    args.in_ld = in_ld;
    args.out = out;
    args.out_ld = heads * m->config.head_dim;
    args.inverse = true;
    return mf_rope(m->device, &args);
}

static mf_projection of_queries(const mf_model *m, int64_t layer, const turn *t) {
    return mf_projection_of(m, layer, MF_WQ, t->q, t->wq);
}

static mf_projection of_keys(const mf_model *m, int64_t layer, const turn *t) {
    return mf_projection_of(m, layer, MF_WK, t->k, t->wk);
}

static mf_projection of_values(const mf_model *m, int64_t layer, const turn *t) {
    return mf_projection_of(m, layer, MF_WV, t->v, t->wv);
}

static mf_status project(mf_model *m, int64_t layer, const turn *t, const void *normed) {
    mf_exchange *x = &m->side->exchange;
    mf_token_rows tokens = mf_own_tokens(m);
    mf_projection q = of_queries(m, layer, t), k = of_keys(m, layer, t), v = of_values(m, layer, t);
    MF_TRY(mf_project(m, &q, &tokens, normed, mf_exchange_queries(x, t->q.first), x->width));
    MF_TRY(mf_project(m, &k, &tokens, normed, mf_exchange_keys(x, t->k.first), x->kv_width));
    return mf_project(m, &v, &tokens, normed, mf_exchange_values(x, t->v.first), x->kv_width);
}

static mf_status attend(mf_model *m, int64_t layer, int64_t first, int64_t heads) {
    mf_attend call = {
        .first = first, .heads = heads, .window = mf_window_of(m, layer), .a = results_at(m, layer, first)};
    MF_TRY(mf_exchange_attend(&m->side->exchange, &call));
    return m->cache ? mf_cache_attend(m->cache, layer, &call) : MF_OK;
}

static mf_status output(mf_model *m, int64_t layer, const turn *t, float *y, bool first) {
    mf_linear out = linear(m, t->q_width, m->config.hidden);
    return mf_linear_forward(&out, results_at(m, layer, t->o.first), m->side->exchange.width, t->wo, y,
                             m->config.hidden, MF_F32, !first);
}

/* What each turn of a forward stream does: all of attention, or one side of it. */
typedef enum step { PROJECT = 1, ATTEND = 2, OUTPUT = 4 } step;

static mf_status forward_turns(mf_model *m, int64_t layer, const mf_part *part, unsigned steps,
                               const void *normed, float *y) {
    mf_status status = MF_OK;
    mf_stream s = {0};
    MF_GO(mf_part_open(m, part, MF_PASS_FORWARD, &s));
    for (mf_turn from; mf_stream_more(&s);) {
        MF_GO(mf_stream_turn(&s, &from));
        turn t = describe(m, layer, &from);
        if (steps & PROJECT) MF_GO(project(m, layer, &t, normed));
        if (steps & ATTEND) MF_GO(attend(m, layer, t.q.first, t.q.count));
        if (steps & OUTPUT) MF_GO(output(m, layer, &t, y, s.turn == 0));
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
fail:
    mf_stream_close(&s);
    return status;
}

static mf_status forward(mf_model *m, int64_t layer, const void *normed, float *y) {
    const mf_part *part = mf_attention_part(m, layer), *out = mf_output_part(m, layer);
    const mf_exchange_sizes *own = &m->side->exchange.sizes;
    if (part == out) return forward_turns(m, layer, part, PROJECT | ATTEND | OUTPUT, normed, y);
    MF_TRY(forward_turns(m, layer, part, PROJECT, normed, y));
    MF_TRY(attend(m, layer, own->first_head, own->heads));
    return forward_turns(m, layer, out, OUTPUT, normed, y);
}

mf_status mf_attention_block(mf_model *m, int64_t layer, const void *x, void *out) {
    mf_status status = MF_OK;
    mf_norm norm = mf_norm_before(m, layer, MF_NORM_ATTENTION);
    mf_gate_values gate = mf_gate_behind(m, MF_NORM_ATTENTION);
    mf_normed normed = {0};
    mf_buffer y = {0};
    MF_GO(mf_normed_make(m, &norm, x, &normed));
    MF_GO(mf_work(m, m->side->tokens * m->config.hidden, sizeof(float), "attention's output", &y));
    MF_GO(mf_exchange_open(&m->side->exchange, (int)mf_attention_slot(m, layer)));
    MF_GO(forward(m, layer, normed.all, y.data));
    if (m->cache) MF_GO(mf_cache_keep(m->cache, layer));
    MF_GO(mf_residual_add(m, &gate, &normed, y.data, x, out));
fail:
    mf_buffer_free(m->memory, &y);
    mf_normed_free(m, &normed);
    return status;
}

/* What the turns of a backward pass share. Heads are those of a turn where a turn does all, else all of this
 * rank's. */
typedef struct backward {
    mf_gate_values gate;
    mf_block_grad grad;
    const void *normed;                /* [tokens, hidden] compute type */
    mf_buffer dnormed;                 /* [tokens, hidden] f32 += */
    int64_t first_head, first_kv_head; /* of the buffers below: [tokens, heads * head_dim] */
    int64_t q_width, kv_width;
    mf_buffer da, dq, dq_turned, dk_turned, dv_cast;
    mf_buffer plain; /* queries, then keys, of a turn as projected; empty without their norms */
} backward;

static mf_status backward_alloc(mf_model *m, int64_t heads, int64_t kv_heads, backward *b) {
    int64_t q = m->side->tokens * heads * m->config.head_dim,
            kv = m->side->tokens * kv_heads * m->config.head_dim;
    int64_t widest = m->side->tokens * m->config.head_dim *
                     mf_max(mf_param_widest(m, mf_layer_param(m, 0, MF_WQ)),
                            mf_param_widest(m, mf_layer_param(m, 0, MF_WK)));
    size_t size = mf_dtype_bytes(m->options.type);
    MF_TRY(mf_work(m, q, size, "gradient of attention's heads", &b->da));
    MF_TRY(mf_work(m, q, sizeof(float), "query gradients", &b->dq));
    MF_TRY(mf_work(m, q, size, "query gradients turned back", &b->dq_turned));
    MF_TRY(mf_work(m, kv, size, "key gradients turned back", &b->dk_turned));
    MF_TRY(mf_work(m, kv, size, "value gradients", &b->dv_cast));
    if (m->config.qk_norm) MF_TRY(mf_work(m, widest, size, "queries before their norm", &b->plain));
    return mf_work(m, m->side->tokens * m->config.hidden, sizeof(float), "gradient of attention's input",
                   &b->dnormed);
}

static void backward_free(mf_model *m, backward *b) {
    mf_buffer *all[] = {&b->da, &b->dq, &b->dq_turned, &b->dk_turned, &b->dv_cast, &b->plain, &b->dnormed};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(m->memory, all[i]);
}

static void hold_heads(const mf_model *m, backward *b, int64_t first, int64_t heads, int64_t first_kv,
                       int64_t kv) {
    b->first_head = first;
    b->first_kv_head = first_kv;
    b->q_width = heads * m->config.head_dim;
    b->kv_width = kv * m->config.head_dim;
}

static void *at_head(const mf_model *m, const mf_buffer *buffer, int64_t head, int64_t first) {
    return mf_at(m, buffer->data, (head - first) * m->config.head_dim);
}

/* da of the turn's heads. */
static mf_status output_backward(mf_model *m, const turn *t, backward *b) {
    mf_linear out = linear(m, t->q_width, m->config.hidden);
    return mf_linear_input_grad(&out, b->grad.dy, m->config.hidden, t->wo,
                                at_head(m, &b->da, t->o.first, b->first_head), b->q_width, m->options.type,
                                false);
}

static mf_status output_weight_grad(mf_model *m, int64_t layer, const turn *t, const backward *b, float *dw) {
    mf_last_map map = {.rows = m->side->tokens,
                       .width = t->q_width,
                       .a = results_at(m, layer, t->o.first),
                       .a_ld = m->side->exchange.width,
                       .weight = t->wo,
                       .d_weight = mf_grad_at(dw, t->o.offset)};
    return mf_last_map_grads(m, &b->gate, &b->grad, &map);
}

/* dq of the heads held, turned back, and every rank's share of dk and dv. */
static mf_status attend_backward(mf_model *m, int64_t layer, backward *b) {
    int64_t heads = b->q_width / m->config.head_dim;
    mf_attend call = {.first = b->first_head,
                      .heads = heads,
                      .window = mf_window_of(m, layer),
                      .a = results_at(m, layer, b->first_head),
                      .da = b->da.data,
                      .dq = b->dq.data};
    MF_TRY(mf_exchange_attend_backward(&m->side->exchange, &call));
    return rope_back(m, b->dq.data, b->q_width, heads, b->dq_turned.data);
}

/* Own tokens' gradients of the key heads held, all ranks' shares added, in the compute type. */
static mf_status take_key_grads(mf_model *m, backward *b) {
    const mf_exchange *x = &m->side->exchange;
    const float *dk = mf_exchange_dkeys(x, b->first_kv_head), *dv = mf_exchange_dvalues(x, b->first_kv_head);
    MF_TRY(rope_back(m, dk, x->kv_width, b->kv_width / m->config.head_dim, b->dk_turned.data));
    return in_compute_type(m, dv, x->kv_width, b->kv_width, b->dv_cast.data);
}

/* d: [tokens, ...] at distance ld, the gradient of a turn's queries or keys, becomes that of what was
 * projected, which is projected again: keeping it for backward would cost as much memory as they do. */
static mf_status norm_backward(mf_model *m, const mf_projection *p, const backward *b, void *d, int64_t ld) {
    if (p->norm < 0) return MF_OK;
    MF_TRY(mf_project_plain(m, p, m->side->tokens, b->normed, b->plain.data, p->width));
    mf_headnorm_args args = mf_head_norm_of(m, p, m->side->tokens, b->plain.data, p->width);
    args.d = d;
    args.d_ld = ld;
    args.dweight = mf_replica_grad(m, p->norm, 0);
    return mf_headnorm_backward(m->device, &args);
}

static mf_status norms_backward(mf_model *m, int64_t layer, const turn *t, backward *b) {
    mf_projection q = of_queries(m, layer, t), k = of_keys(m, layer, t);
    MF_TRY(norm_backward(m, &q, b, at_head(m, &b->dq_turned, t->q.first, b->first_head), b->q_width));
    return norm_backward(m, &k, b, at_head(m, &b->dk_turned, t->k.first, b->first_kv_head), b->kv_width);
}

static mf_status bias_grad(mf_model *m, const mf_projection *p, const void *d, int64_t ld) {
    if (p->bias < 0) return MF_OK;
    return mf_bias_backward(m->device, &(mf_bias_args){.type = m->options.type,
                                                       .rows = m->side->tokens,
                                                       .width = p->width,
                                                       .d = d,
                                                       .ld = ld,
                                                       .d_bias = mf_replica_grad(
                                                           m, p->bias, p->heads.first * m->config.head_dim)});
}

static mf_status bias_grads(mf_model *m, int64_t layer, const turn *t, const backward *b) {
    mf_projection q = of_queries(m, layer, t), k = of_keys(m, layer, t), v = of_values(m, layer, t);
    MF_TRY(bias_grad(m, &q, at_head(m, &b->dq_turned, t->q.first, b->first_head), b->q_width));
    MF_TRY(bias_grad(m, &k, at_head(m, &b->dk_turned, t->k.first, b->first_kv_head), b->kv_width));
    return bias_grad(m, &v, at_head(m, &b->dv_cast, t->v.first, b->first_kv_head), b->kv_width);
}

static mf_status input_grads(mf_model *m, const turn *t, backward *b, bool first) {
    int64_t h = m->config.hidden;
    mf_linear to_q = linear(m, h, t->q_width), to_kv = linear(m, h, t->kv_width);
    const void *dq = at_head(m, &b->dq_turned, t->q.first, b->first_head);
    const void *dk = at_head(m, &b->dk_turned, t->k.first, b->first_kv_head);
    const void *dv = at_head(m, &b->dv_cast, t->v.first, b->first_kv_head);
    float *dx = b->dnormed.data;
    MF_TRY(mf_linear_input_grad(&to_q, dq, b->q_width, t->wq, dx, h, MF_F32, !first));
    MF_TRY(mf_linear_input_grad(&to_kv, dk, b->kv_width, t->wk, dx, h, MF_F32, true));
    return mf_linear_input_grad(&to_kv, dv, b->kv_width, t->wv, dx, h, MF_F32, true);
}

static mf_status input_weight_grads(mf_model *m, const turn *t, const backward *b, float *dw) {
    int64_t h = m->config.hidden;
    mf_linear to_q = linear(m, h, t->q_width), to_kv = linear(m, h, t->kv_width);
    const void *dq = at_head(m, &b->dq_turned, t->q.first, b->first_head);
    const void *dk = at_head(m, &b->dk_turned, t->k.first, b->first_kv_head);
    const void *dv = at_head(m, &b->dv_cast, t->v.first, b->first_kv_head);
    MF_TRY(mf_linear_weight_grad(&to_q, dq, b->q_width, b->normed, h, mf_grad_at(dw, t->q.offset)));
    MF_TRY(mf_linear_weight_grad(&to_kv, dk, b->kv_width, b->normed, h, mf_grad_at(dw, t->k.offset)));
    return mf_linear_weight_grad(&to_kv, dv, b->kv_width, b->normed, h, mf_grad_at(dw, t->v.offset));
}

static mf_status backward_turn(mf_model *m, int64_t layer, mf_stream *s, unsigned steps, backward *b) {
    mf_turn from;
    float *dw = NULL;
    MF_TRY(mf_stream_turn(s, &from));
    turn t = describe(m, layer, &from);
    if (steps & ATTEND) hold_heads(m, b, t.q.first, t.q.count, t.k.first, t.k.count);
    if (steps & OUTPUT) MF_TRY(output_backward(m, &t, b));
    if (steps & ATTEND) MF_TRY(attend_backward(m, layer, b));
    if (steps & ATTEND) MF_TRY(take_key_grads(m, b));
    if (steps & PROJECT) MF_TRY(norms_backward(m, layer, &t, b));
    if (steps & PROJECT) MF_TRY(bias_grads(m, layer, &t, b));
    if (steps & PROJECT) MF_TRY(input_grads(m, &t, b, s->turn == 0));
    MF_TRY(mf_stream_grads(s, &dw));
    if (steps & OUTPUT) MF_TRY(output_weight_grad(m, layer, &t, b, dw));
    if (steps & PROJECT) MF_TRY(input_weight_grads(m, &t, b, dw));
    return mf_stream_end_turn(s);
}

static mf_status backward_turns(mf_model *m, int64_t layer, const mf_part *part, unsigned steps,
                                backward *b) {
    mf_status status = MF_OK;
    mf_stream s = {0};
    MF_GO(mf_part_open(m, part, MF_PASS_BACKWARD, &s));
    while (mf_stream_more(&s)) MF_GO(backward_turn(m, layer, &s, steps, b));
    MF_GO(mf_stream_finish(&s));
fail:
    mf_stream_close(&s);
    return status;
}

static mf_status backward_turnwise(mf_model *m, int64_t layer, backward *b) {
    MF_TRY(backward_alloc(m, mf_param_widest(m, mf_layer_param(m, layer, MF_WQ)),
                          mf_param_widest(m, mf_layer_param(m, layer, MF_WK)), b));
    return backward_turns(m, layer, mf_attention_part(m, layer), OUTPUT | ATTEND | PROJECT, b);
}

static mf_status backward_in_phases(mf_model *m, int64_t layer, backward *b) {
    const mf_exchange_sizes *own = &m->side->exchange.sizes;
    MF_TRY(backward_alloc(m, own->heads, own->kv_heads, b));
    hold_heads(m, b, own->first_head, own->heads, own->first_kv_head, own->kv_heads);
    MF_TRY(backward_turns(m, layer, mf_output_part(m, layer), OUTPUT, b));
    MF_TRY(attend_backward(m, layer, b));
    MF_TRY(take_key_grads(m, b));
    return backward_turns(m, layer, mf_attention_part(m, layer), PROJECT, b);
}

mf_status mf_attention_block_backward(mf_model *m, int64_t layer, const void *x) {
    mf_status status = MF_OK;
    mf_norm norm = mf_norm_before(m, layer, MF_NORM_ATTENTION);
    bool phases = mf_attention_part(m, layer) != mf_output_part(m, layer);
    backward b = {.gate = mf_gate_behind(m, MF_NORM_ATTENTION)};
    mf_normed normed = {0};
    MF_GO(mf_block_grad_make(m, &b.gate, &b.grad));
    MF_GO(mf_normed_make(m, &norm, x, &normed));
    b.normed = normed.all;
    MF_GO(mf_exchange_begin_grads(&m->side->exchange, (int)mf_attention_slot(m, layer)));
    MF_GO(phases ? backward_in_phases(m, layer, &b) : backward_turnwise(m, layer, &b));
    MF_GO(mf_residual_backward(m, &normed, &norm, x, b.dnormed.data));
fail:
    backward_free(m, &b);
    mf_normed_free(m, &normed);
    mf_block_grad_free(m, &b.grad);
    return status;
}
