/* exchange.c: what all exchanges share: where own queries, keys and values lie, and what a call attends with.
 */
#include "schedule/kinds.h"

static mf_status host_lists(mf_exchange *x) {
    size_t ranks = (size_t)mf_comm_size(x->comm);
    MF_TRY(mf_host_alloc(ranks * MF_RUNS, sizeof *x->chunk, &x->chunk));
    MF_TRY(mf_host_alloc(ranks * MF_RUNS, sizeof *x->query, &x->query));
    return mf_host_alloc(ranks + 1, sizeof *x->chunk_begin, &x->chunk_begin);
}

static int64_t most_rows(const mf_exchange *x) {
    int64_t most = 0;
    for (int rank = 0; rank < mf_comm_size(x->comm); rank++)
        most = mf_max(most, mf_cut_rows(x->sizes.tokens, mf_comm_size(x->comm), rank));
    return most;
}

static mf_status own_values(mf_exchange *x) {
    mf_memory *memory = mf_device_memory(x->device);
    size_t tokens = (size_t)(x->sizes.batch * x->rows), size = mf_dtype_bytes(x->sizes.type);
    size_t slots = (size_t)x->slots, kv = tokens * (size_t)x->kv_width;
    MF_TRY(mf_buffer_alloc(memory, MF_ACTIVATIONS, slots * tokens * (size_t)x->width * size, "queries",
                           &x->queries));
    if (!x->ulysses || x->sizes.sums_at_home)
        MF_TRY(mf_buffer_alloc(memory, MF_ACTIVATIONS,
                               slots * tokens * (size_t)x->sizes.heads * sizeof(float),
                               "attention's log-sums", &x->lse));
    size_t most = (size_t)(x->sizes.batch * most_rows(x)) * (size_t)x->kv_width;
    x->keys.most_bytes = x->values.most_bytes = slots * most * size;
    x->dkeys.most_bytes = x->dvalues.most_bytes = most * sizeof(float);
    MF_TRY(mf_shared_alloc(x->comm, memory, MF_ACTIVATIONS, slots * kv * size, "keys", &x->keys));
    MF_TRY(mf_shared_alloc(x->comm, memory, MF_ACTIVATIONS, slots * kv * size, "values", &x->values));
    if (!x->sizes.grads) return MF_OK;
    size_t bytes = kv * sizeof(float);
    MF_TRY(mf_shared_alloc(x->comm, memory, MF_ACTIVATIONS, bytes, "key gradients", &x->dkeys));
    return mf_shared_alloc(x->comm, memory, MF_ACTIVATIONS, bytes, "value gradients", &x->dvalues);
}

static mf_status first_keys(mf_exchange *x) {
    int64_t rows = x->ulysses ? x->sizes.tokens : x->rows;
    if (!x->sizes.packed) return MF_OK;
    return mf_buffer_alloc(mf_device_memory(x->device), MF_WORKSPACE,
                           (size_t)(x->sizes.batch * rows) * sizeof(int32_t), "first keys", &x->first_key);
}

/* A rank's tokens of a sequence. Returns how many. */
static int64_t copy_rows(const mf_exchange *x, int rank, const int32_t *begins, int32_t *out) {
    mf_run runs[MF_RUNS];
    int n = mf_cut_runs(x->sizes.tokens, mf_comm_size(x->comm), rank, runs);
    for (int i = 0; i < n; i++)
        for (int64_t r = 0; r < runs[i].rows; r++) out[runs[i].first_row + r] = begins[runs[i].position + r];
    return mf_cut_rows(x->sizes.tokens, mf_comm_size(x->comm), rank);
}

/* In the order of the queries that calls of attention have here: own tokens, or all, rank after rank. */
static void lay_out_documents(const mf_exchange *x, const int32_t *begins, int32_t *out) {
    int own = mf_comm_rank(x->comm), first = x->ulysses ? 0 : own;
    int end = x->ulysses ? mf_comm_size(x->comm) : own + 1;
    for (int64_t b = 0; b < x->sizes.batch; b++)
        for (int rank = first; rank < end; rank++)
            out += copy_rows(x, rank, begins + b * x->sizes.tokens, out);
}

