/* plan_explain.c: what stands between the best layout and the others, in sentences with figures. */
#include "cli/plan_table.h"
#include "cli/text.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Differences below this share of the step's time, or of the peak, are not worth a word. */
#define WORTH 0.002

/* Two rows; the other's times are of as many tokens as the best's step has. */
typedef struct pair {
    const mf_plan_row *best, *other;
    double scale;
} pair;

static double waited_on(const mf_rank_report *r, const char *axis) {
    for (int g = 0; g < r->groups; g++)
        if (strcmp(r->group[g].axis, axis) == 0) return mf_plan_group_waited(r, g);
    return 0;
}

static double computed_s(const mf_plan_result *p) { return p->step_s - p->exposed_s; }

/* "+12.3 ms" */
static const char *more_text(double seconds, char out[40]) {
    char text[32];
    snprintf(out, 40, "%c%s", seconds < 0 ? '-' : '+', mf_seconds_text(fabs(seconds), text));
    return out;
}

static bool worth_saying(const pair *p, double seconds) {
    return fabs(seconds) > WORTH * p->best->plan.step_s;
}

static void say_wait(const pair *p, const char *axis, int *said) {
    double more = p->scale * waited_on(&p->other->plan.rank, axis) - waited_on(&p->best->plan.rank, axis);
    char text[40];
    if (worth_saying(p, more)) printf("%s%s %s", (*said)++ ? ", " : " (", axis, more_text(more, text));
}

/* Axes of the best, then those that it has not. */
static void say_waits(const pair *p) {
    const mf_rank_report *best = &p->best->plan.rank, *other = &p->other->plan.rank;
    int said = 0;
    for (int g = 0; g < best->groups; g++) say_wait(p, best->group[g].axis, &said);
    for (int g = 0; g < other->groups; g++) {
        bool known = false;
        for (int b = 0; b < best->groups; b++)
            known |= strcmp(best->group[b].axis, other->group[g].axis) == 0;
        if (!known) say_wait(p, other->group[g].axis, &said);
    }
    if (said) printf(")");
}

static void say_time(const pair *p) {
    const mf_plan_result *best = &p->best->plan, *other = &p->other->plan;
    double more = p->scale * other->step_s - best->step_s;
    char step[32], computing[40], waiting[40];
    printf("%s %s%s: computing %s, waiting for transfers %s", mf_seconds_text(fabs(more), step),
           more < 0 ? "faster" : "slower", p->scale == 1 ? "" : " for as many tokens",
           more_text(p->scale * computed_s(other) - computed_s(best), computing),
           more_text(p->scale * other->exposed_s - best->exposed_s, waiting));
    say_waits(p);
    printf(".\n");
}

static void say_bytes(const pair *p, const char *what, double more, int *said) {
    char text[32];
    if (fabs(more) < WORTH * (double)p->best->plan.rank.memory.peak_total) return;
    printf("%s%s %c%s", (*said)++ ? ", " : ": ", what, more < 0 ? '-' : '+', mf_bytes_text(fabs(more), text));
}

static void say_memory(const pair *p) {
    const mf_memory_stats *best = &p->best->plan.rank.memory, *other = &p->other->plan.rank.memory;
    double more = (double)(other->peak_total - best->peak_total);
    char text[32];
    int said = 0;
    printf("    It needs %s %s memory", mf_bytes_text(fabs(more), text), more < 0 ? "less" : "more");
    say_bytes(p, "state", mf_plan_state(other) - mf_plan_state(best), &said);
    say_bytes(p, "activations", (double)(other->at_peak[MF_ACTIVATIONS] - best->at_peak[MF_ACTIVATIONS]),
              &said);
    say_bytes(p, "in flight", mf_plan_in_flight(other) - mf_plan_in_flight(best), &said);
    say_bytes(p, "workspace", (double)(other->at_peak[MF_WORKSPACE] - best->at_peak[MF_WORKSPACE]), &said);
    printf(".\n");
}

static void say_name(const char *what, const mf_plan_row *row) {
    printf("%s %s, recompute %s", what, row->mesh, mf_recompute_name(row->options.model.recompute));
}

static void say_against(const char *what, const mf_plan_row *best, const mf_plan_row *other) {
    char missing[32];
    double tokens = best->plan.tokens_per_s * best->plan.step_s;
    pair p = {best, other, tokens / (other->plan.tokens_per_s * other->plan.step_s)};
    if (fabs(p.scale - 1) < 1e-9) p.scale = 1;
    say_name(what, other);
    if (other->plan.fits)
        printf(":\n    ");
    else
        printf(": does not fit, it is short by %s.\n    It would be ",
               mf_bytes_text(other->plan.short_by_bytes, missing));
    say_time(&p);
    say_memory(&p);
}

static void say_first(const mf_plan_row *best) {
    const mf_plan_result *p = &best->plan;
    char peak[32], missing[32], step[32], waiting[32];
    say_name("\nFirst:", best);
    printf("\n    A step takes %s, %s of it waiting for transfers; the peak is %s",
           mf_seconds_text(p->step_s, step), mf_seconds_text(p->exposed_s, waiting),
           mf_bytes_text((double)p->rank.memory.peak_total, peak));
    if (p->fits)
        printf(".\n");
    else
        printf(", %s more than there are.\n", mf_bytes_text(p->short_by_bytes, missing));
}

static unsigned family_of(const mf_plan_row *row) {
    return mf_plan_family(&row->options.mesh, &row->options.layout);
}

/* What people would otherwise choose: one kind of sharing, or Megatron's two; dsp with one more. */
static bool usual(unsigned family) {
    family &= ~(unsigned)MF_FAMILY_DSP;
    return (family & (family - 1)) == 0 || family == (MF_FAMILY_TP | MF_FAMILY_SP);
}

void mf_plan_explain(const mf_plan_row *row, int count) {
    bool seen[MF_FAMILIES] = {false};
    char what[64], family[32];
    if (count == 0 || row[0].refused) return;
    say_first(&row[0]);
    seen[family_of(&row[0])] = true;
    for (int i = 1; i < count && !row[i].refused; i++) {
        unsigned f = family_of(&row[i]);
        snprintf(what, sizeof what, i == 1 ? "Second:" : "Best of %s:", mf_plan_family_name(f, family));
        if (i == 1 || (usual(f) && !seen[f])) say_against(what, &row[0], &row[i]);
        seen[f] = true;
    }
}
