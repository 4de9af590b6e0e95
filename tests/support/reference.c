/* reference.c: see reference.h. Clear before fast: every value of the forward pass is kept in one big
 * structure. */
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WQ, WK, WV, WO, WGATE, WUP, WDOWN, NORM1, NORM2, PER_LAYER, BQ = PER_LAYER, BK, BV, NORMQ, NORMK };

static double *zeros(int64_t n) { return calloc((size_t)(n > 0 ? n : 1), sizeof(double)); }

/* What a layer computes, n = batch * tokens rows. */
typedef struct layer {
    double *x, *n1, *q, *k, *v, *p, *a, *middle, *n2, *gate, *up,
        *inner;                /* p: [batch, heads, tokens, tokens] */
    double *plain_q, *plain_k; /* before the norms of heads */
} layer;

typedef struct pass {
    const reference *r;
    int64_t n, h, hd, kvd; /* rows; hidden; heads * head_dim; kv_heads * head_dim */
    layer *layer;
    double *x, *normed, *prob; /* last hidden, final norm, softmax of logits: [n, vocab] */
} pass;

static int per_layer(const pass *p) {
    return PER_LAYER + (p->r->config.qkv_bias ? 3 : 0) + (p->r->config.qk_norm ? 2 : 0);
}
/* Biases come before norms of heads, where there are any. */
static int64_t place(const pass *p, int64_t l, int which) {
    return l * per_layer(p) + which - (which >= NORMQ && !p->r->config.qkv_bias ? 3 : 0);
}
static const double *weight(const pass *p, int64_t l, int which) { return p->r->value[place(p, l, which)]; }
static double *grad(const pass *p, int64_t l, int which) { return p->r->grad[place(p, l, which)]; }
static int embedding(const pass *p) { return (int)p->r->config.layers * per_layer(p); }
static int head(const pass *p) { return embedding(p) + (p->r->config.tied ? 0 : 2); }

/* y[n, out] += x[n, in] w[out, in]' */
static void map(const double *x, const double *w, double *y, int64_t n, int64_t in, int64_t out) {
    for (int64_t t = 0; t < n; t++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t i = 0; i < in; i++) y[t * out + o] += x[t * in + i] * w[o * in + i];
}

/* dx += dy w; dw += dy' x */
static void map_back(const double *x, const double *w, const double *dy, double *dx, double *dw, int64_t n,
                     int64_t in, int64_t out) {
    for (int64_t t = 0; t < n; t++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t i = 0; i < in; i++) {
                dx[t * in + i] += dy[t * out + o] * w[o * in + i];
                dw[o * in + i] += dy[t * out + o] * x[t * in + i];
            }
}

static double inverse_rms(const double *x, int64_t h, double eps) {
    double sum = 0;
    for (int64_t i = 0; i < h; i++) sum += x[i] * x[i];
    return 1 / sqrt(sum / (double)h + eps);
}

/* Of n rows of h. */
static void norm_rows(const pass *p, int64_t n, int64_t h, const double *x, const double *w, double *y) {
    for (int64_t t = 0; t < n; t++) {
        double r = inverse_rms(x + t * h, h, p->r->config.norm_eps);
        for (int64_t i = 0; i < h; i++) y[t * h + i] = x[t * h + i] * r * w[i];
    }
}

static void norm_rows_back(const pass *p, int64_t n, int64_t h, const double *x, const double *w,
                           const double *dy, double *dx, double *dw) {
    for (int64_t t = 0; t < n; t++) {
        const double *row = x + t * h, *d = dy + t * h;
        double r = inverse_rms(row, h, p->r->config.norm_eps), dot = 0;
        for (int64_t i = 0; i < h; i++) {
            dot += d[i] * w[i] * row[i];
            dw[i] += d[i] * row[i] * r;
        }
        for (int64_t i = 0; i < h; i++)
            dx[t * h + i] += r * w[i] * d[i] - row[i] * r * r * r * dot / (double)h;
    }
}

