/* sum.cu: sums of vectors to several places, and sums of squares and of squared errors for the host. */
#include "device/cuda/rows.cuh"
#include "device/cuda/totals.cuh"

/* Elements at .. at + V - 1 of n; those past the end are 0. packed: the vector can be read in packs. */
template <typename T, int V>
static __device__ inline void load_some(const T *from, int64_t at, int64_t n, bool packed, float (&to)[V]) {
    if (packed && at + V <= n) {
        mf_load<V>(from + at, to);
        return;
    }
#pragma unroll
    for (int j = 0; j < V; j++) to[j] = at + j < n ? mf_as_f32(from[at + j]) : 0;
}

template <typename T, int V>
static __device__ inline void store_some(T *to, int64_t at, int64_t n, bool packed, const float (&from)[V]) {
    if (packed && at + V <= n) {
        mf_store<V>(from, to + at);
        return;
    }
#pragma unroll
    for (int j = 0; j < V; j++)
        if (at + j < n) to[at + j] = mf_as<T>(from[j]);
}

/* Terms to places. */

typedef struct sum_lists {
    int64_t n;
    int terms, places;
    bool packed;
    const void *term[MF_SUM_TERMS];
    void *to[MF_SUM_TERMS];
} sum_lists;

/* A thread has read all terms of its elements before it writes them: a place may be a term. */
template <typename T, int V> static __global__ void sum_terms(sum_lists a) {
    MF_FOR_EACH(i, (a.n + V - 1) / V) {
        float sum[V], x[V];
        load_some((const T *)a.term[0], i * V, a.n, a.packed, sum);
#pragma unroll 4
        for (int t = 1; t < a.terms; t++) {
            load_some((const T *)a.term[t], i * V, a.n, a.packed, x);
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += x[j];
        }
        for (int p = 0; p < a.places; p++) store_some((T *)a.to[p], i * V, a.n, a.packed, sum);
    }
}

static sum_lists lists_of(const mf_sum_args *args) {
    sum_lists lists = {};
    uintptr_t places = 0;
    lists.n = args->n, lists.terms = args->terms, lists.places = args->places;
    for (int i = 0; i < args->terms; i++) places |= (uintptr_t)(lists.term[i] = args->term[i]);
    for (int i = 0; i < args->places; i++) places |= (uintptr_t)(lists.to[i] = args->to[i]);
    lists.packed = places % 16 == 0;
    return lists;
}

template <typename T, int V>
static mf_status launch_terms(mf_device *device, cudaStream_t stream, const sum_lists *lists) {
    return mf_cuda_launch_in(device, stream, "sum_terms", sum_terms<T, V>,
                             mf_cuda_grid(mf_ceil_div(lists->n, V)), MF_BLOCK, 0, *lists);
}

mf_status mf_cuda_sum(mf_device *device, mf_queue queue, const mf_sum_args *args) {
    mf_cuda_place *place = mf_cuda_of(device)->place;
    sum_lists lists = lists_of(args);
    return args->type == MF_F32 ? launch_terms<float, 4>(device, place->queue[queue], &lists)
                                : launch_terms<mf_bf16, 8>(device, place->queue[queue], &lists);
}

/* Totals. */

static __global__ void add_shares(int64_t n, const double *shares, double *total) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += MF_BLOCK) sum += shares[i];
    sum = mf_block_total(sum);
    if (threadIdx.x == 0) *total = sum;
}

static mf_status run_total(mf_device *device, int64_t n, mf_cuda_share *share, const void *of, double *shares,
                           double *total) {
    int64_t parts = mf_cuda_total_parts(n);
    MF_TRY(share(device, of, dim3((unsigned)parts), shares));
    MF_TRY(mf_cuda_launch(device, "add_shares", add_shares, 1, MF_BLOCK, 0, parts, shares, shares + parts));
    return mf_cuda_copy(device, MF_QUEUE_COMPUTE, total, shares + parts, sizeof *total);
}

mf_status mf_cuda_total(mf_device *device, int64_t n, mf_cuda_share *share, const void *of, double *total) {
    mf_buffer shares = {};
    *total = 0;
    if (n == 0) return MF_OK;
    MF_TRY(mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)mf_cuda_total_workspace(n),
                           "shares of a sum", &shares));
    mf_status status = run_total(device, n, share, of, (double *)shares.data, total);
    mf_buffer_free(device->memory, &shares);
    return status;
}

/* Elements that a thread adds at once. Whether they are read together or not their order is one. */
enum { AT_ONCE = 4 };

typedef struct vector {
    int64_t n;
    const float *x;
    bool packed;
} vector;

static __global__ void share_of_squares(vector v, double *shares) {
    double sum = 0;
#pragma unroll 4
    MF_FOR_EACH(i, (v.n + AT_ONCE - 1) / AT_ONCE) {
        float x[AT_ONCE];
        load_some(v.x, i * AT_ONCE, v.n, v.packed, x);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) sum += (double)x[j] * (double)x[j];
    }
    sum = mf_block_total(sum);
    if (threadIdx.x == 0) shares[blockIdx.x] = sum;
}

static mf_status share_squares(mf_device *device, const void *of, dim3 grid, double *shares) {
    return mf_cuda_launch(device, "sum_squares", share_of_squares, grid, MF_BLOCK, 0, *(const vector *)of,
                          shares);
}

mf_status mf_cuda_sum_squares(mf_device *device, int64_t n, const float *x, double *sum) {
    vector v = {n, x, (uintptr_t)x % 16 == 0};
    return mf_cuda_total(device, n, share_squares, &v, sum);
}

static __global__ void share_of_errors(mf_squared_error_args a, bool packed, double *shares) {
    double sum = 0;
    MF_FOR_EACH(i, (a.n + AT_ONCE - 1) / AT_ONCE) {
        float pred[AT_ONCE], target[AT_ONCE];
        load_some(a.pred, i * AT_ONCE, a.n, packed, pred);
        load_some(a.target, i * AT_ONCE, a.n, packed, target);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            double error = (double)pred[j] - (double)target[j];
            sum += error * error;
            pred[j] = 2.0f * a.scale * (pred[j] - target[j]);
        }
        if (a.d_pred) store_some(a.d_pred, i * AT_ONCE, a.n, packed, pred);
    }
    sum = mf_block_total(sum);
    if (threadIdx.x == 0) shares[blockIdx.x] = sum;
}

static mf_status share_errors(mf_device *device, const void *of, dim3 grid, double *shares) {
    const mf_squared_error_args *a = (const mf_squared_error_args *)of;
    bool packed = ((uintptr_t)a->pred | (uintptr_t)a->target | (uintptr_t)a->d_pred) % 16 == 0;
    return mf_cuda_launch(device, "squared_error", share_of_errors, grid, MF_BLOCK, 0, *a, packed, shares);
}

mf_status mf_cuda_squared_error(mf_device *device, const mf_squared_error_args *a, double *loss) {
    return mf_cuda_total(device, a->n, share_errors, a, loss);
}
