/* attention.c: what attention keeps between calls, how a call is cut into tiles, and delta. */
#include "device/cpu/attention_tile.h"

#include <stdlib.h>

mf_status mf_cpu_attention_create(mf_device *device, mf_cpu_attention **out) {
    mf_status status = MF_OK;
    mf_cpu_attention *a = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *a, &a));
    a->memory = device->memory;
    a->bf16_products = mf_cpu_bf16_products();
    MF_GO(mf_host_alloc((size_t)device->threads, sizeof *a->lanes, &a->lanes));
    if (dnnl_engine_create(&a->engine, dnnl_cpu, 0))
        MF_GO(MF_FAIL(MF_ELIBRARY, "attention: oneDNN has no CPU engine"));
    for (; a->lane_count < device->threads; a->lane_count++)
        MF_GO(mf_cpu_attention_lane_open(&a->lanes[a->lane_count], a->engine));
    *out = a;
    return MF_OK;
fail:
    mf_cpu_attention_destroy(a);
    return status;
}

void mf_cpu_attention_destroy(mf_cpu_attention *a) {
    if (!a) return;
    for (int i = 0; i < a->lane_count; i++) mf_cpu_attention_lane_close(&a->lanes[i]);
    if (a->engine) dnnl_engine_destroy(a->engine);
    mf_buffer_free(a->memory, &a->workspace);
    mf_host_free(a->queries.run);
    mf_host_free(a->keys.run);
    mf_host_free(a->lanes);
    mf_host_free(a);
}

static mf_status reserve_runs(attention_runs *runs, int64_t count) {
    runs->count = 0;
    if (count <= runs->capacity) return MF_OK;
    mf_host_free(runs->run);
    runs->capacity = 0;
    MF_TRY(mf_host_alloc((size_t)count, sizeof *runs->run, &runs->run));
    runs->capacity = count;
    return MF_OK;
}

/* Runs of one chunk, equally long but the last. */
static void cut(attention_runs *runs, int chunk, int64_t rows, int64_t position, int64_t first_row,
                int64_t tile) {
    for (int64_t i = 0; i < rows; i += tile) {
        attention_run run = {mf_min(tile, rows - i), position + i, first_row + i, chunk};
        runs->run[runs->count++] = run;
    }
}

static void place_all(attention_runs *runs, int64_t position) {
    for (int64_t i = 0; i < runs->count; i++) runs->run[i].position = position;
}

static int64_t count_query_runs(const mf_attention_args *args) {
    int64_t count = 0;
    for (int i = 0; i < args->query_chunks; i++) count += mf_ceil_div(args->queries[i].rows, QUERY_TILE);
    return count;
}

static mf_status cut_queries(const mf_attention_args *args, attention_runs *runs) {
    MF_TRY(reserve_runs(runs, count_query_runs(args)));
    for (int i = 0; i < args->query_chunks; i++) {
        const mf_query_chunk *c = &args->queries[i];
        cut(runs, i, c->rows, c->position, c->first_row, QUERY_TILE);
    }
    if (args->all_keys) place_all(runs, KEY_TILE);
    return MF_OK;
}

static mf_status cut_keys(const mf_attention_args *args, attention_runs *runs) {
    int64_t count = 0;
    for (int i = 0; i < args->key_chunks; i++) count += mf_ceil_div(args->keys[i].rows, KEY_TILE);
    MF_TRY(reserve_runs(runs, count));
    for (int i = 0; i < args->key_chunks; i++)
        cut(runs, i, args->keys[i].rows, args->keys[i].position, 0, KEY_TILE);
    if (args->all_keys) place_all(runs, 0);
    return MF_OK;
}

static int later_first(const void *left, const void *right) {
    const attention_run *a = left, *b = right;
    if (a->position != b->position) return a->position < b->position ? 1 : -1;
    if (a->chunk != b->chunk) return a->chunk - b->chunk;
    return a->row < b->row ? -1 : 1;
}

