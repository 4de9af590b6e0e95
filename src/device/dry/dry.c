/* dry.c: devices that compute nothing. They take the workspace that the operations of the CPU, or of a GPU,
 * would take, to the byte, move the thread's clock by what its costs say, and leave values as they are: what
 * they report of them is zero. Buffers may be addresses that nobody can read. */
#include "device/cpu/cpu.h"
#include "device/dry/dry.h"

/* The workspace of the operation `member`, of the device in whose place this one runs. */
#define RESERVE(member, ...)                                                                                 \
    (device->ops->workspaces->member ? device->ops->workspaces->member(device, __VA_ARGS__) : MF_OK)

/* An operation that reads and writes `bytes`, some more than once. */
static mf_status touch(mf_operation operation, mf_dtype type, double bytes) {
    const mf_costs *costs = mf_costs_get();
    if (costs) mf_clock_advance(costs->touch_s(costs, operation, type, bytes));
    return MF_OK;
}

static double elements(int64_t rows, int64_t width) { return (double)rows * (double)width; }
static double bytes_of(mf_dtype type) { return (double)mf_dtype_bytes(type); }

static mf_status gemm(mf_device *device, const mf_gemm_args *args) {
    const mf_costs *costs = mf_costs_get();
    if (costs) mf_clock_advance(costs->gemm_s(costs, args));
    return RESERVE(gemm, args);
}

static mf_status attention(mf_device *device, const mf_attention_args *args, bool backward) {
    const mf_costs *costs = mf_costs_get();
    if (costs) mf_clock_advance(costs->attention_s(costs, args, backward, mf_attention_pairs_met(args)));
    return RESERVE(attention, args, backward);
}

static mf_status attention_forward(mf_device *device, const mf_attention_args *args) {
    return attention(device, args, false);
}

static mf_status attention_backward(mf_device *device, const mf_attention_args *args) {
    return attention(device, args, true);
}

static mf_status attention_delta(mf_device *device, const mf_attention_args *args, float *delta) {
    (void)device, (void)delta;
    return touch(MF_DO_ATTENTION_DELTA, args->type,
                 2 * elements(args->batch * args->tokens, args->heads * args->head_dim) *
                     bytes_of(args->type));
}

static mf_status attention_merge(mf_device *device, const mf_attention_merge_args *args) {
    double values = elements(args->rows, args->heads * args->head_dim);
    MF_TRY(RESERVE(attention_merge, args));
    return touch(MF_DO_ATTENTION_MERGE, args->type, values * (4 * args->parts + 2 * bytes_of(args->type)));
}

static mf_status rmsnorm_forward(mf_device *device, int64_t n, int64_t h, float eps, mf_dtype type,
                                 const void *x, const float *weight, void *y) {
    (void)device, (void)eps, (void)x, (void)weight, (void)y;
    return touch(MF_DO_RMSNORM_FORWARD, type, 2 * elements(n, h) * bytes_of(type));
}

static mf_status rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *args) {
    MF_TRY(RESERVE(rmsnorm_backward, args));
    return touch(MF_DO_RMSNORM_BACKWARD, args->type,
                 elements(args->n, args->h) * (2 * (bytes_of(args->type) + 4) + 8));
}

static mf_status rope(mf_device *device, const mf_rope_args *args) {
    double in = args->in_f32 ? 4 : bytes_of(args->type);
    (void)device;
    return touch(MF_DO_ROPE, args->type,
                 elements(args->batch * args->tokens, args->heads * args->head_dim) *
                     (in + bytes_of(args->type)));
}

static mf_status rope_table(mf_device *device, const mf_rope_table_args *args) {
    (void)device;
    return touch(MF_DO_ROPE_TABLE, MF_F32, 4 * elements(args->rows, args->head_dim));
}

static mf_status headnorm_forward(mf_device *device, const mf_headnorm_args *args) {
    (void)device;
    return touch(MF_DO_HEADNORM_FORWARD, args->type,
                 2 * elements(args->rows, args->heads * args->head_dim) * bytes_of(args->type));
}

static mf_status headnorm_backward(mf_device *device, const mf_headnorm_args *args) {
    MF_TRY(RESERVE(headnorm_backward, args));
    return touch(MF_DO_HEADNORM_BACKWARD, args->type,
                 3 * elements(args->rows, args->heads * args->head_dim) * bytes_of(args->type));
}

static mf_status bias_forward(mf_device *device, const mf_bias_args *args) {
    (void)device;
    return touch(MF_DO_BIAS_FORWARD, args->type,
                 2 * elements(args->rows, args->width) * bytes_of(args->type));
}

