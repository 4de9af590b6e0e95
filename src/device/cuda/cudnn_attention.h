/* cudnn_attention.h: attention of one run of queries over one run of keys, as graphs for cuDNN (Dao, arXiv
 * 2307.08691, is how it computes them). */
#ifndef MF_DEVICE_CUDA_CUDNN_ATTENTION_H
#define MF_DEVICE_CUDA_CUDNN_ATTENTION_H

#include "device/cuda/cudnn_graph.h"

/* Distances in elements, from sequence to sequence and from token to token. */
typedef struct mf_cudnn_rows {
    int64_t batch_ld, ld;
} mf_cudnn_rows;

/* All that a graph depends on. Queries of bf16 in [batch, queries, heads, head_dim], keys with kv_heads heads
 * that divide them. causal: query i sees keys 0 .. i; else all. */
typedef struct mf_cudnn_shape {
    int64_t batch, heads, kv_heads, queries, keys, head_dim;
    int64_t causal;
    mf_cudnn_rows q, k, o, lse, d_o; /* v as k; d_o: backward */
} mf_cudnn_shape;

/* What the graphs' ids stand for. k and v, and their gradients, lie alike. */
enum {
    MF_CUDNN_Q = 1,
    MF_CUDNN_K,
    MF_CUDNN_V,
    MF_CUDNN_O,   /* bf16; forward writes it */
    MF_CUDNN_LSE, /* [batch, queries, heads] f32, natural logarithm; forward writes it */
    MF_CUDNN_D_O, /* bf16 */
    MF_CUDNN_DQ,  /* [batch, queries, heads, head_dim] bf16, dense, as the three below: overwritten */
    MF_CUDNN_DK,  /* [batch, keys, kv_heads, head_dim] bf16 */
    MF_CUDNN_DV,
    MF_CUDNN_DQ_SUM, /* dq in f32, before it is rounded */
    MF_CUDNN_DELTA,  /* [batch, heads, queries] f32 */
    MF_CUDNN_SCALE,  /* numbers: of the scores */
    MF_CUDNN_LOWEST, /* what a key that is not seen scores */
    MF_CUDNN_ONE,
    MF_CUDNN_IDS
};

void mf_cudnn_attention_forward(mf_cudnn_graph *g, const mf_cudnn_shape *shape);
void mf_cudnn_attention_backward(mf_cudnn_graph *g, const mf_cudnn_shape *shape);

#endif
