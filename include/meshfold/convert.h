/* convert.h: models between Hugging Face folders and checkpoints, and between types.
 *
 *     mf_convert_options options = {
 *         .from = "runs/a", .to = "a-bf16", .type = MF_FILE_BF16, .shard_bytes = 5000000000};
 *     mf_convert_result result;
 *     MF_TRY(mf_model_convert(&options, &result));
 */
#ifndef MESHFOLD_CONVERT_H
#define MESHFOLD_CONVERT_H

#include "meshfold/checkpoint.h"

typedef struct mf_convert_options {
    const char *from;    /* a model's folder, a run's, one of checkpoints, or a checkpoint */
    const char *to;      /* a folder that is not there, or empty */
    bool checkpoint;     /* make one, that a run can begin with; else a Hugging Face folder */
    mf_file_type type;   /* of a Hugging Face folder's floats; MF_FILE_OTHER: their own, which out of a
                            checkpoint is the one that its config.json names */
    int64_t shard_bytes; /* of values in a file at most, unless it is one tensor's */
    const mf_checkpoint_observer *observer; /* or NULL */
    void *context;
    void (*progress)(void *context, int64_t done, int64_t bytes); /* or NULL */
} mf_convert_options;

typedef struct mf_convert_result {
    char from[1024];   /* the checkpoint, or the model's tensors */
    char absent[1024]; /* the folder that the checkpoint's run began with, where it is gone; else "" */
    int tensors, files;
    int64_t bytes; /* of values */
    bool writing;  /* inputs were found good: what fails now is an output, or a value */
} mf_convert_result;

/* Tensor by tensor, a bounded piece at a time; rounded once, to nearest even. The folder has its name only
 * when it is whole and on the disk, until then it is TO.partial. Tensors of other types than floats, and
 * those that the model's family does not know, stay as they are; a checkpoint takes what --init would.
 * *result is filled as far as it went. MF_EINVAL names a tensor with a finite value that would become
 * infinite, or what is wrong with `to`; MF_EFORMAT, MF_EUNSUPPORTED, MF_EIO name a file. Not collective. */
mf_status mf_model_convert(const mf_convert_options *options, mf_convert_result *result);

#endif