static mf_status bias_backward(mf_device *device, const mf_bias_args *args) {
    MF_TRY(RESERVE(bias_backward, args));
    return touch(MF_DO_BIAS_BACKWARD, args->type, elements(args->rows, args->width) * bytes_of(args->type));
}

static mf_status modulate_forward(mf_device *device, const mf_modulate_args *args) {
    (void)device;
    return touch(MF_DO_MODULATE_FORWARD, args->type, 2 * elements(args->n, args->h) * bytes_of(args->type));
}

static mf_status modulate_backward(mf_device *device, const mf_modulate_args *args) {
    MF_TRY(RESERVE(modulate_backward, args));
    return touch(MF_DO_MODULATE_BACKWARD, args->type,
                 elements(args->n, args->h) * (bytes_of(args->type) + 4 + 8));
}

static mf_status gate_scale(mf_device *device, const mf_gate_args *args) {
    (void)device;
    return touch(MF_DO_GATE_SCALE, args->type, 2 * elements(args->n, args->h) * bytes_of(args->type));
}

static mf_status gate_add(mf_device *device, const mf_gate_args *args) {
    (void)device;
    return touch(MF_DO_GATE_ADD, args->type, elements(args->n, args->h) * (2 * bytes_of(args->type) + 4));
}

static mf_status gate_grads(mf_device *device, const mf_gate_grads_args *args) {
    (void)device;
    return touch(MF_DO_GATE_GRADS, args->type,
                 elements(args->rows, args->cols) * (4 + bytes_of(args->type) + 8));
}

/* Forward: gate, up and out; backward d_out, d_gate and d_up too. */
static mf_status activation_forward(mf_device *device, const mf_activation_args *args) {
    (void)device;
    return touch(MF_DO_ACTIVATION_FORWARD, args->type,
                 (args->up ? 3 : 2) * elements(args->n, args->width) * bytes_of(args->type));
}

static mf_status activation_backward(mf_device *device, const mf_activation_args *args) {
    (void)device;
    return touch(MF_DO_ACTIVATION_BACKWARD, args->type,
                 (args->up ? 6 : 4) * elements(args->n, args->width) * bytes_of(args->type));
}

static mf_status embed_forward(mf_device *device, const mf_embed_args *args) {
    (void)device;
    return touch(MF_DO_EMBED_FORWARD, args->type, 2 * elements(args->n, args->h) * bytes_of(args->type));
}

static mf_status embed_backward(mf_device *device, const mf_embed_args *args) {
    MF_TRY(RESERVE(embed_backward, args));
    return touch(MF_DO_EMBED_BACKWARD, args->d_out_type,
                 elements(args->n, args->h) * (bytes_of(args->d_out_type) + 8));
}

static mf_status grid_embed(mf_device *device, const mf_grid_embed_args *args) {
    (void)device;
    return touch(MF_DO_GRID_EMBED, args->type, elements(args->n, args->h) * (4 + bytes_of(args->type)));
}

static mf_status xent_begin(mf_device *device, const mf_xent_args *args) {
    (void)device;
    return touch(MF_DO_XENT_BEGIN, MF_F32, 12 * (double)args->n);
}

static mf_status xent_update(mf_device *device, const mf_xent_args *args) {
    (void)device;
    return touch(MF_DO_XENT_UPDATE, MF_F32, 2 * 4 * elements(args->n, args->width));
}

static mf_status xent_merge(mf_device *device, const mf_xent_args *args, int parts, const float *states) {
    (void)device, (void)states;
    return touch(MF_DO_XENT_MERGE, MF_F32, 12 * elements(args->n, parts));
}

static mf_status xent_grad(mf_device *device, const mf_xent_args *args) {
    (void)device;
    return touch(MF_DO_XENT_GRAD, args->type, elements(args->n, args->width) * (4 + bytes_of(args->type)));
}

static mf_status xent_loss(mf_device *device, const mf_xent_args *args, double *loss) {
    *loss = 0;
    MF_TRY(RESERVE(sum, args->n));
    return touch(MF_DO_XENT_LOSS, MF_F32, 12 * (double)args->n);
}

static mf_status adamw(mf_device *device, const mf_adamw_args *args) {
    (void)device;
    return touch(MF_DO_ADAMW, args->type,
                 (double)args->n * (4 + 3 * 8 + (args->type == MF_F32 ? 0 : bytes_of(args->type))));
}

