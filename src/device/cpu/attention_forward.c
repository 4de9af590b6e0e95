/* attention_forward.c: query tiles meet keys tile by tile, with an online softmax (arXiv 2307.08691). */
#include "device/cpu/attention_tile.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* Query heads of one key head and a run of queries: at most `batches` tiles that share a packed key tile. */
typedef struct forward_unit {
    attention_tile tiles[FORWARD_BATCHES];
    int count;
    int64_t stride; /* rows of the lane's buffers that a tile has */
} forward_unit;

/* A row of n scores becomes probabilities relative to the row's running maximum; those past `visible` become
 * 0. */
static void softmax_row(float *scores, int64_t visible, int64_t n, float factor, float *top, float *sum,
                        float *o, int64_t d) {
    /* No remainders, since those run one by one: what fills the last vector has no weight. */
    int64_t whole = factor != 0 ? mf_min(n, (visible + 15) & ~(int64_t)15) : visible;
    for (int64_t i = visible; i < whole; i++) scores[i] = copysignf(INFINITY, -factor);
    memset(scores + whole, 0, (size_t)(n - whole) * sizeof *scores);
    if (visible <= 0) return;
    float new_top = mf_cpu_row_largest(scores, whole, factor);
    new_top = *top > new_top ? *top : new_top;
    float shrink = mf_cpu_row_exp2(*top - new_top);
    *sum = *sum * shrink + mf_cpu_row_exponentials(scores, whole, factor, new_top);
    *top = new_top;
    if (shrink != 1.0f) mf_cpu_row_scale(o, d, shrink);
}

/* scores: [pad(heads * rows), n] of a tile against a key tile; row by row, heads outermost. */
static void softmax_tile(const attention_job *job, attention_lane *lane, const attention_tile *tile,
                         int64_t at, const attention_run *keys, int64_t n) {
    int64_t d = job->args->head_dim, rows = tile->run->rows, total = tile->heads * rows;
    float factor = job->args->scale * MF_CPU_LOG2E;
    float *scores = attention_at(lane, job->layout.scores), *o = attention_at(lane, job->layout.o);
    float *top = attention_at(lane, job->layout.row_a), *sum = attention_at(lane, job->layout.row_b);
    uint16_t *p = attention_at(lane, job->layout.p);
    for (int64_t r = 0; r < attention_pad(total); r++) {
        int64_t ahead = tile->run->position + r % rows - keys->position;
        int64_t visible = r < total ? mf_max(0, mf_min(ahead + 1, keys->rows)) : 0;
        int64_t first = attention_first_key(job->args, tile->batch, tile->run, r % rows) - keys->position;
        int64_t passed = mf_max(0, mf_min(first, visible));
        memset(scores + r * n, 0, (size_t)passed * sizeof *scores);
        softmax_row(scores + r * n + passed, visible - passed, n - passed, factor, &top[at + r], &sum[at + r],
                    o + (at + r) * d, d);
        if (job->product == MF_BF16) mf_cpu_row_narrow(p + r * n, scores + r * n, n);
    }
}

static mf_status forward_tile(const attention_job *job, attention_lane *lane, const attention_tile *tile,
                              int64_t at, const attention_run *keys, int64_t n) {
    int64_t d = job->args->head_dim, m = attention_pad(tile->heads * tile->run->rows);
    size_t q = job->layout.q + (size_t)(at * d) * mf_dtype_bytes(job->product);
    float *o = (float *)attention_at(lane, job->layout.o) + at * d;
    const attention_shape scores = {m, n, d, job->product, false, true, false};
    const attention_shape outputs = {m, d, n, job->product, false, false, true};
    MF_TRY(mf_cpu_attention_multiply(lane, &scores, attention_at(lane, q), attention_at(lane, job->layout.k),
                                     attention_at(lane, job->layout.scores)));
    softmax_tile(job, lane, tile, at, keys, n);
    MF_TRY(mf_cpu_attention_multiply(lane, &outputs, attention_at(lane, job->layout.p),
                                     attention_at(lane, job->layout.v), o));
    return MF_OK;
}

