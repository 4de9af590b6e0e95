/* plan_table.c: what was planned, as a table for people. */
#include "cli/plan_table.h"

#include "cli/model_text.h"
#include "cli/text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Groups that send less than this share of a rank's bytes are left out of its row. */
#define SENT_LEAST 0.005

int mf_plan_row_compare(const mf_plan_row *a, const mf_plan_row *b) {
    bool a_refused = a->refused != MF_OK, b_refused = b->refused != MF_OK;
    return a_refused || b_refused ? a_refused - b_refused : mf_plan_compare(&a->plan, &b->plan);
}

double mf_plan_state(const mf_memory_stats *m) {
    return (double)(m->at_peak[MF_WEIGHTS] + m->at_peak[MF_GRADS] + m->at_peak[MF_OPTIMIZER]);
}

double mf_plan_in_flight(const mf_memory_stats *m) {
    return (double)(m->at_peak[MF_STREAM] + m->at_peak[MF_EXCHANGE]);
}

double mf_plan_group_sent(const mf_rank_report *r, int g) {
    double bytes = 0;
    for (int op = 0; op < MF_COMM_OPS; op++) bytes += (double)r->group[g].stat[op].bytes;
    return bytes;
}

double mf_plan_group_waited(const mf_rank_report *r, int g) {
    double seconds = 0;
    for (int op = 0; op < MF_COMM_OPS; op++) seconds += r->group[g].stat[op].exposed_s;
    return seconds;
}

double mf_plan_sent(const mf_rank_report *r) {
    double bytes = 0;
    for (int g = 0; g < r->groups; g++) bytes += mf_plan_group_sent(r, g);
    return bytes;
}

const char *mf_recompute_name(mf_recompute recompute) {
    static const char *const names[] = {"none", "attention", "block"};
    return names[recompute];
}

static bool plans_clips(const mf_plan_table *t) { return t->options.config.family == MF_STDIT; }

int64_t mf_plan_length(const mf_plan_table *t, int64_t tokens) {
    return plans_clips(t) ? tokens / mf_clip_places(&t->options.grid) : tokens;
}

const char *mf_plan_length_name(const mf_plan_table *t) { return plans_clips(t) ? "frames" : "tokens"; }

static const char *verdict(const mf_plan_row *row, char out[48]) {
    char missing[32];
    if (row->plan.fits) return "fits";
    snprintf(out, 48, "short by %s", mf_bytes_text(row->plan.short_by_bytes, missing));
    return out;
}

/* "tsp 1.2 GiB + dp 3.4 GiB" */
static void print_sent(const mf_rank_report *r) {
    char text[32];
    double all = mf_plan_sent(r);
    const char *between = "";
    for (int g = 0; g < r->groups; g++) {
        double bytes = mf_plan_group_sent(r, g);
        if (bytes == 0 || bytes < SENT_LEAST * all) continue;
        printf("%s%s %s", between, r->group[g].axis, mf_bytes_text(bytes, text));
        between = " + ";
    }
    printf("%s\n", *between ? "" : "nothing");
}

/* What memory is counted in, for columns that can be compared. */
typedef struct unit {
    const char *name;
    double bytes;
} unit;

static unit unit_of(const mf_plan_table *t) {
    const double mib = 1024.0 * 1024, gib = 1024 * mib;
    double most = 0;
    for (int i = 0; i < t->count; i++)
        if (!t->row[i].refused) most = fmax(most, (double)t->row[i].plan.rank.memory.peak_total);
    return most < gib ? (unit){"MiB", mib} : (unit){"GiB", gib};
}

static void print_row(const mf_plan_row *row, int width, unit u) {
    char fits[48], rate[32], step[32];
    const mf_plan_result *p = &row->plan;
    const mf_memory_stats *m = &p->rank.memory;
    if (row->refused) {
        printf("%-*s  impossible: %s\n", width, row->mesh, row->why);
        return;
    }
    printf("%-*s  %-19s %-9s %8.1f %7.1f %7.1f %7.1f %7.1f %10s %8s %7.0f%% %7.0f%%  ", width, row->mesh,
           verdict(row, fits), mf_recompute_name(row->options.model.recompute),
           (double)m->peak_total / u.bytes, mf_plan_state(m) / u.bytes,
           (double)m->at_peak[MF_ACTIVATIONS] / u.bytes, mf_plan_in_flight(m) / u.bytes,
           (double)m->at_peak[MF_WORKSPACE] / u.bytes, mf_seconds_text(p->step_s, step),
           mf_rate_text(p->tokens_per_s, rate), 100 * p->flops_share, 100 * p->exposed_s / p->step_s);
    print_sent(&p->rank);
}

