/* leads.c: every layout that so many ranks can make, as texts, and what was left out and why. */
#include "plan/search.h"

#include <stdio.h>
#include <string.h>

/* Fewer tokens a rank than this are not worth sharing out. */
enum { TOKENS_LEAST = 16 };
/* One choice of words beside the axes; words are empty, or begin with a comma. */
typedef struct choice {
    const char *stream, *exchange, *reduction, *rest;
} choice;

typedef struct finder {
    const mf_search_options *options;
    mf_leads *out;
    int dp, sp, tsp, dsp, tp;
    char axes[64];
} finder;

enum { TOO_MANY_TP, TOO_MANY_TSP, TOO_FEW_TOKENS, TOO_MANY_SHARES, WORDS, MODEL };

static void leave_out(mf_leads *leads, int reason, const char *mesh, const char *why) {
    mf_left_out *l = &leads->left_out[reason];
    if (l->count++ > 0) return;
    snprintf(l->mesh, sizeof l->mesh, "%s", mesh);
    snprintf(l->why, sizeof l->why, "%s", why);
}

static mf_status add(mf_leads *leads, const mf_lead *lead) {
    if (leads->count == leads->room) {
        mf_lead *more = NULL;
        leads->room = leads->room ? 2 * leads->room : 256;
        MF_TRY(mf_host_alloc((size_t)leads->room, sizeof *more, &more));
        if (leads->count) memcpy(more, leads->lead, (size_t)leads->count * sizeof *more);
        mf_host_free(leads->lead);
        leads->lead = more;
    }
    leads->lead[leads->count++] = *lead;
    return MF_OK;
}

static mf_status add_modes(finder *f, mf_lead *lead) {
    bool all = f->options->any_recompute && !f->options->model.forward_only;
    if (!all) return add(f->out, lead);
    for (int mode = MF_RECOMPUTE_NONE; mode <= MF_RECOMPUTE_BLOCK; mode++) {
        lead->options.model.recompute = (mf_recompute)mode;
        MF_TRY(add(f->out, lead));
    }
    return MF_OK;
}

/* An error about a mesh begins with it: "--mesh tsp=2: ...". */
static const char *without_mesh(const char *message) {
    const char *end = strncmp(message, "--mesh ", 7) == 0 ? strstr(message, ": ") : NULL;
    return end ? end + 2 : message;
}

static mf_status add_layout(finder *f, const choice *c) {
    mf_lead lead = {.options = {.model = f->options->model, .threads = 1, .device = f->options->device}};
    mf_measure_options *o = &lead.options;
    snprintf(lead.mesh, sizeof lead.mesh, "%s%s%s%s%s", f->axes, c->stream, c->exchange, c->reduction,
             c->rest);
    int reason = WORDS;
    mf_status status = mf_layout_parse(lead.mesh, &mf_layout_words_none, &o->mesh, &o->layout);
    if (!status) {
        reason = MODEL;
        status = mf_model_check(&o->model, &o->layout, &o->mesh);
    }
    if (status) {
        leave_out(f->out, reason, lead.mesh, without_mesh(mf_error_last()->message));
        return MF_OK;
    }
    lead.family = mf_plan_family(&o->mesh, &o->layout);
    return add_modes(f, &lead);
}

/* Appends ",name=value" where a value was given. */
static void append(char *text, size_t room, const char *name, const char *value) {
    size_t used = strlen(text);
    if (value && *value) snprintf(text + used, room - used, ",%s=%s", name, value);
}

/* The streams worth trying, or those that were given: NULL ends the list. */
static void list_streams(const finder *f, char given[96], const char *out[4]) {
    const mf_layout_words *w = &f->options->words;
    *given = '\0';
    append(given, 96, "stream", w->stream);
    append(given, 96, "attention-stream", w->attention_stream);
    append(given, 96, "mlp-stream", w->mlp_stream);
    out[0] = given;
    out[1] = out[2] = out[3] = NULL;
    if (*given) return;
    if (f->tsp > 1 || f->dsp > 1) out[1] = ",stream=ring";
    if (f->dsp > 1)
        out[2] = ",stream=gather";
    else if (f->tsp == 1 && f->sp > 1) /* any stream on sp alone is what tsp is: but gather is ZeRO-3 */
        out[1] = ",stream=gather";
}

static void list_exchanges(const finder *f, char given[32], const char *out[4]) {
    *given = '\0';
    append(given, 32, "exchange", f->options->words.exchange);
    out[0] = given;
    out[1] = out[2] = out[3] = NULL;
    if (*given || f->sp * f->tsp == 1) return;
    out[1] = ",exchange=ring";
    out[2] = ",exchange=ulysses";
}

static void list_reductions(const finder *f, char given[32], const char *out[3]) {
    *given = '\0';
    append(given, 32, "reduction", f->options->words.reduction);
    out[0] = given;
    out[1] = out[2] = NULL;
    if (!*given && f->tp > 1 && f->dsp == 1) out[1] = ",reduction=scatter";
}

/* tsp's own stream of attention brings heads one shard after another, and ulysses wants all. */
static bool senseless(const finder *f, const choice *c) {
    return !f->options->words.exchange && f->tsp > 1 && !*c->stream &&
           strcmp(c->exchange, ",exchange=ulysses") == 0;
}

