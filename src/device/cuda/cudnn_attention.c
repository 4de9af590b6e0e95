/* cudnn_attention.c: see cudnn_attention.h. cuDNN knows attention by the pattern of its operations, which
 * must be these. */
#include "device/cuda/cudnn_attention.h"

/* The same for all scores: s: [batch, heads, queries, keys]. */
typedef struct scores {
    mf_cudnn_graph *g;
    const mf_cudnn_shape *shape;
    int64_t dim[MF_CUDNN_DIMS];
} scores;

static scores scores_of(mf_cudnn_graph *g, const mf_cudnn_shape *s) {
    return (scores){g, s, {s->batch, s->heads, s->queries, s->keys}};
}

static int made(const scores *s, cudnnDataType_t type) { return mf_cudnn_made(s->g, type, s->dim, NULL); }

static void point(mf_cudnn_graph *g, cudnnPointwiseMode_t mode, int x, int b, int y) {
    mf_cudnn_pointwise(g, &(mf_cudnn_pointwise_args){
                              .mode = mode, .math = CUDNN_DATA_FLOAT, .x = x, .b = b, .t = -1, .y = y});
}

/* A new score tensor = mode(x, b). */
static int scored(const scores *s, cudnnPointwiseMode_t mode, int x, int b) {
    int y = made(s, CUDNN_DATA_FLOAT);
    point(s->g, mode, x, b, y);
    return y;
}

/* [batch, heads, rows, head_dim] in memory; turned: [batch, heads, head_dim, rows]. */
static int given_rows(const scores *s, int id, int64_t heads, int64_t rows, mf_cudnn_rows at, bool turned) {
    int64_t d = s->shape->head_dim;
    const int64_t dim[] = {s->shape->batch, heads, rows, d}, stride[] = {at.batch_ld, d, at.ld, 1};
    const int64_t turned_dim[] = {dim[0], heads, d, rows}, turned_stride[] = {at.batch_ld, d, 1, at.ld};
    return mf_cudnn_given(s->g, id, CUDNN_DATA_BFLOAT16, turned ? turned_dim : dim,
                          turned ? turned_stride : stride);
}

static int given_queries(const scores *s, int id, mf_cudnn_rows at) {
    return given_rows(s, id, s->shape->heads, s->shape->queries, at, false);
}

static int given_keys(const scores *s, int id, mf_cudnn_rows at, bool turned) {
    return given_rows(s, id, s->shape->kv_heads, s->shape->keys, at, turned);
}

/* A number a row: [batch, heads, queries, 1]. id 0: never in memory. */
static int row_numbers(const scores *s, int id, const int64_t *stride) {
    const int64_t dim[] = {s->dim[0], s->dim[1], s->dim[2], 1};
    return id ? mf_cudnn_given(s->g, id, CUDNN_DATA_FLOAT, dim, stride)
              : mf_cudnn_made(s->g, CUDNN_DATA_FLOAT, dim, stride);
}

static int lse_of(const scores *s) {
    const int64_t stride[] = {s->shape->lse.batch_ld, 1, s->shape->lse.ld, 1};
    return row_numbers(s, MF_CUDNN_LSE, stride);
}

static int index_along(const scores *s, int x, int64_t axis) {
    int y = made(s, CUDNN_DATA_INT32);
    mf_cudnn_pointwise(s->g, &(mf_cudnn_pointwise_args){.mode = CUDNN_POINTWISE_GEN_INDEX,
                                                        .math = CUDNN_DATA_FLOAT,
                                                        .x = x,
                                                        .b = -1,
                                                        .t = -1,
                                                        .y = y,
                                                        .axis = axis});
    return y;
}

/* Scores of keys after the query become the lowest number. */
static int masked(const scores *s, int x) {
    if (!s->shape->causal) return x;
    int row = index_along(s, x, 2), column = index_along(s, x, 3);
    int seen = made(s, CUDNN_DATA_BOOLEAN), y = made(s, CUDNN_DATA_FLOAT);
    mf_cudnn_pointwise(s->g, &(mf_cudnn_pointwise_args){.mode = CUDNN_POINTWISE_CMP_GE,
                                                        .math = CUDNN_DATA_BOOLEAN,
                                                        .x = row,
                                                        .b = column,
                                                        .t = -1,
                                                        .y = seen});
    mf_cudnn_pointwise(s->g, &(mf_cudnn_pointwise_args){.mode = CUDNN_POINTWISE_BINARY_SELECT,
                                                        .math = CUDNN_DATA_FLOAT,
                                                        .x = x,
                                                        .b = mf_cudnn_number(s->g, MF_CUDNN_LOWEST),
                                                        .t = seen,
                                                        .y = y});
    return y;
}

static int product(const scores *s, int a, int b) {
    int y = made(s, CUDNN_DATA_FLOAT);
    mf_cudnn_matmul(s->g, a, b, y);
    return y;
}

void mf_cudnn_attention_forward(mf_cudnn_graph *g, const mf_cudnn_shape *shape) {
    scores s = scores_of(g, shape);
    int q = given_queries(&s, MF_CUDNN_Q, shape->q), k = given_keys(&s, MF_CUDNN_K, shape->k, true);
    int score = product(&s, q, k);
    score = masked(&s, scored(&s, CUDNN_POINTWISE_MUL, score, mf_cudnn_number(g, MF_CUDNN_SCALE)));
    int highest = row_numbers(&s, 0, NULL), sum = row_numbers(&s, 0, NULL),
        log_sum = row_numbers(&s, 0, NULL);
    mf_cudnn_reduce(g, CUDNN_REDUCE_TENSOR_MAX, score, highest);
    int e = scored(&s, CUDNN_POINTWISE_EXP, scored(&s, CUDNN_POINTWISE_SUB, score, highest), -1);
    mf_cudnn_reduce(g, CUDNN_REDUCE_TENSOR_ADD, e, sum);
    point(g, CUDNN_POINTWISE_LOG, sum, -1, log_sum);
    point(g, CUDNN_POINTWISE_ADD, highest, log_sum, lse_of(&s));
    int p = made(&s, CUDNN_DATA_BFLOAT16);
    point(g, CUDNN_POINTWISE_DIV, e, sum, p);
    mf_cudnn_matmul(g, p, given_keys(&s, MF_CUDNN_V, shape->k, false),
                    given_queries(&s, MF_CUDNN_O, shape->o));
}

