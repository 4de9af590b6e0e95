/* cublasLt.cpp: cuBLASLt's products by plain loops, in the order of k, in f32. An algorithm is the list of
 * what it was chosen for; it refuses other matrices, pointers that are less aligned and a workspace that is
 * too small, where the library would refuse them or go wrong. */
#include "emulated.h"

#include <cublasLt.h>
#include <cuda_bf16.h>

#include <cstring>
#include <vector>

struct emulated_cublas {
    int device;
};

/* Taken from every product's workspace, and spoiled there. */
static const uint64_t scratch_bytes = 4096;
static const uint32_t library_alignment = 256;

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
    if (!out) return CUBLAS_STATUS_INVALID_VALUE;
    if (emulated::injected()) return CUBLAS_STATUS_ALLOC_FAILED;
    *out = new emulated_cublas{emulated::current_device()};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "the library was not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the function failed to launch on the GPU";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the requested functionality is not supported";
    }
    return "unknown error";
}

size_t cublasLtGetVersion(void) { return 130002; }

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType_t type, uint64_t rows,
                                        uint64_t cols, int64_t ld) {
    memset(layout, 0, sizeof *layout); /* layouts are compared byte by byte */
    layout->type = type;
    layout->rows = rows;
    layout->cols = cols;
    layout->ld = ld;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t product, cublasComputeType_t compute,
                                      cudaDataType_t scale) {
    memset(product, 0, sizeof *product);
    product->compute = compute;
    product->scale = scale;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *to, size_t wanted, const void *value, size_t bytes) {
    if (bytes != wanted) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product,
                                              cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t bytes) {
    return set(&product->transposed[attribute - CUBLASLT_MATMUL_DESC_TRANSA], sizeof(int32_t), value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
    *preference = {};
    preference->reduction = 7;
    for (uint32_t &bytes : preference->aligned) bytes = library_alignment;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        return set(&preference->workspace, sizeof preference->workspace, value, bytes);
    if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        return set(&preference->reduction, sizeof preference->reduction, value, bytes);
    return set(&preference->aligned[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], sizeof(uint32_t),
               value, bytes);
}

namespace {

typedef cublasLtMatrixLayoutOpaque_t layout;

size_t element_bytes(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

bool well_formed(const layout &m) { return m.rows > 0 && m.cols > 0 && m.ld >= (int64_t)m.rows; }

uint64_t rows_of(const layout &m, int32_t operation) { return operation == CUBLAS_OP_T ? m.cols : m.rows; }
uint64_t cols_of(const layout &m, int32_t operation) { return operation == CUBLAS_OP_T ? m.rows : m.cols; }

bool sizes_agree(const cublasLtMatmulAlgo_t &chosen) {
    const layout *m = chosen.matrix;
    const int32_t *op = chosen.product.transposed;
    return rows_of(m[0], op[0]) == m[3].rows && cols_of(m[1], op[1]) == m[3].cols &&
           cols_of(m[0], op[0]) == rows_of(m[1], op[1]) && m[2].rows == m[3].rows && m[2].cols == m[3].cols;
}

/* The rows of the library's table that these calls can mean. */
bool types_supported(const cublasLtMatmulAlgo_t &chosen) {
    cudaDataType_t in = chosen.matrix[0].type, out = chosen.matrix[3].type;
    bool known = in == CUDA_R_32F || in == CUDA_R_16BF;
    return known && chosen.product.compute == CUBLAS_COMPUTE_32F && chosen.product.scale == CUDA_R_32F &&
           chosen.matrix[1].type == in && chosen.matrix[2].type == out && (out == CUDA_R_32F || out == in);
}

bool alignments_valid(const cublasLtMatmulAlgo_t &chosen) {
    for (int i = 0; i < 4; i++) {
        uint32_t bytes = chosen.aligned[i];
        if (bytes < element_bytes(chosen.matrix[i].type) || (bytes & (bytes - 1))) return false;
    }
    return true;
}

cublasStatus_t judge(const cublasLtMatmulAlgo_t &chosen) {
    for (const layout &m : chosen.matrix)
        if (!well_formed(m)) return CUBLAS_STATUS_INVALID_VALUE;
    if (!sizes_agree(chosen)) return CUBLAS_STATUS_INVALID_VALUE;
    return types_supported(chosen) && alignments_valid(chosen) ? CUBLAS_STATUS_SUCCESS
                                                               : CUBLAS_STATUS_NOT_SUPPORTED;
}

struct operands {
    cublasLtMatmulAlgo_t chosen;
    float alpha, beta;
    const void *a, *b, *c;
    void *d, *workspace;
};

float value(const void *data, cudaDataType_t type, size_t i) {
    return type == CUDA_R_32F ? ((const float *)data)[i] : (float)((const __nv_bfloat16 *)data)[i];
}

void put(void *data, cudaDataType_t type, size_t i, float value) {
    if (type == CUDA_R_32F)
        ((float *)data)[i] = value;
    else
        ((__nv_bfloat16 *)data)[i] = __nv_bfloat16(value);
}

/* op(m) as f32 by columns, dense. */
std::vector<float> dense(const void *data, const layout &m, int32_t operation) {
    size_t rows = rows_of(m, operation), cols = cols_of(m, operation), ld = (size_t)m.ld;
    std::vector<float> out(rows * cols);
    for (size_t j = 0; j < cols; j++)
        for (size_t i = 0; i < rows; i++)
            out[j * rows + i] = value(data, m.type, operation == CUBLAS_OP_T ? i * ld + j : j * ld + i);
    return out;
}

/* One column of d: the sum over k of a's columns times b's entries. */
void column(const operands &o, const std::vector<float> &a, const float *b, size_t j) {
    const layout &c = o.chosen.matrix[2], &d = o.chosen.matrix[3];
    size_t rows = d.rows, k = a.size() / rows;
    std::vector<float> sum(rows);
    for (size_t l = 0; l < k; l++)
        for (size_t i = 0; i < rows; i++) sum[i] += a[l * rows + i] * b[l];
    for (size_t i = 0; i < rows; i++) {
        float kept = o.beta == 0 ? 0 : o.beta * value(o.c, c.type, j * (size_t)c.ld + i);
        put(o.d, d.type, j * (size_t)d.ld + i, o.alpha * sum[i] + kept);
    }
}

void multiply(const operands &o) {
    const layout *m = o.chosen.matrix;
    std::vector<float> a = dense(o.a, m[0], o.chosen.product.transposed[0]);
    std::vector<float> b = dense(o.b, m[1], o.chosen.product.transposed[1]);
    size_t k = a.size() / m[3].rows;
    memset(o.workspace, 0xff, o.chosen.workspace);
    for (size_t j = 0; j < m[3].cols; j++) column(o, a, &b[j * k], j);
}

bool aligned(const operands &o) {
    const void *data[] = {o.a, o.b, o.c, o.d};
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)data[i] % o.chosen.aligned[i]) return false;
    return (uintptr_t)o.workspace % library_alignment == 0;
}

size_t bytes_from_first_to_last(const layout &m) {
    return ((m.cols - 1) * (size_t)m.ld + m.rows) * element_bytes(m.type);
}

void check_blocks(const operands &o) {
    static const char *const name[] = {"a", "b", "c", "d"};
    const void *data[] = {o.a, o.b, o.c, o.d};
    std::lock_guard<std::mutex> held(emulated::lock);
    for (int i = 0; i < 4; i++)
        if (!emulated::in_one_block(data[i], bytes_from_first_to_last(o.chosen.matrix[i])))
            emulated::die("cublasLtMatmul: matrix %s ends outside of its block", name[i]);
}

bool same(const layout *a, const layout &b) { return memcmp(a, &b, sizeof b) == 0; }

} // namespace

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int asked,
                                              cublasLtMatmulHeuristicResult_t *out, int *found) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (asked < 1 || !out || !found) return CUBLAS_STATUS_INVALID_VALUE;
    *found = 0;
    if (emulated::injected()) return CUBLAS_STATUS_NOT_SUPPORTED;
    cublasLtMatmulAlgo_t chosen = {};
    chosen.product = *product;
    const layout *all[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) chosen.matrix[i] = *all[i];
    memcpy(chosen.aligned, preference->aligned, sizeof chosen.aligned);
    chosen.workspace = scratch_bytes;
    cublasStatus_t status = judge(chosen);
    if (status) return status;
    if (preference->workspace < scratch_bytes) return CUBLAS_STATUS_NOT_SUPPORTED;
    out[0] = {};
    out[0].algo = chosen;
    out[0].workspaceSize = scratch_bytes;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!a || !b || !d || !algorithm || !workspace) return CUBLAS_STATUS_INVALID_VALUE;
    const cublasLtMatmulAlgo_t &chosen = *algorithm;
    if (memcmp(product, &chosen.product, sizeof *product) || !same(a_layout, chosen.matrix[0]) ||
        !same(b_layout, chosen.matrix[1]) || !same(c_layout, chosen.matrix[2]) ||
        !same(d_layout, chosen.matrix[3]))
        return CUBLAS_STATUS_INVALID_VALUE;
    operands o = {chosen, *(const float *)alpha, *(const float *)beta, a, b, c, d, workspace};
    if (!aligned(o) || workspace_bytes < chosen.workspace) return CUBLAS_STATUS_INVALID_VALUE;
    if (handle->device != emulated::current_device()) return CUBLAS_STATUS_INVALID_VALUE;
    if (emulated::injected()) return CUBLAS_STATUS_EXECUTION_FAILED;
    check_blocks(o);
    cudaError_t queued = emulated::enqueue(stream, "cublasLtMatmul", [o] {
        multiply(o);
        return true;
    });
    return queued == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
