/* loop.h: one rank's training run, for the files of this room. */
#ifndef MF_TRAIN_LOOP_H
#define MF_TRAIN_LOOP_H

#include "train/clips.h"

#include <string.h>

typedef struct mf_run_state {
    const mf_train_options *options;
    const mf_train_observer *observer; /* NULL but on the rank that reports */
    mf_world *world;
    mf_memory *memory;
    mf_device *device;
    mf_mesh mesh;
    int replica, replicas; /* of data parallelism: which sequences are this rank's */
    mf_model *model;
    mf_optimizer *optimizer;
    mf_buffer ids, labels;             /* [accumulate][batch][rows] int32: this rank's tokens of a step */
    int32_t *own;                      /* [rows] the host's: what goes to one of the places there */
    int32_t *whole_ids, *whole_labels; /* [tokens] the host's: one sequence before the cut */
    mf_clip_room clips;                /* of a model of videos */
    int32_t *documents; /* packed: [accumulate][batch][tokens] the host's, of whole sequences */
    int64_t ran;        /* steps of this process */
    int64_t first_step; /* from 0: where this run began or went on */
    double all_steps_s; /* since then, the sum of */
    double *step_s;     /* [steps] */
    double peak_flops;  /* of all ranks together, measured */
    double loss_first, loss_last, loss_eval;
    int64_t skipped, skipped_in_a_row;
    int64_t eval_step; /* the last evaluation came after this step, from 1 */
    uint64_t data;     /* what tells the text from another, where checkpoints need it */
    int64_t last_step; /* that was made, from 1 */
    bool stop;         /* a rank was asked to: all end after this step */
} mf_run_state;

/* Values can't be read or written: nothing is computed. */
static inline bool mf_run_is_dry(const mf_run_state *r) {
    return strcmp(mf_world_engine(r->world), "dry") == 0;
}

/* One rank alone, among stand-ins: its values mean nothing. */
static inline bool mf_run_is_one_of(const mf_run_state *r) { return mf_world_is_one_of(r->world); }

/* train.c: everything a run needs before its first step; `options` and `world` are set before. Collective. */
mf_status mf_run_open(mf_run_state *run);
/* Accepts a run that open left unfinished. */
void mf_run_close(mf_run_state *run);
/* This rank's device of that name (NULL: "cpu"; in a dry world one that computes nothing), which the world
 * uses from then on, and its memory. */
mf_status mf_open_device(mf_world *world, const char *name, int threads, mf_memory **memory,
                         mf_device **device);
/* The first error of all ranks, of which `own` may be a consequence. */
mf_status mf_run_first_error(const mf_run_state *run, mf_status own);

/* loop.c */
mf_status mf_loop_run(mf_run_state *run);
/* This rank's tokens of a whole sequence, to place `at` of the step's sequences. */
mf_status mf_loop_place(mf_run_state *run, int64_t at, const int32_t *ids, const int32_t *labels);
/* Tells the model the documents of the sequences in place from `at` on. What has no text has none. */
mf_status mf_loop_set_documents(mf_run_state *run, int64_t at);
/* Texts or clips in place from `at` on. */
void mf_loop_fill(const mf_run_state *run, int64_t at, mf_model_call *call);
/* One optimizer step on the sequences in place; update->loss is 0 before. Collective. */
mf_status mf_loop_update(mf_run_state *run, int64_t step, mf_update *update);
/* Mean loss on the held-out text. Collective. */
mf_status mf_loop_eval(mf_run_state *run, double *loss);
/* Sequences of a step, of all replicas. */
static inline int64_t mf_loop_sequences(const mf_run_state *r) {
    return r->options->accumulate * r->options->model.batch * r->replicas;
}
/* run_checkpoints.c: goes on from options->resume_from, where that is set. Collective. */
mf_status mf_run_resume(mf_run_state *run);
/* Before the first step: clears away what this run's checkpoints would meet. On rank 0. */
mf_status mf_run_tidy(const mf_run_state *run);
/* Saves after this step, from 1, if it is due. Collective. */
mf_status mf_run_save(mf_run_state *run, int64_t step);
/* report.c: model FLOPs of a step over all ranks; the forward pass's where there is no other. */
double mf_loop_step_flops(const mf_run_state *run);
/* What all ranks measured: (*out)[ranks], on every rank, owned by the caller (mf_host_free). Collective. */
mf_status mf_loop_gather(mf_run_state *run, const mf_rank_report *own, mf_rank_report **out);
/* Measures now, and gathers what all ranks measured for those that want it: out NULL on the others. The
 * caller owns *out. Collective. */
mf_status mf_loop_report(mf_run_state *run, int *ranks, mf_rank_report **out);
/* Gathers the same and hands the summary to the observer. Collective. */
mf_status mf_loop_summarize(mf_run_state *run, const mf_rank_report *own);
/* What this rank measured: memory so far, transfers since the last mf_loop_reset_stats. */
void mf_loop_measure(mf_run_state *run, mf_rank_report *out);
void mf_loop_reset_stats(mf_run_state *run);

#endif
