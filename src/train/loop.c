/* loop.c: step after step, evaluation in between, and at the end the model and the summary. */
#include "train/loop.h"

#include <math.h>

enum { SKIPPED_MAX = 10 };

/* A packed run on random tokens, or dry, has room for documents and none. */
static bool has_documents(const mf_run_state *r) {
    return r->options->model.packed && r->options->data.text.separated;
}

static int32_t *documents_at(const mf_run_state *r, int64_t at) {
    return r->documents + at * r->options->model.tokens;
}

mf_status mf_loop_set_documents(mf_run_state *r, int64_t at) {
    return has_documents(r) ? mf_model_set_documents(r->model, documents_at(r, at)) : MF_OK;
}

static mf_status place_own(mf_run_state *r, const int32_t *whole, int64_t at, const mf_buffer *out) {
    int64_t rows = mf_model_rows(r->model);
    if (rows == 0) return MF_OK;
    mf_model_cut(r->model, whole, r->own);
    return mf_copy(r->device, MF_QUEUE_COMPUTE, (int32_t *)out->data + at * rows, r->own,
                   (size_t)rows * sizeof *r->own);
}

mf_status mf_loop_place(mf_run_state *r, int64_t at, const int32_t *ids, const int32_t *labels) {
    const mf_train_options *o = r->options;
    if (has_documents(r)) mf_text_documents(&o->data.text, ids, o->model.tokens, documents_at(r, at));
    MF_TRY(place_own(r, ids, at, &r->ids));
    return place_own(r, labels, at, &r->labels);
}

static mf_status draw_one(mf_run_state *r, int64_t step, int64_t of_step, int64_t at) {
    const mf_train_options *o = r->options;
    mf_clip_draw clip = {.set = o->clips, .pick = {o->model.seed, step, of_step, false}, .time = -1};
    if (mf_options_are_of_videos(&o->model)) return mf_clip_place(&r->clips, r->model, &clip, at);
    mf_dataset_draw(&o->data, o->model.tokens, o->model.seed,
                    (uint64_t)(step * mf_loop_sequences(r) + of_step), r->whole_ids, r->whole_labels);
    return mf_loop_place(r, at, r->whole_ids, r->whole_labels);
}

/* Draws this replica's sequences of a step: of every micro-batch, one run among the replicas'. */
static mf_status draw_step(mf_run_state *r, int64_t step) {
    const mf_train_options *o = r->options;
    int64_t batch = o->model.batch;
    for (int64_t i = 0; i < o->accumulate * batch; i++)
        MF_TRY(draw_one(r, step, (i / batch * r->replicas + r->replica) * batch + i % batch, i));
    return MF_OK;
}

void mf_loop_fill(const mf_run_state *r, int64_t at, mf_model_call *call) {
    int64_t first = at * mf_model_rows(r->model);
    const int32_t *ids = r->ids.data, *labels = r->labels.data;
    if (mf_options_are_of_videos(&r->options->model)) {
        mf_clip_fill(&r->clips, r->model, at, call);
        return;
    }
    call->ids = ids ? ids + first : NULL;
    call->labels = labels ? labels + first : NULL;
}

mf_status mf_loop_update(mf_run_state *r, int64_t step, mf_update *u) {
    const mf_train_options *o = r->options;
    double scale = 1.0 / ((double)mf_loop_sequences(r) * mf_loss_terms(&o->model));
    for (int64_t micro = 0; micro < o->accumulate; micro++) {
        double loss = 0;
        mf_model_call call = {.scale = (float)scale, .last = micro + 1 == o->accumulate};
        mf_loop_fill(r, micro * o->model.batch, &call);
        MF_TRY(mf_loop_set_documents(r, micro * o->model.batch));
        MF_TRY(mf_model_gradients(r->model, &call, &loss));
        u->loss += loss;
    }
    return mf_optimizer_step(r->optimizer, step, scale, u);
}

