/* train.h: training on text: data, optimizer, step, loop, and what is measured on the way.
 *
 *     mf_train_options options = {.model = ..., .steps = 200, .lr = 1e-3, ...};
 *     MF_TRY(mf_train_check(&options));
 *     MF_TRY(mf_train(world, &options, &observer));      // collective; from the body of mf_launch
 */
#ifndef MESHFOLD_TRAIN_H
#define MESHFOLD_TRAIN_H

#include "meshfold/io.h"
#include "meshfold/model.h"

/* Bytes of text as token ids. The last tenth is held out for evaluation. */
typedef struct mf_dataset {
    const uint8_t *bytes; /* borrowed */
    int64_t train, total; /* bytes of training; of all */
} mf_dataset;
/* MF_EINVAL when either part is shorter than a sequence and the label after it. */
mf_status mf_dataset_make(const mf_text *text, int64_t seq, mf_dataset *out);
/* A sequence and its labels (the next bytes): ids, labels: [seq]. Training sequences start anywhere, drawn by
 * (seed, draw); evaluation ones follow each other without overlap. */
void mf_dataset_draw(const mf_dataset *data, int64_t seq, uint64_t seed, uint64_t draw, int32_t *ids,
                     int32_t *labels);
int64_t mf_dataset_evals(const mf_dataset *data, int64_t seq);
void mf_dataset_eval(const mf_dataset *data, int64_t seq, int64_t index, int32_t *ids, int32_t *labels);

typedef struct mf_adam_options {
    float lr, min_lr, beta1, beta2, eps, weight_decay, clip; /* clip 0: none */
    int64_t warmup, steps;
} mf_adam_options;
/* Learning rate at a step from 0: linear warm-up, then a cosine from lr to min_lr at the last step. */
float mf_learning_rate(const mf_adam_options *options, int64_t step);

/* Optimizer state of one rank's shards. */
typedef struct mf_optimizer mf_optimizer;
/* Also fills the model's weights: from its seed, or from a folder with model.safetensors (init_from).
 * Collective. */
mf_status mf_optimizer_create(mf_model *model, mf_device *device, const mf_adam_options *options,
                              const char *init_from, mf_optimizer **out);
void mf_optimizer_destroy(mf_optimizer *optimizer);
/* This rank's f32 weights of the cut parameters: [cut]. */
const float *mf_optimizer_master(const mf_optimizer *optimizer);

typedef struct mf_update {
    double loss;      /* in: this rank's sum; out: the mean over all ranks' unmasked tokens */
    double grad_norm; /* global, before clipping */
    float lr;
    bool skipped; /* loss or gradient was not finite: weights are as they were */
} mf_update;
/* Sums replicated gradients, finds the global norm, clips, updates the weights, clears the gradients.
 * Collective. scale: the loss's (1 / unmasked tokens of the step). */
mf_status mf_optimizer_step(mf_optimizer *optimizer, int64_t step, double scale, mf_update *update);

typedef struct mf_train_options {
    mf_model_options model; /* batch and tokens are those of a micro-batch */
    mf_mesh_spec mesh;
    mf_adam_options adam;
    int64_t accumulate;    /* micro-batches a step */
    int64_t eval_every;    /* steps; 0: at the end only */
    int64_t eval_batches;  /* at most, of the held-out text; 0: all of it */
    int threads;           /* per rank */
    const char *init_from; /* a model folder, or NULL */
    const char *save_to;   /* folder for the trained model, or NULL; it must exist */
    mf_dataset data;
} mf_train_options;

/* One step, as everyone sees it. */
typedef struct mf_step_metrics {
    int64_t step, steps; /* from 1 */
    double loss, grad_norm, lr;
    int64_t tokens; /* so far */
    double step_s, tokens_per_s, flops_share;
    int64_t peak_bytes; /* largest of all ranks */
    int64_t skipped;    /* steps so far */
    double left_s;
} mf_step_metrics;

enum { MF_AXIS_NAME = 16 };
typedef struct mf_rank_report {
    int rank, coords[MF_MESH_AXES];
    int64_t tokens; /* of each sequence */
    mf_memory_stats memory;
    int64_t rss_peak_bytes; /* the whole process's */
    int groups;
    struct {
        char axis[MF_AXIS_NAME];
        mf_comm_stat stat[MF_COMM_OPS];
    } group[MF_MESH_AXES + 2]; /* of the last step */
} mf_rank_report;

typedef struct mf_train_summary {
    double loss_first, loss_last, loss_eval;
    double step_s_median, step_s_min, tokens_per_s;
    double flops_per_step, flops_share,
        peak_flops; /* peak: measured before the first step, all ranks' threads */
    int64_t steps, skipped, params;
    const char *engine, *device;
    int ranks;
    const mf_rank_report *rank; /* [ranks] */
} mf_train_summary;

/* Called on rank 0 only; an error ends the run. Any member may be NULL. */
typedef struct mf_train_observer {
    void *context;
    mf_status (*started)(void *context, const mf_train_options *options, double peak_flops);
    mf_status (*stepped)(void *context, const mf_step_metrics *metrics);
    mf_status (*evaluated)(void *context, int64_t step, double loss);
    mf_status (*finished)(void *context, const mf_train_summary *summary);
} mf_train_observer;

/* Checks what can be checked before anything starts. MF_EINVAL names the setting. */
mf_status mf_train_check(const mf_train_options *options);
/* Trains. Collective over the world, whose size is the mesh's. MF_ENONFINITE after ten steps skipped in a
 * row. */
mf_status mf_train(mf_world *world, const mf_train_options *options, const mf_train_observer *observer);

/* Reads this rank's slices of a Hugging Face model folder into master: [cut] f32 and the model's replicated
 * weights. MF_EFORMAT names the tensor that is missing or of another shape. */
mf_status mf_model_load(mf_model *model, const char *folder, float *master);
/* Writes model.safetensors and config.json to a folder. Collective over `world`: each rank writes its slices.
 */
mf_status mf_model_save(mf_model *model, mf_comm *world, const float *master, const char *folder);

#endif
