/* ops_modulation.c: layer norm modulated by samples' vectors, gates and places in a grid against plain
 * double-precision formulas, gradients against finite differences of those; on one thread and on two, in both
 * compute types, at awkward sizes. */
#include "ops.h"

#include <math.h>

/* Rows of samples of `sample_rows`, from a row within one; vectors at distance ld. */
typedef struct rows {
    int64_t n, h, first_row, sample_rows;
    mf_dtype type;
    float mean; /* of the values */
} rows;

/* Runs every case on every size, and on one that has several blocks of sums a sample. */
static void on_all_rows(void (*run)(const rows *)) {
    static const int64_t place[][2] = {{0, 1000}, {0, 1}, {3, 5}, {40, 21}};
    for (int t = 0; t < 2; t++) {
        for (int s = 0; s < SIZES; s++)
            for (int p = 0; p < 4; p++) {
                run(&(rows){sizes[s][0], sizes[s][1], place[p][0], place[p][1], types[t], 0});
                drop_to(0);
            }
        run(&(rows){300, 33, 110, 150, types[t], 0});
        run(&(rows){7, 257, 0, 7, types[t], t == 0 ? 30.0f : 1.0f});
        drop_to(0);
    }
}

static int64_t ld_of(const rows *r) { return r->h + 3; }
static int64_t sample_of(const rows *r, int64_t row) { return (r->first_row + row) / r->sample_rows; }

/* Elements of the vectors of all samples that the rows are of. */
static int64_t vectors(const rows *r) { return r->n ? span(sample_of(r, r->n - 1) + 1, r->h, ld_of(r)) : 0; }

/* The vector's value for element i of all rows. */
static int64_t vector_at(const rows *r, int64_t i) { return sample_of(r, i / r->h) * ld_of(r) + i % r->h; }

static void *rows_of(const rows *r, const char *name) {
    float *exact = normals(name, r->n * r->h);
    for (int64_t i = 0; i < r->n * r->h; i++) exact[i] += r->mean;
    if (r->type == MF_F32) return exact;
    uint16_t *out = blank(r->n * r->h, MF_BF16);
    for (int64_t i = 0; i < r->n * r->h; i++) out[i] = nearest(exact[i]);
    return out;
}

/* Modulation. */

static const double eps = 1e-5;

static void normalise(int64_t h, const double *x, double *out) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < h; i++) mean += x[i] / (double)h;
    for (int64_t i = 0; i < h; i++) square += (x[i] - mean) * (x[i] - mean) / (double)h;
    for (int64_t i = 0; i < h; i++) out[i] = (x[i] - mean) / sqrt(square + eps);
}

/* What a row's gradient is that of: the sum of e * norm(x). */
static double dot(int64_t h, const double *x, const double *e, double *norm) {
    double sum = 0;
    normalise(h, x, norm);
    for (int64_t i = 0; i < h; i++) sum += e[i] * norm[i];
    return sum;
}

/* Central differences of a row. */
static void add_differences(int64_t h, double *x, const double *e, double *dx) {
    const double step = 1e-5;
    double *norm = take((size_t)h * sizeof *norm);
    for (int64_t i = 0; i < h; i++) {
        double kept = x[i], up, down;
        x[i] = kept + step, up = dot(h, x, e, norm);
        x[i] = kept - step, down = dot(h, x, e, norm);
        x[i] = kept;
        dx[i] += (up - down) / (2 * step);
    }
}

static mf_modulate_args modulate_args(const rows *r) {
    return (mf_modulate_args){.type = r->type,
                              .n = r->n,
                              .h = r->h,
                              .eps = (float)eps,
                              .first_row = r->first_row,
                              .sample_rows = r->sample_rows,
                              .mod_ld = ld_of(r),
                              .x = rows_of(r, "x"),
                              .shift = normals("shift", vectors(r)),
                              .scale = normals("scale", vectors(r)),
                              .dy = normals("dy", r->n * r->h)};
}

