/* plan.c: a step run dry with a cluster's costs. */
#include "plan/search.h"

#include <math.h>
#include <string.h>

typedef struct dry_run {
    mf_measure_options options;
    mf_plan_result *out;
} dry_run;

static mf_status body(mf_world *world, void *argument) {
    dry_run *run = argument;
    return mf_measure_dry(world, &run->options, &run->out->rank, &run->out->step_s);
}

static double exposed(const mf_rank_report *r) {
    double seconds = 0;
    for (int g = 0; g < r->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++) seconds += r->group[g].stat[op].exposed_s;
    return seconds;
}

/* What follows from the time and the cluster. */
static void rate(const mf_cluster *cluster, const mf_measure_options *o, mf_plan_result *out) {
    int ranks = mf_mesh_ranks(&o->mesh);
    int64_t sequences = o->model.batch * mf_axes_ranks(&o->mesh, o->layout.data);
    double flops = mf_model_step_flops(&o->model, sequences), peak = cluster->flops[o->model.type] * ranks;
    out->tokens_per_s = (double)(sequences * o->model.tokens) / out->step_s;
    out->flops_share = flops / out->step_s / peak;
    out->exposed_s = exposed(&out->rank);
    out->short_by_bytes = fmax(0, (double)out->rank.memory.peak_total - mf_cluster_memory(cluster, ranks));
    out->fits = out->short_by_bytes == 0;
}

mf_status mf_plan_after(const mf_cluster *cluster, const mf_measure_options *options, int rank, bool borrows,
                        int warm_up, mf_plan_result *out) {
    int ranks = mf_mesh_ranks(&options->mesh);
    dry_run run = {.options = *options, .out = out};
    mf_costs costs = {0};
    *out = (mf_plan_result){0};
    if (cluster) costs = mf_cluster_costs(cluster, ranks);
    run.options.steps = warm_up;
    mf_launch_options launch = {.engine = "dry",
                                .ranks = ranks,
                                .no_borrow = !borrows,
                                .only = true,
                                .only_rank = rank,
                                .costs = cluster ? &costs : NULL};
    MF_TRY(mf_launch(&launch, body, &run));
    if (cluster) rate(cluster, options, out);
    return MF_OK;
}

mf_status mf_plan(const mf_cluster *cluster, const mf_measure_options *options, int rank, bool borrows,
                  mf_plan_result *out) {
    return mf_plan_after(cluster, options, rank, borrows, 1, out);
}
