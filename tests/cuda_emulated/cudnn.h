/* cudnn.h: of cuDNN's names those that src/device/cuda has in its headers and calls. Its graphs are made by
 * cudnn.cpp in its own way: the emulator has the attention that they stand for, not their operations. */
#ifndef MF_EMULATED_CUDNN_H
#define MF_EMULATED_CUDNN_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { CUDNN_STATUS_SUCCESS, CUDNN_STATUS_NOT_INITIALIZED = 1001 } cudnnStatus_t;
typedef enum { CUDNN_DATA_FLOAT, CUDNN_DATA_INT32 = 4, CUDNN_DATA_BFLOAT16 = 9 } cudnnDataType_t;
typedef enum { CUDNN_POINTWISE_ADD } cudnnPointwiseMode_t;
typedef enum { CUDNN_REDUCE_TENSOR_ADD } cudnnReduceTensorOp_t;
typedef struct emulated_cudnn *cudnnHandle_t;
typedef void *cudnnBackendDescriptor_t;

cudnnStatus_t cudnnCreate(cudnnHandle_t *out);
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle);
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream);
size_t cudnnGetVersion(void);

#ifdef __cplusplus
}
#endif

#endif