static void norm(const pass *p, const double *x, const double *w, double *y) {
    norm_rows(p, p->n, p->h, x, w, y);
}

static void norm_back(const pass *p, const double *x, const double *w, const double *dy, double *dx,
                      double *dw) {
    norm_rows_back(p, p->n, p->h, x, w, dy, dx, dw);
}

/* What pair i of a head turns by each token: Llama 3.1's rule by wavelengths, as transformers has it. */
static double frequency(const mf_model_config *c, int64_t i) {
    double plain = pow(c->rope_theta, -2.0 * (double)i / (double)c->head_dim);
    const mf_rope_scaling *s = &c->scaling;
    double wavelength = 2 * acos(-1) / plain, original = (double)s->original;
    if (s->kind == MF_ROPE_PLAIN) return plain;
    if (s->kind == MF_ROPE_LINEAR || wavelength > original / s->low_freq) return plain / s->factor;
    if (wavelength < original / s->high_freq) return plain;
    double smooth = (original / wavelength - s->low_freq) / (s->high_freq - s->low_freq);
    return (1 - smooth) * plain / s->factor + smooth * plain;
}

/* Turns every head by its token's position, by -position when `back`. */
static void rope(const pass *p, double *x, int64_t heads, int back) {
    int64_t d = p->r->config.head_dim, half = d / 2;
    for (int64_t t = 0; t < p->n; t++)
        for (int64_t hd = 0; hd < heads; hd++)
            for (int64_t i = 0; i < half; i++) {
                double angle = (double)(t % p->r->tokens) * frequency(&p->r->config, i);
                double c = cos(angle), s = back ? -sin(angle) : sin(angle);
                double *a = &x[(t * heads + hd) * d + i], *b = a + half, u = *a, v = *b;
                *a = u * c - v * s;
                *b = v * c + u * s;
            }
}

static double *probability(const pass *p, const layer *l, int64_t b, int64_t hd, int64_t i) {
    int64_t s = p->r->tokens;
    return l->p + ((b * p->r->config.heads + hd) * s + i) * s;
}

/* The first key that query i of a layer sees. */
static int64_t first_seen(const pass *p, int64_t index, int64_t i) {
    const mf_model_config *c = &p->r->config;
    bool all = !c->window || index < c->window_from || i < c->window;
    return all ? 0 : i - c->window + 1;
}

static void attend(const pass *p, int64_t index, layer *l) {
    const mf_model_config *c = &p->r->config;
    int64_t s = p->r->tokens, d = c->head_dim, group = c->heads / c->kv_heads;
    for (int64_t b = 0; b < p->r->batch; b++)
        for (int64_t hd = 0; hd < c->heads; hd++)
            for (int64_t i = 0; i < s; i++) {
                double *prob = probability(p, l, b, hd, i), sum = 0, maximum = -INFINITY;
                const double *q = l->q + (b * s + i) * p->hd + hd * d;
                int64_t from = first_seen(p, index, i);
                for (int64_t j = from; j <= i; j++) {
                    const double *k = l->k + (b * s + j) * p->kvd + hd / group * d;
                    for (int64_t e = 0; e < d; e++) prob[j] += q[e] * k[e] / sqrt((double)d);
                    maximum = fmax(maximum, prob[j]);
                }
                for (int64_t j = from; j <= i; j++) sum += prob[j] = exp(prob[j] - maximum);
                for (int64_t j = from; j <= i; j++) {
                    const double *v = l->v + (b * s + j) * p->kvd + hd / group * d;
                    prob[j] /= sum;
                    for (int64_t e = 0; e < d; e++) l->a[(b * s + i) * p->hd + hd * d + e] += prob[j] * v[e];
                }
            }
}

