/* residual.c: between the residual stream and the blocks: norms, what is gathered on the way in and summed on
 * the way out, gates, and the same backwards. */
#include "model/model.h"

/* Columns of a last map whose gradient is made apart from the others', for its gate's sake. */
enum { GATE_COLS = 1024 };

mf_status mf_part_open(mf_model *m, const mf_part *part, mf_pass pass, mf_stream *out) {
    MF_TRY(mf_stream_open(out, mf_kind_of(m, part), &m->store, part, pass));
    return m->next ? mf_stream_ahead(&m->store, mf_kind_of(m, m->next), m->next) : MF_OK;
}

mf_norm mf_norm_by(int weight) { return (mf_norm){.weight = weight}; }

int64_t mf_sample_rows(const mf_model *m) { return mf_max(m->side->tokens / m->options.batch, 1); }

bool mf_counts_rows(const mf_model *m) {
    return mf_reduction_scatters(m->side->reduction.kind) || mf_comm_rank(m->tensor) == 0;
}

static float *modulation(const mf_model *m, const mf_buffer *rows, int which) {
    return (float *)rows->data + which * m->config.hidden;
}

mf_norm mf_norm_before(const mf_model *m, int64_t layer, int which) {
    int first = which == MF_NORM_ATTENTION ? 0 : MF_MODULATIONS / 2;
    const mf_stdit *s = &m->stdit;
    if (!mf_is_video(m)) return mf_norm_by(mf_layer_param(m, layer, which));
    mf_norm norm = {.weight = -1,
                    .shift = modulation(m, &s->at_layer, first + MF_SHIFT),
                    .scale = modulation(m, &s->at_layer, first + MF_SCALE),
                    .ld = MF_MODULATIONS * m->config.hidden};
    if (!mf_counts_rows(m) || m->options.forward_only) return norm;
    norm.d_shift = modulation(m, &s->d_at_layer, first + MF_SHIFT);
    norm.d_scale = modulation(m, &s->d_at_layer, first + MF_SCALE);
    return norm;
}

mf_gate_values mf_gate_behind(const mf_model *m, int which) {
    int at = MF_GATE + (which == MF_NORM_ATTENTION ? 0 : MF_MODULATIONS / 2);
    const mf_stdit *s = &m->stdit;
    if (!mf_is_video(m)) return (mf_gate_values){0};
    return (mf_gate_values){.value = modulation(m, &s->at_layer, at),
                            .grad = m->options.forward_only ? NULL : modulation(m, &s->d_at_layer, at),
                            .ld = MF_MODULATIONS * m->config.hidden};
}

static mf_modulate_args modulated(const mf_model *m, const mf_norm *norm, const void *x) {
    return (mf_modulate_args){.type = m->options.type,
                              .n = m->side->reduction.held,
                              .h = m->config.hidden,
                              .eps = (float)m->config.norm_eps,
                              .first_row = m->side->reduction.first,
                              .sample_rows = mf_sample_rows(m),
                              .mod_ld = norm->ld,
                              .x = x,
                              .shift = norm->shift,
                              .scale = norm->scale};
}

static mf_status norm_forward(mf_model *m, const mf_norm *norm, const void *x, void *out) {
    if (norm->weight >= 0)
        return mf_rmsnorm_forward(m->device, m->side->reduction.held, m->config.hidden,
                                  (float)m->config.norm_eps, m->options.type, x,
                                  mf_replica(m, norm->weight, 0), out);
    mf_modulate_args args = modulated(m, norm, x);
    args.y = out;
    return mf_modulate_forward(m->device, &args);
}

