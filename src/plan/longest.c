/* longest.c: the longest sequence that a layout has memory for. */
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

static mf_status screen_at(lengths *l, int64_t steps) {
    double tokens_per_s, peak;
    l->options.model.tokens = steps * l->step;
    MF_TRY(mf_plan_few_layers(l->cluster, &l->options, l->borrows, &tokens_per_s, &peak));
    note(l, steps, peak <= mf_cluster_memory(l->cluster, mf_mesh_ranks(&l->options.mesh)));
    return MF_OK;
}

static mf_status run_at(lengths *l, int64_t steps) {
    mf_plan_result plan;
    l->options.model.tokens = steps * l->step;
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

/* Whole chunks of the zigzag cut for each rank. */
static int64_t step_of(const mf_measure_options *o) {
    int64_t chunks = 2 * mf_axes_ranks(&o->mesh, o->layout.sequence);
    return mf_ceil_div(STEP_LEAST, chunks) * chunks;
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
