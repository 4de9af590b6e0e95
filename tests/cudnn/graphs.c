/* graphs.c: cuDNN has kernels for the graphs of attention, on GPUs that are only described (see driver.c):
 * what it accepts and the workspace that it asks for. That they compute what they should needs a GPU. */
#include "support.h"
#include "device/cuda/cudnn_attention.h"

#include <stdio.h>
#include <string.h>

typedef struct gpu {
    const char *name;
    int version, multiprocessors, shared_bytes;
} gpu;

static const gpu h200 = {"NVIDIA H200", 900, 132, 232448}, a100 = {"NVIDIA A100", 800, 108, 166912};

static mf_cudnn_where describe(const gpu *of) {
    mf_cudnn_where where = {0};
    char json[1024];
    int n = snprintf(
        json, sizeof json,
        "{\"deviceName\":\"%s\",\"deviceVer\":%d,\"driverVer\":13000,\"cudaDeviceId\":0,"
        "\"multiProcessorCount\":%d,\"maxSharedMemoryPerBlockOptin\":%d,"
        "\"maxSharedMemoryPerBlock\":49152,\"reservedSharedMemoryPerBlock\":1024,"
        "\"regsPerBlock\":65536,\"maxRegistersPerSM\":65536,\"warpSize\":32,"
        "\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"maxCtasPerSM\":32,"
        "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
        "\"smClockRateKHz\":1500000,\"memClockRateKHz\":1500000,\"l2CacheSize\":52428800,"
        "\"pciDeviceId\":0,\"isTccDriver\":0,\"supportCoopLaunch\":1,\"totalGlobalMem\":85899345920}",
        of->name, of->version, of->multiprocessors, of->shared_bytes);
    ASSERT_OK(MF_CUDNN(cudnnBackendCreateDescriptor, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &where.properties));
    ASSERT_OK(MF_CUDNN(cudnnBackendSetAttribute, where.properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION,
                       CUDNN_TYPE_CHAR, n, json));
    ASSERT_OK(MF_CUDNN(cudnnBackendFinalize, where.properties));
    return where;
}

/* [batch, rows, heads, head_dim] and its log-sum-exps, dense. */
static mf_cudnn_shape shape_of(int64_t heads, int64_t kv_heads, int64_t queries, int64_t keys,
                               int64_t head_dim, bool causal) {
    mf_cudnn_rows q = {queries * heads * head_dim, heads * head_dim};
    mf_cudnn_rows k = {keys * kv_heads * head_dim, kv_heads * head_dim};
    return (mf_cudnn_shape){.batch = 2,
                            .heads = heads,
                            .kv_heads = kv_heads,
                            .queries = queries,
                            .keys = keys,
                            .head_dim = head_dim,
                            .causal = causal,
                            .q = q,
                            .k = k,
                            .o = q,
                            .lse = {queries * heads, heads},
                            .d_o = q};
}

static int64_t workspace(mf_cudnn_where where, const mf_cudnn_shape *shape, bool backward) {
    static mf_cudnn_graph g;
    g = (mf_cudnn_graph){.where = where};
    if (backward)
        mf_cudnn_attention_backward(&g, shape);
    else
        mf_cudnn_attention_forward(&g, shape);
    ASSERT_OK(mf_cudnn_finish(&g));
    int64_t bytes = g.workspace_bytes;
    mf_cudnn_graph_free(&g);
    return bytes;
}

/* The first `cases` of them: each takes cuDNN a second to compile. */
static void check_on(const gpu *of, size_t cases) {
    static const struct {
        int64_t heads, kv_heads, queries, keys, head_dim;
        bool causal;
    } all[] = {{4, 4, 2048, 2048, 128, true}, {4, 4, 2048, 4096, 128, false}, {8, 2, 1024, 1024, 64, true},
               {8, 2, 1024, 4096, 64, false}, {4, 2, 1001, 2003, 128, true},  {1, 1, 4096, 4096, 128, true}};
    mf_cudnn_where where = describe(of);
    for (size_t i = 0; i < cases && i < sizeof all / sizeof *all; i++)
        for (int backward = 0; backward < 2; backward++) {
            mf_cudnn_shape shape = shape_of(all[i].heads, all[i].kv_heads, all[i].queries, all[i].keys,
                                            all[i].head_dim, all[i].causal);
            assert_true(workspace(where, &shape, backward) >= 0);
        }
    cudnnBackendDestroyDescriptor(where.properties);
}

static void test_h200(void **state) {
    (void)state;
    check_on(&h200, SIZE_MAX);
}

static void test_a100(void **state) {
    (void)state;
    check_on(&a100, 2);
}

/* Each query head's share of a key head's gradients is made before they are added up. */
static void test_workspace_of_grouped_heads(void **state) {
    (void)state;
    mf_cudnn_where where = describe(&h200);
    mf_cudnn_shape each = shape_of(8, 8, 1024, 2048, 128, true),
                   grouped = shape_of(8, 2, 1024, 2048, 128, true);
    int64_t shares = 2 * each.batch * each.heads * each.keys * each.head_dim * 2;
    assert_int_equal(workspace(where, &grouped, true) - workspace(where, &each, true), shares);
    cudnnBackendDestroyDescriptor(where.properties);
}

static void test_no_kernel(void **state) {
    (void)state;
    static mf_cudnn_graph g;
    mf_cudnn_where where = describe(&h200);
    mf_cudnn_shape odd = shape_of(4, 4, 1024, 1024, 33, true);
    g = (mf_cudnn_graph){.where = where};
    mf_cudnn_attention_forward(&g, &odd);
    assert_int_not_equal(mf_cudnn_finish(&g), MF_OK);
    mf_cudnn_graph_free(&g);
    cudnnBackendDestroyDescriptor(where.properties);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_h200), cmocka_unit_test(test_a100),
                                       cmocka_unit_test(test_workspace_of_grouped_heads),
                                       cmocka_unit_test(test_no_kernel)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