/* delta = sum over head_dim of o * d_o */
static int delta_of(const scores *s, int o, int d_o) {
    const mf_cudnn_shape *shape = s->shape;
    const int64_t dim[] = {s->dim[0], s->dim[1], s->dim[2], shape->head_dim};
    const int64_t dense[] = {shape->heads * shape->queries, shape->queries, 1, 1};
    int both = mf_cudnn_made(s->g, CUDNN_DATA_FLOAT, dim, NULL), sum = row_numbers(s, 0, NULL);
    point(s->g, CUDNN_POINTWISE_MUL, d_o, o, both);
    mf_cudnn_reduce(s->g, CUDNN_REDUCE_TENSOR_ADD, both, sum);
    int delta = row_numbers(s, MF_CUDNN_DELTA, dense);
    point(s->g, CUDNN_POINTWISE_MUL, sum, mf_cudnn_number(s->g, MF_CUDNN_ONE), delta);
    return delta;
}

/* A gradient of keys or values: x turned, times by, summed over the query heads of each key head. */
static void keys_grad(const scores *s, int id, int x, int by) {
    const mf_cudnn_shape *a = s->shape;
    mf_cudnn_rows dense = {a->keys * a->kv_heads * a->head_dim, a->kv_heads * a->head_dim};
    const int64_t turned[] = {s->dim[0], s->dim[1], s->dim[3], s->dim[2]};
    const int64_t stride[] = {s->dim[1] * s->dim[2] * s->dim[3], s->dim[2] * s->dim[3], 1, s->dim[3]};
    const int64_t all_heads[] = {a->batch, a->heads, a->keys, a->head_dim};
    int x_turned = mf_cudnn_made(s->g, CUDNN_DATA_BFLOAT16, turned, stride);
    mf_cudnn_reshape(s->g, x, x_turned);
    int out = given_keys(s, id, dense, false);
    if (a->heads == a->kv_heads) {
        mf_cudnn_matmul(s->g, x_turned, by, out);
        return;
    }
    int each = mf_cudnn_made(s->g, CUDNN_DATA_BFLOAT16, all_heads, NULL);
    mf_cudnn_matmul(s->g, x_turned, by, each);
    mf_cudnn_reduce(s->g, CUDNN_REDUCE_TENSOR_ADD, each, out);
}

/* dq: summed in f32, then rounded. */
static void queries_grad(const scores *s, int ds, int k_turned) {
    const mf_cudnn_shape *a = s->shape;
    mf_cudnn_rows dense = {a->queries * a->heads * a->head_dim, a->heads * a->head_dim};
    const int64_t key_dim[] = {a->batch, a->kv_heads, a->keys, a->head_dim};
    const int64_t key_stride[] = {a->k.batch_ld, a->head_dim, a->k.ld, 1};
    const int64_t dim[] = {a->batch, a->heads, a->queries, a->head_dim};
    const int64_t stride[] = {a->heads * a->queries * a->head_dim, a->queries * a->head_dim, a->head_dim, 1};
    int k = mf_cudnn_made(s->g, CUDNN_DATA_FLOAT, key_dim, key_stride);
    mf_cudnn_reshape(s->g, k_turned, k);
    int sum = mf_cudnn_given(s->g, MF_CUDNN_DQ_SUM, CUDNN_DATA_FLOAT, dim, stride);
    mf_cudnn_matmul(s->g, ds, k, sum);
    point(s->g, CUDNN_POINTWISE_IDENTITY, sum, -1, given_queries(s, MF_CUDNN_DQ, dense));
}

void mf_cudnn_attention_backward(mf_cudnn_graph *g, const mf_cudnn_shape *shape) {
    scores s = scores_of(g, shape);
    int d_o = given_queries(&s, MF_CUDNN_D_O, shape->d_o);
    int delta = delta_of(&s, given_queries(&s, MF_CUDNN_O, shape->o), d_o);
    int q = given_queries(&s, MF_CUDNN_Q, shape->q), k = given_keys(&s, MF_CUDNN_K, shape->k, true);
    int scale = mf_cudnn_number(g, MF_CUDNN_SCALE);
    int score = scored(&s, CUDNN_POINTWISE_MUL, product(&s, q, k), scale);
    score = masked(&s, scored(&s, CUDNN_POINTWISE_SUB, score, lse_of(&s)));
    int p = scored(&s, CUDNN_POINTWISE_EXP, score, -1);
    keys_grad(&s, MF_CUDNN_DV, p, d_o);
    int dp = product(&s, d_o, given_keys(&s, MF_CUDNN_V, shape->k, true));
    int ds = scored(&s, CUDNN_POINTWISE_MUL, scored(&s, CUDNN_POINTWISE_SUB, dp, delta), p);
    ds = scored(&s, CUDNN_POINTWISE_MUL, ds, scale);
    keys_grad(&s, MF_CUDNN_DK, ds, q);
    queries_grad(&s, ds, k);
}
