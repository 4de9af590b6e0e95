/* pieces.h: attention of chunks as pieces, each a run of queries over a run of keys that all of them
 * see, or of which the i-th sees the first i + 1: what a library's attention computes. */
#ifndef MF_DEVICE_CUDA_SIZES_PIECES_H
#define MF_DEVICE_CUDA_SIZES_PIECES_H

#include "meshfold/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mf_cuda_piece {
    int64_t query, queries; /* from this row of each sequence on */
    const mf_key_chunk *chunk;
    int64_t key, keys; /* from this key of the chunk on */
    bool causal;
} mf_cuda_piece;

/* Whether pieces can be all of it: bf16, neither window nor first_key, tokens that are neighbours, heads that
 * share keys evenly, sizes and distances that a library takes; and whether pieces are so large that a launch
 * each is no loss. */
bool mf_cuda_in_pieces(const mf_attention_args *args);
/* out: room for 2 query_chunks key_chunks of them. Returns how many there are: those of a chunk of queries
 * follow each other. */
int mf_cuda_pieces(const mf_attention_args *args, mf_cuda_piece *out);
/* Key heads that the call's query heads read, and the first of them. */
int64_t mf_cuda_piece_kv_heads(const mf_attention_args *args);
int64_t mf_cuda_piece_first_kv_head(const mf_attention_args *args);
/* Whether each chunk of queries is one piece, so that its result can be written where it belongs. */
bool mf_cuda_pieces_direct(const mf_attention_args *args, int count, const mf_cuda_piece *pieces);
/* Workspace of all of it, in bytes, but the library's own. */
int64_t mf_cuda_pieces_workspace(const mf_attention_args *args, bool backward, int count,
                                 const mf_cuda_piece *pieces);

/* What cuDNN takes besides, a piece at a time, on GPUs of compute capability 9.0: each query head's share of
 * the gradients of a key head, before they are added up. */
int64_t mf_cuda_library_workspace(const mf_attention_args *args, bool backward, int count,
                                  const mf_cuda_piece *pieces);

#ifdef __cplusplus
}
#endif

#endif