static mf_status meet_keys(const attention_job *job, attention_lane *lane, const forward_unit *unit,
                           const attention_run *whole) {
    const mf_attention_args *a = job->args;
    const attention_tile *tile = unit->tiles;
    const mf_key_chunk *chunk = &a->keys[whole->chunk];
    attention_run keys = attention_seen(a, tile->batch, tile->run, whole);
    if (keys.rows == 0) return MF_OK;
    int64_t d = a->head_dim, n = attention_pad(keys.rows), ld = chunk->ld * attention_stride(a);
    int64_t first = attention_key(a, chunk->ld, chunk->batch_ld, tile->batch, keys.row) + tile->kv_head * d;
    size_t offset = (size_t)first * mf_dtype_bytes(a->type);
    mf_cpu_attention_pack(attention_at(lane, job->layout.k), job->product, (const char *)chunk->k + offset,
                          a->type, ld, keys.rows, d, n);
    mf_cpu_attention_pack(attention_at(lane, job->layout.v), job->product, (const char *)chunk->v + offset,
                          a->type, ld, keys.rows, d, n);
    for (int i = 0; i < unit->count; i++)
        MF_TRY(forward_tile(job, lane, &unit->tiles[i], i * unit->stride, &keys, n));
    return MF_OK;
}

static bool sees_keys(const mf_attention_args *args, const attention_tile *tile, const attention_runs *keys) {
    for (int64_t i = 0; i < keys->count; i++)
        if (attention_seen(args, tile->batch, tile->run, &keys->run[i]).rows > 0) return true;
    return false;
}

static void pack_unit(const attention_job *job, attention_lane *lane, const forward_unit *unit) {
    const mf_attention_args *a = job->args;
    for (int i = 0; i < unit->count; i++) {
        size_t q = job->layout.q + (size_t)(i * unit->stride * a->head_dim) * mf_dtype_bytes(job->product);
        mf_cpu_attention_pack_queries(job, &unit->tiles[i], a->q, a->q_ld, attention_at(lane, q));
    }
}

static void begin_sums(const attention_job *job, attention_lane *lane, const forward_unit *unit) {
    int64_t d = job->args->head_dim;
    float *top = attention_at(lane, job->layout.row_a), *sum = attention_at(lane, job->layout.row_b);
    memset(attention_at(lane, job->layout.o), 0, (size_t)(unit->count * unit->stride * d) * sizeof(float));
    for (int64_t r = 0; r < unit->count * unit->stride; r++) {
        top[r] = -INFINITY;
        sum[r] = 0;
    }
}

static bool writes_f32(const mf_attention_args *a) { return a->type == MF_F32 || a->o_f32; }

/* Adds what the output at `at` holds of earlier calls' keys, whose lse is `earlier`, to a row o of this
 * call's, whose lse is given. Returns the lse over both. Exponents are taken relative to the larger: no
 * overflow. */
static float merge_row(const mf_attention_args *a, float *o, int64_t at, float earlier, float lse) {
    if (earlier == -INFINITY) return lse; /* not times 0: the output may hold anything yet */
    float top = earlier > lse ? earlier : lse;
    float kept = expf(earlier - top), added = expf(lse - top), all = kept + added;
    if (writes_f32(a))
        mf_cpu_row_mix_f32(o, added / all, (const float *)a->o + at, kept / all, a->head_dim);
    else
        mf_cpu_row_mix_bf16(o, added / all, (const uint16_t *)a->o + at, kept / all, a->head_dim);
    return top + logf(all);
}

/* o: one row, rounded to the output's type. */
static void write_row(const mf_attention_args *a, const float *o, int64_t at) {
    if (writes_f32(a))
        memcpy((float *)a->o + at, o, (size_t)a->head_dim * sizeof *o);
    else
        mf_cpu_row_narrow((uint16_t *)a->o + at, o, a->head_dim);
}

