/* plan.c: what operations and transfers cost on a cluster, and a step run dry with these costs. */
#include "meshfold/plan.h"

#include <math.h>
#include <string.h>

static double reached(const mf_efficiency *e, double size) { return size / (size + e->half); }

static double matrix_bytes(const mf_gemm_args *a) {
    double in = (double)mf_dtype_bytes(a->a.type),
           out = (double)mf_dtype_bytes(a->c_type) * (a->accumulate ? 2 : 1);
    double m = (double)a->m, n = (double)a->n, k = (double)a->k;
    return in * (m * k + k * n) + out * m * n;
}

/* Bound by arithmetic or by memory, whichever is longer. */
static double gemm_s(const mf_costs *costs, const mf_gemm_args *a) {
    const mf_cluster *c = costs->context;
    double m = (double)a->m, n = (double)a->n, k = (double)a->k;
    double share = c->gemm.share * reached(&c->gemm, m) * reached(&c->gemm, n) * reached(&c->gemm, k);
    if (k == 0) return c->launch_s;
    return c->launch_s +
           fmax(2 * m * n * k / (c->flops[a->a.type] * share), matrix_bytes(a) / c->memory_bytes_per_s);
}

/* Two products a pair forward, five backward. */
static double attention_s(const mf_costs *costs, const mf_attention_args *a, bool backward, double pairs) {
    const mf_cluster *c = costs->context;
    double flops = (backward ? 10.0 : 4.0) * (double)a->head_dim * pairs;
    double share = c->attention.share * reached(&c->attention, (double)mf_max(a->tokens, 1));
    return c->launch_s + flops / (c->flops[a->type] * share);
}

static double touch_s(const mf_costs *costs, double bytes) {
    const mf_cluster *c = costs->context;
    return c->launch_s + bytes / c->memory_bytes_per_s;
}

/* Hops that a collective takes one after another. */
static double hops(const mf_transfer_cost *t) {
    double others = t->size - 1;
    if (strcmp(t->op, "shift") == 0 || strcmp(t->op, "alltoall") == 0) return 1;
    if (strcmp(t->op, "allreduce") == 0) return 2 * others;
    if (strcmp(t->op, "allgather") == 0 || strcmp(t->op, "reduce_scatter") == 0) return others;
    return ceil(log2(t->size)); /* a tree */
}

static double transfer_s(const mf_costs *costs, const mf_transfer_cost *t) {
    const mf_cluster *c = costs->context;
    int level = mf_cluster_level(c, t->ranks, t->size);
    return hops(t) * c->level[level].latency_s + t->bytes / c->level[level].bytes_per_s;
}

mf_costs mf_cluster_costs(const mf_cluster *c) {
    return (mf_costs){.context = c,
                      .gemm_s = gemm_s,
                      .attention_s = attention_s,
                      .touch_s = touch_s,
                      .transfer_s = transfer_s,
                      .overlaps = c->overlaps};
}

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

mf_status mf_plan(const mf_cluster *cluster, const mf_measure_options *options, int rank, bool borrows,
                  mf_plan_result *out) {
    mf_costs costs = mf_cluster_costs(cluster);
    dry_run run = {.options = *options, .out = out};
    const mf_model_options *model = &options->model;
    int ranks = mf_mesh_ranks(&options->mesh);
    *out = (mf_plan_result){0};
    run.options.steps = 1;
    mf_launch_options launch = {.engine = "dry",
                                .ranks = ranks,
                                .no_borrow = !borrows,
                                .only = true,
                                .only_rank = rank,
                                .costs = &costs};
    MF_TRY(mf_launch(&launch, body, &run));
    int64_t sequences = model->batch * mf_axes_ranks(&options->mesh, options->layout.data);
    out->tokens_per_s = (double)(sequences * model->tokens) / out->step_s;
    out->flops_share =
        mf_model_step_flops(model, sequences) / out->step_s / (cluster->flops[model->type] * ranks);
    out->exposed_s = exposed(&out->rank);
    out->short_by_bytes = fmax(0, (double)out->rank.memory.peak_total - cluster->memory_bytes);
    out->fits = out->short_by_bytes == 0;
    return MF_OK;
}
