/* model_text.h: models and what they compute on, as people read them. Both write to `out` and return it. */
#ifndef MF_CLI_MODEL_TEXT_H
#define MF_CLI_MODEL_TEXT_H

#include "meshfold/model.h"

enum { MF_MODEL_TEXT = 200 };
/* "4 layers, hidden 256, 8 heads, 4 key heads, ffn 704, vocabulary 256" */
const char *mf_config_text(const mf_model_config *config, char out[MF_MODEL_TEXT]);
/* "2 sequences of 512 tokens", "2 clips of 8 frames of 16x16 patches" */
const char *mf_amount_text(const mf_model_options *options, int64_t sequences, char out[MF_MODEL_TEXT]);

#endif
