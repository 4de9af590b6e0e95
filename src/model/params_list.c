/* params_list.c: the named tensors of a model, and the part that each is streamed in. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>

/* Where a parameter stands: in a layer, or outside of them all; and which it is of these. */
typedef struct slot {
    int64_t layer; /* -1: outside */
    int kind;
} slot;

static void add(mf_model *m, slot at, mf_param p, const char *name) {
    mf_param *out = &m->param[m->params];
    *out = p;
    if (at.layer < 0) {
        snprintf(out->name, sizeof out->name, "%s", name);
        m->of_model[at.kind] = m->params;
    } else {
        snprintf(out->name, sizeof out->name, "model.layers.%lld.%s", (long long)at.layer, name);
        m->of_layer[at.kind] = m->params - (int)at.layer * m->layer_params;
    }
    m->params++;
}

static slot in(int64_t layer, int kind) { return (slot){layer, kind}; }
static slot outside(int kind) { return (slot){-1, kind}; }

/* The matrices added from here on are of a new part. */
static void add_part(mf_model *m, const mf_stream_kind *stream) { m->part_stream[m->parts++] = stream; }

/* Some `units` of `unit` rows, cut between units. */
static void add_matrix(mf_model *m, slot at, const char *name, int64_t units, int64_t unit, int64_t cols,
                       int64_t group) {
    add(m, at,
        (mf_param){.rows = units * unit,
                   .cols = cols,
                   .cut = MF_CUT_ROWS,
                   .units = units,
                   .unit = unit,
                   .group = group,
                   .part = m->parts - 1,
                   .piece = m->part[m->parts - 1].pieces++,
                   .deviation = (float)m->config.init_range},
        name);
}

static void add_rows(mf_model *m, slot at, const char *name, int64_t units, int64_t unit, int64_t group) {
    add_matrix(m, at, name, units, unit, m->config.hidden, group);
}

/* A projection into the residual stream. */
static void add_cols(mf_model *m, slot at, const char *name, int64_t units, int64_t unit) {
    add(m, at,
        (mf_param){.rows = m->config.hidden,
                   .cols = units * unit,
                   .cut = MF_CUT_COLS,
                   .units = units,
                   .unit = unit,
                   .part = m->parts - 1,
                   .piece = m->part[m->parts - 1].pieces++,
                   .deviation = (float)(m->config.init_range / sqrt(2.0 * (double)m->config.layers))},
        name);
}

static void add_norm(mf_model *m, slot at, const char *name, int64_t index) {
    add(m, at,
        (mf_param){.cols = m->config.hidden, .part = -1, .offset = index * m->config.hidden, .initial = 1},
        name);
}

/* What every rank has whole, behind the blocks' norms. rows 0: a vector. */
static void add_replicated(mf_model *m, slot at, const char *name, mf_param p) {
    p.part = -1;
    p.offset = m->replicated;
    m->replicated += mf_max(p.rows, 1) * p.cols;
    add(m, at, p, name);
}

static void add_vector(mf_model *m, slot at, const char *name, int64_t elements, float initial) {
    add_replicated(m, at, name, (mf_param){.cols = elements, .initial = initial});
}

static void add_vectors(mf_model *m, int64_t layer) {
    const mf_model_config *c = &m->config;
    if (c->qkv_bias) {
        add_vector(m, in(layer, MF_BQ), "self_attn.q_proj.bias", c->heads * c->head_dim, 0);
        add_vector(m, in(layer, MF_BK), "self_attn.k_proj.bias", c->kv_heads * c->head_dim, 0);
        add_vector(m, in(layer, MF_BV), "self_attn.v_proj.bias", c->kv_heads * c->head_dim, 0);
    }
    if (!c->qk_norm) return;
    add_vector(m, in(layer, MF_NORM_Q), "self_attn.q_norm.weight", c->head_dim, 1);
    add_vector(m, in(layer, MF_NORM_K), "self_attn.k_norm.weight", c->head_dim, 1);
}

/* Where ranks have different shards at one time and must attend together, the output matrix is a part of its
 * own: all heads must have been projected before any rank can attend. */
static bool attends_in_phases(const mf_layout *l) {
    return mf_stream_staggers(l->attention) && l->exchange != &mf_exchange_switch;
}

static void add_attention(mf_model *m, int64_t layer) {
    const mf_model_config *c = &m->config;
    add_part(m, m->layout.attention);
    add_rows(m, in(layer, MF_WQ), "self_attn.q_proj.weight", c->heads, c->head_dim, 0);
    add_rows(m, in(layer, MF_WK), "self_attn.k_proj.weight", c->kv_heads, c->head_dim,
             c->heads / c->kv_heads);
    add_rows(m, in(layer, MF_WV), "self_attn.v_proj.weight", c->kv_heads, c->head_dim,
             c->heads / c->kv_heads);
    if (attends_in_phases(&m->layout)) add_part(m, m->layout.attention);
    add_cols(m, in(layer, MF_WO), "self_attn.o_proj.weight", c->heads, c->head_dim);
}

/* The condition is whole on every rank, so that nothing in it needs other ranks. */
static void add_cross(mf_model *m, int64_t layer) {
    const mf_model_config *c = &m->config;
    add_part(m, m->layout.mlp);
    add_rows(m, in(layer, MF_CROSS_Q), "cross_attn.q_proj.weight", c->heads, c->head_dim, 0);
    add_rows(m, in(layer, MF_CROSS_K), "cross_attn.k_proj.weight", c->heads, c->head_dim, 0);
    add_rows(m, in(layer, MF_CROSS_V), "cross_attn.v_proj.weight", c->heads, c->head_dim, 0);
    add_cols(m, in(layer, MF_CROSS_O), "cross_attn.o_proj.weight", c->heads, c->head_dim);
}

