/* cudnn_graph.c: see cudnn_graph.h. A descriptor is made, given its attributes, and finalized. */
#include "device/cuda/cudnn_graph.h"

#include <string.h>

mf_status mf_cudnn_check(const char *call, cudnnStatus_t status) {
    char more[256] = "";
    if (status == CUDNN_STATUS_SUCCESS) return MF_OK;
    cudnnGetLastErrorString(more, sizeof more);
    return MF_FAIL(status == CUDNN_STATUS_ALLOC_FAILED ? MF_ENOMEM : MF_ELIBRARY, "%s: %s%s%s", call,
                   cudnnGetErrorString(status), *more ? ": " : "", more);
}

static void keep(mf_cudnn_graph *g, mf_status status) {
    if (!g->status) g->status = status;
}

static cudnnBackendDescriptor_t make(mf_cudnn_graph *g, cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t made = NULL;
    if (g->status) return NULL;
    if (g->descriptors == MF_CUDNN_DESCRIPTORS) {
        keep(g,
             MF_FAIL(MF_EINVAL, "a graph for cuDNN of more than %d descriptors", (int)MF_CUDNN_DESCRIPTORS));
        return NULL;
    }
    keep(g, MF_CUDNN(cudnnBackendCreateDescriptor, type, &made));
    if (!g->status) g->descriptor[g->descriptors++] = made;
    return made;
}

static void set(mf_cudnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *value) {
    if (!g->status) keep(g, MF_CUDNN(cudnnBackendSetAttribute, d, name, type, count, value));
}

static void set_descriptor(mf_cudnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                           cudnnBackendDescriptor_t value) {
    set(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void finalize(mf_cudnn_graph *g, cudnnBackendDescriptor_t d) {
    if (!g->status) keep(g, MF_CUDNN(cudnnBackendFinalize, d));
}

/* Ids of what is never in memory begin here. */
enum { MADE_IDS = 1000, ALIGNMENT = 16 };

static int tensor(mf_cudnn_graph *g, int64_t id, cudnnDataType_t type, const int64_t *dim,
                  const int64_t *stride, cudnnBackendAttributeName_t kind) {
    int64_t alignment = ALIGNMENT;
    bool yes = true;
    if (g->tensors == MF_CUDNN_TENSORS)
        keep(g, MF_FAIL(MF_EINVAL, "a graph for cuDNN of more than %d tensors", (int)MF_CUDNN_TENSORS));
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, MF_CUDNN_DIMS, dim);
    set(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, MF_CUDNN_DIMS, stride);
    set(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    set(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    if (kind != CUDNN_ATTR_TENSOR_UNIQUE_ID) set(g, d, kind, CUDNN_TYPE_BOOLEAN, 1, &yes);
    finalize(g, d);
    if (g->status) return 0;
    g->tensor[g->tensors].descriptor = d;
    memcpy(g->tensor[g->tensors].dim, dim, sizeof g->tensor[0].dim);
    return g->tensors++;
}

int mf_cudnn_given(mf_cudnn_graph *g, int64_t id, cudnnDataType_t type, const int64_t *dim,
                   const int64_t *stride) {
    return tensor(g, id, type, dim, stride, CUDNN_ATTR_TENSOR_UNIQUE_ID);
}

int mf_cudnn_number(mf_cudnn_graph *g, int64_t id) {
    const int64_t one[MF_CUDNN_DIMS] = {1, 1, 1, 1};
    return tensor(g, id, CUDNN_DATA_FLOAT, one, one, CUDNN_ATTR_TENSOR_IS_BY_VALUE);
}

int mf_cudnn_made(mf_cudnn_graph *g, cudnnDataType_t type, const int64_t *dim, const int64_t *stride) {
    const int64_t dense[MF_CUDNN_DIMS] = {dim[1] * dim[2] * dim[3], dim[2] * dim[3], dim[3], 1};
    return tensor(g, MADE_IDS + g->tensors, type, dim, stride ? stride : dense, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
}

static void add_operation(mf_cudnn_graph *g, cudnnBackendDescriptor_t d) {
    finalize(g, d);
    if (g->status) return;
    if (g->operations == MF_CUDNN_OPERATIONS)
        keep(g, MF_FAIL(MF_EINVAL, "a graph for cuDNN of more than %d operations", (int)MF_CUDNN_OPERATIONS));
    else
        g->operation[g->operations++] = d;
}

static void set_tensor(mf_cudnn_graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                       int index) {
    if (!g->status && index >= 0) set_descriptor(g, d, name, g->tensor[index].descriptor);
}

void mf_cudnn_pointwise(mf_cudnn_graph *g, const mf_cudnn_pointwise_args *a) {
    cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &a->mode);
    set(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &a->math);
    if (a->mode == CUDNN_POINTWISE_GEN_INDEX)
        set(g, how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &a->axis);
    finalize(g, how);
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, a->x);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, a->b);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, a->t);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, a->y);
    add_operation(g, d);
}

