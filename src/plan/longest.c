/* longest.c: the longest sequence, or clip, that a layout has memory for. */
#include "plan/search.h"

enum { STEP_LEAST = 1024 };
#define TOKENS_MOST ((int64_t)1 << 28)

typedef struct lengths {
    const mf_cluster *cluster;
    mf_measure_options options;
    bool borrows;
    int64_t step, most;  /* tokens; steps */
    int64_t fits, fails; /* in steps: the most that fits, the least that does not; 0: none is known */
    mf_plan_result plan; /* of `fits`, once it was run in full */
} lengths;

static void note(lengths *l, int64_t steps, bool fits) { *(fits ? &l->fits : &l->fails) = steps; }

static void set_length(lengths *l, int64_t steps) {
    mf_model_options *m = &l->options.model;
    m->tokens = steps * l->step;
    if (m->config.family == MF_STDIT) m->grid.frames = m->tokens / mf_clip_places(&m->grid);
}

static mf_status screen_at(lengths *l, int64_t steps) {
    double tokens_per_s, peak;
    set_length(l, steps);
    MF_TRY(mf_plan_few_layers(l->cluster, &l->options, l->borrows, &tokens_per_s, &peak));
    note(l, steps, peak <= mf_cluster_memory(l->cluster, mf_mesh_ranks(&l->options.mesh)));
    return MF_OK;
}

static mf_status run_at(lengths *l, int64_t steps) {
    mf_plan_result plan;
    set_length(l, steps);
    MF_TRY(mf_plan(l->cluster, &l->options, 0, l->borrows, &plan));
    note(l, steps, plan.fits);
    if (plan.fits) l->plan = plan;
    return MF_OK;
}

/* By runs with few layers: doubles, then halves. */
static mf_status approach(lengths *l) {
    for (int64_t steps = 1; !l->fails && l->fits < l->most; steps = mf_min(2 * l->fits, l->most))
        MF_TRY(screen_at(l, steps));
    while (l->fails && l->fails - l->fits > 1) MF_TRY(screen_at(l, l->fits + (l->fails - l->fits) / 2));
    return MF_OK;
}

/* From there in full, to where one length fits and the next does not. */
static mf_status settle(lengths *l) {
    int64_t from = l->fits;
    l->fits = l->fails = 0;
    if (from) MF_TRY(run_at(l, from));
    while (l->fails > 1 && !l->fits) MF_TRY(run_at(l, l->fails - 1));
    while (!l->fails && l->fits < l->most) MF_TRY(run_at(l, l->fits + 1));
    return MF_OK;
}

/* Whole chunks of the zigzag cut for each rank; whole frames, for each rank where these are what is cut. */
static int64_t step_of(const mf_measure_options *o) {
    const mf_model_options *m = &o->model;
    int64_t ranks = mf_axes_ranks(&o->mesh, o->layout.sequence), chunk = 2 * ranks;
    if (m->config.family == MF_STDIT)
        chunk = mf_clip_places(&m->grid) * (o->layout.exchange == &mf_exchange_switch ? ranks : 1);
    return mf_ceil_div(STEP_LEAST, chunk) * chunk;
}

mf_status mf_plan_longest(const mf_cluster *cluster, const mf_measure_options *options, bool borrows,
                          mf_longest *out) {
    lengths l = {.cluster = cluster, .options = *options, .borrows = borrows, .step = step_of(options)};
    int64_t computed =
        INT32_MAX / options->model.batch * mf_axes_ranks(&options->mesh, options->layout.sequence);
    l.most = mf_min(TOKENS_MOST, computed) / l.step;
    MF_TRY(approach(&l));
    MF_TRY(settle(&l));
    *out = (mf_longest){.tokens = l.fits * l.step, .step = l.step, .plan = l.plan};
    return MF_OK;
}