mf_status mf_exchange_set_documents(mf_exchange *x, const int32_t *begins) {
    void *there = x->first_key.data;
    size_t bytes = x->first_key.bytes;
    x->has_documents = begins != NULL;
    if (!begins || !there) return MF_OK;
    if (mf_device_holds(x->device, there) && !x->first_key_host)
        MF_TRY(mf_host_alloc(bytes, 1, &x->first_key_host));
    lay_out_documents(x, begins, x->first_key_host ? x->first_key_host : there);
    return x->first_key_host ? mf_copy(x->device, MF_QUEUE_COMPUTE, there, x->first_key_host, bytes) : MF_OK;
}

mf_status mf_exchange_create(const mf_exchange_kind *kind, mf_comm *comm, mf_device *device,
                             const mf_exchange_sizes *sizes, mf_exchange *out) {
    mf_status status = MF_OK;
    int ranks = mf_comm_size(comm);
    *out = (mf_exchange){.kind = ranks > 1 ? kind : &mf_exchange_none,
                         .comm = comm,
                         .device = device,
                         .sizes = *sizes,
                         .slots = sizes->slots};
    out->borrows = mf_comm_borrows(comm);
    out->rows = mf_cut_rows(sizes->tokens, ranks, mf_comm_rank(comm));
    out->width = sizes->heads * sizes->head_dim;
    out->kv_width = sizes->kv_heads * sizes->head_dim;
    MF_GO(host_lists(out));
    if (out->kind->create) MF_GO(out->kind->create(out));
    MF_GO(own_values(out));
    MF_GO(first_keys(out));
    return MF_OK;
fail:
    mf_exchange_destroy(out);
    return status;
}

