/* cuda_workspace.h: the workspace that a GPU's operations take, in bytes, known without one: the operations
 * of device/cuda take what these say, and so does the device that runs dry in their place. */
#ifndef MF_DEVICE_CUDA_WORKSPACE_H
#define MF_DEVICE_CUDA_WORKSPACE_H

#ifdef __cplusplus
extern "C" {
#endif

#include "device/ops.h"

/* cuBLASLt's, taken when a device is made: what NVIDIA recommends for Hopper
 * (docs.nvidia.com/cuda/cublas, cublasSetWorkspace), and more than older GPUs want. */
enum { MF_CUDA_GEMM_WORKSPACE = 32 << 20 };
mf_status mf_cuda_gemm_workspace(mf_device *device, mf_buffer *out);

/* For a device that only takes what these operations would take (device/dry). */
extern const mf_workspaces mf_cuda_workspaces;

#ifdef __cplusplus
}
#endif

#endif