/* o: a row's sums relative to top, divided by the sum of weights. */
static void end_row(const mf_attention_args *a, float *o, float top, float sum, int64_t at, float *lse) {
    bool blind = top == -INFINITY && sum == 0; /* scores of NaN or -infinity make a sum of NaN */
    float now = top / MF_CPU_LOG2E + logf(sum);
    if (blind && a->merge) return;
    if (!blind) mf_cpu_row_scale(o, a->head_dim, 1.0f / sum);
    *lse = a->merge ? merge_row(a, o, at, *lse, now) : now;
    write_row(a, o, at);
}

static void end_tile(const attention_job *job, attention_lane *lane, const attention_tile *tile, int64_t at) {
    const mf_attention_args *a = job->args;
    int64_t d = a->head_dim, rows = tile->run->rows;
    float *o = (float *)attention_at(lane, job->layout.o) + at * d;
    const float *top = (float *)attention_at(lane, job->layout.row_a) + at;
    const float *sum = (float *)attention_at(lane, job->layout.row_b) + at;
    for (int64_t r = 0; r < tile->heads * rows; r++) {
        int64_t token = attention_row(a, tile->batch, tile->run->row + r % rows),
                head = tile->head + r / rows;
        end_row(a, o + r * d, top[r], sum[r], token * a->o_ld + head * d, &a->lse[token * a->lse_ld + head]);
    }
}

/* The unit of a number; count is 0 where a key head has fewer query heads. Heavy ones come first. */
static forward_unit unit_of(const attention_job *job, int64_t number, int64_t blocks) {
    const mf_attention_args *a = job->args;
    int64_t block = number % blocks, kv_head = number / blocks % a->kv_heads;
    int64_t rest = number / blocks / a->kv_heads, first = 0, end = 0;
    const attention_run *run = &job->attention->queries.run[rest / a->batch];
    forward_unit unit = {.stride = attention_pad(job->merged * run->rows)};
    mf_cpu_attention_heads(a, kv_head, &first, &end);
    first += block * job->batches * job->merged;
    for (; unit.count < job->batches && first < end; first += job->merged)
        unit.tiles[unit.count++] =
            (attention_tile){run, rest % a->batch, first, mf_min(job->merged, end - first), kv_head};
    return unit;
}

static mf_status forward_work(const attention_job *job, attention_lane *lane, const forward_unit *unit) {
    const attention_runs *keys = &job->attention->keys;
    if (!unit->count) return MF_OK;
    bool sees = sees_keys(job->args, &unit->tiles[0], keys);
    if (!sees && job->args->merge) return MF_OK;
    begin_sums(job, lane, unit);
    if (sees) pack_unit(job, lane, unit);
    for (int64_t i = 0; i < keys->count; i++) MF_TRY(meet_keys(job, lane, unit, &keys->run[i]));
    for (int i = 0; i < unit->count; i++) end_tile(job, lane, &unit->tiles[i], i * unit->stride);
    return MF_OK;
}

static void forward_lane(attention_job *job, attention_lane *lane) {
    const mf_attention_args *a = job->args;
    int64_t blocks = mf_ceil_div(mf_min(a->group, a->heads), job->batches * job->merged);
    int64_t units = job->attention->queries.count * a->batch * a->kv_heads * blocks;
    while (!lane->status) {
        int64_t number = 0;
#pragma omp atomic capture
        number = job->next++;
        if (number >= units) break;
        forward_unit unit = unit_of(job, number, blocks);
        lane->status = forward_work(job, lane, &unit);
    }
    if (lane->status) lane->error = *mf_error_last();
}

mf_status mf_cpu_attention_forward(mf_device *device, const mf_attention_args *args) {
    attention_job job;
    if (mf_cpu_attention_is_single(args)) {
        MF_TRY(mf_cpu_reserve_attention(device, args, false));
        return mf_cpu_attention_single(device, args, mf_cpu_of(device)->attention->workspace.data);
    }
    MF_TRY(mf_cpu_attention_begin(device, args, false, &job));
#pragma omp parallel num_threads(job.attention->lane_count)
    forward_lane(&job, &job.attention->lanes[omp_get_thread_num()]);
    MF_TRY(mf_cpu_attention_end(&job));
    return MF_OK;
}
