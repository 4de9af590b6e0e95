/* stdit.c: the walk through the blocks of a model of videos, forward and back. Blocks over the places of a
 * frame and over the frames of a place take turns; where the layout switches the cut it does so between them.
 */
#include "model/model.h"

/* Of any rank, on either side of a switch. */
static int64_t most_tokens(const mf_model *m) {
    int64_t ranks = mf_comm_size(m->sequence), places = mf_clip_places(&m->options.grid),
            frames = m->options.grid.frames;
    return m->options.batch *
           mf_max(mf_ceil_div(frames, ranks) * places, frames * mf_ceil_div(places, ranks));
}

mf_status mf_stdit_build(mf_model *m) {
    int64_t most = mf_max(m->sides_of[0].tokens, m->sides_of[1].tokens) * m->config.hidden;
    MF_TRY(mf_stdit_grid(m));
    MF_TRY(mf_modulation_keep(m));
    if (!mf_switches(m)) return MF_OK;
    m->stdit.turning.most_bytes =
        (size_t)(most_tokens(m) * m->config.hidden) * mf_dtype_bytes(m->options.type);
    return mf_shared_alloc(m->sequence, m->memory, MF_EXCHANGE,
                           (size_t)most * mf_dtype_bytes(m->options.type), "values before a switch",
                           &m->stdit.turning);
}

void mf_stdit_free(mf_model *m) {
    mf_stdit *s = &m->stdit;
    mf_buffer *all[] = {&s->table[0], &s->table[1],   &s->table[2],     &s->index,         &s->features,
                        &s->inner,    &s->inner_silu, &s->embedded,     &s->embedded_silu, &s->modulation,
                        &s->at_layer, &s->d_embedded, &s->d_modulation, &s->d_at_layer,    &s->at_end,
                        &s->d_at_end, &s->condition,  &s->d_condition};
    mf_free_all(m, all, sizeof all / sizeof *all);
    if (m->sequence) mf_shared_free(m->sequence, m->memory, &s->turning);
}

static bool is_last(const mf_model *m, int64_t layer) { return layer + 1 == m->config.layers; }

/* Up to the MLP's input. */
static mf_status attention(mf_model *m, int64_t layer) {
    m->next = mf_after_attention(m, layer);
    MF_TRY(mf_attention_block(m, layer, mf_x(m, layer), mf_middle(m, layer)));
    if (!mf_layer_has(m, MF_CROSS_Q)) return MF_OK;
    m->next = mf_mlp_part(m, layer);
    return mf_cross_block(m, layer, mf_middle(m, layer), mf_crossed(m, layer));
}

static mf_status forward_layer(mf_model *m, int64_t layer) {
    bool switched = mf_switches(m) && !is_last(m, layer);
    void *out = mf_x(m, layer + 1);
    mf_take_side(m, layer);
    MF_TRY(mf_modulation_open(m, layer, false));
    MF_TRY(attention(m, layer));
    m->next = is_last(m, layer) ? NULL : mf_attention_part(m, layer + 1);
    if (switched) MF_TRY(mf_stdit_switch_open(m, &out));
    MF_TRY(mf_mlp_block(m, layer, mf_crossed(m, layer), out));
    return switched ? mf_stdit_switch(m, layer + 1, mf_x(m, layer + 1)) : MF_OK;
}

static mf_status forward(mf_model *m, const mf_model_call *call) {
    mf_take_side(m, 0);
    MF_TRY(mf_modulation_make(m, call));
    MF_TRY(mf_patches_in(m, call->input, mf_x(m, 0)));
    for (int64_t layer = 0; layer < m->config.layers; layer++) MF_TRY(forward_layer(m, layer));
    return MF_OK;
}

mf_status mf_stdit_loss(mf_model *m, const mf_model_call *call, double *loss) {
    MF_TRY(forward(m, call));
    return mf_patches_out(m, mf_x(m, m->config.layers), call->target, NULL, loss);
}

static mf_status whole_velocity(mf_model *m, float *own, float *out) {
    int64_t values = mf_config_values(&m->config), clip = m->options.tokens * values;
    int64_t own_clip = m->side->tokens / m->options.batch * values, all = m->options.batch * clip;
    MF_TRY(mf_zero(m->device, out, (size_t)all * sizeof(float)));
    for (int64_t b = 0; b < m->options.batch && own; b++)
        MF_TRY(mf_stdit_place_clip(m, own + b * own_clip, out + b * clip));
    MF_TRY(mf_allreduce(m->sequence, out, all, MF_F32, NULL));
    if (!mf_reduction_scatters(m->side->reduction.kind)) return MF_OK;
    return mf_allreduce(m->tensor, out, all, MF_F32, NULL);
}

mf_status mf_model_velocity(mf_model *m, const mf_model_call *call, float *out) {
    mf_status status = MF_OK;
    mf_buffer own = {0};
    if (!mf_is_video(m)) return MF_FAIL(MF_EINVAL, "velocities of a model of texts");
    MF_TRY(forward(m, call));
    int64_t values = mf_config_values(&m->config), n = m->side->tokens * values;
    MF_GO(mf_work(m, n, sizeof(float), "own velocities", &own));
    MF_GO(mf_zero(m->device, own.data, (size_t)n * sizeof(float)));
    MF_GO(mf_patches_out(m, mf_x(m, m->config.layers), NULL,
                         mf_grad_at(own.data, m->side->reduction.first * values), NULL));
    MF_GO(whole_velocity(m, own.data, out));
fail:
    mf_buffer_free(m->memory, &own);
    return status;
}

static mf_status layer_backward(mf_model *m, int64_t layer) {
    mf_take_side(m, layer);
    if (mf_switches(m) && !is_last(m, layer)) MF_TRY(mf_stdit_switch_back(m, layer));
    MF_TRY(mf_modulation_open(m, layer, true));
    if (m->options.recompute != MF_RECOMPUTE_NONE) MF_TRY(attention(m, layer));
    m->next = mf_layer_has(m, MF_CROSS_Q) ? mf_cross_part(m, layer) : mf_output_part(m, layer);
    MF_TRY(mf_mlp_block_backward(m, layer, mf_crossed(m, layer)));
    MF_TRY(mf_complete(m, mf_mlp_part(m, layer)));
    if (mf_layer_has(m, MF_CROSS_Q)) {
        m->next = mf_output_part(m, layer);
        MF_TRY(mf_cross_block_backward(m, layer, mf_middle(m, layer)));
        MF_TRY(mf_complete(m, mf_cross_part(m, layer)));
    }
    m->next = mf_first_of_backward(m, layer - 1);
    MF_TRY(mf_attention_block_backward(m, layer, mf_x(m, layer)));
    MF_TRY(mf_complete_attention(m, layer));
    return mf_modulation_close(m, layer);
}

mf_status mf_stdit_gradients(mf_model *m, const mf_model_call *call, double *loss) {
    MF_TRY(forward(m, call));
    MF_TRY(mf_modulation_clear(m));
    MF_TRY(mf_patches_out_grads(m, mf_x(m, m->config.layers), call->target, call->scale, loss));
    for (int64_t layer = m->config.layers - 1; layer >= 0; layer--) MF_TRY(layer_backward(m, layer));
    MF_TRY(mf_patches_in_grads(m, call->input));
    MF_TRY(mf_modulation_grads(m, call));
    return mf_finish_gradients(m);
}
