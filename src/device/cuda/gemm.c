/* gemm.c: matrix products by cuBLASLt, one plan a shape, kept for the next call of that shape. The library
 * knows matrices by columns: what lies here by rows is there the transpose, so c = a b is asked for as the
 * transpose of c = (that of b) (that of a), and nothing is moved. */
#include "device/cuda/cuda.h"
#include "device/cuda_sizes/workspace.h"
#include "device/slots.h"

#include <cublasLt.h>
#include <string.h>

/* A training step has a few dozen shapes. When this many are held all are dropped, so that a workload of ever
 * new shapes stays bounded. */
enum { SLOTS = 1024, HELD_MAX = 512 };

/* The alignment that the library asks for where it is told of none: more is of no use to it. */
enum { ALIGNED_BYTES = 256 };

typedef struct shape {
    int64_t m, n, k, a_ld, b_ld, c_ld;
    int32_t type, c_type, a_transposed, b_transposed;
    uint32_t a_aligned, b_aligned, c_aligned, unused; /* bytes */
} shape;

/* Plain data: the library's own descriptions, in place. */
typedef struct plan {
    shape key;
    bool used;
    cublasLtMatmulDescOpaque_t product;
    cublasLtMatrixLayoutOpaque_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
} plan;

struct mf_cuda_gemms {
    cublasLtHandle_t library;
    mf_memory *memory;
    mf_buffer workspace;
    int held;
    plan slot[SLOTS];
};

static mf_status check(const char *call, cublasStatus_t status) {
    if (status == CUBLAS_STATUS_SUCCESS) return MF_OK;
    return MF_FAIL(status == CUBLAS_STATUS_ALLOC_FAILED ? MF_ENOMEM : MF_ELIBRARY, "%s: %s", call,
                   cublasLtGetStatusString(status));
}
#define CUBLAS(function, ...) check(#function, function(__VA_ARGS__))

mf_status mf_cuda_gemms_create(mf_device *device, mf_cuda_gemms **out) {
    mf_status status = MF_OK;
    mf_cuda_gemms *g = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *g, &g));
    g->memory = device->memory;
    MF_GO(CUBLAS(cublasLtCreate, &g->library));
    MF_GO(mf_buffer_alloc(g->memory, MF_WORKSPACE, MF_CUDA_GEMM_WORKSPACE, "cuBLASLt's workspace",
                          &g->workspace));
    *out = g;
    return MF_OK;
fail:
    mf_cuda_gemms_destroy(g);
    return status;
}

void mf_cuda_gemms_destroy(mf_cuda_gemms *g) {
    if (!g) return;
    if (g->library) cublasLtDestroy(g->library);
    mf_buffer_free(g->memory, &g->workspace);
    mf_host_free(g);
}

static cudaDataType_t type_of(int32_t type) { return type == MF_F32 ? CUDA_R_32F : CUDA_R_16BF; }

/* rows x cols as they lie, row after row. */
static mf_status describe(cublasLtMatrixLayoutOpaque_t *out, int64_t rows, int64_t cols, int64_t ld,
                          int32_t type) {
    return CUBLAS(cublasLtMatrixLayoutInit, out, type_of(type), (uint64_t)cols, (uint64_t)rows, ld);
}

static mf_status describe_matrices(const shape *s, plan *p) {
    int64_t a_rows = s->a_transposed ? s->k : s->m, a_cols = s->a_transposed ? s->m : s->k;
    int64_t b_rows = s->b_transposed ? s->n : s->k, b_cols = s->b_transposed ? s->k : s->n;
    MF_TRY(describe(&p->a, a_rows, a_cols, s->a_ld, s->type));
    MF_TRY(describe(&p->b, b_rows, b_cols, s->b_ld, s->type));
    return describe(&p->c, s->m, s->n, s->c_ld, s->c_type);
}