static void attend_back(const pass *p, const layer *l, const double *da, double *dq, double *dk, double *dv) {
    const mf_model_config *c = &p->r->config;
    int64_t s = p->r->tokens, d = c->head_dim, group = c->heads / c->kv_heads;
    double *dp = zeros(s);
    for (int64_t b = 0; b < p->r->batch; b++)
        for (int64_t hd = 0; hd < c->heads; hd++)
            for (int64_t i = 0; i < s; i++) {
                const double *prob = probability(p, l, b, hd, i), *out = da + (b * s + i) * p->hd + hd * d;
                int64_t q_at = (b * s + i) * p->hd + hd * d;
                double dot = 0;
                for (int64_t j = 0; j <= i; j++) {
                    int64_t at = (b * s + j) * p->kvd + hd / group * d;
                    dp[j] = 0;
                    for (int64_t e = 0; e < d; e++) {
                        dp[j] += out[e] * l->v[at + e];
                        dv[at + e] += prob[j] * out[e];
                    }
                    dot += dp[j] * prob[j];
                }
                for (int64_t j = 0; j <= i; j++) {
                    int64_t at = (b * s + j) * p->kvd + hd / group * d;
                    double ds = prob[j] * (dp[j] - dot) / sqrt((double)d);
                    for (int64_t e = 0; e < d; e++) {
                        dq[q_at + e] += ds * l->k[at + e];
                        dk[at + e] += ds * l->q[q_at + e];
                    }
                }
            }
    free(dp);
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static void add_bias(double *x, const double *bias, int64_t n, int64_t width) {
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < width; i++) x[t * width + i] += bias[i];
}

static void bias_back(const double *dx, double *dbias, int64_t n, int64_t width) {
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < width; i++) dbias[i] += dx[t * width + i];
}

/* d: of the norms of n heads; becomes that of the heads. */
static void heads_norm_back(const pass *p, int64_t n, const double *plain, const double *w, double *d,
                            double *dw) {
    int64_t width = n * p->r->config.head_dim;
    double *dx = zeros(width);
    norm_rows_back(p, n, p->r->config.head_dim, plain, w, d, dx, dw);
    memcpy(d, dx, (size_t)width * sizeof *d);
    free(dx);
}

static void layer_forward(const pass *p, int64_t index, const double *x, double *out) {
    layer *l = &p->layer[index];
    const mf_model_config *c = &p->r->config;
    memcpy(l->x, x, (size_t)(p->n * p->h) * sizeof(double));
    norm(p, x, weight(p, index, NORM1), l->n1);
    map(l->n1, weight(p, index, WQ), l->q, p->n, p->h, p->hd);
    map(l->n1, weight(p, index, WK), l->k, p->n, p->h, p->kvd);
    map(l->n1, weight(p, index, WV), l->v, p->n, p->h, p->kvd);
    if (c->qkv_bias) {
        add_bias(l->q, weight(p, index, BQ), p->n, p->hd);
        add_bias(l->k, weight(p, index, BK), p->n, p->kvd);
        add_bias(l->v, weight(p, index, BV), p->n, p->kvd);
    }
    if (c->qk_norm) {
        memcpy(l->plain_q, l->q, (size_t)(p->n * p->hd) * sizeof(double));
        memcpy(l->plain_k, l->k, (size_t)(p->n * p->kvd) * sizeof(double));
        norm_rows(p, p->n * c->heads, c->head_dim, l->plain_q, weight(p, index, NORMQ), l->q);
        norm_rows(p, p->n * c->kv_heads, c->head_dim, l->plain_k, weight(p, index, NORMK), l->k);
    }
    rope(p, l->q, c->heads, 0);
    rope(p, l->k, c->kv_heads, 0);
    attend(p, index, l);
    memcpy(l->middle, x, (size_t)(p->n * p->h) * sizeof(double));
    map(l->a, weight(p, index, WO), l->middle, p->n, p->hd, p->h);
    norm(p, l->middle, weight(p, index, NORM2), l->n2);
    map(l->n2, weight(p, index, WGATE), l->gate, p->n, p->h, c->ffn);
    map(l->n2, weight(p, index, WUP), l->up, p->n, p->h, c->ffn);
    for (int64_t i = 0; i < p->n * c->ffn; i++) l->inner[i] = l->gate[i] * sigmoid(l->gate[i]) * l->up[i];
    memcpy(out, l->middle, (size_t)(p->n * p->h) * sizeof(double));
    map(l->inner, weight(p, index, WDOWN), out, p->n, c->ffn, p->h);
}

