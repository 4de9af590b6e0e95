/* model.h: what a transformer is, and one rank's share of it.
 *
 *     mf_model_config config;
 *     MF_TRY(mf_config_load("config.json", &config));       // Hugging Face's, of a family below
 *     mf_model_options options = {.config = config, .batch = 1, .tokens = 8192, .seed = 1};
 *     MF_TRY(mf_model_create(&options, layout, &mesh, device, &model));   // collective
 *     MF_TRY(mf_model_init(model, master));
 *     MF_TRY(mf_model_gradients(model, &call, &loss));                    // adds to the gradients
 *     mf_model_destroy(model);
 */
#ifndef MESHFOLD_MODEL_H
#define MESHFOLD_MODEL_H

#include "meshfold/schedule.h"

/* Whose names and defaults a config.json has. */
typedef enum mf_model_family {
    MF_LLAMA,
    MF_MISTRAL,
    MF_QWEN2,
    MF_QWEN3,
    MF_STDIT, /* of videos; the others are of texts */
    MF_MODEL_FAMILIES
} mf_model_family;

/* Patches of a clip: frames, and in each rows and columns of patches. */
typedef struct mf_clip_grid {
    int64_t frames, rows, columns;
} mf_clip_grid;
static inline int64_t mf_clip_places(const mf_clip_grid *g) { return g->rows * g->columns; }
static inline int64_t mf_clip_tokens(const mf_clip_grid *g) { return g->frames * mf_clip_places(g); }

/* What a video's model has beside hidden, layers, heads and ffn: blocks that attend over the places of a
 * frame and over the frames of a place take turns, both with a GELU MLP; layer norms without weights are
 * modulated by an embedded time (adaLN-single: PixArt-alpha, arXiv 2310.00426). It predicts velocities of a
 * rectified flow (arXiv 2209.03003), from noise at time 0 to clips at time 1. */
typedef struct mf_video_config {
    int64_t frames, height, width; /* of the clips that it is made for: pixels, or elements of a latent */
    int64_t channels, patch;       /* a patch has patch * patch * channels values */
    int64_t condition_tokens, condition_channels; /* attended to in every block; 0: no condition */
    bool gated;                                   /* the MLP: gelu(gate) * up, else gelu(up) */
} mf_video_config;

/* Llama's block: RMS norms before attention and MLP, grouped-query attention with rotary positions, gated
 * MLP; and what its relatives add to it, each by itself. */
typedef struct mf_model_config {
    int64_t hidden, layers, heads, kv_heads, head_dim, ffn, vocab;
    double rope_theta, norm_eps, init_range;
    bool tied; /* the output head is the embedding */
    mf_model_family family;
    bool qkv_bias;       /* projections of queries, keys and values have biases */
    bool qk_norm;        /* queries and keys are normalised, head by head, before they are turned */
    int64_t window;      /* keys that a query sees at most, its own the last; 0: all before it */
    int64_t window_from; /* the layers from this one on have the window, those before see all */
    int64_t positions;   /* max_position_embeddings: what it was trained for; 0: not said */
    mf_rope_scaling scaling;
    mf_video_config video; /* MF_STDIT, which has no vocabulary and no rotary positions */
} mf_model_config;
/* Values of a patch; the patches of the clips it is made for. */
int64_t mf_config_values(const mf_model_config *config);
int64_t mf_config_condition_values(const mf_model_config *config); /* of a clip's condition; 0: none */
mf_clip_grid mf_config_grid(const mf_model_config *config);
bool mf_config_is_gated(const mf_model_config *config);
/* "LlamaForCausalLM", ... */
const char *mf_model_family_name(mf_model_family family);

/* MF_EINVAL names the field that is missing, negative, zero or absurd; MF_EIO, MF_EFORMAT the file. */
mf_status mf_config_load(const char *path, mf_model_config *out);
/* A named preset; MF_EINVAL lists the known ones. */
mf_status mf_config_preset(const char *name, mf_model_config *out);
/* `name` is a preset, a config.json, or a folder that holds one. */
mf_status mf_config_find(const char *name, mf_model_config *out);
/* Checks that sizes fit together, as load does. */
mf_status mf_config_check(const mf_model_config *config, const char *where);
/* Writes a config.json that Hugging Face reads, in the family's names. positions: what it has been used with;
 * max_position_embeddings is at least that. */
