/* bench_report.c: what `meshfold bench` measured, as tables for people. */
#include "cli/bench_report.h"

#include "cli/device_choice.h"
#include "cli/text.h"

#include <stdio.h>
#include <string.h>

void mf_bench_subject(const mf_bench *b, char out[128]) {
    const mf_model_options *m = &b->cases->options.model;
    char params[32];
    snprintf(out, 128, "%s parameters, %s, %s", mf_rate_text((double)mf_config_params(&m->config), params),
             mf_dtype_name(m->type), b->forward ? "forward pass" : "training step");
}

static void print_head(const mf_bench *b) {
    const mf_model_options *m = &b->cases->options.model;
    char subject[128], device[MF_DEVICE_WORDS];
    mf_bench_subject(b, subject);
    mf_device_words(b->device, device);
    printf("device     %s: %s\n", b->device, device);
    printf("model      %s: %s, recompute %s; %lld %s%s a replica\n", b->model, subject, b->recompute,
           (long long)m->batch, m->config.family == MF_STDIT ? "clip" : "sequence", mf_plural(m->batch));
    printf("measured   %d round%s of %d step%s, engine %s\n", b->rounds, mf_plural(b->rounds), b->steps,
           mf_plural(b->steps), b->engine);
}

static int name_width(const mf_bench *b) {
    size_t width = 4;
    for (int i = 0; i < b->meshes; i++)
        if (strlen(b->cases[i].mesh) > width) width = strlen(b->cases[i].mesh);
    return (int)width;
}

static int category_width(int category) {
    int width = (int)strlen(mf_category_name((mf_category)category));
    return width > 10 ? width : 10;
}

static void print_refused(const mf_bench_case *c) {
    printf("  %s: %s\n", c->refused == MF_ENOMEM ? "does not fit" : "not possible", c->why);
}

static void print_memory(const mf_bench *b, int length, int width) {
    char text[32];
    printf("  %-*s %10s", width, "mesh", "total");
    for (int k = 0; k < MF_CATEGORIES; k++)
        printf(" %*s", category_width(k), mf_category_name((mf_category)k));
    printf("\n");
    for (int i = 0; i < b->meshes; i++) {
        const mf_bench_case *c = mf_bench_at(b, length, i);
        printf("  %-*s", width, c->mesh);
        if (c->refused) {
            print_refused(c);
            continue;
        }
        const mf_memory_stats *m = &mf_bench_figures_of(b, c).rank->memory;
        printf(" %10s", mf_bytes_text((double)m->peak_total, text));
        for (int k = 0; k < MF_CATEGORIES; k++)
            printf(" %*s", category_width(k), mf_bytes_text((double)m->peak[k], text));
        printf("\n");
    }
}

static void print_step(const mf_bench_case *c, const mf_bench_figures *f, int width) {
    char moved[32], predicted[32], rate[32], spread[48];
    snprintf(spread, sizeof spread, "%.3f..%.3f s", f->step_s_min, f->step_s_max);
    printf("  %-*s %10s %10s %9.3f s %22s %10s %7.0f%% %7.0f%%\n", width, c->mesh,
           mf_bytes_text(f->moved_most, moved), mf_bytes_text(f->predicted, predicted), f->step_s, spread,
           mf_rate_text(f->tokens_per_s, rate), 100 * f->flops_share, 100 * f->exposed);
}

static void print_steps(const mf_bench *b, int length, int width) {
    printf("  %-*s %10s %10s %11s %22s %10s %8s %8s\n", width, "mesh", "moved", "formula", "step", "spread",
           "tokens/s", "of peak", "exposed");
    for (int i = 0; i < b->meshes; i++) {
        const mf_bench_case *c = mf_bench_at(b, length, i);
        if (c->refused) continue;
        mf_bench_figures f = mf_bench_figures_of(b, c);
        print_step(c, &f, width);
    }
}

static void print_transfer(const char *mesh, const mf_bench_transfer *t, int width) {
    char sent[32], borrowed[32], predicted[32], ratio[32] = "-";
    if (t->predicted > 0)
        snprintf(ratio, sizeof ratio, "%.4f", (t->bytes + t->borrowed_bytes) / t->predicted);
    printf("  %-*s %-8s %-14s %8.0f %12s %12s %12s %8s\n", width, mesh, t->axis, t->op, t->calls,
           mf_bytes_text(t->bytes, sent), mf_bytes_text(t->borrowed_bytes, borrowed),
           mf_bytes_text(t->predicted, predicted), ratio);
}

