/* launch.cuh: starting a kernel in a device's compute queue.
 *
 *     __global__ void scale(int64_t n, float by, float *x) {
 *         MF_FOR_EACH(i, n) x[i] *= by;
 *     }
 *     MF_TRY(mf_cuda_launch(device, "scale", scale, mf_cuda_grid(n), MF_BLOCK, 0, n, by, x));
 */
#ifndef MF_DEVICE_CUDA_LAUNCH_CUH
#define MF_DEVICE_CUDA_LAUNCH_CUH

#include "device/cuda/cuda.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

typedef __nv_bfloat16 mf_bf16;

/* Threads of a block, and of the warps that it is made of. */
enum { MF_BLOCK = 256, MF_WARP = 32, MF_GRID_MOST = 1 << 16 };

/* i goes over this thread's share of 0 .. n - 1, whatever the grid. */
#define MF_FOR_EACH(i, n)                                                                                    \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n);                                \
         i += (int64_t)gridDim.x * blockDim.x)

/* Blocks for n elements, one a thread; those of longer vectors take turns. */
static inline dim3 mf_cuda_grid(int64_t n) {
    return dim3((unsigned)mf_max(1, mf_min(mf_ceil_div(n, MF_BLOCK), MF_GRID_MOST)));
}

/* In `stream`, of the device's GPU. name: for errors. */
template <typename... Parameters, typename... Arguments>
mf_status mf_cuda_launch_in(mf_device *device, cudaStream_t stream, const char *name,
                            void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                            Arguments... arguments) {
    cudaLaunchConfig_t config = {};
    MF_TRY(mf_cuda_enter(device));
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return mf_cuda_check(name, cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

template <typename... Parameters, typename... Arguments>
mf_status mf_cuda_launch(mf_device *device, const char *name, void (*kernel)(Parameters...), dim3 grid,
                         dim3 block, size_t shared_bytes, Arguments... arguments) {
    return mf_cuda_launch_in(device, mf_cuda_stream(device), name, kernel, grid, block, shared_bytes,
                             arguments...);
}

#endif
