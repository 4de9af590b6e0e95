/* model.c: one rank's model of whichever family: its memory, what it can't be, and what it is asked. */
#include "model/model.h"

mf_status mf_keep(mf_model *m, int64_t elements, size_t size, const char *what, mf_buffer *out) {
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

void mf_free_all(mf_model *m, mf_buffer *const *buffers, size_t count) {
    for (size_t i = 0; i < count; i++) mf_buffer_free(m->memory, buffers[i]);
}

/* The most of any side. */
static int64_t most_held(const mf_model *m) {
    return mf_max(m->sides_of[0].reduction.held, m->sides_of[1].reduction.held);
}
static int64_t most_tokens(const mf_model *m) { return mf_max(m->sides_of[0].tokens, m->sides_of[1].tokens); }

/* Tokens of the layers that are kept: every layer's, or the most of one. */
static int64_t held_in(const mf_model *m, int slots) {
    return slots > 1 ? mf_held_before(m, slots) : slots * most_held(m);
}
static int64_t tokens_in(const mf_model *m, int slots) {
    return slots > 1 ? mf_tokens_before(m, slots) : slots * most_tokens(m);
}

static mf_status keep_activations(mf_model *m) {
    const mf_model_config *c = &m->config;
    size_t size = mf_dtype_bytes(m->options.type);
    int64_t ffn = mf_param_own(m, mf_layer_param(m, 0, MF_WUP)).count;
    int64_t crossed = mf_layer_has(m, MF_CROSS_Q) ? m->middle_slots : 0;
    int64_t gates = mf_layer_has(m, MF_WGATE) ? m->mlp_slots : 0;
    int64_t inputs = m->x_slots > 1 ? mf_held_before(m, c->layers) : 0; /* and the last one's output */
    MF_TRY(mf_keep(m, (inputs + most_held(m)) * c->hidden, size, "block inputs", &m->x));
    MF_TRY(mf_keep(m, held_in(m, m->middle_slots) * c->hidden, size, "values behind attention", &m->middle));
    MF_TRY(
        mf_keep(m, held_in(m, (int)crossed) * c->hidden, size, "values behind the condition", &m->crossed));
    MF_TRY(mf_keep(m, tokens_in(m, m->attention_slots) * m->side->exchange.width, size, "attention's heads",
                   &m->a));
    MF_TRY(mf_keep(m, tokens_in(m, (int)gates) * ffn, size, "the MLP's gates", &m->gate));
    MF_TRY(mf_keep(m, tokens_in(m, m->mlp_slots) * ffn, size, "the MLP's ups", &m->up));
    if (m->options.forward_only) return MF_OK;
    return mf_keep(m, most_held(m) * c->hidden, sizeof(float), "gradient of the residual stream", &m->dx);
}

static mf_status fill_angles(mf_model *m, int64_t position) {
    mf_run runs[MF_RUNS];
    int n = mf_cut_runs(m->options.tokens, mf_comm_size(m->sequence), mf_comm_rank(m->sequence), runs);
    for (int i = 0; i < n; i++)
        if (runs[i].rows)
            MF_TRY(mf_rope_table(m->device,
                                 &(mf_rope_table_args){.first = position + runs[i].position,
                                                       .rows = runs[i].rows,
                                                       .head_dim = m->config.head_dim,
                                                       .theta = m->config.rope_theta,
                                                       .scaling = m->config.scaling,
                                                       .cos_sin = (float *)m->cos_sin.data +
                                                                  runs[i].first_row * m->config.head_dim}));
    return MF_OK;
}

static mf_status join_groups(mf_model *m, mf_mesh *mesh) {
    const mf_layout *l = &m->layout;
    mf_axes all = (1u << mesh->spec.axes) - 1,
            same_tokens = mf_reduction_scatters(l->reduction) ? 0 : l->tensor;
    MF_TRY(mf_mesh_group(mesh, l->tensor, &m->tensor));
    MF_TRY(mf_mesh_group(mesh, l->stream, &m->stream));
    MF_TRY(mf_mesh_group(mesh, l->sequence, &m->sequence));
    MF_TRY(mf_mesh_group(mesh, all & ~same_tokens, &m->norms_comm));
    MF_TRY(mf_mesh_group(mesh, all, &m->heads_comm));
    MF_TRY(mf_mesh_group(mesh, l->tensor | l->stream, &m->sharers));
    m->world = mesh->world;
    m->shards = mf_comm_size(m->stream);
    return MF_OK;
}

static int64_t most_elements(const mf_model *m) {
    int64_t most = 0;
    for (int shard = 0; shard < m->shards; shard++) most = mf_max(most, mf_params_elements(m, shard));
    return most;
}

static mf_status build_store(mf_model *m, mf_mesh *mesh) {
    mf_comm *replicas = NULL;
    MF_TRY(mf_mesh_group(mesh, mf_layout_replicas(&mesh->spec, &m->layout), &replicas));
    mf_store_options options = {.comm = m->stream,
                                .replicas = replicas,
                                .device = m->device,
                                .type = m->options.type,
                                .elements = mf_params_elements(m, mf_comm_rank(m->stream)),
                                .most_elements = most_elements(m),
                                .grads = !m->options.forward_only,
                                .cut_updates = m->layout.cut_updates};
    MF_TRY(mf_store_create(&options, &m->store));
    size_t bytes = (size_t)m->replicated * sizeof(float);
    MF_TRY(mf_buffer_alloc(m->memory, MF_WEIGHTS, bytes, "norms and biases", &m->replicas));
    if (m->options.forward_only) return MF_OK;
    return mf_buffer_alloc(m->memory, MF_GRADS, bytes, "gradients of norms and biases", &m->replica_grads);
}

/* What a video's sides differ in is set by stdit_sides.c. */
static mf_status build_exchange(mf_model *m, mf_mesh *mesh, mf_side *side) {
    mf_slice heads = mf_param_own(m, mf_layer_param(m, 0, MF_WQ)),
             kv = mf_param_own(m, mf_layer_param(m, 0, MF_WK));
    bool video = mf_is_video(m);
    mf_exchange_sizes sizes = {.type = m->options.type,
                               .batch = side->sequences,
                               .tokens = side->all_rows,
                               .interleave = side->interleave,
                               .all_keys = video,
                               .first_head = heads.first,
                               .heads = heads.count,
                               .first_kv_head = kv.first,
                               .kv_heads = kv.count,
                               .group = m->config.heads / m->config.kv_heads,
                               .head_dim = m->config.head_dim,
                               .bucket = m->layout.kv_bucket,
                               .slots = m->attention_slots > m->sides ? m->attention_slots / m->sides : 1,
                               .grads = !m->options.forward_only,
                               .sums_at_home = m->options.cache,
                               .packed = m->options.packed};
    mf_comm *comm = side->cut ? m->sequence : mesh->self;
    return mf_exchange_create(m->layout.exchange, comm, m->device, &sizes, &side->exchange);
}

static void take_text_side(mf_model *m) {
    const mf_model_options *o = &m->options;
    m->sides = 1;
    m->side->cut = true;
    m->side->all_rows = o->tokens;
    m->side->rows = mf_cut_rows(o->tokens, mf_comm_size(m->sequence), mf_comm_rank(m->sequence));
    m->side->sequences = o->batch;
}

static mf_status take_shape(mf_model *m) {
    m->side = &m->sides_of[0];
    if (mf_is_video(m))
        mf_stdit_take_sides(m);
    else
        take_text_side(m);
    for (int i = 0; i < m->sides; i++) {
        mf_side *side = &m->sides_of[i];
        side->tokens = side->sequences * side->rows;
        mf_reduction_destroy(&side->reduction);
        MF_TRY(mf_reduction_create(m->layout.reduction, m->tensor, m->device, m->options.type, side->tokens,
                                   m->config.hidden, &side->reduction));
    }
    return MF_OK;
}

static mf_status keep_angles(mf_model *m) {
    MF_TRY(mf_keep(m, m->side->rows * m->config.head_dim, sizeof(float), "rotary angles", &m->cos_sin));
    return fill_angles(m, 0);
}

static mf_status build(mf_model *m, mf_mesh *mesh) {
    MF_TRY(join_groups(m, mesh));
    MF_TRY(take_shape(m));
    choose_slots(m);
    MF_TRY(mf_params_build(m));
    MF_TRY(build_store(m, mesh));
    for (int i = 0; i < m->sides; i++) MF_TRY(build_exchange(m, mesh, &m->sides_of[i]));
    MF_TRY(keep_activations(m));
    return mf_is_video(m) ? mf_stdit_build(m) : keep_angles(m);
}

mf_status mf_model_reshape(mf_model *m, int64_t tokens, int64_t position) {
    m->options.tokens = tokens;
    MF_TRY(take_shape(m));
    mf_exchange_reshape(&m->side->exchange, tokens);
    return fill_angles(m, position);
}

/* Matrix libraries count rows in 32 bits. */
static mf_status check_rows(const mf_model_options *o, int ranks) {
    int64_t most = INT32_MAX / o->batch, tokens = mf_ceil_div(o->tokens, ranks);
    if (tokens <= most) return MF_OK;
    return MF_FAIL(MF_EINVAL, "%lld sequences at once, of %lld tokens a rank: %lld tokens are the most",
                   (long long)o->batch, (long long)tokens, (long long)most);
}

static mf_status check_cache(const mf_layout *l, const mf_mesh_spec *mesh) {
    bool gathers =
        mf_stream_gathers(l->attention) || mf_stream_gathers(l->mlp) || mf_stream_gathers(l->vocabulary);
    if (!gathers || mf_axes_ranks(mesh, l->stream) == 1) return MF_OK;
    return MF_FAIL(MF_EUNSUPPORTED,
                   "stream=gather cuts weights by rows, so that no rank has whole heads to decode "
                   "with; use ring or broadcast");
}

/* What only one kind of model has a use for. */
static mf_status check_kind(const mf_model_options *o, const mf_layout *layout) {
    bool video = o->config.family == MF_STDIT, switches = layout->exchange == &mf_exchange_switch;
    int64_t tokens = mf_clip_tokens(&o->grid);
    if (!video && switches)
        return MF_FAIL(MF_EUNSUPPORTED,
                       "axis dsp switches between the dimensions of a video; a text has one: use sp or tsp");
    if (!video) return MF_OK;
    if (o->packed || o->cache)
        return MF_FAIL(MF_EUNSUPPORTED, "a model of videos has no %s", o->cache ? "cache" : "documents");
    if (o->grid.frames < 1 || o->grid.rows < 1 || o->grid.columns < 1 || tokens != o->tokens)
        return MF_FAIL(MF_EINVAL, "clips of %lld frames of %lldx%lld patches, and %lld tokens",
                       (long long)o->grid.frames, (long long)o->grid.rows, (long long)o->grid.columns,
                       (long long)o->tokens);
    return MF_OK;
}

mf_status mf_model_check(const mf_model_options *o, const mf_layout *layout, const mf_mesh_spec *mesh) {
    if (o->batch < 1 || o->tokens < 1)
        return MF_FAIL(MF_EINVAL, "a batch of %lld sequences of %lld tokens", (long long)o->batch,
                       (long long)o->tokens);
    MF_TRY(mf_config_check(&o->config, "the model"));
    MF_TRY(check_kind(o, layout));
    MF_TRY(check_rows(o, mf_axes_ranks(mesh, layout->sequence)));
    if (o->cache) MF_TRY(check_cache(layout, mesh));
    int64_t fewest = o->config.heads / mf_axes_ranks(mesh, layout->tensor);
    return mf_exchange_check(layout->exchange, mf_axes_ranks(mesh, layout->sequence), fewest);
}

/* Then no rank's share of fewer tokens is larger than its share of all. */
static void even_out(mf_model_options *o, const mf_layout *layout, const mf_mesh_spec *mesh) {
    int64_t shares =
        (int64_t)MF_RUNS * mf_axes_ranks(mesh, layout->sequence) * mf_axes_ranks(mesh, layout->tensor);
    o->tokens = mf_ceil_div(o->tokens, shares) * shares;
}

mf_status mf_model_create(const mf_model_options *options, const mf_layout *layout, mf_mesh *mesh,
                          mf_device *device, mf_model **out) {
    mf_model *m = NULL;
    *out = NULL;
    MF_TRY(mf_model_check(options, layout, &mesh->spec));
    MF_TRY(mf_host_alloc(1, sizeof *m, &m));
    m->options = *options;
    m->config = options->config;
    if (options->cache) even_out(&m->options, layout, &mesh->spec);
    m->layout = *layout;
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
    mf_buffer *all[] = {&m->replicas, &m->replica_grads, &m->cos_sin, &m->x, &m->middle, &m->crossed,
                        &m->a,        &m->gate,          &m->up,      &m->dx};
    mf_free_all(m, all, sizeof all / sizeof *all);
    mf_stdit_free(m);
    for (int i = 0; i < MF_SIDES; i++) {
        mf_exchange_destroy(&m->sides_of[i].exchange);
        mf_reduction_destroy(&m->sides_of[i].reduction);
    }
    mf_store_destroy(&m->store);
    mf_params_free(m);
    mf_host_free(m);
}

const mf_model_options *mf_model_options_get(const mf_model *m) { return &m->options; }
int64_t mf_model_rows(const mf_model *m) { return m->sides_of[0].tokens / m->options.batch; }

void mf_model_cut(const mf_model *m, const int32_t *sequence, int32_t *out) {
    mf_run runs[MF_RUNS];
    int n = mf_cut_runs(m->options.tokens, mf_comm_size(m->sequence), mf_comm_rank(m->sequence), runs);
    for (int i = 0; i < n; i++)
        for (int64_t r = 0; r < runs[i].rows; r++)
            out[runs[i].first_row + r] = sequence[runs[i].position + r];
}

static mf_status check_documents(const mf_model *m, const int32_t *begins) {
    for (int64_t i = 0; i < m->options.batch * m->options.tokens; i++) {
        int64_t position = i % m->options.tokens;
        if (begins[i] < (position ? begins[i - 1] : 0) || begins[i] > position)
            return MF_FAIL(MF_EINVAL, "document of token %lld of sequence %lld begins at %d",
                           (long long)position, (long long)(i / m->options.tokens), begins[i]);
    }
    return MF_OK;
}

mf_status mf_model_set_documents(mf_model *m, const int32_t *begins) {
    if (!m->options.packed) return MF_FAIL(MF_EINVAL, "documents for a model that is not packed");
    if (begins) MF_TRY(check_documents(m, begins));
    return mf_exchange_set_documents(&m->side->exchange, begins);
}

mf_device *mf_model_device(const mf_model *m) { return m->device; }
mf_comm *mf_model_world(const mf_model *m) { return m->world; }

mf_status mf_model_share_updates(mf_model *m) { return mf_store_share_updates(&m->store); }

mf_model_state mf_model_state_get(mf_model *m) {
    return (mf_model_state){.cut = m->store.elements,
                            .first = m->store.first,
                            .count = m->store.count,
                            .writes = mf_comm_rank(m->store.replicas) == 0,
                            .replicated = m->replicated,
                            .type = m->options.type,
                            .cut_weights = m->store.weights.own,
                            .cut_grads = m->store.grads.own,
                            .replicated_weights = m->replicas.data,
                            .replicated_grads = m->replica_grads.data};
}

mf_status mf_complete(mf_model *m, const mf_part *part) {
    return m->last ? mf_store_complete(&m->store, part) : MF_OK;
}

mf_status mf_complete_attention(mf_model *m, int64_t layer) {
    if (mf_output_part(m, layer) != mf_attention_part(m, layer))
        MF_TRY(mf_complete(m, mf_output_part(m, layer)));
    return mf_complete(m, mf_attention_part(m, layer));
}

/* A block's norm has the gradient of the tokens that a rank holds between blocks; a bias or a head's norm
 * that of its heads too, and where tensor ranks share a key head each has the share of its own queries. */
static mf_status sum_replicas(mf_model *m) {
    float *grads = m->replica_grads.data;
    int64_t of_heads = m->replicated - m->norm_elements;
    MF_TRY(mf_allreduce(m->norms_comm, grads, m->norm_elements, MF_F32, NULL));
    if (of_heads == 0) return MF_OK;
    return mf_allreduce(m->heads_comm, grads + m->norm_elements, of_heads, MF_F32, NULL);
}

mf_status mf_finish_gradients(mf_model *m) {
    if (m->last && mf_params_are_shared(m)) {
        MF_TRY(mf_store_settle(&m->store));
        MF_TRY(mf_params_sum_shared(m));
        for (int64_t layer = m->config.layers - 1; layer >= 0; layer--)
            MF_TRY(mf_complete_attention(m, layer));
    }
    MF_TRY(mf_store_settle(&m->store));
    return m->last ? sum_replicas(m) : MF_OK;
}

mf_status mf_model_loss(mf_model *m, const mf_model_call *call, double *loss) {
    return mf_is_video(m) ? mf_stdit_loss(m, call, loss) : mf_llama_loss(m, call, loss);
}

mf_status mf_model_gradients(mf_model *m, const mf_model_call *call, double *loss) {
    m->last = call->last;
    return mf_is_video(m) ? mf_stdit_gradients(m, call, loss) : mf_llama_gradients(m, call, loss);
}