static void print_transfers(const mf_bench *b, int length, int width) {
    mf_bench_transfer t;
    printf("  %-*s %-8s %-14s %8s %12s %12s %12s %8s\n", width, "mesh", "axis", "op", "calls", "sent",
           "borrowed", "formula", "ratio");
    for (int i = 0; i < b->meshes; i++) {
        const mf_bench_case *c = mf_bench_at(b, length, i);
        for (int k = 0; !c->refused && mf_bench_transfer_at(c, k, &t); k++)
            print_transfer(k == 0 ? c->mesh : "", &t, width);
    }
}

static bool is_one_of(const mf_bench *b) { return strcmp(b->engine, "one-of") == 0; }

/* Of the rank that needs most: what a dry run of it says, and what was measured. */
static void print_prediction(const mf_bench *b, const mf_bench_case *c, int width) {
    char text[4][32], ratio[16] = "";
    mf_bench_figures f = mf_bench_figures_of(b, c);
    double peak = (double)f.rank->memory.peak_total, dry_peak = (double)c->dry.rank.memory.peak_total;
    double real_moved = mf_moved(f.rank), dry_moved = mf_moved(&c->dry.rank);
    bool same = real_moved == dry_moved &&
                memcmp(&c->dry.rank.memory, &f.rank->memory, sizeof c->dry.rank.memory) == 0;
    if (is_one_of(b)) snprintf(ratio, sizeof ratio, " %7.4f", peak / dry_peak);
    printf("  %-*s %10s %10s%s %12s %12s  %-7s %9.3f s", width, c->mesh, mf_bytes_text(peak, text[0]),
           mf_bytes_text(dry_peak, text[1]), ratio, mf_bytes_text(real_moved, text[2]),
           mf_bytes_text(dry_moved, text[3]), same ? "equal" : "DIFFER", f.step_s);
    if (c->dry.step_s > 0)
        printf(" %9.3f s %+7.1f%%\n", c->dry.step_s, 100 * (c->dry.step_s / f.step_s - 1));
    else
        printf(" %11s\n", "unknown");
}

static void print_predictions(const mf_bench *b, int length, int width) {
    printf("  %-*s %10s %10s%s %12s %12s  %-7s %11s %11s %8s\n", width, "mesh", "peak", "dry",
           is_one_of(b) ? "   ratio" : "", "moved", "dry", "", "step", "predicted", "error");
    for (int i = 0; i < b->meshes; i++) {
        const mf_bench_case *c = mf_bench_at(b, length, i);
        if (!c->refused) print_prediction(b, c, width);
    }
}

static bool any_moved(const mf_bench *b, int length) {
    mf_bench_transfer t;
    for (int i = 0; i < b->meshes; i++) {
        const mf_bench_case *c = mf_bench_at(b, length, i);
        if (!c->refused && mf_bench_transfer_at(c, 0, &t)) return true;
    }
    return false;
}

static bool any_measured(const mf_bench *b, int length) {
    for (int i = 0; i < b->meshes; i++)
        if (!mf_bench_at(b, length, i)->refused) return true;
    return false;
}

static const char *whose(const mf_bench *b) {
    return is_one_of(b) ? "the rank that runs" : "the rank that needs most";
}

void mf_bench_print(const mf_bench *b) {
    int width = name_width(b);
    print_head(b);
    for (int i = 0; i < b->lengths; i++) {
        long long seq = (long long)mf_bench_at(b, i, 0)->options.model.tokens;
        printf("\n%lld tokens: peak memory of %s\n", seq, whose(b));
        print_memory(b, i, width);
        if (!any_measured(b, i)) continue;
        printf("\n%lld tokens: a step; bytes moved by the rank that moves most\n", seq);
        print_steps(b, i, width);
        if (any_moved(b, i)) {
            printf("\n%lld tokens: bytes moved in a step, mean over ranks\n", seq);
            print_transfers(b, i, width);
        }
        printf("\n%lld tokens: %s, beside a dry run of it\n", seq, whose(b));
        print_predictions(b, i, width);
    }
}