static void modulate_forward(const rows *r) {
    mf_modulate_args a = modulate_args(r);
    double *x = doubles(a.x, r->n * r->h, r->type), *want = take((size_t)(r->n * r->h) * sizeof *want);
    for (int64_t t = 0; t < r->n; t++) normalise(r->h, x + t * r->h, want + t * r->h);
    for (int64_t i = 0; i < r->n * r->h; i++) {
        int64_t v = vector_at(r, i);
        want[i] = want[i] * (1 + (double)a.scale[v]) + (double)a.shift[v];
    }
    for (int m = 0; m < MACHINES; m++) {
        a.y = blank(r->n * r->h, r->type);
        ASSERT_OK(mf_modulate_forward(machine[m], &a));
        check_close("modulation", r->n * r->h, a.y, r->type, want);
    }
}

static void modulate_backward(const rows *r) {
    mf_modulate_args a = modulate_args(r);
    int64_t count = r->n * r->h, h = r->h;
    double *x = doubles(a.x, count, r->type), *want = doubles(normals("dx", count), count, MF_F32),
           *shift = doubles(normals("dshift", vectors(r)), vectors(r), MF_F32),
           *scale = doubles(normals("dscale", vectors(r)), vectors(r), MF_F32),
           *e = take((size_t)count * sizeof *e), *norm = take((size_t)count * sizeof *norm);
    for (int64_t t = 0; t < r->n; t++) normalise(h, x + t * h, norm + t * h);
    for (int64_t i = 0; i < count; i++) {
        int64_t v = vector_at(r, i);
        e[i] = (double)a.dy[i] * (1 + (double)a.scale[v]);
        shift[v] += (double)a.dy[i];
        scale[v] += (double)a.dy[i] * norm[i];
    }
    for (int64_t t = 0; t < r->n; t++) add_differences(h, x + t * h, e + t * h, want + t * h);
    float *dx[MACHINES], *dshift[MACHINES], *dscale[MACHINES];
    for (int m = 0; m < MACHINES; m++) {
        a.dx = dx[m] = normals("dx", count);
        a.dshift = dshift[m] = normals("dshift", vectors(r));
        a.dscale = dscale[m] = normals("dscale", vectors(r));
        ASSERT_OK(mf_modulate_backward(machine[m], &a));
        check_close("modulation dx", count, a.dx, MF_F32, want);
        check_close("modulation dshift", vectors(r), a.dshift, MF_F32, shift);
        check_close("modulation dscale", vectors(r), a.dscale, MF_F32, scale);
    }
    check_same("dx on two threads", dx[1], dx[0], bytes_of(count, MF_F32));
    check_same("dshift on two threads", dshift[1], dshift[0], bytes_of(vectors(r), MF_F32));
    check_same("dscale on two threads", dscale[1], dscale[0], bytes_of(vectors(r), MF_F32));
    a.dx = normals("dx", count), a.dshift = a.dscale = NULL;
    ASSERT_OK(mf_modulate_backward(machine[0], &a));
    check_same("dx alone", a.dx, dx[0], bytes_of(count, MF_F32));
}

static void test_modulate(void **state) {
    (void)state;
    on_all_rows(modulate_forward);
    on_all_rows(modulate_backward);
}

/* Workspace that a backward takes on this device, at the most. */
static int64_t workspace_of(const char *device_name, const mf_memory_source *source, mf_modulate_args *a) {
    mf_memory *own = NULL;
    mf_device *device = NULL;
    ASSERT_OK(mf_memory_create(source, &own));
    ASSERT_OK(mf_device_create(device_name, own, 2, &device));
    ASSERT_OK(mf_modulate_backward(device, a));
    int64_t peak = mf_memory_stats_get(own).peak_total;
    mf_device_destroy(device);
    mf_memory_destroy(own);
    return peak;
}