void mf_exchange_destroy(mf_exchange *x) {
    if (!x->comm) return;
    mf_memory *memory = mf_device_memory(x->device);
    mf_abandon(x->comm, &x->keys_travel);
    mf_abandon(x->comm, &x->grads_travel);
    if (x->kind->destroy) x->kind->destroy(x);
    mf_buffer *all[] = {&x->queries,   &x->lse,       &x->first_key,     &x->delta,
                        &x->others[0], &x->others[1], &x->travelling[0], &x->travelling[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(memory, all[i]);
    mf_shared *shared[] = {&x->keys, &x->values, &x->dkeys, &x->dvalues};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) mf_shared_free(x->comm, memory, shared[i]);
    mf_host_free(x->first_key_host);
    mf_host_free(x->chunk);
    mf_host_free(x->query);
    mf_host_free(x->chunk_begin);
    *x = (mf_exchange){0};
}

void mf_exchange_reshape(mf_exchange *x, int64_t tokens) {
    x->sizes.tokens = tokens;
    x->rows = mf_cut_rows(tokens, mf_comm_size(x->comm), mf_comm_rank(x->comm));
}

mf_status mf_exchange_check(const mf_exchange_kind *kind, int ranks, int64_t heads) {
    return kind->check && ranks > 1 ? kind->check(ranks, heads) : MF_OK;
}

static void *at_head(const mf_exchange *x, void *base, int64_t width, int64_t head) {
    int64_t slot = x->slots > 1 ? x->slot : 0;
    return mf_within(base, slot * x->sizes.batch * x->rows * width + head * x->sizes.head_dim, x->sizes.type);
}

void *mf_exchange_queries(const mf_exchange *x, int64_t head) {
    return at_head(x, x->queries.data, x->width, head - x->sizes.first_head);
}
void *mf_exchange_keys(const mf_exchange *x, int64_t head) {
    return at_head(x, x->keys.own, x->kv_width, head - x->sizes.first_kv_head);
}
void *mf_exchange_values(const mf_exchange *x, int64_t head) {
    return at_head(x, x->values.own, x->kv_width, head - x->sizes.first_kv_head);
}
float *mf_exchange_dkeys(const mf_exchange *x, int64_t head) {
    return mf_within(x->dkeys.own, (head - x->sizes.first_kv_head) * x->sizes.head_dim, MF_F32);
}
float *mf_exchange_dvalues(const mf_exchange *x, int64_t head) {
    return mf_within(x->dvalues.own, (head - x->sizes.first_kv_head) * x->sizes.head_dim, MF_F32);
}

mf_status mf_exchange_open(mf_exchange *x, int slot) {
    x->slot = slot;
    return x->kind->open ? x->kind->open(x) : MF_OK;
}

static int own_queries(mf_exchange *x) {
    mf_run runs[MF_RUNS];
    int n = mf_cut_runs(x->sizes.tokens, mf_comm_size(x->comm), mf_comm_rank(x->comm), runs);
    for (int i = 0; i < n; i++)
        x->query[i] = (mf_query_chunk){
            .rows = runs[i].rows, .position = runs[i].position, .first_row = runs[i].first_row};
    return n;
}

float *mf_exchange_sums(const mf_exchange *x, int64_t head) {
    int64_t slot = x->slots > 1 ? x->slot : 0;
    return mf_within(x->lse.data,
                     slot * x->sizes.batch * x->rows * x->sizes.heads + head - x->sizes.first_head, MF_F32);
}

static mf_attention_args args_of(mf_exchange *x, const mf_attend *call) {
    const mf_exchange_sizes *s = &x->sizes;
    mf_attention_args args = {.type = s->type,
                              .batch = s->batch,
                              .tokens = x->rows,
                              .heads = call->heads,
                              .first_head = call->first,
                              .group = s->group,
                              .head_dim = s->head_dim,
                              .all_keys = s->all_keys,
                              .interleave = s->interleave,
                              .window = call->window,
                              .first_key = x->has_documents ? x->first_key.data : NULL,
                              .first_key_host = x->first_key_host,
                              .scale = 1.0f / __builtin_sqrtf((float)s->head_dim),
                              .queries = x->query,
                              .q = mf_exchange_queries(x, call->first),
                              .q_ld = x->width,
                              .o = call->a,
                              .o_ld = x->width,
                              .lse = mf_exchange_sums(x, call->first),
                              .lse_ld = s->heads,
                              .d_o = call->da,
                              .do_ld = call->heads * s->head_dim,
                              .dq = call->dq,
                              .dq_ld = call->heads * s->head_dim};
    args.query_chunks = own_queries(x);
    mf_keys_range(x, &args, &args.first_kv_head, &args.kv_heads);
    return args;
}

mf_status mf_exchange_attend(mf_exchange *x, const mf_attend *call) {
    mf_attention_args args = args_of(x, call);
    return x->kind->forward(x, &args);
}

mf_status mf_exchange_begin_grads(mf_exchange *x, int slot) {
    size_t bytes = (size_t)(x->sizes.batch * x->rows * x->kv_width) * sizeof(float);
    x->slot = slot;
    MF_TRY(mf_zero(x->device, x->dkeys.own, bytes));
    MF_TRY(mf_zero(x->device, x->dvalues.own, bytes));
    return x->kind->begin_grads ? x->kind->begin_grads(x) : MF_OK;
}

mf_status mf_exchange_delta(mf_exchange *x, mf_attention_args *args) {
    args->delta = x->delta.data;
    return mf_attention_delta(x->device, args, x->delta.data);
}

mf_status mf_exchange_attend_backward(mf_exchange *x, const mf_attend *call) {
    mf_status status = MF_OK;
    mf_memory *memory = mf_device_memory(x->device);
    size_t tokens = (size_t)(x->sizes.batch * x->rows), heads = (size_t)call->heads;
    mf_attention_args args = args_of(x, call);
    MF_GO(mf_buffer_alloc(memory, MF_WORKSPACE, tokens * heads * sizeof(float), "attention's row sums",
                          &x->delta));
    MF_GO(mf_zero(x->device, call->dq, tokens * heads * (size_t)x->sizes.head_dim * sizeof(float)));
    MF_GO(x->kind->backward(x, &args));
fail:
    mf_buffer_free(memory, &x->delta);
    return status;
}
