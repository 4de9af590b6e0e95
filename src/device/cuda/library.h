/* library.h: attention by cuDNN, piece by piece. */
#ifndef MF_DEVICE_CUDA_LIBRARY_H
#define MF_DEVICE_CUDA_LIBRARY_H

#include "device/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of what mf_cuda_in_pieces says yes to; the contract is that of the device's operations, but that sums over
 * keys may come in another order from run to run. */
mf_status mf_cuda_library_forward(mf_device *device, const mf_attention_args *args);
mf_status mf_cuda_library_backward(mf_device *device, const mf_attention_args *args);

/* library_rows.cu. A piece's result: o: [batch, rows, heads, head_dim] bf16 and lse: [batch, rows, heads],
 * both dense; its rows are rows first_row .. of each sequence of all. */
typedef struct mf_cuda_part {
    int64_t first_row, rows;
    const void *o;
    const float *lse;
} mf_cuda_part;
/* sum: [batch, tokens, heads, head_dim] f32, token to token sum_ld, and args->lse: empty, or what args->o and
 * args->lse hold. Overwrites sum. */
mf_status mf_cuda_sum_begin(mf_device *device, const mf_attention_args *args, float *sum, int64_t sum_ld);
/* Merges a part into both. */
mf_status mf_cuda_sum_merge(mf_device *device, const mf_attention_args *args, const mf_cuda_part *part,
                            float *sum, int64_t sum_ld);
/* to: f32 += from: bf16, both [batch, rows, width], from dense. */
typedef struct mf_cuda_add_args {
    int64_t batch, rows, width;
    const void *from;
    float *to;
    int64_t to_batch_ld, to_ld;
} mf_cuda_add_args;
mf_status mf_cuda_add_bf16(mf_device *device, const mf_cuda_add_args *args);

#ifdef __cplusplus
}
#endif

#endif
