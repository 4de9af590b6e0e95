/* model.h: the inside of a model, for the files of this room. */
#ifndef MF_MODEL_MODEL_H
#define MF_MODEL_MODEL_H

#include "meshfold/model.h"

/* Rows that the MLP handles at a time: bounds its workspace at long contexts, long enough for full speed. */
enum { MF_ROW_TILE = 4096 };

typedef enum mf_param_cut { MF_CUT_NONE, MF_CUT_ROWS, MF_CUT_COLS } mf_param_cut;

/* A named tensor, and how it is cut: its rows or columns are `units` groups of `unit`, dealt out in shares:
 * first over the tensor axis, then over the stream's. Key heads go with the first of the `group` query heads
 * that read them; on the tensor axis every rank has those that its query heads read. */
typedef struct mf_param {
    char name[MF_PARAM_NAME];
    int64_t rows, cols; /* rows 0: a vector */
    mf_param_cut cut;
    int64_t units, unit;
    int64_t group;   /* of key heads; 0: dealt as they are */
    int part;        /* the streamed part that holds it; -1: replicated */
    int piece;       /* its place among the part's matrices */
    int64_t offset;  /* replicated: where it lies */
    float deviation; /* of its initial values; replicated: 0, and all are `initial` */
    float initial;
} mf_param;

/* What a turn has of a parameter: groups first .. first + count - 1 of the cut dimension, at `offset` of the
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
    MF_LAYER_PARAMS, /* of every model; what some have beside them: */
    MF_BQ = MF_LAYER_PARAMS,
    MF_BK,
    MF_BV,
    MF_NORM_Q,
    MF_NORM_K
};

struct mf_model {
    mf_model_options options;
    mf_model_config config;
    mf_layout layout;
    mf_comm *tensor;     /* weights cut, own ones used */
    mf_comm *stream;     /* weights cut, all used in turn */
    mf_comm *sequence;   /* tokens cut */
    mf_comm *norms_comm; /* the ranks whose tokens differ: gradients of blocks' norms are summed over it */
    mf_comm *heads_comm; /* those whose tokens or heads differ, all: gradients of biases and heads' norms */
    mf_comm *sharers;    /* tensor and stream: where key heads may be held twice */
    mf_comm *world;
    mf_device *device;
    mf_memory *memory;
    int shards;
    int64_t rows;           /* tokens of each sequence here */
    int64_t tokens;         /* batch * rows */
    mf_reduction reduction; /* its `held`: the tokens that this rank holds between blocks */

    int params, parts;
    int layer_params;
    mf_param *param;                    /* [params]: layer after layer, then embedding, final norm, head */
    mf_part *part;                      /* [parts] */
    const mf_stream_kind **part_stream; /* [parts] */
    mf_store store;
    int64_t norm_elements, replicated; /* of blocks' norms; with what heads have */
    mf_buffer replicas, replica_grads; /* [replicated] f32: [2 * layers + 1][hidden], then biases and
                                          heads' norms */

    mf_exchange exchange;
    mf_buffer cos_sin; /* [rows, head_dim] f32 */
    /* Kept by forward, one slot a layer or one in all. */
    int x_slots, attention_slots, middle_slots, mlp_slots;
    mf_buffer x;        /* [x_slots][held, hidden] block inputs, compute type; slot `layers` is the output */
    mf_buffer middle;   /* [middle_slots][held, hidden] between attention and MLP */
    mf_buffer a;        /* [attention_slots][tokens, own heads * head_dim] */
    mf_buffer gate, up; /* [mlp_slots][tokens, own ffn]; no slots: computed again in backward */
    mf_buffer dx;       /* [held, hidden] f32: the gradient of the residual stream */

    mf_cache *cache; /* what the tokens at work follow; NULL: nothing */

    const mf_part *next; /* streamed after the part at work */
    bool last;           /* the gradients of this pass complete the step's */
};

