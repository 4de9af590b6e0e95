/* model.h: the inside of a model, for the files of this room. */
#ifndef MF_MODEL_MODEL_H
#define MF_MODEL_MODEL_H

#include "model/config.h"

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
    float deviation; /* of its initial values; 0: all are `initial` */
    float initial;
} mf_param;

/* What a turn has of a parameter: groups first .. first + count - 1 of the cut dimension, at `offset` of the
 * packed shard. */
typedef struct mf_slice {
    int64_t first, count, offset;
} mf_slice;

/* A layer's parameters, of which each family has some; a part's are packed in this order. */
enum {
    MF_WQ,
    MF_WK,
    MF_WV,
    MF_WO,
    MF_CROSS_Q,
    MF_CROSS_K,
    MF_CROSS_V,
    MF_CROSS_O,
    MF_WGATE,
    MF_WUP,
    MF_WDOWN,
    MF_NORM_ATTENTION,
    MF_NORM_MLP,
    MF_BQ,
    MF_BK,
    MF_BV,
    MF_NORM_Q,
    MF_NORM_K,
    MF_TABLE, /* [6, hidden] shift, scale and gate of attention, and of the MLP */
    MF_LAYER_KINDS
};
/* Those outside of the layers. */
enum {
    MF_EMBEDDING,
    MF_FINAL_NORM,
    MF_HEAD,
    MF_PATCH_IN,
    MF_PATCH_IN_BIAS,
    MF_TIME_IN,
    MF_TIME_IN_BIAS,
    MF_TIME_OUT,
    MF_TIME_OUT_BIAS,
    MF_MODULATION, /* [6 * hidden, hidden] */
    MF_MODULATION_BIAS,
    MF_CONDITION,
    MF_CONDITION_BIAS,
    MF_FINAL_TABLE, /* [2, hidden] shift and scale */
    MF_PATCH_OUT,
    MF_PATCH_OUT_BIAS,
    MF_OUTER_KINDS
};

/* How attention sees the tokens here: those of a text in one way; those of a video by frames, and by places.
 */
typedef struct mf_side {
    int64_t sequences;      /* of which this rank has tokens */
    int64_t all_rows, rows; /* tokens of each; those of them here */
    int64_t interleave;     /* as mf_attention_args': sequences that lie token by token */
    bool cut;               /* other ranks have the other tokens */
    int64_t tokens;         /* sequences * rows */
    mf_reduction reduction; /* its `held`: the tokens that this rank holds between blocks */
    mf_exchange exchange;
} mf_side;
enum { MF_SIDES = 2, MF_BY_FRAME = 0, MF_BY_PLACE = 1 };

/* Rows of modulation, and of its gradients: [batch][6 * hidden] f32, as MF_TABLE's. */
enum { MF_SHIFT, MF_SCALE, MF_GATE, MF_MODULATIONS = 6 };

/* What a video's model has beside its blocks; stdit.c. */
typedef struct mf_stdit {
    int64_t frames, places;            /* of this rank's share of a clip, on side MF_BY_FRAME */
    mf_buffer table[3];                /* [frames, rows or columns of the grid][their width] f32 */
    mf_buffer index;                   /* [frames * places][3] int32: which of each */
    mf_buffer features;                /* [batch, MF_TIME_FEATURES] compute type, of the times */
    mf_buffer inner, inner_silu;       /* [batch, hidden] f32, compute type */
    mf_buffer embedded, embedded_silu; /* the same of the embedded times */
    mf_buffer modulation, at_layer;    /* [batch][6 * hidden] f32: of all layers; with the layer's table */
    mf_buffer d_embedded;              /* [batch, hidden] f32 */
    mf_buffer d_modulation, d_at_layer;
    mf_buffer at_end, d_at_end; /* [batch][2 * hidden] f32: the last norm's shift and scale */
    mf_buffer condition;        /* [batch * condition tokens, hidden] compute type */
    mf_buffer d_condition;      /* the same f32 */
    mf_shared turning;          /* switch: [most tokens here, hidden] compute type, before a switch */
} mf_stdit;
/* The longest wave of positions and times turns once in 2 pi times this. */
enum { MF_WAVES = 10000 };
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
    mf_side sides_of[MF_SIDES];
    int sides;
    mf_side *side; /* of the layer at work */

    int params, parts;
    int layer_params;
    int of_layer[MF_LAYER_KINDS];       /* a parameter's place in its layer; -1: the family has none */
    int of_model[MF_OUTER_KINDS];       /* a parameter's index; -1: none */
    mf_param *param;                    /* [params]: layer after layer, then the others */
    mf_part *part;                      /* [parts] */
    const mf_stream_kind **part_stream; /* [parts] */
    mf_store store;
    int64_t norm_elements, replicated; /* of blocks' norms; with what heads have, or a video's model */
    mf_buffer replicas, replica_grads; /* [replicated] f32: [2 * layers + 1][hidden], then the others */

    mf_stdit stdit;
    mf_buffer cos_sin; /* [rows, head_dim] f32 */
    /* Kept by forward, one slot a layer or one in all. */
    int x_slots, attention_slots, middle_slots, mlp_slots;
    mf_buffer x;        /* [x_slots][held, hidden] block inputs, compute type; slot `layers` is the output */
    mf_buffer middle;   /* [middle_slots][held, hidden] behind attention */
    mf_buffer crossed;  /* the same behind attention to a condition, where there is one */
    mf_buffer a;        /* [attention_slots][tokens, own heads * head_dim] */
    mf_buffer gate, up; /* [mlp_slots][tokens, own ffn]; no slots: computed again in backward */
    mf_buffer dx;       /* [held, hidden] f32: the gradient of the residual stream */

    mf_cache *cache; /* what the tokens at work follow; NULL: nothing */

    const mf_part *next; /* streamed after the part at work */
    bool last;           /* the gradients of this pass complete the step's */
};

