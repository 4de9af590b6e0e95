/* cpu.h: what the CPU's operation files share. */
#ifndef MF_DEVICE_CPU_H
#define MF_DEVICE_CPU_H

#include "device/ops.h"

/* gemm.c: a cache of oneDNN matmul primitives, one a shape. */
typedef struct mf_cpu_gemms mf_cpu_gemms;
/* dry: products are described, never made. */
mf_status mf_cpu_gemms_create(mf_device *device, bool dry, mf_cpu_gemms **out);
void mf_cpu_gemms_destroy(mf_cpu_gemms *gemms);

/* The library's product, in the types given; k > 0. */
mf_status mf_cpu_product(mf_device *device, const mf_gemm_args *args);

/* gemm_widened.c: products of bf16 as products of f32. */
typedef struct mf_cpu_widened mf_cpu_widened;
mf_status mf_cpu_widened_create(mf_device *device, mf_cpu_widened **out);
void mf_cpu_widened_destroy(mf_cpu_widened *widened);
/* True when that is the faster way here. */
bool mf_cpu_widens(const mf_gemm_args *args);
mf_status mf_cpu_gemm_widened(mf_device *device, const mf_gemm_args *args);

/* gemm_thin.c: products of few rows, which wait for memory alone; its workspace is kept between calls. */
typedef struct mf_cpu_thin mf_cpu_thin;
mf_status mf_cpu_thin_create(mf_device *device, mf_cpu_thin **out);
void mf_cpu_thin_destroy(mf_cpu_thin *thin);
bool mf_cpu_is_thin(const mf_gemm_args *args);
mf_status mf_cpu_gemm_thin(mf_device *device, const mf_gemm_args *args);

/* bf16.c: the faster type for products of bf16 values; whether the machine has all of an instruction set of
 * oneDNN. */
mf_dtype mf_cpu_bf16_products(void);
bool mf_cpu_has(unsigned isa);

/* attention.c: tiles and their workspace, kept between calls. */
typedef struct mf_cpu_attention mf_cpu_attention;
mf_status mf_cpu_attention_create(mf_device *device, mf_cpu_attention **out);
void mf_cpu_attention_destroy(mf_cpu_attention *attention);

typedef struct mf_cpu {
    mf_cpu_gemms *gemms;
    mf_cpu_widened *widened;
    mf_cpu_thin *thin;
    mf_cpu_attention *attention;
} mf_cpu;

/* cpu.c: for a device that only takes what these operations would take (device/dry). */
extern const mf_workspaces mf_cpu_workspaces;
/* The workspace of an operation, kept or given back as it would be. */
mf_status mf_cpu_reserve_gemm(mf_device *device, const mf_gemm_args *args);
mf_status mf_cpu_reserve_product(mf_device *device, const mf_gemm_args *args);
mf_status mf_cpu_reserve_widened(mf_device *device, const mf_gemm_args *args);
mf_status mf_cpu_reserve_thin(mf_device *device, const mf_gemm_args *args);
mf_status mf_cpu_reserve_attention(mf_device *device, const mf_attention_args *args, bool backward);
mf_status mf_cpu_reserve_rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *args);
mf_status mf_cpu_reserve_headnorm_backward(mf_device *device, const mf_headnorm_args *args);
mf_status mf_cpu_reserve_modulate_backward(mf_device *device, const mf_modulate_args *args);
mf_status mf_cpu_reserve_attention_merge(mf_device *device, const mf_attention_merge_args *args);

static inline mf_cpu *mf_cpu_of(mf_device *device) { return device->state; }

mf_status mf_cpu_gemm(mf_device *device, const mf_gemm_args *args);
mf_status mf_cpu_attention_forward(mf_device *device, const mf_attention_args *args);
mf_status mf_cpu_attention_backward(mf_device *device, const mf_attention_args *args);
mf_status mf_cpu_attention_delta(mf_device *device, const mf_attention_args *args, float *delta);
mf_status mf_cpu_attention_merge(mf_device *device, const mf_attention_merge_args *args);
mf_status mf_cpu_rmsnorm_forward(mf_device *device, int64_t n, int64_t h, float eps, mf_dtype type,
                                 const void *x, const float *weight, void *y);
mf_status mf_cpu_rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *args);
mf_status mf_cpu_rope(mf_device *device, const mf_rope_args *args);
mf_status mf_cpu_rope_table(mf_device *device, const mf_rope_table_args *args);
mf_status mf_cpu_headnorm_forward(mf_device *device, const mf_headnorm_args *args);
mf_status mf_cpu_headnorm_backward(mf_device *device, const mf_headnorm_args *args);
mf_status mf_cpu_bias_forward(mf_device *device, const mf_bias_args *args);
mf_status mf_cpu_bias_backward(mf_device *device, const mf_bias_args *args);
mf_status mf_cpu_modulate_forward(mf_device *device, const mf_modulate_args *args);
mf_status mf_cpu_modulate_backward(mf_device *device, const mf_modulate_args *args);
mf_status mf_cpu_gate_scale(mf_device *device, const mf_gate_args *args);
mf_status mf_cpu_gate_add(mf_device *device, const mf_gate_args *args);
mf_status mf_cpu_gate_grads(mf_device *device, const mf_gate_grads_args *args);
mf_status mf_cpu_activation_forward(mf_device *device, const mf_activation_args *args);
mf_status mf_cpu_activation_backward(mf_device *device, const mf_activation_args *args);
mf_status mf_cpu_embed_forward(mf_device *device, const mf_embed_args *args);
mf_status mf_cpu_embed_backward(mf_device *device, const mf_embed_args *args);
mf_status mf_cpu_grid_embed(mf_device *device, const mf_grid_embed_args *args);
mf_status mf_cpu_xent_begin(mf_device *device, const mf_xent_args *args);
mf_status mf_cpu_xent_update(mf_device *device, const mf_xent_args *args);
mf_status mf_cpu_xent_merge(mf_device *device, const mf_xent_args *args, int parts, const float *states);
mf_status mf_cpu_xent_grad(mf_device *device, const mf_xent_args *args);
mf_status mf_cpu_xent_loss(mf_device *device, const mf_xent_args *args, double *loss);
mf_status mf_cpu_adamw(mf_device *device, const mf_adamw_args *args);
mf_status mf_cpu_sum_squares(mf_device *device, int64_t n, const float *x, double *sum);
mf_status mf_cpu_squared_error(mf_device *device, const mf_squared_error_args *args, double *loss);
mf_status mf_cpu_cast(mf_device *device, const mf_cast_args *args);
mf_status mf_cpu_add(mf_device *device, int64_t n, mf_dtype type, const void *residual, const float *delta,
                     void *out);
mf_status mf_cpu_accumulate(mf_device *device, int64_t rows, int64_t width, const float *in, int64_t in_ld,
                            float *out, int64_t out_ld);
mf_status mf_cpu_fill(mf_device *device, int64_t n, float value, float *out);
mf_status mf_cpu_fill_normal(mf_device *device, const mf_normal_args *args);
mf_status mf_cpu_zero(mf_device *device, void *data, size_t bytes);
mf_status mf_cpu_copy_rows(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                           const void *in, size_t in_ld);

#endif
