/* model.h: the inside of a model, for the files of this room. */
#ifndef MF_MODEL_MODEL_H
#define MF_MODEL_MODEL_H

#include "meshfold/model.h"

/* Rows that the MLP handles at a time: bounds its workspace at long contexts, long enough for full speed. */
enum { MF_ROW_TILE = 4096 };

typedef enum mf_param_cut { MF_CUT_NONE, MF_CUT_ROWS, MF_CUT_COLS } mf_param_cut;

/* A named tensor, and how it is cut: its rows or columns are `units` groups of `unit`, dealt out in shares.
 */
typedef struct mf_param {
    char name[80];
    int64_t rows, cols; /* rows 0: a vector */
    mf_param_cut cut;
    int64_t units, unit;
    int part;        /* the streamed part that holds it; -1: replicated */
    int64_t offset;  /* replicated: where it lies */
    float deviation; /* of its initial values; 0: all ones */
} mf_param;

/* A shard's slice of a parameter: groups first .. first + count - 1 of the cut dimension, at `offset` of the
 * packed shard. */
typedef struct mf_slice {
    int64_t first, count, offset;
} mf_slice;

/* Order of the parameters of a layer; both parts are packed in this order. */
enum {
    MF_WQ,
    MF_WK,
    MF_WV,
    MF_WO,
    MF_WGATE,
    MF_WUP,
    MF_WDOWN,
    MF_NORM_ATTENTION,
    MF_NORM_MLP,
    MF_LAYER_PARAMS
};

struct mf_model {
    mf_model_options options;
    mf_model_config config;
    const mf_layout *layout;
    mf_comm *comm; /* of the weights */
    mf_comm *sequence_comm;
    mf_device *device;
    mf_memory *memory;
    int shards;
    int64_t rows;   /* tokens of each sequence here */
    int64_t tokens; /* batch * rows */

    int params, parts;
    mf_param *param; /* [params]: layer after layer, then embedding, final norm, head */
    mf_part *part;   /* [parts]: attention and MLP of each layer, then embedding and head */
    mf_store store;
    mf_buffer norms, norm_grads; /* [2 * layers + 1][hidden] f32 */

    mf_exchange exchange;
    mf_buffer cos_sin; /* [rows, head_dim] f32 */
    /* Kept by forward, one slot a layer or one in all. */
    int x_slots, attention_slots, middle_slots, mlp_slots;
    mf_buffer x;      /* [x_slots][tokens, hidden] block inputs, compute type; slot `layers` is the output */
    mf_buffer middle; /* [middle_slots][tokens, hidden] between attention and MLP */
    mf_buffer q, a;   /* [attention_slots][tokens, heads * head_dim] */
    mf_buffer lse;    /* [attention_slots][tokens, heads] f32 */
    mf_buffer gate, up; /* [mlp_slots][tokens, ffn]; no slots: computed again in backward */
    mf_buffer dx;       /* [tokens, hidden] f32: the gradient of the residual stream */
};

/* params.c */
mf_status mf_params_build(mf_model *model);
void mf_params_free(mf_model *model);
int64_t mf_params_elements(const mf_model *model, int shard);
mf_slice mf_param_slice(const mf_model *model, int param, int shard);
static inline int mf_layer_param(int64_t layer, int which) { return (int)layer * MF_LAYER_PARAMS + which; }
static inline int mf_embedding_param(const mf_model *m) { return (int)m->config.layers * MF_LAYER_PARAMS; }
static inline int mf_final_norm_param(const mf_model *m) { return mf_embedding_param(m) + 1; }
static inline int mf_head_param(const mf_model *m) {
    return mf_embedding_param(m) + (m->config.tied ? 0 : 2);
}

static inline const mf_part *mf_attention_part(const mf_model *m, int64_t layer) {
    return &m->part[2 * layer];
}
static inline const mf_part *mf_mlp_part(const mf_model *m, int64_t layer) { return &m->part[2 * layer + 1]; }
static inline const mf_part *mf_embedding_part(const mf_model *m) { return &m->part[2 * m->config.layers]; }
static inline const mf_part *mf_head_part(const mf_model *m) {
    return &m->part[2 * m->config.layers + (m->config.tied ? 0 : 1)];
}