mf_status mf_config_save(const mf_model_config *config, mf_dtype type, int64_t positions, const char *path);
/* Gives a saved config.json the ids of special tokens that another has. */
mf_status mf_config_carry(const char *from, const char *to);
/* The weights' type that a config.json names in torch's words ("bfloat16"); "" where it says nothing. */
enum { MF_CONFIG_TYPE = 32 };
mf_status mf_config_type(const char *path, char out[MF_CONFIG_TYPE]);
/* Copies a config.json, with everything that is in it, but for that type. */
mf_status mf_config_retype(const char *from, const char *type, const char *to);
/* Names and one line each of the presets, for --help: index from 0; false at the end. */
bool mf_config_preset_at(int index, const char **name, const char **about);

/* A parameter, whole. The names are Hugging Face's. */
enum { MF_PARAM_NAME = 80 };
typedef struct mf_named_shape {
    char name[MF_PARAM_NAME];
    int64_t rows, cols; /* rows 0: a vector of cols */
} mf_named_shape;
/* (*out)[*count], in mf_model_param's order; owned by the caller (mf_host_free). */
mf_status mf_config_param_list(const mf_model_config *config, mf_named_shape **out, int *count);

/* Number of parameters. */
int64_t mf_config_params(const mf_model_config *config);
/* Of these, what every rank has whole beside blocks' norms: biases and norms of heads; of a video's model all
 * that is small. */
int64_t mf_config_vectors(const mf_model_config *config);
/* Of these, the matrices outside of the layers that ranks can share: embedding and head; of a video's model
 * those that times and condition go through. */
int64_t mf_config_outer(const mf_model_config *config);
/* Pairs of a query and a key that it sees, of one head and a text of so many tokens. */
double mf_config_pairs(const mf_model_config *config, int64_t layer, int64_t tokens);
/* Model FLOPs of one training step over `sequences` of `tokens`: forward 2 a weight and token in the products
 * (the output head counts, the embedding does not), attention 2 * 2 * head_dim * heads * pairs a layer, which
 * are S(S+1)/2 without a window; backward twice that; recomputation is not counted. Of texts. */
double mf_config_step_flops(const mf_model_config *config, int64_t sequences, int64_t tokens);

typedef enum mf_recompute {
    MF_RECOMPUTE_NONE,      /* all that backward needs is kept */
    MF_RECOMPUTE_ATTENTION, /* attention's inside is computed again, a layer at a time */
    MF_RECOMPUTE_BLOCK      /* only each block's input is kept */
} mf_recompute;

typedef struct mf_model_options {
    mf_model_config config;
    mf_dtype type;
    mf_recompute recompute;
    int64_t batch, tokens; /* sequences, or clips, of a call; tokens of each, over all ranks */
    mf_clip_grid grid;     /* of a clip's: `tokens` of them. Not of texts */
    uint64_t seed;
    bool forward_only; /* no gradients, nothing kept for them */
    bool cache;        /* forward only: an mf_cache will be made of it. MF_EUNSUPPORTED where weights are cut
                          by rows (stream=gather) */
    bool packed;       /* sequences hold documents: mf_model_set_documents */
} mf_model_options;

/* Model FLOPs of a step as these options say: mf_config_step_flops, or the same of clips, whose places all
 * see each other, and so do the frames of a place; the forward pass alone is a third. */
double mf_model_step_flops(const mf_model_options *options, int64_t sequences);

typedef struct mf_model mf_model;

/* What create refuses, known beforehand: MF_EINVAL names it. */
mf_status mf_model_check(const mf_model_options *options, const mf_layout *layout, const mf_mesh_spec *mesh);
/* Everything of the model that this rank holds. Collective over the mesh; device and mesh must outlive it. */
mf_status mf_model_create(const mf_model_options *options, const mf_layout *layout, mf_mesh *mesh,
                          mf_device *device, mf_model **out);
