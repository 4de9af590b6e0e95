/* kernels.c: how fast a device computes what it does to every element or row, in GB/s beside its own copying,
 * and its matrix products in TFLOP/s.
 *
 *     bench_kernels [--device NAME] [--tokens N] [--seconds S] [--json FILE]       defaults: cpu 16384 0.2
 *
 * Sizes are those of a rank of a 7B model: rows of 4096, 32 heads of 128, an MLP of 11008 over four ranks.
 * Bytes are those that the dry device counts: an operation is asked of it with costs whose seconds are bytes.
 */
#include "meshfold/device.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 4096, HEADS = 32, HEAD_DIM = 128, FFN = 2752, SAMPLES = 16, PARTS = 2, TYPED = 6, PLAIN = 4 };

typedef struct bench {
    const char *name;
    int64_t tokens;
    double seconds, copy_gbs;
    mf_memory *memory;
    mf_device *device, *dry;
    mf_dtype type;
    mf_buffer typed[TYPED]; /* [room, HIDDEN] compute type each: normal */
    mf_buffer plain[PLAIN]; /* [room, HIDDEN] f32 each: normal; the last two begin as zeros */
    mf_buffer vectors;      /* [4, SAMPLES, HIDDEN] f32: normal */
    mf_buffer sums;         /* the same, zeros */
    mf_buffer ids;          /* [tokens, 3] below SAMPLES */
    json_t *operations, *products;
} bench;

static void check(mf_status status, const char *what) {
    if (!status) return;
    fprintf(stderr, "bench_kernels: %s: %s\n", what, mf_error_last()->message);
    exit(1);
}

static void *typed(const bench *b, int i) { return b->typed[i].data; }
static float *plain(const bench *b, int i) { return b->plain[i].data; }
static float *vectors(const bench *b, int i) { return (float *)b->vectors.data + i * SAMPLES * HIDDEN; }
static float *sums(const bench *b, int i) { return (float *)b->sums.data + i * SAMPLES * HIDDEN; }
static int64_t elements(const bench *b) { return b->tokens * HIDDEN; }
/* Of a buffer of rows, which must hold a square matrix of weights too. */
static int64_t room(const bench *b) { return mf_max(b->tokens, HIDDEN) * HIDDEN; }

static mf_status rmsnorm_forward(bench *b, mf_device *d) {
    return mf_rmsnorm_forward(d, b->tokens, HIDDEN, 1e-5f, b->type, typed(b, 0), vectors(b, 0), typed(b, 1));
}

static mf_status rmsnorm_backward(bench *b, mf_device *d) {
    return mf_rmsnorm_backward(d, &(mf_rmsnorm_grad){.n = b->tokens,
                                                     .h = HIDDEN,
                                                     .eps = 1e-5f,
                                                     .type = b->type,
                                                     .x = typed(b, 0),
                                                     .weight = vectors(b, 0),
                                                     .dy = plain(b, 0),
                                                     .dx = plain(b, 2),
                                                     .dweight = sums(b, 0)});
}

static mf_status rope_table(bench *b, mf_device *d) {
    return mf_rope_table(
        d,
        &(mf_rope_table_args){.rows = b->tokens, .head_dim = HEAD_DIM, .theta = 1e4, .cos_sin = plain(b, 1)});
}

static mf_rope_args rope_args(const bench *b) {
    return (mf_rope_args){.type = b->type,
                          .batch = 1,
                          .tokens = b->tokens,
                          .heads = HEADS,
                          .head_dim = HEAD_DIM,
                          .cos_sin = plain(b, 1),
                          .in = typed(b, 0),
                          .in_ld = HIDDEN,
                          .out = typed(b, 1),
                          .out_ld = HIDDEN};
}

static mf_status rope(bench *b, mf_device *d) {
    mf_rope_args args = rope_args(b);
    return mf_rope(d, &args);
}

static mf_status rope_from_f32(bench *b, mf_device *d) {
    mf_rope_args args = rope_args(b);
    args.in = plain(b, 0);
    args.in_f32 = true;
    return mf_rope(d, &args);
}

static mf_headnorm_args headnorm_args(const bench *b) {
    return (mf_headnorm_args){.type = b->type,
                              .rows = b->tokens,
                              .heads = HEADS,
                              .head_dim = HEAD_DIM,
                              .eps = 1e-6f,
                              .weight = vectors(b, 0),
                              .x = typed(b, 1),
                              .ld = HIDDEN,
                              .d = typed(b, 2),
                              .d_ld = HIDDEN,
                              .dweight = sums(b, 0)};
}

