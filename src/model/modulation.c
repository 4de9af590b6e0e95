/* modulation.c: what all blocks share: times, embedded, and the shifts, scales and gates made of them; and
 * the condition. All of it is whole on every rank.
 *
 *     embedded   = linear(silu(linear(waves(1000 time))))
 *     modulation = linear(silu(embedded));  of a layer: its table + modulation
 *
 * Backward, each rank has its own tokens' share of the gradients. */
#include "model/model.h"

/* Times count in thousandths, as of a thousand steps; tables of waves begin at whole numbers, so that these
 * are fine ones. */
static const double time_scale = 1000, finest = 1e6;

static int64_t batch(const mf_model *m) { return m->options.batch; }

static mf_status keep_backward(mf_model *m) {
    mf_stdit *s = &m->stdit;
    int64_t rows = batch(m) * m->config.hidden;
    if (m->options.forward_only) return MF_OK;
    MF_TRY(mf_keep(m, rows, sizeof(float), "gradient of times", &s->d_embedded));
    MF_TRY(mf_keep(m, MF_MODULATIONS * rows, sizeof(float), "gradient of modulation", &s->d_modulation));
    MF_TRY(mf_keep(m, MF_MODULATIONS * rows, sizeof(float), "gradient of modulation", &s->d_at_layer));
    MF_TRY(mf_keep(m, 2 * rows, sizeof(float), "gradient of modulation", &s->d_at_end));
    return mf_keep(m, mf_condition_rows(m) * m->config.hidden, sizeof(float), "gradient of the condition",
                   &s->d_condition);
}

mf_status mf_modulation_keep(mf_model *m) {
    mf_stdit *s = &m->stdit;
    int64_t rows = batch(m) * m->config.hidden;
    size_t size = mf_dtype_bytes(m->options.type);
    MF_TRY(mf_keep(m, batch(m) * MF_TIME_FEATURES, size, "waves of times", &s->features));
    MF_TRY(mf_keep(m, rows, sizeof(float), "embedded times", &s->inner));
    MF_TRY(mf_keep(m, rows, size, "embedded times", &s->inner_silu));
    MF_TRY(mf_keep(m, rows, sizeof(float), "embedded times", &s->embedded));
    MF_TRY(mf_keep(m, rows, size, "embedded times", &s->embedded_silu));
    MF_TRY(mf_keep(m, MF_MODULATIONS * rows, sizeof(float), "modulation", &s->modulation));
    MF_TRY(mf_keep(m, MF_MODULATIONS * rows, sizeof(float), "a layer's modulation", &s->at_layer));
    MF_TRY(mf_keep(m, 2 * rows, sizeof(float), "the last norm's modulation", &s->at_end));
    MF_TRY(mf_keep(m, mf_condition_rows(m) * m->config.hidden, size, "the condition", &s->condition));
    return keep_backward(m);
}

static mf_activation_args silu_args(const mf_model *m, const float *in) {
    return (mf_activation_args){.kind = MF_SILU,
                                .type = MF_F32,
                                .n = batch(m),
                                .width = m->config.hidden,
                                .gate = in,
                                .in_ld = m->config.hidden};
}

/* out: [batch, hidden] compute type. */
static mf_status silu(mf_model *m, const float *in, void *out) {
    mf_status status = MF_OK;
    int64_t n = batch(m) * m->config.hidden;
    mf_activation_args args = silu_args(m, in);
    mf_buffer wide = {0};
    MF_GO(mf_work(m, n, sizeof(float), "activated times", &wide));
    args.out = wide.data;
    MF_GO(mf_activation_forward(m->device, &args));
    MF_GO(mf_convert(m->device, n, wide.data, MF_F32, out, m->options.type));
fail:
    mf_buffer_free(m->memory, &wide);
    return status;
}

/* d_in: [batch, hidden] f32 += */
static mf_status silu_backward(mf_model *m, const float *in, const float *d_out, float *d_in) {
    mf_status status = MF_OK;
    int64_t n = batch(m) * m->config.hidden;
    mf_activation_args args = silu_args(m, in);
    mf_buffer again = {0}, own = {0};
    MF_GO(mf_work(m, n, sizeof(float), "activated times", &again));
    MF_GO(mf_work(m, n, sizeof(float), "gradient of times", &own));
    args.out = again.data;
    args.d_out = d_out;
    args.d_gate = own.data;
    MF_GO(mf_activation_backward(m->device, &args));
    MF_GO(mf_accumulate(m->device, 1, n, own.data, n, d_in, n));
fail:
    mf_buffer_free(m->memory, &again);
    mf_buffer_free(m->memory, &own);
    return status;
}

/* Values of the caller's in the compute type. */
static mf_status in_compute_type(mf_model *m, int64_t n, const float *in, mf_buffer *out) {
    MF_TRY(mf_work(m, n, mf_dtype_bytes(m->options.type), "the condition's values", out));
    return mf_convert(m->device, n, in, MF_F32, out->data, m->options.type);
}

