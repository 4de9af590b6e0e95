/* library.c: see library.h. A graph is made once a shape and kept. */
#include "device/cuda/library.h"

#include "device/cuda/cudnn_attention.h"
#include "device/cuda_sizes/pieces.h"

#include <float.h>
#include <string.h>

typedef struct graph {
    struct graph *next;
    mf_cudnn_shape shape;
    bool backward;
    mf_cudnn_graph cudnn;
} graph;

struct mf_cuda_library {
    cudnnHandle_t handle;
    graph *graphs;
};

void mf_cuda_library_destroy(mf_cuda_library *library) {
    while (library && library->graphs) {
        graph *g = library->graphs;
        library->graphs = g->next;
        mf_cudnn_graph_free(&g->cudnn);
        mf_host_free(g);
    }
    if (library && library->handle) cudnnDestroy(library->handle);
    mf_host_free(library);
}

/* Made at its first use: cuDNN's handle takes time, and memory that nobody accounts. */
static mf_status library_of(mf_device *device, mf_cuda_library **out) {
    mf_cuda *cuda = mf_cuda_of(device);
    *out = cuda->library;
    if (*out) return MF_OK;
    MF_TRY(mf_host_alloc(1, sizeof **out, out));
    cuda->library = *out;
    MF_TRY(MF_CUDNN(cudnnCreate, &(*out)->handle));
    MF_TRY(MF_CUDNN(cudnnSetStream, (*out)->handle, mf_cuda_stream(device)));
    return MF_OK;
}

static graph *find(const mf_cuda_library *library, const mf_cudnn_shape *shape, bool backward) {
    graph *g = library->graphs;
    while (g && (g->backward != backward || memcmp(&g->shape, shape, sizeof *shape) != 0)) g = g->next;
    return g;
}

static mf_status make(mf_cuda_library *library, const mf_cudnn_shape *shape, bool backward, graph **out) {
    graph *g = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *g, &g));
    *g = (graph){.shape = *shape, .backward = backward, .cudnn = {.where = {.handle = library->handle}}};
    if (backward)
        mf_cudnn_attention_backward(&g->cudnn, shape);
    else
        mf_cudnn_attention_forward(&g->cudnn, shape);
    mf_status status = mf_cudnn_finish(&g->cudnn);
    if (status) {
        mf_cudnn_graph_free(&g->cudnn);
        mf_host_free(g);
        return mf_error_pass(__FILE__, __LINE__, status);
    }
    g->next = library->graphs;
    library->graphs = *out = g;
    return MF_OK;
}

static mf_cudnn_rows rows(int64_t tokens, int64_t ld) { return (mf_cudnn_rows){tokens * ld, ld}; }

static mf_cudnn_shape shape_of(const mf_attention_args *a, const mf_cuda_piece *p, bool direct,
                               bool backward) {
    int64_t row = a->heads * a->head_dim;
    return (mf_cudnn_shape){.batch = a->batch,
                            .heads = a->heads,
                            .kv_heads = mf_cuda_piece_kv_heads(a),
                            .queries = p->queries,
                            .keys = p->keys,
                            .head_dim = a->head_dim,
                            .causal = p->causal,
                            .q = rows(a->tokens, a->q_ld),
                            .k = {p->chunk->batch_ld, p->chunk->ld},
                            .o = direct ? rows(a->tokens, a->o_ld) : rows(p->queries, row),
                            .lse = direct ? rows(a->tokens, a->lse_ld) : rows(p->queries, a->heads),
                            .d_o = backward ? rows(a->tokens, a->do_ld) : (mf_cudnn_rows){0}};
}

/* All of one call. */
typedef struct call {
    mf_device *device;
    const mf_attention_args *args;
    mf_cuda_library *library;
    bool backward, direct;
    int count;
    mf_cuda_piece *pieces;
    mf_buffer workspace;   /* as mf_cuda_pieces_workspace says; its parts lie one after another */
    int64_t queries, keys; /* of the largest piece */
} call;

static const uint16_t *at(const void *data, int64_t elements) { return (const uint16_t *)data + elements; }

/* Key heads that are read begin here in a chunk's rows. */
static int64_t key_offset(const call *c, const mf_cuda_piece *p, int64_t ld) {
    return p->key * ld + mf_cuda_piece_first_kv_head(c->args) * c->args->head_dim;
}

