/* residual.c: what every block does with the residual stream: normalises it, and takes its gradient. */
#include "model/model.h"

mf_status mf_norm_forward(mf_model *m, int param, const void *x, void *out) {
    return mf_rmsnorm_forward(m->device, m->tokens, m->config.hidden, (float)m->config.norm_eps,
                              m->options.type, x, (float *)m->norms.data + m->param[param].offset, out);
}

mf_status mf_norm_backward(mf_model *m, int param, const void *x, const float *dy) {
    return mf_rmsnorm_backward(
        m->device, &(mf_rmsnorm_grad){.n = m->tokens,
                                      .h = m->config.hidden,
                                      .eps = (float)m->config.norm_eps,
                                      .type = m->options.type,
                                      .x = x,
                                      .weight = (float *)m->norms.data + m->param[param].offset,
                                      .dy = dy,
                                      .dx = m->dx.data,
                                      .dweight = (float *)m->norm_grads.data + m->param[param].offset});
}

mf_status mf_dx_cast(mf_model *m, mf_buffer *held, const void **out) {
    int64_t n = m->tokens * m->config.hidden;
    *out = m->dx.data;
    if (m->options.type == MF_F32) return MF_OK;
    MF_TRY(mf_work(m, n, mf_dtype_bytes(m->options.type), "gradient in the compute type", held));
    *out = held->data;
    return mf_cast(m->device, &(mf_cast_args){.rows = 1,
                                              .width = n,
                                              .in = m->dx.data,
                                              .in_ld = n,
                                              .in_type = MF_F32,
                                              .out = held->data,
                                              .out_ld = n,
                                              .out_type = m->options.type});
}
