/* project.c: queries, keys or values of some heads and tokens: their matrix, and where the family has them
 * their bias, their norm head by head and their turning by position. */
#include "model/model.h"

mf_token_rows mf_own_tokens(const mf_model *m) {
    return (mf_token_rows){.batch = m->side->sequences, .rows = m->side->rows, .cos_sin = m->cos_sin.data};
}

mf_projection mf_projection_of(const mf_model *m, int64_t layer, int matrix, mf_slice heads,
                               const void *weight) {
    int norm = matrix == MF_WQ ? MF_NORM_Q : MF_NORM_K;
    return (mf_projection){.heads = heads,
                           .width = heads.count * m->config.head_dim,
                           .weight = weight,
                           .bias = m->config.qkv_bias ? mf_layer_param(m, layer, MF_BQ + matrix - MF_WQ) : -1,
                           .norm = m->config.qk_norm && matrix != MF_WV ? mf_layer_param(m, layer, norm) : -1,
                           .turned = matrix != MF_WV && !mf_is_video(m)};
}

mf_rope_args mf_rope_of(const mf_model *m, const mf_token_rows *tokens, int64_t heads) {
    return (mf_rope_args){.type = m->options.type,
                          .batch = tokens->batch,
                          .tokens = tokens->rows,
                          .heads = heads,
                          .head_dim = m->config.head_dim,
                          .cos_sin = tokens->cos_sin};
}

mf_headnorm_args mf_head_norm_of(const mf_model *m, const mf_projection *p, int64_t tokens, void *x,
                                 int64_t ld) {
    return (mf_headnorm_args){.type = m->options.type,
                              .rows = tokens,
                              .heads = p->heads.count,
                              .head_dim = m->config.head_dim,
                              .eps = (float)m->config.norm_eps,
                              .weight = mf_replica(m, p->norm, 0),
                              .x = x,
                              .ld = ld};
}

mf_status mf_project_plain(const mf_model *m, const mf_projection *p, int64_t tokens, const void *normed,
                           void *out, int64_t ld) {
    int64_t h = m->config.hidden;
    mf_linear map = mf_linear_of(m, tokens, h, p->width);
    MF_TRY(mf_linear_forward(&map, normed, h, p->weight, out, ld, m->options.type, false));
    if (p->bias < 0) return MF_OK;
    return mf_bias_forward(
        m->device, &(mf_bias_args){.type = m->options.type,
                                   .rows = tokens,
                                   .width = p->width,
                                   .bias = mf_replica(m, p->bias, p->heads.first * m->config.head_dim),
                                   .x = out,
                                   .ld = ld});
}

mf_status mf_project(const mf_model *m, const mf_projection *p, const mf_token_rows *tokens,
                     const void *normed, void *out, int64_t ld) {
    int64_t n = tokens->batch * tokens->rows;
    MF_TRY(mf_project_plain(m, p, n, normed, out, ld));
    if (p->norm >= 0) {
        mf_headnorm_args args = mf_head_norm_of(m, p, n, out, ld);
        MF_TRY(mf_headnorm_forward(m->device, &args));
    }
    if (!p->turned) return MF_OK;
    mf_rope_args turn = mf_rope_of(m, tokens, p->heads.count);
    turn.in = turn.out = out;
    turn.in_ld = turn.out_ld = ld;
    return mf_rope(m->device, &turn);
}
