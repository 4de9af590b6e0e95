/* attention_backward.cu: gradients of bf16 tiles by tensor cores; probabilities come again from lse. One
 * kernel goes over key tiles and adds up what all queries give to dk and dv, another over query tiles and
 * adds up dq. So scores are computed twice, but every sum has one writer and one order: the same bits on
 * every run. A warp has 16 rows of its block's sums, and weights stay in its registers: the first kernel's
 * are transposed. */
#include "device/cuda/attention_tiles.cuh"

/* Of a query row. lse: in powers of two; infinity where the row sees nothing, or isn't. */
struct query_fact {
    float lse, delta;
    attention_sight sight;
};

static __device__ __forceinline__ query_fact fact_of(const attention_job &job, const attention_tile &tile,
                                                     int row) {
    if (row >= attention_rows(tile)) return {INFINITY, 0, {0, -1}};
    attention_place place = attention_place_of(job, tile, row);
    float lse = job.lse[place.row * job.lse_ld + place.head] * ATTENTION_LOG2E;
    return {lse == -INFINITY ? INFINITY : lse, job.delta[place.row * job.heads + place.head],
            attention_sight_of(job, tile, row % tile.tokens)};
}

static __device__ __forceinline__ float probability(const attention_job &job, float score, float lse) {
    return mf_exp2(fmaf(score, job.scale * ATTENTION_LOG2E, -lse));
}

static __device__ __forceinline__ bool sees(const attention_sight &sight, int position) {
    return position >= sight.low && position <= sight.high;
}

/* scores become probabilities. */
static __device__ __forceinline__ void find_probabilities(const attention_job &job, const query_fact *rows,
                                                          warp_sums<1, KEY_TILE> &scores) {
#pragma unroll
    for (int n = 0; n < KEY_TILE / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            scores.at[0][n][i] = probability(job, scores.at[0][n][i], rows[i / 2].lse);
}

static __device__ __forceinline__ void hide(const query_fact *rows, const attention_view &view,
                                            warp_sums<1, KEY_TILE> &p) {
#pragma unroll
    for (int n = 0; n < KEY_TILE / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int column = n * 8 + lane_column() + i % 2;
            if (column >= view.rows || !sees(rows[i / 2].sight, view.position + column)) p.at[0][n][i] = 0;
        }
}

/* slopes: d_o · v transposed become the scores' gradients but for the scale. */
static __device__ __forceinline__ void weigh_slopes(const query_fact *rows, const warp_sums<1, KEY_TILE> &p,
                                                    warp_sums<1, KEY_TILE> &slopes) {
#pragma unroll
    for (int n = 0; n < KEY_TILE / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            slopes.at[0][n][i] = p.at[0][n][i] * (slopes.at[0][n][i] - rows[i / 2].delta);
}

template <int D, int WARPS> struct query_stages {
    static constexpr int rows = WARPS * 16, pitch = D + TILE_PAD, count = D <= 128 ? 2 : 1;
    mf_bf16 q[rows * pitch], d_o[rows * pitch];
    mf_bf16 k[count][KEY_TILE * pitch], v[count][KEY_TILE * pitch];
};

template <int D, int WARPS>
static __device__ __forceinline__ void begin_stage(const attention_job &job, const attention_view &view,
                                                   query_stages<D, WARPS> *tiles, int stage) {
    begin_keys<D, KEY_TILE, WARPS * MF_WARP>(tiles->k[stage], view.chunk->k, job, view);
    begin_keys<D, KEY_TILE, WARPS * MF_WARP>(tiles->v[stage], view.chunk->v, job, view);
    mf_copy_group();
}

template <int D, int WARPS>
static __device__ __forceinline__ void
add_dq(const attention_job &job, const attention_tile &tile, const attention_view &view,
       const query_fact *rows, const query_stages<D, WARPS> *tiles, int stage, warp_sums<1, D> &dq) {
    int first_row = warp_of() * 16, pitch = tiles->pitch;
    warp_sums<1, KEY_TILE> p, slopes;
    warp_weights<1, KEY_TILE> weights;
    if (first_row >= attention_rows(tile)) return;
    if (tile.heads == 1 && view.position > tile.position + first_row + 15) return;
    multiply_rows<D>(p, tiles->q + first_row * pitch, tiles->k[stage]);
    find_probabilities(job, rows, p);
    if (!attention_sees_all(job, tile, view)) hide(rows, view, p);
    multiply_rows<D>(slopes, tiles->d_o + first_row * pitch, tiles->v[stage]);
    weigh_slopes(rows, p, slopes);
    narrow(weights, slopes);
    multiply_weights<D>(dq, weights, tiles->k[stage]);
}

template <int D, int WARPS>
static __device__ __forceinline__ void end_dq(const attention_job &job, const attention_tile &tile,
                                              const warp_sums<1, D> &dq) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = warp_of() * 16 + half * 8 + lane_row();
        if (row >= attention_rows(tile)) continue;
        attention_place place = attention_place_of(job, tile, row);
        add_row(job.dq + place.row * job.dq_ld + (int64_t)place.head * job.head_dim, dq, 0, half,
                job.head_dim, job.scale, job.wide_grads);
    }
}

