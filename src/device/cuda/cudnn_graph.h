/* cudnn_graph.h: graphs of operations for cuDNN to fuse, through its C interface.
 *
 *     mf_cudnn_graph g = {.where = where};
 *     int a = mf_cudnn_given(&g, 1, CUDNN_DATA_BFLOAT16, dim, stride), b = ...;
 *     int c = mf_cudnn_made(&g, CUDNN_DATA_FLOAT, dim_c);
 *     mf_cudnn_matmul(&g, a, b, c);
 *     MF_TRY(mf_cudnn_finish(&g));             // MF_EUNSUPPORTED: cuDNN has no kernel for it
 *     MF_TRY(mf_cudnn_run(&g, 2, ids, pointers, workspace));
 *     mf_cudnn_graph_free(&g);
 *
 * The first error of a graph that is being built is kept, later calls do nothing, and finish returns it. */
#ifndef MF_DEVICE_CUDA_CUDNN_GRAPH_H
#define MF_DEVICE_CUDA_CUDNN_GRAPH_H

#include "meshfold/base.h"

#include <cudnn.h>

/* What plans are made for: the GPU of a handle, or one that is only described. */
typedef struct mf_cudnn_where {
    cudnnHandle_t handle;
    cudnnBackendDescriptor_t properties;
} mf_cudnn_where;

enum { MF_CUDNN_DIMS = 4, MF_CUDNN_TENSORS = 48, MF_CUDNN_OPERATIONS = 32, MF_CUDNN_DESCRIPTORS = 160 };

typedef struct mf_cudnn_tensor {
    cudnnBackendDescriptor_t descriptor;
    int64_t dim[MF_CUDNN_DIMS];
} mf_cudnn_tensor;

typedef struct mf_cudnn_graph {
    mf_cudnn_where where;
    mf_status status;
    int tensors, operations, descriptors;
    mf_cudnn_tensor tensor[MF_CUDNN_TENSORS];
    cudnnBackendDescriptor_t operation[MF_CUDNN_OPERATIONS];
    cudnnBackendDescriptor_t descriptor[MF_CUDNN_DESCRIPTORS]; /* all, as they were made */
    cudnnBackendDescriptor_t plan;
    int64_t workspace_bytes;
} mf_cudnn_graph;

mf_status mf_cudnn_check(const char *call, cudnnStatus_t status);
#define MF_CUDNN(function, ...) mf_cudnn_check(#function, function(__VA_ARGS__))

/* Tensors, by number. dim, stride: [MF_CUDNN_DIMS]. given: in memory, under `id` (from 1) when it runs. */
int mf_cudnn_given(mf_cudnn_graph *g, int64_t id, cudnnDataType_t type, const int64_t *dim,
                   const int64_t *stride);
/* One f32 number, in the host's memory when it runs. */
int mf_cudnn_number(mf_cudnn_graph *g, int64_t id);
/* Between operations, never in memory. stride NULL: dense, the last dimension fastest. */
int mf_cudnn_made(mf_cudnn_graph *g, cudnnDataType_t type, const int64_t *dim, const int64_t *stride);

/* y = mode(x), mode(x, b), or for a selection x where t, else b. b, t: -1 where the mode has none. math: the
 * type that it is computed in. axis: of GEN_INDEX. */
typedef struct mf_cudnn_pointwise_args {
    cudnnPointwiseMode_t mode;
    cudnnDataType_t math;
    int x, b, t, y;
    int64_t axis;
} mf_cudnn_pointwise_args;
void mf_cudnn_pointwise(mf_cudnn_graph *g, const mf_cudnn_pointwise_args *args);
void mf_cudnn_matmul(mf_cudnn_graph *g, int a, int b, int c);
/* Over the dimensions in which y is shorter than x. */
void mf_cudnn_reduce(mf_cudnn_graph *g, cudnnReduceTensorOp_t operation, int x, int y);
/* y: x with dimensions and strides of its own. */
void mf_cudnn_reshape(mf_cudnn_graph *g, int x, int y);

/* The first plan of cuDNN's own choice that it can make. */
mf_status mf_cudnn_finish(mf_cudnn_graph *g);
/* Asks the handle's stream for it. ids, pointers: [n]; workspace: [g->workspace_bytes] */
mf_status mf_cudnn_run(const mf_cudnn_graph *g, int n, const int64_t *ids, void *const *pointers,
                       void *workspace);
void mf_cudnn_graph_free(mf_cudnn_graph *g);

#endif
