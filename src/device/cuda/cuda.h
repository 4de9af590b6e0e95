/* cuda.h: what the GPU's operation files share. C for the host's part, CUDA C++ for kernels. */
#ifndef MF_DEVICE_CUDA_H
#define MF_DEVICE_CUDA_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "device/ops.h"

/* A GPU's memory and queues, as one rank has them: its allocator and its devices share them. Taken from a
 * list that lives as long as the process, for blocks may be given back after their allocator has ended. */
typedef struct mf_cuda_place {
    struct mf_cuda_place *next;
    int number; /* of the GPU */
    cudaStream_t queue[MF_QUEUES];
} mf_cuda_place;

/* gemm.c */
typedef struct mf_cuda_gemms mf_cuda_gemms;
mf_status mf_cuda_gemms_create(mf_device *device, mf_cuda_gemms **out);
/* Accepts NULL. */
void mf_cuda_gemms_destroy(mf_cuda_gemms *gemms);

/* library.c: made at its first use. */
typedef struct mf_cuda_library mf_cuda_library;
/* Accepts NULL. */
void mf_cuda_library_destroy(mf_cuda_library *library);

typedef struct mf_cuda {
    mf_cuda_place *place;
    mf_cuda_gemms *gemms;
    mf_cuda_library *library;
} mf_cuda;

static inline mf_cuda *mf_cuda_of(mf_device *device) { return (mf_cuda *)device->state; }
static inline cudaStream_t mf_cuda_stream(mf_device *device) {
    return mf_cuda_of(device)->place->queue[MF_QUEUE_COMPUTE];
}

/* call: the function that returned `error`, in the words of its manual. MF_ENOMEM where memory ran out, else
 * MF_ELIBRARY; MF_OK for cudaSuccess. */
mf_status mf_cuda_check(const char *call, cudaError_t error);
#define MF_CUDA(function, ...) mf_cuda_check(#function, function(__VA_ARGS__))

/* Whatever GPU this thread was at: giving back a peer's memory leaves it at the peer's. */
static inline mf_status mf_cuda_enter(mf_device *device) {
    return MF_CUDA(cudaSetDevice, mf_cuda_of(device)->place->number);
}

/* memory.c */
mf_status mf_cuda_source(int number, mf_memory_source *out);
/* The place behind memory from mf_cuda_source; NULL: other memory. */
mf_cuda_place *mf_cuda_place_of(const mf_memory *memory);
int mf_cuda_devices(void);
int64_t mf_cuda_free_bytes(int number);
int64_t mf_cuda_pool_peak_bytes(const mf_device *device);
mf_status mf_cuda_pinned_take(mf_device *device, size_t bytes, void **out);
void mf_cuda_pinned_give_back(void *data);
bool mf_cuda_reaches(const mf_device *device, const mf_device *other);
void *mf_cuda_managed_take(size_t bytes);
void mf_cuda_managed_give_back(void *data);

/* describe.c */
mf_status mf_cuda_look_for_gpus(void);
void mf_cuda_describe_libraries(char *out, size_t bytes);
mf_status mf_cuda_describe_gpu(int number, char *out, size_t bytes);

/* queue.c */
mf_status mf_cuda_event_create(mf_device *device, mf_event **out);
void mf_cuda_event_destroy(mf_event *event);
mf_status mf_cuda_event_record(mf_device *device, mf_queue queue, mf_event *event);
mf_status mf_cuda_event_follow(mf_device *device, mf_queue queue, const mf_event *event);
mf_status mf_cuda_event_wait(const mf_event *event);
cudaEvent_t mf_cuda_event_of(const mf_event *event);
mf_status mf_cuda_finish(mf_device *device, mf_queue queue);
bool mf_cuda_holds(const void *data);
mf_status mf_cuda_copy(mf_device *device, mf_queue queue, void *to, const void *from, size_t bytes);
/* nccl.c */
extern const struct mf_link_ops mf_cuda_links;
/* sum.cu */
mf_status mf_cuda_sum(mf_device *device, mf_queue queue, const mf_sum_args *args);