static void add_mlp(mf_model *m, int64_t layer) {
    const mf_model_config *c = &m->config;
    add_part(m, m->layout.mlp);
    if (mf_config_is_gated(c)) add_rows(m, in(layer, MF_WGATE), "mlp.gate_proj.weight", c->ffn, 1, 0);
    add_rows(m, in(layer, MF_WUP), "mlp.up_proj.weight", c->ffn, 1, 0);
    add_cols(m, in(layer, MF_WDOWN), "mlp.down_proj.weight", c->ffn, 1);
}

/* The deviation of tables is that of PixArt-alpha's (arXiv 2310.00426). */
static void add_table(mf_model *m, slot at, const char *name, int64_t rows) {
    int64_t h = m->config.hidden;
    add_replicated(m, at, name,
                   (mf_param){.rows = rows, .cols = h, .deviation = (float)(1 / sqrt((double)h))});
}

static void add_layer(mf_model *m, int64_t layer) {
    add_attention(m, layer);
    if (m->config.video.condition_tokens) add_cross(m, layer);
    add_mlp(m, layer);
    if (mf_is_video(m)) {
        add_table(m, in(layer, MF_TABLE), "scale_shift_table", MF_MODULATIONS);
    } else {
        add_norm(m, in(layer, MF_NORM_ATTENTION), "input_layernorm.weight", 2 * layer);
        add_norm(m, in(layer, MF_NORM_MLP), "post_attention_layernorm.weight", 2 * layer + 1);
    }
    add_vectors(m, layer);
}

static void add_llama(mf_model *m) {
    const mf_model_config *c = &m->config;
    add_part(m, m->layout.vocabulary);
    add_rows(m, outside(MF_EMBEDDING), "model.embed_tokens.weight", c->vocab, 1, 0);
    add_norm(m, outside(MF_FINAL_NORM), "model.norm.weight", 2 * c->layers);
    if (c->tied) return;
    add_part(m, m->layout.vocabulary);
    add_rows(m, outside(MF_HEAD), "lm_head.weight", c->vocab, 1, 0);
}

/* A matrix that works on one row a sample, and its bias. */
static void add_shared(mf_model *m, int kind, const char *name, int64_t rows, int64_t cols) {
    char text[MF_PARAM_NAME];
    snprintf(text, sizeof text, "%s.weight", name);
    add_part(m, m->layout.vocabulary);
    add_matrix(m, outside(kind), text, rows, 1, cols, 0);
    snprintf(text, sizeof text, "%s.bias", name);
    add_vector(m, outside(kind + 1), text, rows, 0);
}

/* Between values of patches and the residual stream: too small to cut. */
static void add_patches(mf_model *m, int kind, const char *name, int64_t rows, int64_t cols) {
    char text[MF_PARAM_NAME];
    snprintf(text, sizeof text, "%s.weight", name);
    add_replicated(m, outside(kind), text,
                   (mf_param){.rows = rows, .cols = cols, .deviation = (float)m->config.init_range});
    snprintf(text, sizeof text, "%s.bias", name);
    add_vector(m, outside(kind + 1), text, rows, 0);
}

static void add_stdit(mf_model *m) {
    const mf_model_config *c = &m->config;
    int64_t h = c->hidden, values = mf_config_values(c);
    add_shared(m, MF_TIME_IN, "time_embedder.linear_1", h, MF_TIME_FEATURES);
    add_shared(m, MF_TIME_OUT, "time_embedder.linear_2", h, h);
    add_shared(m, MF_MODULATION, "time_modulation.linear", MF_MODULATIONS * h, h);
    if (c->video.condition_tokens)
        add_shared(m, MF_CONDITION, "condition_embedder.linear", h, c->video.condition_channels);
    add_patches(m, MF_PATCH_IN, "patch_embed.proj", h, values);
    add_table(m, outside(MF_FINAL_TABLE), "scale_shift_table", 2);
    add_patches(m, MF_PATCH_OUT, "proj_out", values, h);
}

/* At most: three or four parts a layer, four outside. */
enum { LAYER_PARTS = 4, OUTER_PARTS = 4 };

mf_status mf_params_name(mf_model *m) {
    const mf_model_config *c = &m->config;
    size_t parts = (size_t)(LAYER_PARTS * c->layers + OUTER_PARTS);
    bool video = mf_is_video(m);
    for (int i = 0; i < MF_LAYER_KINDS; i++) m->of_layer[i] = -1;
    for (int i = 0; i < MF_OUTER_KINDS; i++) m->of_model[i] = -1;
    m->norm_elements = m->replicated = video ? 0 : (2 * c->layers + 1) * c->hidden;
    MF_TRY(mf_host_alloc((size_t)(c->layers * MF_LAYER_KINDS + MF_OUTER_KINDS), sizeof *m->param, &m->param));
    MF_TRY(mf_host_alloc(parts, sizeof *m->part, &m->part));
    MF_TRY(mf_host_alloc(parts, sizeof *m->part_stream, &m->part_stream));
    for (int64_t layer = 0; layer < c->layers; layer++) {
        add_layer(m, layer);
        if (layer == 0) m->layer_params = m->params; /* all have the same */
    }
    if (video)
        add_stdit(m);
    else
        add_llama(m);
    return MF_OK;
}
