/* attention.cuh: what attention's kernels share: a call as they are given it, the tiles of its queries, and
 * the keys that a tile sees. Positions are counted in 32 bits. */
#ifndef MF_DEVICE_CUDA_ATTENTION_CUH
#define MF_DEVICE_CUDA_ATTENTION_CUH

#include "device/cuda/element.cuh"
#include "device/cuda_sizes/attention.h"

enum { KEY_TILE = MF_ATTENTION_KEY_TILE };
#define ATTENTION_LOG2E 1.44269504f

/* One call. Queries by falling position and keys by rising position, since the first have the most keys in
 * forward, and the first keys the most queries in backward. Without causality the queries come after all. */
typedef struct attention_job {
    const void *q, *d_o;
    void *o;
    float *lse, *dq, *parts; /* parts: [splits][batch * tokens][heads * (head_dim + 1)] */
    const float *delta;
    const int32_t *first_key;
    int64_t q_ld, o_ld, lse_ld, do_ld, dq_ld, tokens;
    mf_attention_cut cut;
    int32_t batch, heads, first_head, group, kv_heads, first_kv_head, head_dim, turns, window, splits;
    float scale;
    bool merge, writes_f32;
    bool wide, wide_o, wide_grads; /* pieces of 16 bytes of what is read, and pairs of what is written */
    int32_t query_chunks, key_chunks;
    int32_t key_tile;                         /* backward: keys of a block, */
    int64_t key_tiles;                        /* and how many blocks that makes of a head and a sequence */
    const mf_attention_queries *more_queries; /* NULL: they are here */
    const mf_attention_keys *more_keys;
    mf_attention_queries queries[MF_ATTENTION_FEW_QUERIES];
    mf_attention_keys keys[MF_ATTENTION_FEW_KEYS];
} attention_job;

/* Takes the workspace and stores what does not fit into the parameter. tile_rows: of query tiles. */
mf_status attention_begin(mf_device *device, const mf_attention_args *args, bool backward, attention_job *job,
                          mf_buffer *workspace);
/* Blocks for so many units; MF_EUNSUPPORTED where that is more than a grid has. */
mf_status attention_grid(int64_t units, dim3 *out);
/* attention_forward.cu, attention_backward.cu: bf16 by tensor cores; attention_plain.cu: without. */
mf_status attention_forward_tiled(mf_device *device, const attention_job *job);
mf_status attention_backward_tiled(mf_device *device, const mf_attention_args *args,
                                   const attention_job *job);
mf_status attention_forward_plain(mf_device *device, mf_dtype type, const attention_job *job);
/* attention_combine.cu: the results of splits to one. */
mf_status attention_combine(mf_device *device, const attention_job *job);
mf_status attention_backward_plain(mf_device *device, mf_dtype type, const attention_job *job);

/* A kernel that needs more shared memory than every kernel may have. */
template <typename... Parameters>
mf_status attention_launch(mf_device *device, const char *name, void (*kernel)(Parameters...), dim3 grid,
                           int threads, size_t shared_bytes, const attention_job *job) {
    MF_TRY(mf_cuda_check(
        name, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes)));
    return mf_cuda_launch(device, name, kernel, grid, dim3((unsigned)threads), shared_bytes, *job);
}

static __device__ __forceinline__ const mf_attention_queries *attention_queries(const attention_job &job) {
    return job.more_queries ? job.more_queries : job.queries;
}

static __device__ __forceinline__ const mf_attention_keys *attention_keys(const attention_job &job) {
    return job.more_keys ? job.more_keys : job.keys;
}

/* Rows of queries that are computed together: [heads, tokens] of one key head and one sequence. */
struct attention_tile {
    int64_t first_row; /* the first token's, in the sequence */
    int tokens, position;
    int batch, kv_head, head, heads;
};

static __device__ __forceinline__ int attention_rows(const attention_tile &tile) {
    return tile.heads * tile.tokens;
}

/* The call's heads of key head tile.kv_head, those of a block of them; none: no heads. */
static __device__ __forceinline__ void attention_take_heads(const attention_job &job, int block,
                                                            attention_tile *tile) {
    int absolute = job.first_kv_head + tile->kv_head;
    int first = max(0, absolute * job.group - job.first_head);
    int end = min(job.heads, (absolute + 1) * job.group - job.first_head);
    tile->head = first + block * job.cut.heads;
    tile->heads = max(0, min(job.cut.heads, end - tile->head));
}

