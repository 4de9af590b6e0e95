/* cudnn_attention.c: attention cut into pieces for cuDNN, on the GPU that MESHFOLD_TEST_DEVICE names, against
 * the CPU's attention over the same chunks; and its workspace against the dry device's. Without a GPU,
 * emulated or real, the tests are skipped. */
#include "support.h"
#include "machine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEAD_DIM = 16, HEADS = 2, ROW = HEADS * HEAD_DIM, TOKENS = 2048, CHUNKS = 2 };

/* One layout of chunks over the same tokens. */
typedef struct plan_of_chunks {
    const char *name;
    int64_t kv_heads;
    int query_chunks, key_chunks;
    struct {
        int64_t rows, position;
    } query[CHUNKS], key[CHUNKS];
    bool all_keys, merge, o_f32;
} plan_of_chunks;

static const plan_of_chunks all[] = {
    {"whole", 2, 1, 1, {{1200, 0}}, {{1200, 0}}, false, false, false},
    {"grouped heads", 1, 1, 1, {{1100, 0}}, {{1100, 0}}, false, false, false},
    {"a ring's later keys", 2, 1, 1, {{1040, 1000}}, {{1100, 0}}, false, true, true},
    {"zigzag", 1, 2, 2, {{1030, 0}, {1018, 3000}}, {{1030, 0}, {1018, 1030}}, false, false, false},
    {"keys that begin within the queries",
     2,
     1,
     2,
     {{1100, 0}},
     {{900, 300}, {1148, 1200}},
     false,
     true,
     false},
    {"all keys", 2, 1, 2, {{1024, 0}}, {{1030, 0}, {1018, 5000}}, true, false, false}};

/* Where the call's arrays are on a device; on the host the same, as floats or bf16. */
typedef struct arrays {
    uint16_t *q, *k, *v, *o, *d_o;
    float *o_f32, *lse, *dq, *dk, *dv, *delta;
} arrays;

static size_t sizes_of(const plan_of_chunks *p, size_t out[11]) {
    size_t rows = TOKENS * ROW, keys = TOKENS * (size_t)p->kv_heads * HEAD_DIM;
    size_t all_sizes[] = {rows * 2,           keys * 2, keys * 2, rows * 2, rows * 2,          rows * 4,
                          TOKENS * HEADS * 4, rows * 4, keys * 4, keys * 4, TOKENS * HEADS * 4};
    memcpy(out, all_sizes, sizeof all_sizes);
    return 11;
}

static void **pointers(arrays *a) { return (void **)a; }

static void fill_bf16(uint16_t *out, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) out[i] = mf_bf16_from_f32(mf_random_normal(3, mf_random_key(name), i));
}

static void fill_f32(float *out, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) out[i] = mf_random_normal(3, mf_random_key(name), i);
}

/* What every device begins with. */
static void host_arrays(const plan_of_chunks *p, arrays *a) {
    size_t bytes[11], n = sizes_of(p, bytes);
    for (size_t i = 0; i < n; i++) assert_non_null(pointers(a)[i] = malloc(bytes[i]));
    fill_bf16(a->q, bytes[0] / 2, "q");
    fill_bf16(a->k, bytes[1] / 2, "k");
    fill_bf16(a->v, bytes[2] / 2, "v");
    fill_bf16(a->o, bytes[3] / 2, "o");
    fill_bf16(a->d_o, bytes[4] / 2, "d_o");
    fill_f32(a->o_f32, bytes[5] / 4, "o");
    fill_f32(a->lse, bytes[6] / 4, "lse");
    fill_f32(a->dq, bytes[7] / 4, "dq");
    fill_f32(a->dk, bytes[8] / 4, "dk");
    fill_f32(a->dv, bytes[9] / 4, "dv");
    memset(a->delta, 0, bytes[10]);
}

static void free_arrays(arrays *a) {
    for (int i = 0; i < 11; i++) free(pointers(a)[i]);
}

typedef struct call {
    mf_query_chunk query[CHUNKS];
    mf_key_chunk key[CHUNKS];
    mf_attention_args args;
} call;

