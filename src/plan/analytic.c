/* analytic.c: the TSP paper's table, for any model and degree: docs/volumes.md without (D-1)/D, forward only.
 */
#include "meshfold/analytic.h"

#include <math.h>

/* Key and value elements of a token in one layer. */
static double keys_of_a_token(const mf_model_config *c) { return 2 * (double)(c->kv_heads * c->head_dim); }

static double state_bytes_each(const mf_model_options *o) {
    double weights = (double)mf_dtype_bytes(o->type), gradients = 4, moments = 8;
    double masters = o->type == MF_F32 ? 0 : 4;
    return o->forward_only ? weights : weights + gradients + moments + masters;
}

/* As docs/architecture.md says under "Memory, by category". */
static void count_kept(const mf_model_options *o, mf_analytic *t) {
    double g = t->key_share, F = t->ffn_ratio;
    bool everything = o->recompute == MF_RECOMPUTE_NONE;
    t->between = everything ? 2 : 1;
    t->inside = everything ? 2 + 2 * g + 2 * F : o->recompute == MF_RECOMPUTE_ATTENTION ? 2 * F : 0;
    if (!o->forward_only) return;
    t->between = 1 / (double)o->config.layers; /* the residual stream */
    t->inside = 0;
}

static void describe(const mf_model_options *o, mf_analytic *t) {
    const mf_model_config *c = &o->config;
    double h = (double)c->hidden, d = (double)c->head_dim;
    t->key_share = (double)c->kv_heads / (double)c->heads;
    t->ffn_ratio = (double)c->ffn / h;
    t->tokens = (double)o->batch * (double)o->tokens;
    t->attention = 2 * h * d * (double)(c->heads + c->kv_heads);
    t->mlp = 3 * h * (double)c->ffn;
    t->weights = (double)c->layers * (t->attention + t->mlp) + (c->tied ? 1 : 2) * (double)c->vocab * h;
    t->state_bytes_each = state_bytes_each(o);
    count_kept(o, t);
}

/* zero3+sp has the part at work and the next one, tsp two shards of one part, and the keys of a shard's
 * heads. */
static double in_flight(const mf_analytic *t, const mf_analytic_row *r, double keys) {
    if (r->scheme == MF_SCHEME_ZERO3_SP) return t->attention + t->mlp + keys;
    if (r->scheme == MF_SCHEME_TSP) return fmax(2 * t->attention + keys, 2 * t->mlp) / r->stream;
    return r->sequence > 1 ? keys / r->tensor : 0;
}

static void add_row(const mf_model_options *o, mf_analytic *t, mf_analytic_row r) {
    double h = (double)o->config.hidden, keys = keys_of_a_token(&o->config);
    double T = r.tensor, Z = r.sequence;
    double between = t->between / (r.scheme == MF_SCHEME_TP_SCATTER ? T : 1);
    r.state_bytes = t->weights * t->state_bytes_each / (T * r.stream);
    r.kept = (double)o->config.layers * t->tokens / Z * h * (between + t->inside / T);
    r.fixed = r.stream > 1 ? t->attention + t->mlp : 0;
    r.per_token = (T > 1 ? 4 * h / Z : 0) + (Z > 1 ? keys / T : 0);
    r.sent = r.fixed + r.per_token * t->tokens;
    r.in_flight = in_flight(t, &r, keys * t->tokens);
    t->row[t->rows++] = r;
}

static void find_crossovers(mf_analytic *t) {
    const mf_analytic_row *tsp = &t->row[t->rows - 1];
    for (int i = 0; i < t->rows; i++) {
        mf_analytic_row *r = &t->row[i];
        double gain = r->per_token - tsp->per_token;
        r->tsp_less_beyond = gain > 0 ? (tsp->fixed - r->fixed) / gain : INFINITY;
    }
}

mf_status mf_analytic_make(const mf_model_options *o, int D, mf_analytic *out) {
    if (D < 2 || D > MF_ANALYTIC_DEGREE)
        return MF_FAIL(MF_EINVAL, "a degree of %d: from 2 to %d ranks can share a model", D,
                       MF_ANALYTIC_DEGREE);
    *out = (mf_analytic){.degree = D};
    describe(o, out);
    add_row(o, out, (mf_analytic_row){MF_SCHEME_TP, .tensor = D, .sequence = 1, .stream = 1});
    add_row(o, out, (mf_analytic_row){MF_SCHEME_TP_SCATTER, .tensor = D, .sequence = 1, .stream = 1});
    add_row(o, out, (mf_analytic_row){MF_SCHEME_SP, .tensor = 1, .sequence = D, .stream = 1});
    for (int T = D / 2; T > 1; T--)
        if (D % T == 0)
            add_row(o, out, (mf_analytic_row){MF_SCHEME_TP_SP, .tensor = T, .sequence = D / T, .stream = 1});
    add_row(o, out, (mf_analytic_row){MF_SCHEME_ZERO3_SP, .tensor = 1, .sequence = D, .stream = D});
    add_row(o, out, (mf_analytic_row){MF_SCHEME_TSP, .tensor = 1, .sequence = D, .stream = D});
    find_crossovers(out);
    return MF_OK;
}
