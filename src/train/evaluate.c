/* evaluate.c: the loss on all of a text. */
#include "train/loop.h"

typedef struct windows {
    const mf_evaluate_options *options;
    mf_run_state run;
    int64_t all; /* labels of the text: every token but the first is one */
    int64_t count;
} windows;

/* A window of the text at `index`; none beyond the last: all masked. Returns the labels that count. */
static int64_t lay_out(const windows *w, int64_t index, int32_t *ids, int32_t *labels) {
    int64_t tokens = w->options->model.tokens, first = index * tokens;
    int64_t here = index < w->count ? mf_min(tokens, w->all - first) : 0;
    const mf_text *text = w->options->text;
    for (int64_t i = 0; i < tokens; i++) {
        ids[i] = i < here ? mf_text_at(text, first + i) : 0;
        labels[i] = i < here ? mf_text_at(text, first + i + 1) : -1;
    }
    return here;
}

/* Of all replicas: the windows from `first` on. */
static mf_status one_batch(windows *w, int64_t first, double *loss, int64_t *tokens) {
    mf_run_state *r = &w->run;
    int64_t batch = w->options->model.batch;
    double part = 0;
    for (int64_t i = 0; i < r->replicas * batch; i++) {
        *tokens += lay_out(w, first + i, r->whole_ids, r->whole_labels);
        if (i / batch == r->replica) MF_TRY(mf_loop_place(r, i % batch, r->whole_ids, r->whole_labels));
    }
    mf_loop_reset_stats(r);
    MF_TRY(mf_loop_set_documents(r, 0));
    MF_TRY(mf_model_loss(r->model, &(mf_model_call){.ids = r->ids.data, .labels = r->labels.data}, &part));
    *loss += part;
    return MF_OK;
}

static mf_status say(const windows *w, int64_t done) {
    const mf_evaluate_options *o = w->options;
    if (!o->progress || mf_world_rank(w->run.world) != 0) return MF_OK;
    return o->progress(o->context, mf_min(done, w->count), w->count);
}

static mf_status go_through(windows *w, mf_evaluation *out) {
    mf_run_state *r = &w->run;
    int64_t at_once = w->options->model.batch * r->replicas;
    double start = mf_now_s(), loss = 0;
    for (int64_t first = 0; first < w->count; first += at_once) {
        MF_TRY(one_batch(w, first, &loss, &out->tokens));
        MF_TRY(say(w, first + at_once));
        out->flops += mf_model_step_flops(&r->options->model, at_once);
    }
    MF_TRY(mf_loop_report(r, &out->ranks, mf_world_rank(r->world) == 0 ? &out->rank : NULL));
    out->peak_flops = r->peak_flops;
    MF_TRY(mf_allreduce_f64(r->mesh.world, &loss, 1));
    out->seconds = mf_now_s() - start;
    out->loss = loss / (double)out->tokens;
    out->windows = w->count;
    return MF_OK;
}

mf_status mf_evaluate(mf_world *world, const mf_evaluate_options *options, mf_evaluation *out) {
    mf_status status = MF_OK;
    mf_train_options run = {.model = options->model,
                            .mesh = options->mesh,
                            .layout = options->layout,
                            .adam = {.steps = 1},
                            .accumulate = 1,
                            .threads = options->threads,
                            .device = options->device,
                            .init_from = options->init_from,
                            .data = {.text = *options->text}};
    windows w = {
        .options = options, .run = {.options = &run, .world = world}, .all = options->text->count - 1};
    run.model.forward_only = true;
    if (w.all < 1)
        return MF_FAIL(MF_EINVAL, "a text of %lld tokens has nothing to predict", (long long)w.all + 1);
    if (options->model.packed) MF_TRY(mf_text_is_separated(options->text));
    w.count = mf_ceil_div(w.all, options->model.tokens);
    if (options->windows > 0) w.count = mf_min(w.count, options->windows);
    MF_GO(mf_run_open(&w.run));
    MF_GO(go_through(&w, out));
    MF_GO(mf_barrier(w.run.mesh.world)); /* peers may be reading this rank's memory until here */
fail:
    if (status) status = mf_run_first_error(&w.run, status);
    mf_run_close(&w.run);
    return status;
}

void mf_evaluation_free(mf_evaluation *e) {
    mf_host_free(e->rank);
    *e = (mf_evaluation){0};
}