static mf_status embed_condition(mf_model *m, const float *condition) {
    mf_status status = MF_OK;
    int64_t rows = mf_condition_rows(m), n = rows * m->config.hidden;
    mf_buffer values = {0}, wide = {0};
    if (rows == 0) return MF_OK;
    MF_GO(in_compute_type(m, rows * m->config.video.condition_channels, condition, &values));
    MF_GO(mf_work(m, n, sizeof(float), "the embedded condition", &wide));
    MF_GO(mf_streamed_forward(m, MF_CONDITION, rows, values.data, wide.data));
    MF_GO(mf_convert(m->device, n, wide.data, MF_F32, m->stdit.condition.data, m->options.type));
fail:
    mf_buffer_free(m->memory, &values);
    mf_buffer_free(m->memory, &wide);
    return status;
}

static mf_status wave(mf_model *m, double time, float *out) {
    const mf_rope_scaling fine = {.kind = MF_ROPE_LINEAR, .factor = finest};
    return mf_rope_table(m->device, &(mf_rope_table_args){.first = (int64_t)(time * time_scale * finest),
                                                          .rows = 1,
                                                          .head_dim = MF_TIME_FEATURES,
                                                          .theta = MF_WAVES,
                                                          .scaling = fine,
                                                          .cos_sin = out});
}

static mf_status waves(mf_model *m, const float *time) {
    mf_status status = MF_OK;
    int64_t n = batch(m) * MF_TIME_FEATURES;
    mf_buffer wide = {0};
    MF_GO(mf_work(m, n, sizeof(float), "waves of times", &wide));
    for (int64_t b = 0; b < batch(m); b++)
        MF_GO(wave(m, (double)time[b], mf_grad_at(wide.data, b * MF_TIME_FEATURES)));
    MF_GO(mf_convert(m->device, n, wide.data, MF_F32, m->stdit.features.data, m->options.type));
fail:
    mf_buffer_free(m->memory, &wide);
    return status;
}

static mf_status add_table(mf_model *m, int param, mf_buffer *rows) {
    const mf_param *p = &m->param[param];
    int64_t width = p->rows * p->cols;
    return mf_bias_forward(m->device, &(mf_bias_args){.type = MF_F32,
                                                      .rows = batch(m),
                                                      .width = width,
                                                      .bias = mf_replica(m, param, 0),
                                                      .x = rows->data,
                                                      .ld = width});
}

static mf_status table_grad(mf_model *m, int param, const mf_buffer *rows) {
    const mf_param *p = &m->param[param];
    int64_t width = p->rows * p->cols;
    return mf_bias_backward(m->device, &(mf_bias_args){.type = MF_F32,
                                                       .rows = batch(m),
                                                       .width = width,
                                                       .d = rows->data,
                                                       .ld = width,
                                                       .d_bias = mf_replica_grad(m, param, 0)});
}

/* The last norm's shift and scale: its table, and the embedded time to both. */
static mf_status modulate_end(mf_model *m) {
    mf_stdit *s = &m->stdit;
    int64_t h = m->config.hidden;
    size_t row = (size_t)h * sizeof(float);
    float *out = s->at_end.data;
    for (int half = 0; half < 2; half++)
        MF_TRY(mf_copy_rows(m->device, batch(m), row, mf_grad_at(out, half * h), 2 * row, s->embedded.data,
                            row));
    return add_table(m, m->of_model[MF_FINAL_TABLE], &s->at_end);
}

mf_status mf_modulation_make(mf_model *m, const mf_model_call *call) {
    mf_stdit *s = &m->stdit;
    m->next = mf_part_of(m, m->of_model[MF_TIME_OUT]);
    MF_TRY(waves(m, call->time));
    MF_TRY(mf_streamed_forward(m, MF_TIME_IN, batch(m), s->features.data, s->inner.data));
    MF_TRY(silu(m, s->inner.data, s->inner_silu.data));
    m->next = mf_part_of(m, m->of_model[MF_MODULATION]);
    MF_TRY(mf_streamed_forward(m, MF_TIME_OUT, batch(m), s->inner_silu.data, s->embedded.data));
    MF_TRY(silu(m, s->embedded.data, s->embedded_silu.data));
    m->next = mf_condition_rows(m) ? mf_part_of(m, m->of_model[MF_CONDITION]) : mf_attention_part(m, 0);
    MF_TRY(mf_streamed_forward(m, MF_MODULATION, batch(m), s->embedded_silu.data, s->modulation.data));
    m->next = mf_attention_part(m, 0);
    MF_TRY(embed_condition(m, call->condition));
    return modulate_end(m);
}

