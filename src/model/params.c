/* params.c: the named tensors, how each is cut into shards, and how shards are packed into parts. */
#include "model/model.h"

#include <math.h>
#include <stdio.h>

static mf_param *add(mf_model *m, mf_param p, const char *name, int64_t layer) {
    mf_param *slot = &m->param[m->params++];
    *slot = p;
    if (layer < 0)
        snprintf(slot->name, sizeof slot->name, "%s", name);
    else
        snprintf(slot->name, sizeof slot->name, "model.layers.%lld.%s", (long long)layer, name);
    return slot;
}

static void add_rows(mf_model *m, const char *name, int64_t layer, int part, int64_t units, int64_t unit) {
    add(m,
        (mf_param){.rows = units * unit,
                   .cols = m->config.hidden,
                   .cut = MF_CUT_ROWS,
                   .units = units,
                   .unit = unit,
                   .part = part,
                   .deviation = (float)m->config.init_range},
        name, layer);
}

/* A projection into the residual stream. */
static void add_cols(mf_model *m, const char *name, int64_t layer, int part, int64_t units, int64_t unit) {
    add(m,
        (mf_param){.rows = m->config.hidden,
                   .cols = units * unit,
                   .cut = MF_CUT_COLS,
                   .units = units,
                   .unit = unit,
                   .part = part,
                   .deviation = (float)(m->config.init_range / sqrt(2.0 * (double)m->config.layers))},
        name, layer);
}

static void add_norm(mf_model *m, const char *name, int64_t layer, int64_t index) {
    add(m, (mf_param){.cols = m->config.hidden, .part = -1, .offset = index * m->config.hidden}, name, layer);
}

static void add_layer(mf_model *m, int64_t layer) {
    const mf_model_config *c = &m->config;
    int attention = (int)(2 * layer), mlp = attention + 1;
    add_rows(m, "self_attn.q_proj.weight", layer, attention, c->heads, c->head_dim);
    add_rows(m, "self_attn.k_proj.weight", layer, attention, c->kv_heads, c->head_dim);
    add_rows(m, "self_attn.v_proj.weight", layer, attention, c->kv_heads, c->head_dim);
    add_cols(m, "self_attn.o_proj.weight", layer, attention, c->heads, c->head_dim);
    add_rows(m, "mlp.gate_proj.weight", layer, mlp, c->ffn, 1);
    add_rows(m, "mlp.up_proj.weight", layer, mlp, c->ffn, 1);
    add_cols(m, "mlp.down_proj.weight", layer, mlp, c->ffn, 1);
    add_norm(m, "input_layernorm.weight", layer, 2 * layer);
    add_norm(m, "post_attention_layernorm.weight", layer, 2 * layer + 1);
}

static int64_t slice_elements(const mf_param *p, int64_t count) {
    return count * p->unit * (p->cut == MF_CUT_ROWS ? p->cols : p->rows);
}

static int64_t share(const mf_model *m, const mf_param *p, int shard) {
    return mf_share_begin(p->units, m->shards, shard + 1) - mf_share_begin(p->units, m->shards, shard);
}

/* Sizes of every shard of every part, and where it begins in its owner's store. */
static mf_status pack(mf_model *m) {
    for (int i = 0; i < m->parts; i++) {
        MF_TRY(mf_host_alloc((size_t)m->shards, sizeof(int64_t), &m->part[i].offset));
        MF_TRY(mf_host_alloc((size_t)m->shards, sizeof(int64_t), &m->part[i].elements));
    }
    for (int i = 0; i < m->params; i++)
        for (int shard = 0; shard < m->shards && m->param[i].part >= 0; shard++)
            m->part[m->param[i].part].elements[shard] +=
                slice_elements(&m->param[i], share(m, &m->param[i], shard));
    for (int i = 1; i < m->parts; i++)
        for (int shard = 0; shard < m->shards; shard++)
            m->part[i].offset[shard] = m->part[i - 1].offset[shard] + m->part[i - 1].elements[shard];
    return MF_OK;
}

mf_status mf_params_build(mf_model *m) {
    const mf_model_config *c = &m->config;
    int embedding = (int)(2 * c->layers);
    m->parts = embedding + (c->tied ? 1 : 2);
    MF_TRY(mf_host_alloc((size_t)(c->layers * MF_LAYER_PARAMS + 3), sizeof *m->param, &m->param));
    MF_TRY(mf_host_alloc((size_t)m->parts, sizeof *m->part, &m->part));
    for (int64_t layer = 0; layer < c->layers; layer++) add_layer(m, layer);
    add_rows(m, "model.embed_tokens.weight", -1, embedding, c->vocab, 1);
    add_norm(m, "model.norm.weight", -1, 2 * c->layers);
    if (!c->tied) add_rows(m, "lm_head.weight", -1, embedding + 1, c->vocab, 1);
    return pack(m);
}

void mf_params_free(mf_model *m) {
    for (int i = 0; m->part && i < m->parts; i++) {
        mf_host_free(m->part[i].offset);
        mf_host_free(m->part[i].elements);
    }
    mf_host_free(m->part);
    mf_host_free(m->param);
}

int64_t mf_params_elements(const mf_model *m, int shard) {
    const mf_part *last = &m->part[m->parts - 1];
    return last->offset[shard] + last->elements[shard];
}

mf_slice mf_param_slice(const mf_model *m, int param, int shard) {
    const mf_param *p = &m->param[param];
    mf_slice s = {.first = mf_share_begin(p->units, m->shards, shard), .count = share(m, p, shard)};
    for (int i = param - 1; i >= 0 && m->param[i].part == p->part; i--)
        s.offset += slice_elements(&m->param[i], share(m, &m->param[i], shard));
    return s;
}

int mf_model_params(const mf_model *m) { return m->params; }

mf_param_view mf_model_param(const mf_model *m, int index) {
    const mf_param *p = &m->param[index];
    mf_param_view v = {.name = p->name, .rows = p->rows, .cols = p->cols, .offset = p->offset};
    v.slice_rows = mf_max(p->rows, 1);
    v.slice_cols = p->cols;
    v.replicated = p->part < 0;
    if (v.replicated) return v;
    int shard = mf_comm_rank(m->comm);
    mf_slice s = mf_param_slice(m, index, shard);
    v.offset = m->part[p->part].offset[shard] + s.offset;
    if (p->cut == MF_CUT_ROWS) {
        v.first_row = s.first * p->unit;
        v.slice_rows = s.count * p->unit;
    } else {
        v.first_col = s.first * p->unit;
        v.slice_cols = s.count * p->unit;
    }
    return v;
}

mf_status mf_model_init(mf_model *m, float *master) {
    for (int i = 0; i < m->params; i++) {
        mf_param_view v = mf_model_param(m, i);
        if (v.replicated) {
            for (int64_t c = 0; c < v.cols; c++) ((float *)m->norms.data)[v.offset + c] = 1.0f;
            continue;
        }
        MF_TRY(mf_fill_normal(m->device, &(mf_normal_args){.rows = v.slice_rows,
                                                           .cols = v.slice_cols,
                                                           .first = v.first_row * v.cols + v.first_col,
                                                           .index_ld = v.cols,
                                                           .seed = m->options.seed,
                                                           .key = mf_random_key(v.name),
                                                           .deviation = m->param[i].deviation,
                                                           .out = master ? master + v.offset : NULL}));
    }
    return MF_OK;
}