static __device__ __forceinline__ void attention_take_tokens(const attention_job &job,
                                                             const mf_attention_queries &chunk, int token,
                                                             int end, attention_tile *tile) {
    tile->first_row = chunk.first_row + token;
    tile->position = chunk.position + token;
    tile->tokens = min(job.cut.tokens, end - token);
}

/* The query tile of a number, of job.cut.tiles * batch * kv_heads * head_blocks: all heads of all sequences
 * before the next tokens. */
static __device__ __forceinline__ attention_tile attention_tile_of(const attention_job &job, int64_t number) {
    attention_tile tile;
    int block = (int)(number % job.cut.head_blocks);
    number /= job.cut.head_blocks;
    tile.kv_head = (int)(number % job.kv_heads);
    number /= job.kv_heads;
    tile.batch = (int)(number % job.batch);
    number /= job.batch;
    attention_take_heads(job, block, &tile);
    const mf_attention_queries *chunk = attention_queries(job);
    for (;; chunk++) {
        int tiles = (chunk->rows + job.cut.tokens - 1) / job.cut.tokens;
        if (number < tiles) break;
        number -= tiles;
    }
    int tiles = (chunk->rows + job.cut.tokens - 1) / job.cut.tokens;
    attention_take_tokens(job, *chunk, (tiles - 1 - (int)number) * job.cut.tokens, chunk->rows, &tile);
    return tile;
}

/* Where a row of a tile is: its row of q, o, lse, ..., and its head. */
struct attention_place {
    int64_t row;
    int head;
};

static __device__ __forceinline__ int64_t attention_token_row(const attention_job &job,
                                                              const attention_tile &tile, int token) {
    int sequences = tile.batch / job.turns, turn = tile.batch % job.turns;
    return (sequences * job.tokens + tile.first_row + token) * job.turns + turn;
}

static __device__ __forceinline__ attention_place attention_place_of(const attention_job &job,
                                                                     const attention_tile &tile, int row) {
    int head = row / tile.tokens;
    return {attention_token_row(job, tile, row - head * tile.tokens), tile.head + head};
}

/* Elements from a chunk's first token to another of a sequence, its head kv_head. */
static __device__ __forceinline__ int64_t attention_key_at(const attention_job &job, int64_t ld,
                                                           int64_t batch_ld, int batch, int kv_head,
                                                           int token) {
    int sequences = batch / job.turns, turn = batch % job.turns;
    return sequences * batch_ld + ((int64_t)token * job.turns + turn) * ld + (int64_t)kv_head * job.head_dim;
}

/* The positions that a token sees: low to high. */
struct attention_sight {
    int low, high;
};

static __device__ __forceinline__ attention_sight attention_sight_of(const attention_job &job,
                                                                     const attention_tile &tile, int token) {
    attention_sight sight = {0, tile.position + token};
    sight.low = max(0, sight.high - job.window + 1);
    if (job.first_key)
        sight.low = max(sight.low, job.first_key[(int64_t)tile.batch * job.tokens + tile.first_row + token]);
    return sight;
}

/* What any of a tile's tokens sees: low never falls from token to token. */
static __device__ __forceinline__ attention_sight attention_sight_of_tile(const attention_job &job,
                                                                          const attention_tile &tile) {
    return {attention_sight_of(job, tile, 0).low, tile.position + tile.tokens - 1};
}

/* The key tiles within sight, one after the other: keys row .. end - 1 of a chunk are still to come, and
 * `left` tiles in all. */
struct attention_walk {
    attention_sight sight;
    int chunk, row, end, left;
};

/* Keys of a chunk within sight, from *row on; returns their tiles. */
static __device__ __forceinline__ int attention_within(const mf_attention_keys &keys,
                                                       const attention_sight &sight, int *row, int *end) {
    *row = max(0, sight.low - keys.position);
    *end = min(keys.rows, sight.high - keys.position + 1);
    return max(0, *end - *row + KEY_TILE - 1) / KEY_TILE;
}

