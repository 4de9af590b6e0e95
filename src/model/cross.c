/* cross.c: attention of all tokens over the condition, which every rank has whole: no other rank is needed,
 * whatever the stream. Nothing is kept but the block's input and output; backward makes the rest again. */
#include "model/model.h"

/* One turn's heads. */
typedef struct turn {
    mf_slice q, k, v, o;
    int64_t width;
    const void *wq, *wk, *wv, *wo;
} turn;

static turn describe(const mf_model *m, int64_t layer, const mf_turn *from) {
    turn t = {.q = mf_param_slice(m, mf_layer_param(m, layer, MF_CROSS_Q), from->shard),
              .k = mf_param_slice(m, mf_layer_param(m, layer, MF_CROSS_K), from->shard),
              .v = mf_param_slice(m, mf_layer_param(m, layer, MF_CROSS_V), from->shard),
              .o = mf_param_slice(m, mf_layer_param(m, layer, MF_CROSS_O), from->shard)};
    t.width = t.q.count * m->config.head_dim;
    t.wq = mf_at_const(m, from->weights, t.q.offset);
    t.wk = mf_at_const(m, from->weights, t.k.offset);
    t.wv = mf_at_const(m, from->weights, t.v.offset);
    t.wo = mf_at_const(m, from->weights, t.o.offset);
    return t;
}

/* One pass of the block; widths are of the turn that has most. */
typedef struct pass {
    mf_model *model;
    mf_normed x;      /* [tokens, hidden]: as it came */
    mf_buffer q, a;   /* [tokens, width] compute type */
    mf_buffer k, v;   /* [conditions, width] compute type */
    mf_buffer lse;    /* [tokens, heads] f32 */
    mf_buffer y;      /* [tokens, hidden] f32: the output, or the input's gradient */
    mf_block_grad dy; /* backward, and what follows */
    mf_buffer da, dq_narrow, dk_narrow, dv_narrow; /* compute type */
    mf_buffer dq, dk, dv, delta;                   /* f32 */
} pass;

static mf_status begin(pass *p, mf_model *m, int64_t layer, const void *x) {
    size_t size = mf_dtype_bytes(m->options.type);
    int64_t heads = mf_param_widest(m, mf_layer_param(m, layer, MF_CROSS_Q));
    int64_t width = heads * m->config.head_dim, tokens = m->side->tokens;
    *p = (pass){.model = m};
    MF_TRY(mf_normed_plain(m, x, &p->x));
    MF_TRY(mf_work(m, tokens * width, size, "queries of the condition", &p->q));
    MF_TRY(mf_work(m, tokens * width, size, "what they found", &p->a));
    MF_TRY(mf_work(m, mf_condition_rows(m) * width, size, "keys of the condition", &p->k));
    MF_TRY(mf_work(m, mf_condition_rows(m) * width, size, "values of the condition", &p->v));
    MF_TRY(mf_work(m, tokens * heads, sizeof(float), "attention's log-sums", &p->lse));
    return mf_work(m, tokens * m->config.hidden, sizeof(float), "the condition's share", &p->y);
}

static mf_status begin_backward(pass *p, mf_model *m, int64_t layer) {
    size_t size = mf_dtype_bytes(m->options.type);
    int64_t heads = mf_param_widest(m, mf_layer_param(m, layer, MF_CROSS_Q));
    int64_t width = heads * m->config.head_dim, tokens = m->side->tokens, rows = mf_condition_rows(m);
    MF_TRY(mf_block_grad_make(m, &(mf_gate_values){0}, &p->dy));
    MF_TRY(mf_work(m, tokens * width, size, "gradient of heads", &p->da));
    MF_TRY(mf_work(m, tokens * width, size, "query gradients", &p->dq_narrow));
    MF_TRY(mf_work(m, rows * width, size, "key gradients", &p->dk_narrow));
    MF_TRY(mf_work(m, rows * width, size, "value gradients", &p->dv_narrow));
    MF_TRY(mf_work(m, tokens * width, sizeof(float), "query gradients", &p->dq));
    MF_TRY(mf_work(m, rows * width, sizeof(float), "key gradients", &p->dk));
    MF_TRY(mf_work(m, rows * width, sizeof(float), "value gradients", &p->dv));
    return mf_work(m, tokens * heads, sizeof(float), "attention's row sums", &p->delta);
}