mf_status mf_modulation_clear(mf_model *m) {
    mf_stdit *s = &m->stdit;
    int64_t h = m->config.hidden;
    size_t rows = (size_t)(batch(m) * h) * sizeof(float);
    MF_TRY(mf_zero(m->device, s->d_embedded.data, rows));
    MF_TRY(mf_zero(m->device, s->d_modulation.data, MF_MODULATIONS * rows));
    MF_TRY(mf_zero(m->device, s->d_at_end.data, 2 * rows));
    return mf_zero(m->device, s->d_condition.data, (size_t)(mf_condition_rows(m) * h) * sizeof(float));
}

mf_status mf_modulation_open(mf_model *m, int64_t layer, bool grads) {
    mf_stdit *s = &m->stdit;
    size_t bytes = (size_t)(MF_MODULATIONS * batch(m) * m->config.hidden) * sizeof(float);
    MF_TRY(mf_copy_rows(m->device, 1, bytes, s->at_layer.data, bytes, s->modulation.data, bytes));
    MF_TRY(add_table(m, mf_layer_param(m, layer, MF_TABLE), &s->at_layer));
    return grads ? mf_zero(m->device, s->d_at_layer.data, bytes) : MF_OK;
}

mf_status mf_modulation_close(mf_model *m, int64_t layer) {
    mf_stdit *s = &m->stdit;
    int64_t n = MF_MODULATIONS * batch(m) * m->config.hidden;
    MF_TRY(table_grad(m, mf_layer_param(m, layer, MF_TABLE), &s->d_at_layer));
    return mf_accumulate(m->device, 1, n, s->d_at_layer.data, n, s->d_modulation.data, n);
}

/* d_embedded of the last norm: tensor ranks have shares of it, by tokens or none. */
static mf_status end_grads(mf_model *m) {
    mf_stdit *s = &m->stdit;
    int64_t h = m->config.hidden;
    float *halves = s->d_at_end.data;
    MF_TRY(table_grad(m, m->of_model[MF_FINAL_TABLE], &s->d_at_end));
    for (int half = 0; half < 2; half++)
        MF_TRY(mf_accumulate(m->device, batch(m), h, mf_grad_at(halves, half * h), 2 * h, s->d_embedded.data,
                             h));
    return mf_allreduce(m->tensor, s->d_embedded.data, batch(m) * h, MF_F32, NULL);
}

static mf_status condition_grads(mf_model *m, const float *condition) {
    mf_status status = MF_OK;
    int64_t rows = mf_condition_rows(m);
    float *d = m->stdit.d_condition.data;
    mf_buffer values = {0};
    if (rows == 0) return MF_OK;
    MF_GO(in_compute_type(m, rows * m->config.video.condition_channels, condition, &values));
    MF_GO(mf_allreduce(m->tensor, d, rows * m->config.hidden, MF_F32, NULL));
    MF_GO(mf_streamed_backward(m, MF_CONDITION, rows, values.data, d, NULL));
fail:
    mf_buffer_free(m->memory, &values);
    return status;
}

/* dx: room for [batch, hidden] f32. */
static mf_status time_grads(mf_model *m, float *dx) {
    mf_stdit *s = &m->stdit;
    int64_t h = m->config.hidden;
    m->next = mf_part_of(m, m->of_model[MF_TIME_OUT]);
    MF_TRY(mf_allreduce(m->tensor, s->d_modulation.data, MF_MODULATIONS * batch(m) * h, MF_F32, NULL));
    MF_TRY(mf_streamed_backward(m, MF_MODULATION, batch(m), s->embedded_silu.data, s->d_modulation.data, dx));
    MF_TRY(silu_backward(m, s->embedded.data, dx, s->d_embedded.data));
    m->next = mf_part_of(m, m->of_model[MF_TIME_IN]);
    MF_TRY(mf_streamed_backward(m, MF_TIME_OUT, batch(m), s->inner_silu.data, s->d_embedded.data, dx));
    MF_TRY(mf_zero(m->device, s->d_embedded.data, (size_t)(batch(m) * h) * sizeof(float)));
    MF_TRY(silu_backward(m, s->inner.data, dx, s->d_embedded.data));
    m->next = NULL;
    return mf_streamed_backward(m, MF_TIME_IN, batch(m), s->features.data, s->d_embedded.data, NULL);
}

mf_status mf_modulation_grads(mf_model *m, const mf_model_call *call) {
    mf_status status = MF_OK;
    mf_buffer dx = {0};
    MF_GO(mf_work(m, batch(m) * m->config.hidden, sizeof(float), "gradient of times", &dx));
    MF_GO(end_grads(m));
    m->next = mf_part_of(m, m->of_model[MF_MODULATION]);
    MF_GO(condition_grads(m, call->condition));
    MF_GO(time_grads(m, dx.data));
fail:
    mf_buffer_free(m->memory, &dx);
    return status;
}
