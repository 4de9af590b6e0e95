/* sample.c: the choice of a token among scores. */
#include "meshfold/infer.h"

#include <math.h>
#include <stdlib.h>

/* Highest score first, lowest id of equals. */
static int by_score(const void *left, const void *right) {
    const mf_candidate *a = left, *b = right;
    if (a->score != b->score) return a->score < b->score ? 1 : -1;
    return (a->id > b->id) - (a->id < b->id);
}

static mf_status check(const float *scores, int64_t vocab, int32_t *best) {
    *best = 0;
    for (int64_t i = 0; i < vocab; i++) {
        if (isnan(scores[i]))
            return MF_FAIL(MF_ENONFINITE, "the score of token %lld is not a number", (long long)i);
        if (scores[i] > scores[*best]) *best = (int32_t)i;
    }
    if (scores[*best] == -INFINITY) return MF_FAIL(MF_ENONFINITE, "no token has a score above -infinity");
    return MF_OK;
}

/* The k highest of n come first, in order. Few are found without sorting all. */
static void put_first(mf_candidate *c, int64_t n, int64_t k) {
    enum { FEW = 256 };
    if (k > FEW || k == n) {
        qsort(c, (size_t)n, sizeof *c, by_score);
        return;
    }
    qsort(c, (size_t)k, sizeof *c, by_score);
    for (int64_t i = k; i < n; i++) {
        mf_candidate in = c[i];
        int64_t at = k - 1;
        if (by_score(&in, &c[at]) >= 0) continue;
        for (; at > 0 && by_score(&in, &c[at - 1]) < 0; at--) c[at] = c[at - 1];
        c[at] = in;
    }
}

/* In [0, 1). */
static double chance(const mf_sampling *s, uint64_t prompt, uint64_t index) {
    uint64_t bits = mf_random_u64(s->seed, mf_random_key("sample") ^ prompt, index);
    return (double)(bits >> 11) * 0x1p-53;
}

/* Relative to the best token's. */
static double weight(const mf_sampling *s, float score, float best) {
    return exp(((double)score - (double)best) / s->temperature);
}

static double sum_of(const mf_sampling *s, const mf_candidate *c, int64_t n, float best) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += weight(s, c[i].score, best);
    return sum;
}

/* Of n candidates those that may be among the fewest with top_p of the weight, which is `all`: the others,
 * each below an n-th of the rest, have less than the rest together. */
static int64_t drop_unlikely(const mf_sampling *s, mf_candidate *c, int64_t n, float best, double all) {
    double least = (1 - s->top_p) * all / (double)n;
    int64_t left = 0;
    for (int64_t i = 0; i < n; i++)
        if (weight(s, c[i].score, best) >= least) c[left++] = c[i];
    return left;
}

/* As many of the first n as have top_p of the weight, and what they have. */
static int64_t keep_likely(const mf_sampling *s, const mf_candidate *c, int64_t n, float best, double all,
                           double *kept) {
    *kept = 0;
    for (int64_t i = 0; i < n; i++) {
        *kept += weight(s, c[i].score, best);
        if (*kept >= s->top_p * all) return i + 1;
    }
    return n;
}

/* The tokens that are drawn from come first; their number, and their weight. */
static int64_t choose_from(const mf_sampling *s, mf_candidate *c, int64_t vocab, float best, double *kept) {
    bool few = s->top_k > 0 && s->top_k < vocab;
    int64_t n = few ? s->top_k : vocab;
    if (few) put_first(c, vocab, n);
    *kept = sum_of(s, c, n, best);
    if (s->top_p >= 1) return n;
    double all = *kept;
    if (!few) {
        n = drop_unlikely(s, c, n, best, all);
        put_first(c, n, n);
    }
    return keep_likely(s, c, n, best, all, kept);
}

mf_status mf_sample(const mf_sampling *s, const float *scores, int64_t vocab, uint64_t prompt, uint64_t index,
                    mf_candidate *scratch, int32_t *out) {
    double kept = 0, passed = 0;
    MF_TRY(check(scores, vocab, out));
    float best = scores[*out];
    if (s->temperature == 0) return MF_OK;
    for (int64_t i = 0; i < vocab; i++) scratch[i] = (mf_candidate){scores[i], (int32_t)i};
    int64_t n = choose_from(s, scratch, vocab, best, &kept);
    double wanted = chance(s, prompt, index) * kept;
    for (int64_t i = 0; i < n && passed <= wanted; i++) {
        double w = weight(s, scratch[i].score, best);
        if (w > 0) *out = scratch[i].id;
        passed += w;
    }
    return MF_OK;
}