static mf_status sum_squares(mf_device *device, int64_t n, const float *x, double *sum) {
    (void)x;
    *sum = 0;
    MF_TRY(RESERVE(sum, n));
    return touch(MF_DO_SUM_SQUARES, MF_F32, 4 * (double)n);
}

static mf_status squared_error(mf_device *device, const mf_squared_error_args *args, double *loss) {
    *loss = 0;
    MF_TRY(RESERVE(sum, args->n));
    return touch(MF_DO_SQUARED_ERROR, MF_F32, (args->d_pred ? 12 : 8) * (double)args->n);
}

static mf_status cast(mf_device *device, const mf_cast_args *args) {
    (void)device;
    return touch(MF_DO_CAST, args->in_type == args->out_type ? args->in_type : MF_BF16,
                 elements(args->rows, args->width) * (bytes_of(args->in_type) + bytes_of(args->out_type)));
}

static mf_status add(mf_device *device, int64_t n, mf_dtype type, const void *residual, const float *delta,
                     void *out) {
    (void)device, (void)residual, (void)delta, (void)out;
    return touch(MF_DO_ADD, type, (double)n * (2 * bytes_of(type) + 4));
}

static mf_status accumulate(mf_device *device, int64_t rows, int64_t width, const float *in, int64_t in_ld,
                            float *out, int64_t out_ld) {
    (void)device, (void)in, (void)in_ld, (void)out, (void)out_ld;
    return touch(MF_DO_ACCUMULATE, MF_F32, 3 * 4 * elements(rows, width));
}

static mf_status fill(mf_device *device, int64_t n, float value, float *out) {
    (void)device, (void)value, (void)out;
    return touch(MF_DO_FILL, MF_F32, 4 * (double)n);
}

static mf_status fill_normal(mf_device *device, const mf_normal_args *args) {
    (void)device;
    return touch(MF_DO_FILL_NORMAL, MF_F32, 4 * elements(args->rows, args->cols));
}

static mf_status zero(mf_device *device, void *data, size_t bytes) {
    (void)device, (void)data;
    return touch(MF_DO_ZERO, MF_F32, (double)bytes);
}

static mf_status copy_rows(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                           const void *in, size_t in_ld) {
    (void)device, (void)out, (void)out_ld, (void)in, (void)in_ld;
    return touch(MF_DO_COPY_ROWS, MF_F32, 2 * (double)rows * (double)bytes);
}

static mf_status source(int number, mf_memory_source *out) {
    (void)number;
    *out = mf_memory_dry;
    return MF_OK;
}

static mf_status open(mf_device *device) { return device->ops->workspaces->open(device); }
static void close(mf_device *device) { device->ops->workspaces->close(device); }

/* The same for all of them. */
#define OPERATIONS                                                                                           \
    .computes_nothing = true, .open = open, .close = close, .source = source, .gemm = gemm,                  \
    .attention_forward = attention_forward, .attention_backward = attention_backward,                        \
    .attention_delta = attention_delta, .attention_merge = attention_merge,                                  \
    .rmsnorm_forward = rmsnorm_forward, .rmsnorm_backward = rmsnorm_backward, .rope = rope,                  \
    .rope_table = rope_table, .headnorm_forward = headnorm_forward, .headnorm_backward = headnorm_backward,  \
    .bias_forward = bias_forward, .bias_backward = bias_backward, .modulate_forward = modulate_forward,      \
    .modulate_backward = modulate_backward, .gate_scale = gate_scale, .gate_add = gate_add,                  \
    .gate_grads = gate_grads, .activation_forward = activation_forward,                                      \
    .activation_backward = activation_backward, .embed_forward = embed_forward,                              \
    .embed_backward = embed_backward, .grid_embed = grid_embed, .xent_begin = xent_begin,                    \
    .xent_update = xent_update, .xent_merge = xent_merge, .xent_grad = xent_grad, .xent_loss = xent_loss,    \
    .adamw = adamw, .sum_squares = sum_squares, .squared_error = squared_error, .cast = cast, .add = add,    \
    .accumulate = accumulate, .fill = fill, .fill_normal = fill_normal, .zero = zero, .copy_rows = copy_rows

const mf_device_ops mf_device_dry = {.name = "dry", .workspaces = &mf_cpu_workspaces, OPERATIONS};
const mf_device_ops mf_device_dry_cuda = {
    .name = "dry-cuda", .has_cudnn = true, .workspaces = &mf_cuda_workspaces, OPERATIONS};
