/* attention_backward.c: gradients, key tile by key tile; probabilities come again from lse.
 *
 * All heads' tiles against one key tile are a wave. Its pairs (query tile, key tile), in one order, are cut
 * into as many stretches of equal cost as there are lanes. A query tile's dq has one writer a wave; waves are
 * apart by barriers. A key head whose pairs fall to several lanes gets its dk and dv from the first at once
 * and from the others, in the order of lanes, after the barrier: so the same threads give the same bits. */
#include "device/cpu/attention_tile.h"

#include <omp.h>
#include <string.h>

typedef struct backward_wave {
    const attention_job *job;
    const attention_run *keys;
    int64_t cost; /* of all heads in all sequences: visible pairs, about */
    int64_t lanes, lane;
    int64_t pending; /* column whose sums wait in grads[0]; -1: none */
} backward_wave;

/* One key head of one sequence. */
typedef struct backward_column {
    int64_t number, batch, kv_head;
    int64_t first, end; /* query heads */
    float *grads;       /* dk, then dv: [pad(keys), head_dim] each; NULL until the lane has a pair here */
} backward_column;

/* Of one query head. */
static int64_t pair_cost(const attention_job *job, int64_t batch, const attention_run *queries,
                         const attention_run *keys) {
    return queries->rows * attention_seen(job->args, batch, queries, keys).rows;
}

/* The keys that a tile sees, from a row on that leaves it room for the padding of what follows. */
static attention_run keys_of(const backward_wave *wave, const attention_tile *tile) {
    const attention_run *all = wave->keys;
    attention_run seen = attention_seen(wave->job->args, tile->batch, tile->run, all);
    int64_t skipped = (seen.position - all->position) & ~(int64_t)31;
    seen.rows += seen.position - all->position - skipped;
    seen.position = all->position + skipped;
    seen.row = all->row + skipped;
    return seen;
}

static int64_t owner(const backward_wave *wave, int64_t cost_before) {
    return cost_before * wave->lanes / wave->cost;
}

/* scores, d_scores: [m keys, pad(heads * rows)]: transposed, so that most products find their operands as
 * they are. */
static void gradient_tile(const attention_job *job, attention_lane *lane, const attention_tile *tile,
                          const attention_run *keys, int64_t m) {
    int64_t rows = tile->run->rows, total = tile->heads * rows, n = attention_pad(total);
    int64_t past = 0; /* the first row that the key is too early for */
    float scale = job->args->scale, factor = scale * MF_CPU_LOG2E;
    const float *lse = attention_at(lane, job->layout.row_a), *delta = attention_at(lane, job->layout.row_b);
    for (int64_t j = 0; j < m; j++) {
        float *s = (float *)attention_at(lane, job->layout.scores) + j * n;
        float *dp = (float *)attention_at(lane, job->layout.d_scores) + j * n;
        int64_t ahead = keys->position + j - tile->run->position;
        int64_t hidden = j < keys->rows ? mf_max(0, mf_min(ahead, rows)) : rows;
        while (past < rows &&
               attention_first_key(job->args, tile->batch, tile->run, past) <= keys->position + j)
            past++;
        int64_t end = mf_max(hidden, past);
        /* no remainders: those run one by one */
        int64_t from = hidden & ~(int64_t)15, until = mf_min((end + 15) & ~(int64_t)15, rows);
        for (int64_t at = 0; at < total; at += rows) {
            mf_cpu_row_gradients(s + at + from, dp + at + from, lse + at + from, delta + at + from,
                                 until - from, factor, scale);
            memset(s + at, 0, (size_t)hidden * sizeof *s);
            memset(dp + at, 0, (size_t)hidden * sizeof *dp);
            memset(s + at + end, 0, (size_t)(rows - end) * sizeof *s);
            memset(dp + at + end, 0, (size_t)(rows - end) * sizeof *dp);
        }
        memset(s + total, 0, (size_t)(n - total) * sizeof *s);
        memset(dp + total, 0, (size_t)(n - total) * sizeof *dp);
        if (job->product == MF_BF16) {
            mf_cpu_row_narrow((uint16_t *)attention_at(lane, job->layout.p) + j * n, s, n);
            mf_cpu_row_narrow((uint16_t *)attention_at(lane, job->layout.d_s) + j * n, dp, n);
        }
    }
}