static mf_status check_skipped(const mf_run_state *r, int64_t step, const mf_update *u) {
    if (r->skipped_in_a_row < SKIPPED_MAX) return MF_OK;
    bool never_updated = r->skipped == step + 1; /* then no learning rate can be to blame */
    return MF_FAIL(MF_ENONFINITE,
                   "loss or gradients were not finite for %d steps in a row (loss %g, gradient norm %g): %s",
                   SKIPPED_MAX, fabs(u->loss), fabs(u->grad_norm),
                   never_updated
                       ? "so they are with the weights that training starts from; try another --init"
                       : "try a lower --lr, a longer --warmup or --clip 1");
}

/* What ranks tell each other after a step. */
typedef struct note {
    int64_t peak_bytes;
    int64_t stop; /* not 0: this rank was asked to stop */
} note;

/* Finds the largest peak of all ranks, and whether one was asked to stop. */
static mf_status compare_notes(mf_run_state *r, int64_t *largest_peak) {
    mf_status status = MF_OK;
    int size = mf_comm_size(r->mesh.world);
    const volatile sig_atomic_t *stop = r->options->stop;
    note own = {.peak_bytes = mf_memory_stats_get(r->memory).peak_total,
                .stop = stop && __atomic_load_n(stop, __ATOMIC_RELAXED)},
         *all = NULL;
    size_t *offsets = NULL;
    MF_GO(mf_host_alloc((size_t)size, sizeof *all, &all));
    MF_GO(mf_host_alloc((size_t)size + 1, sizeof *offsets, &offsets));
    for (int i = 0; i <= size; i++) offsets[i] = (size_t)i * sizeof own;
    MF_GO(mf_allgather(r->mesh.world, &own, all, offsets, NULL));
    *largest_peak = 0;
    for (int i = 0; i < size; i++) {
        *largest_peak = mf_max(*largest_peak, all[i].peak_bytes);
        r->stop |= all[i].stop != 0;
    }
fail:
    mf_host_free(offsets);
    mf_host_free(all);
    return status;
}

static mf_status report_step(mf_run_state *r, int64_t step, const mf_update *u) {
    const mf_train_options *o = r->options;
    int64_t peak = 0, tokens = mf_loop_sequences(r) * o->model.tokens;
    MF_TRY(compare_notes(r, &peak));
    if (!r->observer || !r->observer->stepped) return MF_OK;
    double took = r->step_s[step];
    int64_t made = step + 1 - r->first_step;
    mf_step_metrics metrics = {.step = step + 1,
                               .steps = o->adam.steps,
                               .loss = u->loss,
                               .grad_norm = u->grad_norm,
                               .lr = (double)u->lr,
                               .tokens = (step + 1) * tokens,
                               .step_s = took,
                               .tokens_per_s = (double)tokens / took,
                               .flops_share = mf_loop_step_flops(r) / took / r->peak_flops,
                               .peak_bytes = peak,
                               .skipped = r->skipped,
                               .left_s = (double)(o->adam.steps - step - 1) * r->all_steps_s / (double)made};
    return r->observer->stepped(r->observer->context, &metrics);
}

/* own: what this rank measured, before the report's own transfers. */
static mf_status one_step(mf_run_state *r, int64_t step, mf_rank_report *own) {
    mf_update u = {0};
    double start = mf_now_s();
    mf_loop_reset_stats(r);
    MF_TRY(draw_step(r, step));
    MF_TRY(mf_loop_update(r, step, &u));
    MF_TRY(mf_device_finish(r->device, MF_QUEUE_COMPUTE));
    r->step_s[step] = mf_now_s() - start;
    r->all_steps_s += r->step_s[step];
    if (step == 0) r->loss_first = u.loss;
    r->loss_last = u.loss;
    r->skipped_in_a_row = u.skipped ? r->skipped_in_a_row + 1 : 0;
    r->skipped += u.skipped;
    r->ran++;
    mf_loop_measure(r, own);
    MF_TRY(report_step(r, step, &u));
    return check_skipped(r, step, &u);
}

/* Held-out clips of no step, one after another, with times spread evenly. */
enum { EVALUATION = -1, EVAL_CLIPS = 64 };
static mf_status place_clips(mf_run_state *r, int64_t first, int64_t count) {
    const mf_train_options *o = r->options;
    for (int64_t b = 0; b < o->model.batch; b++) {
        mf_clip_draw draw = {.set = o->clips,
                             .pick = {o->model.seed, EVALUATION, first + b, true},
                             .time = ((double)(first + b) + 0.5) / (double)count};
        MF_TRY(mf_clip_place(&r->clips, r->model, &draw, b));
    }
    return MF_OK;
}

