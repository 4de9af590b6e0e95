// cudnn.cpp: in place of cudnn_graph.c and cudnn_attention.c: a graph of attention is its shape, and is
// computed plainly. It refuses what cuDNN refuses: tensors that are not aligned, ids that lack, heads that
// don't divide.
#include "emulated.h"

extern "C" {
#include "device/cuda/cudnn_attention.h"
}

#include <cmath>
#include <cstring>
#include <vector>

struct emulated_cudnn {
    cudaStream_t stream;
};

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
    *handle = new emulated_cudnn{};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

mf_status mf_cudnn_check(const char *call, cudnnStatus_t status) {
    return status == CUDNN_STATUS_SUCCESS ? MF_OK : MF_FAIL(MF_ELIBRARY, "%s: status %d", call, (int)status);
}

namespace {

/* What runs: copied, for the graph may have ended by then. */
struct attention {
    mf_cudnn_shape shape;
    bool backward;
    void *at[MF_CUDNN_IDS];
    float scale;
};

float read(const void *data, int64_t i) { return mf_f32_from_bf16(((const uint16_t *)data)[i]); }
void write(void *data, int64_t i, float x) { ((uint16_t *)data)[i] = mf_bf16_from_f32(x); }

/* Element of row r, head h of sequence b. */
int64_t place(const attention &a, mf_cudnn_rows rows, int64_t b, int64_t r, int64_t h) {
    return b * rows.batch_ld + r * rows.ld + h * a.shape.head_dim;
}

float dot(const attention &a, const void *x, int64_t at_x, const void *y, int64_t at_y) {
    float sum = 0;
    for (int64_t i = 0; i < a.shape.head_dim; i++) sum += read(x, at_x + i) * read(y, at_y + i);
    return sum;
}

/* One query of one head: where it and the keys of its head lie. */
struct query {
    int64_t b, r, h, key_head, at, lse, keys;
};

query query_of(const attention &a, int64_t b, int64_t h, int64_t r) {
    const mf_cudnn_shape &s = a.shape;
    int64_t keys = s.causal ? mf_min(r + 1, s.keys) : s.keys;
    return {
        b,   r, h, h / (s.heads / s.kv_heads), place(a, s.q, b, r, h), b * s.lse.batch_ld + r * s.lse.ld + h,
        keys};
}

int64_t key_place(const attention &a, const query &q, int64_t k) {
    return place(a, a.shape.k, q.b, k, q.key_head);
}

float score(const attention &a, const query &q, int64_t k) {
    return a.scale * dot(a, a.at[MF_CUDNN_Q], q.at, a.at[MF_CUDNN_K], key_place(a, q, k));
}

void forward(const attention &a, const query &q) {
    std::vector<float> s(q.keys), o(a.shape.head_dim);
    float highest = -INFINITY, sum = 0;
    for (int64_t k = 0; k < q.keys; k++) highest = fmaxf(highest, s[k] = score(a, q, k));
    for (int64_t k = 0; k < q.keys; k++) sum += s[k] = expf(s[k] - highest);
    for (int64_t k = 0; k < q.keys; k++)
        for (int64_t i = 0; i < a.shape.head_dim; i++)
            o[i] += s[k] / sum * read(a.at[MF_CUDNN_V], key_place(a, q, k) + i);
    int64_t to = place(a, a.shape.o, q.b, q.r, q.h);
    for (int64_t i = 0; i < a.shape.head_dim; i++) write(a.at[MF_CUDNN_O], to + i, o[i]);
    ((float *)a.at[MF_CUDNN_LSE])[q.lse] = highest + logf(sum);
}

struct gradients {
    std::vector<float> q, k, v; /* dense, as the outputs */
};

void backward(const attention &a, const query &q, gradients &g) {
    const mf_cudnn_shape &s = a.shape;
    int64_t d = s.head_dim, to_q = ((q.b * s.queries + q.r) * s.heads + q.h) * d;
    int64_t at_do = place(a, s.d_o, q.b, q.r, q.h);
    float lse = ((const float *)a.at[MF_CUDNN_LSE])[q.lse];
    float delta = dot(a, a.at[MF_CUDNN_D_O], at_do, a.at[MF_CUDNN_O], place(a, s.o, q.b, q.r, q.h));
    for (int64_t k = 0; k < q.keys; k++) {
        int64_t at_k = key_place(a, q, k), to_k = ((q.b * s.keys + k) * s.kv_heads + q.key_head) * d;
        float p = expf(score(a, q, k) - lse);
        float ds = a.scale * p * (dot(a, a.at[MF_CUDNN_D_O], at_do, a.at[MF_CUDNN_V], at_k) - delta);
        for (int64_t i = 0; i < d; i++) {
            g.q[to_q + i] += ds * read(a.at[MF_CUDNN_K], at_k + i);
            g.k[to_k + i] += ds * read(a.at[MF_CUDNN_Q], q.at + i);
            g.v[to_k + i] += p * read(a.at[MF_CUDNN_D_O], at_do + i);
        }
    }
}

void store(const std::vector<float> &from, void *to) {
    for (size_t i = 0; i < from.size(); i++) write(to, (int64_t)i, from[i]);
}

bool compute(const attention &a) {
    const mf_cudnn_shape &s = a.shape;
    int64_t queries = s.batch * s.queries * s.heads * s.head_dim,
            keys = s.batch * s.keys * s.kv_heads * s.head_dim;
    gradients g = {std::vector<float>(queries), std::vector<float>(keys), std::vector<float>(keys)};
    emulated::begin_operation("attention by cuDNN");
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t h = 0; h < s.heads; h++)
            for (int64_t r = 0; r < s.queries; r++)
                a.backward ? backward(a, query_of(a, b, h, r), g) : forward(a, query_of(a, b, h, r));
    if (a.backward) {
        store(g.q, a.at[MF_CUDNN_DQ]);
        store(g.k, a.at[MF_CUDNN_DK]);
        store(g.v, a.at[MF_CUDNN_DV]);
        memcpy(a.at[MF_CUDNN_DQ_SUM], g.q.data(), g.q.size() * sizeof(float));
        memset(a.at[MF_CUDNN_DELTA], 0xff, (size_t)(s.batch * s.heads * s.queries) * sizeof(float));
    }
    return true;
}