mf_status mf_cuda_gemm(mf_device *device, const mf_gemm_args *args);
mf_status mf_cuda_attention_forward(mf_device *device, const mf_attention_args *args);
mf_status mf_cuda_attention_backward(mf_device *device, const mf_attention_args *args);
mf_status mf_cuda_attention_delta(mf_device *device, const mf_attention_args *args, float *delta);
mf_status mf_cuda_attention_merge(mf_device *device, const mf_attention_merge_args *args);
mf_status mf_cuda_rmsnorm_forward(mf_device *device, int64_t n, int64_t h, float eps, mf_dtype type,
                                  const void *x, const float *weight, void *y);
mf_status mf_cuda_rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *args);
mf_status mf_cuda_rope(mf_device *device, const mf_rope_args *args);
mf_status mf_cuda_rope_table(mf_device *device, const mf_rope_table_args *args);
mf_status mf_cuda_headnorm_forward(mf_device *device, const mf_headnorm_args *args);
mf_status mf_cuda_headnorm_backward(mf_device *device, const mf_headnorm_args *args);
mf_status mf_cuda_bias_forward(mf_device *device, const mf_bias_args *args);
mf_status mf_cuda_bias_backward(mf_device *device, const mf_bias_args *args);
mf_status mf_cuda_modulate_forward(mf_device *device, const mf_modulate_args *args);
mf_status mf_cuda_modulate_backward(mf_device *device, const mf_modulate_args *args);
mf_status mf_cuda_gate_scale(mf_device *device, const mf_gate_args *args);
mf_status mf_cuda_gate_add(mf_device *device, const mf_gate_args *args);
mf_status mf_cuda_gate_grads(mf_device *device, const mf_gate_grads_args *args);
mf_status mf_cuda_activation_forward(mf_device *device, const mf_activation_args *args);
mf_status mf_cuda_activation_backward(mf_device *device, const mf_activation_args *args);
mf_status mf_cuda_embed_forward(mf_device *device, const mf_embed_args *args);
mf_status mf_cuda_embed_backward(mf_device *device, const mf_embed_args *args);
mf_status mf_cuda_grid_embed(mf_device *device, const mf_grid_embed_args *args);
mf_status mf_cuda_xent_begin(mf_device *device, const mf_xent_args *args);
mf_status mf_cuda_xent_update(mf_device *device, const mf_xent_args *args);
mf_status mf_cuda_xent_merge(mf_device *device, const mf_xent_args *args, int parts, const float *states);
mf_status mf_cuda_xent_grad(mf_device *device, const mf_xent_args *args);
mf_status mf_cuda_xent_loss(mf_device *device, const mf_xent_args *args, double *loss);
mf_status mf_cuda_adamw(mf_device *device, const mf_adamw_args *args);
mf_status mf_cuda_sum_squares(mf_device *device, int64_t n, const float *x, double *sum);
mf_status mf_cuda_squared_error(mf_device *device, const mf_squared_error_args *args, double *loss);
mf_status mf_cuda_cast(mf_device *device, const mf_cast_args *args);
mf_status mf_cuda_add(mf_device *device, int64_t n, mf_dtype type, const void *residual, const float *delta,
                      void *out);
mf_status mf_cuda_accumulate(mf_device *device, int64_t rows, int64_t width, const float *in, int64_t in_ld,
                             float *out, int64_t out_ld);
mf_status mf_cuda_fill(mf_device *device, int64_t n, float value, float *out);
mf_status mf_cuda_fill_normal(mf_device *device, const mf_normal_args *args);
mf_status mf_cuda_zero(mf_device *device, void *data, size_t bytes);
mf_status mf_cuda_copy_rows(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                            const void *in, size_t in_ld);

#ifdef __cplusplus
}
#endif

#endif
