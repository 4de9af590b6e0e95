/* calibrate_runs.c: what is timed: every operation that takes a share of a step worth the name, as the model
 * calls it, and every collective. */
#include "plan/calibrate.h"

#include <string.h>

/* Sizes at which a device of its kind has something to do, and arenas beyond its caches. */
static const mf_bench_sizes of_cpu = {.arena_bytes = 160 << 20,
                                      .pace_side = 768,
                                      .width = 256,
                                      .head = 64,
                                      .heads = 4,
                                      .thin = {1024, 1024, 64},
                                      .sides = {6, {64, 128, 256, 512, 1024, 2048}},
                                      .queries = {5, {64, 256, 1024, 2048, 4096}},
                                      .rows = {5, {16, 128, 1024, 8192, 32768}},
                                      .payloads = {4, {1 << 12, 1 << 16, 1 << 20, 1 << 24}}},
                            of_gpu = {.arena_bytes = 1 << 30,
                                      .pace_side = 4096,
                                      .width = 4096,
                                      .head = 128,
                                      .heads = 16,
                                      .thin = {8192, 8192, 64},
                                      .sides = {6, {128, 512, 1024, 2048, 4096, 8192}},
                                      .queries = {5, {128, 1024, 4096, 8192, 16384}},
                                      .rows = {5, {1, 16, 128, 1024, 8192}},
                                      .payloads = {5, {1 << 12, 1 << 16, 1 << 20, 1 << 24, 1 << 28}}};

/* As f32, and as two bf16, a number near 1/128. */
static const uint32_t small_number = 0x3c003c00;

static mf_status open_devices(mf_world *world, const char *name, int threads, mf_workbench *b) {
    char own[MF_DEVICE_NAME];
    mf_device_name_of_rank(name, mf_world_local_rank(world), own);
    b->sizes = mf_device_is_gpu(name) ? &of_gpu : &of_cpu;
    MF_TRY(mf_device_memory_create(own, &b->memory));
    MF_TRY(mf_device_create(own, b->memory, threads, &b->device));
    MF_TRY(mf_device_memory_create("dry", &b->dry_memory));
    MF_TRY(mf_device_create("dry", b->dry_memory, threads, &b->dry));
    mf_world_use(world, b->device);
    return MF_OK;
}

mf_status mf_workbench_open(mf_world *world, const char *device, int threads, bool arenas, mf_workbench *b) {
    mf_status status = MF_OK;
    int ranks[MF_CALIBRATE_RANKS];
    for (int i = 0; i < mf_world_size(world) && i < MF_CALIBRATE_RANKS; i++) ranks[i] = i;
    MF_GO(open_devices(world, device, threads, b));
    MF_GO(mf_comm_create(world, "ranks", ranks, mf_world_size(world), &b->all));
    size_t arena = arenas ? (size_t)b->sizes->arena_bytes : 0;
    MF_GO(mf_buffer_alloc(b->memory, MF_WORKSPACE, arena, "calibration", &b->in.buffer));
    MF_GO(mf_buffer_alloc(b->memory, MF_WORKSPACE, arena, "calibration", &b->out.buffer));
    float value;
    memcpy(&value, &small_number, sizeof value);
    MF_GO(mf_fill(b->device, (int64_t)arena / 4, value, b->in.buffer.data));
    MF_GO(mf_fill(b->device, (int64_t)arena / 4, value, b->out.buffer.data));
    MF_GO(mf_device_finish(b->device, MF_QUEUE_COMPUTE));
fail:
    return status;
}

void mf_workbench_close(mf_workbench *b) {
    mf_comm_destroy(b->all);
    if (b->memory) mf_buffer_free(b->memory, &b->in.buffer);
    if (b->memory) mf_buffer_free(b->memory, &b->out.buffer);
    mf_device_destroy(b->dry);
    mf_device_destroy(b->device);
    mf_memory_destroy(b->dry_memory);
    mf_memory_destroy(b->memory);
    *b = (mf_workbench){0};
}

/* The next so many bytes; from the start again where the end is near. */
static void *next(mf_arena *arena, double elements, size_t each) {
    size_t bytes = ((size_t)elements * each + 63) / 64 * 64;
    if (arena->at + bytes > arena->buffer.bytes) arena->at = 0;
    void *data = (char *)arena->buffer.data + arena->at;
    arena->at += bytes;
    return data;
}