template <int D, int WARPS>
static __global__ void __launch_bounds__(WARPS *MF_WARP, 1)
    gradients_of_queries(const __grid_constant__ attention_job job) {
    extern __shared__ uint4 shared[];
    query_stages<D, WARPS> *tiles = (query_stages<D, WARPS> *)shared;
    attention_tile tile = attention_tile_of(job, blockIdx.x);
    if (tile.heads == 0) return;
    attention_walk walk = attention_walk_begin(job, attention_sight_of_tile(job, tile), 0);
    if (walk.left == 0) return;
    warp_sums<1, D> dq;
    clear(dq);
    attention_view view = attention_view_of(job, walk, tile), next = view;
    begin_queries<D, WARPS * 16, WARPS * MF_WARP>(tiles->q, job.q, job.q_ld, job, tile);
    begin_queries<D, WARPS * 16, WARPS * MF_WARP>(tiles->d_o, job.d_o, job.do_ld, job, tile);
    begin_stage(job, view, tiles, 0);
    query_fact rows[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
        rows[half] = fact_of(job, tile, warp_of() * 16 + half * 8 + lane_row());
    for (int stage = 0;; stage = (stage + 1) % tiles->count) {
        attention_walk_on(job, &walk);
        if (walk.left) next = attention_view_of(job, walk, tile);
        mf_copy_wait<0>();
        __syncthreads(); /* the stage is here, and nobody needs the last one */
        if (walk.left && tiles->count > 1) begin_stage(job, next, tiles, 1 - stage);
        add_dq(job, tile, view, rows, tiles, stage, dq);
        if (walk.left == 0) break;
        view = next;
        if (tiles->count > 1) continue;
        __syncthreads();
        begin_stage(job, view, tiles, 0);
    }
    end_dq<D, WARPS>(job, tile, dq);
}

enum { QUERIES = 64 };

template <int D, int WARPS> struct key_stages {
    static constexpr int rows = WARPS * 16, pitch = D + TILE_PAD, count = D <= 128 ? 2 : 1;
    mf_bf16 k[rows * pitch], v[rows * pitch];
    mf_bf16 q[count][QUERIES * pitch], d_o[count][QUERIES * pitch];
    float lse[count][QUERIES], delta[count][QUERIES];
    int32_t first_key[count][QUERIES];
};

/* Columns of dk and dv that a block adds up: no more than registers hold. */
template <int D> struct gradient_slice { static constexpr int columns = D <= 128 ? D : 128; };

/* Zeros past the tile's rows, where q and d_o are zeros too: such rows give nothing. */
template <int D, int WARPS>
static __device__ __forceinline__ void begin_facts(const attention_job &job, const attention_tile &tile,
                                                   key_stages<D, WARPS> *tiles, int stage) {
    int row = (int)threadIdx.x;
    if (row >= QUERIES) return;
    bool exists = row < attention_rows(tile);
    attention_place place = attention_place_of(job, tile, exists ? row : 0);
    mf_copy_word_begin(&tiles->lse[stage][row], &job.lse[place.row * job.lse_ld + place.head], exists);
    mf_copy_word_begin(&tiles->delta[stage][row], &job.delta[place.row * job.heads + place.head], exists);
    if (job.first_key)
        mf_copy_word_begin(&tiles->first_key[stage][row],
                           &job.first_key[tile.batch * job.tokens + tile.first_row + row % tile.tokens],
                           exists);
}

template <int D, int WARPS>
static __device__ __forceinline__ void begin_stage(const attention_job &job, const attention_tile &tile,
                                                   key_stages<D, WARPS> *tiles, int stage) {
    begin_queries<D, QUERIES, WARPS * MF_WARP>(tiles->q[stage], job.q, job.q_ld, job, tile);
    begin_queries<D, QUERIES, WARPS * MF_WARP>(tiles->d_o[stage], job.d_o, job.do_ld, job, tile);
    begin_facts(job, tile, tiles, stage);
    mf_copy_group();
}

/* The queries of a stage. */
struct query_span {
    int first, tokens, rows; /* first: position */
};

template <int D, int WARPS>
static __device__ __forceinline__ attention_sight sight_of(const attention_job &job,
                                                           const query_span &queries,
                                                           const key_stages<D, WARPS> *tiles, int stage,
                                                           int row) {
    attention_sight sight = {0, queries.first + row % queries.tokens};
    sight.low = max(0, sight.high - job.window + 1);
    if (job.first_key) sight.low = max(sight.low, tiles->first_key[stage][row]);
    return sight;
}

/* scores: [16 keys, QUERIES] become probabilities; of a row that sees nothing, whatever it may be. */
template <int D, int WARPS>
static __device__ __forceinline__ void find_probabilities(const attention_job &job,
                                                          const key_stages<D, WARPS> *tiles, int stage,
                                                          warp_sums<1, QUERIES> &scores) {
#pragma unroll
    for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float lse = tiles->lse[stage][n * 8 + lane_column() + i] * ATTENTION_LOG2E;
            scores.at[0][n][i] = probability(job, scores.at[0][n][i], lse);
            scores.at[0][n][i + 2] = probability(job, scores.at[0][n][i + 2], lse);
        }
}