static void mlp_back(const pass *p, int64_t index, double *dx) {
    layer *l = &p->layer[index];
    int64_t f = p->r->config.ffn;
    double *dinner = zeros(p->n * f), *dgate = zeros(p->n * f), *dup = zeros(p->n * f),
           *dn = zeros(p->n * p->h);
    map_back(l->inner, weight(p, index, WDOWN), dx, dinner, grad(p, index, WDOWN), p->n, f, p->h);
    for (int64_t i = 0; i < p->n * f; i++) {
        double g = l->gate[i], s = sigmoid(g);
        dup[i] = dinner[i] * g * s;
        dgate[i] = dinner[i] * l->up[i] * (s + g * s * (1 - s));
    }
    map_back(l->n2, weight(p, index, WGATE), dgate, dn, grad(p, index, WGATE), p->n, p->h, f);
    map_back(l->n2, weight(p, index, WUP), dup, dn, grad(p, index, WUP), p->n, p->h, f);
    norm_back(p, l->middle, weight(p, index, NORM2), dn, dx, grad(p, index, NORM2));
    free(dinner), free(dgate), free(dup), free(dn);
}

static void attention_back(const pass *p, int64_t index, double *dx) {
    layer *l = &p->layer[index];
    double *da = zeros(p->n * p->hd), *dq = zeros(p->n * p->hd), *dn = zeros(p->n * p->h);
    double *dk = zeros(p->n * p->kvd), *dv = zeros(p->n * p->kvd);
    map_back(l->a, weight(p, index, WO), dx, da, grad(p, index, WO), p->n, p->hd, p->h);
    attend_back(p, l, da, dq, dk, dv);
    rope(p, dq, p->r->config.heads, 1);
    rope(p, dk, p->r->config.kv_heads, 1);
    if (p->r->config.qk_norm) {
        heads_norm_back(p, p->n * p->r->config.heads, l->plain_q, weight(p, index, NORMQ), dq,
                        grad(p, index, NORMQ));
        heads_norm_back(p, p->n * p->r->config.kv_heads, l->plain_k, weight(p, index, NORMK), dk,
                        grad(p, index, NORMK));
    }
    if (p->r->config.qkv_bias) {
        bias_back(dq, grad(p, index, BQ), p->n, p->hd);
        bias_back(dk, grad(p, index, BK), p->n, p->kvd);
        bias_back(dv, grad(p, index, BV), p->n, p->kvd);
    }
    map_back(l->n1, weight(p, index, WQ), dq, dn, grad(p, index, WQ), p->n, p->h, p->hd);
    map_back(l->n1, weight(p, index, WK), dk, dn, grad(p, index, WK), p->n, p->h, p->kvd);
    map_back(l->n1, weight(p, index, WV), dv, dn, grad(p, index, WV), p->n, p->h, p->kvd);
    norm_back(p, l->x, weight(p, index, NORM1), dn, dx, grad(p, index, NORM1));
    free(da), free(dq), free(dk), free(dv), free(dn);
}

static void begin(pass *p, const reference *r) {
    const mf_model_config *c = &r->config;
    *p = (pass){.r = r, .n = r->batch * r->tokens, .h = c->hidden};
    p->hd = c->heads * c->head_dim;
    p->kvd = c->kv_heads * c->head_dim;
    p->layer = calloc((size_t)c->layers, sizeof *p->layer);
    for (int64_t i = 0; i < c->layers; i++)
        p->layer[i] = (layer){.x = zeros(p->n * p->h),
                              .n1 = zeros(p->n * p->h),
                              .q = zeros(p->n * p->hd),
                              .k = zeros(p->n * p->kvd),
                              .v = zeros(p->n * p->kvd),
                              .p = zeros(p->n * r->tokens * c->heads),
                              .a = zeros(p->n * p->hd),
                              .middle = zeros(p->n * p->h),
                              .n2 = zeros(p->n * p->h),
                              .gate = zeros(p->n * c->ffn),
                              .up = zeros(p->n * c->ffn),
                              .inner = zeros(p->n * c->ffn),
                              .plain_q = zeros(p->n * p->hd),
                              .plain_k = zeros(p->n * p->kvd)};
    p->x = zeros(p->n * p->h);
    p->normed = zeros(p->n * p->h);
    p->prob = zeros(p->n * c->vocab);
}