static void *in_f32(mf_workbench *b, double n) { return next(&b->in, n, 4); }
static void *out_f32(mf_workbench *b, double n) { return next(&b->out, n, 4); }
static void *in_of(mf_workbench *b, double n, mf_dtype type) { return next(&b->in, n, mf_dtype_bytes(type)); }
static void *out_of(mf_workbench *b, double n, mf_dtype type) {
    return next(&b->out, n, mf_dtype_bytes(type));
}

/* What the result of a product may be: f32, added to f32, bf16. */
enum { RESULT_F32 = 1, RESULT_ADDED, RESULT_BF16 };

static mf_status multiply(mf_workbench *b, mf_device *device, mf_dtype type, int form, int result,
                          const double *size) {
    int64_t m = (int64_t)size[0], n = (int64_t)size[1], k = (int64_t)size[2];
    bool ta = form == MF_FORM_TN, tb = form == MF_FORM_NT;
    mf_dtype c_type = result == RESULT_BF16 ? MF_BF16 : MF_F32;
    return mf_gemm(device, &(mf_gemm_args){.m = m,
                                           .n = n,
                                           .k = k,
                                           .a = {in_of(b, size[0] * size[2], type), ta ? m : k, type, ta},
                                           .b = {in_of(b, size[1] * size[2], type), tb ? k : n, type, tb},
                                           .c = out_of(b, size[0] * size[1], c_type),
                                           .c_ld = n,
                                           .c_type = c_type,
                                           .accumulate = result == RESULT_ADDED});
}

static mf_status gemm(mf_workbench *b, mf_device *device, const mf_timed *t, const double *size) {
    return multiply(b, device, t->type, t->what, RESULT_F32, size);
}

static mf_status gemm_result(mf_workbench *b, mf_device *device, const mf_timed *t, const double *size) {
    return multiply(b, device, t->type, MF_FORM_NN, (int)size[0], b->sizes->thin);
}

static mf_status attention(mf_workbench *b, mf_device *device, const mf_timed *t, const double *size) {
    int64_t d = (int64_t)size[0], tokens = (int64_t)size[1], ld = b->sizes->heads * d;
    bool backward = t->what == MF_DO_ATTENTION_BACKWARD;
    double elements = size[0] * size[1] * b->sizes->heads, rows = size[1] * b->sizes->heads;
    mf_query_chunk queries = {.rows = tokens};
    mf_key_chunk keys = {.rows = tokens,
                         .k = in_of(b, elements, t->type),
                         .v = in_of(b, elements, t->type),
                         .ld = ld,
                         .batch_ld = tokens * ld,
                         .dk = backward ? out_f32(b, elements) : NULL,
                         .dv = backward ? out_f32(b, elements) : NULL,
                         .grad_ld = ld,
                         .grad_batch_ld = tokens * ld};
    mf_attention_args a = {.type = t->type,
                           .batch = 1,
                           .tokens = tokens,
                           .heads = b->sizes->heads,
                           .group = 1,
                           .kv_heads = b->sizes->heads,
                           .head_dim = d,
                           .scale = 0.125f,
                           .query_chunks = 1,
                           .key_chunks = 1,
                           .queries = &queries,
                           .keys = &keys,
                           .q = in_of(b, elements, t->type),
                           .q_ld = ld,
                           .o = out_of(b, elements, t->type),
                           .o_ld = ld,
                           .lse = backward ? in_f32(b, rows) : out_f32(b, rows),
                           .lse_ld = b->sizes->heads};
    if (!backward) return mf_attention_forward(device, &a);
    a.d_o = in_of(b, elements, t->type);
    a.do_ld = ld;
    a.delta = in_f32(b, rows);
    a.dq = out_f32(b, elements);
    a.dq_ld = ld;
    return mf_attention_backward(device, &a);
}

static mf_status attention_delta(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    double n = rows * b->sizes->width;
    mf_attention_args a = {.type = type,
                           .batch = 1,
                           .tokens = (int64_t)rows,
                           .heads = b->sizes->width / b->sizes->head,
                           .group = 1,
                           .kv_heads = b->sizes->width / b->sizes->head,
                           .head_dim = b->sizes->head,
                           .o = in_of(b, n, type),
                           .o_ld = b->sizes->width,
                           .d_o = in_of(b, n, type),
                           .do_ld = b->sizes->width};
    return mf_attention_delta(device, &a, out_f32(b, n / b->sizes->head));
}