static void test_modulate_dry(void **state) {
    (void)state;
    mf_modulate_args a = modulate_args(&(rows){300, 33, 110, 150, MF_BF16, 0});
    a.dx = normals("dx", 300 * 33);
    int64_t none = workspace_of("cpu", &mf_memory_heap, &a);
    assert_int_equal(workspace_of("dry", &mf_memory_dry, &a), none);
    a.dshift = normals("dshift", 3 * 36), a.dscale = normals("dscale", 3 * 36);
    int64_t sums = workspace_of("cpu", &mf_memory_heap, &a);
    assert_true(sums > none);
    assert_int_equal(workspace_of("dry", &mf_memory_dry, &a), sums);
}

/* Gates. */

static void gate_one(const rows *r) {
    int64_t count = r->n * r->h;
    const void *in = rows_of(r, "in");
    double *scaled = doubles(in, count, r->type), *added = doubles(in, count, r->type);
    mf_gate_args a = {.type = r->type,
                      .n = r->n,
                      .h = r->h,
                      .first_row = r->first_row,
                      .sample_rows = r->sample_rows,
                      .mod_ld = ld_of(r),
                      .gate = normals("gate", vectors(r)),
                      .in = in,
                      .delta = normals("delta", count)};
    for (int64_t i = 0; i < count; i++) {
        double gate = (double)a.gate[vector_at(r, i)];
        scaled[i] *= gate;
        added[i] += gate * (double)a.delta[i];
    }
    for (int m = 0; m < MACHINES; m++) {
        void *copy = copy_of(in, count, r->type);
        a.in = in, a.out = blank(count, r->type);
        ASSERT_OK(mf_gate_scale(machine[m], &a));
        check_close("gated", count, a.out, r->type, scaled);
        a.out = blank(count, r->type);
        ASSERT_OK(mf_gate_add(machine[m], &a));
        check_close("gated and added", count, a.out, r->type, added);
        void *apart = a.out;
        a.in = a.out = copy;
        ASSERT_OK(mf_gate_add(machine[m], &a));
        check_same("gated and added in place", copy, apart, bytes_of(count, r->type));
    }
}

static void test_gate(void **state) {
    (void)state;
    on_all_rows(gate_one);
}

static void gate_grads_one(int64_t n, int64_t cols, mf_dtype type) {
    int64_t g_ld = cols + 1, w_ld = cols + 2, dw_ld = cols + 3, size = span(n, cols, dw_ld);
    float *g = normals("g", span(n, cols, g_ld)), *gate = normals("gate", n), *dgate[MACHINES], *dw[MACHINES];
    void *w = values("w", span(n, cols, w_ld), type);
    double *want_dw = doubles(normals("dw", size), size, MF_F32),
           *want_dgate = doubles(normals("dgate", n), n, MF_F32);
    for (int64_t j = 0; j < n; j++)
        for (int64_t k = 0; k < cols; k++) {
            want_dw[j * dw_ld + k] += (double)gate[j] * (double)g[j * g_ld + k];
            want_dgate[j] += at(w, type, j * w_ld + k) * (double)g[j * g_ld + k];
        }
    for (int m = 0; m < MACHINES; m++) {
        dw[m] = normals("dw", size), dgate[m] = normals("dgate", n);
        mf_gate_grads_args a = {type, n, cols, g, g_ld, w, w_ld, gate, dw[m], dw_ld, dgate[m]};
        ASSERT_OK(mf_gate_grads(machine[m], &a));
        check_close("gate's dw", size, dw[m], MF_F32, want_dw);
        check_close("gate's dgate", n, dgate[m], MF_F32, want_dgate);
    }
    check_same("dw on two threads", dw[1], dw[0], bytes_of(size, MF_F32));
    check_same("dgate on two threads", dgate[1], dgate[0], bytes_of(n, MF_F32));
}

static void test_gate_grads(void **state) {
    (void)state;
    for (int i = 0; i < SIZES * 2; i++) gate_grads_one(sizes[i / 2][0], sizes[i / 2][1], types[i % 2]);
}