/* Not collective; call it after a barrier or an error. Accepts NULL. */
void mf_model_destroy(mf_model *model);
/* As given to create; belongs to the model. */
const mf_model_options *mf_model_options_get(const mf_model *model);
/* Tokens of each text that this rank holds; of clips, where the first block cuts them. */
int64_t mf_model_rows(const mf_model *model);
/* This rank's part of a sequence of `tokens` values: out: [rows]. */
void mf_model_cut(const mf_model *model, const int32_t *sequence, int32_t *out);

/* For the calls that follow, of a model that is packed: tokens see nothing of other documents than their own.
 * begins: [batch, tokens] of whole sequences, copied: the position in its sequence where each token's
 * document begins; the same on every rank of a replica. NULL: a sequence is one document, as it is until the
 * first call. MF_EINVAL for a model that is not packed, and names a token whose document begins behind it or
 * before the last token's. Not collective; not of a dry step. */
mf_status mf_model_set_documents(mf_model *model, const int32_t *begins);

/* What a step computes with: texts' ids and labels, or clips; where the device computes, but for time. */
typedef struct mf_model_call {
    const int32_t *ids, *labels; /* [batch, rows], this rank's tokens; a negative label is masked */
    const float *input;  /* [rows in, values] f32: this rank's patches at the times (mf_model_cut_clip) */
    const float *target; /* [rows out, values] f32: their velocities */
    const float *time;   /* [batch] the host's, from 0, noise, to 1; the same on every rank of a replica */
    const float
        *condition; /* [batch, tokens, channels] of the condition, where the model has one; the same */
    float scale;    /* of the loss */
    bool last; /* of the step: sums over the ranks that hold the same weights begin while earlier layers are
                  at work */
} mf_model_call;
/* *loss: this rank's share of the sum over all unmasked tokens, of clips of the squared errors of all values;
 * the shares of all ranks add up to it. scale and last are not looked at. Collective. */
mf_status mf_model_loss(mf_model *model, const mf_model_call *call, double *loss);
/* The same, and += the gradient of scale * loss. After the last call of a step the gradients are sums over
 * all ranks, of cut parameters in the elements that this rank updates, of replicated ones on every rank.
 * Collective. */
mf_status mf_model_gradients(mf_model *model, const mf_model_call *call, double *loss);

/* This rank's patches of clips: where the first block cuts them, or where the last one does. */
int64_t mf_model_clip_rows(const mf_model *model, bool last);
/* clip: [tokens, values] of one; out: [clip_rows / batch, values]; where the device computes. */
mf_status mf_model_cut_clip(const mf_model *model, bool last, const float *clip, float *out);
/* The velocities that the model predicts: out: [batch, tokens, values] f32, whole on every rank of a replica.
 * call: input, time and condition. Collective. */
mf_status mf_model_velocity(mf_model *model, const mf_model_call *call, float *out);

typedef struct mf_logits_call {
    const int32_t *ids;    /* [batch, rows], this rank's tokens, where the device computes */
    int64_t count;         /* of tokens whose logits are wanted */
    const int64_t *tokens; /* [count] sequence * tokens + position, the same on every rank of a replica */
    float *logits;         /* [count, vocab] f32, overwritten; where the device computes */
} mf_logits_call;
/* The scores of the token after each of some, whole on every rank: each rank's vocabulary shards stream past
 * the tokens that it has. MF_EINVAL for a token that no sequence has. Collective. */
mf_status mf_model_logits(mf_model *model, const mf_logits_call *call);

/* Keys and values of the tokens that a model has read, for going on from there: each rank of the sequence's
 * axes keeps its share of the tokens, each of the tensor's its own key heads. A model with a cache is one of
 * batch 1, and its `tokens`, rounded up to what all ranks share evenly, are the most that are read at once.
 *
 *     MF_TRY(mf_cache_create(model, most, 2, &cache));       // two sequences, of at most most[i] tokens
 *     MF_TRY(mf_cache_read(cache, 0, ids, count));           // by the layout's schedule, as training reads
 *     MF_TRY(mf_cache_next(cache, &call));                   // one token more of each of some sequences
 *     mf_cache_destroy(cache);
 *
 * All of it is collective over the ranks of a replica. */