static mf_status headnorm_forward(bench *b, mf_device *d) {
    mf_headnorm_args args = headnorm_args(b);
    return mf_headnorm_forward(d, &args);
}

static mf_status headnorm_backward(bench *b, mf_device *d) {
    mf_headnorm_args args = headnorm_args(b);
    return mf_headnorm_backward(d, &args);
}

static mf_bias_args bias_args(const bench *b) {
    return (mf_bias_args){.type = b->type,
                          .rows = b->tokens,
                          .width = HIDDEN,
                          .bias = sums(b, 3),
                          .x = typed(b, 1),
                          .d = typed(b, 0),
                          .ld = HIDDEN,
                          .d_bias = sums(b, 0)};
}

static mf_status bias_forward(bench *b, mf_device *d) {
    mf_bias_args args = bias_args(b);
    return mf_bias_forward(d, &args);
}

static mf_status bias_backward(bench *b, mf_device *d) {
    mf_bias_args args = bias_args(b);
    return mf_bias_backward(d, &args);
}

static mf_modulate_args modulate_args(const bench *b) {
    return (mf_modulate_args){.type = b->type,
                              .n = b->tokens,
                              .h = HIDDEN,
                              .eps = 1e-6f,
                              .sample_rows = mf_ceil_div(b->tokens, SAMPLES),
                              .mod_ld = HIDDEN,
                              .x = typed(b, 0),
                              .shift = vectors(b, 0),
                              .scale = vectors(b, 1),
                              .y = typed(b, 1),
                              .dy = plain(b, 0),
                              .dx = plain(b, 2),
                              .dshift = sums(b, 0),
                              .dscale = sums(b, 1)};
}

static mf_status modulate_forward(bench *b, mf_device *d) {
    mf_modulate_args args = modulate_args(b);
    return mf_modulate_forward(d, &args);
}

static mf_status modulate_backward(bench *b, mf_device *d) {
    mf_modulate_args args = modulate_args(b);
    return mf_modulate_backward(d, &args);
}

static mf_gate_args gate_args(const bench *b) {
    return (mf_gate_args){.type = b->type,
                          .n = b->tokens,
                          .h = HIDDEN,
                          .sample_rows = mf_ceil_div(b->tokens, SAMPLES),
                          .mod_ld = HIDDEN,
                          .gate = vectors(b, 0),
                          .in = typed(b, 0),
                          .delta = plain(b, 0),
                          .out = typed(b, 1)};
}

static mf_status gate_scale(bench *b, mf_device *d) {
    mf_gate_args args = gate_args(b);
    return mf_gate_scale(d, &args);
}

static mf_status gate_add(bench *b, mf_device *d) {
    mf_gate_args args = gate_args(b);
    return mf_gate_add(d, &args);
}

static mf_status gate_grads(bench *b, mf_device *d) {
    return mf_gate_grads(d, &(mf_gate_grads_args){.type = b->type,
                                                  .rows = mf_min(b->tokens, HIDDEN),
                                                  .cols = HIDDEN,
                                                  .g = plain(b, 0),
                                                  .g_ld = HIDDEN,
                                                  .w = typed(b, 0),
                                                  .w_ld = HIDDEN,
                                                  .gate = vectors(b, 0),
                                                  .dw = plain(b, 2),
                                                  .dw_ld = HIDDEN,
                                                  .dgate = sums(b, 0)});
}

static mf_activation_args activation_args(const bench *b, mf_activation_kind kind) {
    return (mf_activation_args){.type = b->type,
                                .kind = kind,
                                .n = b->tokens,
                                .width = FFN,
                                .gate = typed(b, 0),
                                .up = kind == MF_SILU ? typed(b, 1) : NULL,
                                .in_ld = FFN,
                                .out = typed(b, 2),
                                .d_out = typed(b, 3),
                                .d_gate = typed(b, 4),
                                .d_up = typed(b, 5)};
}

static mf_status silu_forward(bench *b, mf_device *d) {
    mf_activation_args args = activation_args(b, MF_SILU);
    return mf_activation_forward(d, &args);
}

static mf_status silu_backward(bench *b, mf_device *d) {
    mf_activation_args args = activation_args(b, MF_SILU);
    return mf_activation_backward(d, &args);
}