void mf_cpu_attention_heads(const mf_attention_args *args, int64_t kv_head, int64_t *first, int64_t *end) {
    int64_t absolute = args->first_kv_head + kv_head;
    *first = mf_max(0, absolute * args->group - args->first_head);
    *end = mf_min(args->heads, (absolute + 1) * args->group - args->first_head);
}

static size_t carve(attention_layout *layout, int64_t elements, mf_dtype type) {
    size_t at = layout->bytes;
    layout->bytes += ((size_t)elements * mf_dtype_bytes(type) + 63) & ~(size_t)63;
    return at;
}

/* Scores, and the same in the product type: in place where that is f32. */
static void carve_scores(attention_layout *layout, int64_t elements, mf_dtype product, size_t *scores,
                         size_t *rounded) {
    *scores = carve(layout, elements, MF_F32);
    *rounded = product == MF_F32 ? *scores : carve(layout, elements, product);
}

static void carve_scratch(attention_layout *layout, const attention_shape *shapes, int count) {
    for (int i = 0; i < count; i++)
        layout->scratch_bytes =
            (size_t)mf_max((int64_t)layout->scratch_bytes, (int64_t)mf_cpu_attention_scratch(&shapes[i]));
    layout->scratch = carve(layout, (int64_t)layout->scratch_bytes / 4, MF_F32);
}

static void lay_out_forward(attention_layout *l, mf_dtype product, int64_t batches, int64_t m, int64_t n,
                            int64_t d) {
    const attention_shape shapes[] = {{m, n, d, product, false, true, false},
                                      {m, d, n, product, false, false, true}};
    l->q = carve(l, batches * m * d, product);
    l->k = carve(l, n * d, product);
    l->v = carve(l, n * d, product);
    carve_scores(l, m * n, product, &l->scores, &l->p);
    l->o = carve(l, batches * m * d, MF_F32);
    l->row_a = carve(l, batches * m, MF_F32);
    l->row_b = carve(l, batches * m, MF_F32);
    carve_scratch(l, shapes, 2);
}

static void lay_out_backward(attention_layout *l, mf_dtype product, int threads, int64_t m, int64_t n,
                             int64_t d) {
    const attention_shape shapes[] = {{n, m, d, product, false, true, false},
                                      {n, d, m, product, false, false, true},
                                      {m, d, n, product, true, false, false}};
    l->q = carve(l, m * d, product);
    l->d_o = carve(l, m * d, product);
    l->k = carve(l, n * d, product);
    l->v = carve(l, n * d, product);
    carve_scores(l, m * n, product, &l->scores, &l->p);
    carve_scores(l, m * n, product, &l->d_scores, &l->d_s);
    l->dq = carve(l, m * d, MF_F32);
    l->grads[0] = carve(l, 2 * n * d, MF_F32);
    l->grads[1] = threads > 1 ? carve(l, 2 * n * d, MF_F32) : l->grads[0];
    l->row_a = carve(l, m, MF_F32);
    l->row_b = carve(l, m, MF_F32);
    carve_scratch(l, shapes, 3);
}

/* Heads that share a tile, and tiles that share keys: fewer where threads would be left without work. */
static void gather_heads(attention_job *job, int threads, int64_t longest, int64_t runs) {
    const mf_attention_args *a = job->args;
    int64_t group = mf_min(a->group, a->heads);
    job->merged = mf_max(1, mf_min(group, QUERY_TILE / mf_max(1, longest)));
    job->batches = mf_max(1, mf_min(FORWARD_BATCHES, mf_ceil_div(group, job->merged)));
    int64_t tiles = runs * a->batch * mf_ceil_div(a->heads, job->merged);
    while (job->batches > 1 && tiles / job->batches < 4 * threads) job->batches /= 2;
}

