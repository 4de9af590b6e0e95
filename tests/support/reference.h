/* reference.h: a Llama or a relative of it in plain double-precision loops, loss and gradients: what all else
 * is held against. It follows the published formulas and shares no code with the library. */
#ifndef MF_TEST_REFERENCE_H
#define MF_TEST_REFERENCE_H

#include "meshfold/model.h"

/* Parameters in the order of mf_model_param, each dense [rows, cols]. */
typedef struct reference {
    mf_model_config config;
    int64_t batch, tokens;
    const int32_t *ids, *labels; /* [batch, tokens]; negative labels are masked */
    int params;
    double **value, **grad; /* [params]; grad is overwritten */
} reference;

/* Mean loss over unmasked labels. */
double reference_loss(const reference *r);
double reference_gradients(const reference *r);

#endif
