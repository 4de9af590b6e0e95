/* totals.cuh: sums of many values in double, for the host: each block's share, then all shares in order. */
#ifndef MF_DEVICE_CUDA_TOTALS_CUH
#define MF_DEVICE_CUDA_TOTALS_CUH

#include "device/cuda/launch.cuh"
#include "device/cuda_sizes/workspace.h"

/* Over a block of MF_BLOCK threads, to the first of them. */
static __device__ inline double mf_block_total(double x) {
    __shared__ double of_warp[MF_BLOCK / MF_WARP];
    for (int to = MF_WARP / 2; to; to /= 2) x += __shfl_xor_sync(0xffffffffu, x, to);
    if (threadIdx.x % MF_WARP == 0) of_warp[threadIdx.x / MF_WARP] = x;
    __syncthreads();
    for (unsigned w = 1; threadIdx.x == 0 && w < MF_BLOCK / MF_WARP; w++) x += of_warp[w];
    return x;
}

/* sum.cu. Launches a kernel that writes mf_cuda_total_parts(n) shares, one a block. */
typedef mf_status mf_cuda_share(mf_device *device, const void *of, dim3 grid, double *shares);
/* *total: the shares' sum; 0 where n is. Waits for it. */
mf_status mf_cuda_total(mf_device *device, int64_t n, mf_cuda_share *share, const void *of, double *total);

#endif
