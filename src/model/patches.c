/* patches.c: where values of patches become the residual stream, and where it becomes velocities, and the
 * error of these. Both matrices are small and whole on every rank; rows are taken a tile at a time, those
 * that this rank holds between blocks. */
#include "model/model.h"

static int64_t values_of(const mf_model *m) { return mf_config_values(&m->config); }
static int64_t held(const mf_model *m) { return m->side->reduction.held; }

/* A replicated matrix in the compute type: itself in f32. */
static mf_status weight_of(mf_model *m, int kind, mf_buffer *storage, const void **out) {
    int param = m->of_model[kind];
    int64_t n = m->param[param].rows * m->param[param].cols;
    *out = mf_replica(m, param, 0);
    if (m->options.type == MF_F32) return MF_OK;
    MF_TRY(mf_work(m, n, mf_dtype_bytes(m->options.type), "a matrix of patches", storage));
    MF_TRY(mf_convert(m->device, n, *out, MF_F32, storage->data, m->options.type));
    *out = storage->data;
    return MF_OK;
}

/* Rows of f32 values in the compute type: themselves in f32. */
static mf_status narrowed(mf_model *m, int64_t n, const float *in, mf_buffer *room, const void **out) {
    *out = in;
    if (m->options.type == MF_F32) return MF_OK;
    *out = room->data;
    return mf_convert(m->device, n, in, MF_F32, room->data, m->options.type);
}

static mf_status room_for(mf_model *m, int64_t width, mf_buffer *out) {
    int64_t rows = mf_min(held(m), MF_ROW_TILE);
    if (m->options.type == MF_F32) return MF_OK;
    return mf_work(m, rows * width, mf_dtype_bytes(m->options.type), "rows in the compute type", out);
}

static const float *rows_at(const float *rows, int64_t elements) { return rows ? rows + elements : NULL; }

static mf_status embed_tile(mf_model *m, int64_t row, int64_t rows, const void *x, const void *weight,
                            float *y, void *out) {
    const mf_stdit *s = &m->stdit;
    int64_t h = m->config.hidden;
    mf_linear map = mf_linear_of(m, rows, values_of(m), h);
    MF_TRY(mf_linear_forward(&map, x, values_of(m), weight, y, h, MF_F32, false));
    mf_grid_embed_args args = {.type = m->options.type,
                               .n = rows,
                               .h = h,
                               .first_row = m->side->reduction.first + row,
                               .sample_rows = mf_sample_rows(m),
                               .y = y,
                               .bias = mf_replica(m, m->of_model[MF_PATCH_IN_BIAS], 0),
                               .index = s->index.data,
                               .out = mf_at(m, out, row * h)};
    for (int i = 0; i < 3; i++) args.table[i] = s->table[i].data;
    mf_stdit_widths(m, args.width);
    return mf_grid_embed(m->device, &args);
}

mf_status mf_patches_in(mf_model *m, const float *input, void *out) {
    mf_status status = MF_OK;
    int64_t values = values_of(m), tile = mf_min(held(m), MF_ROW_TILE);
    const float *own = rows_at(input, m->side->reduction.first * values);
    const void *weight = NULL, *x = NULL;
    mf_buffer storage = {0}, room = {0}, y = {0};
    MF_GO(weight_of(m, MF_PATCH_IN, &storage, &weight));
    MF_GO(room_for(m, values, &room));
    MF_GO(mf_work(m, tile * m->config.hidden, sizeof(float), "embedded patches", &y));
    for (int64_t row = 0; row < held(m); row += MF_ROW_TILE) {
        int64_t rows = mf_min(MF_ROW_TILE, held(m) - row);
        MF_GO(narrowed(m, rows * values, rows_at(own, row * values), &room, &x));
        MF_GO(embed_tile(m, row, rows, x, weight, y.data, out));
    }
fail:
    mf_buffer_free(m->memory, &storage);
    mf_buffer_free(m->memory, &room);
    mf_buffer_free(m->memory, &y);
    return status;
}

static mf_status bias_grad(mf_model *m, int kind, int64_t rows, int64_t width, const float *d) {
    return mf_bias_backward(m->device, &(mf_bias_args){.type = MF_F32,
                                                       .rows = rows,
                                                       .width = width,
                                                       .d = d,
                                                       .ld = width,
                                                       .d_bias = mf_replica_grad(m, m->of_model[kind], 0)});
}