static void call_of(const plan_of_chunks *p, const arrays *a, call *c) {
    int64_t key_row = p->kv_heads * HEAD_DIM, tokens = 0, keys = 0;
    for (int i = 0; i < p->query_chunks; i++) {
        c->query[i] = (mf_query_chunk){p->query[i].rows, p->query[i].position, tokens};
        tokens += p->query[i].rows;
    }
    for (int j = 0; j < p->key_chunks; j++) {
        int64_t at = keys * key_row;
        c->key[j] = (mf_key_chunk){.rows = p->key[j].rows,
                                   .position = p->key[j].position,
                                   .k = a->k + at,
                                   .v = a->v + at,
                                   .ld = key_row,
                                   .batch_ld = TOKENS * key_row,
                                   .dk = a->dk + at,
                                   .dv = a->dv + at,
                                   .grad_ld = key_row,
                                   .grad_batch_ld = TOKENS * key_row};
        keys += p->key[j].rows;
    }
    c->args = (mf_attention_args){.type = MF_BF16,
                                  .batch = 1,
                                  .tokens = tokens,
                                  .heads = HEADS,
                                  .group = HEADS / p->kv_heads,
                                  .kv_heads = p->kv_heads,
                                  .head_dim = HEAD_DIM,
                                  .all_keys = p->all_keys,
                                  .scale = 0.25f,
                                  .query_chunks = p->query_chunks,
                                  .key_chunks = p->key_chunks,
                                  .queries = c->query,
                                  .keys = c->key,
                                  .q = a->q,
                                  .q_ld = ROW,
                                  .o = p->o_f32 ? (void *)a->o_f32 : a->o,
                                  .o_ld = ROW,
                                  .lse = a->lse,
                                  .lse_ld = HEADS,
                                  .merge = p->merge,
                                  .o_f32 = p->o_f32,
                                  .d_o = a->d_o,
                                  .do_ld = ROW,
                                  .delta = a->delta,
                                  .dq = a->dq,
                                  .dq_ld = ROW};
}

/* On a device of this name, from host's arrays and back into them. Backward takes o and lse as they are. */
static void compute(const char *name, const plan_of_chunks *p, bool backward, arrays *host) {
    mf_memory *memory = NULL;
    mf_device *device = NULL;
    mf_buffer held[11] = {{0}};
    arrays own;
    call c;
    size_t bytes[11], n = sizes_of(p, bytes);
    ASSERT_OK(mf_device_memory_create(name, &memory));
    ASSERT_OK(mf_device_create(name, memory, 2, &device));
    for (size_t i = 0; i < n; i++) {
        ASSERT_OK(mf_buffer_alloc(memory, MF_ACTIVATIONS, bytes[i], "an array", &held[i]));
        pointers(&own)[i] = held[i].data;
        ASSERT_OK(mf_copy(device, MF_QUEUE_COMPUTE, held[i].data, pointers(host)[i], bytes[i]));
    }
    call_of(p, &own, &c);
    if (backward) {
        ASSERT_OK(mf_attention_delta(device, &c.args, own.delta));
        ASSERT_OK(mf_attention_backward(device, &c.args));
    } else {
        ASSERT_OK(mf_attention_forward(device, &c.args));
    }
    for (size_t i = 0; i < n; i++) {
        ASSERT_OK(mf_copy(device, MF_QUEUE_COMPUTE, pointers(host)[i], held[i].data, bytes[i]));
        mf_buffer_free(memory, &held[i]);
    }
    mf_device_destroy(device);
    mf_memory_destroy(memory);
}

static void close_enough(const char *layout, const char *what, size_t n, const float *got,
                         const float *want) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        if (isinf(want[i]) && got[i] == want[i]) continue;
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += (double)want[i] * want[i];
    }
    if (!(sqrt(difference) <= mf_tolerance(MF_BF16) * sqrt(size)))
        fail_msg("%s: %s differs by %g of %g", layout, what, sqrt(difference), sqrt(size));
}

