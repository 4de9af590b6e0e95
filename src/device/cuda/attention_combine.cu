/* attention_combine.cu: results over parts of the keys become one, and join those of earlier calls. */
#include "device/cuda/attention.cuh"

/* One row of o and one head, of many parts. */
struct part_row {
    const float *o, *lse; /* of the first part */
    int64_t stride;       /* from part to part */
};

static __device__ float all_lse(const part_row &row, int parts) {
    float top = -INFINITY, sum = 0;
    for (int i = 0; i < parts; i++) top = fmaxf(top, row.lse[i * row.stride]);
    if (top == -INFINITY) top = 0; /* NaN, or nothing */
    for (int i = 0; i < parts; i++) sum += expf(row.lse[i * row.stride] - top);
    return top + logf(sum);
}

static __device__ float all_o(const part_row &row, int parts, int column, float lse) {
    float sum = 0;
    for (int i = 0; i < parts; i++) {
        float weight = expf(row.lse[i * row.stride] - lse);
        if (weight != 0) sum += weight * row.o[i * row.stride + column];
    }
    return sum;
}

/* A warp for each row and head. */
static __global__ void __launch_bounds__(MF_BLOCK) combine(const __grid_constant__ attention_job job) {
    int64_t rows = job.batch * job.tokens,
            number = (int64_t)blockIdx.x * (MF_BLOCK / MF_WARP) + threadIdx.x / MF_WARP;
    int lane = (int)threadIdx.x % MF_WARP;
    if (number >= rows * job.heads) return;
    attention_place place = {number / job.heads, (int)(number % job.heads)};
    int64_t width = (int64_t)job.heads * (job.head_dim + 1);
    const float *first = job.parts + place.row * width;
    part_row row = {first + (int64_t)place.head * job.head_dim,
                    first + (int64_t)job.heads * job.head_dim + place.head, rows * width};
    float lse = all_lse(row, job.splits);
    int64_t at = place.row * job.o_ld + (int64_t)place.head * job.head_dim,
            lse_at = place.row * job.lse_ld + place.head;
    bool blind = lse == -INFINITY;
    if (blind && job.merge) return;
    attention_mix mix = attention_mix_of(job.merge ? job.lse[lse_at] : -INFINITY, lse);
    __syncwarp();
    for (int column = lane; column < job.head_dim; column += MF_WARP) {
        float value = blind ? 0 : mix.add * all_o(row, job.splits, column, lse);
        if (mix.keep != 0) value += mix.keep * attention_read_o(job, at + column);
        attention_write_o(job, at + column, value);
    }
    if (lane == 0) job.lse[lse_at] = mix.lse;
}

mf_status attention_combine(mf_device *device, const attention_job *job) {
    dim3 grid;
    MF_TRY(attention_grid(mf_ceil_div(job->batch * job->tokens * job->heads, MF_BLOCK / MF_WARP), &grid));
    return mf_cuda_launch(device, "attention's parts", combine, grid, dim3(MF_BLOCK), 0, *job);
}
