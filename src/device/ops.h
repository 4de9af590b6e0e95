/* ops.h: the table that a device fills in. device.c checks the arguments and counts, then calls through it.
 */
#ifndef MF_DEVICE_OPS_H
#define MF_DEVICE_OPS_H

#include "meshfold/device.h"

/* Every member has the contract of the public function of its name in device.h; none is optional. */
typedef struct mf_device_ops {
    const char *name;
    mf_status (*open)(mf_device *device); /* makes device->state; called once */
    void (*close)(mf_device *device);     /* accepts a state that open left unfinished */
    mf_status (*gemm)(mf_device *device, const mf_gemm_args *args);
    mf_status (*attention_forward)(mf_device *device, const mf_attention_args *args);
    mf_status (*attention_backward)(mf_device *device, const mf_attention_args *args);
    mf_status (*attention_delta)(mf_device *device, const mf_attention_args *args, float *delta);
    mf_status (*attention_merge)(mf_device *device, const mf_attention_merge_args *args);
    mf_status (*rmsnorm_forward)(mf_device *device, int64_t n, int64_t h, float eps, mf_dtype type,
                                 const void *x, const float *weight, void *y);
    mf_status (*rmsnorm_backward)(mf_device *device, const mf_rmsnorm_grad *args);
    mf_status (*rope)(mf_device *device, const mf_rope_args *args);
    mf_status (*rope_table)(mf_device *device, const mf_rope_table_args *args);
    mf_status (*headnorm_forward)(mf_device *device, const mf_headnorm_args *args);
    mf_status (*headnorm_backward)(mf_device *device, const mf_headnorm_args *args);
    mf_status (*bias_forward)(mf_device *device, const mf_bias_args *args);
    mf_status (*bias_backward)(mf_device *device, const mf_bias_args *args);
    mf_status (*modulate_forward)(mf_device *device, const mf_modulate_args *args);
    mf_status (*modulate_backward)(mf_device *device, const mf_modulate_args *args);
    mf_status (*gate_scale)(mf_device *device, const mf_gate_args *args);
    mf_status (*gate_add)(mf_device *device, const mf_gate_args *args);
    mf_status (*gate_grads)(mf_device *device, const mf_gate_grads_args *args);
    mf_status (*activation_forward)(mf_device *device, const mf_activation_args *args);
    mf_status (*activation_backward)(mf_device *device, const mf_activation_args *args);
    mf_status (*embed_forward)(mf_device *device, const mf_embed_args *args);
    mf_status (*embed_backward)(mf_device *device, const mf_embed_args *args);
    mf_status (*grid_embed)(mf_device *device, const mf_grid_embed_args *args);
    mf_status (*xent_begin)(mf_device *device, const mf_xent_args *args);
    mf_status (*xent_update)(mf_device *device, const mf_xent_args *args);
    mf_status (*xent_merge)(mf_device *device, const mf_xent_args *args, int parts, const float *states);
    mf_status (*xent_grad)(mf_device *device, const mf_xent_args *args);
    mf_status (*xent_loss)(mf_device *device, const mf_xent_args *args, double *loss);
    mf_status (*adamw)(mf_device *device, const mf_adamw_args *args);
    mf_status (*sum_squares)(mf_device *device, int64_t n, const float *x, double *sum);
    mf_status (*squared_error)(mf_device *device, const mf_squared_error_args *args, double *loss);
    mf_status (*cast)(mf_device *device, const mf_cast_args *args);
    mf_status (*add)(mf_device *device, int64_t n, mf_dtype type, const void *residual, const float *delta,
                     void *out);
    mf_status (*accumulate)(mf_device *device, int64_t rows, int64_t width, const float *in, int64_t in_ld,
                            float *out, int64_t out_ld);
    mf_status (*fill)(mf_device *device, int64_t n, float value, float *out);
    mf_status (*fill_normal)(mf_device *device, const mf_normal_args *args);
    mf_status (*zero)(mf_device *device, void *data, size_t bytes);
    mf_status (*copy_rows)(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                           const void *in, size_t in_ld);
} mf_device_ops;

/* device.c: pairs of a query and a key that it sees, over all heads and sequences. */
double mf_attention_pairs(const mf_attention_args *args);
/* The same where so many rows of queries are computed together: all the keys that any of them sees. Sizes
 * alone count: as though there were no first_key. */
enum { MF_QUERY_TILE = 128 };
double mf_attention_pairs_met(const mf_attention_args *args);

struct mf_device {
    const mf_device_ops *ops;
    mf_memory *memory;
    int threads;
    double flops;
    void *state; /* the backend's own */
};

#endif
