/* streamed.c: a matrix outside of the layers that works on a few rows which all ranks have alike: every rank
 * makes the whole output, of whatever shards its stream yields. The rows' gradient is a rank's own share, of
 * which the weight's is a linear function, so that shares add up. */
#include "model/model.h"

static mf_linear map_of(const mf_model *m, const mf_param *p, int64_t rows, const mf_slice *slice) {
    return mf_linear_of(m, rows, p->cols, slice->count);
}

static mf_status forward_turns(mf_model *m, int param, int64_t rows, const void *x, float *y) {
    mf_status status = MF_OK;
    const mf_param *p = &m->param[param];
    mf_stream s = {0};
    MF_GO(mf_part_open(m, mf_part_of(m, param), MF_PASS_FORWARD, &s));
    for (mf_turn turn; mf_stream_more(&s);) {
        MF_GO(mf_stream_turn(&s, &turn));
        mf_slice slice = mf_param_slice(m, param, turn.shard);
        mf_linear map = map_of(m, p, rows, &slice);
        MF_GO(mf_linear_forward(&map, x, p->cols, mf_at_const(m, turn.weights, slice.offset),
                                y ? y + slice.first : NULL, p->rows, MF_F32, false));
        MF_GO(mf_stream_end_turn(&s));
    }
    MF_GO(mf_stream_finish(&s));
fail:
    mf_stream_close(&s);
    return status;
}

mf_status mf_streamed_forward(mf_model *m, int kind, int64_t rows, const void *x, float *y) {
    int param = m->of_model[kind];
    int64_t out = m->param[param].rows;
    if (mf_comm_size(m->tensor) > 1) MF_TRY(mf_zero(m->device, y, (size_t)(rows * out) * sizeof(float)));
    MF_TRY(forward_turns(m, param, rows, x, y));
    MF_TRY(mf_allreduce(m->tensor, y, rows * out, MF_F32, NULL));
    return mf_bias_forward(m->device, &(mf_bias_args){.type = MF_F32,
                                                      .rows = rows,
                                                      .width = out,
                                                      .bias = mf_replica(m, m->of_model[kind + 1], 0),
                                                      .x = y,
                                                      .ld = out});
}

/* narrow: dy in the compute type. */
static mf_status backward_turn(mf_model *m, int param, int64_t rows, mf_stream *s, const void *x,
                               const void *narrow, float *dx) {
    const mf_param *p = &m->param[param];
    mf_turn turn;
    float *dw = NULL;
    MF_TRY(mf_stream_turn(s, &turn));
    mf_slice slice = mf_param_slice(m, param, turn.shard);
    mf_linear map = map_of(m, p, rows, &slice);
    const void *dy = mf_at_const(m, narrow, slice.first);
    if (dx)
        MF_TRY(mf_linear_input_grad(&map, dy, p->rows, mf_at_const(m, turn.weights, slice.offset), dx,
                                    p->cols, MF_F32, true));
    MF_TRY(mf_stream_grads(s, &dw));
    MF_TRY(mf_linear_weight_grad(&map, dy, p->rows, x, p->cols, mf_grad_at(dw, slice.offset)));
    return mf_stream_end_turn(s);
}

static mf_status backward_turns(mf_model *m, int param, int64_t rows, const void *x, const void *narrow,
                                float *dx) {
    mf_status status = MF_OK;
    mf_stream s = {0};
    MF_GO(mf_part_open(m, mf_part_of(m, param), MF_PASS_BACKWARD, &s));
    while (mf_stream_more(&s)) MF_GO(backward_turn(m, param, rows, &s, x, narrow, dx));
    MF_GO(mf_stream_finish(&s));
fail:
    mf_stream_close(&s);
    return status;
}

static mf_status bias_grad(mf_model *m, int kind, int64_t rows, const float *dy) {
    int64_t width = m->param[m->of_model[kind]].rows;
    if (mf_comm_rank(m->tensor) > 0) return MF_OK; /* it has the same */
    return mf_bias_backward(m->device,
                            &(mf_bias_args){.type = MF_F32,
                                            .rows = rows,
                                            .width = width,
                                            .d = dy,
                                            .ld = width,
                                            .d_bias = mf_replica_grad(m, m->of_model[kind + 1], 0)});
}

mf_status mf_streamed_backward(mf_model *m, int kind, int64_t rows, const void *x, float *dy, float *dx) {
    mf_status status = MF_OK;
    int param = m->of_model[kind];
    const mf_param *p = &m->param[param];
    int64_t n = rows * p->rows;
    mf_buffer narrow = {0};
    MF_GO(bias_grad(m, kind, rows, dy));
    if (dx) MF_GO(mf_zero(m->device, dx, (size_t)(rows * p->cols) * sizeof(float)));
    if (m->options.type != MF_F32) {
        MF_GO(mf_work(m, n, mf_dtype_bytes(m->options.type), "gradient in the compute type", &narrow));
        MF_GO(mf_convert(m->device, n, dy, MF_F32, narrow.data, m->options.type));
    }
    MF_GO(backward_turns(m, param, rows, x, m->options.type == MF_F32 ? dy : narrow.data, dx));
    if (dx) MF_GO(mf_allreduce(m->tensor, dx, rows * p->cols, MF_F32, NULL));
    MF_GO(m->last ? mf_complete(m, mf_part_of(m, param)) : MF_OK);
fail:
    mf_buffer_free(m->memory, &narrow);
    return status;
}
