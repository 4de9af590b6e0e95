/* ops.h: the table that a device fills in. device.c checks the arguments and counts, then calls through it.
 */
#ifndef MF_DEVICE_OPS_H
#define MF_DEVICE_OPS_H

#include "meshfold/device.h"

/* The workspace of a device that computes, for the one that runs dry in its place. Every operation takes what
 * it would take, and keeps it or gives it back as it would; NULL: none. */
typedef struct mf_workspaces {
    mf_status (*open)(mf_device *device);
    void (*close)(mf_device *device);
    mf_status (*gemm)(mf_device *device, const mf_gemm_args *args);
    mf_status (*attention)(mf_device *device, const mf_attention_args *args, bool backward);
    mf_status (*attention_merge)(mf_device *device, const mf_attention_merge_args *args);
    mf_status (*rmsnorm_backward)(mf_device *device, const mf_rmsnorm_grad *args);
    mf_status (*headnorm_backward)(mf_device *device, const mf_headnorm_args *args);
    mf_status (*bias_backward)(mf_device *device, const mf_bias_args *args);
    mf_status (*modulate_backward)(mf_device *device, const mf_modulate_args *args);
    mf_status (*embed_backward)(mf_device *device, const mf_embed_args *args);
    mf_status (*sum)(mf_device *device, int64_t n); /* of n values in double, for the host */
} mf_workspaces;

/* Every member has the contract of the public function of its name in device.h; none is optional. */
typedef struct mf_device_ops {
    const char *name;
    bool computes_nothing, has_cudnn;
    const mf_workspaces *workspaces;      /* of a device that computes nothing */
    mf_status (*open)(mf_device *device); /* makes device->state; called once */
    void (*close)(mf_device *device);     /* accepts a state that open left unfinished */
    /* Where memory for this device comes from: number from its name ("cuda:1"), else 0. */
    mf_status (*source)(int number, mf_memory_source *out);
    /* Queues: NULL, all thirteen, where nothing is queued and the host addresses all memory. */
    mf_status (*event_create)(mf_device *device, mf_event **out);
    void (*event_destroy)(mf_event *event);
    mf_status (*event_record)(mf_device *device, mf_queue queue, mf_event *event);
    mf_status (*event_follow)(mf_device *device, mf_queue queue, const mf_event *event);
    mf_status (*event_wait)(const mf_event *event);
    mf_status (*finish)(mf_device *device, mf_queue queue);
    bool (*holds)(const void *data);
    int64_t (*pool_peak_bytes)(const mf_device *device);
    mf_status (*pinned_take)(mf_device *device, size_t bytes, void **out);
    void (*pinned_give_back)(void *data);
    bool (*reaches)(const mf_device *device, const mf_device *other); /* other: of this table too */
    mf_status (*copy)(mf_device *device, mf_queue queue, void *to, const void *from, size_t bytes);
    mf_status (*sum)(mf_device *device, mf_queue queue, const mf_sum_args *args);
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

/* module.c: what is built for CUDA, in a library of its own, so that a program that uses no GPU starts
 * without CUDA's libraries. */
typedef struct mf_cuda_module {
    const mf_device_ops *device;
    const struct mf_link_ops *links;           /* links.h */
    int (*count)(void);                        /* GPUs that can be used; 0 on any error */
    int64_t (*memory_bytes)(int number);       /* free on one of them; 0 on any error */
    mf_status (*look)(void);                   /* an error says why there is none */
    void (*describe)(char *out, size_t bytes); /* the libraries and their versions */
    mf_status (*describe_gpu)(int number, char *out, size_t bytes);
    /* Memory that the host and every GPU address, NULL when there is none. For tests. */
    void *(*managed_take)(size_t bytes);
    void (*managed_give_back)(void *data); /* accepts NULL */
} mf_cuda_module;
/* Program and module share structures, so that both must be of one version: what it was built as, in a symbol
 * of its own, mf_cuda_module_build, that is read before anything else. */
typedef struct mf_cuda_build {
    char version[32];
    uint64_t device_bytes, ops_bytes, module_bytes; /* sizes of structures: versions that are being written */
} mf_cuda_build;
#define MF_CUDA_BUILD                                                                                        \
    { MESHFOLD_VERSION, sizeof(struct mf_device), sizeof(mf_device_ops), sizeof(mf_cuda_module) }
/* Loads it at the first call. MF_EUNSUPPORTED, with what is missing, where it can't be. */
mf_status mf_cuda_module_load(const mf_cuda_module **out);

/* device.c: pairs of a query and a key that it sees, over all heads and sequences. */
double mf_attention_pairs(const mf_attention_args *args);
/* The same where so many rows of queries are computed together: all the keys that any of them sees. Sizes
 * alone count: as though there were no first_key. */
enum { MF_QUERY_TILE = 128 };
double mf_attention_pairs_met(const mf_attention_args *args);

/* An event of any device: who made it destroys it. */
struct mf_event {
    const mf_device_ops *ops;
};

struct mf_device {
    const mf_device_ops *ops;
    char name[MF_DEVICE_NAME];
    mf_memory *memory;
    int threads;
    bool uses_cudnn;
    double flops;
    bool waits_for_each; /* set by open: an operation is done when its call returns, and its errors are its
                            own */
    void *state;         /* the backend's own */
};

#endif
