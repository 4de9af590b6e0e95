/* attention_single.c: attention of one query a sequence, as decoding has it: keys and values are read once,
 * row after row as they lie, by all heads. Each thread has an even share of the rows; their results are
 * merged. */
#include "device/cpu/attention_tile.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* Rows whose scores are found before their values are read; and those that a head meets at once. */
enum { BLOCK = 32, AT_ONCE = 4 };

bool mf_cpu_attention_is_single(const mf_attention_args *a) {
    return a->tokens == 1 && a->query_chunks == 1 && a->queries[0].rows == 1 && !a->merge;
}

/* What a thread has of all heads: sums [heads, head_dim], then each head's largest score, weight, and a block
 * of scores; and the query in f32. */
static int64_t lane_elements(const mf_attention_args *a) { return a->heads * (2 * a->head_dim + 2 + BLOCK); }

size_t mf_cpu_attention_single_bytes(const mf_attention_args *a, int threads) {
    return (size_t)(lane_elements(a) * threads) * sizeof(float);
}

typedef struct lane {
    float *sum, *q, *top, *weight, *score;
} lane;

static lane lane_of(const mf_attention_args *a, float *workspace, int thread) {
    int64_t values = a->heads * a->head_dim;
    float *at = workspace + thread * lane_elements(a);
    return (lane){.sum = at,
                  .q = at + values,
                  .top = at + 2 * values,
                  .weight = at + 2 * values + a->heads,
                  .score = at + 2 * values + 2 * a->heads};
}

/* Not inlined: gcc 12 would leave them scalar. Scores of AT_ONCE rows at distance ld. */
__attribute__((noinline)) static void dots_f32(const float *restrict q, const float *restrict k, int64_t ld,
                                               int64_t d, float out[AT_ONCE]) {
    float s = 0, t = 0, u = 0, v = 0;
#pragma omp simd reduction(+ : s, t, u, v)
    for (int64_t i = 0; i < d; i++) {
        s += q[i] * k[i];
        t += q[i] * k[ld + i];
        u += q[i] * k[2 * ld + i];
        v += q[i] * k[3 * ld + i];
    }
    out[0] = s, out[1] = t, out[2] = u, out[3] = v;
}

__attribute__((noinline)) static void dots_bf16(const float *restrict q, const uint16_t *restrict k,
                                                int64_t ld, int64_t d, float out[AT_ONCE]) {
    float s = 0, t = 0, u = 0, v = 0;
#pragma omp simd reduction(+ : s, t, u, v) simdlen(16)
    for (int64_t i = 0; i < d; i++) {
        s += q[i] * mf_f32_from_bf16(k[i]);
        t += q[i] * mf_f32_from_bf16(k[ld + i]);
        u += q[i] * mf_f32_from_bf16(k[2 * ld + i]);
        v += q[i] * mf_f32_from_bf16(k[3 * ld + i]);
    }
    out[0] = s, out[1] = t, out[2] = u, out[3] = v;
}

/* o += the rows' values, each by its weight. */
static void add_f32(float *restrict o, const float *restrict v, int64_t ld, int64_t d,
                    const float w[AT_ONCE]) {
#pragma omp simd
    for (int64_t i = 0; i < d; i++)
        o[i] += w[0] * v[i] + w[1] * v[ld + i] + w[2] * v[2 * ld + i] + w[3] * v[3 * ld + i];
}

static void add_bf16(float *restrict o, const uint16_t *restrict v, int64_t ld, int64_t d,
                     const float w[AT_ONCE]) {
#pragma omp simd simdlen(16)
    for (int64_t i = 0; i < d; i++)
        o[i] += w[0] * mf_f32_from_bf16(v[i]) + w[1] * mf_f32_from_bf16(v[ld + i]) +
                w[2] * mf_f32_from_bf16(v[2 * ld + i]) + w[3] * mf_f32_from_bf16(v[3 * ld + i]);
}

