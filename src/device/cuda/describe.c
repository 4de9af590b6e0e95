/* describe.c: CUDA's libraries and the GPUs, in words. */
#include "device/cuda/cuda.h"

#include <cublasLt.h>
#include <stdio.h>

/* CUDA writes 13.0 as 13000, and a driver that isn't there as 0. */
static void write_version(const char *what, int version, char *out, size_t bytes) {
    if (version)
        snprintf(out, bytes, "%s %d.%d", what, version / 1000, version % 1000 / 10);
    else
        snprintf(out, bytes, "no %s", what);
}

void mf_cuda_describe_libraries(char *out, size_t bytes) {
    char cuda[32], driver[32];
    int has = 0, drives = 0, library = (int)cublasLtGetVersion();
    cudaRuntimeGetVersion(&has);
    cudaDriverGetVersion(&drives);
    write_version("CUDA", has, cuda, sizeof cuda);
    write_version("driver for CUDA", drives, driver, sizeof driver);
    snprintf(out, bytes, "%s, %s, cuBLASLt %d.%d.%d", cuda, driver, library / 10000, library / 100 % 100,
             library % 100);
}

mf_status mf_cuda_look_for_gpus(void) {
    int count = 0;
    return MF_CUDA(cudaGetDeviceCount, &count);
}

mf_status mf_cuda_describe_gpu(int number, char *out, size_t bytes) {
    struct cudaDeviceProp gpu;
    MF_TRY(MF_CUDA(cudaGetDeviceProperties, &gpu, number));
    snprintf(out, bytes, "%s, %d multiprocessors, %.1f GiB", gpu.name, gpu.multiProcessorCount,
             (double)gpu.totalGlobalMem / (double)(1 << 30));
    return MF_OK;
}