static void end(pass *p) {
    for (int64_t i = 0; i < p->r->config.layers; i++) {
        layer *l = &p->layer[i];
        double *all[] = {l->x,      l->n1, l->q,    l->k,  l->v,     l->p,       l->a,
                         l->middle, l->n2, l->gate, l->up, l->inner, l->plain_q, l->plain_k};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) free(all[k]);
    }
    free(p->layer), free(p->x), free(p->normed), free(p->prob);
}

static int64_t unmasked(const pass *p) {
    int64_t count = 0;
    for (int64_t t = 0; t < p->n; t++) count += p->r->labels[t] >= 0;
    return count;
}

static double forward(pass *p) {
    const mf_model_config *c = &p->r->config;
    double loss = 0;
    for (int64_t t = 0; t < p->n; t++)
        for (int64_t i = 0; i < p->h; i++)
            p->x[t * p->h + i] = p->r->value[embedding(p)][p->r->ids[t] * p->h + i];
    for (int64_t l = 0; l < c->layers; l++) {
        double *out = zeros(p->n * p->h);
        layer_forward(p, l, p->x, out);
        free(p->x);
        p->x = out;
    }
    norm(p, p->x, p->r->value[embedding(p) + 1], p->normed);
    map(p->normed, p->r->value[head(p)], p->prob, p->n, p->h, c->vocab);
    for (int64_t t = 0; t < p->n; t++) {
        double *row = p->prob + t * c->vocab, maximum = -INFINITY, sum = 0;
        for (int64_t i = 0; i < c->vocab; i++) maximum = fmax(maximum, row[i]);
        for (int64_t i = 0; i < c->vocab; i++) sum += row[i] = exp(row[i] - maximum);
        for (int64_t i = 0; i < c->vocab; i++) row[i] /= sum;
        if (p->r->labels[t] >= 0) loss -= log(row[p->r->labels[t]]);
    }
    return loss / (double)unmasked(p);
}

static void backward(pass *p) {
    const mf_model_config *c = &p->r->config;
    double *dlogits = zeros(p->n * c->vocab), *dn = zeros(p->n * p->h), *dx = zeros(p->n * p->h);
    for (int64_t t = 0; t < p->n; t++)
        for (int64_t i = 0; i < c->vocab && p->r->labels[t] >= 0; i++)
            dlogits[t * c->vocab + i] =
                (p->prob[t * c->vocab + i] - (i == p->r->labels[t])) / (double)unmasked(p);
    map_back(p->normed, p->r->value[head(p)], dlogits, dn, p->r->grad[head(p)], p->n, p->h, c->vocab);
    norm_back(p, p->x, p->r->value[embedding(p) + 1], dn, dx, p->r->grad[embedding(p) + 1]);
    for (int64_t l = c->layers - 1; l >= 0; l--) {
        mlp_back(p, l, dx);
        attention_back(p, l, dx);
    }
    for (int64_t t = 0; t < p->n; t++)
        for (int64_t i = 0; i < p->h; i++)
            p->r->grad[embedding(p)][p->r->ids[t] * p->h + i] += dx[t * p->h + i];
    free(dlogits), free(dn), free(dx);
}

double reference_loss(const reference *r) {
    pass p;
    begin(&p, r);
    double loss = forward(&p);
    end(&p);
    return loss;
}

double reference_gradients(const reference *r) {
    pass p;
    begin(&p, r);
    double loss = forward(&p);
    backward(&p);
    end(&p);
    return loss;
}