/* The keys of one split. */
static __device__ __forceinline__ attention_walk attention_walk_begin(const attention_job &job,
                                                                      const attention_sight &sight,
                                                                      int split) {
    const mf_attention_keys *keys = attention_keys(job);
    attention_walk walk = {sight, -1, 0, 0, 0};
    int64_t tiles = 0;
    for (int i = 0; i < job.key_chunks; i++) tiles += attention_within(keys[i], sight, &walk.row, &walk.end);
    int64_t first = tiles * split / job.splits;
    walk.left = (int)(tiles * (split + 1) / job.splits - first);
    if (walk.left == 0) return walk;
    for (int here = 0;; first -= here) {
        here = attention_within(keys[++walk.chunk], sight, &walk.row, &walk.end);
        if (first < here) break;
    }
    walk.row += (int)first * KEY_TILE;
    return walk;
}

static __device__ __forceinline__ void attention_walk_on(const attention_job &job, attention_walk *walk) {
    walk->row += KEY_TILE;
    if (--walk->left == 0) return;
    while (walk->row >= walk->end) {
        walk->chunk++;
        attention_within(attention_keys(job)[walk->chunk], walk->sight, &walk->row, &walk->end);
    }
}

/* Keys of one sequence and one head that lie `stride` apart. */
struct attention_view {
    const mf_attention_keys *chunk;
    int row, rows, position;
    int64_t first, stride; /* elements of k and v */
};

static __device__ __forceinline__ attention_view attention_view_of(const attention_job &job,
                                                                   const attention_walk &walk,
                                                                   const attention_tile &tile) {
    const mf_attention_keys *keys = attention_keys(job) + walk.chunk;
    return {keys,
            walk.row,
            min(KEY_TILE, walk.end - walk.row),
            keys->position + walk.row,
            attention_key_at(job, keys->ld, keys->batch_ld, tile.batch, tile.kv_head, walk.row),
            keys->ld * job.turns};
}

/* Whether every row of the tile sees all the keys of a full tile. */
static __device__ __forceinline__ bool
attention_sees_all(const attention_job &job, const attention_tile &tile, const attention_view &view) {
    return view.rows == KEY_TILE && view.position + KEY_TILE - 1 <= tile.position &&
           view.position >= attention_sight_of(job, tile, tile.tokens - 1).low;
}

/* The query tiles that see some keys, one after the other, head block after head block: tokens token .. end -
 * 1 of a chunk are still to come. */
struct query_walk {
    attention_tile tile;
    int first, last; /* the keys' positions */
    int block, chunk, token, end;
};

/* Tokens of a chunk that are not past what `last` can be seen from. */
static __device__ __forceinline__ int tokens_until(const attention_job &job,
                                                   const mf_attention_queries &chunk, int batch, int last) {
    int end = (int)min((int64_t)chunk.rows, (int64_t)last - chunk.position + job.window), begin = 0;
    if (!job.first_key) return end;
    const int32_t *first_key = job.first_key + (int64_t)batch * job.tokens + chunk.first_row;
    while (begin < end) { /* first_key never falls */
        int middle = (begin + end) / 2;
        if (first_key[middle] <= last)
            begin = middle + 1;
        else
            end = middle;
    }
    return end;
}

/* Takes the next tile; false: there is none. */
static __device__ __forceinline__ bool query_walk_on(const attention_job &job, query_walk *walk) {
    walk->token += job.cut.tokens;
    while (walk->token >= walk->end) {
        if (++walk->chunk == job.query_chunks) {
            walk->chunk = 0;
            if (++walk->block == job.cut.head_blocks) return false;
        }
        const mf_attention_queries &chunk = attention_queries(job)[walk->chunk];
        walk->token = max(0, walk->first - chunk.position);
        walk->end = tokens_until(job, chunk, walk->tile.batch, walk->last);
    }
    attention_take_heads(job, walk->block, &walk->tile);
    attention_take_tokens(job, attention_queries(job)[walk->chunk], walk->token, walk->end, &walk->tile);
    return walk->tile.heads > 0;
}

/* The key tile of a number, of key_tiles * batch * kv_heads: `rows` keys of a chunk. Readies the walk over
 * the queries that see it. */