static mf_status gelu_forward(bench *b, mf_device *d) {
    mf_activation_args args = activation_args(b, MF_GELU);
    return mf_activation_forward(d, &args);
}

static mf_status gelu_backward(bench *b, mf_device *d) {
    mf_activation_args args = activation_args(b, MF_GELU);
    return mf_activation_backward(d, &args);
}

static mf_embed_args embed_args(const bench *b) {
    return (mf_embed_args){.type = b->type,
                           .n = b->tokens,
                           .h = HIDDEN,
                           .rows = SAMPLES,
                           .ids = b->ids.data,
                           .table = typed(b, 0),
                           .out = typed(b, 1),
                           .d_out = typed(b, 0),
                           .d_out_type = b->type,
                           .d_table = sums(b, 0)};
}

static mf_status embed_forward(bench *b, mf_device *d) {
    mf_embed_args args = embed_args(b);
    return mf_embed_forward(d, &args);
}

static mf_status embed_backward(bench *b, mf_device *d) {
    mf_embed_args args = embed_args(b);
    return mf_embed_backward(d, &args);
}

static mf_status grid_embed(bench *b, mf_device *d) {
    return mf_grid_embed(d, &(mf_grid_embed_args){.type = b->type,
                                                  .n = b->tokens,
                                                  .h = HIDDEN,
                                                  .sample_rows = b->tokens,
                                                  .y = plain(b, 0),
                                                  .bias = vectors(b, 3),
                                                  .table = {vectors(b, 0), vectors(b, 1), vectors(b, 2)},
                                                  .width = {HIDDEN / 2, HIDDEN / 4, HIDDEN / 4},
                                                  .index = b->ids.data,
                                                  .out = typed(b, 1)});
}

/* The rows' state stands in one vector after another of `sums`' room: SAMPLES * HIDDEN is more than tokens.
 */
static mf_xent_args xent_args(const bench *b) {
    return (mf_xent_args){.n = b->tokens,
                          .width = HIDDEN,
                          .labels = b->ids.data,
                          .logits = plain(b, 0),
                          .maximum = sums(b, 0),
                          .sum = sums(b, 1),
                          .label_logit = sums(b, 2),
                          .type = b->type,
                          .scale = 1,
                          .d_logits = typed(b, 1)};
}

static mf_status xent_begin(bench *b, mf_device *d) {
    mf_xent_args args = xent_args(b);
    return mf_xent_begin(d, &args);
}

static mf_status xent_update(bench *b, mf_device *d) {
    mf_xent_args args = xent_args(b);
    return mf_xent_update(d, &args);
}

static mf_status xent_grad(bench *b, mf_device *d) {
    mf_xent_args args = xent_args(b);
    return mf_xent_grad(d, &args);
}

static mf_status attention_delta(bench *b, mf_device *d) {
    mf_attention_args args = {.type = b->type,
                              .batch = 1,
                              .tokens = b->tokens,
                              .heads = HEADS,
                              .group = 1,
                              .kv_heads = HEADS,
                              .head_dim = HEAD_DIM,
                              .o = typed(b, 0),
                              .o_ld = HIDDEN,
                              .d_o = typed(b, 2),
                              .do_ld = HIDDEN};
    return mf_attention_delta(d, &args, plain(b, 1));
}

/* Of a quarter of the tokens, so that the parts have room. */
static mf_status attention_merge(bench *b, mf_device *d) {
    return mf_attention_merge(d, &(mf_attention_merge_args){.type = b->type,
                                                            .rows = b->tokens / (2 * PARTS),
                                                            .heads = HEADS,
                                                            .head_dim = HEAD_DIM,
                                                            .parts = PARTS,
                                                            .part = plain(b, 0),
                                                            .o = typed(b, 1),
                                                            .o_ld = HIDDEN});
}

static mf_status adamw(bench *b, mf_device *d) {
    return mf_adamw(d, &(mf_adamw_args){.n = elements(b),
                                        .step = 1,
                                        .lr = 1e-4f,
                                        .beta1 = 0.9f,
                                        .beta2 = 0.95f,
                                        .eps = 1e-8f,
                                        .grad_scale = 1,
                                        .grad = plain(b, 0),
                                        .master = plain(b, 1),
                                        .moment1 = plain(b, 2),
                                        .moment2 = plain(b, 3),
                                        .weights = b->type == MF_F32 ? NULL : typed(b, 1),
                                        .type = b->type});
}

