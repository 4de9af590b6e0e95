/* optimizer.c: AdamW on what one rank updates of its shards, with the global norm that clipping needs. */
#include "train/optimizer.h"

#include <math.h>

struct mf_optimizer {
    mf_model *model;
    mf_device *device;
    mf_adam_options options;
    mf_model_state state;
    mf_buffer master;                   /* [count] f32; empty when the weights are f32 themselves */
    mf_buffer moment1, moment2;         /* [count] f32 */
    mf_buffer replicated1, replicated2; /* [replicated] f32 */
    int64_t updates;                    /* skipped steps do not count: moments are unbiased by this */
};

float mf_learning_rate(const mf_adam_options *o, int64_t step) {
    const double pi = 3.14159265358979323846;
    if (step < o->warmup) return o->lr * (float)(step + 1) / (float)(o->warmup + 1);
    int64_t span = o->steps - 1 - o->warmup;
    double progress = span > 0 ? (double)(step - o->warmup) / (double)span : 1.0;
    return o->min_lr + 0.5f * (o->lr - o->min_lr) * (float)(1.0 + cos(pi * fmin(progress, 1.0)));
}

static mf_status zeros(mf_optimizer *o, int64_t elements, const char *what, mf_buffer *out) {
    size_t bytes = (size_t)elements * sizeof(float);
    MF_TRY(mf_buffer_alloc(mf_device_memory(o->device), MF_OPTIMIZER, bytes, what, out));
    return mf_zero(o->device, out->data, bytes);
}

static float *master_of(const mf_optimizer *o) {
    if (o->state.type != MF_F32) return o->master.data;
    return o->state.cut_weights ? (float *)o->state.cut_weights + o->state.first : NULL;
}

static mf_status clear_grads(mf_optimizer *o) {
    MF_TRY(mf_zero(o->device, o->state.cut_grads, (size_t)o->state.cut * sizeof(float)));
    return mf_zero(o->device, o->state.replicated_grads, (size_t)o->state.replicated * sizeof(float));
}

mf_status mf_optimizer_adopt(mf_optimizer *o) {
    float *all = o->state.cut_grads;
    MF_TRY(mf_convert(o->device, o->state.cut, all, MF_F32, o->state.cut_weights, o->state.type));
    if (o->state.type != MF_F32)
        MF_TRY(mf_convert(o->device, o->state.count, all ? all + o->state.first : NULL, MF_F32,
                          o->master.data, MF_F32));
    MF_TRY(clear_grads(o));
    return mf_barrier(mf_model_world(o->model)); /* peers may read the weights from here on */
}

/* All weights are made in f32 where the gradients will be, so that no rank needs more memory to begin than to
 * go on. */
static mf_status fill(mf_optimizer *o, const char *init_from) {
    if (init_from)
        MF_TRY(mf_model_load(o->model, init_from, o->state.cut_grads));
    else
        MF_TRY(mf_model_init(o->model, o->state.cut_grads));
    return mf_optimizer_adopt(o);
}

static mf_status allocate(mf_optimizer *o) {
    if (o->state.type != MF_F32) MF_TRY(zeros(o, o->state.count, "f32 weights", &o->master));
    MF_TRY(zeros(o, o->state.count, "first moments", &o->moment1));
    MF_TRY(zeros(o, o->state.count, "second moments", &o->moment2));
    MF_TRY(zeros(o, o->state.replicated, "first moments of norms", &o->replicated1));
    return zeros(o, o->state.replicated, "second moments of norms", &o->replicated2);
}

mf_status mf_optimizer_allocate(mf_model *model, mf_device *device, const mf_adam_options *options,
                                mf_optimizer **out) {
    mf_optimizer *o = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *o, &o));
    *o = (mf_optimizer){
        .model = model, .device = device, .options = *options, .state = mf_model_state_get(model)};
    mf_status status = allocate(o);
    if (status) {
        mf_optimizer_destroy(o);
        return mf_error_pass(__FILE__, __LINE__, status);
    }
    *out = o;
    return MF_OK;
}

