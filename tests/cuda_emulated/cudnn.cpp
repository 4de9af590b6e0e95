/* cudnn.cpp: in place of cudnn_graph.c and cudnn_attention.c: what their graphs say, by plain loops. */
#include "emulated.h"

#include <cuda_bf16.h>

#include <map>
#include <vector>

extern "C" {
#include "device/cuda/cudnn_attention.h"
}

struct emulated_cudnn {
    cudaStream_t stream;
};

cudnnStatus_t cudnnCreate(cudnnHandle_t *out) {
    if (emulated::injected()) return CUDNN_STATUS_NOT_INITIALIZED;
    *out = new emulated_cudnn();
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

size_t cudnnGetVersion(void) { return 91900; }

mf_status mf_cudnn_check(const char *call, cudnnStatus_t status) {
    return status ? mf_fail_at(__FILE__, __LINE__, MF_ELIBRARY, "%s failed", call) : MF_OK;
}

namespace {

struct plan {
    mf_cudnn_shape shape;
    bool backward;
};

/* A piece and its tensors. */
struct piece {
    mf_cudnn_shape s;
    std::map<int64_t, void *> at;
    float scale;

    const __nv_bfloat16 *row(int64_t id, mf_cudnn_rows rows, int64_t batch, int64_t token,
                             int64_t head) const {
        return (const __nv_bfloat16 *)at.at(id) + batch * rows.batch_ld + token * rows.ld + head * s.head_dim;
    }
    float &lse(int64_t batch, int64_t token, int64_t head) const {
        return ((float *)at.at(MF_CUDNN_LSE))[batch * s.lse.batch_ld + token * s.lse.ld + head];
    }
    int64_t seen(int64_t query) const { return s.causal ? std::min(query + 1, s.keys) : s.keys; }
    int64_t key_head(int64_t head) const { return head / (s.heads / s.kv_heads); }
    template <typename F> void each_row(F call) const {
        for (int64_t b = 0; b < s.batch; b++)
            for (int64_t i = 0; i < s.queries; i++)
                for (int64_t h = 0; h < s.heads; h++) call(b, i, h);
    }
};

float dot(const __nv_bfloat16 *a, const __nv_bfloat16 *b, int64_t n) {
    float sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (float)a[i] * (float)b[i];
    return sum;
}

void forward_row(const piece &p, int64_t b, int64_t i, int64_t h) {
    const mf_cudnn_shape &s = p.s;
    std::vector<float> score((size_t)p.seen(i)), sum((size_t)s.head_dim);
    float top = -INFINITY, total = 0;
    for (int64_t j = 0; j < p.seen(i); j++) {
        score[(size_t)j] = p.scale * dot(p.row(MF_CUDNN_Q, s.q, b, i, h),
                                         p.row(MF_CUDNN_K, s.k, b, j, p.key_head(h)), s.head_dim);
        top = std::max(top, score[(size_t)j]);
    }
    for (int64_t j = 0; j < p.seen(i); j++) {
        float weight = expf(score[(size_t)j] - top);
        const __nv_bfloat16 *v = p.row(MF_CUDNN_V, s.k, b, j, p.key_head(h));
        total += weight;
        for (int64_t d = 0; d < s.head_dim; d++) sum[(size_t)d] += weight * (float)v[d];
    }
    __nv_bfloat16 *o = (__nv_bfloat16 *)p.row(MF_CUDNN_O, s.o, b, i, h);
    for (int64_t d = 0; d < s.head_dim; d++) o[d] = __nv_bfloat16(sum[(size_t)d] / total);
    p.lse(b, i, h) = top + logf(total);
}

/* Sums of a gradient in f32, dense. */
struct gradients {
    std::vector<float> dq, dk, dv;
};

void backward_row(const piece &p, gradients &g, int64_t b, int64_t i, int64_t h) {
    const mf_cudnn_shape &s = p.s;
    const __nv_bfloat16 *q = p.row(MF_CUDNN_Q, s.q, b, i, h), *d_o = p.row(MF_CUDNN_D_O, s.d_o, b, i, h);
    float delta = dot(p.row(MF_CUDNN_O, s.o, b, i, h), d_o, s.head_dim);
    float *dq = &g.dq[(size_t)(((b * s.queries + i) * s.heads + h) * s.head_dim)];
    for (int64_t j = 0; j < p.seen(i); j++) {
        int64_t kh = p.key_head(h), key = ((b * s.keys + j) * s.kv_heads + kh) * s.head_dim;
        const __nv_bfloat16 *k = p.row(MF_CUDNN_K, s.k, b, j, kh), *v = p.row(MF_CUDNN_V, s.k, b, j, kh);
        float weight = expf(p.scale * dot(q, k, s.head_dim) - p.lse(b, i, h));
        float slope = weight * (dot(d_o, v, s.head_dim) - delta) * p.scale;
        for (int64_t d = 0; d < s.head_dim; d++) {
            dq[d] += slope * (float)k[d];
            g.dk[(size_t)(key + d)] += slope * (float)q[d];
            g.dv[(size_t)(key + d)] += weight * (float)d_o[d];
        }
    }
    ((float *)p.at.at(MF_CUDNN_DELTA))[(b * s.heads + h) * s.queries + i] = delta;
}

void write(const std::vector<float> &from, void *to) {
    for (size_t i = 0; i < from.size(); i++) ((__nv_bfloat16 *)to)[i] = __nv_bfloat16(from[i]);
}

void backward(const piece &p) {
    const mf_cudnn_shape &s = p.s;
    size_t queries = (size_t)(s.batch * s.queries * s.heads * s.head_dim);
    size_t keys = (size_t)(s.batch * s.keys * s.kv_heads * s.head_dim);
    gradients g = {std::vector<float>(queries), std::vector<float>(keys), std::vector<float>(keys)};
    p.each_row([&](int64_t b, int64_t i, int64_t h) { backward_row(p, g, b, i, h); });
    memcpy(p.at.at(MF_CUDNN_DQ_SUM), g.dq.data(), queries * sizeof(float));
    write(g.dq, p.at.at(MF_CUDNN_DQ));
    write(g.dk, p.at.at(MF_CUDNN_DK));
    write(g.dv, p.at.at(MF_CUDNN_DV));
}

/* As cuDNN 9.19 needs it on compute capability 9.0: some, and where heads share keys, each head's gradients.
 */
int64_t workspace(const mf_cudnn_shape &s, bool backward) {
    bool grouped = backward && s.heads != s.kv_heads;
    return 256 + (grouped ? 2 * s.batch * s.keys * s.heads * s.head_dim * 2 : 0);
}

void make(mf_cudnn_graph *g, const mf_cudnn_shape *shape, bool backward) {
    g->plan = new plan{*shape, backward};
    g->workspace_bytes = workspace(*shape, backward);
}

} // namespace

void mf_cudnn_attention_forward(mf_cudnn_graph *g, const mf_cudnn_shape *shape) { make(g, shape, false); }
void mf_cudnn_attention_backward(mf_cudnn_graph *g, const mf_cudnn_shape *shape) { make(g, shape, true); }

mf_status mf_cudnn_finish(mf_cudnn_graph *g) {
    if (!emulated::injected()) return g->status;
    return mf_fail_at(__FILE__, __LINE__, MF_ELIBRARY, "cuDNN failed");
}

void mf_cudnn_graph_free(mf_cudnn_graph *g) { delete (plan *)g->plan; }

/* What a pack lacks is missed here; the workspace is spoiled. */
mf_status mf_cudnn_run(const mf_cudnn_graph *g, int n, const int64_t *ids, void *const *pointers,
                       void *space) {
    const plan *made = (const plan *)g->plan;
    piece p = {made->shape, {}, 0};
    bool back = made->backward;
    int64_t bytes = g->workspace_bytes;
    for (int i = 0; i < n; i++) p.at[ids[i]] = pointers[i];
    p.scale = *(const float *)p.at.at(MF_CUDNN_SCALE);
    cudaError_t error =
        emulated::injected() ? cudaErrorUnknown : emulated::enqueue(g->where.handle->stream, "cuDNN", [=] {
            memset(space, 0xff, (size_t)bytes);
            if (back) return backward(p), true;
            p.each_row([&](int64_t b, int64_t i, int64_t h) { forward_row(p, b, i, h); });
            return true;
        });
    return error ? mf_fail_at(__FILE__, __LINE__, MF_ELIBRARY, "cuDNN failed") : MF_OK;
}
