/* attention_tile.h: what attention's files share: runs and tiles, the lanes that work on them, products. */
#ifndef MF_CPU_ATTENTION_TILE_H
#define MF_CPU_ATTENTION_TILE_H

#include "device/cpu/attention.h"
#include "device/cpu/attention_rows.h"

#include <dnnl.h>

/* Rows of a tile. Short query tiles keep the square that straddles the diagonal, half of it wasted, small.
 * A lane's tiles fit a second-level cache of 2 MiB or nearly, and products run as fast as large ones. */
enum { QUERY_TILE = MF_QUERY_TILE, KEY_TILE = 512, FORWARD_BATCHES = 4, PRODUCTS = 256 };

/* c: [m, n] f32 = a: [m, k] · b: [k, n], all dense; += with accumulate. */
typedef struct attention_shape {
    int64_t m, n, k;
    mf_dtype type; /* of a and b */
    bool a_transposed, b_transposed, accumulate;
} attention_shape;

typedef struct attention_product {
    attention_shape shape;
    uint64_t used; /* when, counted in executions */
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, scratch;
} attention_product;

/* A run of consecutive tokens of one chunk, a tile's rows at most. Where every query sees every key, each
 * run of keys is at position 0 and each of queries behind it. */
typedef struct attention_run {
    int64_t rows, position, row; /* row: of the sequence (queries) or of the chunk (keys) */
    int chunk;
} attention_run;

typedef struct attention_runs {
    attention_run *run;
    int64_t count, capacity;
} attention_runs;

/* Where a lane's tiles lie in its workspace, in bytes; forward and backward each have some. */
typedef struct attention_layout {
    size_t q, d_o, k, v;     /* product type */
    size_t scores, d_scores; /* f32 */
    size_t p, d_s;           /* product type; the f32 tiles themselves where that is f32 */
    size_t o, dq;            /* f32 */
    size_t grads[2];         /* f32: dk, then dv, of two key tiles */
    size_t row_a, row_b;     /* f32, one a query row */
    size_t scratch, scratch_bytes;
    size_t bytes;
} attention_layout;

/* What one thread works with. */
typedef struct attention_lane {
    dnnl_engine_t engine; /* the attention's */
    dnnl_stream_t stream;
    attention_product products[PRODUCTS];
    int product_count;
    uint64_t executions;
    char *base;
    const attention_layout *layout;
    int64_t pending; /* backward: the column whose sums wait for the others'; -1: none */
    mf_status status;
    mf_error error;
} attention_lane;

struct mf_cpu_attention {
    mf_memory *memory;
    dnnl_engine_t engine;
    mf_dtype bf16_products; /* type in which bf16 tiles are multiplied */
    int lane_count;
    attention_lane *lanes;
    mf_buffer workspace;
    attention_runs queries, keys; /* of the call in progress */
};

/* One call. */
typedef struct attention_job {
    mf_cpu_attention *attention;
    const mf_attention_args *args;
    mf_dtype product; /* type of the tiles that are multiplied */
    int64_t merged;   /* query heads whose rows share a tile, where chunks are shorter than one */
    int64_t batches;  /* forward: such tiles that share a key tile */
    attention_layout layout;
    int64_t next; /* forward: the unit that comes next */
} attention_job;

/* Some query heads that read one key head, and a run of tokens of one sequence: rows [heads, run->rows]. */
typedef struct attention_tile {
    const attention_run *run;
    int64_t batch, head, heads, kv_head;
} attention_tile;

/* Rows that a tile of n is padded to, so that few shapes occur. */
static inline int64_t attention_pad(int64_t n) {
    int64_t padded = 1;
    if (n > 16) return (n + 31) / 32 * 32;
    while (padded < n) padded *= 2;
    return padded;
}

/* Cuts the call's chunks into runs (queries by falling position), lays out the workspace, readies lanes. */
mf_status mf_cpu_attention_begin(mf_device *device, const mf_attention_args *args, bool backward,
                                 attention_job *job);
/* The first failure of a lane in the order of lanes, as this thread's error. */
mf_status mf_cpu_attention_end(attention_job *job);
/* The call's query heads that read its key head kv_head: [*first, *end). */
void mf_cpu_attention_heads(const mf_attention_args *args, int64_t kv_head, int64_t *first, int64_t *end);

mf_status mf_cpu_attention_lane_open(attention_lane *lane, dnnl_engine_t engine);
void mf_cpu_attention_lane_close(attention_lane *lane);

/* How many rows apart a sequence's tokens are. */
static inline int64_t attention_stride(const mf_attention_args *args) { return mf_max(1, args->interleave); }
/* The row of q, o, lse, ... that a sequence's token is. */
static inline int64_t attention_row(const mf_attention_args *args, int64_t batch, int64_t token) {
    int64_t stride = attention_stride(args);
    return (batch / stride * args->tokens + token) * stride + batch % stride;
}
/* Elements from a chunk's first token to a sequence's token. */
static inline int64_t attention_key(const mf_attention_args *args, int64_t ld, int64_t batch_ld,
                                    int64_t batch, int64_t token) {
    int64_t stride = attention_stride(args);
    return batch / stride * batch_ld + (token * stride + batch % stride) * ld;
}

/* The position of the first key that a row of a run of queries may see; it never falls from row to row. */
static inline int64_t attention_first_key(const mf_attention_args *args, int64_t batch,
                                          const attention_run *queries, int64_t row) {
    int64_t first = args->first_key ? args->first_key[batch * args->tokens + queries->row + row] : 0;
    return args->window ? mf_max(first, queries->position + row - args->window + 1) : first;
}

/* What any row of a run of queries sees of a run of keys; no rows where that is nothing. */
static inline attention_run attention_seen(const mf_attention_args *args, int64_t batch,
                                           const attention_run *queries, const attention_run *keys) {
    attention_run seen = *keys;
    int64_t end = mf_min(keys->position + keys->rows, queries->position + queries->rows);
    int64_t passed = attention_first_key(args, batch, queries, 0) - keys->position;
    passed = mf_max(0, mf_min(passed, keys->rows));
    seen.position += passed;
    seen.row += passed;
    seen.rows = mf_max(0, end - seen.position);
    return seen;
}

/* Called inside the parallel region: primitives are made for the one thread that runs them. */
mf_status mf_cpu_attention_multiply(attention_lane *lane, const attention_shape *shape, const void *a,
                                    const void *b, float *c);
/* Most scratch that a product of this shape is given. */
size_t mf_cpu_attention_scratch(const attention_shape *shape);

/* out: [padded, cols] of type `product` = in: [rows, cols], then rows of zeros. */
void mf_cpu_attention_pack(void *out, mf_dtype product, const void *in, mf_dtype type, int64_t ld,
                           int64_t rows, int64_t cols, int64_t padded);
/* The rows of `tile` of a matrix [batch, tokens, heads, head_dim], padded. */
void mf_cpu_attention_pack_queries(const attention_job *job, const attention_tile *tile, const void *in,
                                   int64_t ld, void *out);

/* attention_single.c: one query a sequence. workspace: so many bytes. */
bool mf_cpu_attention_is_single(const mf_attention_args *args);
size_t mf_cpu_attention_single_bytes(const mf_attention_args *args, int threads);
mf_status mf_cpu_attention_single(mf_device *device, const mf_attention_args *args, float *workspace);

static inline void *attention_at(const attention_lane *lane, size_t offset) { return lane->base + offset; }

#endif
