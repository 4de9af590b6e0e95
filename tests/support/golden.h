/* golden.h: models of every family as transformers saves and computes them (golden/make_families.py), and of
 * videos as another implementation does (golden/make_stdit.py). */
#ifndef MF_TEST_GOLDEN_H
#define MF_TEST_GOLDEN_H

#include "meshfold/io.h"
#include "meshfold/model.h"

/* Their folders' names; NULL behind the last. */
extern const char *const golden_families[];

/* What was found of a folder's model. */
typedef struct golden {
    char folder[512];
    mf_model_config config;
    mf_safetensors *file;
    int64_t batch, tokens;
    int32_t ids[512],
        labels[512]; /* [batch, tokens]; labels are the next ids, the last of a sequence has none. Of texts */
} golden;
/* Fail the test where it is not there. */
void golden_open(const char *name, golden *out);
/* The same of videos. */
void golden_open_video(const char *name, golden *out);
void golden_close(golden *golden);
/* "logits": [batch, tokens, vocab], "loss", "norm.PARAMETER"; of videos "input", "target" and "velocity":
 * [batch, tokens, values], "time", "condition", "loss", "grad.PARAMETER". */
const float *golden_values(const golden *golden, const char *name);
/* norm(got - want) / norm(want) */
double golden_error(int64_t n, const float *got, const float *want);

#endif
