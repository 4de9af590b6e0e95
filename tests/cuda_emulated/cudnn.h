/* cudnn.h: as much of cuDNN as src/device/cuda names; cudnn.cpp computes whole attention graphs plainly. */
#ifndef MF_EMULATED_CUDNN_H
#define MF_EMULATED_CUDNN_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct emulated_cudnn *cudnnHandle_t;
typedef void *cudnnBackendDescriptor_t;
typedef enum { CUDNN_STATUS_SUCCESS, CUDNN_STATUS_ALLOC_FAILED } cudnnStatus_t;
typedef enum { CUDNN_DATA_FLOAT, CUDNN_DATA_BFLOAT16 } cudnnDataType_t;
typedef enum { CUDNN_POINTWISE_ADD } cudnnPointwiseMode_t;
typedef enum { CUDNN_REDUCE_TENSOR_ADD } cudnnReduceTensorOp_t;

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle);
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle);
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
