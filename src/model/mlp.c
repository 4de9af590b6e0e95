/* mlp.c: the MLP block, gated or plain, over whatever its weight stream yields, forward and backward.
 *
 *     for each shard j:  y += (f(n · Wgate[j]) * (n · Wup[j])) · Wdown[j]
 *                   or:  y += f(n · Wup[j]) · Wdown[j]
 *
 * Rows are taken a tile at a time, so that the shard's inner values never exist for all tokens, unless they
 * are kept. */
#include "model/model.h"

typedef struct turn {
    int64_t first, width; /* inner features of the shard; first: of this rank's own */
    const void *wgate, *wup, *wdown;
    int64_t gate_offset, up_offset, down_offset;
} turn;

static turn describe(const mf_model *m, int64_t layer, const mf_turn *from) {
    mf_slice up = mf_param_slice(m, mf_layer_param(m, layer, MF_WUP), from->shard);
    mf_slice down = mf_param_slice(m, mf_layer_param(m, layer, MF_WDOWN), from->shard);
    turn t = {.first = up.first - mf_param_own(m, mf_layer_param(m, layer, MF_WUP)).first,
              .width = up.count,
              .wup = mf_at_const(m, from->weights, up.offset),
              .wdown = mf_at_const(m, from->weights, down.offset),
              .up_offset = up.offset,
              .down_offset = down.offset};
    if (!mf_layer_has(m, MF_WGATE)) return t;
    t.gate_offset = mf_param_slice(m, mf_layer_param(m, layer, MF_WGATE), from->shard).offset;
    t.wgate = mf_at_const(m, from->weights, t.gate_offset);
    return t;
}

/* One pass of the block, and its workspace of one tile of rows and one shard. */
typedef struct pass {
    mf_model *model;
    int64_t layer, ffn; /* ffn: this rank's inner features */
    bool gated;
    mf_norm norm;
    mf_gate_values gate_behind;
    mf_normed normed;             /* [tokens, hidden] compute type */
    mf_buffer gate, up;           /* not kept: [tile, width] compute type; gate: of a gated MLP, as dgate */
    mf_buffer inner;              /* [tile, width] compute type */
    mf_buffer dinner, dgate, dup; /* backward, the same */
} pass;

/* Where gate and up of a tile of rows lie. */
typedef struct inner_rows {
    void *gate, *up;
    int64_t ld;
} inner_rows;

static inner_rows inner_at(const pass *p, const turn *t, int64_t row) {
    const mf_model *m = p->model;
    if (m->mlp_slots == 0) return (inner_rows){p->gate.data, p->up.data, t->width};
    int64_t before = m->mlp_slots > 1 ? mf_tokens_before(m, p->layer) : 0;
    int64_t at = (before + row) * p->ffn + t->first;
    return (inner_rows){mf_at(m, m->gate.data, at), mf_at(m, m->up.data, at), p->ffn};
}

static mf_status pass_begin(pass *p, mf_model *m, int64_t layer, const void *x, bool backward) {
    size_t size = mf_dtype_bytes(m->options.type);
    int up = mf_layer_param(m, layer, MF_WUP);
    int64_t tile = mf_min(m->side->tokens, MF_ROW_TILE) * mf_param_widest(m, up);
    *p = (pass){.model = m, .layer = layer, .ffn = mf_param_own(m, up).count};
    p->gated = mf_layer_has(m, MF_WGATE);
    p->norm = mf_norm_before(m, layer, MF_NORM_MLP);
    p->gate_behind = mf_gate_behind(m, MF_NORM_MLP);
    int64_t gate_tile = p->gated ? tile : 0;
    MF_TRY(mf_normed_make(m, &p->norm, x, &p->normed));
    MF_TRY(mf_work(m, tile, size, "the MLP's inner values", &p->inner));
    if (m->mlp_slots == 0) {
        MF_TRY(mf_work(m, gate_tile, size, "the MLP's gate", &p->gate));
        MF_TRY(mf_work(m, tile, size, "the MLP's up", &p->up));
    }
    if (!backward) return MF_OK;
    MF_TRY(mf_work(m, tile, size, "gradient of the MLP's inner values", &p->dinner));
    MF_TRY(mf_work(m, gate_tile, size, "gradient of the MLP's gate", &p->dgate));
    return mf_work(m, tile, size, "gradient of the MLP's up", &p->dup);
}

