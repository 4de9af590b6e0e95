/* plan_analytic.c: see plan_analytic.h. */
#include "cli/plan_analytic.h"

#include "cli/plan_table.h"
#include "cli/text.h"

#include <math.h>
#include <stdio.h>

/* A layer's matrices are Wh^2, attention's Ah^2 of them. tp + sp is written as its two factors. */
typedef struct formula {
    const char *axis, *words, *sent, *in_flight;
} formula;

static const formula formulas[] = {
    [MF_SCHEME_TP] = {"tp", "", "4BSh", "0"},
    [MF_SCHEME_TP_SCATTER] = {"tp", ",reduction=scatter", "4BSh", "0"},
    [MF_SCHEME_SP] = {"sp", "", "2gBSh", "2gBSh"},
    [MF_SCHEME_TP_SP] = {NULL, NULL, "4BSh/Z + 2gBSh/T", "2gBSh/T"},
    [MF_SCHEME_ZERO3_SP] = {"sp", ",stream=gather", "Wh^2 + 2gBSh", "Wh^2 + 2gBSh"},
    [MF_SCHEME_TSP] = {"tsp", "", "Wh^2 + 2gBSh", "max(2Ah^2 + 2gBSh, 6Fh^2)/D"}};

/* As --mesh takes it. */
static const char *mesh_of(const mf_analytic *t, const mf_analytic_row *r, char out[48]) {
    const formula *f = &formulas[r->scheme];
    if (f->axis)
        snprintf(out, 48, "%s=%d%s", f->axis, t->degree, f->words);
    else
        snprintf(out, 48, "tp=%d,sp=%d", r->tensor, r->sequence);
    return out;
}

static const mf_analytic_row *row_of(const mf_analytic *t, mf_scheme scheme) {
    const mf_analytic_row *r = t->row;
    while (r->scheme != scheme) r++;
    return r;
}

static double h_multiples(const mf_model_options *o, double tokens) {
    return tokens / (double)o->config.hidden;
}

static void print_head(const mf_model_options *o, const mf_analytic *t) {
    const mf_model_config *c = &o->config;
    double h = (double)c->hidden;
    char layers[32], all[32];
    printf(
        "model   h = %lld, %lld layers of %s matrix elements, %s in all with embedding and head; g = %.4g, "
        "F = %.4g,\n"
        "        A = 2+2g = %.4g, W = 2+2g+3F = %.4g\n",
        (long long)c->hidden, (long long)c->layers, mf_rate_text(t->attention + t->mlp, layers),
        mf_rate_text(t->weights, all), t->key_share, t->ffn_ratio, t->attention / (h * h),
        (t->attention + t->mlp) / (h * h));
    printf("tokens  BS = %.0f = %.4gh, on D = %d ranks, %s\n\n", t->tokens, h_multiples(o, t->tokens),
           t->degree, mf_dtype_name(o->type));
}

static const char *beyond_text(const mf_model_options *o, const mf_analytic_row *r, char out[32]) {
    if (r->scheme == MF_SCHEME_TSP) return "-";
    if (isinf(r->tsp_less_beyond)) return "nowhere";
    snprintf(out, 32, "BS > %.4gh", h_multiples(o, r->tsp_less_beyond));
    return out;
}

static void print_row(const mf_model_options *o, const mf_analytic *t, const mf_analytic_row *r) {
    const formula *f = &formulas[r->scheme];
    double width = (double)mf_dtype_bytes(o->type);
    char mesh[48], text[5][32];
    printf("%-24s %10s %11s  %-16s %9s %10s  %-27s %10s  %s\n", mesh_of(t, r, mesh),
           mf_bytes_text(r->state_bytes, text[0]), mf_bytes_text(r->kept * width, text[1]), f->sent,
           mf_rate_text(r->sent, text[2]), mf_bytes_text(r->sent * width, text[3]), f->in_flight,
           mf_bytes_text(r->in_flight * width, text[4]), beyond_text(o, r, (char[32]){0}));
}

static void print_crossover(const mf_model_options *o, const mf_analytic *t) {
    double at = row_of(t, MF_SCHEME_TP)->tsp_less_beyond;
    double share = row_of(t, MF_SCHEME_TSP)->sent / row_of(t, MF_SCHEME_TP)->sent;
    printf("\ntsp sends less than tp where Wh^2 + 2gBSh < 4BSh: BS > W/(4-2g) h = %.4gh = %.0f tokens.\n"
           "%.0f tokens are %s: tsp sends %.3g times what tp sends.\n",
           h_multiples(o, at), at, t->tokens,
           t->tokens > at   ? "beyond it"
           : t->tokens < at ? "short of it"
                            : "exactly there",
           share);
}

