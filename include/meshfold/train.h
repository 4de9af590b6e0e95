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
#include "meshfold/video_data.h"

#include <signal.h>

/* A text's tokens. The last tenth is held out for evaluation. */
typedef struct mf_dataset {
    mf_text text;         /* its tokens are borrowed */
    int64_t train, total; /* tokens of training; of all */
} mf_dataset;
/* MF_EINVAL when either part is shorter than a sequence and the label after it. */
mf_status mf_dataset_make(const mf_text *text, int64_t seq, mf_dataset *out);
/* MF_EINVAL when the text has tokens beyond a vocabulary. */
mf_status mf_text_fits(const mf_text *text, int64_t vocab);
/* MF_EINVAL when nothing says where its documents end. */
mf_status mf_text_is_separated(const mf_text *text);
/* begins: [tokens] the position where the document of each of ids: [tokens] begins, of a sequence of a text
 * that is separated. A separator belongs to the document that it ends. */
void mf_text_documents(const mf_text *text, const int32_t *ids, int64_t tokens, int32_t *begins);
/* A sequence and its labels (the next tokens): ids, labels: [seq]. Training sequences start anywhere, drawn
 * by (seed, draw); evaluation ones follow each other without overlap. */
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

typedef struct mf_update {
    double loss;      /* in: this rank's share of the sum; out: the mean over all unmasked tokens */
    double grad_norm; /* global, before clipping */
    float lr;
    bool skipped; /* loss or gradient was not finite: weights are as they were */
} mf_update;
/* Finds the global gradient norm, clips, updates the weights, gives them to the ranks that hold the same
 * ones, clears the gradients. Collective. scale: the loss's (1 / unmasked tokens of the step). */
mf_status mf_optimizer_step(mf_optimizer *optimizer, int64_t step, double scale, mf_update *update);