static mf_status rmsnorm_forward(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    double n = rows * b->sizes->width;
    return mf_rmsnorm_forward(device, (int64_t)rows, b->sizes->width, 1e-6f, type, in_of(b, n, type),
                              in_f32(b, b->sizes->width), out_of(b, n, type));
}

static mf_status rmsnorm_backward(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    double n = rows * b->sizes->width;
    return mf_rmsnorm_backward(device, &(mf_rmsnorm_grad){.n = (int64_t)rows,
                                                          .h = b->sizes->width,
                                                          .eps = 1e-6f,
                                                          .type = type,
                                                          .x = in_of(b, n, type),
                                                          .weight = in_f32(b, b->sizes->width),
                                                          .dy = in_f32(b, n),
                                                          .dx = out_f32(b, n),
                                                          .dweight = out_f32(b, b->sizes->width)});
}

static mf_status rope(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    double n = rows * b->sizes->width;
    return mf_rope(device, &(mf_rope_args){.type = type,
                                           .batch = 1,
                                           .tokens = (int64_t)rows,
                                           .heads = b->sizes->width / b->sizes->head,
                                           .head_dim = b->sizes->head,
                                           .cos_sin = in_f32(b, rows * b->sizes->head),
                                           .in = in_of(b, n, type),
                                           .in_ld = b->sizes->width,
                                           .out = out_of(b, n, type),
                                           .out_ld = b->sizes->width});
}

static mf_activation_args gated(mf_workbench *b, mf_dtype type, double rows) {
    double n = rows * b->sizes->width;
    return (mf_activation_args){.type = type,
                                .n = (int64_t)rows,
                                .width = b->sizes->width,
                                .gate = in_of(b, n, type),
                                .up = in_of(b, n, type),
                                .in_ld = b->sizes->width,
                                .out = out_of(b, n, type)};
}

static mf_status activation_forward(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    mf_activation_args a = gated(b, type, rows);
    return mf_activation_forward(device, &a);
}

static mf_status activation_backward(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    mf_activation_args a = gated(b, type, rows);
    a.d_out = in_of(b, rows * b->sizes->width, type);
    a.d_gate = out_of(b, rows * b->sizes->width, type);
    a.d_up = out_of(b, rows * b->sizes->width, type);
    return mf_activation_backward(device, &a);
}

/* Logits of as many columns as a tile of them has. */
static mf_xent_args logits(mf_workbench *b, mf_dtype type, double rows) {
    return (mf_xent_args){.type = type,
                          .n = (int64_t)rows,
                          .width = b->sizes->width,
                          .first = 1 << 30, /* after every label: they are small numbers read as integers */
                          .labels = in_f32(b, rows),
                          .logits = out_f32(b, rows * b->sizes->width),
                          .maximum = out_f32(b, rows),
                          .sum = out_f32(b, rows),
                          .label_logit = out_f32(b, rows),
                          .scale = 1};
}

static mf_status xent_update(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    mf_xent_args a = logits(b, type, rows);
    return mf_xent_update(device, &a);
}

static mf_status xent_grad(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    mf_xent_args a = logits(b, type, rows);
    a.d_logits = out_of(b, rows * b->sizes->width, type);
    return mf_xent_grad(device, &a);
}

static mf_status adamw(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    double n = rows * b->sizes->width;
    return mf_adamw(device, &(mf_adamw_args){.n = (int64_t)n,
                                             .step = 1,
                                             .lr = 1e-4f,
                                             .beta1 = 0.9f,
                                             .beta2 = 0.95f,
                                             .eps = 1e-8f,
                                             .weight_decay = 0.1f,
                                             .grad_scale = 1,
                                             .grad = in_f32(b, n),
                                             .master = out_f32(b, n),
                                             .moment1 = out_f32(b, n),
                                             .moment2 = out_f32(b, n),
                                             .weights = type == MF_F32 ? NULL : out_of(b, n, type),
                                             .type = type});
}

static mf_status sum_squares(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    double sum = 0;
    (void)type;
    return mf_sum_squares(device, (int64_t)rows * b->sizes->width, in_f32(b, rows * b->sizes->width), &sum);
}

