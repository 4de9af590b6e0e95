/* ops_vectors.c: copies, casts, sums, AdamW and random values against plain double-precision formulas; on one
 * thread and on two, in both compute types, at awkward sizes. */
#include "ops.h"

#include <math.h>
#include <string.h>

/* Copies and casts. */

static void test_cast_rounds(void **state) {
    (void)state;
    static const uint32_t tails[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1234, 0xfedc};
    enum { N = 65536 * 8 };
    uint32_t *in = take(N * sizeof *in);
    uint16_t *out = take(N * sizeof *out);
    float *back = take(N * sizeof *back);
    for (uint32_t i = 0; i < N; i++) in[i] = (i / 8) << 16 | tails[i % 8];
    for (int m = 0; m < MACHINES; m++) {
        mf_cast_args args = {1, N, in, N, MF_F32, out, N, MF_BF16};
        ASSERT_OK(mf_cast(machine[m], &args));
        args = (mf_cast_args){1, N, out, N, MF_BF16, back, N, MF_F32};
        ASSERT_OK(mf_cast(machine[m], &args));
        for (int i = 0; i < N; i++) {
            float value;
            uint32_t again;
            memcpy(&value, &in[i], sizeof value);
            memcpy(&again, &back[i], sizeof again);
            bool right =
                isnan(value) ? isnan(back[i]) && out[i] >> 15 == in[i] >> 31 : out[i] == nearest(value);
            if (!right || again != (uint32_t)out[i] << 16) {
                print_error("%08x became %04x, and that %08x\n", in[i], out[i], again);
                fail();
            }
        }
    }
}

static void cast_rows(mf_device *device, int64_t rows, int64_t width, mf_dtype from, mf_dtype to) {
    int64_t in_ld = width + 3, out_ld = width + 5, size = (int64_t)mf_dtype_bytes(to);
    void *in = values("in", span(rows, width, in_ld), from), *out = blank(span(rows, width, out_ld), to);
    mf_cast_args args = {rows, width, in, in_ld, from, out, out_ld, to};
    ASSERT_OK(mf_cast(device, &args));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) {
            double x = at(in, from, r * in_ld + i), y = at(out, to, r * out_ld + i);
            assert_true(to == MF_F32 ? y == x : y == (double)mf_f32_from_bf16(nearest((float)x)));
        }
    check_gaps("cast", out, rows, (size_t)(width * size), (size_t)(out_ld * size));
}

static void test_cast_rows(void **state) {
    (void)state;
    for (int m = 0; m < MACHINES; m++)
        for (int s = 0; s < SIZES; s++)
            for (int t = 0; t < 4; t++)
                cast_rows(machine[m], sizes[s][0], sizes[s][1], types[t / 2], types[t % 2]);
}

static void test_copies(void **state) {
    (void)state;
    for (int m = 0; m < MACHINES; m++)
        for (int s = 0; s < SIZES; s++) {
            int64_t rows = sizes[s][0], width = sizes[s][1], in_ld = width + 2, out_ld = width + 9;
            float *in = normals("in", span(rows, width, in_ld)),
                  *out = blank(span(rows, width, out_ld), MF_F32);
            ASSERT_OK(mf_copy_rows(machine[m], rows, (size_t)width * 4, out, (size_t)out_ld * 4, in,
                                   (size_t)in_ld * 4));
            for (int64_t r = 0; r < rows; r++)
                check_same("copied row", out + r * out_ld, in + r * in_ld, (size_t)width * 4);
            check_gaps("copy", out, rows, (size_t)width * 4, (size_t)out_ld * 4);
            int64_t n = span(rows, width, in_ld);
            float *whole = blank(n + 1, MF_F32);
            ASSERT_OK(mf_zero(machine[m], whole, (size_t)n * 4));
            for (int64_t i = 0; i < n; i++) assert_true(whole[i] == 0);
            assert_true(isnan(whole[n]));
        }
}

