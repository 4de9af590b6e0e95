/* measure.c: steps on random tokens, timed, and what they took in memory and transfers. */
#include "train/loop.h"

/* The optimizer's own settings change nothing that is measured. */
static mf_train_options run_of(const mf_measure_options *o) {
    return (mf_train_options){.model = o->model,
                              .mesh = o->mesh,
                              .layout = o->layout,
                              .adam = {.lr = 1e-4f,
                                       .min_lr = 1e-5f,
                                       .beta1 = 0.9f,
                                       .beta2 = 0.95f,
                                       .eps = 1e-8f,
                                       .weight_decay = 0.1f,
                                       .clip = 1,
                                       .steps = o->steps + 1},
                              .accumulate = mf_max(o->accumulate, 1),
                              .threads = o->threads,
                              .device = o->device};
}

static int32_t token_at(const mf_model_options *model, uint64_t key, int64_t index) {
    return (int32_t)(mf_random_u64(model->seed, key, (uint64_t)index) % (uint64_t)model->config.vocab);
}

static mf_status draw_clips(mf_run_state *r, int64_t own) {
    for (int64_t b = 0; b < own; b++) {
        mf_clip_draw draw = {.pick = {r->options->model.seed, 0, r->replica * own + b, false}, .time = -1};
        MF_TRY(mf_clip_place(&r->clips, r->model, &draw, b));
    }
    return MF_OK;
}

/* Uniform over the vocabulary; a replica's sequences are its own. */
static mf_status draw(mf_run_state *r) {
    const mf_model_options *model = &r->options->model;
    int32_t *ids = r->whole_ids, *labels = r->whole_labels;
    uint64_t key = mf_random_key("tokens to measure with");
    int64_t own = model->batch * r->options->accumulate;
    if (mf_options_are_of_videos(model)) return draw_clips(r, own);
    for (int64_t b = 0; b < own; b++) {
        int64_t first = (r->replica * own + b) * (model->tokens + 1);
        for (int64_t i = 0; i < model->tokens; i++) {
            ids[i] = token_at(model, key, first + i);
            labels[i] = token_at(model, key, first + i + 1);
        }
        MF_TRY(mf_loop_place(r, b, ids, labels));
    }
    return MF_OK;
}

static mf_status train_once(mf_run_state *r, int64_t step) {
    mf_update u = {0};
    MF_TRY(mf_loop_update(r, step, &u));
    if (!u.skipped) return MF_OK;
    return MF_FAIL(MF_ENONFINITE, "loss or gradients were not finite on random tokens (loss %g)", u.loss);
}

static mf_status step_once(mf_run_state *r, int64_t step) {
    double loss = 0, start = mf_now_s();
    mf_model_call call = {0};
    mf_loop_reset_stats(r);
    mf_loop_fill(r, 0, &call);
    if (r->options->model.forward_only)
        MF_TRY(mf_model_loss(r->model, &call, &loss));
    else
        MF_TRY(train_once(r, step));
    MF_TRY(mf_barrier(r->mesh.world));
    MF_TRY(mf_device_finish(r->device, MF_QUEUE_COMPUTE));
    r->step_s[step] = mf_now_s() - start;
    return MF_OK;
}

static mf_status run_steps(mf_run_state *r, const mf_measure_options *o) {
    mf_status status = MF_OK;
    int64_t last = r->options->adam.steps - 1;
    bool traced = mf_run_is_dry(r) || mf_world_speaks(r->world);
    for (int64_t step = 0; step <= last && !status; step++) {
        if (step == last && traced) mf_trace_hold(o->trace);
        status = step_once(r, step);
    }
    mf_trace_release();
    return status;
}

static mf_status fill(const mf_run_state *r, mf_measure_result *out) {
    size_t timed = (size_t)r->options->adam.steps - 1;
    MF_TRY(mf_host_alloc(timed, sizeof *out->step_s, &out->step_s));
    for (size_t i = 0; i < timed; i++) out->step_s[i] = r->step_s[i + 1];
    out->flops = mf_loop_step_flops(r);
    out->peak_flops = r->peak_flops;
    out->tokens = mf_loop_sequences(r) * r->options->model.tokens;
    return MF_OK;
}

static mf_status report(mf_run_state *r, mf_measure_result *out) {
    bool speaks = mf_world_speaks(r->world);
    MF_TRY(mf_loop_report(r, &out->ranks, speaks ? &out->rank : NULL));
    return speaks ? fill(r, out) : MF_OK;
}

mf_status mf_measure_dry(mf_world *world, const mf_measure_options *options, mf_rank_report *out,
                         double *step_s) {
    mf_status status = MF_OK;
    mf_train_options run = run_of(options);
    mf_run_state r = {.options = &run, .world = world};
    if (!mf_run_is_dry(&r))
        return MF_FAIL(MF_EINVAL, "a dry measurement on engine %s", mf_world_engine(world));
    MF_GO(mf_run_open(&r));
    MF_GO(run_steps(&r, options));
    mf_loop_measure(&r, out);
    *step_s = mf_costs_get() ? r.step_s[run.adam.steps - 1] : 0;
fail:
    mf_run_close(&r);
    return status;
}

mf_status mf_measure(mf_world *world, const mf_measure_options *options, mf_measure_result *result) {
    mf_status status = MF_OK;
    mf_train_options run = run_of(options);
    mf_run_state r = {.options = &run, .world = world};
    MF_GO(mf_run_open(&r));
    MF_GO(draw(&r));
    MF_GO(run_steps(&r, options));
    MF_GO(report(&r, result));
    MF_GO(mf_barrier(r.mesh.world)); /* peers may be reading this rank's memory until here */
fail:
    if (status) status = mf_run_first_error(&r, status);
    mf_run_close(&r);
    return status;
}

void mf_measure_free(mf_measure_result *result) {
    mf_host_free(result->step_s);
    mf_host_free(result->rank);
    *result = (mf_measure_result){0};
}
