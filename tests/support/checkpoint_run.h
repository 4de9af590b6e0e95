/* checkpoint_run.h: small training runs that save and go on, for the tests of checkpoints. */
#ifndef MF_TEST_CHECKPOINT_RUN_H
#define MF_TEST_CHECKPOINT_RUN_H

#include "support.h"

#include "meshfold/checkpoint.h"

enum { CHECKPOINT_RANKS = 4, CHECKPOINT_STEPS = 8, CHECKPOINT_SEQUENCES = 2 };

/* A run, and what its observer saw. Steps count from 1. */
typedef struct checkpoint_run {
    mf_train_options options;
    const char *mesh;
    bool no_borrow;
    uint8_t text[1200];
    double loss[CHECKPOINT_STEPS + 1], grad_norm[CHECKPOINT_STEPS + 1], lr[CHECKPOINT_STEPS + 1];
    double eval[CHECKPOINT_STEPS + 1];
    double summary[3]; /* first, last, held-out loss */
    int64_t made;      /* steps */
    int64_t resumed;   /* after this step; -1: it began */
    int64_t stopped;   /* after this step; 0: it was not */
    int saves, passes; /* checkpoints saved, passed over */
    char why[256];     /* the first was passed over */
    mf_status status[CHECKPOINT_RANKS];
    mf_error error[CHECKPOINT_RANKS];
    int ended;
} checkpoint_run;

/* A small model on a mesh, cut so that no share is like another; a step has CHECKPOINT_SEQUENCES on any mesh.
 * The caller frees it with mf_host_free. */
checkpoint_run *checkpoint_run_make(const char *mesh, mf_dtype type, int64_t steps);
/* Runs it; all ranks must end alike, within a minute. */
mf_status checkpoint_run_go(checkpoint_run *run);
/* Losses, norms and rates of steps `from` .. steps are those of `expected`, bit for bit. */
void assert_same_steps(const checkpoint_run *run, const checkpoint_run *expected, int64_t from);

/* A new, empty folder; the caller frees its name (mf_host_free). All go with checkpoint_folders_remove. */
char *checkpoint_folder(void);
void checkpoint_folders_remove(void);
/* "FOLDER/step-000002" and a file in it, or the folder itself where file is NULL; valid until the next but
 * three. */
const char *checkpoint_path(const char *folder, int64_t step, const char *file);
/* Names in a folder. */
int count_names(const char *folder);

#endif