static void pass_end(pass *p) {
    mf_buffer *all[] = {&p->gate, &p->up, &p->inner, &p->dinner, &p->dgate, &p->dup};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(p->model->memory, all[i]);
    mf_normed_free(p->model, &p->normed);
}

static mf_status gate_and_up(pass *p, const turn *t, int64_t row, int64_t rows) {
    mf_model *m = p->model;
    int64_t h = m->config.hidden;
    inner_rows to = inner_at(p, t, row);
    mf_linear in = mf_linear_of(m, rows, h, t->width);
    const void *x = mf_at_const(m, p->normed.all, row * h);
    if (p->gated) MF_TRY(mf_linear_forward(&in, x, h, t->wgate, to.gate, to.ld, m->options.type, false));
    return mf_linear_forward(&in, x, h, t->wup, to.up, to.ld, m->options.type, false);
}

/* A plain MLP's only values are those that the activation is of. */
static mf_activation_args activated(const pass *p, const turn *t, int64_t row, int64_t rows) {
    inner_rows at = inner_at(p, t, row);
    return (mf_activation_args){.kind = mf_is_video(p->model) ? MF_GELU : MF_SILU,
                                .type = p->model->options.type,
                                .n = rows,
                                .width = t->width,
                                .gate = p->gated ? at.gate : at.up,
                                .up = p->gated ? at.up : NULL,
                                .in_ld = at.ld,
                                .out = p->inner.data,
                                .d_out = p->dinner.data,
                                .d_gate = p->gated ? p->dgate.data : p->dup.data,
                                .d_up = p->gated ? p->dup.data : NULL};
}

static mf_status forward_tile(pass *p, const turn *t, int64_t row, int64_t rows, float *y, bool first) {
    mf_model *m = p->model;
    int64_t h = m->config.hidden;
    MF_TRY(gate_and_up(p, t, row, rows));
    mf_activation_args act = activated(p, t, row, rows);
    MF_TRY(mf_activation_forward(m->device, &act));
    mf_linear down = mf_linear_of(m, rows, t->width, h);
    return mf_linear_forward(&down, p->inner.data, t->width, t->wdown, y + row * h, h, MF_F32, !first);
}

