/* norm.c: a block's normalised input, and the way back through it. */
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