static int mesh_width(const mf_plan_table *t) {
    int width = 4;
    for (int i = 0; i < t->count; i++) width = (int)mf_max(width, (int64_t)strlen(t->row[i].mesh));
    return width;
}

static void print_head(const mf_plan_table *t) {
    char memory[32], params[32], amount[MF_MODEL_TEXT];
    const mf_model_options *m = &t->options;
    printf("model    %s: %s parameters, %s; %s of %s a replica\n", t->model,
           mf_rate_text((double)mf_config_params(&m->config), params), t->dtype,
           m->forward_only ? "forward" : "training step", mf_amount_text(m, m->batch, amount));
    printf("cluster  %s: %s, %s %s\n\n", t->cluster->name, t->cluster->device,
           mf_bytes_text(t->cluster->memory_bytes, memory), t->cluster->shared ? "for all ranks" : "each");
}

static void print_left_out(const mf_left_out *l) {
    if (l->count) printf("  %d left out, such as %s: %s\n", l->count, l->mesh, l->why);
}

static void print_search(const mf_plan_table *t) {
    const mf_search_result *s = t->search;
    int ranks = mf_mesh_ranks(&t->row[0].options.mesh);
    printf("\n%d layout%s tried: %d run with a few layers, of which %d fit; the best %d in full.\n", s->tried,
           mf_plural(s->tried), s->screened, s->fit, s->count);
    for (int i = 0; i < MF_LEFT_OUT; i++) print_left_out(&s->left_out[i]);
    if (t->row[0].plan.fits) return;
    if (t->enough)
        printf("Nothing fits on %d rank%s; on %d something does.\n", ranks, mf_plural(ranks), t->enough);
    else
        printf("Nothing fits, and no number of ranks was found on which anything does.\n");
}

static void print_longest_row(const mf_plan_table *t, int i, int width, unit u) {
    char rate[32], step[32];
    const mf_plan_row *row = &t->row[i];
    const mf_longest *l = &t->longest[i];
    long long most = (long long)mf_plan_length(t, l->tokens), by = (long long)mf_plan_length(t, l->step);
    const char *mode = mf_recompute_name(row->options.model.recompute);
    if (l->tokens)
        printf("%-*s  %-9s %12lld %9.1f %11s %9s %8lld\n", width, row->mesh, mode, most,
               (double)l->plan.rank.memory.peak_total / u.bytes, mf_seconds_text(l->plan.step_s, step),
               mf_rate_text(l->plan.tokens_per_s, rate), by);
    else
        printf("%-*s  %-9s %12s  not even %lld %s fit\n", width, row->mesh, mode, "none", by,
               mf_plan_length_name(t));
}

static void print_longest(const mf_plan_table *t, int width, unit u) {
    printf("\nThe longest %s that fit; a step longer they do not.\n\n",
           plans_clips(t) ? "clips" : "sequences");
    printf("%-*s  %-9s %12s %5s %s %11s %9s %8s\n", width, "mesh", "recompute", mf_plan_length_name(t),
           "peak", u.name, "step time", "tokens/s", "step");
    for (int i = 0; i < t->longests; i++)
        if (!t->row[i].refused) print_longest_row(t, i, width, u);
}

void mf_plan_print(const mf_plan_table *t) {
    int width = mesh_width(t);
    unit u = unit_of(t);
    print_head(t);
    printf("%-*s  %-19s %-9s %4s %s %7s %7s %7s %7s %10s %8s %8s %8s  %s\n", width, "mesh", "", "recompute",
           "peak", u.name, "state", "activ.", "flight", "work", "step", "tokens/s", "of peak", "exposed",
           "sent");
    for (int i = 0; i < t->count; i++) print_row(&t->row[i], width, u);
    if (t->search) print_search(t);
    if (t->longests) print_longest(t, width, u);
    printf(
        "\nOf rank 0; its peers are taken to be where it is. At the moment when most "
        "memory is held: state "
        "is "
        "weights,\ngradients and the optimizer's, activ. what is kept for backward, flight what comes from "
        "other ranks, work the\noperations' workspace. Exposed is the share of a step that the rank waits "
        "for "
        "transfers.\n");
}
