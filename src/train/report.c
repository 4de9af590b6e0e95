/* report.c: what a rank measured, and everyone's in one summary. */
#include "train/loop.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* Every group of this rank: the mesh's axes first, then those of several. */
static int groups(const mf_run_state *r, mf_comm *out[MF_GROUPS]) {
    int n = 0;
    for (int i = 0; i < r->mesh.spec.axes; i++) out[n++] = r->mesh.group[1u << i];
    for (unsigned axes = 0; axes < 1u << MF_MESH_AXES && n < MF_GROUPS - 2; axes++)
        if (axes & (axes - 1) && r->mesh.group[axes]) out[n++] = r->mesh.group[axes];
    out[n++] = r->mesh.self;
    out[n++] = r->mesh.world;
    return n;
}

void mf_loop_reset_stats(mf_run_state *r) {
    mf_comm *all[MF_GROUPS];
    for (int i = 0, n = groups(r, all); i < n; i++) mf_comm_reset_stats(all[i]);
}

void mf_loop_measure(mf_run_state *r, mf_rank_report *out) {
    mf_comm *all[MF_GROUPS];
    struct rusage usage;
    memset(out, 0, sizeof *out);
    getrusage(RUSAGE_SELF, &usage);
    out->rank = mf_world_rank(r->world);
    memcpy(out->coords, r->mesh.coords, sizeof out->coords);
    out->tokens = mf_model_rows(r->model);
    out->memory = mf_memory_stats_get(r->memory);
    out->rss_peak_bytes = (int64_t)usage.ru_maxrss * 1024;
    out->device_pool_peak_bytes = mf_device_pool_peak_bytes(r->device);
    out->groups = groups(r, all);
    for (int i = 0; i < out->groups; i++) {
        snprintf(out->group[i].axis, sizeof out->group[i].axis, "%s", mf_comm_axis(all[i]));
        mf_comm_stats(all[i], out->group[i].stat);
    }
}

/* Pointers to names do not survive the way from another process: own names stand in. */
static void restore_names(mf_rank_report *all, int size, const mf_rank_report *own) {
    for (int rank = 0; rank < size; rank++)
        for (int group = 0; group < own->groups; group++)
            for (int op = 0; op < MF_COMM_OPS; op++)
                all[rank].group[group].stat[op].op = own->group[group].stat[op].op;
}

double mf_loop_step_flops(const mf_run_state *r) {
    return mf_model_step_flops(&r->options->model, mf_loop_sequences(r));
}

static void times(mf_run_state *r, mf_train_summary *s) {
    const mf_train_options *o = r->options;
    s->step_s_median = mf_median(r->step_s, o->adam.steps);
    s->step_s_min = r->step_s[0];
    s->tokens_per_s = (double)(mf_loop_sequences(r) * o->model.tokens) / s->step_s_median;
    s->flops_per_step = mf_loop_step_flops(r);
    s->peak_flops = r->peak_flops;
    s->flops_share = s->flops_per_step / s->step_s_median / r->peak_flops;
}

static mf_status hand_over(mf_run_state *r, const mf_rank_report *ranks, int size) {
    mf_train_summary s = {.loss_first = r->loss_first,
                          .loss_last = r->loss_last,
                          .loss_eval = r->loss_eval,
                          .steps = r->options->adam.steps,
                          .skipped = r->skipped,
                          .ran = r->ran,
                          .skipped_last = r->skipped_in_a_row > 0,
                          .params = mf_config_params(&r->options->model.config),
                          .engine = mf_world_engine(r->world),
                          .device = r->options->device ? r->options->device : "cpu",
                          .ranks = size,
                          .rank = ranks};
    times(r, &s);
    return r->observer->finished(r->observer->context, &s);
}

mf_status mf_loop_gather(mf_run_state *r, const mf_rank_report *own, mf_rank_report **out) {
    mf_status status = MF_OK;
    int size = mf_comm_size(r->mesh.world);
    mf_rank_report *all = NULL;
    size_t *offsets = NULL;
    MF_GO(mf_host_alloc((size_t)size, sizeof *all, &all));
    MF_GO(mf_host_alloc((size_t)size + 1, sizeof *offsets, &offsets));
    for (int i = 0; i <= size; i++) offsets[i] = (size_t)i * sizeof *all;
    MF_GO(mf_allgather(r->mesh.world, own, all, offsets, NULL));
    restore_names(all, size, own);
    *out = all;
    all = NULL;
fail:
    mf_host_free(offsets);
    mf_host_free(all);
    return status;
}

/* Of one rank alone the others' reports are copies of its own. */
static int reported(const mf_run_state *r) { return mf_run_is_one_of(r) ? 1 : mf_world_size(r->world); }

mf_status mf_loop_report(mf_run_state *r, int *ranks, mf_rank_report **out) {
    mf_rank_report own, *all = NULL;
    mf_loop_measure(r, &own);
    MF_TRY(mf_loop_gather(r, &own, &all));
    if (!out) {
        mf_host_free(all);
        return MF_OK;
    }
    *ranks = reported(r);
    *out = all;
    return MF_OK;
}

mf_status mf_loop_summarize(mf_run_state *r, const mf_rank_report *own) {
    mf_rank_report *all = NULL;
    MF_TRY(mf_loop_gather(r, own, &all));
    bool wanted = r->observer && r->observer->finished;
    mf_status status = wanted ? hand_over(r, all, reported(r)) : MF_OK;
    mf_host_free(all);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}
