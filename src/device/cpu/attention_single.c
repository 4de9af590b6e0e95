/* attention_single.c: attention of one query a sequence, as decoding has it: keys and values are read once,
 * row after row as they lie, by all heads. Each thread has an even share of the rows; their results are
 * merged. */
#include "device/cpu/attention_tile.h"
#include "device/cpu/lanes.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* Rows whose scores are found before their values are read; rows that are copied, and heads that meet them,
 * at once. */
enum { BLOCK = 64, AT_ONCE = 16, HEADS = 4, LINE = 64 };

bool mf_cpu_attention_is_single(const mf_attention_args *a) {
    return a->tokens == 1 && a->query_chunks == 1 && a->queries[0].rows == 1 && !a->merge && !a->first_key;
}

/* What a thread has, in f32: sums and queries of all heads, AT_ONCE rows of a key head, and each head's
 * largest score, weight, and a block of scores. */
static int64_t lane_elements(const mf_attention_args *a) {
    int64_t elements = a->heads * (2 * a->head_dim + 2 + BLOCK) + AT_ONCE * a->head_dim;
    return mf_ceil_div(elements, MF_LANES) * MF_LANES;
}

size_t mf_cpu_attention_single_bytes(const mf_attention_args *a, int threads) {
    return (size_t)(lane_elements(a) * threads) * sizeof(float);
}

typedef struct lane {
    float *sum, *q, *row, *top, *weight, *score;
} lane;

static lane lane_of(const mf_attention_args *a, float *workspace, int thread) {
    int64_t values = a->heads * a->head_dim;
    float *at = workspace + thread * lane_elements(a);
    float *heads = at + 2 * values + AT_ONCE * a->head_dim;
    return (lane){.sum = at,
                  .q = at + values,
                  .row = at + 2 * values,
                  .top = heads,
                  .weight = heads + a->heads,
                  .score = heads + 2 * a->heads};
}

/* Some rows of a key head, and the heads that read it. */
typedef struct rows {
    const char *k, *v;   /* the first */
    int64_t count, step; /* bytes from row to row */
    int64_t head, heads;
} rows;

/* Rows `row` and on of k or v, AT_ONCE of them or, at the end, zeros behind the last, to l->row. */
static void copy_rows(const mf_attention_args *a, const lane *l, const char *base, const rows *r,
                      int64_t row) {
    int64_t d = a->head_dim, n = mf_min(AT_ONCE, r->count - row);
    for (int64_t i = 0; i < n; i++) {
        const char *from = base + (row + i) * r->step;
        if (a->type == MF_F32)
            memcpy(l->row + i * d, from, (size_t)d * sizeof(float));
        else
            mf_cpu_row_widen(l->row + i * d, (const uint16_t *)(const void *)from, d);
    }
    memset(l->row + n * d, 0, (size_t)((AT_ONCE - n) * d) * sizeof(float));
}

/* Rows come too far apart for the processor to foresee them: those that are copied next are sent for while
 * some are met. What is behind the last is not there, which does no harm. */
static void send_for(const mf_attention_args *a, const rows *r, const char *next) {
    int64_t bytes = a->head_dim * (int64_t)mf_dtype_bytes(a->type);
    for (int64_t i = 0; i < AT_ONCE; i++)
        for (int64_t at = 0; at < bytes; at += LINE) __builtin_prefetch(next + i * r->step + at);
}

/* Scores of l->row; behind the last row some are written too, and not read. */
static void score(const mf_attention_args *a, const lane *l, const rows *r, int64_t row) {
    int64_t d = a->head_dim, head = r->head, end = r->head + r->heads;
    for (; head + HEADS <= end; head += HEADS)
        for (int64_t i = 0; i < AT_ONCE; i += 4)
            mf_lanes_dots(HEADS, l->q + head * d, d, l->row + i * d, d, d, l->score + head * BLOCK + row + i,
                          BLOCK);
    for (; head < end; head++)
        for (int64_t i = 0; i < AT_ONCE; i += 4)
            mf_lanes_dots(1, l->q + head * d, d, l->row + i * d, d, d, l->score + head * BLOCK + row + i,
                          BLOCK);
}