static mf_status norm_backward(mf_model *m, const mf_norm *norm, const void *x, const float *dy) {
    if (norm->weight >= 0)
        return mf_rmsnorm_backward(m->device,
                                   &(mf_rmsnorm_grad){.n = m->side->reduction.held,
                                                      .h = m->config.hidden,
                                                      .eps = (float)m->config.norm_eps,
                                                      .type = m->options.type,
                                                      .x = x,
                                                      .weight = mf_replica(m, norm->weight, 0),
                                                      .dy = dy,
                                                      .dx = m->dx.data,
                                                      .dweight = mf_replica_grad(m, norm->weight, 0)});
    mf_modulate_args args = modulated(m, norm, x);
    args.dy = dy;
    args.dx = m->dx.data;
    args.dshift = norm->d_shift;
    args.dscale = norm->d_scale;
    return mf_modulate_backward(m->device, &args);
}

/* Gathers what stands in out->held, which is not needed any more where it was. */
static mf_status gather(mf_model *m, const void *held, mf_normed *out) {
    MF_TRY(mf_reduction_gather(&m->side->reduction, held, &out->gathered, &out->all));
    if (out->gathered.data) mf_buffer_free(m->memory, &out->held);
    return MF_OK;
}

static mf_status input_place(mf_model *m, mf_normed *out) {
    int64_t elements = m->side->reduction.held * m->config.hidden;
    return mf_work(m, elements, mf_dtype_bytes(m->options.type), "a block's input", &out->held);
}

mf_status mf_normed_make(mf_model *m, const mf_norm *norm, const void *x, mf_normed *out) {
    MF_TRY(input_place(m, out));
    MF_TRY(norm_forward(m, norm, x, out->held.data));
    return gather(m, out->held.data, out);
}

mf_status mf_normed_plain(mf_model *m, const void *x, mf_normed *out) {
    MF_TRY(input_place(m, out)); /* where the output's sum is put together, too */
    return gather(m, x, out);
}

void mf_normed_free(mf_model *m, mf_normed *normed) {
    mf_buffer_free(m->memory, &normed->held);
    mf_buffer_free(m->memory, &normed->gathered);
}

/* dx of all tokens in the compute type. */
static mf_status whole_dx(mf_model *m, mf_normed *out) {
    int64_t n = m->side->reduction.held * m->config.hidden;
    if (m->options.type == MF_F32) return gather(m, m->dx.data, out);
    MF_TRY(mf_work(m, n, mf_dtype_bytes(m->options.type), "gradient in the compute type", &out->held));
    MF_TRY(mf_convert(m->device, n, m->dx.data, MF_F32, out->held.data, m->options.type));
    return gather(m, out->held.data, out);
}

static mf_gate_args gated(const mf_model *m, const mf_gate_values *gate, int64_t rows, int64_t first) {
    return (mf_gate_args){.type = m->options.type,
                          .n = rows,
                          .h = m->config.hidden,
                          .first_row = first,
                          .sample_rows = mf_sample_rows(m),
                          .gate = gate->value,
                          .mod_ld = gate->ld};
}

mf_status mf_block_grad_make(mf_model *m, const mf_gate_values *gate, mf_block_grad *out) {
    int64_t tokens = m->side->tokens;
    MF_TRY(whole_dx(m, &out->dx));
    out->dy = out->dx.all;
    if (!gate->value) return MF_OK;
    MF_TRY(mf_work(m, tokens * m->config.hidden, mf_dtype_bytes(m->options.type),
                   "gradient of a block's output", &out->gated));
    mf_gate_args args = gated(m, gate, tokens, 0);
    args.in = out->dx.all;
    args.out = out->gated.data;
    out->dy = out->gated.data;
    return mf_gate_scale(m->device, &args);
}

void mf_block_grad_free(mf_model *m, mf_block_grad *grad) {
    mf_normed_free(m, &grad->dx);
    mf_buffer_free(m->memory, &grad->gated);
}

/* y = a · weight', out = x + gate * y: of one sample and some columns of the weight G = dx' · a gives both
 * gradients, gate * G the weight's and the row sums of weight * G the gate's, so that y need not be kept. */
