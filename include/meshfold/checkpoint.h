/* checkpoint.h: a run's state on disk, from which it goes on as if it had never stopped, on any mesh.
 *
 *     mf_checkpoint_progress progress = {.step = 100, .data = mf_train_digest(&options)};
 *     mf_checkpoint_saved saved;
 *     options.checkpoints = "runs/a/checkpoints";
 *     MF_TRY(mf_checkpoint_save(optimizer, &options, &progress, &saved));  // collective: .../step-000100/
 *
 *     mf_checkpoint *found = NULL;
 *     MF_TRY(mf_checkpoint_find(mf_model_world(model), "runs/a/checkpoints", NULL, &found)); // collective
 *     MF_GO(mf_checkpoint_match(found, &options, progress.data));
 *     MF_GO(mf_checkpoint_load(found, optimizer, &progress));                           // collective
 *     mf_checkpoint_close(found);
 *
 * mf_train does all of this by its options. All ranks see one file system. What is in a checkpoint and how it
 * is published: docs/checkpoints.md. */
#ifndef MESHFOLD_CHECKPOINT_H
#define MESHFOLD_CHECKPOINT_H

#include "meshfold/train.h"

/* What a run has behind it, beside weights and moments. */
typedef struct mf_checkpoint_progress {
    int64_t step; /* that were made; the next one's sequences follow from it and the seed */
    int64_t skipped, skipped_in_a_row;
    int64_t eval_step; /* the last evaluation came after this step; 0: there was none */
    double loss_first, loss_last, loss_eval;
    const float *step_s; /* save: [step] on rank 0, how long each took */
    float *step_s_out;   /* load: [step] on every rank, or NULL */
    uint64_t data;       /* mf_train_digest of the run; save: rank 0's counts */
} mf_checkpoint_progress;
/* Tells one text, or set of videos, from another. */
uint64_t mf_train_digest(const mf_train_options *options);

typedef struct mf_checkpoint_saved {
    char path[1024];
    int64_t bytes; /* of all ranks' parts */
    double took_s;
} mf_checkpoint_saved;
/* Writes options->checkpoints/step-NNNNNN: each rank what it updates, nothing twice, straight from where it
 * lies. The folder has this name only when it is whole and on the disk; then rank 0 removes all but the
 * newest options->keep. Between two steps. Collective. MF_EIO names the file; then nothing has changed. */
mf_status mf_checkpoint_save(mf_optimizer *optimizer, const mf_train_options *options,
                             const mf_checkpoint_progress *progress, mf_checkpoint_saved *out);

/* Called on rank 0 for each checkpoint that is not whole, newest first. */
typedef struct mf_checkpoint_observer {
    void *context;
    void (*passed_over)(void *context, const char *path, const char *why);
} mf_checkpoint_observer;

typedef struct mf_checkpoint mf_checkpoint;
/* The newest whole checkpoint in a folder of them, or the one that `folder` is: its manifest and all parts
 * are there, with the sizes and checksums that they had. Ranks share the reading. MF_EFORMAT says what is
 * wrong with the newest when none is whole. observer may be NULL. Collective. */
mf_status mf_checkpoint_find(mf_comm *world, const char *folder, const mf_checkpoint_observer *observer,
                             mf_checkpoint **out);
/* The same on one rank of its own: not collective. */
mf_status mf_checkpoint_find_alone(const char *folder, const mf_checkpoint_observer *observer,
                                   mf_checkpoint **out);
/* The same without reading the parts: not collective. */
mf_status mf_checkpoint_peek(const char *folder, mf_checkpoint **out);
/* Accepts NULL. */
void mf_checkpoint_close(mf_checkpoint *checkpoint);
/* All belong to the checkpoint. */
const char *mf_checkpoint_path(const mf_checkpoint *checkpoint);
int64_t mf_checkpoint_step(const mf_checkpoint *checkpoint);
/* It was made from a model (mf_model_convert), not by a run: it has weights alone, and a run that goes on
 * from it begins, with settings of its own. */
bool mf_checkpoint_is_converted(const mf_checkpoint *checkpoint);
/* The options' `settings` when it was saved; NULL: there were none. */
const char *mf_checkpoint_settings(const mf_checkpoint *checkpoint);

/* MF_EINVAL names the option that a run which goes on from here can't have. data: mf_train_digest. */
mf_status mf_checkpoint_match(const mf_checkpoint *checkpoint, const mf_train_options *options,
                              uint64_t data);
/* Each rank reads what it holds, a part of another mesh's ranks at a time, and nothing else stays in memory.
 * Collective. MF_EFORMAT names the part that does not fit the model. */
mf_status mf_checkpoint_load(const mf_checkpoint *checkpoint, mf_optimizer *optimizer,
                             mf_checkpoint_progress *progress);

/* Before a run that goes on from `step` saves into `folder`: gives newer checkpoints, whole or not, other
 * names
 * ("...set-aside-1"), and removes drafts. step < 0: removes all checkpoints. On one rank. MF_EIO. */
mf_status mf_checkpoints_tidy(const char *folder, int64_t step);

#endif
