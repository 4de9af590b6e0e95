/* cuda_workspace.c: the device that runs dry in a GPU's place takes the workspace that the GPU takes, to the
 * byte, operation by operation; where MESHFOLD_TEST_DEVICE is cuda. */
#include "support.h"
#include "meshfold/device.h"

#include <stdlib.h>
#include <string.h>

/* Sizes of a call: rows of so many heads. */
typedef struct size {
    int64_t rows, heads, head_dim;
    mf_dtype type;
} size;

/* A device and memory on it, all of it zero, that operations read and write. */
typedef struct stage {
    mf_memory *memory;
    mf_device *device;
    mf_buffer room;
} stage;

enum { ROOM = 1 << 20, OPERANDS = 6 };

static void stage_open(stage *s, const char *name) {
    *s = (stage){0};
    ASSERT_OK(mf_device_memory_create(name, &s->memory));
    ASSERT_OK(mf_device_create(name, s->memory, 1, &s->device));
    ASSERT_OK(mf_buffer_alloc(s->memory, MF_ACTIVATIONS, (size_t)OPERANDS * ROOM, "operands", &s->room));
    ASSERT_OK(mf_zero(s->device, s->room.data, s->room.bytes));
}

static void stage_close(stage *s) {
    mf_buffer_free(s->memory, &s->room);
    mf_device_destroy(s->device);
    assert_int_equal(mf_memory_stats_get(s->memory).now_total, 0);
    mf_memory_destroy(s->memory);
}

static void *operand(const stage *s, int i) { return (char *)s->room.data + (size_t)i * ROOM; }

typedef struct operation {
    const char *name;
    mf_status (*run)(const stage *s, const size *z);
    int64_t most_rows; /* that an emulated GPU does in reasonable time; 0: any */
} operation;

static mf_status product(const stage *s, const size *z) {
    int64_t width = z->heads * z->head_dim;
    return mf_gemm(s->device, &(mf_gemm_args){.m = z->rows,
                                              .n = width,
                                              .k = width,
                                              .a = {operand(s, 0), width, z->type, false},
                                              .b = {operand(s, 1), width, z->type, true},
                                              .c = operand(s, 2),
                                              .c_ld = width,
                                              .c_type = MF_F32});
}

static mf_status rmsnorm(const stage *s, const size *z) {
    return mf_rmsnorm_backward(s->device, &(mf_rmsnorm_grad){.n = z->rows,
                                                             .h = z->heads * z->head_dim,
                                                             .eps = 1e-5f,
                                                             .type = z->type,
                                                             .x = operand(s, 0),
                                                             .weight = operand(s, 1),
                                                             .dy = operand(s, 2),
                                                             .dx = operand(s, 3),
                                                             .dweight = operand(s, 4)});
}

static mf_status headnorm(const stage *s, const size *z) {
    return mf_headnorm_backward(s->device, &(mf_headnorm_args){.type = z->type,
                                                               .rows = z->rows,
                                                               .heads = z->heads,
                                                               .head_dim = z->head_dim,
                                                               .eps = 1e-5f,
                                                               .weight = operand(s, 0),
                                                               .x = operand(s, 1),
                                                               .ld = z->heads * z->head_dim,
                                                               .d = operand(s, 2),
                                                               .d_ld = z->heads * z->head_dim,
                                                               .dweight = operand(s, 3)});
}

static mf_status bias(const stage *s, const size *z) {
    int64_t width = z->heads * z->head_dim;
    return mf_bias_backward(s->device, &(mf_bias_args){.type = z->type,
                                                       .rows = z->rows,
                                                       .width = width,
                                                       .d = operand(s, 0),
                                                       .ld = width,
                                                       .d_bias = operand(s, 1)});
}

/* Rows from the end of one sample on, through several. */
static mf_status modulate_to(const stage *s, const size *z, float *dshift, float *dscale) {
    int64_t width = z->heads * z->head_dim;
    return mf_modulate_backward(s->device, &(mf_modulate_args){.type = z->type,
                                                               .n = z->rows,
                                                               .h = width,
                                                               .eps = 1e-5f,
                                                               .first_row = 90,
                                                               .sample_rows = 100,
                                                               .mod_ld = width,
                                                               .x = operand(s, 0),
                                                               .shift = operand(s, 1),
                                                               .scale = operand(s, 2),
                                                               .dy = operand(s, 3),
                                                               .dx = operand(s, 4),
                                                               .dshift = dshift,
                                                               .dscale = dscale});
}

