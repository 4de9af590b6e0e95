/* workspace.h: how much workspace a GPU's operations take, in bytes, by their sizes alone: for those
 * that take it and for the dry device, which only counts it. */
#ifndef MF_DEVICE_CUDA_SIZES_WORKSPACE_H
#define MF_DEVICE_CUDA_SIZES_WORKSPACE_H

#include "meshfold/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* cuBLASLt's, taken when a device is made: what NVIDIA recommends for Hopper
 * (docs.nvidia.com/cuda/cublas, cublasSetWorkspace), and more than older GPUs want. */
enum { MF_CUDA_GEMM_WORKSPACE = 32 << 20 };

/* A sum over rows is made of parts, each of some of the rows, which are then added in order. */
int64_t mf_cuda_parts(int64_t rows);
int64_t mf_cuda_rmsnorm_backward_workspace(const mf_rmsnorm_grad *args);
int64_t mf_cuda_headnorm_backward_workspace(const mf_headnorm_args *args);
int64_t mf_cuda_bias_backward_workspace(const mf_bias_args *args);

/* A sample's rows are cut into runs of so many, `per_sample` of them, the last one shorter. Runs count on
 * from sample to sample; a call has `count` of them from number `first` on. */
typedef struct mf_cuda_runs {
    int64_t rows, per_sample, first, count;
} mf_cuda_runs;
mf_cuda_runs mf_cuda_modulate_runs(const mf_modulate_args *args);
int64_t mf_cuda_modulate_backward_workspace(const mf_modulate_args *args);

/* Tokens in the order of their ids. */
int64_t mf_cuda_embed_backward_workspace(const mf_embed_args *args);

/* A sum of n values in double is made of so many parts; their buffer holds the total too. */
int64_t mf_cuda_total_parts(int64_t n);
int64_t mf_cuda_total_workspace(int64_t n);

#ifdef __cplusplus
}
#endif

#endif