static mf_status sum_squares(bench *b, mf_device *d) {
    double sum = 0;
    return mf_sum_squares(d, elements(b), plain(b, 0), &sum);
}

static mf_status squared_error(bench *b, mf_device *d) {
    double loss = 0;
    return mf_squared_error(
        d,
        &(mf_squared_error_args){
            .n = elements(b), .pred = plain(b, 0), .target = plain(b, 1), .scale = 1, .d_pred = plain(b, 2)},
        &loss);
}

static mf_status cast_from_f32(bench *b, mf_device *d) {
    return mf_convert(d, elements(b), plain(b, 0), MF_F32, typed(b, 1), b->type);
}

static mf_status cast_to_f32(bench *b, mf_device *d) {
    return mf_convert(d, elements(b), typed(b, 0), b->type, plain(b, 2), MF_F32);
}

static mf_status add(bench *b, mf_device *d) {
    return mf_add(d, elements(b), b->type, typed(b, 0), plain(b, 0), typed(b, 1));
}

static mf_status accumulate(bench *b, mf_device *d) {
    return mf_accumulate(d, b->tokens, HIDDEN, plain(b, 0), HIDDEN, plain(b, 2), HIDDEN);
}

static mf_status fill(bench *b, mf_device *d) { return mf_fill(d, elements(b), 1, plain(b, 2)); }

static mf_status fill_normal(bench *b, mf_device *d) {
    return mf_fill_normal(d, &(mf_normal_args){.rows = mf_min(b->tokens, HIDDEN),
                                               .cols = HIDDEN,
                                               .index_ld = HIDDEN,
                                               .seed = 1,
                                               .deviation = 1,
                                               .out = plain(b, 2)});
}

static mf_status zero(bench *b, mf_device *d) {
    return mf_zero(d, plain(b, 2), (size_t)elements(b) * sizeof(float));
}

/* Half of each row, as one of two ranks' heads. */
static mf_status copy_rows(bench *b, mf_device *d) {
    size_t element = mf_dtype_bytes(b->type), half = HIDDEN / 2 * element;
    return mf_copy_rows(d, b->tokens, half, typed(b, 1), half, typed(b, 0), 2 * half);
}

typedef mf_status task(bench *b, mf_device *device);

typedef enum types { ANY, F32_ALONE, BF16_ALONE } types;

typedef struct item {
    mf_operation operation;
    const char *what; /* of several of one operation */
    task *run;
    types measured;
} item;

static const item items[] = {
    {MF_DO_RMSNORM_FORWARD, "", rmsnorm_forward, ANY},
    {MF_DO_RMSNORM_BACKWARD, "", rmsnorm_backward, ANY},
    {MF_DO_ROPE_TABLE, "", rope_table, F32_ALONE},
    {MF_DO_ROPE, "", rope, ANY},
    {MF_DO_ROPE, "from f32", rope_from_f32, BF16_ALONE},
    {MF_DO_HEADNORM_FORWARD, "", headnorm_forward, ANY},
    {MF_DO_HEADNORM_BACKWARD, "", headnorm_backward, ANY},
    {MF_DO_BIAS_FORWARD, "", bias_forward, ANY},
    {MF_DO_BIAS_BACKWARD, "", bias_backward, ANY},
    {MF_DO_MODULATE_FORWARD, "", modulate_forward, ANY},
    {MF_DO_MODULATE_BACKWARD, "", modulate_backward, ANY},
    {MF_DO_GATE_SCALE, "", gate_scale, ANY},
    {MF_DO_GATE_ADD, "", gate_add, ANY},
    {MF_DO_GATE_GRADS, "", gate_grads, ANY},
    {MF_DO_ACTIVATION_FORWARD, "silu, gated", silu_forward, ANY},
    {MF_DO_ACTIVATION_BACKWARD, "silu, gated", silu_backward, ANY},
    {MF_DO_ACTIVATION_FORWARD, "gelu", gelu_forward, ANY},
    {MF_DO_ACTIVATION_BACKWARD, "gelu", gelu_backward, ANY},
    {MF_DO_EMBED_FORWARD, "", embed_forward, ANY},
    {MF_DO_EMBED_BACKWARD, "", embed_backward, ANY},
    {MF_DO_GRID_EMBED, "", grid_embed, ANY},
    {MF_DO_XENT_BEGIN, "", xent_begin, F32_ALONE},
    {MF_DO_XENT_UPDATE, "", xent_update, F32_ALONE},
    {MF_DO_XENT_GRAD, "", xent_grad, ANY},
    {MF_DO_ATTENTION_DELTA, "", attention_delta, ANY},
    {MF_DO_ATTENTION_MERGE, "", attention_merge, ANY},
    {MF_DO_ADAMW, "", adamw, ANY},
    {MF_DO_SUM_SQUARES, "", sum_squares, F32_ALONE},
    {MF_DO_SQUARED_ERROR, "", squared_error, F32_ALONE},
    {MF_DO_CAST, "from f32", cast_from_f32, BF16_ALONE},
    {MF_DO_CAST, "to f32", cast_to_f32, BF16_ALONE},
    {MF_DO_ADD, "", add, ANY},
    {MF_DO_ACCUMULATE, "", accumulate, F32_ALONE},
    {MF_DO_FILL, "", fill, F32_ALONE},
    {MF_DO_FILL_NORMAL, "", fill_normal, F32_ALONE},
    {MF_DO_ZERO, "", zero, F32_ALONE},
    {MF_DO_COPY_ROWS, "", copy_rows, ANY},
};