static void find_scores(const mf_attention_args *a, const lane *l, const rows *r) {
    for (int64_t row = 0; row < r->count; row += AT_ONCE) {
        copy_rows(a, l, r->k, r, row);
        send_for(a, r, row + AT_ONCE < r->count ? r->k + (row + AT_ONCE) * r->step : r->v);
        score(a, l, r, row);
    }
}

static void find_weights(const mf_attention_args *a, const lane *l, const rows *r) {
    float factor = a->scale * MF_CPU_LOG2E;
    for (int64_t head = r->head; head < r->head + r->heads; head++) {
        float *score = l->score + head * BLOCK;
        float top = mf_cpu_row_largest(score, r->count, factor);
        if (!(top > l->top[head])) top = l->top[head];
        float shrink = mf_cpu_row_exp2(l->top[head] - top);
        l->weight[head] = l->weight[head] * shrink + mf_cpu_row_exponentials(score, r->count, factor, top);
        l->top[head] = top;
        if (shrink != 1.0f) mf_cpu_row_scale(l->sum + head * a->head_dim, a->head_dim, shrink);
    }
}

static void add(const mf_attention_args *a, const lane *l, const rows *r, int64_t row) {
    int64_t d = a->head_dim, n = mf_min(AT_ONCE, r->count - row), head = r->head, end = r->head + r->heads;
    const float *weight = l->score + row;
    for (; head + HEADS <= end; head += HEADS)
        mf_lanes_add(HEADS, l->sum + head * d, d, l->row, d, n, d, weight + head * BLOCK, BLOCK);
    for (; head < end; head++)
        mf_lanes_add(1, l->sum + head * d, d, l->row, d, n, d, weight + head * BLOCK, BLOCK);
}

/* next: keys that come after these values. */
static void add_values(const mf_attention_args *a, const lane *l, const rows *r, const char *next) {
    for (int64_t row = 0; row < r->count; row += AT_ONCE) {
        copy_rows(a, l, r->v, r, row);
        send_for(a, r, row + AT_ONCE < r->count ? r->v + (row + AT_ONCE) * r->step : next);
        add(a, l, r, row);
    }
}

/* Rows at k and v of all key heads. */
static void meet_block(const mf_attention_args *a, const lane *l, const char *k, const char *v, int64_t count,
                       int64_t step) {
    int64_t head_bytes = a->head_dim * (int64_t)mf_dtype_bytes(a->type);
    for (int64_t kv = 0; kv < a->kv_heads; kv++) {
        rows r = {.k = k + kv * head_bytes, .v = v + kv * head_bytes, .count = count, .step = step};
        int64_t end = 0;
        mf_cpu_attention_heads(a, kv, &r.head, &end);
        r.heads = end - r.head;
        find_scores(a, l, &r);
        find_weights(a, l, &r);
        add_values(a, l, &r, kv + 1 < a->kv_heads ? r.k + head_bytes : k + count * step);
    }
}

/* Rows first .. end - 1 of what the query sees of a chunk. */
static void meet_chunk(const mf_attention_args *a, const lane *l, const mf_key_chunk *chunk, int64_t batch,
                       int64_t first, int64_t end) {
    int64_t size = (int64_t)mf_dtype_bytes(a->type), step = chunk->ld * attention_stride(a) * size;
    for (; first < end; first += BLOCK) {
        int64_t at = attention_key(a, chunk->ld, chunk->batch_ld, batch, first) * size;
        meet_block(a, l, (const char *)chunk->k + at, (const char *)chunk->v + at, mf_min(BLOCK, end - first),
                   step);
    }
}

/* What the query sees of a chunk: rows *first .. *end - 1. */
static void seen(const mf_attention_args *a, const mf_key_chunk *chunk, int64_t *first, int64_t *end) {
    int64_t position = a->queries[0].position;
    *end = a->all_keys ? chunk->rows : mf_max(0, mf_min(chunk->rows, position + 1 - chunk->position));
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
        if (a->type == MF_F32) {
            memcpy(l->q + head * d, (const float *)a->q + at, (size_t)d * sizeof(float));
            continue;
        }
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