typedef struct mf_train_options {
    mf_model_options model; /* batch and tokens are those of a micro-batch */
    mf_mesh_spec mesh;
    mf_layout layout;
    mf_adam_options adam;
    int64_t accumulate;    /* micro-batches a step */
    int64_t eval_every;    /* steps; 0: at the end only */
    int64_t eval_batches;  /* at most, of the held-out text; 0: all of it */
    int threads;           /* per rank */
    const char *device;    /* of all ranks, as mf_device_name_of_rank has it; NULL: "cpu" */
    const char *init_from; /* a model folder, or NULL */
    const char *save_to;   /* folder for the trained model, or NULL; it must exist */
    mf_dataset data;
    const mf_video_set *clips; /* of a model of videos, instead; borrowed */
    const char
        *checkpoints;     /* folder that checkpoints are written to, or NULL: none are; made when missing */
    int64_t save_every;   /* steps between them; 0: only where the run ends or is stopped */
    int keep;             /* newest checkpoints that stay; at least 2 do */
    const char *settings; /* a JSON object that checkpoints keep, or NULL */
    const char *resume_from; /* go on from the newest whole checkpoint here, or this one; NULL: begin */
    const volatile sig_atomic_t *stop; /* not 0 on any rank: end after this step; NULL: never */
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

enum { MF_AXIS_NAME = MF_AXES_NAME, MF_GROUPS = 12 };
typedef struct mf_rank_report {
    int rank, coords[MF_MESH_AXES];
    int64_t tokens; /* of each sequence */
    mf_memory_stats memory;
    int64_t rss_peak_bytes;         /* the whole process's */
    int64_t device_pool_peak_bytes; /* see mf_device_pool_peak_bytes */
    int groups;
    struct {
        char axis[MF_AXIS_NAME];
        mf_comm_stat stat[MF_COMM_OPS];
    } group[MF_GROUPS]; /* of the last step */
} mf_rank_report;

/* What the formulas of docs/volumes.md say that a rank sends, or reads in place, in one call of
 * mf_model_loss, or of mf_model_gradients with `last` and the sharing of updates after it: bytes by the ring
 * convention, the mean over ranks. Exact where all sizes divide. */
typedef struct mf_volume {
    int groups;
    struct {
        char axis[MF_AXIS_NAME];
        double bytes[MF_COMM_OPS]; /* by mf_comm_op */
    } group[MF_GROUPS];
} mf_volume;
void mf_volume_predict(const mf_model_options *model, const mf_layout *layout, const mf_mesh_spec *mesh,
                       mf_volume *out);

typedef struct mf_train_summary {
    double loss_first, loss_last, loss_eval;
    double step_s_median, step_s_min, tokens_per_s;
    double flops_per_step, flops_share,
        peak_flops; /* peak: measured before the first step, all ranks' threads */
    int64_t steps, skipped, params;
    int64_t ran;       /* steps of this process */
    bool skipped_last; /* the last of them changed nothing, and told nobody of it */
    const char *engine;
    const char *device; /* as in the options: "cpu", "cuda" */
    int ranks;
    const mf_rank_report *rank; /* [ranks] */
} mf_train_summary;

struct mf_checkpoint_saved; /* checkpoint.h */
/* Called on rank 0 only; an error ends the run. Any member may be NULL. */
typedef struct mf_train_observer {
    void *context;
    mf_status (*started)(void *context, const mf_train_options *options, double peak_flops);
    mf_status (*stepped)(void *context, const mf_step_metrics *metrics);
    mf_status (*evaluated)(void *context, int64_t step, double loss);
    mf_status (*finished)(void *context, const mf_train_summary *summary); /* not of a run that was stopped */
    /* Before `started`: a checkpoint that is not whole, and the one that the run goes on from. */
    void (*passed_over)(void *context, const char *path, const char *why);
    mf_status (*resumed)(void *context, int64_t step, const char *path);
    mf_status (*saved)(void *context, int64_t step, const struct mf_checkpoint_saved *saved);
    mf_status (*stopped)(void *context, int64_t step); /* the last call then */
} mf_train_observer;

/* Checks what can be checked before anything starts. MF_EINVAL names the setting. */
mf_status mf_train_check(const mf_train_options *options);
/* Trains. Collective over the world, whose size is the mesh's. MF_ENONFINITE after ten steps skipped in a
 * row. A checkpoint that can't be written ends the run: MF_EIO names the file, and earlier ones stay. */
mf_status mf_train(mf_world *world, const mf_train_options *options, const mf_train_observer *observer);

/* A model's loss on a text, in windows of model.tokens that follow each other; the last is filled up with
 * masked tokens. model.forward_only is set by mf_evaluate. */
typedef struct mf_evaluate_options {
    mf_model_options model; /* batch: of each replica */
    mf_mesh_spec mesh;
    mf_layout layout;
    int threads;           /* per rank */
    const char *device;    /* NULL: "cpu" */
    const char *init_from; /* a model folder, or NULL: weights from the seed */
    const mf_text *text;
    int64_t windows;                                                     /* at most; 0: all */
    void *context;                                                       /* progress's; on rank 0 */
    mf_status (*progress)(void *context, int64_t done, int64_t windows); /* may be NULL; an error ends it */
} mf_evaluate_options;
typedef struct mf_evaluation {
    double loss; /* nats a token, the mean */
    int64_t tokens, windows;
    double seconds; /* without reading the model */
    double peak_flops, flops;
    int ranks;
    mf_rank_report *rank; /* [ranks] transfers are the last batch's */
} mf_evaluation;
/* *out, empty before, is filled on rank 0; free it after an error too. MF_EINVAL for a text of fewer than two
 * tokens. Collective over the world, whose size is the mesh's. */
mf_status mf_evaluate(mf_world *world, const mf_evaluate_options *options, mf_evaluation *out);
void mf_evaluation_free(mf_evaluation *evaluation);

typedef struct mf_measure_options {
    mf_model_options model; /* batch: of each replica; forward_only: a step is mf_model_loss alone */
    mf_mesh_spec mesh;
    mf_layout layout;
    int threads;        /* per rank */
    const char *device; /* NULL: "cpu"; a dry run takes the memory that it would take on this one */
    int64_t accumulate; /* micro-batches a step; 0: one */
    int64_t steps;      /* that are timed; one more before them warms up */
    mf_trace *trace;    /* NULL, or what rank 0's last step is added to, or the dry rank's */
} mf_measure_options;

typedef struct mf_measure_result {
    double *step_s;    /* [steps] as rank 0 sees them, from a barrier to a barrier */
    double flops;      /* of a step, model FLOPs over all ranks */
    double peak_flops; /* measured before the first step, all ranks' threads */
    int64_t tokens;    /* of a step, all replicas' */
    int ranks;
    mf_rank_report *rank; /* [ranks] transfers are the last step's */
} mf_measure_result;

/* Times steps on random tokens, or clips of random values: forward, backward and update, as mf_train does
 * them with the same memory. *result, empty before, is filled on rank 0; free it after an error too.
 * Collective over the world, whose size is the mesh's. MF_ENONFINITE when an update had to be skipped. */
mf_status mf_measure(mf_world *world, const mf_measure_options *options, mf_measure_result *result);
void mf_measure_free(mf_measure_result *result);
/* The same run dry, on engine "dry": nothing is computed or moved, and *out holds the memory and the
 * transfers that this rank would have as a thread of this machine's, to the byte. *step_s: the last step
 * by the launch's costs; 0 without. */
mf_status mf_measure_dry(mf_world *world, const mf_measure_options *options, mf_rank_report *out,
                         double *step_s);

/* One layout's loss and gradients, to be held against another's:
 *
 *     mf_verify_reference reference = {0};
 *     mf_verify_errors errors = {0};
 *     mf_verify_observer keep = mf_verify_keep(&reference);
 *     MF_GO(mf_verify_run(world, &single, &keep));          // from the body of mf_launch
 *     mf_verify_observer compare = mf_verify_compare(&reference, &errors);
 *     MF_GO(mf_verify_run(world, &tsp, &compare));          // errors.param[i]
 */
typedef struct mf_verify_options {
    mf_model_options model; /* batch: of a replica, at once */
    mf_mesh_spec mesh;
    mf_layout layout;
    int threads;                 /* per rank */
    const char *device;          /* NULL: "cpu" */
    const char *init_from;       /* a model folder, or NULL: weights from the seed */
    int64_t sequences;           /* of all replicas together: a multiple of batch * replicas */
    const int32_t *ids, *labels; /* [sequences, tokens], the same on every rank; a negative label is masked */
    const int32_t *documents;    /* the same: as mf_model_set_documents has them; NULL: model is not packed */
    const mf_video_set *clips;   /* of a model of videos, instead of these three; NULL: random values */
} mf_verify_options;

/* Used on rank 0 of the world alone: `started` is called once, then `gradient` for each parameter in order;
 * an error ends the run. */
typedef struct mf_verify_observer {
    void *context;
    /* loss: the mean over all unmasked tokens */
    mf_status (*started)(void *context, int params, double loss, double grad_norm);
    /* whole: [rows, cols] f32, valid during the call */
    mf_status (*gradient)(void *context, int param, const mf_param_view *view, const float *whole);
} mf_verify_observer;

/* Builds the model, finds loss and gradients of all sequences, hands them over, takes the model down.
 * Collective over the world, whose size is the mesh's; a mesh of one rank may run in any world: then every
 * rank computes it, alone. */
mf_status mf_verify_run(mf_world *world, const mf_verify_options *options,
                        const mf_verify_observer *observer);

/* What others are compared with. */
typedef struct mf_verify_param {
    char *name;
    int64_t elements;
    float *gradient; /* [elements] */
    double norm;
} mf_verify_param;
typedef struct mf_verify_reference {
    int params;
    mf_verify_param *param; /* [params] */
    double largest;         /* of the parameters' norms */
    double loss, grad_norm;
} mf_verify_reference;
/* Keeps everything in *out, which must be empty, outlive the observer, and be freed after an error too.
 * MF_ENONFINITE names the parameter. */
mf_verify_observer mf_verify_keep(mf_verify_reference *out);
void mf_verify_reference_free(mf_verify_reference *reference);

/* Relative errors: the norm of a gradient's difference over the reference's norm, or over the largest
 * parameter's where the reference's is below 1e-5 of that. */
typedef struct mf_verify_errors {
    const mf_verify_reference *reference;
    double loss, grad_norm; /* themselves */
    double loss_error, grad_norm_error;
    double *param; /* [reference's params] */
} mf_verify_errors;
/* As mf_verify_keep; the reference must outlive *out. MF_EINVAL when its parameters are others. */
mf_verify_observer mf_verify_compare(const mf_verify_reference *reference, mf_verify_errors *out);
void mf_verify_errors_free(mf_verify_errors *errors);

/* Reads this rank's slices of a Hugging Face model folder, of one file or several, into master: [cut] f32 and
 * the model's replicated weights. MF_EFORMAT names the tensor that is missing or of another shape.
 * Collective.
 */
mf_status mf_model_load(mf_model *model, const char *folder, float *master);
/* The same straight into the weights, where no f32 values are wanted beside them. Collective; peers may read
 * the weights after a barrier. */
mf_status mf_model_load_weights(mf_model *model, mf_device *device, const char *folder);
/* Writes model.safetensors and config.json to a folder, each rank its slices; ranks that hold the same write
 * once. Gradients, which must be zero, are zero again after. Collective. */
mf_status mf_model_save(mf_model *model, mf_device *device, const char *folder);
/* Gives a saved model's folder what goes with the weights of another and is there: its tokenizer, how it
 * generates, and in config.json its special tokens. Not collective. */
mf_status mf_model_carry(const char *from, const char *to);

#endif
