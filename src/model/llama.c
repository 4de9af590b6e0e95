/* llama.c: one rank's model: its memory, and the walk through the blocks, forward and back. */
#include "model/model.h"

static mf_status keep(mf_model *m, int64_t elements, size_t size, const char *what, mf_buffer *out) {
    return mf_buffer_alloc(m->memory, MF_ACTIVATIONS, (size_t)elements * size, what, out);
}

/* How many layers' values each mode of recomputation keeps. */
static void choose_slots(mf_model *m) {
    int layers = (int)m->config.layers;
    bool kept = !m->options.forward_only;
    bool attention = kept && m->options.recompute == MF_RECOMPUTE_NONE;
    bool inner = kept && m->options.recompute != MF_RECOMPUTE_BLOCK;
    m->x_slots = kept ? layers + 1 : 1;
    m->attention_slots = attention ? layers : 1;
    m->middle_slots = attention ? layers : 1; /* recomputing attention makes it again */
    m->mlp_slots = inner ? layers : 0;
}

static mf_status keep_activations(mf_model *m) {
    const mf_model_config *c = &m->config;
    size_t size = mf_dtype_bytes(m->options.type);
    int64_t hidden = m->tokens * c->hidden, heads = m->attention_slots * m->tokens * c->heads;
    MF_TRY(keep(m, m->x_slots * hidden, size, "block inputs", &m->x));
    MF_TRY(keep(m, m->middle_slots * hidden, size, "values between attention and MLP", &m->middle));
    MF_TRY(keep(m, heads * c->head_dim, size, "queries", &m->q));
    MF_TRY(keep(m, heads * c->head_dim, size, "attention's heads", &m->a));
    MF_TRY(keep(m, heads, sizeof(float), "attention's log-sums", &m->lse));
    MF_TRY(keep(m, m->mlp_slots * m->tokens * c->ffn, size, "the MLP's gates", &m->gate));
    MF_TRY(keep(m, m->mlp_slots * m->tokens * c->ffn, size, "the MLP's ups", &m->up));
    if (!m->options.forward_only)
        MF_TRY(keep(m, hidden, sizeof(float), "gradient of the residual stream", &m->dx));
    return keep(m, m->rows * c->head_dim, sizeof(float), "rotary angles", &m->cos_sin);
}

static mf_status fill_angles(mf_model *m) {
    mf_run runs[MF_RUNS];
    int n =
        mf_cut_runs(m->options.tokens, mf_comm_size(m->sequence_comm), mf_comm_rank(m->sequence_comm), runs);
    for (int i = 0; i < n; i++)
        if (runs[i].rows)
            MF_TRY(mf_rope_table(m->device, runs[i].position, runs[i].rows, m->config.head_dim,
                                 m->config.rope_theta,
                                 (float *)m->cos_sin.data + runs[i].first_row * m->config.head_dim));
    return MF_OK;
}

static mf_status build(mf_model *m, const mf_mesh *mesh) {
    const mf_model_options *o = &m->options;
    m->comm = m->layout->weights_axis ? mf_mesh_axis(mesh, m->layout->weights_axis) : mesh->self;
    m->sequence_comm = m->layout->sequence_axis ? mf_mesh_axis(mesh, m->layout->sequence_axis) : mesh->self;
    m->shards = mf_comm_size(m->comm);
    m->rows = mf_cut_rows(o->tokens, mf_comm_size(m->sequence_comm), mf_comm_rank(m->sequence_comm));
    m->tokens = o->batch * m->rows;
    choose_slots(m);
    MF_TRY(mf_params_build(m));
    MF_TRY(mf_store_create(m->comm, m->device, o->type, mf_params_elements(m, mf_comm_rank(m->comm)),
                           !o->forward_only, &m->store));
    size_t norms = (size_t)((2 * m->config.layers + 1) * m->config.hidden) * sizeof(float);
    MF_TRY(mf_buffer_alloc(m->memory, MF_WEIGHTS, norms, "norms", &m->norms));
    if (!o->forward_only)
        MF_TRY(mf_buffer_alloc(m->memory, MF_GRADS, norms, "gradients of norms", &m->norm_grads));
    mf_exchange_sizes sizes = {.type = o->type,
                               .batch = o->batch,
                               .tokens = o->tokens,
                               .kv_heads = m->config.kv_heads,
                               .head_dim = m->config.head_dim,
                               .slots = m->attention_slots,
                               .grads = !o->forward_only};
    MF_TRY(mf_exchange_create(m->layout->exchange, m->sequence_comm, m->device, &sizes, &m->exchange));
    MF_TRY(keep_activations(m));
    return fill_angles(m);
}

