/* attention.c: see attention.h. */
#include "device/cuda_sizes/attention.h"

/* TILED_HEAD: the largest head that tensor cores' kernels hold. LARGE_HEAD: above, a tile has half the rows.
 * ENOUGH_TILES: two for each multiprocessor of an H200, about. SPLIT_TILES: key tiles that a part has at
 * least, so that it does more than be merged. */
enum { TILED_HEAD = 256, LARGE_HEAD = 128, ENOUGH_TILES = 256, SPLIT_TILES = 4, MOST_SPLITS = 64 };

bool mf_cuda_attention_is_tiled(const mf_attention_args *args) {
    return args->type == MF_BF16 && args->head_dim <= TILED_HEAD;
}

static int64_t longest_queries(const mf_attention_args *args) {
    int64_t longest = 0;
    for (int i = 0; i < args->query_chunks; i++) longest = mf_max(longest, args->queries[i].rows);
    return longest;
}

mf_attention_cut mf_cuda_attention_cut(const mf_attention_args *args, int tile_rows) {
    int64_t group = mf_min(args->group, args->heads), tiles = 0;
    int64_t heads = mf_max(1, mf_min(group, tile_rows / mf_max(1, longest_queries(args))));
    int64_t tokens = tile_rows / heads;
    for (int i = 0; i < args->query_chunks; i++) tiles += mf_ceil_div(args->queries[i].rows, tokens);
    return (mf_attention_cut){.tokens = (int32_t)tokens,
                              .heads = (int32_t)heads,
                              .head_blocks = (int32_t)mf_ceil_div(group, heads),
                              .tiles = tiles};
}

int mf_cuda_attention_tile_rows(const mf_attention_args *args) {
    int64_t rows = longest_queries(args) * mf_min(args->group, args->heads);
    return mf_cuda_attention_is_tiled(args) && args->head_dim <= LARGE_HEAD && rows > 64 ? 128 : 64;
}

int mf_cuda_attention_splits(const mf_attention_args *args) {
    mf_attention_cut cut = mf_cuda_attention_cut(args, mf_cuda_attention_tile_rows(args));
    int64_t units = mf_max(1, cut.tiles * cut.head_blocks * args->kv_heads * args->batch), key_tiles = 0;
    for (int i = 0; i < args->key_chunks; i++)
        key_tiles += mf_ceil_div(args->keys[i].rows, MF_ATTENTION_KEY_TILE);
    int64_t wanted = mf_min(mf_min(ENOUGH_TILES / units, key_tiles / SPLIT_TILES), MOST_SPLITS);
    return (int)mf_max(1, wanted);
}

static int64_t list_bytes(const mf_attention_args *args) {
    int64_t bytes = 0;
    if (args->query_chunks > MF_ATTENTION_FEW_QUERIES)
        bytes += args->query_chunks * (int64_t)sizeof(mf_attention_queries);
    if (args->key_chunks > MF_ATTENTION_FEW_KEYS)
        bytes += args->key_chunks * (int64_t)sizeof(mf_attention_keys);
    return bytes;
}

int64_t mf_cuda_attention_workspace(const mf_attention_args *args, bool backward) {
    int splits = backward ? 1 : mf_cuda_attention_splits(args);
    int64_t results = args->batch * args->tokens * args->heads * (args->head_dim + 1);
    return list_bytes(args) + (splits > 1 ? splits * results * (int64_t)sizeof(float) : 0);
}
