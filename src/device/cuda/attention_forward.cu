/* attention_forward.cu: query tiles of bf16 meet keys tile by tile with an online softmax, both products by
 * tensor cores (Dao, arXiv 2307.08691). While scores are computed, the values are on their way; while values
 * are added up, the next keys are. */
#include "device/cuda/attention_tiles.cuh"

enum { WARPS = 4, THREADS = WARPS * MF_WARP };

template <int TILES> struct softmax_state {
    float top[TILES][2], sum[TILES][2]; /* sum: of this thread's columns */
};

/* Columns that a row sees of a view: from .. until - 1. */
struct visible {
    int from, until;
};

static __device__ __forceinline__ visible visible_of(const attention_job &job, const attention_tile &tile,
                                                     const attention_view &view, int row) {
    if (row >= attention_rows(tile)) return {0, 0};
    attention_sight sight = attention_sight_of(job, tile, row % tile.tokens);
    return {sight.low - view.position, min(view.rows, sight.high - view.position + 1)};
}

template <int TILES>
static __device__ __forceinline__ void hide(const attention_job &job, const attention_tile &tile,
                                            const attention_view &view, int first_row,
                                            warp_sums<TILES, KEY_TILE> &scores) {
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            visible see = visible_of(job, tile, view, first_row + t * 16 + half * 8 + lane_row());
#pragma unroll
            for (int n = 0; n < KEY_TILE / 8; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    int column = n * 8 + lane_column() + i;
                    if (column < see.from || column >= see.until) scores.at[t][n][half * 2 + i] = -INFINITY;
                }
        }
}

/* Four threads share a row. */
static __device__ __forceinline__ float row_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

static __device__ __forceinline__ float row_sum(float value) {
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

/* One row's scores become weights relative to its largest score so far. Returns what earlier sums shrink by.
 */
template <int TILES>
static __device__ __forceinline__ float
soften(softmax_state<TILES> &state, warp_sums<TILES, KEY_TILE> &scores, int t, int half, float factor) {
    float top = state.top[t][half], sum = 0;
#pragma unroll
    for (int n = 0; n < KEY_TILE / 8; n++)
        top = fmaxf(top, fmaxf(scores.at[t][n][half * 2], scores.at[t][n][half * 2 + 1]));
    top = row_max(top);
    float base = top == -INFINITY ? 0 : top * factor;
    float shrink = mf_exp2(state.top[t][half] * factor - base);
    state.top[t][half] = top;
#pragma unroll
    for (int n = 0; n < KEY_TILE / 8; n++)
#pragma unroll
        for (int i = half * 2; i < half * 2 + 2; i++) {
            scores.at[t][n][i] = mf_exp2(fmaf(scores.at[t][n][i], factor, -base));
            sum += scores.at[t][n][i];
        }
    state.sum[t][half] = state.sum[t][half] * shrink + sum;
    return shrink;
}

template <int TILES, int D>
static __device__ __forceinline__ void shrink_rows(warp_sums<TILES, D> &o, int t, int half, float by) {
    if (!__any_sync(0xffffffffu, by != 1)) return;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int i = half * 2; i < half * 2 + 2; i++) o.at[t][n][i] *= by;
}

/* A scale that is not positive comes first, so that the largest score is the largest still. */
template <int TILES>
static __device__ __forceinline__ float order_scores(warp_sums<TILES, KEY_TILE> &scores, float factor) {
    if (factor > 0) return factor;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int n = 0; n < KEY_TILE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores.at[t][n][i] *= factor;
    return 1;
}

static __device__ __forceinline__ void write_pair(const attention_job &job, const attention_end &end,
                                                  int column, float first, float second) {
    if (job.wide_o && !end.part && end.keep == 0 && !job.writes_f32) {
        *(uint32_t *)((mf_bf16 *)job.o + end.at + column) = packed(first * end.scale, second * end.scale);
        return;
    }
    attention_end_value(job, end, column, first);
    if (column + 1 < job.head_dim) attention_end_value(job, end, column + 1, second);
}

template <int TILES, int D>
static __device__ __forceinline__ void end_rows(const attention_job &job, const attention_tile &tile,
                                                int split, int first_row, const softmax_state<TILES> &state,
                                                const warp_sums<TILES, D> &o) {
    float factor = job.scale > 0 ? job.scale * ATTENTION_LOG2E : 1;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = first_row + t * 16 + half * 8 + lane_row();
            attention_sums sums = {state.top[t][half] * factor, row_sum(state.sum[t][half])};
            attention_end end = {};
            end.stays = true;
            if (row < attention_rows(tile))
                end = attention_end_of(job, attention_place_of(job, tile, row), split, sums);
            __syncwarp();
            if (end.stays) continue;
            each_pair(o, t, half, [&](int column, float first, float second) {
                if (column < job.head_dim) write_pair(job, end, column, first, second);
            });
            if (lane_column() == 0) attention_end_lse(job, end);
        }
}