mf_status mf_model_create(const mf_model_options *options, const mf_layout *layout, const mf_mesh *mesh,
                          mf_device *device, mf_model **out) {
    mf_model *m = NULL;
    *out = NULL;
    if (options->batch < 1 || options->tokens < 1)
        return MF_FAIL(MF_EINVAL, "a batch of %lld sequences of %lld tokens", (long long)options->batch,
                       (long long)options->tokens);
    MF_TRY(mf_config_check(&options->config, "the model"));
    MF_TRY(mf_host_alloc(1, sizeof *m, &m));
    m->options = *options;
    m->config = options->config;
    m->layout = layout;
    m->device = device;
    m->memory = mf_device_memory(device);
    mf_status status = build(m, mesh);
    if (status) {
        mf_model_destroy(m);
        return mf_error_pass(__FILE__, __LINE__, status);
    }
    *out = m;
    return MF_OK;
}

void mf_model_destroy(mf_model *m) {
    if (!m) return;
    mf_buffer *all[] = {&m->norms, &m->norm_grads, &m->cos_sin, &m->x,  &m->middle, &m->q,
                        &m->a,     &m->lse,        &m->gate,    &m->up, &m->dx};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(m->memory, all[i]);
    mf_exchange_destroy(&m->exchange);
    mf_store_destroy(&m->store);
    mf_params_free(m);
    mf_host_free(m);
}

const mf_model_options *mf_model_options_get(const mf_model *m) { return &m->options; }
int64_t mf_model_rows(const mf_model *m) { return m->rows; }

void mf_model_cut(const mf_model *m, const int32_t *sequence, int32_t *out) {
    mf_run runs[MF_RUNS];
    int n =
        mf_cut_runs(m->options.tokens, mf_comm_size(m->sequence_comm), mf_comm_rank(m->sequence_comm), runs);
    for (int i = 0; i < n; i++)
        for (int64_t r = 0; r < runs[i].rows; r++)
            out[runs[i].first_row + r] = sequence[runs[i].position + r];
}

mf_comm *mf_model_comm(const mf_model *m) { return m->comm; }

mf_model_state mf_model_state_get(mf_model *m) {
    return (mf_model_state){.cut = m->store.elements,
                            .replicated = (2 * m->config.layers + 1) * m->config.hidden,
                            .type = m->options.type,
                            .cut_weights = m->store.weights.own,
                            .cut_grads = m->store.grads.own,
                            .replicated_weights = m->norms.data,
                            .replicated_grads = m->norm_grads.data};
}

static mf_status forward(mf_model *m, const int32_t *ids) {
    MF_TRY(mf_embed(m, ids, mf_x(m, 0)));
    for (int64_t layer = 0; layer < m->config.layers; layer++) {
        MF_TRY(mf_attention_block(m, layer, mf_x(m, layer), mf_middle(m, layer)));
        MF_TRY(mf_mlp_block(m, layer, mf_middle(m, layer), mf_x(m, layer + 1)));
    }
    return MF_OK;
}

static mf_status backward(mf_model *m, const int32_t *ids) {
    for (int64_t layer = m->config.layers - 1; layer >= 0; layer--) {
        if (m->options.recompute != MF_RECOMPUTE_NONE)
            MF_TRY(mf_attention_block(m, layer, mf_x(m, layer), mf_middle(m, layer)));
        MF_TRY(mf_mlp_block_backward(m, layer, mf_middle(m, layer)));
        MF_TRY(mf_attention_block_backward(m, layer, mf_x(m, layer)));
    }
    return mf_embed_grads(m, ids);
}

mf_status mf_model_loss(mf_model *m, const int32_t *ids, const int32_t *labels, double *loss) {
    MF_TRY(forward(m, ids));
    return mf_head_loss(m, mf_x(m, m->config.layers), labels, loss);
}

mf_status mf_model_gradients(mf_model *m, const int32_t *ids, const int32_t *labels, float scale,
                             double *loss) {
    MF_TRY(forward(m, ids));
    MF_TRY(mf_head_gradients(m, mf_x(m, m->config.layers), labels, scale, loss));
    return backward(m, ids);
}