/* params.c */
mf_status mf_params_build(mf_model *model);
void mf_params_free(mf_model *model);
int64_t mf_params_elements(const mf_model *model, int shard);
/* shard: a shard of the stream's axis, or MF_SHARD_WHOLE. */
mf_slice mf_param_slice(const mf_model *model, int param, int shard);
/* The largest count of any turn. */
int64_t mf_param_widest(const mf_model *model, int param);
/* Units of the cut dimension that this rank's tensor share has, from `first`. */
mf_slice mf_param_own(const mf_model *model, int param);
/* Sums the gradients of key heads that several ranks hold. Collective over tensor and stream. */
mf_status mf_params_sum_shared(mf_model *model);
bool mf_params_are_shared(const mf_model *model);

static inline int mf_layer_param(const mf_model *m, int64_t layer, int which) {
    int absent = which >= MF_NORM_Q && !m->config.qkv_bias ? MF_NORM_Q - MF_BQ : 0;
    return (int)layer * m->layer_params + which - absent;
}
static inline int mf_embedding_param(const mf_model *m) { return (int)m->config.layers * m->layer_params; }
static inline int mf_final_norm_param(const mf_model *m) { return mf_embedding_param(m) + 1; }
static inline int mf_head_param(const mf_model *m) {
    return mf_embedding_param(m) + (m->config.tied ? 0 : 2);
}

/* The part that holds a parameter. Attention's output matrix has its own where the stream staggers: all heads
 * must have been projected before any rank can attend. */
static inline const mf_part *mf_part_of(const mf_model *m, int param) {
    return &m->part[m->param[param].part];
}
/* Replicated values from element `first` of a parameter on, and their gradients. */
static inline const float *mf_replica(const mf_model *m, int param, int64_t first) {
    return (const float *)m->replicas.data + m->param[param].offset + first;
}
static inline float *mf_replica_grad(const mf_model *m, int param, int64_t first) {
    return (float *)m->replica_grads.data + m->param[param].offset + first;
}
static inline const mf_part *mf_attention_part(const mf_model *m, int64_t layer) {
    return mf_part_of(m, mf_layer_param(m, layer, MF_WQ));
}
static inline const mf_part *mf_output_part(const mf_model *m, int64_t layer) {
    return mf_part_of(m, mf_layer_param(m, layer, MF_WO));
}
static inline const mf_part *mf_mlp_part(const mf_model *m, int64_t layer) {
    return mf_part_of(m, mf_layer_param(m, layer, MF_WGATE));
}
static inline const mf_part *mf_embedding_part(const mf_model *m) {
    return mf_part_of(m, mf_embedding_param(m));
}
static inline const mf_part *mf_head_part(const mf_model *m) { return mf_part_of(m, mf_head_param(m)); }
static inline const mf_stream_kind *mf_kind_of(const mf_model *m, const mf_part *part) {
    return m->part_stream[part - m->part];
}

/* The part that a layer's backward begins with; NULL past the first layer. */
static inline const mf_part *mf_first_of_backward(const mf_model *m, int64_t layer) {
    if (layer < 0) return NULL;
    return m->options.recompute == MF_RECOMPUTE_NONE ? mf_mlp_part(m, layer) : mf_attention_part(m, layer);
}