static mf_status modulate(const stage *s, const size *z) {
    float *sums = operand(s, 5);
    return modulate_to(s, z, sums, sums + ROOM / 8);
}

static mf_status modulate_without_sums(const stage *s, const size *z) {
    return modulate_to(s, z, NULL, NULL);
}

static mf_status embed(const stage *s, const size *z) {
    return mf_embed_backward(s->device, &(mf_embed_args){.type = z->type,
                                                         .n = z->rows,
                                                         .h = z->heads * z->head_dim,
                                                         .rows = 10,
                                                         .ids = operand(s, 0),
                                                         .d_out = operand(s, 1),
                                                         .d_out_type = z->type,
                                                         .d_table = operand(s, 2)});
}

static mf_status xent_loss(const stage *s, const size *z) {
    double loss = 0;
    return mf_xent_loss(s->device,
                        &(mf_xent_args){.n = z->rows,
                                        .width = 10,
                                        .labels = operand(s, 0),
                                        .logits = operand(s, 1),
                                        .maximum = operand(s, 2),
                                        .sum = operand(s, 3),
                                        .label_logit = operand(s, 4),
                                        .type = z->type},
                        &loss);
}

static mf_status sum_squares(const stage *s, const size *z) {
    double sum = 0;
    return mf_sum_squares(s->device, z->rows * z->heads * z->head_dim, operand(s, 0), &sum);
}

static mf_status squared_error(const stage *s, const size *z) {
    double loss = 0;
    return mf_squared_error(s->device,
                            &(mf_squared_error_args){.n = z->rows * z->heads * z->head_dim,
                                                     .pred = operand(s, 0),
                                                     .target = operand(s, 1),
                                                     .scale = 1,
                                                     .d_pred = operand(s, 2)},
                            &loss);
}

static mf_status merge(const stage *s, const size *z) {
    int64_t width = z->heads * z->head_dim;
    return mf_attention_merge(s->device, &(mf_attention_merge_args){.type = z->type,
                                                                    .rows = z->rows,
                                                                    .heads = z->heads,
                                                                    .head_dim = z->head_dim,
                                                                    .parts = 2,
                                                                    .part = operand(s, 0),
                                                                    .o = operand(s, 3),
                                                                    .o_ld = width});
}

/* At most, in the lists of a call; so many queries there are. */
enum { CHUNKS = 48 };

static const void *rows_from(const stage *s, const size *z, int at, int64_t first) {
    int64_t bytes = first * z->heads * z->head_dim * (int64_t)mf_dtype_bytes(z->type);
    return (const char *)operand(s, at) + bytes;
}

static mf_key_chunk key_chunk(const stage *s, const size *z, int64_t first, int64_t end) {
    int64_t width = z->heads * z->head_dim;
    return (mf_key_chunk){.rows = end - first,
                          .position = first,
                          .k = rows_from(s, z, 0, first),
                          .v = rows_from(s, z, 1, first),
                          .ld = width,
                          .batch_ld = z->rows * width,
                          .dk = (float *)operand(s, 2) + first * width,
                          .dv = (float *)operand(s, 3) + first * width,
                          .grad_ld = width,
                          .grad_batch_ld = z->rows * width};
}

/* Causal attention of the last rows, a few, to all of them, in so many chunks or as many as rows allow. */
static mf_status attend(const stage *s, const size *z, int most, bool backward) {
    mf_query_chunk queries[CHUNKS];
    mf_key_chunk keys[CHUNKS];
    int64_t width = z->heads * z->head_dim, tokens = mf_min(z->rows, CHUNKS), chunks = mf_min(most, tokens);
    for (int64_t i = 0; i < chunks; i++) {
        int64_t first = tokens * i / chunks, end = tokens * (i + 1) / chunks;
        queries[i] =
            (mf_query_chunk){.rows = end - first, .position = z->rows - tokens + first, .first_row = first};
        keys[i] = key_chunk(s, z, z->rows * i / chunks, z->rows * (i + 1) / chunks);
    }
    char *own = operand(s, 4);
    float *sums = operand(s, 5);
    mf_attention_args args = {.type = z->type,
                              .batch = 1,
                              .tokens = tokens,
                              .heads = z->heads,
                              .group = 1,
                              .kv_heads = z->heads,
                              .head_dim = z->head_dim,
                              .scale = 0.25f,
                              .query_chunks = (int)chunks,
                              .key_chunks = (int)chunks,
                              .queries = queries,
                              .keys = keys,
                              .q = own,
                              .q_ld = width,
                              .o = own + ROOM / 4,
                              .o_ld = width,
                              .lse = sums,
                              .lse_ld = z->heads,
                              .d_o = own + ROOM / 2,
                              .do_ld = width,
                              .delta = sums + ROOM / 16,
                              .dq = sums + ROOM / 8,
                              .dq_ld = width};
    return backward ? mf_attention_backward(s->device, &args) : mf_attention_forward(s->device, &args);
}