static void load_queries(const attention_job *job, attention_lane *lane, const attention_tile *tile) {
    const mf_attention_args *a = job->args;
    int64_t rows = tile->run->rows;
    float *lse = attention_at(lane, job->layout.row_a), *delta = attention_at(lane, job->layout.row_b);
    mf_cpu_attention_pack_queries(job, tile, a->q, a->q_ld, attention_at(lane, job->layout.q));
    mf_cpu_attention_pack_queries(job, tile, a->d_o, a->do_ld, attention_at(lane, job->layout.d_o));
    for (int64_t r = 0; r < tile->heads * rows; r++) {
        int64_t token = attention_row(a, tile->batch, tile->run->row + r % rows),
                head = tile->head + r / rows;
        lse[r] = a->lse[token * a->lse_ld + head] * MF_CPU_LOG2E;
        delta[r] = a->delta[token * a->heads + head];
    }
}

static void add_dq(const attention_job *job, attention_lane *lane, const attention_tile *tile) {
    const mf_attention_args *a = job->args;
    const float *dq = attention_at(lane, job->layout.dq);
    int64_t d = a->head_dim, rows = tile->run->rows;
    for (int64_t r = 0; r < tile->heads * rows; r++) {
        int64_t token = attention_row(a, tile->batch, tile->run->row + r % rows),
                head = tile->head + r / rows;
        mf_cpu_row_add(a->dq + token * a->dq_ld + head * d, dq + r * d, d);
    }
}

static mf_status backward_tile(const backward_wave *wave, attention_lane *lane, const attention_tile *tile,
                               const backward_column *column) {
    const attention_job *job = wave->job;
    const attention_layout *l = &job->layout;
    const attention_run seen = keys_of(wave, tile);
    int64_t d = job->args->head_dim, n = attention_pad(tile->heads * tile->run->rows);
    int64_t m = attention_pad(seen.rows), skipped = (seen.row - wave->keys->row) * d;
    size_t skipped_bytes = (size_t)skipped * mf_dtype_bytes(job->product);
    float *dk = column->grads + skipped, *dv = dk + attention_pad(wave->keys->rows) * d;
    const attention_shape scores = {m, n, d, job->product, false, true, false};
    const attention_shape keys = {m, d, n, job->product, false, false, true};
    const attention_shape queries = {n, d, m, job->product, true, false, false};
    void *q = attention_at(lane, l->q), *d_o = attention_at(lane, l->d_o);
    void *k = attention_at(lane, l->k + skipped_bytes), *v = attention_at(lane, l->v + skipped_bytes);
    void *d_s = attention_at(lane, l->d_s);
    load_queries(job, lane, tile);
    MF_TRY(mf_cpu_attention_multiply(lane, &scores, k, q, attention_at(lane, l->scores)));
    MF_TRY(mf_cpu_attention_multiply(lane, &scores, v, d_o, attention_at(lane, l->d_scores)));
    gradient_tile(job, lane, tile, &seen, m);
    MF_TRY(mf_cpu_attention_multiply(lane, &keys, attention_at(lane, l->p), d_o, dv));
    MF_TRY(mf_cpu_attention_multiply(lane, &keys, d_s, q, dk));
    MF_TRY(mf_cpu_attention_multiply(lane, &queries, d_s, k, attention_at(lane, l->dq)));
    add_dq(job, lane, tile);
    return MF_OK;
}

static void begin_column(const backward_wave *wave, attention_lane *lane, backward_column *column) {
    const attention_job *job = wave->job;
    const mf_attention_args *a = job->args;
    const mf_key_chunk *chunk = &a->keys[wave->keys->chunk];
    int64_t d = a->head_dim, rows = wave->keys->rows, padded = attention_pad(rows);
    int64_t ld = chunk->ld * attention_stride(a);
    int64_t first =
        attention_key(a, chunk->ld, chunk->batch_ld, column->batch, wave->keys->row) + column->kv_head * d;
    size_t offset = (size_t)first * mf_dtype_bytes(a->type);
    column->grads = attention_at(lane, job->layout.grads[wave->pending >= 0]);
    memset(column->grads, 0, (size_t)(2 * padded * d) * sizeof *column->grads);
    mf_cpu_attention_pack(attention_at(lane, job->layout.k), job->product, (const char *)chunk->k + offset,
                          a->type, ld, rows, d, padded);
    mf_cpu_attention_pack(attention_at(lane, job->layout.v), job->product, (const char *)chunk->v + offset,
                          a->type, ld, rows, d, padded);
}

static backward_column column_of(const backward_wave *wave, int64_t number) {
    const mf_attention_args *a = wave->job->args;
    backward_column column = {
        .number = number, .batch = number / a->kv_heads, .kv_head = number % a->kv_heads};
    mf_cpu_attention_heads(a, column.kv_head, &column.first, &column.end);
    column.end = mf_max(column.first, column.end);
    return column;
}