static mf_status add_choices(finder *f, const char *rest) {
    char stream[96], exchange[32], reduction[32];
    const char *streams[4], *exchanges[4], *reductions[3];
    list_streams(f, stream, streams);
    list_exchanges(f, exchange, exchanges);
    list_reductions(f, reduction, reductions);
    for (int s = 0; streams[s]; s++)
        for (int e = 0; exchanges[e]; e++)
            for (int r = 0; reductions[r]; r++) {
                choice c = {streams[s], exchanges[e], reductions[r], rest};
                if (!senseless(f, &c)) MF_TRY(add_layout(f, &c));
            }
    return MF_OK;
}

/* The most that talks innermost, where links are the fastest: tp's sums are waited for twice a layer; tsp
 * streams weights and keys; sp sends keys, and, streaming, weights too; dsp switches once a layer; dp sends
 * once a step. */
static void name_axes(finder *f) {
    const char *const names[] = {"dp", "sp", "tsp", "dsp", "tp"};
    int sizes[] = {f->dp, f->sp, f->tsp, f->dsp, f->tp};
    size_t used = 0;
    for (int i = 0; i < 5; i++)
        if (sizes[i] > 1)
            used += (size_t)snprintf(f->axes + used, sizeof f->axes - used, "%s%s=%d", used ? "," : "",
                                     names[i], sizes[i]);
    if (!used) snprintf(f->axes, sizeof f->axes, "single");
}

static bool finds_clips(const finder *f) { return f->options->model.config.family == MF_STDIT; }

/* Ranks that can have some of a clip, where these cut it: by places, and dsp by frames too. */
static int64_t most_shares(const finder *f) {
    const mf_clip_grid *g = &f->options->model.grid;
    if (!finds_clips(f)) return INT64_MAX;
    return f->dsp > 1 ? mf_min(g->frames, mf_clip_places(g)) : mf_clip_places(g);
}

/* What no search need try: more shares than there are heads, frames or places, or of a few tokens. */
static bool too_many(finder *f) {
    const mf_model_options *m = &f->options->model;
    int64_t shares = (int64_t)f->sp * f->tsp * f->dsp;
    char why[96];
    int reason = f->tp > m->config.heads            ? TOO_MANY_TP
                 : f->tsp * f->tp > m->config.heads ? TOO_MANY_TSP
                 : shares > most_shares(f)          ? TOO_MANY_SHARES
                                                    : TOO_FEW_TOKENS;
    if (reason == TOO_FEW_TOKENS && shares * TOKENS_LEAST <= mf_max(m->tokens, TOKENS_LEAST)) return false;
    if (reason == TOO_FEW_TOKENS)
        snprintf(why, sizeof why, "leaves a rank fewer than %d of a sequence's %lld tokens", TOKENS_LEAST,
                 (long long)m->tokens);
    else if (reason == TOO_MANY_SHARES)
        snprintf(why, sizeof why, "leaves ranks without any of a clip's %lld frames of %lld places",
                 (long long)m->grid.frames, (long long)mf_clip_places(&m->grid));
    else
        snprintf(why, sizeof why, "leaves ranks without any of the model's %lld heads",
                 (long long)m->config.heads);
    leave_out(f->out, reason, f->axes, why);
    return true;
}

static mf_status add_mesh(finder *f) {
    char rest[64] = "";
    name_axes(f);
    if (too_many(f)) return MF_OK;
    if (f->options->words.kv_bucket > 0)
        snprintf(rest, sizeof rest, ",kv-bucket=%lld", (long long)f->options->words.kv_bucket);
    if (f->options->words.zero == 0) append(rest, sizeof rest, "zero", "0");
    return add_choices(f, rest);
}

/* What tp leaves, as dp, sp and tsp; or as dp and dsp. */
static mf_status add_folded(finder *f, int left) {
    for (f->tsp = 1; f->tsp <= left; f->tsp++) {
        if (left % f->tsp) continue;
        for (f->sp = 1; f->sp <= left / f->tsp; f->sp++) {
            if (left / f->tsp % f->sp) continue;
            f->dp = left / f->tsp / f->sp;
            MF_TRY(add_mesh(f));
        }
    }
    return MF_OK;
}

static mf_status add_switched(finder *f, int left) {
    f->sp = f->tsp = 1;
    for (f->dsp = 2; f->dsp <= left; f->dsp++) {
        if (left % f->dsp) continue;
        f->dp = left / f->dsp;
        MF_TRY(add_mesh(f));
    }
    f->dsp = 1;
    return MF_OK;
}

mf_status mf_leads_find(const mf_search_options *options, mf_leads *out) {
    finder f = {.options = options, .out = out, .dsp = 1};
    int n = options->ranks;
    for (f.tp = 1; f.tp <= n; f.tp++) {
        if (n % f.tp) continue;
        MF_TRY(add_folded(&f, n / f.tp));
        if (finds_clips(&f)) MF_TRY(add_switched(&f, n / f.tp));
    }
    return MF_OK;
}

void mf_leads_free(mf_leads *leads) {
    mf_host_free(leads->lead);
    *leads = (mf_leads){0};
}
