/* convert.h: a conversion under way: where its tensors come from, and the files that they go to. */
#ifndef MF_TRAIN_CONVERT_H
#define MF_TRAIN_CONVERT_H

#include "meshfold/convert.h"
#include "train/checkpoint.h"

typedef struct mf_conversion {
    const mf_convert_options *options;
    mf_convert_result *result;

    /* convert_source.c */
    mf_tensor_set *set;             /* of a model's folder; NULL: a checkpoint's */
    mf_checkpoint *checkpoint;      /* NULL: a model's folder */
    mf_checkpoint_weights *weights; /* the checkpoint's */
    mf_param_names names;           /* none where the family is not asked */
    char *config;                   /* path of config.json */
    char config_type[MF_CONFIG_TYPE];
    int count;
    mf_tensor_info *from; /* [count] data NULL: a checkpoint's weight, by its number among the names */

    /* convert_write.c */
    mf_file_type type;  /* MF_FILE_OTHER: as they are */
    mf_tensor_info *to; /* [count] */
    char **name;        /* [count] of `to`, in a checkpoint */
    int files, *first;  /* [files + 1]: file f has tensors first[f] .. first[f + 1] - 1 */
    mf_digest *digest;  /* [files] */
    char *draft;        /* the folder, until it has its name */
} mf_conversion;

/* Finds out what options->from is, and lists its tensors. */
mf_status mf_conversion_open(mf_conversion *c);
/* The folder with the tokenizer that goes with the weights; owned by the caller; NULL: none is known. */
mf_status mf_conversion_companion(const mf_conversion *c, char **out);
/* out: [n] f32, from element `first` of a float tensor on. */
mf_status mf_conversion_read(const mf_conversion *c, int tensor, int64_t first, int64_t n, float *out);
/* Frees what open made. */
void mf_conversion_close(mf_conversion *c);

/* Decides on types, names and files. */
mf_status mf_conversion_plan(mf_conversion *c);
/* Writes all tensors' files into the draft, and the index of several. */
mf_status mf_conversion_write(mf_conversion *c);

#endif