static mf_status cast(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    double n = rows * b->sizes->width;
    return mf_convert(device, (int64_t)n, in_f32(b, n), MF_F32, out_of(b, n, type), type);
}

static mf_status add(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    double n = rows * b->sizes->width;
    return mf_add(device, (int64_t)n, type, in_of(b, n, type), in_f32(b, n), out_of(b, n, type));
}

static mf_status accumulate(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    double n = rows * b->sizes->width;
    (void)type;
    return mf_accumulate(device, (int64_t)rows, b->sizes->width, in_f32(b, n), b->sizes->width, out_f32(b, n),
                         b->sizes->width);
}

static mf_status zero(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    (void)type;
    return mf_zero(device, out_f32(b, rows * b->sizes->width),
                   (size_t)(rows * b->sizes->width) * sizeof(float));
}

static mf_status copy_rows(mf_workbench *b, mf_device *device, mf_dtype type, double rows) {
    size_t bytes = (size_t)b->sizes->width * sizeof(float);
    (void)type;
    return mf_copy_rows(device, (int64_t)rows, bytes, out_f32(b, rows * b->sizes->width), bytes,
                        in_f32(b, rows * b->sizes->width), bytes);
}

/* Operations whose time follows from what they read and write: on so many rows of one width. */
static const struct touching {
    mf_operation operation;
    bool typed; /* else of f32 alone */
    mf_status (*run)(mf_workbench *b, mf_device *device, mf_dtype type, double rows);
} touching[] = {
    {MF_DO_ATTENTION_DELTA, true, attention_delta},
    {MF_DO_RMSNORM_FORWARD, true, rmsnorm_forward},
    {MF_DO_RMSNORM_BACKWARD, true, rmsnorm_backward},
    {MF_DO_ROPE, true, rope},
    {MF_DO_ACTIVATION_FORWARD, true, activation_forward},
    {MF_DO_ACTIVATION_BACKWARD, true, activation_backward},
    {MF_DO_XENT_UPDATE, false, xent_update},
    {MF_DO_XENT_GRAD, true, xent_grad},
    {MF_DO_ADAMW, true, adamw},
    {MF_DO_SUM_SQUARES, false, sum_squares},
    {MF_DO_CAST, true, cast},
    {MF_DO_ADD, true, add},
    {MF_DO_ACCUMULATE, false, accumulate},
    {MF_DO_ZERO, false, zero},
    {MF_DO_COPY_ROWS, false, copy_rows},
};
enum { TOUCHING = sizeof touching / sizeof *touching };

static const struct touching *touching_of(int operation) {
    for (int i = 0; i < TOUCHING; i++)
        if ((int)touching[i].operation == operation) return &touching[i];
    return NULL;
}

/* Costs that add up what they are asked for instead of telling a time. */
static double sum_gemm(const mf_costs *c, const mf_gemm_args *a) {
    (void)c;
    return 2.0 * (double)a->m * (double)a->n * (double)a->k;
}
static double sum_attention(const mf_costs *c, const mf_attention_args *a, bool backward, double pairs) {
    (void)c;
    return (backward ? 10.0 : 4.0) * (double)a->head_dim * pairs;
}
static double sum_touch(const mf_costs *c, mf_operation operation, mf_dtype type, double bytes) {
    (void)c, (void)operation, (void)type;
    return bytes;
}
static double sum_transfer(const mf_costs *c, const mf_transfer_cost *t) {
    (void)c, (void)t;
    return 0;
}

/* The dry device's clock counts in FLOPs, or bytes. */
static mf_status amount_of(mf_workbench *b, const mf_timed *t, const double *size, double *amount) {
    const mf_costs costs = {
        .gemm_s = sum_gemm, .attention_s = sum_attention, .touch_s = sum_touch, .transfer_s = sum_transfer};
    mf_costs_set(&costs);
    mf_clock_hold();
    mf_status status = t->run(b, b->dry, t, size);
    *amount = mf_now_s();
    mf_clock_release();
    mf_costs_set(NULL);
    return status;
}

mf_status mf_timed_amount(mf_workbench *b, const mf_timed *t, const double *size, double *amount) {
    *amount = t->amount < 0 ? size[0] : t->amount;
    return t->amount == 0 ? amount_of(b, t, size, amount) : MF_OK;
}