static mf_status attend_forward(const stage *s, const size *z) { return attend(s, z, 1, false); }
static mf_status attend_backward(const stage *s, const size *z) { return attend(s, z, 1, true); }
static mf_status attend_many_forward(const stage *s, const size *z) { return attend(s, z, CHUNKS, false); }
static mf_status attend_many_backward(const stage *s, const size *z) { return attend(s, z, CHUNKS, true); }

static const operation operations[] = {{"gemm", product, 0},
                                       {"rmsnorm_backward", rmsnorm, 0},
                                       {"headnorm_backward", headnorm, 0},
                                       {"bias_backward", bias, 0},
                                       {"modulate_backward", modulate, 0},
                                       {"modulate_backward without sums", modulate_without_sums, 0},
                                       {"embed_backward", embed, 0},
                                       {"xent_loss", xent_loss, 0},
                                       {"sum_squares", sum_squares, 0},
                                       {"squared_error", squared_error, 0},
                                       {"attention_merge", merge, 0},
                                       {"attention_forward", attend_forward, 0},
                                       {"attention_backward", attend_backward, 0},
                                       {"attention_forward of many chunks", attend_many_forward, CHUNKS},
                                       {"attention_backward of many chunks", attend_many_backward, CHUNKS}};

typedef struct taken {
    int64_t most, kept;
} taken;

static taken taken_by(const operation *o, const stage *s, const size *z) {
    mf_memory_reset_peaks(s->memory);
    mf_status status = o->run(s, z);
    if (status)
        fail_msg("%s of %lld rows on %s: %s", o->name, (long long)z->rows, mf_device_name(s->device),
                 mf_error_last()->message);
    ASSERT_OK(mf_device_finish(s->device, MF_QUEUE_COMPUTE));
    mf_memory_stats stats = mf_memory_stats_get(s->memory);
    return (taken){stats.peak[MF_WORKSPACE], stats.now[MF_WORKSPACE]};
}

static void same_workspace(const operation *o, const stage *gpu, const stage *dry, const size *z) {
    taken is = taken_by(o, gpu, z), said = taken_by(o, dry, z);
    if (is.most == said.most && is.kept == said.kept) return;
    fail_msg("%s of %lld x %lld x %lld, %s: %lld bytes and %lld after it; dry %lld and %lld", o->name,
             (long long)z->rows, (long long)z->heads, (long long)z->head_dim, mf_dtype_name(z->type),
             (long long)is.most, (long long)is.kept, (long long)said.most, (long long)said.kept);
}

static const size sizes[] = {{1, 1, 16, MF_F32},   {1, 2, 64, MF_BF16},  {7, 3, 20, MF_F32},
                             {47, 1, 32, MF_BF16}, {129, 1, 80, MF_F32}, {700, 2, 64, MF_BF16}};

static void workspace_is_the_dry_devices(void **state) {
    (void)state;
    const char *name = getenv("MESHFOLD_TEST_DEVICE");
    stage gpu, dry;
    if (!name || strcmp(name, "cuda") != 0) skip();
    stage_open(&gpu, "cuda");
    stage_open(&dry, "dry-cuda");
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++)
            if (!operations[i].most_rows || sizes[z].rows <= operations[i].most_rows)
                same_workspace(&operations[i], &gpu, &dry, &sizes[z]);
    stage_close(&dry);
    stage_close(&gpu);
}

/* No GPU is needed to know it. */
static void dry_takes_workspace(void **state) {
    (void)state;
    stage dry;
    stage_open(&dry, "dry-cuda");
    int64_t held = mf_memory_stats_get(dry.memory).now[MF_WORKSPACE];
    assert_int_equal(held, 32 << 20);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        taken t = taken_by(&operations[i], &dry, &sizes[5]);
        assert_int_equal(t.kept, held);
        assert_true(t.most >= held);
    }
    stage_close(&dry);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workspace_is_the_dry_devices),
        cmocka_unit_test(dry_takes_workspace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