static int64_t eval_count(const mf_run_state *r) {
    const mf_train_options *o = r->options;
    int64_t together = o->model.batch * r->replicas;
    if (mf_options_are_of_videos(&o->model)) return mf_ceil_div(EVAL_CLIPS, together) * together;
    return mf_dataset_evals(&o->data, o->model.tokens);
}

/* Sequences beyond the last are masked, so that every batch has one shape. */
static mf_status place_evals(mf_run_state *r, int64_t first, int64_t count) {
    const mf_train_options *o = r->options;
    int32_t *ids = r->whole_ids, *labels = r->whole_labels;
    for (int64_t b = 0; b < o->model.batch; b++) {
        mf_dataset_eval(&o->data, o->model.tokens, mf_min(first + b, count - 1), ids, labels);
        for (int64_t i = 0; first + b >= count && i < o->model.tokens; i++) labels[i] = -1;
        MF_TRY(mf_loop_place(r, b, ids, labels));
    }
    return MF_OK;
}

mf_status mf_loop_eval(mf_run_state *r, double *loss) {
    const mf_train_options *o = r->options;
    int64_t count = eval_count(r), batch = o->model.batch;
    bool video = mf_options_are_of_videos(&o->model);
    if (o->eval_batches > 0) count = mf_min(count, o->eval_batches * batch * r->replicas);
    double total = 0;
    for (int64_t first = 0; first < count; first += batch * r->replicas) {
        double part = 0;
        mf_model_call call = {0};
        if (video)
            MF_TRY(place_clips(r, first + r->replica * batch, count));
        else
            MF_TRY(place_evals(r, first + r->replica * batch, count));
        mf_loop_fill(r, 0, &call);
        MF_TRY(mf_loop_set_documents(r, 0));
        MF_TRY(mf_model_loss(r->model, &call, &part));
        total += part;
    }
    MF_TRY(mf_allreduce_f64(r->mesh.world, &total, 1));
    *loss = total / ((double)count * mf_loss_terms(&o->model));
    return MF_OK;
}

static mf_status evaluate(mf_run_state *r, int64_t step) {
    MF_TRY(mf_loop_eval(r, &r->loss_eval));
    r->eval_step = step;
    if (!r->observer || !r->observer->evaluated) return MF_OK;
    return r->observer->evaluated(r->observer->context, step, r->loss_eval);
}

/* Steps until the run ends or is stopped. */
static mf_status run_steps(mf_run_state *r, mf_rank_report *own) {
    const mf_train_options *o = r->options;
    for (int64_t step = r->first_step; step < o->adam.steps && !r->stop; step++) {
        MF_TRY(one_step(r, step, own));
        bool last = step + 1 == o->adam.steps;
        bool due = last || (o->eval_every > 0 && (step + 1) % o->eval_every == 0);
        if (due && !mf_run_is_one_of(r)) MF_TRY(evaluate(r, step + 1));
        if (last) r->stop = false; /* there is nothing left to go on with */
        MF_TRY(mf_run_save(r, step + 1));
        r->last_step = step + 1;
    }
    return MF_OK;
}

static mf_status tell_stopped(const mf_run_state *r) {
    if (!r->observer || !r->observer->stopped) return MF_OK;
    return r->observer->stopped(r->observer->context, r->last_step);
}

mf_status mf_loop_run(mf_run_state *r) {
    const mf_train_options *o = r->options;
    mf_rank_report own;
    mf_loop_reset_stats(r);
    mf_loop_measure(r, &own);
    MF_TRY(run_steps(r, &own));
    if (r->stop) return tell_stopped(r);
    bool from_end = r->eval_step < o->adam.steps; /* it went on there */
    if (from_end && !mf_run_is_one_of(r)) MF_TRY(evaluate(r, o->adam.steps));
    if (o->save_to) MF_TRY(mf_model_save(r->model, r->device, o->save_to));
    if (o->save_to && o->init_from && mf_world_rank(r->world) == 0)
        MF_TRY(mf_model_carry(o->init_from, o->save_to));
    return mf_loop_summarize(r, &own);
}