/* The size is a number of rows. */
static mf_status touch(mf_workbench *b, mf_device *device, const mf_timed *t, const double *size) {
    return touching_of(t->what)->run(b, device, t->type, size[0]);
}

static mf_status transfer(mf_workbench *b, mf_device *device, const mf_timed *t, const double *size) {
    size_t bytes = (size_t)size[0], offsets[MF_CALIBRATE_RANKS + 1] = {0};
    int64_t shares[MF_CALIBRATE_RANKS + 1] = {0}, count = (int64_t)bytes / 4;
    int ranks = mf_comm_size(b->all), rank = mf_comm_rank(b->all);
    void *in = next(&b->in, size[0], 1), *out = next(&b->out, size[0], 1);
    (void)device;
    for (int r = 0; r <= ranks; r++) {
        shares[r] = count * r / ranks;
        offsets[r] = 4 * (size_t)shares[r];
    }
    switch (t->what) {
    case MF_OP_BROADCAST:
        return mf_broadcast(b->all, out, bytes, 0, NULL);
    case MF_OP_ALLGATHER:
        return mf_allgather(b->all, (char *)in + offsets[rank], out, offsets, NULL);
    case MF_OP_REDUCE:
        return mf_reduce(b->all, out, count, 0, NULL);
    case MF_OP_ALLREDUCE:
        return mf_allreduce(b->all, out, count, MF_F32, NULL);
    case MF_OP_SHIFT:
        return mf_shift(b->all, in, bytes, out, bytes, NULL);
    case MF_OP_REDUCE_SCATTER:
        return mf_reduce_scatter(b->all, out, shares, MF_F32, NULL);
    default:
        return mf_alltoall(b->all, in, offsets, out, offsets, NULL);
    }
}

static const mf_grid_axis results = {3, {1, 2, 3}}, heads = {3, {32, 64, 128}};

static void list_products(const mf_bench_sizes *sizes, mf_rates *r, mf_dtype type, mf_timed *out, int *n) {
    for (int form = MF_FORM_NN; form <= MF_FORM_TN; form++)
        out[(*n)++] = (mf_timed){.grid = &r->gemm[type][form],
                                 .run = gemm,
                                 .what = form,
                                 .type = type,
                                 .axes = 3,
                                 .axis = {sizes->sides, sizes->sides, sizes->sides}};
    out[(*n)++] = (mf_timed){.grid = &r->gemm_result[type],
                             .run = gemm_result,
                             .type = type,
                             .amount = sizes->thin[0] * sizes->thin[1],
                             .axes = 1,
                             .axis = {results}};
    if (type == MF_F32) out[*n - 1].axis[0].points = RESULT_ADDED;
}

static void list_type(const mf_bench_sizes *sizes, mf_rates *r, mf_dtype type, mf_timed *out, int *n) {
    list_products(sizes, r, type, out, n);
    for (int backward = 0; backward < 2; backward++)
        out[(*n)++] = (mf_timed){.grid = &r->attention[type][backward],
                                 .run = attention,
                                 .what = backward ? MF_DO_ATTENTION_BACKWARD : MF_DO_ATTENTION_FORWARD,
                                 .type = type,
                                 .axes = 2,
                                 .axis = {heads, sizes->queries}};
    for (int i = 0; i < TOUCHING; i++)
        if (touching[i].typed || type == MF_F32)
            out[(*n)++] = (mf_timed){.grid = &r->touch[touching[i].operation][type],
                                     .run = touch,
                                     .what = (int)touching[i].operation,
                                     .type = type,
                                     .by_amount = true,
                                     .axes = 1,
                                     .axis = {sizes->rows}};
}

int mf_timed_all(const mf_workbench *b, mf_rates *r, mf_timed out[MF_TIMED_MOST]) {
    int n = 0;
    list_type(b->sizes, r, MF_F32, out, &n);
    list_type(b->sizes, r, MF_BF16, out, &n);
    for (int op = MF_OP_BROADCAST; mf_comm_size(b->all) > 1 && op <= MF_OP_ALLTOALL; op++)
        out[n++] = (mf_timed){.grid = &r->transfer[op],
                              .run = transfer,
                              .what = op,
                              .amount = -1,
                              .axes = 1,
                              .axis = {b->sizes->payloads}};
    return n;
}