static void close_enough_bf16(const char *layout, const char *what, size_t n, const uint16_t *got,
                              const uint16_t *want) {
    float *wide[2] = {malloc(n * sizeof(float)), malloc(n * sizeof(float))};
    for (size_t i = 0; i < n; i++) {
        wide[0][i] = mf_f32_from_bf16(got[i]);
        wide[1][i] = mf_f32_from_bf16(want[i]);
    }
    close_enough(layout, what, n, wide[0], wide[1]);
    free(wide[0]);
    free(wide[1]);
}

static const char *gpu(void) {
    const char *name = getenv("MESHFOLD_TEST_DEVICE");
    if (!name || !mf_device_is_gpu(name)) fail_msg("MESHFOLD_TEST_DEVICE names no GPU");
    return name;
}

static void compare(const plan_of_chunks *p, bool backward) {
    char name[MF_DEVICE_NAME];
    arrays want, got;
    snprintf(name, sizeof name, "%s+cudnn", gpu());
    host_arrays(p, &want);
    host_arrays(p, &got);
    if (backward) { /* o and lse as forward leaves them */
        plan_of_chunks forward = *p;
        forward.merge = forward.o_f32 = false;
        compute("cpu", &forward, false, &want);
        compute("cpu", &forward, false, &got);
    }
    plan_of_chunks plain = *p;
    if (backward) plain.o_f32 = false;
    compute("cpu", &plain, backward, &want);
    compute(name, &plain, backward, &got);
    size_t bytes[11];
    sizes_of(p, bytes);
    close_enough_bf16(p->name, "o", bytes[3] / 2, got.o, want.o);
    close_enough(p->name, "o in f32", bytes[5] / 4, got.o_f32, want.o_f32);
    close_enough(p->name, "lse", bytes[6] / 4, got.lse, want.lse);
    close_enough(p->name, "dq", bytes[7] / 4, got.dq, want.dq);
    close_enough(p->name, "dk", bytes[8] / 4, got.dk, want.dk);
    close_enough(p->name, "dv", bytes[9] / 4, got.dv, want.dv);
    free_arrays(&want);
    free_arrays(&got);
}

static void test_forward(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) compare(&all[i], false);
}

static void test_backward(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) compare(&all[i], true);
}

static int64_t most_workspace(const char *name, const plan_of_chunks *p, bool backward) {
    mf_memory *memory = NULL;
    mf_device *device = NULL;
    call c;
    arrays a;
    size_t bytes[11], n = sizes_of(p, bytes);
    mf_buffer held[11] = {{0}};
    ASSERT_OK(mf_device_memory_create(name, &memory));
    ASSERT_OK(mf_device_create(name, memory, 2, &device));
    for (size_t i = 0; i < n; i++) {
        ASSERT_OK(mf_buffer_alloc(memory, MF_ACTIVATIONS, bytes[i], "an array", &held[i]));
        pointers(&a)[i] = held[i].data;
    }
    call_of(p, &a, &c);
    if (backward) c.args.o_f32 = false;
    if (backward)
        ASSERT_OK(mf_attention_backward(device, &c.args));
    else
        ASSERT_OK(mf_attention_forward(device, &c.args));
    int64_t most = mf_memory_stats_get(memory).peak[MF_WORKSPACE];
    for (size_t i = 0; i < n; i++) mf_buffer_free(memory, &held[i]);
    mf_device_destroy(device);
    mf_memory_destroy(memory);
    return most;
}

/* Of both one after another, cuDNN's own is taken while the pieces' is held. */
static void test_workspace(void **state) {
    (void)state;
    char name[MF_DEVICE_NAME];
    snprintf(name, sizeof name, "%s+cudnn", gpu());
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (int backward = 0; backward < 2; backward++) {
            int64_t own = most_workspace(name, &all[i], backward);
            int64_t dry = most_workspace("dry-cuda+cudnn", &all[i], backward);
            if (llabs(own - dry) > 64)
                fail_msg("%s: %lld bytes; dry %lld", all[i].name, (long long)own, (long long)dry);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward), cmocka_unit_test(test_backward),
                                       cmocka_unit_test(test_workspace)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
