/* model_files.h: what is in a Hugging Face model's folder, for the files of this room. */
#ifndef MF_TRAIN_MODEL_FILES_H
#define MF_TRAIN_MODEL_FILES_H

#include "meshfold/train.h"

/* A folder's tensors: all that the model has, in shapes and types that can be read, and nothing more.
 * MF_EFORMAT, MF_EUNSUPPORTED name the tensor. */
mf_status mf_model_files_open(const mf_model_config *config, const char *folder, mf_tensor_set **out);
/* Of a small file. */
mf_status mf_file_copy(const char *from, const char *to);

#endif
