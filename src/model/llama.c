/* llama.c: the walk through the blocks of a model of texts, forward and back. */
#include "model/model.h"

static mf_status attention(mf_model *m, int64_t layer, const mf_part *next) {
    m->next = next;
    return mf_attention_block(m, layer, mf_x(m, layer), mf_middle(m, layer));
}

mf_status mf_model_forward(mf_model *m, const int32_t *ids) {
    m->next = mf_attention_part(m, 0);
    MF_TRY(mf_embed(m, ids, mf_x(m, 0)));
    for (int64_t layer = 0; layer < m->config.layers; layer++) {
        bool last = layer + 1 == m->config.layers;
        MF_TRY(attention(m, layer, mf_mlp_part(m, layer)));
        m->next = last ? mf_head_part(m) : mf_attention_part(m, layer + 1);
        MF_TRY(mf_mlp_block(m, layer, mf_middle(m, layer), mf_x(m, layer + 1)));
    }
    return MF_OK;
}

static mf_status layer_backward(mf_model *m, int64_t layer) {
    if (m->options.recompute != MF_RECOMPUTE_NONE) MF_TRY(attention(m, layer, mf_mlp_part(m, layer)));
    m->next = mf_output_part(m, layer);
    MF_TRY(mf_mlp_block_backward(m, layer, mf_middle(m, layer)));
    MF_TRY(mf_complete(m, mf_mlp_part(m, layer)));
    m->next = mf_first_of_backward(m, layer - 1);
    MF_TRY(mf_attention_block_backward(m, layer, mf_x(m, layer)));
    return mf_params_are_shared(m) ? MF_OK : mf_complete_attention(m, layer);
}

static mf_status backward(mf_model *m, const int32_t *ids) {
    if (!m->config.tied) MF_TRY(mf_complete(m, mf_head_part(m)));
    for (int64_t layer = m->config.layers - 1; layer >= 0; layer--) MF_TRY(layer_backward(m, layer));
    m->next = NULL;
    MF_TRY(mf_embed_grads(m, ids));
    MF_TRY(mf_complete(m, mf_embedding_part(m)));
    return mf_finish_gradients(m);
}

mf_status mf_llama_loss(mf_model *m, const mf_model_call *call, double *loss) {
    MF_TRY(mf_model_forward(m, call->ids));
    m->next = NULL;
    return mf_head_loss(m, mf_x(m, m->config.layers), call->labels, loss);
}

static mf_status check_tokens(const mf_model *m, const mf_logits_call *call) {
    for (int64_t i = 0; i < call->count; i++)
        if (call->tokens[i] < 0 || call->tokens[i] >= m->options.batch * m->options.tokens)
            return MF_FAIL(MF_EINVAL, "logits of token %lld; there are %lld", (long long)call->tokens[i],
                           (long long)(m->options.batch * m->options.tokens));
    return MF_OK;
}

mf_status mf_model_logits(mf_model *m, const mf_logits_call *call) {
    MF_TRY(check_tokens(m, call));
    MF_TRY(mf_model_forward(m, call->ids));
    m->next = NULL;
    return mf_head_logits(m, mf_x(m, m->config.layers), call);
}

mf_status mf_llama_gradients(mf_model *m, const mf_model_call *call, double *loss) {
    MF_TRY(mf_model_forward(m, call->ids));
    MF_TRY(mf_head_gradients(m, mf_x(m, m->config.layers), call->labels, call->scale, loss));
    return backward(m, call->ids);
}
