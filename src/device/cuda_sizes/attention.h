/* attention.h: how a GPU cuts a call of attention into tiles, and the workspace that follows; plain C,
 * for the device that runs dry too. */
#ifndef MF_DEVICE_CUDA_SIZES_ATTENTION_H
#define MF_DEVICE_CUDA_SIZES_ATTENTION_H

#ifdef __cplusplus
extern "C" {
#endif

#include "device/ops.h"

/* Chunks that go to a kernel as its parameter, 4 KiB in all; longer lists are stored in the workspace. */
enum { MF_ATTENTION_FEW_QUERIES = 24, MF_ATTENTION_FEW_KEYS = 40 };
enum { MF_ATTENTION_KEY_TILE = 64 };

/* Queries from first_row on of each sequence. */
typedef struct mf_attention_queries {
    int64_t first_row;
    int32_t rows, position;
} mf_attention_queries;

typedef struct mf_attention_keys {
    const void *k, *v;
    float *dk, *dv;
    int64_t ld, batch_ld, grad_ld, grad_batch_ld;
    int32_t rows, position;
} mf_attention_keys;

/* Query tiles of so many rows: tokens of one chunk, and of each as many heads of one key head as fit. */
typedef struct mf_attention_cut {
    int32_t tokens, heads;
    int32_t head_blocks; /* tiles that a key head's heads make */
    int64_t tiles;       /* of one sequence and one of those */
} mf_attention_cut;

mf_attention_cut mf_cuda_attention_cut(const mf_attention_args *args, int tile_rows);
/* Rows of a forward tile. */
int mf_cuda_attention_tile_rows(const mf_attention_args *args);
/* Parts that forward cuts each query tile's keys into, so that a GPU has work where there are few queries. It
 * depends on sizes alone, so that results do not depend on the GPU. */
int mf_cuda_attention_splits(const mf_attention_args *args);
/* Whether tensor cores have a kernel for it. */
bool mf_cuda_attention_is_tiled(const mf_attention_args *args);
/* Bytes that the call takes and gives back. */
int64_t mf_cuda_attention_workspace(const mf_attention_args *args, bool backward);

#ifdef __cplusplus
}
#endif

#endif
