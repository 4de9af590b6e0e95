/* loop.h: one rank's training run, for the files of this room. */
#ifndef MF_TRAIN_LOOP_H
#define MF_TRAIN_LOOP_H

#include "meshfold/train.h"

typedef struct mf_run_state {
    const mf_train_options *options;
    const mf_train_observer *observer; /* NULL but on rank 0 */
    mf_world *world;
    mf_memory *memory;
    mf_device *device;
    mf_mesh mesh;
    const mf_layout *layout;
    mf_model *model;
    mf_optimizer *optimizer;
    mf_buffer ids, labels;             /* [accumulate][batch][rows] int32: this rank's tokens of a step */
    mf_buffer whole_ids, whole_labels; /* [tokens] int32: one sequence before the cut */
    double all_steps_s;                /* the sum so far of */
    double *step_s;                    /* [steps] */
    double peak_flops;                 /* of all ranks together, measured */
    double loss_first, loss_last, loss_eval;
    int64_t skipped, skipped_in_a_row;
} mf_run_state;

/* loop.c */
mf_status mf_loop_run(mf_run_state *run);
/* Mean loss on the held-out text. Collective. */
mf_status mf_loop_eval(mf_run_state *run, double *loss);
/* report.c: model FLOPs of a step over all ranks. */
double mf_loop_step_flops(const mf_run_state *run);
/* Gathers what all ranks measured and hands the summary to the observer. Collective. */
mf_status mf_loop_summarize(mf_run_state *run, const mf_rank_report *own);
/* What this rank measured: memory so far, transfers since the last mf_loop_reset_stats. */
void mf_loop_measure(mf_run_state *run, mf_rank_report *out);
void mf_loop_reset_stats(mf_run_state *run);

#endif
