/* workspace.c: sizes of the GPU's workspace. They depend on an operation's sizes alone, never on the
 * GPU: so do the orders of sums, and with them the results. */
#include "device/cuda_sizes/workspace.h"

/* A thousand blocks fill a GPU; fewer than 16 rows each would write as much as they read. */
enum { PART_ROWS = 16, PARTS_MOST = 1024 };

int64_t mf_cuda_parts(int64_t rows) { return mf_min(mf_ceil_div(rows, PART_ROWS), PARTS_MOST); }

static int64_t floats(int64_t n) { return n * (int64_t)sizeof(float); }

int64_t mf_cuda_rmsnorm_backward_workspace(const mf_rmsnorm_grad *a) {
    return floats(mf_cuda_parts(a->n) * a->h);
}

int64_t mf_cuda_headnorm_backward_workspace(const mf_headnorm_args *a) {
    return floats(mf_cuda_parts(a->rows * a->heads) * a->head_dim);
}

int64_t mf_cuda_bias_backward_workspace(const mf_bias_args *a) {
    return floats(mf_cuda_parts(a->rows) * a->width);
}

static int64_t run_of(const mf_cuda_runs *runs, const mf_modulate_args *a, int64_t row) {
    int64_t place = a->first_row + row;
    return place / a->sample_rows * runs->per_sample + place % a->sample_rows / runs->rows;
}

mf_cuda_runs mf_cuda_modulate_runs(const mf_modulate_args *a) {
    mf_cuda_runs runs = {.rows = mf_max(PART_ROWS, mf_ceil_div(a->n, PARTS_MOST))};
    runs.per_sample = mf_ceil_div(a->sample_rows, runs.rows);
    runs.first = run_of(&runs, a, 0);
    runs.count = run_of(&runs, a, a->n - 1) + 1 - runs.first;
    return runs;
}

/* [count][2][h]: each run's shares of dshift and dscale. */
int64_t mf_cuda_modulate_backward_workspace(const mf_modulate_args *a) {
    return a->dshift ? floats(mf_cuda_modulate_runs(a).count * 2 * a->h) : 0;
}

int64_t mf_cuda_embed_backward_workspace(const mf_embed_args *a) { return a->n * (int64_t)sizeof(int32_t); }

int64_t mf_cuda_total_parts(int64_t n) { return mf_min(mf_ceil_div(n, 4096), PARTS_MOST); }

int64_t mf_cuda_total_workspace(int64_t n) {
    return n ? (mf_cuda_total_parts(n) + 1) * (int64_t)sizeof(double) : 0;
}
