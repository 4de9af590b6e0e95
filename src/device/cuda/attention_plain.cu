/* attention_plain.cu: attention without tensor cores: f32, to f32's own accuracy, and heads of bf16 that are
 * larger than their tiles. Any head size: sums over it go by slices of CONTRACTED columns, results by slices
 * of RESULTS, for each of which scores are computed anew. A block has a tile of 64 by 64 scores; a thread has
 * those of rows thread_row() + 16 i and columns thread_column() + 16 j. */
#include "device/cuda/attention.cuh"

enum { SIDE = 64, EACH = 4, STRIDE = SIDE / EACH, THREADS = STRIDE * STRIDE, CONTRACTED = 16, RESULTS = 128 };
/* Rows of floats that lie so that eight neighbours' pieces of 16 bytes are in different banks. */
enum { CONTRACTED_PITCH = CONTRACTED + 4, WEIGHTS_PITCH = SIDE + 4, RESULTS_PITCH = RESULTS + 4 };

struct __align__(16) plain_tiles {
    float a[SIDE][CONTRACTED_PITCH], b[SIDE][CONTRACTED_PITCH];
    float weights[SIDE][WEIGHTS_PITCH];
    float rows[CONTRACTED][RESULTS_PITCH];
};

/* Scores of a thread; its results: columns 4 thread_column() + 64 j and the next three. */
struct plain_scores {
    float at[EACH][EACH];
};
struct plain_results {
    float at[EACH][RESULTS / SIDE][4];
};

static __device__ __forceinline__ int thread_row(void) { return (int)threadIdx.x / STRIDE; }
static __device__ __forceinline__ int thread_column(void) { return (int)threadIdx.x % STRIDE; }

static __device__ __forceinline__ float value_of(float value) { return value; }
static __device__ __forceinline__ float value_of(mf_bf16 value) { return __bfloat162float(value); }

/* Rows of one of the call's matrices: element at(row) begins row `row`, of those that there are. */
template <typename T, typename At> struct matrix {
    const T *data;
    int rows, columns;
    At at;

    __device__ __forceinline__ float operator()(int row, int column) const {
        return row < rows && column < columns ? value_of(data[at(row) + column]) : 0;
    }
};

template <typename T, typename At>
static __device__ __forceinline__ matrix<T, At> matrix_of(const void *data, int rows, int columns, At at) {
    return {(const T *)data, rows, columns, at};
}

struct key_place {
    int64_t first, stride;
    __device__ __forceinline__ int64_t operator()(int row) const { return first + row * stride; }
};

struct query_place {
    const attention_job *job;
    const attention_tile *tile;
    int64_t ld;
    __device__ __forceinline__ int64_t operator()(int row) const {
        attention_place place = attention_place_of(*job, *tile, row);
        return place.row * ld + (int64_t)place.head * job->head_dim;
    }
};

template <typename T> using key_matrix = matrix<T, key_place>;
template <typename T> using query_matrix = matrix<T, query_place>;

template <typename T>
static __device__ __forceinline__ key_matrix<T> keys_of(const void *data, const attention_job &job,
                                                        const attention_view &view) {
    return {(const T *)data, view.rows, job.head_dim, {view.first, view.stride}};
}

template <typename T>
static __device__ __forceinline__ query_matrix<T>
queries_of(const void *data, int64_t ld, const attention_job &job, const attention_tile &tile) {
    return {(const T *)data, attention_rows(tile), job.head_dim, {&job, &tile, ld}};
}

static __device__ __forceinline__ float4 four(const float *at) { return *(const float4 *)at; }

static __device__ __forceinline__ float dot(float4 a, float4 b, float sum) {
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

static __device__ __forceinline__ void add_slice(const plain_tiles &tiles, plain_scores &scores) {
#pragma unroll
    for (int c = 0; c < CONTRACTED; c += 4) {
        float4 b[EACH];
#pragma unroll
        for (int j = 0; j < EACH; j++) b[j] = four(&tiles.b[thread_column() + j * STRIDE][c]);
#pragma unroll
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            float4 a = four(&tiles.a[thread_row() + i * STRIDE][c]);
#pragma unroll
            for (int j = 0; j < EACH; j++) scores.at[i][j] = dot(a, b[j], scores.at[i][j]);
        }
    }
}

