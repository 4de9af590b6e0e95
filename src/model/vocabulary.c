/* vocabulary.c: the embedding and the output head with its cross-entropy, folded: vocabulary shards stream
 * past, each rank keeps its tokens' running log-sum-exp, and logits exist for one shard and one tile of rows
 * at a time. */
#include "model/model.h"

/* Values of a tile of logits: 32 MiB in f32. */
enum { LOGITS_MAX = 8 << 20 };

static mf_embed_args embed_args(const mf_model *m, const int32_t *ids, int shard) {
    mf_slice slice = mf_param_slice(m, mf_embedding_param(m), shard);
    return (mf_embed_args){.type = m->options.type,
                           .n = m->tokens,
                           .h = m->config.hidden,
                           .first = slice.first,
                           .rows = slice.count,
                           .ids = ids};
}

mf_status mf_embed(mf_model *m, const int32_t *ids, void *out) {
    mf_status status = MF_OK;
    mf_stream s = {0};
    MF_GO(mf_stream_open(&s, m->layout->vocabulary, &m->store, mf_embedding_part(m), MF_PASS_FORWARD));
    for (mf_turn turn; mf_stream_more(&s);) {
        MF_GO(mf_stream_turn(&s, &turn));
        mf_embed_args args = embed_args(m, ids, turn.shard);
        args.table = turn.weights;
        args.out = out;
        MF_GO(mf_embed_forward(m->device, &args));
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
fail:
    mf_stream_close(&s);
    return status;
}

mf_status mf_embed_grads(mf_model *m, const int32_t *ids) {
    mf_status status = MF_OK;
    mf_stream s = {0};
    MF_GO(mf_stream_open(&s, m->layout->vocabulary, &m->store, mf_embedding_part(m), MF_PASS_GRADS));
    for (mf_turn turn; mf_stream_more(&s);) {
        MF_GO(mf_stream_turn(&s, &turn));
        mf_embed_args args = embed_args(m, ids, turn.shard);
        args.d_out = m->dx.data;
        MF_GO(mf_stream_grads(&s, &args.d_table));
        MF_GO(mf_embed_backward(m->device, &args));
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
fail:
    mf_stream_close(&s);
    return status;
}

/* One evaluation of the loss. */
typedef struct head {
    mf_model *model;
    const int32_t *labels;
    int64_t tile;       /* rows */
    mf_buffer normed;   /* [tokens, hidden] compute type */
    mf_buffer state;    /* [3][tokens] f32: maximum, sum, label's logit */
    mf_buffer logits;   /* [tile, width of a shard] f32 */
    mf_buffer d_logits; /* the same in the compute type */
    mf_buffer dnormed;  /* [tokens, hidden] f32 */
} head;

static mf_status head_begin(head *e, mf_model *m, const void *x, const int32_t *labels, bool grads) {
    int64_t h = m->config.hidden, width = mf_ceil_div(m->config.vocab, m->shards);
    size_t size = mf_dtype_bytes(m->options.type);
    *e = (head){.model = m, .labels = labels};
    e->tile = mf_max(1, mf_min(mf_min(m->tokens, MF_ROW_TILE), LOGITS_MAX / width));
    MF_TRY(mf_work(m, m->tokens * h, size, "the head's input", &e->normed));
    MF_TRY(mf_work(m, 3 * m->tokens, sizeof(float), "the loss's running sums", &e->state));
    MF_TRY(mf_work(m, e->tile * width, sizeof(float), "logits of a tile", &e->logits));
    if (grads) {
        MF_TRY(mf_work(m, e->tile * width, size, "gradient of a tile of logits", &e->d_logits));
        MF_TRY(mf_work(m, m->tokens * h, sizeof(float), "gradient of the head's input", &e->dnormed));
    }
    return mf_norm_forward(m, mf_final_norm_param(m), x, e->normed.data);
}

static void head_end(head *e) {
    mf_buffer *all[] = {&e->normed, &e->state, &e->logits, &e->d_logits, &e->dnormed};
    for (size_t i = 0; e->model && i < sizeof all / sizeof *all; i++)
        mf_buffer_free(e->model->memory, all[i]);
}

static mf_xent_args rows_of(const head *e, int64_t row, int64_t rows) {
    float *state = e->state.data;
    int64_t tokens = e->model->tokens;
    if (!state) return (mf_xent_args){0};
    return (mf_xent_args){.n = rows,
                          .labels = e->labels + row,
                          .maximum = state + row,
                          .sum = state + tokens + row,
                          .label_logit = state + 2 * tokens + row,
                          .type = e->model->options.type};
}

static mf_status logits_of(head *e, const mf_slice *slice, const void *weight, int64_t row, int64_t rows,
                           mf_xent_args *out) {
    mf_model *m = e->model;
    int64_t h = m->config.hidden;
    mf_linear l = {.device = m->device, .type = m->options.type, .n = rows, .in = h, .out = slice->count};
    *out = rows_of(e, row, rows);
    out->width = slice->count;
    out->first = slice->first;
    out->logits = e->logits.data;
    return mf_linear_forward(&l, mf_at(m, e->normed.data, row * h), h, weight, out->logits, slice->count,
                             MF_F32, false);
}

static mf_status loss_pass(head *e, double *loss) {
    mf_status status = MF_OK;
    mf_model *m = e->model;
    mf_stream s = {0};
    mf_xent_args all = rows_of(e, 0, m->tokens), args;
    MF_GO(mf_xent_begin(m->device, &all));
    MF_GO(mf_stream_open(&s, m->layout->vocabulary, &m->store, mf_head_part(m), MF_PASS_FORWARD));
    for (mf_turn turn; mf_stream_more(&s);) {
        MF_GO(mf_stream_turn(&s, &turn));
        mf_slice slice = mf_param_slice(m, mf_head_param(m), turn.shard);
        for (int64_t row = 0; row < m->tokens; row += e->tile) {
            MF_GO(logits_of(e, &slice, turn.weights, row, mf_min(e->tile, m->tokens - row), &args));
            MF_GO(mf_xent_update(m->device, &args));
        }
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
    MF_GO(mf_xent_loss(m->device, &all, loss));
fail:
    mf_stream_close(&s);
    return status;
}

static mf_status grad_tile(head *e, mf_stream *s, const mf_turn *turn, int64_t row, float scale, float **dw) {
    mf_model *m = e->model;
    int64_t h = m->config.hidden, rows = mf_min(e->tile, m->tokens - row);
    mf_slice slice = mf_param_slice(m, mf_head_param(m), turn->shard);
    mf_linear l = {.device = m->device, .type = m->options.type, .n = rows, .in = h, .out = slice.count};
    mf_xent_args args;
    MF_TRY(logits_of(e, &slice, turn->weights, row, rows, &args));
    args.scale = scale;
    args.d_logits = e->d_logits.data;
    MF_TRY(mf_xent_grad(m->device, &args));
    MF_TRY(mf_linear_input_grad(&l, args.d_logits, slice.count, turn->weights,
                                (float *)e->dnormed.data + row * h, h, MF_F32, s->turn > 0));
    if (!*dw) MF_TRY(mf_stream_grads(s, dw));
    return mf_linear_weight_grad(&l, args.d_logits, slice.count, mf_at(m, e->normed.data, row * h), h, *dw);
}

static mf_status grad_pass(head *e, float scale) {
    mf_status status = MF_OK;
    mf_model *m = e->model;
    mf_stream s = {0};
    MF_GO(mf_stream_open(&s, m->layout->vocabulary, &m->store, mf_head_part(m), MF_PASS_BACKWARD));
    for (mf_turn turn; mf_stream_more(&s);) {
        float *dw = NULL;
        MF_GO(mf_stream_turn(&s, &turn));
        for (int64_t row = 0; row < m->tokens; row += e->tile)
            MF_GO(grad_tile(e, &s, &turn, row, scale, &dw));
        if (!dw) MF_GO(mf_stream_grads(&s, &dw)); /* no rows here: others' shares still pass through */
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
fail:
    mf_stream_close(&s);
    return status;
}

mf_status mf_head_loss(mf_model *m, const void *x, const int32_t *labels, double *loss) {
    head e;
    mf_status status = head_begin(&e, m, x, labels, false);
    if (!status) status = loss_pass(&e, loss);
    head_end(&e);
    return status;
}

mf_status mf_head_gradients(mf_model *m, const void *x, const int32_t *labels, float scale, double *loss) {
    mf_status status = MF_OK;
    head e;
    MF_GO(head_begin(&e, m, x, labels, true));
    MF_GO(loss_pass(&e, loss));
    MF_GO(grad_pass(&e, scale));
    MF_GO(mf_zero(m->device, m->dx.data, (size_t)(m->tokens * m->config.hidden) * sizeof(float)));
    MF_GO(mf_norm_backward(m, mf_final_norm_param(m), x, e.dnormed.data));
fail:
    head_end(&e);
    return status;
}
