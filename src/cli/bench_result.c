/* bench_result.c: see bench_result.h. */
#include "cli/bench_result.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool counts_axis(const char *axis) { return strcmp(axis, "self") != 0 && strcmp(axis, "world") != 0; }

static bool counts(const char *axis, int op) {
    return counts_axis(axis) && op != MF_OP_BARRIER && op != MF_OP_SIGNAL;
}

static double moved_by(const mf_rank_report *r) {
    double bytes = 0;
    for (int g = 0; g < r->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++)
            if (counts(r->group[g].axis, op))
                bytes += (double)(r->group[g].stat[op].bytes + r->group[g].stat[op].borrowed_bytes);
    return bytes;
}

static double exposed_of(const mf_measure_result *result, double step_s) {
    double seconds = 0;
    for (int i = 0; i < result->ranks; i++)
        for (int g = 0; g < result->rank[i].groups; g++)
            for (int op = 0; op < MF_COMM_OPS; op++) seconds += result->rank[i].group[g].stat[op].exposed_s;
    return seconds / result->ranks / step_s;
}

static bool same_bytes(const mf_rank_report *a, const mf_rank_report *b) {
    for (int g = 0; g < a->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++) {
            const mf_comm_stat *x = &a->group[g].stat[op], *y = &b->group[g].stat[op];
            if (x->calls != y->calls || x->bytes != y->bytes || x->borrowed_bytes != y->borrowed_bytes)
                return false;
        }
    return a->groups == b->groups;
}

static bool same_memory(const mf_rank_report *a, const mf_rank_report *b) {
    return a->memory.peak_total == b->memory.peak_total &&
           memcmp(a->memory.peak, b->memory.peak, sizeof a->memory.peak) == 0;
}

/* Both follow from sizes alone: if they don't, a counter or a schedule is wrong, and so is the comparison. */
static mf_status check_repeats(const mf_bench_case *c, const mf_measure_result *result) {
    for (int i = 0; i < result->ranks; i++) {
        const mf_rank_report *before = &c->first.rank[i], *now = &result->rank[i];
        if (!same_memory(before, now))
            return MF_FAIL(MF_ELIBRARY,
                           "internal error: rank %d's peak memory was %lld bytes, and %lld in another round",
                           i, (long long)before->memory.peak_total, (long long)now->memory.peak_total);
        if (!same_bytes(before, now))
            return MF_FAIL(MF_ELIBRARY, "internal error: rank %d moved %.0f bytes, and %.0f in another round",
                           i, moved_by(before), moved_by(now));
    }
    return MF_OK;
}

mf_status mf_bench_add(const mf_bench *b, mf_bench_case *to, mf_measure_result *result) {
    size_t steps = (size_t)b->steps;
    if (!to->step_s) MF_TRY(mf_host_alloc((size_t)b->rounds * steps, sizeof *to->step_s, &to->step_s));
    memcpy(to->step_s + (size_t)to->rounds * steps, result->step_s, steps * sizeof *to->step_s);
    to->exposed[to->rounds] = exposed_of(result, result->step_s[steps - 1]);
    to->peak_flops[to->rounds] = result->peak_flops;
    if (to->rounds++ > 0) {
        MF_TRY(check_repeats(to, result));
        mf_measure_free(result);
        return MF_OK;
    }
    to->first = *result;
    *result = (mf_measure_result){0};
    return MF_OK;
}

void mf_bench_refuse(mf_bench_case *c) {
    c->refused = mf_error_last()->status;
    memcpy(c->why, mf_error_last()->message, sizeof c->why);
}

void mf_bench_free(mf_bench *b) {
    for (int i = 0; b->cases && i < b->lengths * b->meshes; i++) {
        mf_host_free(b->cases[i].step_s);
        mf_measure_free(&b->cases[i].first);
    }
    mf_host_free(b->cases);
}

static double median_exposed(const mf_bench_case *c) {
    double values[MF_BENCH_ROUNDS];
    memcpy(values, c->exposed, sizeof values);
    return mf_median(values, c->rounds);
}

/* Over all lengths and rounds: one probe while the machine was slow must not flatter. 0: nothing was
 * measured. */