/* Mean of as many runs as fill the time, after one that warms up and one that tells how many. */
static double time_of(bench *b, task *run, const char *what) {
    double begin = 0;
    check(run(b, b->device), what);
    check(mf_device_finish(b->device, MF_QUEUE_COMPUTE), what);
    begin = mf_now_s();
    check(run(b, b->device), what);
    check(mf_device_finish(b->device, MF_QUEUE_COMPUTE), what);
    int turns = (int)fmax(1, fmin(10000, ceil(b->seconds / fmax(mf_now_s() - begin, 1e-6))));
    begin = mf_now_s();
    for (int i = 0; i < turns; i++) check(run(b, b->device), what);
    check(mf_device_finish(b->device, MF_QUEUE_COMPUTE), what);
    return (mf_now_s() - begin) / turns;
}

static double bytes_as_seconds(const mf_costs *costs, mf_operation operation, mf_dtype type, double bytes) {
    (void)costs, (void)operation, (void)type;
    return bytes;
}

static double bytes_of(bench *b, const item *timed) {
    mf_costs costs = {.touch_s = bytes_as_seconds};
    mf_clock_hold();
    mf_costs_set(&costs);
    check(timed->run(b, b->dry), mf_operation_name(timed->operation));
    mf_costs_set(NULL);
    double bytes = mf_now_s();
    mf_clock_release();
    return bytes;
}

static void measure_item(bench *b, const item *timed) {
    const char *name = mf_operation_name(timed->operation);
    double bytes = bytes_of(b, timed), seconds = time_of(b, timed->run, name), gbs = bytes / seconds * 1e-9;
    printf("%-20s %-12s %-5s %9.1f %9.3f %9.1f %6.2f\n", name, timed->what, mf_dtype_name(b->type),
           bytes * 1e-6, seconds * 1e3, gbs, gbs / b->copy_gbs);
    fflush(stdout);
    json_array_append_new(b->operations,
                          json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f}", "operation", name, "what",
                                    timed->what, "type", mf_dtype_name(b->type), "bytes", bytes, "seconds",
                                    seconds, "gb_per_s", gbs, "of_copy", gbs / b->copy_gbs));
}

static mf_status product(bench *b, mf_device *d) {
    return mf_gemm(d, &(mf_gemm_args){.m = b->tokens,
                                      .n = HIDDEN,
                                      .k = HIDDEN,
                                      .a = {typed(b, 0), HIDDEN, b->type, false},
                                      .b = {typed(b, 1), HIDDEN, b->type, true},
                                      .c = typed(b, 2),
                                      .c_ld = HIDDEN,
                                      .c_type = b->type});
}

static mf_status product_up(bench *b, mf_device *d) {
    return mf_gemm(d, &(mf_gemm_args){.m = b->tokens,
                                      .n = FFN,
                                      .k = HIDDEN,
                                      .a = {typed(b, 0), HIDDEN, b->type, false},
                                      .b = {typed(b, 1), HIDDEN, b->type, true},
                                      .c = typed(b, 2),
                                      .c_ld = FFN,
                                      .c_type = b->type});
}

