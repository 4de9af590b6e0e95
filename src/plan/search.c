/* search.c: of all layouts, those that a formula likes best are run dry with few layers, and the best of
 * these in full: what is reported comes from a full run, the sieves only order. */
#include "plan/search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Layouts run with a few layers in a round, and in full; of each family at least so many. Where nothing
 * seems to fit, fewer. */
enum { SCREENED = 400, SCREENED_EACH = 4, SCREENED_SHORT = 64, ROUNDS = 4, FULL = 24, FULL_EACH = 1 };
/* The same of those that need least memory. */
enum { THRIFTY = 24, THRIFTY_EACH = 2 };

typedef struct search {
    const mf_cluster *cluster;
    const mf_search_options *options;
    mf_leads leads;
    int *pick; /* [picks] leads that the stage at work is about; as many fit as there are leads */
    int picks;
    mf_search_result *out;
} search;

unsigned mf_plan_family(const mf_mesh_spec *mesh, const mf_layout *l) {
    mf_axes tsp = mf_mesh_find(mesh, "tsp");
    bool switches = l->exchange == &mf_exchange_switch && mf_axes_ranks(mesh, l->sequence) > 1;
    unsigned family = mf_axes_ranks(mesh, l->tensor) > 1 ? MF_FAMILY_TP : 0;
    if (mf_axes_ranks(mesh, l->stream) > 1) {
        bool folded = l->stream & tsp || (switches && !mf_stream_gathers(l->attention));
        family |= folded ? MF_FAMILY_TSP : MF_FAMILY_ZERO3;
    }
    if (switches) return family | MF_FAMILY_DSP;
    if (mf_axes_ranks(mesh, l->sequence & ~l->stream) > 1) family |= MF_FAMILY_SP;
    return family;
}

const char *mf_plan_family_name(unsigned family, char out[32]) {
    static const char *const names[] = {"tp", "tsp", "zero3", "sp", "dsp"};
    size_t used = 0;
    snprintf(out, 32, "dp");
    for (int i = 0; i < 5; i++)
        if (family >> i & 1)
            used += (size_t)snprintf(out + used, 32 - used, "%s%s", used ? "+" : "", names[i]);
    return out;
}

static int compare(double short_a, double short_b, double speed_a, double speed_b) {
    if (short_a != short_b) return short_a < short_b ? -1 : 1;
    return (speed_a < speed_b) - (speed_a > speed_b);
}

int mf_plan_compare(const mf_plan_result *a, const mf_plan_result *b) {
    return compare(a->short_by_bytes, b->short_by_bytes, a->tokens_per_s, b->tokens_per_s);
}

static int better_lead(const void *left, const void *right) {
    const mf_lead *a = left, *b = right;
    if (a->screened != b->screened) return b->screened - a->screened;
    int order = compare(a->short_by_bytes, b->short_by_bytes, a->tokens_per_s, b->tokens_per_s);
    return order ? order : strcmp(a->mesh, b->mesh);
}

static int smaller_lead(const void *left, const void *right) {
    const mf_lead *a = left, *b = right;
    return (a->peak_bytes > b->peak_bytes) - (a->peak_bytes < b->peak_bytes);
}

static int better_found(const void *left, const void *right) {
    const mf_found *a = left, *b = right;
    int order = mf_plan_compare(&a->plan, &b->plan);
    return order ? order : strcmp(a->mesh, b->mesh);
}

/* Picks the first `most` leads, in their order, that are `screened` or not, and of each family the first
 * few. */
static void choose(search *s, bool screened, int most, int each) {
    int of_family[MF_FAMILIES] = {0};
    s->picks = 0;
    for (int i = 0, seen = 0; i < s->leads.count; i++) {
        const mf_lead *lead = &s->leads.lead[i];
        if (lead->screened != screened) continue;
        if (seen++ < most || of_family[lead->family] < each) s->pick[s->picks++] = i;
        of_family[lead->family]++;
    }
}

static mf_status sketch_one(void *context, int index) {
    const search *s = context;
    mf_sketch(s->cluster, &s->leads.lead[index]);
    return MF_OK;
}

static mf_status screen_one(void *context, int index) {
    const search *s = context;
    mf_lead *lead = &s->leads.lead[s->pick[index]];
    MF_TRY(mf_plan_few_layers(s->cluster, &lead->options, s->options->borrows, &lead->tokens_per_s,
                              &lead->peak_bytes));
    lead->short_by_bytes = fmax(0, lead->peak_bytes - mf_cluster_memory(s->cluster, s->options->ranks));
    lead->screened = true;
    return MF_OK;
}

static mf_status run_one(void *context, int index) {
    const search *s = context;
    const mf_lead *lead = &s->leads.lead[s->pick[index]];
    mf_found *found = &s->out->found[index];
    memcpy(found->mesh, lead->mesh, sizeof found->mesh);
    found->options = lead->options;
    return mf_plan(s->cluster, &lead->options, 0, s->options->borrows, &found->plan);
}