static void add_one(mf_device *device, int64_t n, mf_dtype type, bool in_place) {
    void *residual = values("residual", n, type), *before = copy_of(residual, n, type);
    float *delta = normals("delta", n);
    void *out = in_place ? residual : blank(n, type);
    ASSERT_OK(mf_add(device, n, type, residual, delta, out));
    for (int64_t i = 0; i < n; i++) {
        float sum = (float)(at(before, type, i) + (double)delta[i]);
        assert_true(at(out, type, i) ==
                    (type == MF_F32 ? (double)sum : (double)mf_f32_from_bf16(nearest(sum))));
    }
    if (!in_place) check_same("residual", residual, before, bytes_of(n, type));
}

static void test_add(void **state) {
    (void)state;
    static const int64_t counts[] = {0, 1, 7, 31, 257, 1000, 40001};
    for (int i = 0; i < 7 * 2 * 2 * MACHINES; i++)
        add_one(machine[i % 2], counts[i / 8], types[i / 2 % 2], i / 4 % 2);
}

static void test_accumulate(void **state) {
    (void)state;
    for (int m = 0; m < MACHINES; m++)
        for (int s = 0; s < SIZES; s++) {
            int64_t rows = sizes[s][0], width = sizes[s][1], in_ld = width + 2, out_ld = width + 9;
            float *in = normals("in", span(rows, width, in_ld)),
                  *out = normals("out", span(rows, width, out_ld));
            float *before = copy_of(out, span(rows, width, out_ld), MF_F32);
            ASSERT_OK(mf_accumulate(machine[m], rows, width, in, in_ld, out, out_ld));
            for (int64_t i = 0; i < span(rows, width, out_ld); i++) {
                int64_t row = i / out_ld, col = i % out_ld;
                float want = col < width ? before[i] + in[row * in_ld + col] : before[i];
                assert_true(out[i] == want);
            }
        }
}

/* The optimizer and sums. */

typedef struct adam {
    int64_t n;
    double *master, *m, *v;
} adam;

static void adam_step(const adam *s, const mf_adamw_args *a) {
    double b1 = (double)a->beta1, b2 = (double)a->beta2, lr = (double)a->lr;
    for (int64_t i = 0; i < s->n; i++) {
        double g = (double)a->grad[i] * (double)a->grad_scale;
        s->m[i] = b1 * s->m[i] + (1 - b1) * g;
        s->v[i] = b2 * s->v[i] + (1 - b2) * g * g;
        double m = s->m[i] / (1 - pow(b1, (double)a->step)), v = s->v[i] / (1 - pow(b2, (double)a->step));
        s->master[i] -= lr * ((double)a->weight_decay * s->master[i] + m / (sqrt(v) + (double)a->eps));
    }
}

/* Held against the change since the start, which is what an update is for. */
static void check_moved(int64_t n, const float *start, const float *got, const double *want) {
    float *moved = blank(n, MF_F32);
    double *should = take((size_t)n * sizeof *should);
    for (int64_t i = 0; i < n; i++) {
        moved[i] = (float)((double)got[i] - (double)start[i]);
        should[i] = want[i] - (double)start[i];
    }
    double error = relative_error(n, moved, should);
    if (!(error < 1e-6)) print_error("adamw: relative error of the movement %g\n", error);
    assert_true(error < 1e-6);
}

static void adamw_one(mf_device *device, int64_t n, mf_dtype type) {
    float *start = normals("master", n), *master = copy_of(start, n, MF_F32), *m = blank(n, MF_F32),
          *v = blank(n, MF_F32);
    for (int64_t i = 0; i < n; i++) m[i] = v[i] = 0;
    adam s = {n, doubles(master, n, MF_F32), doubles(m, n, MF_F32), doubles(v, n, MF_F32)};
    void *weights = blank(n, type);
    for (int step = 1; step <= 6; step++) {
        char name[32];
        snprintf(name, sizeof name, "grad %d", step);
        mf_adamw_args args = {
            n,      step, 0.1f, 0.9f,    0.999f, 1e-8f, 0.1f, step == 3 ? 0.25f : 1.0f, normals(name, n),
            master, m,    v,    weights, type};
        adam_step(&s, &args);
        ASSERT_OK(mf_adamw(device, &args));
        check_moved(n, start, master, s.master);
        check_close("adamw's first moment", n, m, MF_F32, s.m);
        check_close("adamw's second moment", n, v, MF_F32, s.v);
        for (int64_t i = 0; i < n; i++)
            assert_true(at(weights, type, i) ==
                        (type == MF_F32 ? (double)master[i] : (double)mf_f32_from_bf16(nearest(master[i]))));
    }
}

