/* cuda_workspace.h: how much workspace a GPU's operations take, in bytes, by their sizes alone: for those
 * that take it and for the dry device, which only counts it. */
#ifndef MF_DEVICE_CUDA_WORKSPACE_H
#define MF_DEVICE_CUDA_WORKSPACE_H

#include "meshfold/device.h"

/* cuBLASLt's, taken when a device is made: what NVIDIA recommends for Hopper
 * (docs.nvidia.com/cuda/cublas, cublasSetWorkspace), and more than older GPUs want. */
enum { MF_CUDA_GEMM_WORKSPACE = 32 << 20 };

#endif