static mf_status product_down(bench *b, mf_device *d) {
    return mf_gemm(d, &(mf_gemm_args){.m = b->tokens,
                                      .n = HIDDEN,
                                      .k = FFN,
                                      .a = {typed(b, 0), FFN, b->type, false},
                                      .b = {typed(b, 1), FFN, b->type, true},
                                      .c = plain(b, 2),
                                      .c_ld = HIDDEN,
                                      .c_type = MF_F32});
}

static mf_status product_of_gradients(bench *b, mf_device *d) {
    return mf_gemm(d, &(mf_gemm_args){.m = FFN,
                                      .n = HIDDEN,
                                      .k = b->tokens,
                                      .a = {typed(b, 0), FFN, b->type, true},
                                      .b = {typed(b, 1), HIDDEN, b->type, false},
                                      .c = plain(b, 2),
                                      .c_ld = HIDDEN,
                                      .c_type = MF_F32,
                                      .accumulate = true});
}

static void measure_product(bench *b, const char *what, task *run) {
    double before = mf_device_flops(b->dry);
    check(run(b, b->dry), what);
    double flops = mf_device_flops(b->dry) - before, seconds = time_of(b, run, what);
    printf("%-36s %-5s %9.1f %9.3f %9.3f\n", what, mf_dtype_name(b->type), flops * 1e-9, seconds * 1e3,
           flops / seconds * 1e-12);
    fflush(stdout);
    json_array_append_new(b->products, json_pack("{s:s, s:s, s:f, s:f, s:f}", "product", what, "type",
                                                 mf_dtype_name(b->type), "flops", flops, "seconds", seconds,
                                                 "tflop_per_s", flops / seconds * 1e-12));
}

static void take(bench *b, mf_buffer *out, size_t bytes, const char *what) {
    check(mf_buffer_alloc(b->memory, MF_WORKSPACE, bytes, what, out), what);
}

static void fill_with_normal(bench *b, const char *name, int64_t rows, float *out) {
    check(mf_fill_normal(b->device, &(mf_normal_args){.rows = rows,
                                                      .cols = HIDDEN,
                                                      .index_ld = HIDDEN,
                                                      .seed = 1,
                                                      .key = mf_random_key(name),
                                                      .deviation = 1,
                                                      .out = out}),
          name);
}

static void make_ids(bench *b) {
    mf_buffer host = {0};
    mf_memory *memory = NULL;
    size_t bytes = (size_t)b->tokens * 3 * sizeof(int32_t);
    check(mf_memory_create(NULL, &memory), "memory");
    check(mf_buffer_alloc(memory, MF_WORKSPACE, bytes, "ids", &host), "ids");
    take(b, &b->ids, bytes, "ids");
    for (int64_t i = 0; i < b->tokens * 3; i++)
        ((int32_t *)host.data)[i] = (int32_t)(mf_random_u64(1, 2, (uint64_t)i) % SAMPLES);
    check(mf_copy(b->device, MF_QUEUE_COMPUTE, b->ids.data, host.data, bytes), "ids");
    mf_buffer_free(memory, &host);
    mf_memory_destroy(memory);
}

static void make_data(bench *b) {
    size_t bytes = (size_t)room(b) * sizeof(float), vectors_bytes = 4 * SAMPLES * HIDDEN * sizeof(float);
    for (int i = 0; i < TYPED; i++) take(b, &b->typed[i], bytes, "rows");
    for (int i = 0; i < PLAIN; i++) take(b, &b->plain[i], bytes, "rows in f32");
    take(b, &b->vectors, vectors_bytes, "vectors");
    take(b, &b->sums, vectors_bytes, "sums");
    fill_with_normal(b, "vectors", 4 * SAMPLES, b->vectors.data);
    check(mf_zero(b->device, b->sums.data, vectors_bytes), "sums");
    fill_with_normal(b, "rows", room(b) / HIDDEN, plain(b, 0));
    make_ids(b);
}

static void begin_type(bench *b, mf_dtype type) {
    size_t bytes = (size_t)room(b) * sizeof(float);
    b->type = type;
    for (int i = 0; i < TYPED; i++)
        check(mf_convert(b->device, room(b), plain(b, 0), MF_F32, typed(b, i), type), "rows");
    check(mf_copy(b->device, MF_QUEUE_COMPUTE, plain(b, 1), plain(b, 0), bytes), "rows");
    for (int i = 2; i < PLAIN; i++) check(mf_zero(b->device, plain(b, i), bytes), "rows");
}