static void test_adamw(void **state) {
    (void)state;
    static const int64_t counts[] = {0, 1, 7, 257, 40001};
    for (int i = 0; i < 5 * 2 * MACHINES; i++) {
        adamw_one(machine[i % 2], counts[i / 4], types[i / 2 % 2]);
        drop_to(0);
    }
}

/* In f32 the weights may be the master or absent. */
static void test_adamw_without_weights(void **state) {
    (void)state;
    enum { N = 31 };
    float *result[3];
    for (int i = 0; i < 3; i++) {
        float *master = normals("master", N), *m = normals("m", N), *v = blank(N, MF_F32);
        for (int k = 0; k < N; k++) v[k] = 0.5f;
        void *weights[] = {NULL, master, blank(N, MF_F32)};
        ASSERT_OK(mf_adamw(machine[0], &(mf_adamw_args){N, 5, 0.1f, 0.9f, 0.99f, 1e-8f, 0, 1, normals("g", N),
                                                        master, m, v, weights[i], MF_F32}));
        result[i] = master;
    }
    check_same("weights that are the master", result[1], result[0], N * 4);
    check_same("weights apart", result[2], result[0], N * 4);
}

static void test_sum_squares(void **state) {
    (void)state;
    static const int64_t counts[] = {0, 1, 7, 31, 257, 1000, 16384, 16385, 100003, 5000011};
    for (int i = 0; i < 10; i++) {
        float *x = normals("x", counts[i]);
        double want = 0, got[MACHINES];
        for (int64_t k = 0; k < counts[i]; k++) want += (double)x[k] * (double)x[k];
        for (int m = 0; m < MACHINES; m++) {
            got[m] = 1e9;
            ASSERT_OK(mf_sum_squares(machine[m], counts[i], x, &got[m]));
            assert_true(fabs(got[m] - want) <= 1e-12 * want);
        }
        check_same("sum of squares on two threads", &got[1], &got[0], sizeof *got);
        drop_to(0);
    }
}

static void test_squared_error(void **state) {
    (void)state;
    static const int64_t counts[] = {0, 1, 7, 31, 257, 16384, 16385, 100003, 5000011};
    const float scale = 0.37f;
    for (int i = 0; i < 9; i++) {
        int64_t n = counts[i];
        float *pred = normals("pred", n), *target = normals("target", n);
        double want = 0, got[MACHINES], alone = 1e9, *want_d = take((size_t)n * sizeof *want_d);
        for (int64_t k = 0; k < n; k++) {
            double error = (double)pred[k] - (double)target[k];
            want += error * error;
            want_d[k] = 2 * (double)scale * error;
        }
        for (int m = 0; m < MACHINES; m++) {
            float *d = m == 0 ? blank(n, MF_F32) : copy_of(pred, n, MF_F32);
            mf_squared_error_args a = {n, m == 0 ? pred : d, target, scale, d};
            got[m] = 1e9;
            ASSERT_OK(mf_squared_error(machine[m], &a, &got[m]));
            assert_true(fabs(got[m] - want) <= 1e-12 * want);
            check_close("squared error's gradient", n, d, MF_F32, want_d);
        }
        check_same("squared error on two threads", &got[1], &got[0], sizeof *got);
        ASSERT_OK(mf_squared_error(machine[0], &(mf_squared_error_args){n, pred, target, 1, NULL}, &alone));
        check_same("squared error without gradient", &alone, &got[0], sizeof alone);
        drop_to(0);
    }
}

/* Random weights. */