typedef struct mf_cache mf_cache;
/* most: [sequences]. The model must outlive it, and from then on reads for it alone: one cache a model. */
mf_status mf_cache_create(mf_model *model, const int64_t *most, int sequences, mf_cache **out);
/* Not collective. Accepts NULL. */
void mf_cache_destroy(mf_cache *cache);
/* Tokens of a sequence so far. */
int64_t mf_cache_tokens(const mf_cache *cache, int sequence);
/* Bytes of all keys and values that this rank has room for. */
int64_t mf_cache_bytes(const mf_cache *cache);
/* ids: [count], the same on every rank: they follow what the sequence has. MF_EINVAL beyond its most; room is
 * for a sequence of which one call has read the beginning, and more calls may find too little on a rank. */
mf_status mf_cache_read(mf_cache *cache, int sequence, const int32_t *ids, int64_t count);

typedef struct mf_next_call {
    int count;           /* of sequences that go on */
    const int *sequence; /* [count] which, none twice */
    const int32_t *ids;  /* [count] their next tokens, the same on every rank */
    float *logits;       /* [count, vocab] f32 scores of the tokens after those; the same on every rank; where
                            the device computes */
} mf_next_call;
/* Weights stay where they are, as in tp over the axes that they are cut over; what moves is a row of values a
 * sequence. New keys go to the rank that has the fewest of their sequence. */
mf_status mf_cache_next(mf_cache *cache, const mf_next_call *call);
/* Bytes of weights and of cached keys and values that this rank read in the last mf_cache_next. */
double mf_cache_read_bytes(const mf_cache *cache);

/* A named parameter, and the slice of it that this rank holds. The names are Hugging Face's. */
typedef struct mf_param_view {
    const char *name;
    int64_t rows, cols; /* of the whole; rows 0: a vector of cols */
    bool replicated;    /* norms and other small ones, whole on every rank */
    int64_t first_row, slice_rows, first_col, slice_cols;
    int64_t offset; /* where the slice lies, dense, in the weights and gradients it belongs to, in elements */
    int64_t shared_rows; /* leading rows of the slice that another rank has too, and counts */
} mf_param_view;
int mf_model_params(const mf_model *model);
mf_param_view mf_model_param(const mf_model *model, int index);

/* This rank's flat arrays: cut parameters, and replicated ones (always f32). They are the device's. */
typedef struct mf_model_state {
    int64_t cut, replicated; /* elements */
    int64_t first, count;    /* of the cut ones, those that this rank updates */
    bool writes;             /* of the ranks that hold the same, this is the first */
    mf_dtype type;
    void *cut_weights; /* [cut] compute type */
    float *cut_grads, *replicated_weights, *replicated_grads;
} mf_model_state;
mf_model_state mf_model_state_get(mf_model *model);
/* After an update of the elements that each rank updates: gives them to the ranks that hold the same weights.
 * Collective. */
mf_status mf_model_share_updates(mf_model *model);
/* As given to create. */
mf_device *mf_model_device(const mf_model *model);
/* All ranks of the mesh. */
mf_comm *mf_model_world(const mf_model *model);
/* Sum of squares of the cut gradients that this rank updates, each parameter's element counted on one rank.
 */
mf_status mf_model_grad_squares(mf_model *model, double *sum);
/* A parameter's whole gradient: [rows, cols] f32 where the device computes, complete on rank 0, scratch on
 * the others. After the last call of a step. Collective. */
mf_status mf_model_collect_gradient(mf_model *model, int param, float *whole);

/* Fills master: [cut] f32 and the replicated weights with their initial values, which depend on the seed, the
 * name and the global index only. Deviation initializer_range; projections into the residual stream are
 * divided by sqrt(2 * layers) (Radford et al. 2019, 2.3). Norms begin as ones, biases as zeros. */
mf_status mf_model_init(mf_model *model, float *master);

#endif
