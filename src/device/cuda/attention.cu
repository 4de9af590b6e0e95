/* attention.cu: calls of attention as kernels are given them, and which kernels they go to. */
#include "device/cuda/attention.cuh"

#include <stdlib.h>
#include <string.h>

/* MOST_POSITION: so that sums of two fit 32 bits. PAGE_WORDS: of a list, that one launch stores. */
enum { MOST_POSITION = 1 << 30, PAGE_WORDS = 960, PAGE_THREADS = 256 };

typedef struct list_page {
    uint32_t word[PAGE_WORDS];
} list_page;

static __global__ void __launch_bounds__(PAGE_THREADS)
    store_page(const __grid_constant__ list_page page, int words, uint32_t *out) {
    for (int i = (int)threadIdx.x; i < words; i += PAGE_THREADS) out[i] = page.word[i];
}

/* A list reaches the device as parameters do, for a copy from the host's own memory would wait for the queue.
 */
static mf_status store_list(mf_device *device, const void *list, size_t bytes, void *out) {
    list_page page;
    for (size_t at = 0; at < bytes; at += sizeof page) {
        size_t here = bytes - at < sizeof page ? bytes - at : sizeof page;
        memcpy(&page, (const char *)list + at, here);
        MF_TRY(mf_cuda_launch(device, "attention's lists", store_page, dim3(1), dim3(PAGE_THREADS), 0, page,
                              (int)(here / sizeof(uint32_t)), (uint32_t *)((char *)out + at)));
    }
    return MF_OK;
}

static bool is_wide(const void *data, size_t piece) { return (uintptr_t)data % piece == 0; }

static bool reads_wide(const mf_attention_args *a) {
    bool wide = a->head_dim % 8 == 0 && a->q_ld % 8 == 0 && is_wide(a->q, 16) && a->do_ld % 8 == 0 &&
                is_wide(a->d_o, 16);
    for (int i = 0; i < a->key_chunks; i++) {
        const mf_key_chunk *c = &a->keys[i];
        wide = wide && is_wide(c->k, 16) && is_wide(c->v, 16) && c->ld % 8 == 0 && c->batch_ld % 8 == 0;
    }
    return wide;
}

static bool adds_wide(const mf_attention_args *a) {
    bool wide = a->head_dim % 2 == 0 && a->dq_ld % 2 == 0 && is_wide(a->dq, 8);
    for (int i = 0; i < a->key_chunks; i++) {
        const mf_key_chunk *c = &a->keys[i];
        wide = wide && is_wide(c->dk, 8) && is_wide(c->dv, 8) && c->grad_ld % 2 == 0 &&
               c->grad_batch_ld % 2 == 0;
    }
    return wide;
}

static mf_status check_counts(const mf_attention_args *a) {
    int64_t position = a->tokens;
    for (int i = 0; i < a->query_chunks; i++)
        position = mf_max(position, a->queries[i].position + a->queries[i].rows);
    for (int i = 0; i < a->key_chunks; i++)
        position = mf_max(position, a->keys[i].position + a->keys[i].rows);
    if (position > MOST_POSITION)
        return MF_FAIL(MF_EUNSUPPORTED, "attention: position %lld is past the %d that a GPU counts to",
                       (long long)position, MOST_POSITION);
    if (mf_max(a->batch, (a->first_head + a->heads) * a->group) > INT32_MAX)
        return MF_FAIL(MF_EUNSUPPORTED,
                       "attention: %lld sequences of %lld heads are more than a GPU counts to",
                       (long long)a->batch, (long long)a->heads);
    return MF_OK;
}

static void describe(const mf_attention_args *a, int tile_rows, bool backward, attention_job *job) {
    job->q = a->q;
    job->d_o = a->d_o;
    job->o = a->o;
    job->lse = a->lse;
    job->dq = a->dq;
    job->delta = a->delta;
    job->first_key = a->first_key;
    job->q_ld = a->q_ld;
    job->o_ld = a->o_ld;
    job->lse_ld = a->lse_ld;
    job->do_ld = a->do_ld;
    job->dq_ld = a->dq_ld;
    job->tokens = a->tokens;
    job->cut = mf_cuda_attention_cut(a, tile_rows);
    job->batch = (int32_t)a->batch;
    job->heads = (int32_t)a->heads;
    job->first_head = (int32_t)a->first_head;
    job->group = (int32_t)mf_min(a->group, INT32_MAX);
    job->kv_heads = (int32_t)a->kv_heads;
    job->first_kv_head = (int32_t)a->first_kv_head;
    job->head_dim = (int32_t)a->head_dim;
    job->turns = (int32_t)mf_max(1, a->interleave);
    job->window = a->window ? (int32_t)mf_min(a->window, INT32_MAX) : INT32_MAX;
    job->splits = backward ? 1 : mf_cuda_attention_splits(a);
    job->scale = a->scale;
    job->merge = a->merge;
    job->writes_f32 = a->type == MF_F32 || a->o_f32;
    job->wide = reads_wide(a);
    job->wide_o = a->head_dim % 2 == 0 && a->o_ld % 2 == 0 && is_wide(a->o, 4);
    job->wide_grads = backward && adds_wide(a);
}