static void end(pass *p) {
    mf_buffer *all[] = {&p->q,  &p->a,         &p->k,         &p->v,  &p->lse, &p->y,         &p->da,
                        &p->dq, &p->dq_narrow, &p->dk_narrow, &p->dk, &p->dv,  &p->dv_narrow, &p->delta};
    mf_free_all(p->model, all, sizeof all / sizeof *all);
    mf_block_grad_free(p->model, &p->dy);
    mf_normed_free(p->model, &p->x);
}

static mf_status project(pass *p, const turn *t) {
    mf_model *m = p->model;
    int64_t h = m->config.hidden;
    mf_linear own = mf_linear_of(m, m->side->tokens, h, t->width),
              its = mf_linear_of(m, mf_condition_rows(m), h, t->width);
    const void *condition = m->stdit.condition.data;
    MF_TRY(mf_linear_forward(&own, p->x.all, h, t->wq, p->q.data, t->width, m->options.type, false));
    MF_TRY(mf_linear_forward(&its, condition, h, t->wk, p->k.data, t->width, m->options.type, false));
    return mf_linear_forward(&its, condition, h, t->wv, p->v.data, t->width, m->options.type, false);
}

/* Clips are sequences of queries. The chunks must last as long as the arguments. */
static mf_attention_args args_of(const pass *p, const turn *t, mf_query_chunk *queries, mf_key_chunk *keys) {
    const mf_model *m = p->model;
    int64_t rows = m->config.video.condition_tokens, own = m->side->tokens / m->options.batch;
    *queries = (mf_query_chunk){.rows = own};
    *keys = (mf_key_chunk){.rows = rows,
                           .k = p->k.data,
                           .v = p->v.data,
                           .ld = t->width,
                           .batch_ld = rows * t->width,
                           .dk = p->dk.data,
                           .dv = p->dv.data,
                           .grad_ld = t->width,
                           .grad_batch_ld = rows * t->width};
    return (mf_attention_args){.type = m->options.type,
                               .batch = m->options.batch,
                               .tokens = own,
                               .heads = t->q.count,
                               .group = 1,
                               .kv_heads = t->q.count,
                               .head_dim = m->config.head_dim,
                               .all_keys = true,
                               .scale = 1.0f / __builtin_sqrtf((float)m->config.head_dim),
                               .query_chunks = 1,
                               .key_chunks = 1,
                               .queries = queries,
                               .keys = keys,
                               .q = p->q.data,
                               .q_ld = t->width,
                               .o = p->a.data,
                               .o_ld = t->width,
                               .lse = p->lse.data,
                               .lse_ld = t->q.count,
                               .d_o = p->da.data,
                               .do_ld = t->width,
                               .delta = p->delta.data,
                               .dq = p->dq.data,
                               .dq_ld = t->width};
}

static mf_status attend(pass *p, const turn *t) {
    mf_query_chunk queries;
    mf_key_chunk keys;
    mf_attention_args args = args_of(p, t, &queries, &keys);
    MF_TRY(project(p, t));
    return mf_attention_forward(p->model->device, &args);
}

static mf_status forward_turn(pass *p, int64_t layer, mf_stream *s) {
    mf_model *m = p->model;
    mf_turn from;
    MF_TRY(mf_stream_turn(s, &from));
    turn t = describe(m, layer, &from);
    mf_linear out = mf_linear_of(m, m->side->tokens, t.width, m->config.hidden);
    MF_TRY(attend(p, &t));
    MF_TRY(
        mf_linear_forward(&out, p->a.data, t.width, t.wo, p->y.data, m->config.hidden, MF_F32, s->turn > 0));
    return mf_stream_end_turn(s);
}

mf_status mf_cross_block(mf_model *m, int64_t layer, const void *x, void *out) {
    mf_status status = MF_OK;
    pass p;
    mf_stream s = {0};
    MF_GO(begin(&p, m, layer, x));
    MF_GO(mf_part_open(m, mf_cross_part(m, layer), MF_PASS_FORWARD, &s));
    while (mf_stream_more(&s)) MF_GO(forward_turn(&p, layer, &s));
    MF_GO(mf_stream_finish(&s));
    MF_GO(mf_residual_add(m, &(mf_gate_values){0}, &p.x, p.y.data, x, out));
fail:
    mf_stream_close(&s);
    end(&p);
    return status;
}