/* scores = a · b transposed, over all columns. Ends with what it used free again. */
template <typename A, typename B>
static __device__ __forceinline__ void multiply_rows(plain_tiles &tiles, const A &a, const B &b,
                                                     plain_scores &scores) {
    scores = {};
    for (int first = 0; first < a.columns; first += CONTRACTED) {
        for (int i = (int)threadIdx.x; i < SIDE * CONTRACTED; i += THREADS) {
            int row = i / CONTRACTED, column = i % CONTRACTED;
            tiles.a[row][column] = a(row, first + column);
            tiles.b[row][column] = b(row, first + column);
        }
        __syncthreads();
        add_slice(tiles, scores);
        __syncthreads();
    }
}

static __device__ __forceinline__ void put_weights(plain_tiles &tiles, const plain_scores &weights) {
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++)
            tiles.weights[thread_row() + i * STRIDE][thread_column() + j * STRIDE] = weights.at[i][j];
}

static __device__ __forceinline__ void add_rows(const plain_tiles &tiles, int first, plain_results &results) {
#pragma unroll 4
    for (int k = 0; k < CONTRACTED; k++)
#pragma unroll
        for (int j = 0; j < RESULTS / SIDE; j++) {
            float4 row = four(&tiles.rows[k][4 * thread_column() + j * SIDE]);
#pragma unroll
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                float weight = tiles.weights[thread_row() + i * STRIDE][first + k];
                float *sum = results.at[i][j];
                sum[0] = fmaf(weight, row.x, sum[0]);
                sum[1] = fmaf(weight, row.y, sum[1]);
                sum[2] = fmaf(weight, row.z, sum[2]);
                sum[3] = fmaf(weight, row.w, sum[3]);
            }
        }
}

/* results += weights · b, of b's columns from first_column on. */
template <typename B>
static __device__ __forceinline__ void multiply_weights(plain_tiles &tiles, const plain_scores &weights,
                                                        const B &b, int first_column,
                                                        plain_results &results) {
    put_weights(tiles, weights);
    for (int first = 0; first < b.rows; first += CONTRACTED) {
        for (int i = (int)threadIdx.x; i < CONTRACTED * RESULTS; i += THREADS) {
            int row = i / RESULTS, column = i % RESULTS;
            tiles.rows[row][column] = b(first + row, first_column + column);
        }
        __syncthreads();
        add_rows(tiles, first, results);
        __syncthreads();
    }
}

/* Calls each(column, value) for this thread's results of its i-th row, of slices from first_column on. */
template <typename Each>
static __device__ __forceinline__ void each_result(const plain_results &results, int i, int first_column,
                                                   int columns, Each each) {
#pragma unroll
    for (int j = 0; j < RESULTS / SIDE; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            int column = first_column + 4 * thread_column() + j * SIDE + c;
            if (column < columns) each(column, results.at[i][j][c]);
        }
}

/* The sixteen threads of a row. */
static __device__ __forceinline__ float row_max(float value) {
    for (int lanes = 1; lanes < STRIDE; lanes *= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lanes));
    return value;
}

static __device__ __forceinline__ float row_sum(float value) {
    for (int lanes = 1; lanes < STRIDE; lanes *= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    return value;
}

static __device__ __forceinline__ bool sees(const attention_sight &sight, int position) {
    return position >= sight.low && position <= sight.high;
}

/* A thread's rows of a query tile; those past its end see nothing. */
struct plain_rows {
    attention_sight sight[EACH];
};

static __device__ __forceinline__ plain_rows rows_of(const attention_job &job, const attention_tile &tile) {
    plain_rows rows;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int row = thread_row() + i * STRIDE;
        rows.sight[i] = {0, -1};
        if (row < attention_rows(tile)) rows.sight[i] = attention_sight_of(job, tile, row % tile.tokens);
    }
    return rows;
}

/* scores: of a view, scaled in powers of two, become weights relative to the row's largest so far. */
static __device__ __forceinline__ void soften(const plain_rows &rows, const attention_view &view,
                                              float factor, attention_sums *sums, plain_scores &scores,
                                              plain_results &o) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        float top = sums[i].top, sum = 0;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            int column = thread_column() + j * STRIDE;
            bool seen = column < view.rows && sees(rows.sight[i], view.position + column);
            scores.at[i][j] = seen ? scores.at[i][j] * factor : -INFINITY;
            top = fmaxf(top, scores.at[i][j]);
        }
        top = row_max(top);
        float base = top == -INFINITY ? 0 : top, shrink = exp2f(sums[i].top - base);
#pragma unroll
        for (int j = 0; j < EACH; j++) sum += scores.at[i][j] = exp2f(scores.at[i][j] - base);
        sums[i] = {top, sums[i].sum * shrink + row_sum(sum)};