enum { POINTERS_MOST = MF_CUDNN_IDS };
typedef struct pack {
    int count;
    int64_t id[POINTERS_MOST];
    void *pointer[POINTERS_MOST];
} pack;

static void give(pack *p, int64_t id, const void *pointer) {
    p->id[p->count] = id;
    p->pointer[p->count++] = (void *)(uintptr_t)pointer;
}

/* What both ways read, and the numbers. */
static void give_common(pack *p, const call *c, const mf_cuda_piece *piece) {
    static const float lowest = -FLT_MAX;
    int64_t key = key_offset(c, piece, piece->chunk->ld);
    give(p, MF_CUDNN_Q, at(c->args->q, piece->query * c->args->q_ld));
    give(p, MF_CUDNN_K, at(piece->chunk->k, key));
    give(p, MF_CUDNN_V, at(piece->chunk->v, key));
    give(p, MF_CUDNN_SCALE, &c->args->scale);
    if (piece->causal) give(p, MF_CUDNN_LOWEST, &lowest);
}

static mf_status run(const call *c, const mf_cuda_piece *piece, const pack *p) {
    mf_status status = MF_OK;
    mf_buffer own = {0};
    mf_cudnn_shape shape = shape_of(c->args, piece, c->direct || c->backward, c->backward);
    graph *g = find(c->library, &shape, c->backward);
    if (!g) MF_TRY(make(c->library, &shape, c->backward, &g));
    MF_GO(mf_buffer_alloc(c->device->memory, MF_WORKSPACE, (size_t)g->cudnn.workspace_bytes,
                          "cuDNN's workspace", &own));
    MF_GO(mf_cudnn_run(&g->cudnn, p->count, p->id, p->pointer, own.data));
fail:
    mf_buffer_free(c->device->memory, &own);
    return status;
}

static mf_status forward_piece(const call *c, const mf_cuda_piece *piece, uint16_t *o, float *lse) {
    pack p = {0};
    give_common(&p, c, piece);
    give(&p, MF_CUDNN_O, o);
    give(&p, MF_CUDNN_LSE, lse);
    return run(c, piece, &p);
}

static mf_status forward_direct(const call *c) {
    const mf_attention_args *a = c->args;
    for (int i = 0; i < c->count; i++) {
        const mf_cuda_piece *p = &c->pieces[i];
        MF_TRY(forward_piece(c, p, (uint16_t *)a->o + p->query * a->o_ld, a->lse + p->query * a->lse_ld));
    }
    return MF_OK;
}

static mf_status forward_merged(const call *c) {
    const mf_attention_args *a = c->args;
    int64_t row = a->heads * a->head_dim, sum_ld = a->o_f32 ? a->o_ld : row;
    float *own_sum = c->workspace.data, *sum = a->o_f32 ? a->o : own_sum;
    uint16_t *o = (uint16_t *)(own_sum + (a->o_f32 ? 0 : a->batch * a->tokens * row));
    float *lse = (float *)(void *)(o + a->batch * c->queries * row);
    MF_TRY(mf_cuda_sum_begin(c->device, a, sum, sum_ld));
    for (int i = 0; i < c->count; i++) {
        const mf_cuda_piece *p = &c->pieces[i];
        MF_TRY(forward_piece(c, p, o, lse));
        MF_TRY(mf_cuda_sum_merge(c->device, a, &(mf_cuda_part){p->query, p->queries, o, lse}, sum, sum_ld));
    }
    for (int i = 0; i < a->query_chunks * (sum == own_sum); i++)
        for (int64_t b = 0; b < a->batch; b++) {
            int64_t at_row = b * a->tokens + a->queries[i].first_row;
            MF_TRY(mf_cuda_cast(c->device, &(mf_cast_args){.rows = a->queries[i].rows,
                                                           .width = row,
                                                           .in = sum + at_row * sum_ld,
                                                           .in_ld = sum_ld,
                                                           .in_type = MF_F32,
                                                           .out = (uint16_t *)a->o + at_row * a->o_ld,
                                                           .out_ld = a->o_ld,
                                                           .out_type = MF_BF16}));
        }
    return MF_OK;
}

