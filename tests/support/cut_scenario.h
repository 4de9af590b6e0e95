/* cut_scenario.h: a tensor that is split, switched, switched back and gathered, for every engine. */
#ifndef MF_TEST_CUT_SCENARIO_H
#define MF_TEST_CUT_SCENARIO_H

#include "meshfold/cut.h"

typedef struct cut_trial {
    int dims, from, to;
    int64_t size[MF_CUT_DIMS];
    size_t element;
    int64_t moved; /* filled on rank 0: bytes that all ranks' switches moved */
} cut_trial;

/* One of many: up to five dimensions of 0 to 7, elements of 1, 2, 4 and 12 bytes, any two dimensions. */
cut_trial cut_trial_at(int number);
/* Body for mf_launch; argument: a cut_trial. An error names what is not where it belongs. */
mf_status cut_trial_run(mf_world *world, void *argument);

#endif