mf_status mf_patches_in_grads(mf_model *m, const float *input) {
    mf_status status = MF_OK;
    int64_t values = values_of(m), h = m->config.hidden;
    const float *own = rows_at(input, m->side->reduction.first * values);
    const void *x = NULL, *dy = NULL;
    mf_buffer room_x = {0}, room_dy = {0};
    if (!mf_counts_rows(m)) return MF_OK;
    MF_GO(room_for(m, values, &room_x));
    MF_GO(room_for(m, h, &room_dy));
    for (int64_t row = 0; row < held(m); row += MF_ROW_TILE) {
        int64_t rows = mf_min(MF_ROW_TILE, held(m) - row);
        const float *dx = rows_at(m->dx.data, row * h);
        mf_linear map = mf_linear_of(m, rows, values, h);
        MF_GO(narrowed(m, rows * values, rows_at(own, row * values), &room_x, &x));
        MF_GO(narrowed(m, rows * h, dx, &room_dy, &dy));
        MF_GO(mf_linear_weight_grad(&map, dy, h, x, values, mf_replica_grad(m, m->of_model[MF_PATCH_IN], 0)));
        MF_GO(bias_grad(m, MF_PATCH_IN_BIAS, rows, h, dx));
    }
fail:
    mf_buffer_free(m->memory, &room_x);
    mf_buffer_free(m->memory, &room_dy);
    return status;
}

/* The way out, and what a tile of rows needs on it. */
typedef struct way_out {
    mf_model *model;
    const void *x;       /* [held, hidden] compute type */
    const float *target; /* [held, values]; NULL: no loss */
    const void *weight;
    mf_buffer storage;
    mf_buffer normed;  /* [tile, hidden] compute type */
    mf_buffer pred;    /* [tile, values] f32: velocities, then their gradient */
    mf_buffer narrow;  /* its values in the compute type; not in f32 */
    mf_buffer dnormed; /* backward: [tile, hidden] f32 */
} way_out;

static mf_status out_begin(way_out *w, mf_model *m, const void *x, const float *target, bool grads) {
    int64_t tile = mf_min(held(m), MF_ROW_TILE), values = values_of(m);
    *w = (way_out){.model = m, .x = x, .target = rows_at(target, m->side->reduction.first * values)};
    MF_TRY(weight_of(m, MF_PATCH_OUT, &w->storage, &w->weight));
    MF_TRY(mf_work(m, tile * m->config.hidden, mf_dtype_bytes(m->options.type), "the last norm", &w->normed));
    MF_TRY(mf_work(m, tile * values, sizeof(float), "velocities", &w->pred));
    if (!grads) return MF_OK;
    MF_TRY(room_for(m, values, &w->narrow));
    return mf_work(m, tile * m->config.hidden, sizeof(float), "gradient of the last norm", &w->dnormed);
}

static void out_end(way_out *w) {
    mf_buffer *all[] = {&w->storage, &w->normed, &w->pred, &w->narrow, &w->dnormed};
    mf_free_all(w->model, all, sizeof all / sizeof *all);
}

static mf_modulate_args last_norm(const way_out *w, int64_t row, int64_t rows) {
    mf_model *m = w->model;
    int64_t h = m->config.hidden;
    const float *end = m->stdit.at_end.data;
    return (mf_modulate_args){.type = m->options.type,
                              .n = rows,
                              .h = h,
                              .eps = (float)m->config.norm_eps,
                              .first_row = m->side->reduction.first + row,
                              .sample_rows = mf_sample_rows(m),
                              .mod_ld = 2 * h,
                              .x = mf_at_const(m, w->x, row * h),
                              .shift = end,
                              .scale = rows_at(end, h),
                              .y = w->normed.data};
}

static mf_status predict(way_out *w, int64_t row, int64_t rows) {
    mf_model *m = w->model;
    int64_t h = m->config.hidden, values = values_of(m);
    mf_modulate_args norm = last_norm(w, row, rows);
    mf_linear map = mf_linear_of(m, rows, h, values);
    MF_TRY(mf_modulate_forward(m->device, &norm));
    MF_TRY(mf_linear_forward(&map, w->normed.data, h, w->weight, w->pred.data, values, MF_F32, false));
    return mf_bias_forward(m->device,
                           &(mf_bias_args){.type = MF_F32,
                                           .rows = rows,
                                           .width = values,
                                           .bias = mf_replica(m, m->of_model[MF_PATCH_OUT_BIAS], 0),
                                           .x = w->pred.data,
                                           .ld = values});
}