/* The place `elements` into a buffer of the compute type. */
static inline void *mf_at(const mf_model *m, void *base, int64_t elements) {
    return base ? (char *)base + elements * (int64_t)mf_dtype_bytes(m->options.type) : NULL;
}
static inline const void *mf_at_const(const mf_model *m, const void *base, int64_t elements) {
    return base ? (const char *)base + elements * (int64_t)mf_dtype_bytes(m->options.type) : NULL;
}
/* The same into a shard's gradient, NULL where the shard is empty. */
static inline float *mf_grad_at(float *dw, int64_t elements) { return dw ? dw + elements : NULL; }
static inline void *mf_x(const mf_model *m, int64_t layer) {
    return mf_at(m, m->x.data, (m->x_slots > 1 ? layer : 0) * m->tokens * m->config.hidden);
}
static inline void *mf_middle(const mf_model *m, int64_t layer) {
    return mf_at(m, m->middle.data, (m->middle_slots > 1 ? layer : 0) * m->tokens * m->config.hidden);
}
static inline int64_t mf_attention_slot(const mf_model *m, int64_t layer) {
    return m->attention_slots > 1 ? layer : 0;
}

static inline mf_status mf_work(const mf_model *m, int64_t elements, size_t size, const char *what,
                                mf_buffer *out) {
    return mf_buffer_alloc(m->memory, MF_WORKSPACE, (size_t)elements * size, what, out);
}

/* linear.c: a matrix that maps `in` features to `out`, weight: [out, in], on n rows. */
typedef struct mf_linear {
    mf_device *device;
    mf_dtype type;
    int64_t n, in, out;
} mf_linear;
/* y: [n, out] = or += x: [n, in] · weight' */
mf_status mf_linear_forward(const mf_linear *l, const void *x, int64_t x_ld, const void *weight, void *y,
                            int64_t y_ld, mf_dtype y_type, bool accumulate);
/* dx: [n, in] = or += dy: [n, out] · weight */
mf_status mf_linear_input_grad(const mf_linear *l, const void *dy, int64_t dy_ld, const void *weight,
                               void *dx, int64_t dx_ld, mf_dtype dx_type, bool accumulate);
/* dweight: [out, in] += dy' · x */
mf_status mf_linear_weight_grad(const mf_linear *l, const void *dy, int64_t dy_ld, const void *x,
                                int64_t x_ld, float *dweight);

/* residual.c: out = norm(x): [tokens, hidden] compute type, by the norm `param`; backward: dx += , its
 * gradient
 * += . */
mf_status mf_norm_forward(mf_model *model, int param, const void *x, void *out);
mf_status mf_norm_backward(mf_model *model, int param, const void *x, const float *dy);

/* The gradient of the residual stream in the compute type, for products: dx itself in f32. */
mf_status mf_dx_cast(mf_model *model, mf_buffer *held, const void **out);

/* attention.c: out = x + attention(norm(x)), out: [tokens, hidden] compute type. Keeps q, k, v, a, lse. */
mf_status mf_attention_block(mf_model *model, int64_t layer, const void *x, void *out);
/* dx += through the block; x as in forward; what forward keeps must be there. */
mf_status mf_attention_block_backward(mf_model *model, int64_t layer, const void *x);
/* mlp.c: out = x + mlp(norm(x)); out may be x. */
mf_status mf_mlp_block(mf_model *model, int64_t layer, const void *x, void *out);
mf_status mf_mlp_block_backward(mf_model *model, int64_t layer, const void *x);
/* vocabulary.c */
mf_status mf_embed(mf_model *model, const int32_t *ids, void *out);
mf_status mf_embed_grads(mf_model *model, const int32_t *ids);
/* The loss of hidden states x: [tokens, hidden]; with gradients also dx, overwritten. */
mf_status mf_head_loss(mf_model *model, const void *x, const int32_t *labels, double *loss);
mf_status mf_head_gradients(mf_model *model, const void *x, const int32_t *labels, float scale, double *loss);

#endif