static int later_first(const void *left, const void *right) {
    const mf_attention_queries *a = (const mf_attention_queries *)left,
                               *b = (const mf_attention_queries *)right;
    if (a->position != b->position) return a->position < b->position ? 1 : -1;
    return a->first_row < b->first_row ? -1 : a->first_row > b->first_row;
}

static int list_queries(const mf_attention_args *a, mf_attention_queries *out) {
    int count = 0;
    for (int i = 0; i < a->query_chunks; i++) {
        const mf_query_chunk *c = &a->queries[i];
        int64_t position = a->all_keys ? (int64_t)MOST_POSITION : c->position;
        if (c->rows) out[count++] = {c->first_row, (int32_t)c->rows, (int32_t)position};
    }
    qsort(out, (size_t)count, sizeof *out, later_first);
    return count;
}

static const void *moved(const void *data, int64_t elements, mf_dtype type) {
    return (const char *)data + (size_t)elements * mf_dtype_bytes(type);
}

/* What some query may see of a chunk, by its position: rows first .. end - 1. */
static mf_attention_keys seen_keys(const mf_attention_args *a, const mf_key_chunk *c, int64_t low,
                                   int64_t high) {
    int64_t position = a->all_keys ? 0 : c->position, stride = mf_max(1, a->interleave);
    int64_t first = mf_max(0, low - position), rows = mf_min(c->rows, high + 1 - position) - first;
    mf_attention_keys keys = {};
    if (rows <= 0) return keys;
    keys.k = moved(c->k, first * stride * c->ld, a->type);
    keys.v = moved(c->v, first * stride * c->ld, a->type);
    keys.dk = c->dk ? c->dk + first * stride * c->grad_ld : NULL;
    keys.dv = c->dv ? c->dv + first * stride * c->grad_ld : NULL;
    keys.ld = c->ld;
    keys.batch_ld = c->batch_ld;
    keys.grad_ld = c->grad_ld;
    keys.grad_batch_ld = c->grad_batch_ld;
    keys.rows = (int32_t)rows;
    keys.position = (int32_t)(position + first);
    return keys;
}

static int list_keys(const mf_attention_args *a, const attention_job *job,
                     const mf_attention_queries *queries, int query_count, mf_attention_keys *out) {
    int64_t low = MOST_POSITION, high = -1;
    int count = 0;
    for (int i = 0; i < query_count; i++) {
        low = mf_min(low, queries[i].position);
        high = mf_max(high, (int64_t)queries[i].position + queries[i].rows - 1);
    }
    for (int i = 0; i < a->key_chunks; i++) {
        mf_attention_keys keys = seen_keys(a, &a->keys[i], low - job->window + 1, high);
        if (keys.rows) out[count++] = keys;
    }
    return count;
}

/* Tiles of few keys for short chunks, and where a large tile would not fit. */
static void cut_keys(const mf_attention_args *a, const mf_attention_keys *keys, attention_job *job) {
    int64_t longest = 0;
    for (int i = 0; i < job->key_chunks; i++) longest = mf_max(longest, keys[i].rows);
    job->key_tile = mf_cuda_attention_is_tiled(a) && a->head_dim <= 128 && longest > 64 ? 128 : 64;
    for (int i = 0; i < job->key_chunks; i++) job->key_tiles += mf_ceil_div(keys[i].rows, job->key_tile);
}

static int earlier_first(const void *left, const void *right) {
    const mf_attention_keys *a = (const mf_attention_keys *)left, *b = (const mf_attention_keys *)right;
    if (a->position != b->position) return a->position < b->position ? -1 : 1;
    return a->rows < b->rows ? -1 : a->rows > b->rows;
}

