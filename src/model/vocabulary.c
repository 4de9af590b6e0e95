/* vocabulary.c: the embedding and the output head with its cross-entropy, folded: vocabulary shards stream
 * past, each rank keeps its tokens' running log-sum-exp, and logits exist for one shard and one tile of rows
 * at a time. Ranks of a tensor axis see the same tokens, each its share of the vocabulary: rows of the
 * embedding are summed, and the log-sum-exps merged. */
#include "model/model.h"

/* A tile of logits: at most this many columns of a shard, and 32 MiB in f32. */
enum { LOGITS_COLS = 8192, LOGITS_MAX = 8 << 20 };

static mf_embed_args embed_args(const mf_model *m, const int32_t *ids, int shard) {
    mf_slice slice = mf_param_slice(m, mf_embedding_param(m), shard);
    return (mf_embed_args){.type = m->options.type,
                           .n = m->side->tokens,
                           .h = m->config.hidden,
                           .first = slice.first,
                           .rows = slice.count,
                           .ids = ids};
}

static mf_status embed_turns(mf_model *m, const int32_t *ids, void *out) {
    mf_status status = MF_OK;
    mf_stream s = {0};
    MF_GO(mf_part_open(m, mf_embedding_part(m), MF_PASS_FORWARD, &s));
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

/* Ids of other ranks' shares leave their rows as they are: zeros, for the sum. */
static mf_status embed_and_sum(mf_model *m, const int32_t *ids, void *out) {
    mf_status status = MF_OK;
    size_t row = (size_t)m->config.hidden * mf_dtype_bytes(m->options.type),
           held_row = row * (size_t)m->side->reduction.held;
    mf_buffer all = {0};
    void *held = NULL;
    MF_GO(mf_work(m, m->side->tokens, row, "rows of the embedding", &all));
    MF_GO(mf_zero(m->device, all.data, (size_t)m->side->tokens * row));
    MF_GO(embed_turns(m, ids, all.data));
    MF_GO(mf_reduction_sum(&m->side->reduction, all.data, &held));
    MF_GO(mf_copy_rows(m->device, 1, held_row, out, held_row, held, held_row));
fail:
    mf_buffer_free(m->memory, &all);
    return status;
}

mf_status mf_embed(mf_model *m, const int32_t *ids, void *out) {
    return mf_comm_size(m->tensor) == 1 ? embed_turns(m, ids, out) : embed_and_sum(m, ids, out);
}

/* The residual stream's gradient, of all tokens: as it is where this rank has it whole. */
static mf_status embedding_grad(mf_model *m, mf_block_grad *gathered, mf_embed_args *args) {
    if (!mf_reduction_scatters(m->side->reduction.kind)) {
        args->d_out = m->dx.data;
        args->d_out_type = MF_F32;
        return MF_OK;
    }
    MF_TRY(mf_block_grad_make(m, &(mf_gate_values){0}, gathered));
    args->d_out = gathered->dy;
    args->d_out_type = m->options.type;
    return MF_OK;
}

mf_status mf_embed_grads(mf_model *m, const int32_t *ids) {
    mf_status status = MF_OK;
    mf_stream s = {0};
    mf_block_grad gathered = {0};
    mf_embed_args source = {0};
    MF_GO(embedding_grad(m, &gathered, &source));
    MF_GO(mf_part_open(m, mf_embedding_part(m), MF_PASS_GRADS, &s));
    for (mf_turn turn; mf_stream_more(&s);) {
        MF_GO(mf_stream_turn(&s, &turn));
        mf_embed_args args = embed_args(m, ids, turn.shard);
        args.d_out = source.d_out;
        args.d_out_type = source.d_out_type;
        MF_GO(mf_stream_grads(&s, &args.d_table));
        MF_GO(mf_embed_backward(m->device, &args));
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
fail:
    mf_stream_close(&s);
    mf_block_grad_free(m, &gathered);
    return status;
}

/* One evaluation of the loss. */
typedef struct head {
    mf_model *model;
    const int32_t *labels;
    int64_t tile;       /* rows */
    mf_normed normed;   /* [tokens, hidden] compute type */
    mf_buffer state;    /* [3][tokens] f32: maximum, sum, label's logit */
    mf_buffer logits;   /* [tile, width of a shard] f32 */
    mf_buffer d_logits; /* the same in the compute type */
    mf_buffer dnormed;  /* [tokens, hidden] f32 */
} head;

static mf_status head_begin(head *e, mf_model *m, const void *x, const int32_t *labels, bool grads) {
    int64_t h = m->config.hidden, width = mf_min(mf_param_widest(m, mf_head_param(m)), LOGITS_COLS);
    size_t size = mf_dtype_bytes(m->options.type);
    *e = (head){.model = m, .labels = labels};
    e->tile = mf_max(1, mf_min(mf_min(m->side->tokens, MF_ROW_TILE), LOGITS_MAX / mf_max(1, width)));
    mf_norm norm = mf_norm_by(mf_final_norm_param(m));
    MF_TRY(mf_normed_make(m, &norm, x, &e->normed));
    MF_TRY(mf_work(m, 3 * m->side->tokens, sizeof(float), "the loss's running sums", &e->state));
    MF_TRY(mf_work(m, e->tile * width, sizeof(float), "logits of a tile", &e->logits));
    if (grads) {
        if (m->options.type != MF_F32) /* else the gradient takes the logits' place */
            MF_TRY(mf_work(m, e->tile * width, size, "gradient of a tile of logits", &e->d_logits));
        MF_TRY(mf_work(m, m->side->tokens * h, sizeof(float), "gradient of the head's input", &e->dnormed));
    }
    return MF_OK;
}

static void head_end(head *e) {
    mf_buffer *all[] = {&e->state, &e->logits, &e->d_logits, &e->dnormed};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(e->model->memory, all[i]);
    mf_normed_free(e->model, &e->normed);
}

static mf_xent_args rows_of(const head *e, int64_t row, int64_t rows) {
    float *state = e->state.data;
    int64_t tokens = e->model->side->tokens;
    if (!state) return (mf_xent_args){0};
    return (mf_xent_args){.n = rows,
                          .labels = e->labels + row,
                          .maximum = state + row,
                          .sum = state + tokens + row,
                          .label_logit = state + 2 * tokens + row,
                          .type = e->model->options.type};
}

/* Some rows of tokens by some columns of a shard. */
typedef struct tile {
    int64_t row, rows, col, cols;
} tile;

/* Walks over the tiles of a shard of `width` columns, columns outermost. Begin with zeros; false at the end.
 */
static bool next_tile(const head *e, int64_t width, tile *t) {
    int64_t tokens = e->model->side->tokens;
    if (t->rows == 0)
        t->cols = mf_min(LOGITS_COLS, width);
    else
        t->row += t->rows;
    if (t->row == tokens && tokens > 0) {
        t->row = 0;
        t->col += t->cols;
        t->cols = mf_min(LOGITS_COLS, width - t->col);
    }
    t->rows = mf_min(e->tile, tokens - t->row);
    return t->rows > 0 && t->cols > 0;
}

static mf_linear linear(const mf_model *m, const tile *t) {
    return mf_linear_of(m, t->rows, m->config.hidden, t->cols);
}

static mf_status logits_of(head *e, const tile *t, const mf_slice *slice, const void *weights,
                           mf_xent_args *out) {
    mf_model *m = e->model;
    int64_t h = m->config.hidden;
    mf_linear l = linear(m, t);
    *out = rows_of(e, t->row, t->rows);
    out->width = t->cols;
    out->first = slice->first + t->col;
    out->logits = e->logits.data;
    return mf_linear_forward(&l, mf_at_const(m, e->normed.all, t->row * h), h,
                             mf_at_const(m, weights, t->col * h), out->logits, t->cols, MF_F32, false);
}

/* What the ranks' shares of the vocabulary say of each token, merged: the same on all. */
static mf_status merge_states(head *e, mf_xent_args *all) {
    mf_status status = MF_OK;
    mf_model *m = e->model;
    int ranks = mf_comm_size(m->tensor);
    size_t bytes = 3 * (size_t)m->side->tokens * sizeof(float), *offsets = NULL;
    mf_buffer states = {0};
    if (ranks == 1) return MF_OK;
    MF_GO(mf_host_alloc((size_t)ranks + 1, sizeof *offsets, &offsets));
    for (int r = 0; r <= ranks; r++) offsets[r] = (size_t)r * bytes;
    MF_GO(mf_work(m, 3 * m->side->tokens * ranks, sizeof(float), "the loss's sums of all ranks", &states));
    MF_GO(mf_allgather(m->tensor, e->state.data, states.data, offsets, NULL));
    MF_GO(mf_xent_merge(m->device, all, ranks, states.data));
fail:
    mf_buffer_free(m->memory, &states);
    mf_host_free(offsets);
    return status;
}

/* Ranks of a tensor axis have the same tokens: their loss counts once. */
static mf_status own_loss(const head *e, const mf_xent_args *all, double *loss) {
    MF_TRY(mf_xent_loss(e->model->device, all, loss));
    if (mf_comm_rank(e->model->tensor) > 0) *loss = 0;
    return MF_OK;
}

static mf_status loss_pass(head *e, double *loss) {
    mf_status status = MF_OK;
    mf_model *m = e->model;
    mf_stream s = {0};
    mf_xent_args all = rows_of(e, 0, m->side->tokens), args;
    MF_GO(mf_xent_begin(m->device, &all));
    MF_GO(mf_part_open(m, mf_head_part(m), MF_PASS_FORWARD, &s));
    for (mf_turn turn; mf_stream_more(&s);) {
        MF_GO(mf_stream_turn(&s, &turn));
        mf_slice slice = mf_param_slice(m, mf_head_param(m), turn.shard);
        for (tile t = {0}; next_tile(e, slice.count, &t);) {
            MF_GO(logits_of(e, &t, &slice, turn.weights, &args));
            MF_GO(mf_xent_update(m->device, &args));
        }
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
    MF_GO(merge_states(e, &all));
    MF_GO(own_loss(e, &all, loss));
fail:
    mf_stream_close(&s);
    return status;
}

/* Logits again, their gradient, and what it adds to the hidden states' and, later, to the weights'. */
static mf_status grad_tile(head *e, const tile *t, const mf_slice *slice, const void *weights, float scale,
                           void **d_logits) {
    mf_model *m = e->model;
    int64_t h = m->config.hidden;
    mf_linear l = linear(m, t);
    mf_xent_args args;
    MF_TRY(logits_of(e, t, slice, weights, &args));
    args.scale = scale;
    *d_logits = args.d_logits = m->options.type == MF_F32 ? args.logits : e->d_logits.data;
    MF_TRY(mf_xent_grad(m->device, &args));
    return mf_linear_input_grad(&l, args.d_logits, t->cols, mf_at_const(m, weights, t->col * h),
                                (float *)e->dnormed.data + t->row * h, h, MF_F32, true);
}

static mf_status grad_turn(head *e, mf_stream *s, float scale) {
    mf_model *m = e->model;
    int64_t h = m->config.hidden;
    mf_turn turn;
    float *dw = NULL;
    MF_TRY(mf_stream_turn(s, &turn));
    mf_slice slice = mf_param_slice(m, mf_head_param(m), turn.shard);
    for (tile t = {0}; next_tile(e, slice.count, &t);) {
        void *d_logits = NULL;
        mf_linear l = linear(m, &t);
        MF_TRY(grad_tile(e, &t, &slice, turn.weights, scale, &d_logits));
        if (!dw) MF_TRY(mf_stream_grads(s, &dw));
        MF_TRY(mf_linear_weight_grad(&l, d_logits, t.cols, mf_at_const(m, e->normed.all, t.row * h), h,
                                     mf_grad_at(dw, t.col * h)));
    }
    if (!dw) MF_TRY(mf_stream_grads(s, &dw)); /* nothing here: others' shares still pass through */
    return mf_stream_end_turn(s);
}

static mf_status grad_pass(head *e, float scale) {
    mf_status status = MF_OK;
    mf_model *m = e->model;
    mf_stream s = {0};
    MF_GO(mf_zero(m->device, e->dnormed.data, (size_t)(m->side->tokens * m->config.hidden) * sizeof(float)));
    MF_GO(mf_part_open(m, mf_head_part(m), MF_PASS_BACKWARD, &s));
    while (mf_stream_more(&s)) MF_GO(grad_turn(e, &s, scale));
    MF_GO(mf_stream_finish(&s));
fail:
    mf_stream_close(&s);
    return status;
}

/* Where this rank has token `token` of all; -1: it has not. */
static int64_t own_row(const mf_model *m, int64_t token) {
    mf_run runs[MF_RUNS];
    int64_t position = token % m->options.tokens, sequence = token / m->options.tokens;
    int n = mf_cut_runs(m->options.tokens, mf_comm_size(m->sequence), mf_comm_rank(m->sequence), runs);
    for (int i = 0; i < n; i++)
        if (position >= runs[i].position && position < runs[i].position + runs[i].rows)
            return sequence * m->side->rows + runs[i].first_row + position - runs[i].position;
    return -1;
}

/* inputs: [count, hidden] of the tokens asked for; zeros for those of other ranks, whose logits become 0. */
static mf_status gather_inputs(mf_model *m, const mf_logits_call *call, const void *all, void *inputs) {
    size_t row = (size_t)m->config.hidden * mf_dtype_bytes(m->options.type);
    MF_TRY(mf_zero(m->device, inputs, (size_t)call->count * row));
    for (int64_t i = 0; i < call->count; i++) {
        int64_t from = own_row(m, call->tokens[i]);
        if (from >= 0)
            MF_TRY(mf_copy_rows(m->device, 1, row, mf_at(m, inputs, i * m->config.hidden), row,
                                mf_at_const(m, all, from * m->config.hidden), row));
    }
    return MF_OK;
}

static mf_status logits_turns(mf_model *m, const mf_logits_call *call, const void *inputs) {
    mf_status status = MF_OK;
    int64_t h = m->config.hidden;
    mf_stream s = {0};
    MF_GO(mf_part_open(m, mf_head_part(m), MF_PASS_FORWARD, &s));
    for (mf_turn turn; mf_stream_more(&s);) {
        MF_GO(mf_stream_turn(&s, &turn));
        mf_slice slice = mf_param_slice(m, mf_head_param(m), turn.shard);
        mf_linear l = mf_linear_of(m, call->count, h, slice.count);
        MF_GO(mf_linear_forward(&l, inputs, h, turn.weights, call->logits + slice.first, m->config.vocab,
                                MF_F32, false));
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
fail:
    mf_stream_close(&s);
    return status;
}

mf_status mf_head_logits(mf_model *m, const void *x, const mf_logits_call *call) {
    mf_status status = MF_OK;
    int64_t elements = call->count * m->config.vocab;
    mf_norm norm = mf_norm_by(mf_final_norm_param(m));
    mf_normed normed = {0};
    mf_buffer inputs = {0};
    MF_GO(mf_normed_make(m, &norm, x, &normed));
    MF_GO(mf_work(m, call->count * m->config.hidden, mf_dtype_bytes(m->options.type), "the head's inputs",
                  &inputs));
    MF_GO(gather_inputs(m, call, normed.all, inputs.data));
    MF_GO(mf_zero(m->device, call->logits, (size_t)elements * sizeof(float)));
    MF_GO(logits_turns(m, call, inputs.data));
    MF_GO(mf_allreduce(m->sequence, call->logits, elements, MF_F32, NULL)); /* one rank has a token */
    MF_GO(mf_allreduce(m->tensor, call->logits, elements, MF_F32, NULL));   /* and a share of its logits */
fail:
    mf_buffer_free(m->memory, &inputs);
    mf_normed_free(m, &normed);
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
    mf_norm norm = mf_norm_by(mf_final_norm_param(m));
    head e;
    MF_GO(head_begin(&e, m, x, labels, true));
    m->next = mf_head_part(m); /* kept */
    MF_GO(loss_pass(&e, loss));
    m->next = mf_first_of_backward(m, m->config.layers - 1);
    MF_GO(grad_pass(&e, scale));
    MF_GO(
        mf_zero(m->device, m->dx.data, (size_t)(m->side->reduction.held * m->config.hidden) * sizeof(float)));
    MF_GO(mf_residual_backward(m, &e.normed, &norm, x, e.dnormed.data));
fail:
    head_end(&e);
    return status;
}