/* grads: a lane's dk and dv of a column, to where the chunk wants them. */
static void add_grads(const backward_wave *wave, const backward_column *column, const float *grads) {
    const mf_attention_args *a = wave->job->args;
    const mf_key_chunk *chunk = &a->keys[wave->keys->chunk];
    int64_t d = a->head_dim, rows = wave->keys->rows, padded = attention_pad(rows);
    for (int64_t j = 0; j < rows; j++) {
        int64_t at =
            attention_key(a, chunk->grad_ld, chunk->grad_batch_ld, column->batch, wave->keys->row + j) +
            column->kv_head * d;
        mf_cpu_row_add(chunk->dk + at, grads + j * d, d);
        mf_cpu_row_add(chunk->dv + at, grads + (padded + j) * d, d);
    }
}

/* This lane's pairs of a column. *before: cost of all pairs before it, moved past them. */
static mf_status column_pairs(const backward_wave *wave, attention_lane *lane, backward_column *column,
                              int64_t *before) {
    const attention_job *job = wave->job;
    const attention_runs *queries = &job->attention->queries;
    for (int64_t head = column->first; head < column->end; head += job->merged) {
        attention_tile tile = {NULL, column->batch, head, mf_min(job->merged, column->end - head),
                               column->kv_head};
        for (int64_t i = 0; i < queries->count; i++) {
            tile.run = &queries->run[i];
            int64_t cost = tile.heads * pair_cost(job, tile.batch, tile.run, wave->keys);
            if (cost && owner(wave, *before) == wave->lane) {
                if (!column->grads) begin_column(wave, lane, column);
                MF_TRY(backward_tile(wave, lane, &tile, column));
            }
            *before += cost;
        }
    }
    return MF_OK;
}

static mf_status wave_pairs(backward_wave *wave, attention_lane *lane) {
    const mf_attention_args *a = wave->job->args;
    int64_t before = 0;
    for (int64_t number = 0; number < a->batch * a->kv_heads; number++) {
        backward_column column = column_of(wave, number);
        bool first = owner(wave, before) == wave->lane;
        MF_TRY(column_pairs(wave, lane, &column, &before));
        if (!column.grads) continue;
        if (first)
            add_grads(wave, &column, column.grads);
        else
            wave->pending = number;
    }
    return MF_OK;
}

static int64_t wave_cost(const attention_job *job, const attention_run *keys) {
    const attention_runs *queries = &job->attention->queries;
    int64_t cost = 0;
    for (int64_t b = 0; b < job->args->batch; b++)
        for (int64_t i = 0; i < queries->count; i++) cost += pair_cost(job, b, &queries->run[i], keys);
    return cost * job->args->heads;
}

/* Adds what lanes after the first to reach a column have summed, in their order. By one lane, between
 * barriers. */
static void settle(const backward_wave *wave) {
    const mf_cpu_attention *attention = wave->job->attention;
    for (int64_t i = 1; i < wave->lanes; i++) {
        const attention_lane *lane = &attention->lanes[i];
        if (lane->status || lane->pending < 0) continue;
        backward_column column = column_of(wave, lane->pending);
        add_grads(wave, &column, attention_at(lane, wave->job->layout.grads[0]));
    }
}

static void backward_lane(const attention_job *job, attention_lane *lane, int64_t index, int64_t lanes) {
    const attention_runs *keys = &job->attention->keys;
    for (int64_t i = 0; i < keys->count; i++) {
        int64_t cost = wave_cost(job, &keys->run[i]);
        if (cost == 0) continue; /* every lane finds the same */
        backward_wave wave = {job, &keys->run[i], cost, lanes, index, -1};
        if (!lane->status) {
            lane->status = wave_pairs(&wave, lane);
            if (lane->status) lane->error = *mf_error_last();
        }
        lane->pending = wave.pending;
#pragma omp barrier
        if (index == 0) settle(&wave);
#pragma omp barrier
    }
}

mf_status mf_cpu_attention_backward(mf_device *device, const mf_attention_args *args) {
    attention_job job;
    MF_TRY(mf_cpu_attention_begin(device, args, true, &job));
#pragma omp parallel num_threads(job.attention->lane_count)
    {
        int index = omp_get_thread_num();
        backward_lane(&job, &job.attention->lanes[index], index, omp_get_num_threads());
    }
    MF_TRY(mf_cpu_attention_end(&job));
    return MF_OK;
}