static const char *state_text(const mf_model_options *o) {
    if (o->forward_only) return "weights alone";
    return o->type == MF_BF16 ? "2 weights, 4 gradients, 8 moments, 4 f32 weights"
                              : "4 weights, 4 gradients, 8 moments";
}

static void print_kept(const mf_model_options *o, const mf_analytic *t) {
    if (o->forward_only) {
        printf("  Activations: the residual stream; the layer at work is left out.\n");
        return;
    }
    printf(
        "  Activations, recompute %s: %.4gh a token and layer, of which tp cuts %.4gh; the layer at work is "
        "left out.\n",
        mf_recompute_name(o->recompute), t->between + t->inside, t->inside);
}

static void print_assumptions(const mf_model_options *o, const mf_analytic *t) {
    const mf_model_config *c = &o->config;
    bool square = c->heads * c->head_dim == c->hidden;
    printf("\nAssumed, of one rank:\n"
           "  State: %.0f bytes a parameter (%s), without norms;\n"
           "  sp and tp+sp keep it whole on all ranks that share a sequence (zero=0).\n",
           t->state_bytes_each, state_text(o));
    print_kept(o, t);
    printf("  Sent: a layer's forward, in %s. A factor (D-1)/D is left out, with tp=T,sp=Z (T-1)/T and "
           "(Z-1)/Z.\n"
           "  In flight: weights and keys of other ranks; of stream=gather (ZeRO-3) a whole layer and all "
           "keys, of "
           "tsp two\n"
           "  shards of half a layer, attention's with the keys of their heads.\n"
           "  Key heads divide evenly over ranks; h = n_h d%s.\n",
           mf_dtype_name(o->type),
           square ? "" : ", which does not hold here: numbers use the model's own sizes");
}

static void print_table(const mf_model_options *o, const mf_analytic *t) {
    print_head(o, t);
    printf("%-24s %10s %11s  %-37s  %-38s  %s\n", "mesh", "state", "activations", "sent in a layer's forward",
           "in flight, forward", "tsp sends less");
    for (int i = 0; i < t->rows; i++) print_row(o, t, &t->row[i]);
    print_crossover(o, t);
    print_assumptions(o, t);
}

static json_t *tokens_json(double tokens) { return isinf(tokens) ? json_null() : json_real(tokens); }

static json_t *row_json(const mf_model_options *o, const mf_analytic *t, const mf_analytic_row *r) {
    const formula *f = &formulas[r->scheme];
    double width = (double)mf_dtype_bytes(o->type);
    char mesh[48];
    return json_pack("{s:s, s:f, s:f, s:s, s:f, s:f, s:s, s:f, s:o}", "layout", mesh_of(t, r, mesh),
                     "state_bytes", r->state_bytes, "activation_bytes", r->kept * width, "sent", f->sent,
                     "sent_elements", r->sent, "sent_bytes", r->sent * width, "in_flight", f->in_flight,
                     "in_flight_bytes", r->in_flight * width, "tsp_sends_less_beyond_tokens",
                     tokens_json(r->tsp_less_beyond));
}

static mf_status print_json(const mf_model_options *o, const mf_analytic *t) {
    json_t *layouts = json_array();
    for (int i = 0; i < t->rows; i++) json_array_append_new(layouts, row_json(o, t, &t->row[i]));
    json_t *out = json_pack(
        "{s:i, s:f, s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:o, s:o}", "degree", t->degree, "tokens", t->tokens,
        "dtype", mf_dtype_name(o->type), "recompute", mf_recompute_name(o->recompute), "g", t->key_share, "F",
        t->ffn_ratio, "layer_elements", t->attention + t->mlp, "elements", t->weights,
        "state_bytes_a_parameter", t->state_bytes_each, "tsp_sends_less_than_tp_beyond_tokens",
        tokens_json(row_of(t, MF_SCHEME_TP)->tsp_less_beyond), "layouts", layouts);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    printf("\n");
    json_decref(out);
    return MF_OK;
}

mf_status mf_plan_analytic(const mf_model_options *model, int degree, bool json) {
    mf_analytic table;
    MF_TRY(mf_analytic_make(model, degree, &table));
    if (json) return print_json(model, &table);
    print_table(model, &table);
    return MF_OK;
}