#pragma unroll
        for (int j = 0; j < RESULTS / SIDE; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) o.at[i][j][c] *= shrink;
    }
}

/* A slice of o; whose last writes lse. `ends` holds rows' ends once the first slice has found them. */
template <typename T>
static __device__ void forward_slice(const attention_job &job, const attention_tile &tile, int split,
                                     attention_walk walk, int first_column, plain_tiles &tiles,
                                     attention_end *ends) {
    plain_rows rows = rows_of(job, tile);
    plain_scores scores;
    plain_results o = {};
    attention_sums sums[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) sums[i] = {-INFINITY, 0};
    for (; walk.left; attention_walk_on(job, &walk)) {
        attention_view view = attention_view_of(job, walk, tile);
        multiply_rows(tiles, queries_of<T>(job.q, job.q_ld, job, tile), keys_of<T>(view.chunk->k, job, view),
                      scores);
        soften(rows, view, job.scale * ATTENTION_LOG2E, sums, scores, o);
        multiply_weights(tiles, scores, keys_of<T>(view.chunk->v, job, view), first_column, o);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int row = thread_row() + i * STRIDE;
        bool exists = row < attention_rows(tile);
        if (exists && first_column == 0)
            ends[i] = attention_end_of(job, attention_place_of(job, tile, row), split, sums[i]);
        if (!exists || ends[i].stays) continue;
        each_result(o, i, first_column, job.head_dim,
                    [&](int column, float value) { attention_end_value(job, ends[i], column, value); });
    }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS) forward(const __grid_constant__ attention_job job) {
    __shared__ plain_tiles tiles;
    attention_tile tile = attention_tile_of(job, blockIdx.x / job.splits);
    int split = (int)(blockIdx.x % job.splits);
    if (tile.heads == 0) return;
    attention_walk walk = attention_walk_begin(job, attention_sight_of_tile(job, tile), split);
    attention_end ends[EACH];
    for (int first = 0; first < job.head_dim; first += RESULTS)
        forward_slice<T>(job, tile, split, walk, first, tiles, ends);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH && thread_column() == 0; i++)
        if (thread_row() + i * STRIDE < attention_rows(tile)) attention_end_lse(job, ends[i]);
}

/* What a query's row gives to its scores' gradients. */
struct plain_fact {
    float lse, delta;
    attention_sight sight;
};

static __device__ __forceinline__ plain_fact fact_of(const attention_job &job, const attention_tile &tile,
                                                     int row) {
    if (row >= attention_rows(tile)) return {0, 0, {0, -1}};
    attention_place place = attention_place_of(job, tile, row);
    return {job.lse[place.row * job.lse_ld + place.head] * ATTENTION_LOG2E,
            job.delta[place.row * job.heads + place.head], attention_sight_of(job, tile, row % tile.tokens)};
}

/* One score and d_o · v become a probability and the score's gradient. */
static __device__ __forceinline__ void differentiate(const attention_job &job, const plain_fact &fact,
                                                     int position, bool exists, float &score, float &slope) {
    bool seen = exists && sees(fact.sight, position);
    score = seen ? exp2f(fmaf(score, job.scale * ATTENTION_LOG2E, -fact.lse)) : 0;
    slope = seen ? score * (slope - fact.delta) * job.scale : 0;
}

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    gradients_of_queries(const __grid_constant__ attention_job job) {
    __shared__ plain_tiles tiles;
    attention_tile tile = attention_tile_of(job, blockIdx.x);
    if (tile.heads == 0) return;
    attention_walk begin = attention_walk_begin(job, attention_sight_of_tile(job, tile), 0);
    if (begin.left == 0) return;
    plain_fact facts[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) facts[i] = fact_of(job, tile, thread_row() + i * STRIDE);
    for (int first_column = 0; first_column < job.head_dim; first_column += RESULTS) {
        plain_results dq = {};
        for (attention_walk walk = begin; walk.left; attention_walk_on(job, &walk)) {
            attention_view view = attention_view_of(job, walk, tile);
            key_matrix<T> k = keys_of<T>(view.chunk->k, job, view);
            plain_scores scores, slopes;
            multiply_rows(tiles, queries_of<T>(job.q, job.q_ld, job, tile), k, scores);
            multiply_rows(tiles, queries_of<T>(job.d_o, job.do_ld, job, tile),
                          keys_of<T>(view.chunk->v, job, view), slopes);
#pragma unroll
            for (int i = 0; i < EACH; i++)
                for (int j = 0; j < EACH; j++) {
                    int column = thread_column() + j * STRIDE;
                    differentiate(job, facts[i], view.position + column, column < view.rows, scores.at[i][j],
                                  slopes.at[i][j]);
                }
            multiply_weights(tiles, slopes, k, first_column, dq);
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int row = thread_row() + i * STRIDE;
            if (row >= attention_rows(tile)) continue;
            float *out = job.dq + query_place{&job, &tile, job.dq_ld}(row);
            each_result(dq, i, first_column, job.head_dim,
                        [&](int column, float value) { out[column] += value; });
        }
    }
}