static mf_status add_queries(const call *c, const mf_cuda_piece *p, const uint16_t *dq) {
    const mf_attention_args *a = c->args;
    return mf_cuda_add_bf16(c->device, &(mf_cuda_add_args){.batch = a->batch,
                                                           .rows = p->queries,
                                                           .width = a->heads * a->head_dim,
                                                           .from = dq,
                                                           .to = a->dq + p->query * a->dq_ld,
                                                           .to_batch_ld = a->tokens * a->dq_ld,
                                                           .to_ld = a->dq_ld});
}

static mf_status add_keys(const call *c, const mf_cuda_piece *p, const uint16_t *from, float *to) {
    return mf_cuda_add_bf16(c->device,
                            &(mf_cuda_add_args){.batch = c->args->batch,
                                                .rows = p->keys,
                                                .width = mf_cuda_piece_kv_heads(c->args) * c->args->head_dim,
                                                .from = from,
                                                .to = to + key_offset(c, p, p->chunk->grad_ld),
                                                .to_batch_ld = p->chunk->grad_batch_ld,
                                                .to_ld = p->chunk->grad_ld});
}

static mf_status backward_piece(const call *c, const mf_cuda_piece *piece) {
    static const float one = 1;
    const mf_attention_args *a = c->args;
    int64_t queries = a->batch * c->queries, row = a->heads * a->head_dim;
    int64_t key_values = a->batch * c->keys * mf_cuda_piece_kv_heads(a) * a->head_dim;
    float *dq_sum = c->workspace.data;
    uint16_t *dq = (uint16_t *)(dq_sum + queries * row), *dk = dq + queries * row, *dv = dk + key_values;
    float *delta = (float *)(void *)(dv + key_values);
    pack p = {0};
    give_common(&p, c, piece);
    give(&p, MF_CUDNN_O, at(a->o, piece->query * a->o_ld));
    give(&p, MF_CUDNN_LSE, a->lse + piece->query * a->lse_ld);
    give(&p, MF_CUDNN_D_O, at(a->d_o, piece->query * a->do_ld));
    give(&p, MF_CUDNN_DQ, dq);
    give(&p, MF_CUDNN_DK, dk);
    give(&p, MF_CUDNN_DV, dv);
    give(&p, MF_CUDNN_DQ_SUM, dq_sum);
    give(&p, MF_CUDNN_DELTA, delta);
    give(&p, MF_CUDNN_ONE, &one);
    MF_TRY(run(c, piece, &p));
    MF_TRY(add_queries(c, piece, dq));
    MF_TRY(add_keys(c, piece, dk, piece->chunk->dk));
    return add_keys(c, piece, dv, piece->chunk->dv);
}

static mf_status begin(call *c) {
    const mf_attention_args *a = c->args;
    MF_TRY(mf_cuda_enter(c->device));
    MF_TRY(library_of(c->device, &c->library));
    MF_TRY(mf_host_alloc((size_t)(2 * a->query_chunks * a->key_chunks), sizeof *c->pieces, &c->pieces));
    c->count = mf_cuda_pieces(a, c->pieces);
    c->direct = mf_cuda_pieces_direct(a, c->count, c->pieces);
    for (int i = 0; i < c->count; i++) {
        c->queries = mf_max(c->queries, c->pieces[i].queries);
        c->keys = mf_max(c->keys, c->pieces[i].keys);
    }
    int64_t bytes = mf_cuda_pieces_workspace(a, c->backward, c->count, c->pieces);
    return mf_buffer_alloc(c->device->memory, MF_WORKSPACE, (size_t)bytes, "attention's pieces",
                           &c->workspace);
}

static void end(call *c) {
    mf_buffer_free(c->device->memory, &c->workspace);
    mf_host_free(c->pieces);
}

mf_status mf_cuda_library_forward(mf_device *device, const mf_attention_args *args) {
    mf_status status = MF_OK;
    call c = {.device = device, .args = args};
    MF_GO(begin(&c));
    MF_GO(c.direct ? forward_direct(&c) : forward_merged(&c));
fail:
    end(&c);
    return status;
}

mf_status mf_cuda_library_backward(mf_device *device, const mf_attention_args *args) {
    mf_status status = MF_OK;
    call c = {.device = device, .args = args, .backward = true};
    MF_GO(begin(&c));
    for (int i = 0; i < c.count; i++) MF_GO(backward_piece(&c, &c.pieces[i]));
fail:
    end(&c);
    return status;
}