void mf_cudnn_matmul(mf_cudnn_graph *g, int a, int b, int c) {
    cudnnDataType_t math = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    set(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
    finalize(g, how);
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    add_operation(g, d);
}

void mf_cudnn_reduce(mf_cudnn_graph *g, cudnnReduceTensorOp_t operation, int x, int y) {
    cudnnDataType_t math = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t how = make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    set(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &operation);
    set(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &math);
    finalize(g, how);
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    add_operation(g, d);
}

void mf_cudnn_reshape(mf_cudnn_graph *g, int x, int y) {
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    set_tensor(g, d, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    add_operation(g, d);
}

static cudnnBackendDescriptor_t operation_graph(mf_cudnn_graph *g) {
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(g, d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->operations, g->operation);
    if (g->where.handle) set(g, d, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->where.handle);
    finalize(g, d);
    return d;
}

static cudnnBackendDescriptor_t heuristics(mf_cudnn_graph *g, cudnnBackendDescriptor_t operations) {
    cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    cudnnBackendDescriptor_t d = make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    set_descriptor(g, d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, operations);
    set(g, d, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (g->where.properties) set_descriptor(g, d, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, g->where.properties);
    finalize(g, d);
    return d;
}

enum { CONFIGS = 8 };

/* config: [CONFIGS]; returns how many there are. */
static int64_t configurations(mf_cudnn_graph *g, cudnnBackendDescriptor_t found,
                              cudnnBackendDescriptor_t *config) {
    int64_t count = 0;
    for (int i = 0; i < CONFIGS; i++) config[i] = make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    if (!g->status)
        keep(g, MF_CUDNN(cudnnBackendGetAttribute, found, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                         CUDNN_TYPE_BACKEND_DESCRIPTOR, CONFIGS, &count, config));
    return mf_min(count, CONFIGS);
}

/* Whether cuDNN can make this one; it may be that it can't. */
static bool try_plan(mf_cudnn_graph *g, cudnnBackendDescriptor_t config) {
    cudnnBackendDescriptor_t plan = make(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set_descriptor(g, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    if (g->where.handle)
        set(g, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->where.handle);
    else
        set_descriptor(g, plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, g->where.properties);
    if (g->status || cudnnBackendFinalize(plan)) return false;
    int64_t count = 0;
    keep(g, MF_CUDNN(cudnnBackendGetAttribute, plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                     CUDNN_TYPE_INT64, 1, &count, &g->workspace_bytes));
    g->plan = plan;
    return true;
}

mf_status mf_cudnn_finish(mf_cudnn_graph *g) {
    cudnnBackendDescriptor_t config[CONFIGS];
    cudnnBackendDescriptor_t operations = operation_graph(g);
    int64_t count = configurations(g, heuristics(g, operations), config);
    for (int64_t i = 0; !g->status && !g->plan && i < count; i++) try_plan(g, config[i]);
    if (g->status) return mf_error_pass(__FILE__, __LINE__, g->status);
    return g->plan
               ? MF_OK
               : MF_FAIL(MF_EUNSUPPORTED, "cuDNN has no kernel for a graph of %d operations", g->operations);
}

mf_status mf_cudnn_run(const mf_cudnn_graph *g, int n, const int64_t *ids, void *const *pointers,
                       void *workspace) {
    cudnnBackendDescriptor_t pack = NULL;
    mf_status status = MF_OK;
    MF_TRY(MF_CUDNN(cudnnBackendCreateDescriptor, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
    MF_GO(MF_CUDNN(cudnnBackendSetAttribute, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
                   n, pointers));
    MF_GO(MF_CUDNN(cudnnBackendSetAttribute, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n,
                   ids));
    MF_GO(MF_CUDNN(cudnnBackendSetAttribute, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1,
                   &workspace));
    MF_GO(MF_CUDNN(cudnnBackendFinalize, pack));
    MF_GO(MF_CUDNN(cudnnBackendExecute, g->where.handle, g->plan, pack));
fail:
    cudnnBackendDestroyDescriptor(pack);
    return status;
}

void mf_cudnn_graph_free(mf_cudnn_graph *g) {
    while (g->descriptors > 0) cudnnBackendDestroyDescriptor(g->descriptor[--g->descriptors]);
    *g = (mf_cudnn_graph){.where = g->where};
}