static mf_status describe_product(const shape *s, plan *p) {
    int32_t of_a = s->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    int32_t of_b = s->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    MF_TRY(CUBLAS(cublasLtMatmulDescInit, &p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    MF_TRY(
        CUBLAS(cublasLtMatmulDescSetAttribute, &p->product, CUBLASLT_MATMUL_DESC_TRANSA, &of_b, sizeof of_b));
    return CUBLAS(cublasLtMatmulDescSetAttribute, &p->product, CUBLASLT_MATMUL_DESC_TRANSB, &of_a,
                  sizeof of_a);
}

static mf_status prefer(cublasLtMatmulPreferenceOpaque_t *preference,
                        cublasLtMatmulPreferenceAttributes_t attribute, uint32_t value) {
    return CUBLAS(cublasLtMatmulPreferenceSetAttribute, preference, attribute, &value, sizeof value);
}

/* Parts of a sum over k are added up in f32 or not made at all: in c's own type they would be rounded. */
static mf_status preferences(const shape *s, cublasLtMatmulPreferenceOpaque_t *out) {
    uint64_t workspace = MF_CUDA_GEMM_WORKSPACE;
    MF_TRY(CUBLAS(cublasLtMatmulPreferenceInit, out));
    MF_TRY(CUBLAS(cublasLtMatmulPreferenceSetAttribute, out, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                  &workspace, sizeof workspace));
    MF_TRY(prefer(out, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    MF_TRY(prefer(out, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, s->b_aligned));
    MF_TRY(prefer(out, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, s->a_aligned));
    MF_TRY(prefer(out, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, s->c_aligned));
    return prefer(out, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, s->c_aligned);
}

static mf_status refused(const shape *s, cublasStatus_t status) {
    return MF_FAIL(MF_ELIBRARY,
                   "cublasLtMatmulAlgoGetHeuristic: no algorithm for %lld x %lld x %lld of %s to %s, rows at "
                   "%lld, %lld and %lld: %s",
                   (long long)s->m, (long long)s->n, (long long)s->k, mf_dtype_name((mf_dtype)s->type),
                   mf_dtype_name((mf_dtype)s->c_type), (long long)s->a_ld, (long long)s->b_ld,
                   (long long)s->c_ld, cublasLtGetStatusString(status));
}

static mf_status choose_algorithm(mf_cuda_gemms *g, const shape *s, plan *p) {
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t best = {.state = CUBLAS_STATUS_NOT_SUPPORTED};
    int found = 0;
    MF_TRY(preferences(s, &preference));
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(g->library, &p->product, &p->b, &p->a, &p->c,
                                                           &p->c, &preference, 1, &best, &found);
    if (status || !found || best.state) return refused(s, status ? status : best.state);
    p->algorithm = best.algo;
    return MF_OK;
}

static mf_status plan_make(mf_cuda_gemms *g, const shape *s, plan *p) {
    MF_TRY(describe_matrices(s, p));
    MF_TRY(describe_product(s, p));
    MF_TRY(choose_algorithm(g, s, p));
    p->key = *s;
    p->used = true;
    return MF_OK;
}

static void drop_all(mf_cuda_gemms *g) {
    for (int i = 0; i < SLOTS; i++) g->slot[i].used = false;
    g->held = 0;
}

static mf_status plan_find(mf_cuda_gemms *g, const shape *s, plan **out) {
    if (g->held == HELD_MAX) drop_all(g);
    size_t i = mf_slot_of(s, sizeof *s, SLOTS);
    while (g->slot[i].used && memcmp(&g->slot[i].key, s, sizeof *s) != 0) i = (i + 1) % SLOTS;
    *out = &g->slot[i];
    if ((*out)->used) return MF_OK;
    MF_TRY(plan_make(g, s, *out));
    g->held++;
    return MF_OK;
}

static uint32_t alignment(const void *data) {
    uintptr_t address = (uintptr_t)data | ALIGNED_BYTES;
    return (uint32_t)(address & -address);
}

static shape shape_of(const mf_gemm_args *args) {
    return (shape){.m = args->m,
                   .n = args->n,
                   .k = args->k,
                   .a_ld = args->a.ld,
                   .b_ld = args->b.ld,
                   .c_ld = args->c_ld,
                   .type = (int32_t)args->a.type,
                   .c_type = (int32_t)args->c_type,
                   .a_transposed = args->a.transposed,
                   .b_transposed = args->b.transposed,
                   .a_aligned = alignment(args->a.data),
                   .b_aligned = alignment(args->b.data),
                   .c_aligned = alignment(args->c)};
}

/* A product over no terms is zero. */
static mf_status no_terms(mf_device *device, const mf_gemm_args *args) {
    size_t element = mf_dtype_bytes(args->c_type);
    if (args->accumulate) return MF_OK;
    return MF_CUDA(cudaMemset2DAsync, args->c, (size_t)args->c_ld * element, 0, (size_t)args->n * element,
                   (size_t)args->m, mf_cuda_stream(device));
}

mf_status mf_cuda_gemm(mf_device *device, const mf_gemm_args *args) {
    mf_cuda_gemms *g = mf_cuda_of(device)->gemms;
    plan *p = NULL;
    const float one = 1, kept = args->accumulate ? 1 : 0;
    MF_TRY(mf_cuda_enter(device));
    if (args->k == 0) return no_terms(device, args);
    shape s = shape_of(args);
    MF_TRY(plan_find(g, &s, &p));
    return CUBLAS(cublasLtMatmul, g->library, &p->product, &one, args->b.data, &p->b, args->a.data, &p->a,
                  &kept, args->c, &p->c, args->c, &p->c, &p->algorithm, g->workspace.data, g->workspace.bytes,
                  mf_cuda_stream(device));
}