/* position: of this thread's first key. */
template <int D, int WARPS>
static __device__ __forceinline__ void hide(const attention_job &job, const query_span &queries,
                                            const key_stages<D, WARPS> *tiles, int stage, int position,
                                            warp_sums<1, QUERIES> &p) {
#pragma unroll
    for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            attention_sight sight = sight_of(job, queries, tiles, stage, n * 8 + lane_column() + i);
            if (!sees(sight, position)) p.at[0][n][i] = 0;
            if (!sees(sight, position + 8)) p.at[0][n][i + 2] = 0;
        }
}

/* slopes: v · d_o transposed become the scores' gradients but for the scale. */
template <int D, int WARPS>
static __device__ __forceinline__ void weigh_slopes(const key_stages<D, WARPS> *tiles, int stage,
                                                    const warp_sums<1, QUERIES> &p,
                                                    warp_sums<1, QUERIES> &slopes) {
#pragma unroll
    for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float delta = tiles->delta[stage][n * 8 + lane_column() + i % 2];
            slopes.at[0][n][i] = p.at[0][n][i] * (slopes.at[0][n][i] - delta);
        }
}

/* first, last: the keys' positions. */
template <int D, int WARPS, int SLICE>
static __device__ __forceinline__ void add_dkv(const attention_job &job, int first, int last,
                                               const query_span &queries, const key_stages<D, WARPS> *tiles,
                                               int stage, int first_column, warp_sums<1, SLICE> &dk,
                                               warp_sums<1, SLICE> &dv) {
    int first_row = warp_of() * 16, position = first + first_row, pitch = tiles->pitch;
    warp_sums<1, QUERIES> p, slopes;
    warp_weights<1, QUERIES> weights;
    if (position > last || position > queries.first + queries.tokens - 1) return;
    multiply_rows<D, D / 16>(p, tiles->k + first_row * pitch, tiles->q[stage]);
    find_probabilities(job, tiles, stage, p);
    if (last > queries.first || first < sight_of(job, queries, tiles, stage, queries.rows - 1).low)
        hide(job, queries, tiles, stage, position + lane_row(), p);
    narrow(weights, p);
    multiply_weights<D>(dv, weights, tiles->d_o[stage] + first_column);
    multiply_rows<D, D / 16>(slopes, tiles->v + first_row * pitch, tiles->d_o[stage]);
    weigh_slopes(tiles, stage, p, slopes);
    narrow(weights, slopes);
    multiply_weights<D>(dk, weights, tiles->q[stage] + first_column);
}