/* Everything that follows from sizes alone. */
static void plan(attention_job *job, const mf_attention_args *args, mf_dtype bf16_products, int threads,
                 bool backward) {
    int64_t longest_queries = 0, longest_keys = 0;
    for (int i = 0; i < args->query_chunks; i++)
        longest_queries = mf_max(longest_queries, args->queries[i].rows);
    for (int i = 0; i < args->key_chunks; i++) longest_keys = mf_max(longest_keys, args->keys[i].rows);
    longest_queries = mf_min(longest_queries, QUERY_TILE);
    job->args = args;
    job->product = args->type == MF_F32 ? MF_F32 : bf16_products;
    gather_heads(job, threads, longest_queries, count_query_runs(args));
    int64_t m = attention_pad(job->merged * longest_queries),
            n = attention_pad(mf_min(longest_keys, KEY_TILE));
    if (backward)
        lay_out_backward(&job->layout, job->product, threads, m, n, args->head_dim);
    else
        lay_out_forward(&job->layout, job->product, job->batches, m, n, args->head_dim);
}

size_t mf_cpu_attention_workspace(const mf_attention_args *args, int threads, bool backward) {
    attention_job job = {0};
    if (!backward && mf_cpu_attention_is_single(args)) return mf_cpu_attention_single_bytes(args, threads);
    plan(&job, args, mf_cpu_bf16_products(), threads, backward);
    return job.layout.bytes * (size_t)threads;
}

mf_status mf_cpu_attention_set_products(mf_cpu_attention *attention, mf_dtype type) {
    if (type == MF_BF16 && !mf_cpu_has(dnnl_cpu_isa_avx512_core))
        return MF_FAIL(MF_EUNSUPPORTED, "attention: products of bf16 need AVX-512");
    attention->bf16_products = type;
    return MF_OK;
}

static mf_status grow(mf_cpu_attention *a, size_t bytes) {
    if (bytes <= a->workspace.bytes) return MF_OK;
    mf_buffer_free(a->memory, &a->workspace);
    MF_TRY(mf_buffer_alloc(a->memory, MF_WORKSPACE, bytes, "attention tiles", &a->workspace));
    return MF_OK;
}

mf_status mf_cpu_reserve_attention(mf_device *device, const mf_attention_args *args, bool backward) {
    mf_cpu_attention *a = mf_cpu_of(device)->attention;
    attention_job job = {.attention = a};
    if (!backward && mf_cpu_attention_is_single(args))
        return grow(a, mf_cpu_attention_single_bytes(args, a->lane_count));
    plan(&job, args, a->bf16_products, a->lane_count, backward);
    return grow(a, job.layout.bytes * (size_t)a->lane_count);
}

mf_status mf_cpu_attention_begin(mf_device *device, const mf_attention_args *args, bool backward,
                                 attention_job *job) {
    mf_cpu_attention *a = mf_cpu_of(device)->attention;
    *job = (attention_job){.attention = a};
    plan(job, args, a->bf16_products, a->lane_count, backward);
    MF_TRY(cut_queries(args, &a->queries));
    MF_TRY(cut_keys(args, &a->keys));
    if (a->queries.count)
        qsort(a->queries.run, (size_t)a->queries.count, sizeof *a->queries.run, later_first);
    MF_TRY(grow(a, job->layout.bytes * (size_t)a->lane_count));
    for (int i = 0; i < a->lane_count; i++) {
        a->lanes[i].base = (char *)a->workspace.data + (size_t)i * job->layout.bytes;
        a->lanes[i].layout = &job->layout;
        a->lanes[i].status = MF_OK;
    }
    return MF_OK;
}

mf_status mf_cpu_attention_end(attention_job *job) {
    const mf_cpu_attention *a = job->attention;
    for (int i = 0; i < a->lane_count; i++)
        if (a->lanes[i].status) return mf_error_adopt(&a->lanes[i].error);
    return MF_OK;
}

mf_status mf_cpu_attention_delta(mf_device *device, const mf_attention_args *args, float *delta) {
    int64_t d = args->head_dim, rows = args->batch * args->tokens;
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t h = 0; h < args->heads; h++) {
            int64_t o = i * args->o_ld + h * d, d_o = i * args->do_ld + h * d;
            delta[i * args->heads + h] =
                args->type == MF_F32
                    ? mf_cpu_row_dot_f32((const float *)args->o + o, (const float *)args->d_o + d_o, d)
                    : mf_cpu_row_dot_bf16((const uint16_t *)args->o + o, (const uint16_t *)args->d_o + d_o,
                                          d);
        }
    return MF_OK;
}