/* Places in a grid. */

static void grid_embed_one(const rows *r) {
    static const int64_t places[3] = {5, 3, 4};
    int64_t w = r->h / 3, count = r->n * r->h;
    mf_grid_embed_args a = {.type = r->type,
                            .n = r->n,
                            .h = r->h,
                            .first_row = r->first_row,
                            .sample_rows = r->sample_rows,
                            .y = normals("y", count),
                            .bias = normals("bias", r->h),
                            .width = {w, 0, r->h - w}};
    if (w > 1) a.width[0]--, a.width[1]++;
    int32_t *index = take((size_t)(r->sample_rows * 3) * sizeof *index);
    double *want = doubles(a.y, count, MF_F32);
    for (int t = 0; t < 3; t++) a.table[t] = normals("xyz" + t, places[t] * a.width[t]);
    for (int64_t i = 0; i < r->sample_rows * 3; i++)
        index[i] = (int32_t)(mf_random_u64(1, 2, (uint64_t)i) % (uint64_t)places[i % 3]);
    for (int64_t i = 0; i < count; i++) {
        int64_t c = i % r->h, place = (r->first_row + i / r->h) % r->sample_rows;
        want[i] += (double)a.bias[c];
        for (int t = 0; t < 3; c -= a.width[t++])
            if (c >= 0 && c < a.width[t])
                want[i] += (double)a.table[t][index[place * 3 + t] * a.width[t] + c];
    }
    a.index = index;
    for (int m = 0; m < MACHINES; m++) {
        a.out = blank(count, r->type);
        ASSERT_OK(mf_grid_embed(machine[m], &a));
        check_close("places", count, a.out, r->type, want);
    }
}

static void test_grid_embed(void **state) {
    (void)state;
    on_all_rows(grid_embed_one);
}

static void test_modulation_refuses(void **state) {
    (void)state;
    float x[8] = {0};
    mf_device *d = machine[0];
    mf_modulate_args a = {.n = 2, .h = 4, .sample_rows = 0, .mod_ld = 4};
    ASSERT_FAILS(mf_modulate_forward(d, &a), MF_EINVAL, "samples of 0 rows");
    a.sample_rows = 1, a.first_row = -1;
    ASSERT_FAILS(mf_modulate_forward(d, &a), MF_EINVAL, "from row -1");
    a.first_row = 0, a.mod_ld = 3;
    ASSERT_FAILS(mf_modulate_backward(d, &a), MF_EINVAL, "vectors overlap");
    a.mod_ld = 4, a.dshift = x;
    ASSERT_FAILS(mf_modulate_backward(d, &a), MF_EINVAL, "one of shift and scale");
    a.n = -2;
    ASSERT_FAILS(mf_modulate_backward(d, &a), MF_EINVAL, "-2 x 4");
    mf_gate_args gate = {.n = 2, .h = 4, .sample_rows = 1, .mod_ld = 3};
    ASSERT_FAILS(mf_gate_scale(d, &gate), MF_EINVAL, "vectors overlap");
    ASSERT_FAILS(mf_gate_add(d, &gate), MF_EINVAL, "vectors overlap");
    mf_gate_grads_args grads = {.rows = 2, .cols = 4, .g_ld = 4, .w_ld = 3, .dw_ld = 4};
    ASSERT_FAILS(mf_gate_grads(d, &grads), MF_EINVAL, "rows overlap");
    mf_grid_embed_args grid = {.n = 2, .h = 4, .sample_rows = 1, .width = {1, 1, 1}};
    ASSERT_FAILS(mf_grid_embed(d, &grid), MF_EINVAL, "1, 1 and 1 make no row of 4");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        OPS_TEST(test_modulate),   OPS_TEST(test_modulate_dry), OPS_TEST(test_gate),
        OPS_TEST(test_gate_grads), OPS_TEST(test_grid_embed),   OPS_TEST(test_modulation_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