/* Some rows of a chunk: fewer than AT_ONCE are taken one by one, by a distance of 0 that reads none beyond.
 */
typedef struct rows {
    const char *k, *v; /* the first, at the call's first key head */
    int64_t count, ld;
} rows;

static const void *at_head(const mf_attention_args *a, const char *base, int64_t row, int64_t ld,
                           int64_t head) {
    int64_t kv = (a->first_head + head) / a->group - a->first_kv_head;
    return base + (row * ld + kv * a->head_dim) * (int64_t)mf_dtype_bytes(a->type);
}

static void find_scores(const mf_attention_args *a, const lane *l, const rows *r) {
    for (int64_t row = 0; row < r->count; row += AT_ONCE) {
        int64_t n = mf_min(AT_ONCE, r->count - row), step = n == AT_ONCE ? AT_ONCE : 1;
        for (int64_t i = 0; i < n; i += step)
            for (int64_t head = 0; head < a->heads; head++) {
                const void *k = at_head(a, r->k, row + i, r->ld, head);
                const float *q = l->q + head * a->head_dim;
                float out[AT_ONCE];
                if (a->type == MF_F32)
                    dots_f32(q, k, step > 1 ? r->ld : 0, a->head_dim, out);
                else
                    dots_bf16(q, k, step > 1 ? r->ld : 0, a->head_dim, out);
                memcpy(l->score + head * BLOCK + row + i, out, (size_t)step * sizeof *out);
            }
    }
}

static void find_weights(const mf_attention_args *a, const lane *l, const rows *r) {
    float factor = a->scale * MF_CPU_LOG2E;
    for (int64_t head = 0; head < a->heads; head++) {
        float *score = l->score + head * BLOCK;
        float top = mf_cpu_row_largest(score, r->count, factor);
        if (!(top > l->top[head])) top = l->top[head];
        float shrink = mf_cpu_row_exp2(l->top[head] - top);
        l->weight[head] = l->weight[head] * shrink + mf_cpu_row_exponentials(score, r->count, factor, top);
        l->top[head] = top;
        if (shrink != 1.0f) mf_cpu_row_scale(l->sum + head * a->head_dim, a->head_dim, shrink);
    }
}

static void add_values(const mf_attention_args *a, const lane *l, const rows *r) {
    for (int64_t row = 0; row < r->count; row += AT_ONCE) {
        int64_t n = mf_min(AT_ONCE, r->count - row), step = n == AT_ONCE ? AT_ONCE : 1;
        for (int64_t i = 0; i < n; i += step)
            for (int64_t head = 0; head < a->heads; head++) {
                const void *v = at_head(a, r->v, row + i, r->ld, head);
                float *o = l->sum + head * a->head_dim, one[AT_ONCE] = {l->score[head * BLOCK + row + i]};
                const float *w = step > 1 ? l->score + head * BLOCK + row : one;
                if (a->type == MF_F32)
                    add_f32(o, v, step > 1 ? r->ld : 0, a->head_dim, w);
                else
                    add_bf16(o, v, step > 1 ? r->ld : 0, a->head_dim, w);
            }
    }
}

/* Rows first .. end - 1 of what the query sees of a chunk. */
static void meet_chunk(const mf_attention_args *a, const lane *l, const mf_key_chunk *chunk, int64_t batch,
                       int64_t first, int64_t end) {
    size_t size = mf_dtype_bytes(a->type);
    for (; first < end; first += BLOCK) {
        int64_t at = batch * chunk->batch_ld + first * chunk->ld;
        rows r = {.k = (const char *)chunk->k + (size_t)at * size,
                  .v = (const char *)chunk->v + (size_t)at * size,
                  .count = mf_min(BLOCK, end - first),
                  .ld = chunk->ld};
        find_scores(a, l, &r);
        find_weights(a, l, &r);
        add_values(a, l, &r);
    }
}

