/* plan_validate.h: the same steps dry and real, side by side. */
#ifndef MF_CLI_PLAN_VALIDATE_H
#define MF_CLI_PLAN_VALIDATE_H

#include "cli/run_settings.h"
#include "meshfold/plan.h"

enum { MF_VALIDATE_LEAST = 512, MF_VALIDATE_ROUNDS = 64 };
typedef struct mf_validate_options {
    const mf_cluster *machine;       /* the one at hand, as meshfold calibrate described it */
    const mf_run_settings *settings; /* of the layouts */
    const mf_words *meshes;          /* none: some that one and two ranks can make */
    mf_model_options model; /* tokens: the longest; from MF_VALIDATE_LEAST on each is twice the last */
    int rounds;
    bool json;
} mf_validate_options;
/* Runs every mesh at every length, in rounds, and prints measured beside predicted. */
mf_status mf_plan_validate(const mf_validate_options *options);

#endif