/* Whether the warp's rows see any of the view. */
template <int TILES>
static __device__ __forceinline__ bool warp_sees(const attention_tile &tile, const attention_view &view,
                                                 int first_row) {
    if (first_row >= attention_rows(tile)) return false;
    return tile.heads > 1 || view.position <= tile.position + first_row + TILES * 16 - 1;
}

template <int D>
static __device__ __forceinline__ void begin_next_keys(const attention_job &job, const attention_walk &walk,
                                                       const attention_tile &tile, mf_bf16 *k) {
    attention_view view = attention_view_of(job, walk, tile);
    begin_keys<D, KEY_TILE, THREADS>(k, view.chunk->k, job, view);
    mf_copy_group();
}

/* The weights of a view's keys; what o holds shrinks to be relative to the same. */
template <int D, int TILES>
static __device__ __forceinline__ void
weigh_keys(const attention_job &job, const attention_tile &tile, const attention_view &view, const mf_bf16 *q,
           const mf_bf16 *k, int first_row, softmax_state<TILES> &state,
           warp_weights<TILES, KEY_TILE> &weights, warp_sums<TILES, D> &o) {
    warp_sums<TILES, KEY_TILE> scores;
    multiply_rows<D>(scores, q + first_row * (D + TILE_PAD), k);
    float factor = order_scores(scores, job.scale * ATTENTION_LOG2E);
    if (!attention_sees_all(job, tile, view)) hide(job, tile, view, first_row, scores);
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) shrink_rows(o, t, half, soften(state, scores, t, half, factor));
    narrow(weights, scores);
}

template <int D, int TILES>
static __device__ __forceinline__ void meet_keys(const attention_job &job, const attention_tile &tile,
                                                 attention_walk &walk, mf_bf16 *q, int first_row,
                                                 softmax_state<TILES> &state, warp_sums<TILES, D> &o) {
    constexpr int pitch = D + TILE_PAD;
    mf_bf16 *k = q + TILES * 16 * WARPS * pitch, *v = k + KEY_TILE * pitch;
    begin_queries<D, TILES * 16 * WARPS, THREADS>(q, job.q, job.q_ld, job, tile);
    begin_next_keys<D>(job, walk, tile, k);
    for (;;) {
        warp_weights<TILES, KEY_TILE> weights;
        attention_view view = attention_view_of(job, walk, tile);
        bool sees = warp_sees<TILES>(tile, view, first_row);
        mf_copy_wait<0>();
        __syncthreads(); /* the keys are here, and nobody needs the last values */
        begin_keys<D, KEY_TILE, THREADS>(v, view.chunk->v, job, view);
        mf_copy_group();
        if (sees) weigh_keys<D>(job, tile, view, q, k, first_row, state, weights, o);
        attention_walk_on(job, &walk);
        mf_copy_wait<0>();
        __syncthreads(); /* the values are here, and nobody needs the keys */
        if (walk.left) begin_next_keys<D>(job, walk, tile, k);
        if (sees) multiply_weights<D>(o, weights, v);
        if (!walk.left) return;
    }
}

template <int D, int TILES>
static __global__ void __launch_bounds__(THREADS) forward(const __grid_constant__ attention_job job) {
    extern __shared__ uint4 shared[];
    attention_tile tile = attention_tile_of(job, blockIdx.x / job.splits);
    int split = (int)(blockIdx.x % job.splits), first_row = warp_of() * TILES * 16;
    if (tile.heads == 0) return;
    attention_walk walk = attention_walk_begin(job, attention_sight_of_tile(job, tile), split);
    softmax_state<TILES> state;
    warp_sums<TILES, D> o;
    clear(o);
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            state.top[t][half] = -INFINITY;
            state.sum[t][half] = 0;
        }
    if (walk.left) meet_keys<D, TILES>(job, tile, walk, (mf_bf16 *)shared, first_row, state, o);
    end_rows(job, tile, split, first_row, state, o);
}

template <int D, int TILES> static mf_status launch(mf_device *device, const attention_job *job) {
    constexpr size_t rows = TILES * 16 * WARPS + 2 * KEY_TILE;
    const mf_attention_cut *cut = &job->cut;
    dim3 grid;
    MF_TRY(attention_grid(cut->tiles * cut->head_blocks * job->kv_heads * job->batch * job->splits, &grid));
    return attention_launch(device, "attention", forward<D, TILES>, grid, THREADS,
                            rows * (D + TILE_PAD) * sizeof(mf_bf16), job);
}

template <int D> static mf_status launch_rows(mf_device *device, const attention_job *job) {
    bool large = job->cut.tokens * job->cut.heads > 64;
    return large ? launch<D, 2>(device, job) : launch<D, 1>(device, job);
}

mf_status attention_forward_tiled(mf_device *device, const attention_job *job) {
    if (job->head_dim <= 32) return launch_rows<32>(device, job);
    if (job->head_dim <= 64) return launch_rows<64>(device, job);
    if (job->head_dim <= 96) return launch_rows<96>(device, job);
    if (job->head_dim <= 128) return launch_rows<128>(device, job);
    return launch<256, 1>(device, job);
}