static inline int64_t mf_window_of(const mf_model *m, int64_t layer) {
    return layer < m->config.window_from ? 0 : m->config.window;
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
    return mf_at(m, m->x.data, (m->x_slots > 1 ? layer : 0) * m->reduction.held * m->config.hidden);
}
static inline void *mf_middle(const mf_model *m, int64_t layer) {
    return mf_at(m, m->middle.data, (m->middle_slots > 1 ? layer : 0) * m->reduction.held * m->config.hidden);
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

/* residual.c: what goes between the residual stream, of which a rank holds `held` tokens, and the blocks,
 * which see all `tokens` of its sequence share. */
/* Opens the stream of a part at work, and says what comes next. */
mf_status mf_part_open(mf_model *model, const mf_part *part, mf_pass pass, mf_stream *out);
/* A block's input: norm `param` of x: [held, hidden], of all tokens, in compute type. */
typedef struct mf_normed {
    mf_buffer held, gathered;
    const void *all; /* [tokens, hidden] */
} mf_normed;
mf_status mf_normed_make(mf_model *model, int param, const void *x, mf_normed *out);
void mf_normed_free(mf_model *model, mf_normed *normed);
/* The gradient of a block's output, of all tokens, in compute type: from dx. */
mf_status mf_block_grad(mf_model *model, mf_normed *out);
/* out: [held, hidden] = x + the sum over ranks of y: [tokens, hidden] f32, which is used up, as `normed` is.
 */
mf_status mf_residual_add(mf_model *model, mf_normed *normed, float *y, const void *x, void *out);
/* dx += through norm `param` of x, from a block's partial input gradient [tokens, hidden] f32; both it and
 * `normed` are used up. */
mf_status mf_residual_backward(mf_model *model, mf_normed *normed, int param, const void *x, float *dnormed);

/* project.c */
/* Tokens at work, and the angles of each row of a sequence: [rows, head_dim]. */
typedef struct mf_token_rows {
    int64_t batch, rows;
    const float *cos_sin;
} mf_token_rows;
/* Those that this rank holds of the model's sequences. */
mf_token_rows mf_own_tokens(const mf_model *model);
/* Queries, keys or values: the heads, their matrix, and the parameters that go with it. */
typedef struct mf_projection {
    mf_slice heads;
    int64_t width;
    const void *weight;
    int bias, norm; /* -1: none */
    bool turned;
} mf_projection;
/* matrix: MF_WQ, MF_WK or MF_WV. */
mf_projection mf_projection_of(const mf_model *model, int64_t layer, int matrix, mf_slice heads,
                               const void *weight);
/* out: [tokens, width] at distance ld = normed: [tokens, hidden] · weight' + bias. */
mf_status mf_project_plain(const mf_model *model, const mf_projection *projection, int64_t tokens,
                           const void *normed, void *out, int64_t ld);
/* The same, normalised and turned where it is to be. */
mf_status mf_project(const mf_model *model, const mf_projection *projection, const mf_token_rows *tokens,
                     const void *normed, void *out, int64_t ld);
mf_rope_args mf_rope_of(const mf_model *model, const mf_token_rows *tokens, int64_t heads);
mf_headnorm_args mf_head_norm_of(const mf_model *model, const mf_projection *projection, int64_t tokens,
                                 void *x, int64_t ld);

/* llama.c: makes the model one of `tokens` tokens, at most those it was created with, the first of which is
 * at `position`. */
mf_status mf_model_reshape(mf_model *model, int64_t tokens, int64_t position);
/* The blocks, from ids: [batch, rows] to the last one's output. */
mf_status mf_model_forward(mf_model *model, const int32_t *ids);

/* cache.c: adds what the tokens before see to a: own tokens' results of some heads, as call says. */
mf_status mf_cache_attend(mf_cache *cache, int64_t layer, const mf_attend *call);
/* Takes the layer's keys and values of own tokens at work. */
mf_status mf_cache_keep(mf_cache *cache, int64_t layer);

/* attention.c: out = x + attention(norm(x)), out: [held, hidden] compute type. Keeps q, k, v, a, lse. */
mf_status mf_attention_block(mf_model *model, int64_t layer, const void *x, void *out);
/* dx += through the block; x as in forward; what forward keeps must be there. */
mf_status mf_attention_block_backward(mf_model *model, int64_t layer, const void *x);
/* mlp.c: out = x + mlp(norm(x)); out may be x. */
mf_status mf_mlp_block(mf_model *model, int64_t layer, const void *x, void *out);
mf_status mf_mlp_block_backward(mf_model *model, int64_t layer, const void *x);
/* vocabulary.c */
mf_status mf_embed(mf_model *model, const int32_t *ids, void *out);
mf_status mf_embed_grads(mf_model *model, const int32_t *ids);
/* Logits of hidden states x: [held, hidden], at the call's tokens. */
mf_status mf_head_logits(mf_model *model, const void *x, const mf_logits_call *call);
/* The loss of hidden states x: [held, hidden]; with gradients also dx, overwritten. */
mf_status mf_head_loss(mf_model *model, const void *x, const int32_t *labels, double *loss);
mf_status mf_head_gradients(mf_model *model, const void *x, const int32_t *labels, float scale, double *loss);

#endif
