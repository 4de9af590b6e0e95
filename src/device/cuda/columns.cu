/* columns.cu: sums over rows, of which each block of another kernel has made a part, brought together. */
#include "device/cuda/rows.cuh"

static __global__ void __launch_bounds__(MF_WARP *MF_WARP) add_parts(mf_part_sums a) {
    __shared__ float of_thread[MF_WARP][MF_WARP];
    int64_t column = (int64_t)blockIdx.x * MF_WARP + threadIdx.x;
    for (int64_t group = blockIdx.y; group < a.groups; group += gridDim.y) {
        int64_t begin = group * a.group_parts - a.lead, end = begin + a.group_parts;
        float sum = 0;
        begin = begin < 0 ? 0 : begin, end = end > a.parts ? a.parts : end;
#pragma unroll 4
        for (int64_t p = begin + threadIdx.y; p < end; p += blockDim.y)
            if (column < a.width) sum += a.part[p * a.part_ld + column];
        of_thread[threadIdx.y][threadIdx.x] = sum;
        __syncthreads();
        for (unsigned y = 1; threadIdx.y == 0 && y < blockDim.y; y++) sum += of_thread[y][threadIdx.x];
        if (threadIdx.y == 0 && column < a.width) a.to[group * a.to_ld + column] += sum;
        __syncthreads();
    }
}

mf_status mf_cuda_add_parts(mf_device *device, const mf_part_sums *a) {
    const int64_t most_groups_at_once = 65535;
    dim3 grid((unsigned)mf_ceil_div(a->width, MF_WARP), (unsigned)mf_min(a->groups, most_groups_at_once));
    dim3 block(MF_WARP, (unsigned)mf_min(a->group_parts, MF_WARP));
    return mf_cuda_launch(device, "add_parts", add_parts, grid, block, 0, *a);
}

mf_status mf_cuda_add_all_parts(mf_device *device, int64_t parts, int64_t width, const float *part,
                                float *to) {
    mf_part_sums all = {parts, width, width, part, 1, parts, 0, to, width};
    return mf_cuda_add_parts(device, &all);
}