static mf_status gate_tile(mf_model *m, const mf_gate_values *gate, const mf_block_grad *g,
                           const mf_last_map *map, int64_t sample, int64_t col, float *product) {
    int64_t h = m->config.hidden, length = mf_sample_rows(m);
    int64_t cols = mf_min(GATE_COLS, map->width - col);
    int64_t first = mf_max(map->row, sample * length),
            end = mf_min(map->row + map->rows, (sample + 1) * length);
    mf_linear part = mf_linear_of(m, end - first, cols, h);
    MF_TRY(mf_linear_product(&part, mf_at_const(m, g->dx.all, first * h), h,
                             mf_at_const(m, map->a, (first - map->row) * map->a_ld + col), map->a_ld,
                             product));
    return mf_gate_grads(m->device, &(mf_gate_grads_args){.type = m->options.type,
                                                          .rows = h,
                                                          .cols = cols,
                                                          .g = product,
                                                          .g_ld = cols,
                                                          .w = mf_at_const(m, map->weight, col),
                                                          .w_ld = map->width,
                                                          .gate = gate->value + sample * gate->ld,
                                                          .dw = mf_grad_at(map->d_weight, col),
                                                          .dw_ld = map->width,
                                                          .dgate = gate->grad + sample * gate->ld});
}

static mf_status gated_grads(mf_model *m, const mf_gate_values *gate, const mf_block_grad *g,
                             const mf_last_map *map) {
    mf_status status = MF_OK;
    int64_t length = mf_sample_rows(m), end = map->row + map->rows;
    mf_buffer product = {0};
    MF_GO(mf_work(m, m->config.hidden * mf_min(GATE_COLS, map->width), sizeof(float),
                  "a sample's gradient of a weight", &product));
    for (int64_t sample = map->row / length; sample * length < end; sample++)
        for (int64_t col = 0; col < map->width; col += GATE_COLS)
            MF_GO(gate_tile(m, gate, g, map, sample, col, product.data));
fail:
    mf_buffer_free(m->memory, &product);
    return status;
}

mf_status mf_last_map_grads(mf_model *m, const mf_gate_values *gate, const mf_block_grad *g,
                            const mf_last_map *map) {
    int64_t h = m->config.hidden;
    mf_linear l = mf_linear_of(m, map->rows, map->width, h);
    if (gate->value) return gated_grads(m, gate, g, map);
    return mf_linear_weight_grad(&l, mf_at_const(m, g->dy, map->row * h), h, map->a, map->a_ld,
                                 map->d_weight);
}

/* The input's place serves the sum. */
static void *scratch_of(const mf_normed *normed) {
    return normed->gathered.data ? normed->gathered.data : normed->held.data;
}

mf_status mf_residual_add(mf_model *m, const mf_gate_values *gate, mf_normed *normed, float *y, const void *x,
                          void *out) {
    float *sum = NULL;
    int64_t held = m->side->reduction.held;
    MF_TRY(mf_reduction_sum_f32(&m->side->reduction, y, scratch_of(normed), &sum));
    if (!gate->value) return mf_add(m->device, held * m->config.hidden, m->options.type, x, sum, out);
    mf_gate_args args = gated(m, gate, held, m->side->reduction.first);
    args.in = x;
    args.delta = sum;
    args.out = out;
    return mf_gate_add(m->device, &args);
}

mf_status mf_residual_backward(mf_model *m, mf_normed *normed, const mf_norm *norm, const void *x,
                               float *dnormed) {
    float *sum = NULL;
    MF_TRY(mf_reduction_sum_f32(&m->side->reduction, dnormed, scratch_of(normed), &sum));
    return norm_backward(m, norm, x, sum);
}

mf_status mf_residual_backward_plain(mf_model *m, mf_normed *normed, float *dinput) {
    float *sum = NULL;
    int64_t n = m->side->reduction.held * m->config.hidden;
    MF_TRY(mf_reduction_sum_f32(&m->side->reduction, dinput, scratch_of(normed), &sum));
    return mf_accumulate(m->device, 1, n, sum, n, m->dx.data, n);
}