/* params_list.c: the parameters, the number of parts and what is in each. */
mf_status mf_params_name(mf_model *model);
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

static inline bool mf_is_video(const mf_model *m) { return m->config.family == MF_STDIT; }
/* Tokens of all clips' conditions. */
static inline int64_t mf_condition_rows(const mf_model *m) {
    return m->options.batch * m->config.video.condition_tokens;
}
static inline bool mf_switches(const mf_model *m) {
    return m->layout.exchange == &mf_exchange_switch && mf_comm_size(m->sequence) > 1;
}

static inline int mf_layer_param(const mf_model *m, int64_t layer, int which) {
    return (int)layer * m->layer_params + m->of_layer[which];
}
static inline bool mf_layer_has(const mf_model *m, int which) { return m->of_layer[which] >= 0; }
static inline int mf_embedding_param(const mf_model *m) { return m->of_model[MF_EMBEDDING]; }
static inline int mf_final_norm_param(const mf_model *m) { return m->of_model[MF_FINAL_NORM]; }
static inline int mf_head_param(const mf_model *m) {
    return m->of_model[m->config.tied ? MF_EMBEDDING : MF_HEAD];
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
    return mf_part_of(m, mf_layer_param(m, layer, MF_WUP));
}
/* Only where there is a condition. */
static inline const mf_part *mf_cross_part(const mf_model *m, int64_t layer) {
    return mf_part_of(m, mf_layer_param(m, layer, MF_CROSS_Q));
}
/* What follows attention. */
static inline const mf_part *mf_after_attention(const mf_model *m, int64_t layer) {
    return mf_layer_has(m, MF_CROSS_Q) ? mf_cross_part(m, layer) : mf_mlp_part(m, layer);
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
/* Sums over the layers before one, whose sides take turns, of what is counted on each side. */
static inline int64_t mf_before(const mf_model *m, int64_t layer, int64_t by_frame, int64_t by_place) {
    return m->sides == 1 ? layer * by_frame : (layer + 1) / 2 * by_frame + layer / 2 * by_place;
}
static inline int64_t mf_held_before(const mf_model *m, int64_t layer) {
    return mf_before(m, layer, m->sides_of[0].reduction.held, m->sides_of[1].reduction.held);
}
static inline int64_t mf_tokens_before(const mf_model *m, int64_t layer) {
    return mf_before(m, layer, m->sides_of[0].tokens, m->sides_of[1].tokens);
}
static inline void *mf_slot_at(const mf_model *m, const mf_buffer *buffer, int slots, int64_t layer) {
    return mf_at(m, buffer->data, (slots > 1 ? mf_held_before(m, layer) : 0) * m->config.hidden);
}
static inline void *mf_x(const mf_model *m, int64_t layer) { return mf_slot_at(m, &m->x, m->x_slots, layer); }
static inline void *mf_middle(const mf_model *m, int64_t layer) {
    return mf_slot_at(m, &m->middle, m->middle_slots, layer);
}
/* The MLP's input. */
static inline void *mf_crossed(const mf_model *m, int64_t layer) {
    return mf_slot_at(m, m->crossed.data ? &m->crossed : &m->middle, m->middle_slots, layer);
}
/* Of the layer's side's exchange. */
static inline int64_t mf_attention_slot(const mf_model *m, int64_t layer) {
    return m->attention_slots > 1 ? layer / m->sides : 0;
}
static inline void mf_take_side(mf_model *m, int64_t layer) { m->side = &m->sides_of[layer % m->sides]; }

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
static inline mf_linear mf_linear_of(const mf_model *m, int64_t n, int64_t in, int64_t out) {
    return (mf_linear){.device = m->device, .type = m->options.type, .n = n, .in = in, .out = out};
}
/* y: [n, out] = or += x: [n, in] · weight' */
mf_status mf_linear_forward(const mf_linear *l, const void *x, int64_t x_ld, const void *weight, void *y,
                            int64_t y_ld, mf_dtype y_type, bool accumulate);
/* dx: [n, in] = or += dy: [n, out] · weight */
mf_status mf_linear_input_grad(const mf_linear *l, const void *dy, int64_t dy_ld, const void *weight,
                               void *dx, int64_t dx_ld, mf_dtype dx_type, bool accumulate);
/* dweight: [out, in] += dy' · x */
mf_status mf_linear_weight_grad(const mf_linear *l, const void *dy, int64_t dy_ld, const void *x,
                                int64_t x_ld, float *dweight);

/* The same, overwritten. */
mf_status mf_linear_product(const mf_linear *l, const void *dy, int64_t dy_ld, const void *x, int64_t x_ld,
                            float *out);

/* residual.c: what goes between the residual stream, of which a rank holds `held` tokens, and the blocks,
 * which see all `tokens` of its sequence share. */
/* Opens the stream of a part at work, and says what comes next. */
mf_status mf_part_open(mf_model *model, const mf_part *part, mf_pass pass, mf_stream *out);
/* A norm: RMS's, by its weight; or layer norm, modulated: shift and scale of each sample. */
typedef struct mf_norm {
    int weight; /* its parameter; -1: modulated */
    const float *shift, *scale;
    float *d_shift, *d_scale; /* NULL: another rank counts */
    int64_t ld;               /* from sample to sample */
} mf_norm;
/* What a block's output is multiplied with, of each sample: [hidden]. */
typedef struct mf_gate_values {
    const float *value; /* NULL: nothing */
    float *grad;
    int64_t ld;
} mf_gate_values;
/* Before attention or the MLP: which is MF_NORM_ATTENTION or MF_NORM_MLP. */
mf_norm mf_norm_before(const mf_model *model, int64_t layer, int which);
mf_gate_values mf_gate_behind(const mf_model *model, int which);
mf_norm mf_norm_by(int weight);
/* Tokens of each sample on the side at work, at least 1. */
int64_t mf_sample_rows(const mf_model *model);
/* True where gradients of what all tokens share are this rank's to count: tensor ranks may have the same. */
bool mf_counts_rows(const mf_model *model);

/* A block's input: x: [held, hidden], normalised, of all tokens, in compute type. */
typedef struct mf_normed {
    mf_buffer held, gathered;
    const void *all; /* [tokens, hidden] */
} mf_normed;
mf_status mf_normed_make(mf_model *model, const mf_norm *norm, const void *x, mf_normed *out);
/* The same of x as it is. */
mf_status mf_normed_plain(mf_model *model, const void *x, mf_normed *out);
void mf_normed_free(mf_model *model, mf_normed *normed);
/* The gradient of a block's output, of all tokens, in compute type: from dx. */
typedef struct mf_block_grad {
    mf_normed dx;
    mf_buffer gated;
    const void *dy; /* [tokens, hidden]: dx, through the gate */
} mf_block_grad;
mf_status mf_block_grad_make(mf_model *model, const mf_gate_values *gate, mf_block_grad *out);
void mf_block_grad_free(mf_model *model, mf_block_grad *grad);
/* A block's last map, y = a · weight', of tokens row .. row + rows - 1. */
typedef struct mf_last_map {
    int64_t row, rows, width;
    const void *a; /* [rows, width] compute type, token to token a_ld */
    int64_t a_ld;
    const void *weight; /* [hidden, width] */
    float *d_weight;    /* += */
} mf_last_map;
/* Adds the gradients of its weight and of the gate behind it. */
mf_status mf_last_map_grads(mf_model *model, const mf_gate_values *gate, const mf_block_grad *grad,
                            const mf_last_map *map);
/* out: [held, hidden] = x + gate * the sum over ranks of y: [tokens, hidden] f32, which is used up, as
 * `normed` is. */
mf_status mf_residual_add(mf_model *model, const mf_gate_values *gate, mf_normed *normed, float *y,
                          const void *x, void *out);
/* dx += through the norm of x, from a block's partial input gradient [tokens, hidden] f32; both it and
 * `normed` are used up. */
mf_status mf_residual_backward(mf_model *model, mf_normed *normed, const mf_norm *norm, const void *x,
                               float *dnormed);
/* The same without a norm. */
mf_status mf_residual_backward_plain(mf_model *model, mf_normed *normed, float *dinput);

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

/* model.c: makes the model one of `tokens` tokens, at most those it was created with, the first of which is
 * at `position`. */
mf_status mf_model_reshape(mf_model *model, int64_t tokens, int64_t position);
/* A part's gradients of this step are whole on this rank: others may have them. Key heads that several ranks
 * hold are summed at the end. */
mf_status mf_complete(mf_model *model, const mf_part *part);
mf_status mf_complete_attention(mf_model *model, int64_t layer);
/* Sums that could not begin on the way. */
mf_status mf_finish_gradients(mf_model *model);
mf_status mf_keep(mf_model *model, int64_t elements, size_t size, const char *what, mf_buffer *out);
/* What was allocated of these. */
void mf_free_all(mf_model *model, mf_buffer *const *buffers, size_t count);

/* llama.c: of texts. The blocks, from ids: [batch, rows] to the last one's output. */
mf_status mf_model_forward(mf_model *model, const int32_t *ids);
mf_status mf_llama_loss(mf_model *model, const mf_model_call *call, double *loss);
mf_status mf_llama_gradients(mf_model *model, const mf_model_call *call, double *loss);
/* stdit.c: of videos. */
mf_status mf_stdit_build(mf_model *model);
void mf_stdit_free(mf_model *model);
mf_status mf_stdit_loss(mf_model *model, const mf_model_call *call, double *loss);
mf_status mf_stdit_gradients(mf_model *model, const mf_model_call *call, double *loss);
/* stdit_sides.c: this rank's share of clips; what it has of each side. */
void mf_stdit_take_sides(mf_model *model);
mf_status mf_stdit_grid(mf_model *model);
/* Of hidden, what positions of frames, rows and columns have. */
void mf_stdit_widths(const mf_model *model, int64_t width[3]);
/* This rank's part behind the last block, [frames, places, values], to its place in the whole clip. */
mf_status mf_stdit_place_clip(const mf_model *model, const float *own, float *clip);
/* Where a layer leaves what is to be switched, once peers have read what was there. */
mf_status mf_stdit_switch_open(mf_model *model, void **place);
/* Between blocks, where they cut other dimensions: from the last layer's side to that of `layer`. */
mf_status mf_stdit_switch(mf_model *model, int64_t layer, void *out);
/* dx goes back from the side of layer + 1 to that of `layer`. */
mf_status mf_stdit_switch_back(mf_model *model, int64_t layer);
/* modulation.c: times and condition to what all blocks share of them, and back. */
mf_status mf_modulation_keep(mf_model *model);
mf_status mf_modulation_make(mf_model *model, const mf_model_call *call);
mf_status mf_modulation_grads(mf_model *model, const mf_model_call *call);
/* Before a backward pass. */
mf_status mf_modulation_clear(mf_model *model);
/* Adds the layer's table. */
mf_status mf_modulation_open(mf_model *model, int64_t layer, bool grads);
mf_status mf_modulation_close(mf_model *model, int64_t layer);
/* streamed.c: y: [rows, out] f32 = x: [rows, in] compute type through an outer matrix and its bias. Rows and
 * result are alike on all ranks of a replica. */
mf_status mf_streamed_forward(mf_model *model, int kind, int64_t rows, const void *x, float *y);
/* Adds the gradients; dx: [rows, in] f32, overwritten, or NULL. dy: this rank's share, the same on all tensor
 * ranks. */
mf_status mf_streamed_backward(mf_model *model, int kind, int64_t rows, const void *x, float *dy, float *dx);
/* patches.c: from values of patches, [held, values], to the first block's input, and from the last one's
 * output to their velocities and the loss. */
mf_status mf_patches_in(mf_model *model, const float *input, void *out);
mf_status mf_patches_in_grads(mf_model *model, const float *input);
/* velocity: [held, values], overwritten; NULL where it is not wanted. */
mf_status mf_patches_out(mf_model *model, const void *x, const float *target, float *velocity, double *loss);
mf_status mf_patches_out_grads(mf_model *model, const void *x, const float *target, float scale,
                               double *loss);
/* cross.c: out = x + attention of x over the condition. */
mf_status mf_cross_block(mf_model *model, int64_t layer, const void *x, void *out);
mf_status mf_cross_block_backward(mf_model *model, int64_t layer, const void *x);

/* cache.c: adds what the tokens before see to a: own tokens' results of some heads, as call says. */
mf_status mf_cache_attend(mf_cache *cache, int64_t layer, const mf_attend *call);
/* Takes the layer's keys and values of own tokens at work. */
mf_status mf_cache_keep(mf_cache *cache, int64_t layer);

/* attention.c: out = x + gate * attention(norm(x)), out: [held, hidden] compute type. Keeps q, k, v, a, lse.
 */
mf_status mf_attention_block(mf_model *model, int64_t layer, const void *x, void *out);
/* dx += through the block; x as in forward; what forward keeps must be there. */
mf_status mf_attention_block_backward(mf_model *model, int64_t layer, const void *x);
/* mlp.c: out = x + gate * mlp(norm(x)); out may be x. */
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