static mf_status copy_all(bench *b, mf_device *d) {
    return mf_copy(d, MF_QUEUE_COMPUTE, plain(b, 2), plain(b, 0), (size_t)elements(b) * sizeof(float));
}

static void measure_operations(bench *b) {
    b->copy_gbs = 2 * (double)elements(b) * sizeof(float) / time_of(b, copy_all, "copy") * 1e-9;
    printf("%s, %lld tokens of %d; a copy moves %.1f GB/s\n", b->name, (long long)b->tokens, HIDDEN,
           b->copy_gbs);
    printf("%-20s %-12s %-5s %9s %9s %9s %6s\n", "operation", "", "type", "MB", "ms", "GB/s", "share");
    for (int type = MF_F32; type <= MF_BF16; type++) {
        begin_type(b, (mf_dtype)type);
        for (size_t i = 0; i < sizeof items / sizeof *items; i++)
            if (items[i].measured != (type == MF_F32 ? BF16_ALONE : F32_ALONE)) measure_item(b, &items[i]);
    }
}

static void measure_products(bench *b) {
    printf("%-36s %-5s %9s %9s %9s\n", "product", "type", "GFLOP", "ms", "TFLOP/s");
    for (int type = MF_F32; type <= MF_BF16; type++) {
        begin_type(b, (mf_dtype)type);
        measure_product(b, "tokens x 4096 x 4096", product);
        measure_product(b, "tokens x 2752 x 4096", product_up);
        measure_product(b, "tokens x 4096 x 2752, to f32", product_down);
        measure_product(b, "2752 x 4096 x tokens, added to f32", product_of_gradients);
    }
}

static void write_json(bench *b, const char *path) {
    json_t *all = json_pack("{s:s, s:I, s:i, s:f, s:O, s:O}", "device", b->name, "tokens",
                            (json_int_t)b->tokens, "hidden", HIDDEN, "copy_gb_per_s", b->copy_gbs,
                            "operations", b->operations, "products", b->products);
    if (!all || json_dump_file(all, path, JSON_INDENT(1))) {
        fprintf(stderr, "bench_kernels: %s can't be written\n", path);
        exit(1);
    }
    json_decref(all);
}

static void open_devices(bench *b, mf_memory **nowhere) {
    check(mf_device_memory_create(b->name, &b->memory), b->name);
    check(mf_device_create(b->name, b->memory, 2, &b->device), b->name);
    check(mf_device_memory_create("dry", nowhere), "dry");
    check(mf_device_create("dry", *nowhere, 2, &b->dry), "dry");
}

static void close_devices(bench *b, mf_memory *nowhere) {
    mf_buffer *single[] = {&b->vectors, &b->sums, &b->ids};
    for (int i = 0; i < TYPED; i++) mf_buffer_free(b->memory, &b->typed[i]);
    for (int i = 0; i < PLAIN; i++) mf_buffer_free(b->memory, &b->plain[i]);
    for (int i = 0; i < 3; i++) mf_buffer_free(b->memory, single[i]);
    mf_device_destroy(b->device);
    mf_device_destroy(b->dry);
    mf_memory_destroy(b->memory);
    mf_memory_destroy(nowhere);
    json_decref(b->operations);
    json_decref(b->products);
}

static int usage(void) {
    fputs("bench_kernels [--device NAME] [--tokens N] [--seconds S] [--json FILE]\n", stderr);
    return 2;
}

int main(int argc, char **argv) {
    bench b = {.name = "cpu", .tokens = 16384, .seconds = 0.2};
    const char *json = NULL;
    mf_memory *nowhere = NULL;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) return usage();
        if (!strcmp(argv[i], "--device"))
            b.name = argv[i + 1];
        else if (!strcmp(argv[i], "--tokens"))
            b.tokens = atoll(argv[i + 1]);
        else if (!strcmp(argv[i], "--seconds"))
            b.seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--json"))
            json = argv[i + 1];
        else
            return usage();
    }
    if (b.tokens < SAMPLES || b.tokens > SAMPLES * HIDDEN) {
        fprintf(stderr, "bench_kernels: --tokens must lie from %d to %d\n", SAMPLES, SAMPLES * HIDDEN);
        return 2;
    }
    b.operations = json_array(), b.products = json_array();
    open_devices(&b, &nowhere);
    make_data(&b);
    measure_operations(&b);
    measure_products(&b);
    if (json) write_json(&b, json);
    close_devices(&b, nowhere);
    return 0;
}
