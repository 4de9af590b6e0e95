/* optimizer.h: an optimizer's inside, for what keeps it and puts it back. */
#ifndef MF_TRAIN_OPTIMIZER_H
#define MF_TRAIN_OPTIMIZER_H

#include "meshfold/train.h"

/* What an element has: its weight in f32, and Adam's moments of its gradient. */
enum { MF_ELEMENT_WEIGHT, MF_ELEMENT_MOMENT1, MF_ELEMENT_MOMENT2, MF_ELEMENT_KINDS };

/* Points into the optimizer and its model. */
typedef struct mf_optimizer_state {
    mf_model *model;
    mf_model_state of_model;
    int64_t *updates;
    float *cut[MF_ELEMENT_KINDS];        /* [count]: what this rank updates, from element `first` on */
    float *replicated[MF_ELEMENT_KINDS]; /* [replicated] */
} mf_optimizer_state;
mf_optimizer_state mf_optimizer_state_get(mf_optimizer *optimizer);

/* Moments are zero, weights undefined. Not collective. */
mf_status mf_optimizer_allocate(mf_model *model, mf_device *device, const mf_adam_options *options,
                                mf_optimizer **out);
/* Takes the cut weights from where the gradients are, [cut] f32, and clears these. Collective. */
mf_status mf_optimizer_adopt(mf_optimizer *optimizer);

#endif
