/* library_rows.cu: what is done to the results of pieces: parts of a softmax merged in f32, gradients added.
 */
#include "device/cuda/launch.cuh"
#include "device/cuda/library.h"

/* Heads of rows of the chunks' sequences; what one block of threads works on is one of them. */
struct head_rows {
    int64_t tokens, heads, head_dim, sum_ld, lse_ld;
    float *sum, *lse;
};

static head_rows rows_of(const mf_attention_args *a, float *sum, int64_t sum_ld) {
    return head_rows{a->tokens, a->heads, a->head_dim, sum_ld, a->lse_ld, sum, a->lse};
}

static __device__ float value(const void *data, bool f32, int64_t i) {
    return f32 ? ((const float *)data)[i] : __bfloat162float(((const mf_bf16 *)data)[i]);
}

/* A row of a chunk of queries, in every sequence: block (row, sequence), threads over its heads' values. */
static __global__ void begin_rows(head_rows r, int64_t first_row, bool merge, bool f32, const void *o,
                                  int64_t o_ld) {
    int64_t row = blockIdx.y * r.tokens + first_row + blockIdx.x, width = r.heads * r.head_dim;
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x)
        r.sum[row * r.sum_ld + i] = merge ? value(o, f32, row * o_ld + i) : 0.0f;
    if (!merge)
        for (int64_t h = threadIdx.x; h < r.heads; h += blockDim.x) r.lse[row * r.lse_ld + h] = -INFINITY;
}

/* What o's merging is in device.h: each side by its share of the sum of both. */
static __device__ float merged(float had, float share_had, float part, float share_part) {
    return (share_had > 0 ? had * share_had : 0.0f) + part * share_part;
}

static __global__ void merge_rows(head_rows r, mf_cuda_part part) {
    int64_t row = blockIdx.y * r.tokens + part.first_row + blockIdx.x,
            from = blockIdx.y * part.rows + blockIdx.x;
    int64_t width = r.heads * r.head_dim;
    const mf_bf16 *o = (const mf_bf16 *)part.o + from * width;
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
        int64_t h = i / r.head_dim;
        float had = r.lse[row * r.lse_ld + h], new_lse = part.lse[from * r.heads + h];
        float highest = fmaxf(had, new_lse);
        float share_had = expf(had - highest), share_new = expf(new_lse - highest),
              both = share_had + share_new;
        float *sum = r.sum + row * r.sum_ld + i;
        *sum = merged(*sum, share_had / both, __bfloat162float(o[i]), share_new / both);
    }
    __syncthreads(); /* all have read what now changes */
    for (int64_t h = threadIdx.x; h < r.heads; h += blockDim.x) {
        float had = r.lse[row * r.lse_ld + h], new_lse = part.lse[from * r.heads + h],
              highest = fmaxf(had, new_lse);
        r.lse[row * r.lse_ld + h] = highest + logf(expf(had - highest) + expf(new_lse - highest));
    }
}

static __global__ void add_rows(mf_cuda_add_args a) {
    float *to = a.to + blockIdx.y * a.to_batch_ld + blockIdx.x * a.to_ld;
    const mf_bf16 *from = (const mf_bf16 *)a.from + (blockIdx.y * a.rows + blockIdx.x) * a.width;
    for (int64_t i = threadIdx.x; i < a.width; i += blockDim.x) to[i] += __bfloat162float(from[i]);
}

static dim3 grid_of(int64_t rows, int64_t batch) { return dim3((unsigned)rows, (unsigned)batch); }

mf_status mf_cuda_sum_begin(mf_device *device, const mf_attention_args *a, float *sum, int64_t sum_ld) {
    bool f32 = a->o_f32 || a->type == MF_F32;
    for (int i = 0; i < a->query_chunks; i++) {
        const mf_query_chunk *q = &a->queries[i];
        if (q->rows == 0 || (a->merge && sum == a->o)) continue;
        MF_TRY(mf_cuda_launch(device, "attention: begin", begin_rows, grid_of(q->rows, a->batch), MF_BLOCK, 0,
                              rows_of(a, sum, sum_ld), q->first_row, a->merge, f32, a->o, a->o_ld));
    }
    return MF_OK;
}

mf_status mf_cuda_sum_merge(mf_device *device, const mf_attention_args *a, const mf_cuda_part *part,
                            float *sum, int64_t sum_ld) {
    return mf_cuda_launch(device, "attention: merge", merge_rows, grid_of(part->rows, a->batch), MF_BLOCK, 0,
                          rows_of(a, sum, sum_ld), *part);
}

mf_status mf_cuda_add_bf16(mf_device *device, const mf_cuda_add_args *a) {
    return mf_cuda_launch(device, "attention: add", add_rows, grid_of(a->rows, a->batch), MF_BLOCK, 0, *a);
}