template <int SLICE>
static __device__ __forceinline__ void end_dkv(const attention_job &job, const attention_view &view,
                                               const attention_tile &tile, int first_column,
                                               const warp_sums<1, SLICE> &dk, const warp_sums<1, SLICE> &dv) {
    const mf_attention_keys &keys = *view.chunk;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = warp_of() * 16 + half * 8 + lane_row(), columns = job.head_dim - first_column;
        if (row >= view.rows) continue;
        int64_t at = first_column + attention_key_at(job, keys.grad_ld, keys.grad_batch_ld, tile.batch,
                                                     tile.kv_head, view.row + row);
        add_row(keys.dk + at, dk, 0, half, columns, job.scale, job.wide_grads);
        add_row(keys.dv + at, dv, 0, half, columns, 1.0f, job.wide_grads);
    }
}

template <int D, int WARPS>
static __global__ void __launch_bounds__(WARPS *MF_WARP, 1)
    gradients_of_keys(const __grid_constant__ attention_job job) {
    constexpr int slice = gradient_slice<D>::columns, slices = D / slice, threads = WARPS * MF_WARP;
    extern __shared__ uint4 shared[];
    key_stages<D, WARPS> *tiles = (key_stages<D, WARPS> *)shared;
    query_walk walk;
    attention_view view = attention_key_tile_of(job, blockIdx.x / slices, tiles->rows, &walk);
    int first_column = (int)(blockIdx.x % slices) * slice;
    if (first_column >= job.head_dim || !query_walk_on(job, &walk)) return;
    warp_sums<1, slice> dk, dv;
    clear(dk);
    clear(dv);
    begin_keys<D, WARPS * 16, threads>(tiles->k, view.chunk->k, job, view);
    begin_keys<D, WARPS * 16, threads>(tiles->v, view.chunk->v, job, view);
    begin_stage(job, walk.tile, tiles, 0);
    for (int stage = 0;; stage = (stage + 1) % tiles->count) {
        query_span queries = {walk.tile.position, walk.tile.tokens, attention_rows(walk.tile)};
        bool more = query_walk_on(job, &walk);
        mf_copy_wait<0>();
        __syncthreads(); /* the stage is here, and nobody needs the last one */
        if (more && tiles->count > 1) begin_stage(job, walk.tile, tiles, 1 - stage);
        add_dkv(job, walk.first, walk.last, queries, tiles, stage, first_column, dk, dv);
        if (!more) break;
        if (tiles->count > 1) continue;
        __syncthreads();
        begin_stage(job, walk.tile, tiles, 0);
    }
    end_dkv(job, view, walk.tile, first_column, dk, dv);
}

template <int D, int WARPS> static mf_status launch_keys(mf_device *device, attention_job *job) {
    dim3 grid;
    MF_TRY(attention_grid(job->key_tiles * job->kv_heads * job->batch * (D / gradient_slice<D>::columns),
                          &grid));
    return attention_launch(device, "attention's key gradients", gradients_of_keys<D, WARPS>, grid,
                            WARPS * MF_WARP, sizeof(key_stages<D, WARPS>), job);
}

template <int D, int WARPS> static mf_status launch_queries(mf_device *device, attention_job *job) {
    const mf_attention_cut *cut = &job->cut;
    dim3 grid;
    MF_TRY(attention_grid(cut->tiles * cut->head_blocks * job->kv_heads * job->batch, &grid));
    return attention_launch(device, "attention's query gradients", gradients_of_queries<D, WARPS>, grid,
                            WARPS * MF_WARP, sizeof(query_stages<D, WARPS>), job);
}

template <int D>
static mf_status launch(mf_device *device, const mf_attention_args *args, const attention_job *given) {
    attention_job job = *given;
    job.cut = mf_cuda_attention_cut(args, QUERIES);
    if (D <= 128 && job.key_tile == 128)
        MF_TRY((launch_keys < D, D <= 128 ? 8 : 4 > (device, &job)));
    else
        MF_TRY((launch_keys<D, 4>(device, &job)));
    job.cut = mf_cuda_attention_cut(args, mf_cuda_attention_tile_rows(args));
    if (D <= 128 && mf_cuda_attention_tile_rows(args) == 128)
        return launch_queries < D, D <= 128 ? 8 : 4 > (device, &job);
    return launch_queries<D, 4>(device, &job);
}

mf_status attention_backward_tiled(mf_device *device, const mf_attention_args *args,
                                   const attention_job *job) {
    if (job->head_dim <= 32) return launch<32>(device, args, job);
    if (job->head_dim <= 64) return launch<64>(device, args, job);
    if (job->head_dim <= 96) return launch<96>(device, args, job);
    if (job->head_dim <= 128) return launch<128>(device, args, job);
    return launch<256>(device, args, job);
}