mf_status mf_optimizer_create(mf_model *model, mf_device *device, const mf_adam_options *options,
                              const char *init_from, mf_optimizer **out) {
    mf_status status = MF_OK;
    mf_optimizer *o = NULL;
    *out = NULL;
    MF_GO(mf_optimizer_allocate(model, device, options, &o));
    MF_GO(fill(o, init_from));
    *out = o;
    return MF_OK;
fail:
    mf_optimizer_destroy(o);
    return status;
}

mf_optimizer_state mf_optimizer_state_get(mf_optimizer *o) {
    return (mf_optimizer_state){
        .model = o->model,
        .of_model = o->state,
        .updates = &o->updates,
        .cut = {master_of(o), o->moment1.data, o->moment2.data},
        .replicated = {o->state.replicated_weights, o->replicated1.data, o->replicated2.data}};
}

void mf_optimizer_destroy(mf_optimizer *o) {
    if (!o) return;
    mf_buffer *all[] = {&o->master, &o->moment1, &o->moment2, &o->replicated1, &o->replicated2};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(mf_device_memory(o->device), all[i]);
    mf_host_free(o);
}

/* Replicated parameters count once: every rank has the same, so each adds it to the others' total. */
static mf_status global_sums(mf_optimizer *o, mf_update *u) {
    mf_comm *world = mf_model_world(o->model);
    double sums[2] = {u->loss, 0}, replicated = 0;
    MF_TRY(mf_barrier(world)); /* peers may have been adding to own gradients until here */
    MF_TRY(mf_model_grad_squares(o->model, &sums[1]));
    MF_TRY(mf_sum_squares(o->device, o->state.replicated, o->state.replicated_grads, &replicated));
    MF_TRY(mf_allreduce_f64(world, sums, 2));
    u->loss = sums[0];
    u->grad_norm = sqrt(sums[1] + replicated);
    return MF_OK;
}

/* The place of what this rank updates in an array of all its elements. */
static void *updated(const mf_optimizer *o, void *all, size_t size) {
    return all ? (char *)all + (size_t)o->state.first * size : NULL;
}

static mf_status update_weights(mf_optimizer *o, const mf_update *u) {
    const mf_adam_options *a = &o->options;
    float clip =
        a->clip > 0 && u->grad_norm > (double)a->clip ? (float)((double)a->clip / u->grad_norm) : 1.0f;
    mf_adamw_args args = {.n = o->state.count,
                          .step = o->updates,
                          .lr = u->lr,
                          .beta1 = a->beta1,
                          .beta2 = a->beta2,
                          .eps = a->eps,
                          .weight_decay = a->weight_decay,
                          .grad_scale = clip,
                          .grad = updated(o, o->state.cut_grads, sizeof(float)),
                          .master = master_of(o),
                          .moment1 = o->moment1.data,
                          .moment2 = o->moment2.data,
                          .weights = updated(o, o->state.cut_weights, mf_dtype_bytes(o->state.type)),
                          .type = o->state.type};
    MF_TRY(mf_adamw(o->device, &args));
    args.n = o->state.replicated; /* what every rank has whole is f32 and does not decay */
    args.weight_decay = 0;
    args.grad = o->state.replicated_grads;
    args.master = args.weights = o->state.replicated_weights;
    args.moment1 = o->replicated1.data;
    args.moment2 = o->replicated2.data;
    args.type = MF_F32;
    return mf_adamw(o->device, &args);
}

mf_status mf_optimizer_step(mf_optimizer *o, int64_t step, double scale, mf_update *u) {
    MF_TRY(global_sums(o, u));
    u->loss *= scale;
    u->lr = mf_learning_rate(&o->options, step);
    u->skipped = !isfinite(u->loss) || !isfinite(u->grad_norm);
    if (!u->skipped) {
        o->updates++;
        MF_TRY(update_weights(o, u));
        MF_TRY(mf_model_share_updates(o->model));
    }
    MF_TRY(clear_grads(o));
    return mf_barrier(mf_model_world(o->model)); /* peers may read the weights and add gradients again */
}