static mf_status no_layout(const search *s) {
    char reasons[384] = "";
    size_t used = 0;
    for (int i = 0; i < MF_LEFT_OUT; i++) {
        const mf_left_out *l = &s->leads.left_out[i];
        if (l->count && used < sizeof reasons)
            used += (size_t)snprintf(reasons + used, sizeof reasons - used, "; %d such as %s, which %.100s",
                                     l->count, l->mesh, l->why);
    }
    return MF_FAIL(MF_EINVAL, "no layout of %d rank%s is left%s", s->options->ranks,
                   s->options->ranks == 1 ? "" : "s", reasons);
}

/* Finds all leads and sketches them. */
static mf_status begin(search *s) {
    int threads = s->options->threads;
    if (s->options->ranks < 1) return MF_FAIL(MF_EINVAL, "a search for %d ranks", s->options->ranks);
    MF_TRY(mf_leads_find(s->options, &s->leads));
    if (s->leads.count == 0) return no_layout(s);
    MF_TRY(mf_host_alloc((size_t)s->leads.count, sizeof *s->pick, &s->pick));
    return mf_parallel(threads, s->leads.count, sketch_one, s);
}

static int fitting(const search *s) {
    int fit = 0;
    for (int i = 0; i < s->leads.count; i++)
        fit += s->leads.lead[i].screened && s->leads.lead[i].short_by_bytes == 0;
    return fit;
}

static void order(search *s) {
    qsort(s->leads.lead, (size_t)s->leads.count, sizeof *s->leads.lead, better_lead);
}

/* Leads that are not screened yet and by the formula fit. */
static int hopeful(const search *s) {
    int count = 0;
    for (int i = 0; i < s->leads.count; i++)
        count += !s->leads.lead[i].screened && s->leads.lead[i].short_by_bytes == 0;
    return count;
}

/* More rounds only where the formula took too much to fit. */
static mf_status screen(search *s) {
    for (int round = 0; round < ROUNDS && fitting(s) < FULL; round++) {
        int most = (int)mf_min(hopeful(s), SCREENED);
        if (round > 0 && most == 0) break;
        order(s);
        choose(s, false, most ? most : SCREENED_SHORT, round ? 0 : SCREENED_EACH);
        MF_TRY(mf_parallel(s->options->threads, s->picks, screen_one, s));
        s->out->screened += s->picks;
    }
    order(s);
    return MF_OK;
}

static mf_status run_best(search *s) {
    choose(s, true, FULL, FULL_EACH);
    MF_TRY(mf_host_alloc((size_t)s->picks, sizeof *s->out->found, &s->out->found));
    MF_TRY(mf_parallel(s->options->threads, s->picks, run_one, s));
    s->out->count = s->picks;
    qsort(s->out->found, (size_t)s->out->count, sizeof *s->out->found, better_found);
    return MF_OK;
}

static void end(search *s) {
    mf_leads_free(&s->leads);
    mf_host_free(s->pick);
}

mf_status mf_search(const mf_cluster *cluster, const mf_search_options *options, mf_search_result *result) {
    mf_status status = MF_OK;
    search s = {.cluster = cluster, .options = options, .out = result};
    MF_GO(begin(&s));
    MF_GO(screen(&s));
    MF_GO(run_best(&s));
    result->tried = s.leads.count;
    result->fit = fitting(&s);
    memcpy(result->left_out, s.leads.left_out, sizeof result->left_out);
fail:
    end(&s);
    return status;
}

void mf_search_free(mf_search_result *result) {
    mf_host_free(result->found);
    *result = (mf_search_result){0};
}

/* Of what needs the least memory, does anything fit? */
static mf_status fits_somehow(const mf_cluster *cluster, const mf_search_options *options, bool *fits) {
    mf_status status = MF_OK;
    mf_plan_result plan = {0};
    search s = {.cluster = cluster, .options = options};
    MF_GO(begin(&s));
    qsort(s.leads.lead, (size_t)s.leads.count, sizeof *s.leads.lead, smaller_lead);
    choose(&s, false, THRIFTY, THRIFTY_EACH);
    MF_GO(mf_parallel(options->threads, s.picks, screen_one, &s));
    for (int i = 0; i < s.picks && !plan.fits; i++) {
        const mf_lead *lead = &s.leads.lead[s.pick[i]];
        if (lead->short_by_bytes == 0) MF_GO(mf_plan(cluster, &lead->options, 0, options->borrows, &plan));
    }
    *fits = plan.fits;
fail:
    end(&s);
    return status;
}

mf_status mf_search_enough(const mf_cluster *cluster, const mf_search_options *options, int most,
                           int *ranks) {
    mf_search_options o = *options;
    bool fits = false;
    if (o.any_recompute) o.model.recompute = MF_RECOMPUTE_BLOCK;
    o.any_recompute = false;
    *ranks = 0;
    while (!fits && o.ranks <= most / 2) {
        o.ranks *= 2;
        MF_TRY(fits_somehow(cluster, &o, &fits));
    }
    if (fits) *ranks = o.ranks;
    return MF_OK;
}