static double peak_of_mesh(const mf_bench *b, int mesh) {
    int n = 0;
    double medians[MF_BENCH_LENGTHS];
    for (int length = 0; length < b->lengths; length++) {
        double values[MF_BENCH_ROUNDS];
        const mf_bench_case *at = mf_bench_at(b, length, mesh);
        if (at->refused) continue;
        memcpy(values, at->peak_flops, sizeof values);
        medians[n++] = mf_median(values, at->rounds);
    }
    return n ? mf_median(medians, n) : 0;
}

/* What the machine can do is the same whatever runs on it: the best that any mesh's probe found. */
static double peak_of_machine(const mf_bench *b) {
    double peak = 0;
    for (int mesh = 0; mesh < b->meshes; mesh++) peak = fmax(peak, peak_of_mesh(b, mesh));
    return peak;
}

static void times(const mf_bench *b, const mf_bench_case *c, mf_bench_figures *f) {
    double values[MF_BENCH_ROUNDS * MF_BENCH_STEPS];
    int n = c->rounds * b->steps;
    memcpy(values, c->step_s, (size_t)n * sizeof *values);
    f->step_s = mf_median(values, n);
    f->step_s_min = values[0];
    f->step_s_max = values[n - 1];
    f->tokens_per_s = (double)c->first.tokens / f->step_s;
    f->peak_flops = peak_of_machine(b);
    f->flops_share = c->first.flops / f->step_s / f->peak_flops;
}

static double all_predicted(const mf_volume *v) {
    double bytes = 0;
    for (int g = 0; g < v->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++) bytes += v->group[g].bytes[op];
    return bytes;
}

mf_bench_figures mf_bench_figures_of(const mf_bench *b, const mf_bench_case *c) {
    mf_bench_figures f = {
        .rank = c->first.rank, .predicted = all_predicted(&c->predicted), .exposed = median_exposed(c)};
    for (int i = 0; i < c->first.ranks; i++) {
        const mf_rank_report *r = &c->first.rank[i];
        double bytes = moved_by(r);
        if (r->memory.peak_total > f.rank->memory.peak_total) f.rank = r;
        if (bytes > f.moved_most) f.moved_most = bytes;
        f.moved += bytes / c->first.ranks;
    }
    times(b, c, &f);
    return f;
}

static double predicted_for(const mf_volume *v, const char *axis, int op) {
    for (int g = 0; g < v->groups; g++)
        if (strcmp(v->group[g].axis, axis) == 0) return v->group[g].bytes[op];
    return 0;
}

static mf_bench_transfer mean_of(const mf_bench_case *c, int group, int op) {
    const mf_rank_report *all = c->first.rank;
    mf_bench_transfer t = {.axis = all->group[group].axis, .op = all->group[group].stat[op].op};
    for (int i = 0; i < c->first.ranks; i++) {
        const mf_comm_stat *s = &all[i].group[group].stat[op];
        t.calls += (double)s->calls / c->first.ranks;
        t.bytes += (double)s->bytes / c->first.ranks;
        t.borrowed_bytes += (double)s->borrowed_bytes / c->first.ranks;
    }
    t.predicted = predicted_for(&c->predicted, t.axis, op);
    return t;
}

bool mf_bench_transfer_at(const mf_bench_case *c, int index, mf_bench_transfer *out) {
    for (int g = 0; g < c->first.rank->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++) {
            *out = mean_of(c, g, op);
            bool moved = out->bytes > 0 || out->borrowed_bytes > 0 || out->predicted > 0;
            if (counts(out->axis, op) && moved && index-- == 0) return true;
        }
    return false;
}

mf_status mf_bench_predict(mf_bench *b, const mf_cluster *machine, bool borrows) {
    for (int i = 0; i < b->lengths * b->meshes; i++) {
        mf_bench_case *c = &b->cases[i];
        if (c->refused) continue;
        int rank = mf_bench_figures_of(b, c).rank->rank;
        MF_TRY(mf_predict(machine, &c->options, borrows, rank, &c->dry));
    }
    return MF_OK;
}