/* A key tile's scores against a query tile, transposed: rows are keys. */
template <typename T>
static __device__ __forceinline__ void add_dkv(const attention_job &job, const attention_tile &tile,
                                               const attention_view &view, int first_column,
                                               plain_tiles &tiles, plain_results &dk, plain_results &dv) {
    query_matrix<T> q = queries_of<T>(job.q, job.q_ld, job, tile);
    query_matrix<T> d_o = queries_of<T>(job.d_o, job.do_ld, job, tile);
    plain_scores scores, slopes;
    multiply_rows(tiles, keys_of<T>(view.chunk->k, job, view), q, scores);
    multiply_rows(tiles, keys_of<T>(view.chunk->v, job, view), d_o, slopes);
    for (int j = 0; j < EACH; j++) {
        plain_fact fact = fact_of(job, tile, thread_column() + j * STRIDE);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int row = thread_row() + i * STRIDE;
            differentiate(job, fact, view.position + row, row < view.rows, scores.at[i][j], slopes.at[i][j]);
        }
    }
    multiply_weights(tiles, scores, d_o, first_column, dv);
    multiply_weights(tiles, slopes, q, first_column, dk);
}

static __device__ __forceinline__ void end_dkv(const attention_job &job, const attention_view &view,
                                               const attention_tile &tile, int first_column,
                                               const plain_results &dk, const plain_results &dv) {
    const mf_attention_keys &keys = *view.chunk;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int row = thread_row() + i * STRIDE;
        if (row >= view.rows) continue;
        int64_t at =
            attention_key_at(job, keys.grad_ld, keys.grad_batch_ld, tile.batch, tile.kv_head, view.row + row);
        each_result(dk, i, first_column, job.head_dim,
                    [&](int column, float value) { keys.dk[at + column] += value; });
        each_result(dv, i, first_column, job.head_dim,
                    [&](int column, float value) { keys.dv[at + column] += value; });
    }
}

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    gradients_of_keys(const __grid_constant__ attention_job job) {
    __shared__ plain_tiles tiles;
    query_walk begin;
    attention_view view = attention_key_tile_of(job, blockIdx.x, SIDE, &begin);
    if (!query_walk_on(job, &begin)) return;
    for (int first_column = 0; first_column < job.head_dim; first_column += RESULTS) {
        plain_results dk = {}, dv = {};
        query_walk walk = begin;
        do {
            add_dkv<T>(job, walk.tile, view, first_column, tiles, dk, dv);
        } while (query_walk_on(job, &walk));
        end_dkv(job, view, begin.tile, first_column, dk, dv);
    }
}

static mf_status forward_grid(const attention_job *job, dim3 *out) {
    const mf_attention_cut *cut = &job->cut;
    return attention_grid(cut->tiles * cut->head_blocks * job->kv_heads * job->batch * job->splits, out);
}

mf_status attention_forward_plain(mf_device *device, mf_dtype type, const attention_job *job) {
    dim3 grid;
    MF_TRY(forward_grid(job, &grid));
    return mf_cuda_launch(device, "attention", type == MF_F32 ? forward<float> : forward<mf_bf16>, grid,
                          dim3(THREADS), 0, *job);
}

mf_status attention_backward_plain(mf_device *device, mf_dtype type, const attention_job *job) {
    dim3 grid;
    MF_TRY(attention_grid(job->key_tiles * job->kv_heads * job->batch, &grid));
    MF_TRY(mf_cuda_launch(device, "attention's key gradients",
                          type == MF_F32 ? gradients_of_keys<float> : gradients_of_keys<mf_bf16>, grid,
                          dim3(THREADS), 0, *job));
    MF_TRY(forward_grid(job, &grid));
    return mf_cuda_launch(device, "attention's query gradients",
                          type == MF_F32 ? gradients_of_queries<float> : gradients_of_queries<mf_bf16>, grid,
                          dim3(THREADS), 0, *job);
}