/* Adds the tile's error; grads: pred becomes its gradient. */
static mf_status measure(way_out *w, int64_t row, int64_t rows, float scale, bool grads, double *loss) {
    double part = 0;
    int64_t values = values_of(w->model);
    MF_TRY(mf_squared_error(w->model->device,
                            &(mf_squared_error_args){.n = rows * values,
                                                     .pred = w->pred.data,
                                                     .target = rows_at(w->target, row * values),
                                                     .scale = scale,
                                                     .d_pred = grads ? w->pred.data : NULL},
                            &part));
    if (mf_counts_rows(w->model)) *loss += part;
    return MF_OK;
}

mf_status mf_patches_out(mf_model *m, const void *x, const float *target, float *velocity, double *loss) {
    mf_status status = MF_OK;
    int64_t values = values_of(m);
    size_t row_bytes = (size_t)values * sizeof(float);
    way_out w;
    if (loss) *loss = 0;
    MF_GO(out_begin(&w, m, x, target, false));
    for (int64_t row = 0; row < held(m); row += MF_ROW_TILE) {
        int64_t rows = mf_min(MF_ROW_TILE, held(m) - row);
        MF_GO(predict(&w, row, rows));
        if (loss) MF_GO(measure(&w, row, rows, 1, false, loss));
        if (velocity)
            MF_GO(mf_copy_rows(m->device, rows, row_bytes, velocity + row * values, row_bytes, w.pred.data,
                               row_bytes));
    }
fail:
    out_end(&w);
    return status;
}

static mf_status weight_grads(way_out *w, int64_t rows, const void *d_pred) {
    mf_model *m = w->model;
    int64_t values = values_of(m), h = m->config.hidden;
    mf_linear map = mf_linear_of(m, rows, h, values);
    if (!mf_counts_rows(m)) return MF_OK;
    MF_TRY(mf_linear_weight_grad(&map, d_pred, values, w->normed.data, h,
                                 mf_replica_grad(m, m->of_model[MF_PATCH_OUT], 0)));
    return bias_grad(m, MF_PATCH_OUT_BIAS, rows, values, w->pred.data);
}

static mf_status input_grads(way_out *w, int64_t row, int64_t rows, const void *d_pred) {
    mf_model *m = w->model;
    int64_t values = values_of(m), h = m->config.hidden;
    float *d_end = m->stdit.d_at_end.data, *dx = m->dx.data;
    mf_linear map = mf_linear_of(m, rows, h, values);
    mf_modulate_args norm = last_norm(w, row, rows);
    MF_TRY(mf_linear_input_grad(&map, d_pred, values, w->weight, w->dnormed.data, h, MF_F32, false));
    norm.dy = w->dnormed.data;
    norm.dx = mf_grad_at(dx, row * h);
    norm.dshift = mf_counts_rows(m) ? d_end : NULL;
    norm.dscale = mf_counts_rows(m) ? mf_grad_at(d_end, h) : NULL;
    return mf_modulate_backward(m->device, &norm);
}

mf_status mf_patches_out_grads(mf_model *m, const void *x, const float *target, float scale, double *loss) {
    mf_status status = MF_OK;
    const void *d_pred = NULL;
    way_out w;
    *loss = 0;
    MF_GO(out_begin(&w, m, x, target, true));
    MF_GO(mf_zero(m->device, m->dx.data, (size_t)(held(m) * m->config.hidden) * sizeof(float)));
    for (int64_t row = 0; row < held(m); row += MF_ROW_TILE) {
        int64_t rows = mf_min(MF_ROW_TILE, held(m) - row);
        MF_GO(predict(&w, row, rows));
        MF_GO(measure(&w, row, rows, scale, true, loss));
        MF_GO(narrowed(m, rows * values_of(m), w.pred.data, &w.narrow, &d_pred));
        MF_GO(weight_grads(&w, rows, d_pred));
        MF_GO(input_grads(&w, row, rows, d_pred));
    }
fail:
    out_end(&w);
    return status;
}