static void test_fill_normal_slices(void **state) {
    (void)state;
    enum { ROWS = 37, COLS = 53 };
    float *whole = blank(ROWS * COLS, MF_F32);
    mf_normal_args all = {ROWS, COLS, 0, COLS, 7, mf_random_key("w"), 0.02f, whole};
    ASSERT_OK(mf_fill_normal(machine[0], &all));
    for (int i = 0; i < 64; i++) {
        int64_t r0 = i % 8 * 4, c0 = i / 8 * 6, rows = i % 9, cols = i / 5;
        rows = mf_min(rows, ROWS - r0), cols = mf_min(cols, COLS - c0);
        float *part = blank(rows * cols, MF_F32);
        mf_normal_args args = {rows, cols, r0 * COLS + c0, COLS, 7, mf_random_key("w"), 0.02f, part};
        ASSERT_OK(mf_fill_normal(machine[i % 2], &args));
        for (int64_t r = 0; r < rows; r++)
            check_same("slice of normals", part + r * cols, whole + (r0 + r) * COLS + c0, (size_t)cols * 4);
    }
}

static void test_fill_normal_moments(void **state) {
    (void)state;
    enum { N = 200000 };
    float *x = blank(N, MF_F32);
    double sum = 0, square = 0, fourth = 0, next = 0;
    mf_normal_args args = {1, N, 0, N, 11, mf_random_key("x"), 2, x};
    ASSERT_OK(mf_fill_normal(machine[1], &args));
    for (int i = 0; i < N; i++) {
        double v = (double)x[i] / 2;
        sum += v, square += v * v, fourth += v * v * v * v;
        if (i) next += v * (double)x[i - 1] / 2;
    }
    assert_true(fabs(sum / N) < 5 / sqrt(N));
    assert_true(fabs(square / N - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(fourth / N - 3) < 5 * sqrt(96.0 / N));
    assert_true(fabs(next / N) < 5 / sqrt(N));
}

static void test_devices_refused(void **state) {
    (void)state;
    mf_device *none = NULL;
    ASSERT_FAILS(mf_device_create("abacus", memory, 1, &none), MF_EUNSUPPORTED, "abacus");
    ASSERT_FAILS(mf_device_create("cpu", memory, 0, &none), MF_EINVAL, "threads is 0");
    assert_null(none);
}

static void test_vectors_refuse(void **state) {
    (void)state;
    double sum;
    float x[8] = {0};
    mf_device *d = machine[0];
    ASSERT_FAILS(mf_sum_squares(d, -1, x, &sum), MF_EINVAL, "-1");
    ASSERT_FAILS(mf_squared_error(d, &(mf_squared_error_args){.n = -2}, &sum), MF_EINVAL, "-2");
    ASSERT_FAILS(mf_add(d, -3, MF_F32, x, x, x), MF_EINVAL, "-3");
    ASSERT_FAILS(mf_accumulate(d, 2, 4, x, 3, x, 4), MF_EINVAL, "rows overlap");
    ASSERT_FAILS(mf_copy_rows(d, 2, 8, x, 4, x, 8), MF_EINVAL, "rows overlap");
    ASSERT_FAILS(mf_cast(d, &(mf_cast_args){2, 4, x, 4, MF_F32, x, 3, MF_F32}), MF_EINVAL, "rows overlap");
    ASSERT_FAILS(mf_adamw(d, &(mf_adamw_args){.n = 1, .step = 0}), MF_EINVAL, "counts from 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        OPS_TEST(test_cast_rounds),
        OPS_TEST(test_cast_rows),
        OPS_TEST(test_copies),
        OPS_TEST(test_add),
        OPS_TEST(test_accumulate),
        OPS_TEST(test_adamw),
        OPS_TEST(test_adamw_without_weights),
        OPS_TEST(test_sum_squares),
        OPS_TEST(test_squared_error),
        OPS_TEST(test_fill_normal_slices),
        OPS_TEST(test_fill_normal_moments),
        OPS_TEST(test_devices_refused),
        OPS_TEST(test_vectors_refuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