static void *carve(char **at, size_t bytes) {
    void *data = *at;
    *at += bytes;
    return data;
}

/* Lists longer than few lie in the workspace, keys' first, which hold pointers. */
static mf_status place_lists(mf_device *device, const mf_attention_queries *queries,
                             const mf_attention_keys *keys, attention_job *job, char **at) {
    size_t query_bytes = (size_t)job->query_chunks * sizeof *queries;
    size_t key_bytes = (size_t)job->key_chunks * sizeof *keys;
    if (job->key_chunks > MF_ATTENTION_FEW_KEYS) {
        job->more_keys = (const mf_attention_keys *)carve(at, key_bytes);
        MF_TRY(store_list(device, keys, key_bytes, (void *)job->more_keys));
    } else if (key_bytes) {
        memcpy(job->keys, keys, key_bytes);
    }
    if (job->query_chunks > MF_ATTENTION_FEW_QUERIES) {
        job->more_queries = (const mf_attention_queries *)carve(at, query_bytes);
        return store_list(device, queries, query_bytes, (void *)job->more_queries);
    }
    if (query_bytes) memcpy(job->queries, queries, query_bytes);
    return MF_OK;
}

static mf_status list_chunks(mf_device *device, const mf_attention_args *a, attention_job *job, char **at) {
    mf_status status = MF_OK;
    mf_attention_queries *queries = NULL;
    mf_attention_keys *keys = NULL;
    MF_GO(mf_host_alloc((size_t)a->query_chunks + 1, sizeof *queries, &queries));
    MF_GO(mf_host_alloc((size_t)a->key_chunks + 1, sizeof *keys, &keys));
    job->query_chunks = list_queries(a, queries);
    job->key_chunks = list_keys(a, job, queries, job->query_chunks, keys);
    qsort(keys, (size_t)job->key_chunks, sizeof *keys, earlier_first);
    cut_keys(a, keys, job);
    MF_GO(place_lists(device, queries, keys, job, at));
fail:
    mf_host_free(queries);
    mf_host_free(keys);
    return status;
}

mf_status attention_begin(mf_device *device, const mf_attention_args *args, bool backward, attention_job *job,
                          mf_buffer *workspace) {
    memset(job, 0, sizeof *job);
    MF_TRY(check_counts(args));
    MF_TRY(mf_cuda_enter(device)); /* kernels are given attributes, which are a GPU's own */
    MF_TRY(mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)mf_cuda_attention_workspace(args, backward),
                           "attention's parts", workspace));
    char *at = (char *)workspace->data;
    describe(args, mf_cuda_attention_tile_rows(args), backward, job);
    MF_TRY(list_chunks(device, args, job, &at));
    job->parts = (float *)at;
    return MF_OK;
}

mf_status attention_grid(int64_t units, dim3 *out) {
    if (units > INT32_MAX)
        return MF_FAIL(MF_EUNSUPPORTED, "attention: %lld tiles are more than a GPU's grid has",
                       (long long)units);
    *out = dim3((unsigned)units);
    return MF_OK;
}

static mf_status forward(mf_device *device, const mf_attention_args *args, const attention_job *job) {
    if (job->query_chunks == 0 || (job->merge && job->key_chunks == 0)) return MF_OK;
    MF_TRY(mf_cuda_attention_is_tiled(args) ? attention_forward_tiled(device, job)
                                            : attention_forward_plain(device, args->type, job));
    return job->splits > 1 ? attention_combine(device, job) : MF_OK;
}

static mf_status backward(mf_device *device, const mf_attention_args *args, const attention_job *job) {
    if (job->query_chunks == 0 || job->key_chunks == 0) return MF_OK;
    return mf_cuda_attention_is_tiled(args) ? attention_backward_tiled(device, args, job)
                                            : attention_backward_plain(device, args->type, job);
}

mf_status mf_cuda_attention_forward(mf_device *device, const mf_attention_args *args) {
    attention_job job;
    mf_buffer workspace = {};
    mf_status status = attention_begin(device, args, false, &job, &workspace);
    if (!status) status = forward(device, args, &job);
    mf_buffer_free(device->memory, &workspace);
    return status;
}

mf_status mf_cuda_attention_backward(mf_device *device, const mf_attention_args *args) {
    attention_job job;
    mf_buffer workspace = {};
    mf_status status = attention_begin(device, args, true, &job, &workspace);
    if (!status) status = backward(device, args, &job);
    mf_buffer_free(device->memory, &workspace);
    return status;
}