mf_status mf_mlp_block(mf_model *m, int64_t layer, const void *x, void *out) {
    mf_status status = MF_OK;
    pass p;
    mf_buffer y = {0};
    mf_stream s = {0};
    MF_GO(pass_begin(&p, m, layer, x, false));
    MF_GO(mf_work(m, m->side->tokens * m->config.hidden, sizeof(float), "the MLP's output", &y));
    MF_GO(mf_part_open(m, mf_mlp_part(m, layer), MF_PASS_FORWARD, &s));
    for (mf_turn from; mf_stream_more(&s);) {
        MF_GO(mf_stream_turn(&s, &from));
        turn t = describe(m, layer, &from);
        for (int64_t row = 0; row < m->side->tokens; row += MF_ROW_TILE)
            MF_GO(forward_tile(&p, &t, row, mf_min(MF_ROW_TILE, m->side->tokens - row), y.data, s.turn == 0));
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
    MF_GO(mf_residual_add(m, &p.gate_behind, &p.normed, y.data, x, out));
fail:
    mf_stream_close(&s);
    mf_buffer_free(m->memory, &y);
    pass_end(&p);
    return status;
}

static mf_status input_grads(pass *p, const turn *t, int64_t row, int64_t rows, const void *dy,
                             float *dnormed, bool first) {
    mf_model *m = p->model;
    int64_t h = m->config.hidden;
    mf_linear in = mf_linear_of(m, rows, h, t->width), down = mf_linear_of(m, rows, t->width, h);
    MF_TRY(mf_linear_input_grad(&down, dy, h, t->wdown, p->dinner.data, t->width, m->options.type, false));
    if (m->mlp_slots == 0) MF_TRY(gate_and_up(p, t, row, rows));
    mf_activation_args act = activated(p, t, row, rows);
    MF_TRY(mf_activation_backward(m->device, &act));
    if (p->gated)
        MF_TRY(mf_linear_input_grad(&in, p->dgate.data, t->width, t->wgate, dnormed, h, MF_F32, !first));
    return mf_linear_input_grad(&in, p->dup.data, t->width, t->wup, dnormed, h, MF_F32, p->gated || !first);
}

static mf_status weight_grads(pass *p, const turn *t, int64_t row, int64_t rows, const mf_block_grad *grad,
                              float *dw) {
    mf_model *m = p->model;
    int64_t h = m->config.hidden;
    mf_linear in = mf_linear_of(m, rows, h, t->width);
    mf_last_map down = {.row = row,
                        .rows = rows,
                        .width = t->width,
                        .a = p->inner.data,
                        .a_ld = t->width,
                        .weight = t->wdown,
                        .d_weight = mf_grad_at(dw, t->down_offset)};
    const void *x = mf_at_const(m, p->normed.all, row * h);
    MF_TRY(mf_last_map_grads(m, &p->gate_behind, grad, &down));
    if (p->gated)
        MF_TRY(mf_linear_weight_grad(&in, p->dgate.data, t->width, x, h, mf_grad_at(dw, t->gate_offset)));
    return mf_linear_weight_grad(&in, p->dup.data, t->width, x, h, mf_grad_at(dw, t->up_offset));
}

static mf_status backward_turn(pass *p, mf_stream *s, const mf_block_grad *grad, float *dnormed) {
    mf_model *m = p->model;
    mf_turn from;
    float *dw = NULL;
    MF_TRY(mf_stream_turn(s, &from));
    turn t = describe(m, p->layer, &from);
    for (int64_t row = 0; row < m->side->tokens; row += MF_ROW_TILE) {
        int64_t rows = mf_min(MF_ROW_TILE, m->side->tokens - row), at = row * m->config.hidden;
        MF_TRY(input_grads(p, &t, row, rows, mf_at_const(m, grad->dy, at), dnormed + at, s->turn == 0));
        if (!dw) MF_TRY(mf_stream_grads(s, &dw));
        MF_TRY(weight_grads(p, &t, row, rows, grad, dw));
    }
    if (!dw) MF_TRY(mf_stream_grads(s, &dw)); /* no rows here: others' shares still pass through */
    return mf_stream_end_turn(s);
}

mf_status mf_mlp_block_backward(mf_model *m, int64_t layer, const void *x) {
    mf_status status = MF_OK;
    pass p;
    mf_buffer dnormed = {0};
    mf_block_grad grad = {0};
    mf_stream s = {0};
    MF_GO(pass_begin(&p, m, layer, x, true));
    MF_GO(mf_block_grad_make(m, &p.gate_behind, &grad));
    MF_GO(mf_work(m, m->side->tokens * m->config.hidden, sizeof(float), "gradient of the MLP's input",
                  &dnormed));
    MF_GO(mf_part_open(m, mf_mlp_part(m, layer), MF_PASS_BACKWARD, &s));
    while (mf_stream_more(&s)) MF_GO(backward_turn(&p, &s, &grad, dnormed.data));
    MF_GO(mf_stream_finish(&s));
    MF_GO(mf_residual_backward(m, &p.normed, &p.norm, x, dnormed.data));
fail:
    mf_stream_close(&s);
    mf_buffer_free(m->memory, &dnormed);
    mf_block_grad_free(m, &grad);
    pass_end(&p);
    return status;
}