static __device__ __forceinline__ attention_view attention_key_tile_of(const attention_job &job,
                                                                       int64_t number, int rows,
                                                                       query_walk *queries) {
    attention_walk keys = {};
    queries->tile.kv_head = (int)(number % job.kv_heads);
    number /= job.kv_heads;
    queries->tile.batch = (int)(number % job.batch);
    number /= job.batch;
    for (;; keys.chunk++) {
        int tiles = (attention_keys(job)[keys.chunk].rows + rows - 1) / rows;
        if (number < tiles) break;
        number -= tiles;
    }
    keys.row = (int)number * rows;
    attention_view view = attention_view_of(job, keys, queries->tile);
    view.rows = min(rows, view.chunk->rows - keys.row);
    queries->first = view.position;
    queries->last = view.position + view.rows - 1;
    queries->block = 0;
    queries->chunk = -1;
    queries->token = queries->end = 0;
    return view;
}

/* How a row's result of this call joins that of earlier calls, whose lse is -infinity where there is none. */
struct attention_mix {
    float keep, add, lse;
};

static __device__ __forceinline__ attention_mix attention_mix_of(float earlier, float now) {
    if (earlier == -INFINITY) return {0, 1, now};
    float top = fmaxf(earlier, now), kept = expf(earlier - top), added = expf(now - top);
    float all = kept + added;
    return {kept / all, added / all, top + logf(all)};
}

/* o, in the type that it has. */
static __device__ __forceinline__ float attention_read_o(const attention_job &job, int64_t at) {
    return job.writes_f32 ? ((const float *)job.o)[at] : __bfloat162float(((const mf_bf16 *)job.o)[at]);
}

static __device__ __forceinline__ void attention_write_o(const attention_job &job, int64_t at, float value) {
    if (job.writes_f32)
        ((float *)job.o)[at] = value;
    else
        ((mf_bf16 *)job.o)[at] = __float2bfloat16_rn(value);
}

/* A row's softmax over the keys of this block, relative to its largest score. */
struct attention_sums {
    float top, sum; /* top in powers of two */
};

/* A row's end: what its results are multiplied with, and where they go. */
struct attention_end {
    int64_t at, lse_at;
    float scale, keep, lse;
    bool part;  /* to parts, in f32, where another kernel puts them together */
    bool stays; /* nothing was seen, and what is there is kept */
};

/* Reads the row's lse, so all threads of a row call this before any calls attention_end_lse. */
static __device__ __forceinline__ attention_end attention_end_of(const attention_job &job,
                                                                 const attention_place &place, int split,
                                                                 const attention_sums &sums) {
    attention_end end = {};
    bool blind = sums.top == -INFINITY && sums.sum == 0; /* scores of NaN make a sum of NaN */
    float now = blind ? -INFINITY : sums.top / ATTENTION_LOG2E + logf(sums.sum);
    float scale = blind ? 0 : 1 / sums.sum;
    end.part = job.splits > 1;
    if (end.part) {
        int64_t width = (int64_t)job.heads * (job.head_dim + 1);
        int64_t row = ((int64_t)split * job.batch * job.tokens + place.row) * width;
        end.at = row + (int64_t)place.head * job.head_dim;
        end.lse_at = row + (int64_t)job.heads * job.head_dim + place.head;
    } else {
        end.at = place.row * job.o_ld + (int64_t)place.head * job.head_dim;
        end.lse_at = place.row * job.lse_ld + place.head;
        end.stays = blind && job.merge;
    }
    attention_mix mix = {0, 1, now};
    if (job.merge && !end.part && !blind) mix = attention_mix_of(job.lse[end.lse_at], now);
    end.scale = scale * mix.add;
    end.keep = mix.keep;
    end.lse = mix.lse;
    return end;
}

static __device__ __forceinline__ void attention_end_lse(const attention_job &job, const attention_end &end) {
    if (end.stays) return;
    (end.part ? job.parts : job.lse)[end.lse_at] = end.lse;
}

static __device__ __forceinline__ void attention_end_value(const attention_job &job, const attention_end &end,
                                                           int column, float value) {
    int64_t at = end.at + column;
    value *= end.scale;
    if (end.part) {
        job.parts[at] = value;
        return;
    }
    if (end.keep != 0) value += end.keep * attention_read_o(job, at);
    attention_write_o(job, at, value);
}

#endif