void keep_shape(mf_cudnn_graph *g, const mf_cudnn_shape *shape, bool backward) {
    g->plan = new attention{*shape, backward, {}, 0};
}

bool needs(const attention &a, int id) {
    if (id == MF_CUDNN_LOWEST) return a.shape.causal;
    return id <= MF_CUDNN_LSE || id == MF_CUDNN_SCALE || a.backward;
}

bool is_number(int id) { return id == MF_CUDNN_SCALE || id == MF_CUDNN_LOWEST || id == MF_CUDNN_ONE; }

} // namespace

void mf_cudnn_attention_forward(mf_cudnn_graph *g, const mf_cudnn_shape *shape) {
    keep_shape(g, shape, false);
}
void mf_cudnn_attention_backward(mf_cudnn_graph *g, const mf_cudnn_shape *shape) {
    keep_shape(g, shape, true);
}

mf_status mf_cudnn_finish(mf_cudnn_graph *g) {
    const attention &a = *(const attention *)g->plan;
    const mf_cudnn_shape &s = a.shape;
    if (s.head_dim % 8 || s.heads % s.kv_heads)
        return MF_FAIL(MF_EUNSUPPORTED, "cuDNN has no kernel for this");
    bool grouped = a.backward && s.heads != s.kv_heads;
    g->workspace_bytes = 256 + (grouped ? 2 * s.batch * s.heads * s.keys * s.head_dim * 2 : 0);
    return MF_OK;
}

mf_status mf_cudnn_run(const mf_cudnn_graph *g, int n, const int64_t *ids, void *const *pointers,
                       void *workspace) {
    attention a = *(const attention *)g->plan;
    for (int i = 0; i < n; i++) a.at[ids[i]] = pointers[i];
    for (int id = 1; id < MF_CUDNN_IDS; id++) {
        if (!needs(a, id)) continue;
        if (!a.at[id]) return MF_FAIL(MF_ELIBRARY, "cuDNN: tensor %d is not given", id);
        if (!is_number(id) && (uintptr_t)a.at[id] % (id == MF_CUDNN_LSE ? 4 : 16))
            return MF_FAIL(MF_ELIBRARY, "cuDNN: tensor %d is not aligned", id);
    }
    if (g->workspace_bytes && !workspace) return MF_FAIL(MF_ELIBRARY, "cuDNN: no workspace");
    a.scale = *(const float *)a.at[MF_CUDNN_SCALE];
    cudaError_t error =
        emulated::enqueue(g->where.handle->stream, "attention by cuDNN", [a] { return compute(a); });
    return error ? MF_FAIL(MF_ELIBRARY, "cuDNN: %s", cudaGetErrorString(error)) : MF_OK;
}

void mf_cudnn_graph_free(mf_cudnn_graph *g) {
    delete (attention *)g->plan;
    g->plan = NULL;
}
