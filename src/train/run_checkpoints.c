/* run_checkpoints.c: when a run saves, what of it is kept beside weights and moments, and how it goes on. */
#include "train/checkpoint.h"
#include "train/loop.h"

static void passed_over(void *context, const char *path, const char *why) {
    const mf_train_observer *observer = context;
    if (observer->passed_over) observer->passed_over(observer->context, path, why);
}

static void adopt(mf_run_state *r, const mf_checkpoint_progress *p) {
    r->first_step = p->step;
    r->loss_first = p->loss_first;
    r->loss_last = p->loss_last;
    r->loss_eval = p->loss_eval;
    r->eval_step = p->eval_step;
    r->skipped = p->skipped;
    r->skipped_in_a_row = p->skipped_in_a_row;
}

/* Only the first rank reports times, and has the observer. */
static mf_status go_on_from(mf_run_state *r, const mf_checkpoint *found) {
    mf_status status = MF_OK;
    mf_checkpoint_progress progress = {0};
    int64_t steps = mf_checkpoint_step(found);
    MF_TRY(mf_checkpoint_agree(r->mesh.world, mf_checkpoint_match(found, r->options, r->data)));
    MF_TRY(mf_host_alloc((size_t)steps, sizeof *progress.step_s_out, &progress.step_s_out));
    MF_GO(mf_checkpoint_load(found, r->optimizer, &progress));
    adopt(r, &progress);
    for (int64_t i = 0; i < steps; i++) r->step_s[i] = (double)progress.step_s_out[i];
    if (r->observer && r->observer->resumed)
        MF_GO(r->observer->resumed(r->observer->context, steps, mf_checkpoint_path(found)));
fail:
    mf_host_free(progress.step_s_out);
    return status;
}

mf_status mf_run_resume(mf_run_state *r) {
    const mf_train_options *o = r->options;
    mf_checkpoint_observer observer = {.context = (void *)(uintptr_t)r->observer, .passed_over = passed_over};
    mf_checkpoint *found = NULL;
    if (o->checkpoints || o->resume_from) r->data = mf_train_digest(o);
    if (!o->resume_from) return MF_OK;
    MF_TRY(mf_checkpoint_find(r->mesh.world, o->resume_from, r->observer ? &observer : NULL, &found));
    mf_status status = go_on_from(r, found);
    mf_checkpoint_close(found);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

mf_status mf_run_tidy(const mf_run_state *r) {
    const mf_train_options *o = r->options;
    if (!o->checkpoints || mf_world_rank(r->world) > 0) return MF_OK;
    return mf_checkpoints_tidy(o->checkpoints, o->resume_from ? r->first_step : -1);
}

static bool is_due(const mf_run_state *r, int64_t step) {
    const mf_train_options *o = r->options;
    if (!o->checkpoints) return false;
    return r->stop || step == o->adam.steps || (o->save_every > 0 && step % o->save_every == 0);
}

static mf_status save_with_times(mf_run_state *r, int64_t step, float *times) {
    mf_checkpoint_saved saved;
    mf_checkpoint_progress progress = {.step = step,
                                       .skipped = r->skipped,
                                       .skipped_in_a_row = r->skipped_in_a_row,
                                       .eval_step = r->eval_step,
                                       .loss_first = r->loss_first,
                                       .loss_last = r->loss_last,
                                       .loss_eval = r->loss_eval,
                                       .step_s = times,
                                       .data = r->data};
    for (int64_t i = 0; i < step; i++) times[i] = (float)r->step_s[i];
    MF_TRY(mf_checkpoint_save(r->optimizer, r->options, &progress, &saved));
    if (!r->observer || !r->observer->saved) return MF_OK;
    return r->observer->saved(r->observer->context, step, &saved);
}

mf_status mf_run_save(mf_run_state *r, int64_t step) {
    float *times = NULL;
    if (!is_due(r, step)) return MF_OK;
    MF_TRY(mf_host_alloc((size_t)step, sizeof *times, &times));
    mf_status status = save_with_times(r, step, times);
    mf_host_free(times);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}
