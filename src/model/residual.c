/* residual.c: between the residual stream and the blocks: norms, what is gathered on the way in and summed on
 * the way out, and the same backwards. */
#include "model/model.h"

mf_status mf_part_open(mf_model *m, const mf_part *part, mf_pass pass, mf_stream *out) {
    MF_TRY(mf_stream_open(out, mf_kind_of(m, part), &m->store, part, pass));
    return m->next ? mf_stream_ahead(&m->store, mf_kind_of(m, m->next), m->next) : MF_OK;
}

static mf_status norm_forward(mf_model *m, int param, const void *x, void *out) {
    return mf_rmsnorm_forward(m->device, m->reduction.held, m->config.hidden, (float)m->config.norm_eps,
                              m->options.type, x, mf_replica(m, param, 0), out);
}

static mf_status norm_backward(mf_model *m, int param, const void *x, const float *dy) {
    return mf_rmsnorm_backward(m->device, &(mf_rmsnorm_grad){.n = m->reduction.held,
                                                             .h = m->config.hidden,
                                                             .eps = (float)m->config.norm_eps,
                                                             .type = m->options.type,
                                                             .x = x,
                                                             .weight = mf_replica(m, param, 0),
                                                             .dy = dy,
                                                             .dx = m->dx.data,
                                                             .dweight = mf_replica_grad(m, param, 0)});
}

/* Gathers what stands in out->held, which is not needed any more where it was. */
static mf_status gather(mf_model *m, const void *held, mf_normed *out) {
    MF_TRY(mf_reduction_gather(&m->reduction, held, &out->gathered, &out->all));
    if (out->gathered.data) mf_buffer_free(m->memory, &out->held);
    return MF_OK;
}

mf_status mf_normed_make(mf_model *m, int param, const void *x, mf_normed *out) {
    int64_t elements = m->reduction.held * m->config.hidden;
    MF_TRY(mf_work(m, elements, mf_dtype_bytes(m->options.type), "a block's input", &out->held));
    MF_TRY(norm_forward(m, param, x, out->held.data));
    return gather(m, out->held.data, out);
}

void mf_normed_free(mf_model *m, mf_normed *normed) {
    mf_buffer_free(m->memory, &normed->held);
    mf_buffer_free(m->memory, &normed->gathered);
}

mf_status mf_block_grad(mf_model *m, mf_normed *out) {
    int64_t n = m->reduction.held * m->config.hidden;
    if (m->options.type == MF_F32) return gather(m, m->dx.data, out);
    MF_TRY(mf_work(m, n, mf_dtype_bytes(m->options.type), "gradient in the compute type", &out->held));
    MF_TRY(mf_convert(m->device, n, m->dx.data, MF_F32, out->held.data, m->options.type));
    return gather(m, out->held.data, out);
}

/* The input's place serves the sum. */
static void *scratch_of(const mf_normed *normed) {
    return normed->gathered.data ? normed->gathered.data : normed->held.data;
}

mf_status mf_residual_add(mf_model *m, mf_normed *normed, float *y, const void *x, void *out) {
    float *sum = NULL;
    MF_TRY(mf_reduction_sum_f32(&m->reduction, y, scratch_of(normed), &sum));
    return mf_add(m->device, m->reduction.held * m->config.hidden, m->options.type, x, sum, out);
}

mf_status mf_residual_backward(mf_model *m, mf_normed *normed, int param, const void *x, float *dnormed) {
    float *sum = NULL;
    MF_TRY(mf_reduction_sum_f32(&m->reduction, dnormed, scratch_of(normed), &sum));
    return norm_backward(m, param, x, sum);
}