/* What the query sees of a chunk: rows *first .. *end - 1. */
static void seen(const mf_attention_args *a, const mf_key_chunk *chunk, int64_t *first, int64_t *end) {
    int64_t position = a->queries[0].position;
    *end = mf_max(0, mf_min(chunk->rows, position + 1 - chunk->position));
    *first = a->window ? mf_max(0, mf_min(*end, position + 1 - a->window - chunk->position)) : 0;
}

static int64_t count_seen(const mf_attention_args *a) {
    int64_t count = 0, first, end;
    for (int i = 0; i < a->key_chunks; i++) {
        seen(a, &a->keys[i], &first, &end);
        count += end - first;
    }
    return count;
}

/* Of all that is seen, rows begin .. end - 1. */
static void meet_share(const mf_attention_args *a, const lane *l, int64_t batch, int64_t begin, int64_t end) {
    int64_t at = 0, first, last;
    for (int i = 0; i < a->key_chunks; i++) {
        seen(a, &a->keys[i], &first, &last);
        int64_t from = mf_max(begin - at, 0), to = mf_min(end - at, last - first);
        if (from < to) meet_chunk(a, l, &a->keys[i], batch, first + from, first + to);
        at += last - first;
    }
}

static void begin_lane(const mf_attention_args *a, const lane *l, int64_t batch) {
    int64_t d = a->head_dim;
    memset(l->sum, 0, (size_t)(a->heads * d) * sizeof *l->sum);
    for (int64_t head = 0; head < a->heads; head++) {
        int64_t at = batch * a->q_ld + head * d;
        l->top[head] = -INFINITY;
        l->weight[head] = 0;
        if (a->type == MF_F32)
            memcpy(l->q + head * d, (const float *)a->q + at, (size_t)d * sizeof(float));
        else
            mf_cpu_row_widen(l->q + head * d, (const uint16_t *)a->q + at, d);
    }
}

/* A thread that met no row has the top -infinity and no weight. */
static void merge_head(const mf_attention_args *a, float *workspace, int threads, int64_t batch,
                       int64_t head) {
    int64_t d = a->head_dim, at = batch * a->o_ld + head * d;
    lane into = lane_of(a, workspace, 0);
    float *o = into.sum + head * d, top = into.top[head], weight = into.weight[head];
    for (int t = 1; t < threads; t++) {
        lane from = lane_of(a, workspace, t);
        if (from.weight[head] == 0) continue;
        float all = top > from.top[head] ? top : from.top[head];
        float keep = weight == 0 ? 0 : mf_cpu_row_exp2(top - all),
              add = mf_cpu_row_exp2(from.top[head] - all);
        mf_cpu_row_mix_f32(o, keep, from.sum + head * d, add, d);
        weight = weight * keep + from.weight[head] * add;
        top = all;
    }
    if (weight != 0) mf_cpu_row_scale(o, d, 1.0f / weight);
    a->lse[batch * a->lse_ld + head] = weight == 0 ? -INFINITY : top / MF_CPU_LOG2E + logf(weight);
    if (a->type == MF_F32 || a->o_f32)
        memcpy((float *)a->o + at, o, (size_t)d * sizeof *o);
    else
        mf_cpu_row_narrow((uint16_t *)a->o + at, o, d);
}

mf_status mf_cpu_attention_single(mf_device *device, const mf_attention_args *a, float *workspace) {
    int64_t count = count_seen(a);
    int threads = (int)mf_max(1, mf_min(device->threads, count / BLOCK));
    for (int64_t batch = 0; batch < a->batch; batch++) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int t = 0; t < threads; t++) {
            lane l = lane_of(a, workspace, t);
            begin_lane(a, &l, batch);
            meet_share(a, &l, batch, count * t / threads, count * (t + 1) / threads);
        }
        for (int64_t head = 0; head < a->heads; head++) merge_head(a, workspace, threads, batch, head);
    }
    return MF_OK;
}
