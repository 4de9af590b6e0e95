/* checkpoint.h: what saving, finding and loading a checkpoint agree on: names in its folder, the manifest,
 * how a rank's share is cut into tensors. */
#ifndef MF_TRAIN_CHECKPOINT_H
#define MF_TRAIN_CHECKPOINT_H

#include "io/digest.h"
#include "meshfold/checkpoint.h"
#include "train/optimizer.h"

/* checkpoint_manifest.c */
enum { MF_MANIFEST_VERSION = 1, MF_PARTS_MOST = 1 << 20 };
typedef struct mf_manifest {
    bool converted; /* no run has begun: of what follows there are params, settings and files; of tensors,
                       weights */
    char mesh[MF_LAYOUT_DESCRIPTION],
        layout[MF_LAYOUT_DESCRIPTION]; /* of the run that saved it, for people */
    mf_dtype type;
    uint64_t seed;
    int64_t tokens, sequences; /* of a sequence; of a step */
    int64_t params;            /* of the model */
    int64_t updates;
    mf_adam_options adam; /* for people: a run that goes on has its own */
    mf_checkpoint_progress progress;
    char *settings;   /* owned; NULL: none */
    mf_digest config; /* of config.json */
    int parts;        /* one a rank; of a converted one as many as its size asks for */
    mf_digest *part;  /* [parts], owned */
} mf_manifest;
void mf_manifest_free(mf_manifest *manifest);
/* Writes folder/manifest.json. */
mf_status mf_manifest_write(const mf_manifest *manifest, const char *folder);
/* Reads it, believing nothing, and looks whether the files that it names are there and have their sizes.
 * MF_EIO, MF_EFORMAT, MF_EUNSUPPORTED name the file. */
mf_status mf_manifest_read(const char *folder, mf_manifest *out);

/* checkpoint_agree.c: own: how a rank's share of the work ended. Returns the lowest failing rank's error on
 * all. Collective. */
mf_status mf_checkpoint_agree(mf_comm *world, mf_status own);

/* checkpoint_names.c: step-000100, part-00003.safetensors; the caller frees *out. */
mf_status mf_checkpoint_name(const char *folder, int64_t step, char **out);
/* A folder of this name is not a checkpoint yet. */
mf_status mf_checkpoint_draft_name(const char *folder, int64_t step, char **out);
mf_status mf_part_name(const char *folder, int part, char **out);
/* The steps of the checkpoints in a folder, newest first, whole or not. Owned by the caller. */
mf_status mf_checkpoint_steps(const char *folder, int64_t **out, int *count);
/* Leaves the newest `keep`. */
mf_status mf_checkpoints_keep(const char *folder, int keep);

/* checkpoint_pieces.c: a rank's share as rectangles of whole tensors, each contiguous in memory. Over all
 * ranks every element of every tensor is in exactly one. */
typedef struct mf_piece {
    int param, kind; /* of MF_ELEMENT_KINDS */
    int64_t first_row, rows, first_col, cols;
    const float *values;
} mf_piece;
/* (*out)[*count], owned by the caller. */
mf_status mf_pieces_make(const mf_optimizer_state *state, mf_piece **out, int *count);
/* "weights/model.norm.weight@0,64": kind, parameter, first row and column. The caller frees *out. */
mf_status mf_piece_name(int kind, const char *param, int64_t first_row, int64_t first_col, char **out);
/* The reverse; false where the name is none. *param points into name. */
bool mf_piece_name_read(const char *name, int *kind, const char **param, size_t *param_length,
                        int64_t *first_row, int64_t *first_col);
/* "[256, 64]", the whole tensor's shape, under which a part's metadata has it. */
void mf_piece_shape(int64_t rows, int64_t cols, char out[48]);
/* The name of the tensor that holds progress.step_s. */
extern const char mf_step_times_name[];

/* checkpoint_parts.c: a model's parameters, found by name. */
typedef struct mf_param_names {
    mf_named_shape *param;          /* [count] in the model's order, owned */
    const mf_named_shape **by_name; /* [count] owned */
    int count;
} mf_param_names;
mf_status mf_param_names_make(const mf_model_config *config, mf_param_names *out);
void mf_param_names_free(mf_param_names *names);
/* A tensor of a part: a rectangle of a whole parameter. */
typedef struct mf_part_tensor {
    const mf_tensor_info *tensor;
    int param, kind; /* of names->param; of MF_ELEMENT_KINDS */
    int64_t first_row, rows, first_col, cols;
} mf_part_tensor;
/* Believes nothing that the part says. path: the part's. MF_EFORMAT names it and the tensor. */
mf_status mf_part_identify(const mf_param_names *names, const char *path, const mf_safetensors *part,
                           const mf_tensor_info *tensor, mf_part_tensor *out);

/* checkpoint_weights.c: the weights of a checkpoint, whole, out of the parts of any mesh. All parts are
 * mapped. MF_EFORMAT names a part that does not fit `names`, which must outlive *out. */
typedef struct mf_checkpoint_weights mf_checkpoint_weights;
mf_status mf_checkpoint_weights_open(const mf_checkpoint *checkpoint, const mf_param_names *names,
                                     mf_checkpoint_weights **out);
/* Accepts NULL. */
void mf_checkpoint_weights_close(mf_checkpoint_weights *weights);
/* out: [n] f32, elements first .. first + n - 1 of a parameter, row after row. MF_EFORMAT when no part has
 * one of them. */
mf_status mf_checkpoint_weights_read(const mf_checkpoint_weights *weights, int param, int64_t first,
                                     int64_t n, float *out);

struct mf_checkpoint {
    char *path; /* owned */
    mf_manifest manifest;
};

#endif