static mf_status attend_backward(pass *p, const turn *t) {
    mf_model *m = p->model;
    int64_t own = m->side->tokens * t->width, its = mf_condition_rows(m) * t->width;
    mf_dtype type = m->options.type;
    mf_query_chunk queries;
    mf_key_chunk keys;
    mf_attention_args args = args_of(p, t, &queries, &keys);
    MF_TRY(mf_zero(m->device, p->dq.data, (size_t)own * sizeof(float)));
    MF_TRY(mf_zero(m->device, p->dk.data, (size_t)its * sizeof(float)));
    MF_TRY(mf_zero(m->device, p->dv.data, (size_t)its * sizeof(float)));
    MF_TRY(mf_attention_delta(m->device, &args, p->delta.data));
    MF_TRY(mf_attention_backward(m->device, &args));
    MF_TRY(mf_convert(m->device, own, p->dq.data, MF_F32, p->dq_narrow.data, type));
    MF_TRY(mf_convert(m->device, its, p->dk.data, MF_F32, p->dk_narrow.data, type));
    return mf_convert(m->device, its, p->dv.data, MF_F32, p->dv_narrow.data, type);
}

static mf_status input_grads(pass *p, const turn *t, bool first) {
    mf_model *m = p->model;
    int64_t h = m->config.hidden;
    float *condition = m->stdit.d_condition.data;
    mf_linear own = mf_linear_of(m, m->side->tokens, h, t->width),
              its = mf_linear_of(m, mf_condition_rows(m), h, t->width);
    MF_TRY(mf_linear_input_grad(&own, p->dq_narrow.data, t->width, t->wq, p->y.data, h, MF_F32, !first));
    MF_TRY(mf_linear_input_grad(&its, p->dk_narrow.data, t->width, t->wk, condition, h, MF_F32, true));
    return mf_linear_input_grad(&its, p->dv_narrow.data, t->width, t->wv, condition, h, MF_F32, true);
}

static mf_status weight_grads(pass *p, const turn *t, float *dw) {
    mf_model *m = p->model;
    int64_t h = m->config.hidden;
    mf_linear own = mf_linear_of(m, m->side->tokens, h, t->width),
              its = mf_linear_of(m, mf_condition_rows(m), h, t->width);
    mf_linear out = mf_linear_of(m, m->side->tokens, t->width, h);
    const void *condition = m->stdit.condition.data;
    MF_TRY(
        mf_linear_weight_grad(&own, p->dq_narrow.data, t->width, p->x.all, h, mf_grad_at(dw, t->q.offset)));
    MF_TRY(
        mf_linear_weight_grad(&its, p->dk_narrow.data, t->width, condition, h, mf_grad_at(dw, t->k.offset)));
    MF_TRY(
        mf_linear_weight_grad(&its, p->dv_narrow.data, t->width, condition, h, mf_grad_at(dw, t->v.offset)));
    return mf_linear_weight_grad(&out, p->dy.dy, h, p->a.data, t->width, mf_grad_at(dw, t->o.offset));
}

static mf_status backward_turn(pass *p, int64_t layer, mf_stream *s) {
    mf_model *m = p->model;
    mf_turn from;
    float *dw = NULL;
    MF_TRY(mf_stream_turn(s, &from));
    turn t = describe(m, layer, &from);
    mf_linear out = mf_linear_of(m, m->side->tokens, t.width, m->config.hidden);
    MF_TRY(attend(p, &t));
    MF_TRY(mf_linear_input_grad(&out, p->dy.dy, m->config.hidden, t.wo, p->da.data, t.width, m->options.type,
                                false));
    MF_TRY(attend_backward(p, &t));
    MF_TRY(input_grads(p, &t, s->turn == 0));
    MF_TRY(mf_stream_grads(s, &dw));
    MF_TRY(weight_grads(p, &t, dw));
    return mf_stream_end_turn(s);
}

mf_status mf_cross_block_backward(mf_model *m, int64_t layer, const void *x) {
    mf_status status = MF_OK;
    pass p;
    mf_stream s = {0};
    MF_GO(begin(&p, m, layer, x));
    MF_GO(begin_backward(&p, m, layer));
    MF_GO(mf_part_open(m, mf_cross_part(m, layer), MF_PASS_BACKWARD, &s));
    while (mf_stream_more(&s)) MF_GO(backward_turn(&p, layer, &s));
    MF_GO(mf_stream_finish(&s));
    MF_GO(mf_residual_backward_plain(m, &p.x, p.y.data));
fail:
    mf_stream_close(&s);
    end(&p);
    return status;
}
