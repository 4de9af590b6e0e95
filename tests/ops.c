/* ops.c: every operation of device.h but attention, against plain double-precision formulas, and gradients
 * against finite differences of those; on one thread and on two, in both compute types, at awkward sizes. */
#include "support.h"
#include "device/cpu/exp.h"
#include "meshfold/device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MACHINES = 2, HELD_MAX = 1 << 16 };

/* A test's devices (threads 1 and 2), and what it has allocated; all ends with the test. */
static mf_memory *memory;
static mf_device *machine[MACHINES];
static void *held[HELD_MAX];
static int held_count;

/* Sizes are exact, so that a sanitizer sees a step over the end; the content is NaN in either type, so that
 * what should have been overwritten shows. */
static void *take(size_t bytes) {
    void *data = malloc(bytes ? bytes : 1);
    assert_non_null(data);
    assert_true(held_count < HELD_MAX);
    memset(data, 0xff, bytes);
    return held[held_count++] = data;
}

static void drop_to(int count) {
    while (held_count > count) free(held[--held_count]);
}

static int begin(void **state) {
    (void)state;
    held_count = 0;
    if (mf_memory_create(NULL, &memory)) return -1;
    for (int i = 0; i < MACHINES; i++)
        if (mf_device_create("cpu", memory, i + 1, &machine[i])) return -1;
    return 0;
}

static int end(void **state) {
    (void)state;
    for (int i = 0; i < MACHINES; i++) mf_device_destroy(machine[i]);
    int64_t left = mf_memory_stats_get(memory).now_total;
    mf_memory_destroy(memory);
    drop_to(0);
    return left ? -1 : 0;
}

static const int64_t sizes[][2] = {{0, 7}, {7, 0}, {1, 1}, {7, 31}, {31, 257}, {5, 1000}, {257, 7}, {1, 257}};
enum { SIZES = sizeof sizes / sizeof *sizes };
static const mf_dtype types[] = {MF_F32, MF_BF16};

/* The nearest bf16, ties to the even one, from distances alone. */
static double magnitude(uint32_t high) {
    union {
        uint32_t u;
        float f;
    } bits = {high << 16};
    return high == 0x7f80 ? ldexp(1, 128) : (double)bits.f;
}

static uint16_t nearest(float value) {
    union {
        float f;
        uint32_t u;
    } bits = {value};
    uint32_t low = (bits.u & 0x7fffffffu) >> 16, sign = bits.u >> 31 << 15;
    if (low == 0x7f80) return (uint16_t)(sign | low);
    double below = fabs((double)value) - magnitude(low), above = magnitude(low + 1) - fabs((double)value);
    bool up = above < below || (above == below && low % 2 == 1);
    return (uint16_t)(sign | (low + up));
}

static double at(const void *data, mf_dtype type, int64_t i) {
    return type == MF_F32 ? (double)((const float *)data)[i]
                          : (double)mf_f32_from_bf16(((const uint16_t *)data)[i]);
}

static size_t bytes_of(int64_t n, mf_dtype type) { return (size_t)n * mf_dtype_bytes(type); }

static void *blank(int64_t n, mf_dtype type) { return take(bytes_of(n, type)); }

static float *normals(const char *name, int64_t n) {
    float *out = blank(n, MF_F32);
    fill_normal(name, 1.0f, n, out);
    return out;
}

/* n normal values rounded to the type. */
static void *values(const char *name, int64_t n, mf_dtype type) {
    float *exact = normals(name, n);
    if (type == MF_F32) return exact;
    uint16_t *out = blank(n, type);
    for (int64_t i = 0; i < n; i++) out[i] = nearest(exact[i]);
    return out;
}

static void *copy_of(const void *data, int64_t n, mf_dtype type) {
    void *out = blank(n, type);
    memcpy(out, data, bytes_of(n, type));
    return out;
}

static double *doubles(const void *data, int64_t n, mf_dtype type) {
    double *out = take((size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++) out[i] = at(data, type, i);
    return out;
}

/* Fails unless got: [n] is `want` to the type's tolerance; NaN is never close. */
static void check_close(const char *what, int64_t n, const void *got, mf_dtype type, const double *want) {
    float *all = blank(n, MF_F32);
    for (int64_t i = 0; i < n; i++) all[i] = (float)at(got, type, i);
    double error = relative_error(n, all, want);
    if (error < mf_tolerance(type)) return;
    print_error("%s: n = %lld, %s: relative error %g\n", what, (long long)n, mf_dtype_name(type), error);
    fail();
}

static void check_same(const char *what, const void *got, const void *want, size_t bytes) {
    const unsigned char *a = got, *b = want;
    for (size_t i = 0; i < bytes; i++) {
        if (a[i] == b[i]) continue;
        print_error("%s: byte %zu of %zu is %02x, not %02x\n", what, i, bytes, a[i], b[i]);
        fail();
    }
}

/* The words between rows, which nothing may touch: still what `take` left there. */
static void check_gaps(const char *what, const void *data, int64_t rows, size_t row, size_t ld) {
    const unsigned char *all = data;
    for (int64_t i = 0; i + 1 < rows; i++)
        for (size_t b = row; b < ld; b++)
            if (all[(size_t)i * ld + b] != 0xff) {
                print_error("%s: wrote past row %lld\n", what, (long long)i);
                fail();
            }
}

static int64_t span(int64_t rows, int64_t width, int64_t ld) {
    return rows > 0 ? (rows - 1) * ld + width : 0;
}

/* Rows of `width` at distance ld, made dense. */
static void *packed(const void *data, mf_dtype type, int64_t rows, int64_t width, int64_t ld) {
    unsigned char *out = blank(rows * width, type);
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + bytes_of(r * width, type), (const unsigned char *)data + bytes_of(r * ld, type),
               bytes_of(width, type));
    return out;
}

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

/* Matrix products. */

typedef struct product {
    int64_t m, n, k, gap; /* elements between rows */
    bool a_transposed, b_transposed, accumulate;
    mf_dtype type, c_type;
} product;

static mf_gemm_args gemm_args(const product *p) {
    int64_t a_rows = p->a_transposed ? p->k : p->m, a_width = p->a_transposed ? p->m : p->k;
    int64_t b_rows = p->b_transposed ? p->n : p->k, b_width = p->b_transposed ? p->k : p->n;
    int64_t a_ld = a_width + p->gap, b_ld = b_width + 2 * p->gap, c_ld = p->n + 3 * p->gap;
    int64_t c_size = span(p->m, p->n, c_ld);
    return (mf_gemm_args){
        .m = p->m,
        .n = p->n,
        .k = p->k,
        .a = {values("a", span(a_rows, a_width, a_ld), p->type), a_ld, p->type, p->a_transposed},
        .b = {values("b", span(b_rows, b_width, b_ld), p->type), b_ld, p->type, p->b_transposed},
        .c = p->accumulate ? values("c", c_size, p->c_type) : blank(c_size, p->c_type),
        .c_ld = c_ld,
        .c_type = p->c_type,
        .accumulate = p->accumulate};
}

static double entry(const mf_matrix *x, int64_t row, int64_t col) {
    return at(x->data, x->type, x->transposed ? col * x->ld + row : row * x->ld + col);
}

static double *multiplied(const mf_gemm_args *a) {
    double *want = take((size_t)(a->m * a->n) * sizeof *want), *b = take((size_t)(a->k * a->n) * sizeof *b);
    for (int64_t l = 0; l < a->k; l++)
        for (int64_t j = 0; j < a->n; j++) b[l * a->n + j] = entry(&a->b, l, j);
    for (int64_t i = 0; i < a->m; i++) {
        double *row = want + i * a->n;
        for (int64_t j = 0; j < a->n; j++) row[j] = a->accumulate ? at(a->c, a->c_type, i * a->c_ld + j) : 0;
        for (int64_t l = 0; l < a->k; l++) {
            double x = entry(&a->a, i, l);
            for (int64_t j = 0; j < a->n; j++) row[j] += x * b[l * a->n + j];
        }
    }
    return want;
}

/* The product's values, that nothing was written between its rows, and its count of operations. */
static void gemm_check(mf_device *device, const mf_gemm_args *args, const double *want) {
    int64_t gap = args->c_ld - args->n;
    size_t row = bytes_of(args->n, args->c_type), ld = bytes_of(args->c_ld, args->c_type);
    const unsigned char *before = copy_of(args->c, span(args->m, args->n, args->c_ld), args->c_type),
                        *after = args->c;
    double flops = mf_device_flops(device);
    ASSERT_OK(mf_gemm(device, args));
    assert_true(mf_device_flops(device) - flops == 2.0 * (double)args->m * (double)args->n * (double)args->k);
    check_close("matrix product", args->m * args->n,
                packed(after, args->c_type, args->m, args->n, args->c_ld), args->c_type, want);
    for (int64_t i = 0; i + 1 < args->m; i++) {
        size_t end_of_row = (size_t)i * ld + row;
        check_same("between rows of c", after + end_of_row, before + end_of_row, bytes_of(gap, args->c_type));
    }
}

static void gemm_one(const product *p) {
    int mark = held_count;
    mf_gemm_args args = gemm_args(p);
    const void *start = args.c;
    double *want = multiplied(&args);
    for (int m = 0; m < MACHINES; m++) {
        args.c = copy_of(start, span(p->m, p->n, args.c_ld), p->c_type);
        gemm_check(machine[m], &args, want);
    }
    drop_to(mark);
}

static void gemm_all_ways(const int64_t size[3], int64_t gap) {
    static const mf_dtype pair[][2] = {{MF_F32, MF_F32}, {MF_BF16, MF_F32}, {MF_BF16, MF_BF16}};
    for (unsigned way = 0; way < 24; way++)
        gemm_one(&(product){.m = size[0],
                            .n = size[1],
                            .k = size[2],
                            .gap = gap,
                            .a_transposed = way & 1,
                            .b_transposed = way & 2,
                            .accumulate = way & 4,
                            .type = pair[way / 8][0],
                            .c_type = pair[way / 8][1]});
}

static void test_gemm(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1},   {1, 70, 3},   {70, 1, 33},  {17, 3, 1},
                                        {3, 17, 70}, {33, 33, 17}, {70, 33, 3},  {17, 70, 70},
                                        {1, 17, 33}, {33, 1, 1},   {69, 67, 65}, {7, 5, 31}};
    for (int i = 0; i < 12; i++) gemm_all_ways(shapes[i], i % 3 * 5);
}

static void test_gemm_empty(void **state) {
    (void)state;
    static const int64_t empty[][3] = {{5, 7, 0}, {0, 7, 3}, {5, 0, 3}, {1, 1, 0}, {0, 0, 0}};
    for (int i = 0; i < 5; i++) gemm_all_ways(empty[i], i % 2);
}

static void test_gemm_large(void **state) {
    (void)state;
    gemm_all_ways((const int64_t[]){300, 257, 511}, 3);
}

static void test_gemm_refuses(void **state) {
    (void)state;
    product p = {.m = 4, .n = 5, .k = 6, .type = MF_F32, .c_type = MF_F32};
    const mf_gemm_args good = gemm_args(&p);
    ASSERT_OK(mf_gemm(machine[0], &good));
    double flops = mf_device_flops(machine[0]);
    mf_gemm_args bad[] = {good, good, good, good, good, good, good};
    bad[0].a.ld = 5;
    bad[1].b.ld = 4;
    bad[2].c_ld = 4;
    bad[3].a.transposed = true, bad[3].a.ld = 3;
    bad[4].b.type = MF_BF16;
    bad[5].c_type = MF_BF16;
    bad[6].k = -1;
    static const char *const why[] = {"rows overlap", "rows overlap", "rows overlap", "rows overlap",
                                      "mixed types",  "mixed types",  "4 x 5 x -1"};
    for (int i = 0; i < 7; i++) ASSERT_FAILS(mf_gemm(machine[0], &bad[i]), MF_EINVAL, why[i]);
    assert_true(mf_device_flops(machine[0]) == flops);
}

/* RMS norm. */

static double inverse_rms(int64_t h, const double *x, double eps) {
    double sum = 0;
    for (int64_t i = 0; i < h; i++) sum += x[i] * x[i];
    return 1 / sqrt(sum / (double)h + eps);
}

/* What the gradients are those of: the sum of dy * y over a row. */
static double norm_dot(int64_t h, const double *x, const double *w, const double *dy, double eps) {
    double r = inverse_rms(h, x, eps), sum = 0;
    for (int64_t i = 0; i < h; i++) sum += dy[i] * x[i] * r * w[i];
    return sum;
}

static void norm_forward(mf_device *device, int64_t n, int64_t h, mf_dtype type) {
    const float eps = 1e-5f;
    void *x = values("x", n * h, type), *y = blank(n * h, type);
    float *w = normals("w", h);
    double *want = doubles(x, n * h, type);
    for (int64_t t = 0; t < n; t++) {
        double r = inverse_rms(h, want + t * h, (double)eps);
        for (int64_t i = 0; i < h; i++) want[t * h + i] *= r * (double)w[i];
    }
    ASSERT_OK(mf_rmsnorm_forward(device, n, h, eps, type, x, w, y));
    check_close("rmsnorm", n * h, y, type, want);
}

/* Central differences of norm_dot in x and w, added to dx and dw. */
static void norm_differences(int64_t n, int64_t h, double eps, double *x, double *w, const double *dy,
                             double *dx, double *dw) {
    const double step = 1e-5;
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < h; i++) {
            double *row = x + t * h, kept = row[i], up, down;
            row[i] = kept + step, up = norm_dot(h, row, w, dy + t * h, eps);
            row[i] = kept - step, down = norm_dot(h, row, w, dy + t * h, eps);
            row[i] = kept;
            dx[t * h + i] += (up - down) / (2 * step);
            kept = w[i];
            w[i] = kept + step, up = norm_dot(h, row, w, dy + t * h, eps);
            w[i] = kept - step, down = norm_dot(h, row, w, dy + t * h, eps);
            w[i] = kept;
            dw[i] += (up - down) / (2 * step);
        }
}

static void norm_backward(int64_t n, int64_t h, mf_dtype type) {
    const float eps = 1e-5f;
    void *x = values("x", n * h, type);
    float *w = normals("w", h), *dy = normals("dy", n * h), *dx[MACHINES], *dw[MACHINES];
    double *want_dx = doubles(normals("dx", n * h), n * h, MF_F32),
           *want_dw = doubles(normals("dw", h), h, MF_F32);
    norm_differences(n, h, (double)eps, doubles(x, n * h, type), doubles(w, h, MF_F32),
                     doubles(dy, n * h, MF_F32), want_dx, want_dw);
    for (int m = 0; m < MACHINES; m++) {
        dx[m] = normals("dx", n * h);
        dw[m] = normals("dw", h);
        ASSERT_OK(
            mf_rmsnorm_backward(machine[m], &(mf_rmsnorm_grad){n, h, eps, type, x, w, dy, dx[m], dw[m]}));
        check_close("rmsnorm dx", n * h, dx[m], MF_F32, want_dx);
        check_close("rmsnorm dweight", h, dw[m], MF_F32, want_dw);
    }
    check_same("dx on two threads", dx[1], dx[0], bytes_of(n * h, MF_F32));
    check_same("dweight on two threads", dw[1], dw[0], bytes_of(h, MF_F32));
}

static void test_rmsnorm(void **state) {
    (void)state;
    for (int i = 0; i < SIZES * 2; i++) {
        int mark = held_count;
        for (int m = 0; m < MACHINES; m++)
            norm_forward(machine[m], sizes[i / 2][0], sizes[i / 2][1], types[i % 2]);
        norm_backward(sizes[i / 2][0], sizes[i / 2][1], types[i % 2]);
        drop_to(mark);
    }
}

/* Rotary positions. */

typedef struct turning {
    int64_t batch, tokens, heads, head_dim, first, in_gap, out_gap;
} turning;

static void turn(const turning *c, double *x, bool inverse) {
    int64_t d = c->head_dim, half = d / 2;
    for (int64_t row = 0; row < c->batch * c->tokens * c->heads; row++)
        for (int64_t i = 0; i < half; i++) {
            double position = (double)(c->first + row / c->heads % c->tokens);
            double angle = position * pow(10000.0, -2.0 * (double)i / (double)d) * (inverse ? -1 : 1);
            double *a = x + row * d + i, *b = a + half, u = *a, v = *b;
            *a = u * cos(angle) - v * sin(angle);
            *b = v * cos(angle) + u * sin(angle);
        }
}

static void rope_one(mf_device *device, const turning *c, mf_dtype type, bool in_f32, bool inverse) {
    int64_t rows = c->batch * c->tokens, width = c->heads * c->head_dim;
    int64_t in_ld = width + c->in_gap, out_ld = width + c->out_gap;
    mf_dtype in_type = in_f32 ? MF_F32 : type;
    float *table = blank(c->tokens * c->head_dim, MF_F32);
    void *in = values("in", span(rows, width, in_ld), in_type), *out = blank(span(rows, width, out_ld), type);
    double *want = doubles(packed(in, in_type, rows, width, in_ld), rows * width, in_type);
    turn(c, want, inverse);
    ASSERT_OK(mf_rope_table(device, c->first, c->tokens, c->head_dim, 10000.0, table));
    mf_rope_args args = {.type = type,
                         .batch = c->batch,
                         .tokens = c->tokens,
                         .heads = c->heads,
                         .head_dim = c->head_dim,
                         .cos_sin = table,
                         .in = in,
                         .in_f32 = in_f32,
                         .in_ld = in_ld,
                         .out = out,
                         .out_ld = out_ld,
                         .inverse = inverse};
    ASSERT_OK(mf_rope(device, &args));
    check_close("rope", rows * width, packed(out, type, rows, width, out_ld), type, want);
    check_gaps("rope", out, rows, bytes_of(width, type), bytes_of(out_ld, type));
    if (in_type != type) return;
    args.out = in, args.out_ld = in_ld;
    ASSERT_OK(mf_rope(device, &args));
    check_same("rope in place", packed(in, type, rows, width, in_ld), packed(out, type, rows, width, out_ld),
               bytes_of(rows * width, type));
    args.inverse = !inverse;
    ASSERT_OK(mf_rope(device, &args));
    turn(c, want, !inverse);
    check_close("rope and back", rows * width, packed(in, type, rows, width, in_ld), type, want);
}

static void test_rope(void **state) {
    (void)state;
    static const turning cases[] = {{1, 1, 1, 2, 0, 0, 0},      {2, 7, 3, 6, 0, 0, 5},
                                    {3, 31, 1, 64, 1000, 7, 0}, {1, 257, 2, 128, 131000, 4, 4},
                                    {0, 7, 3, 6, 0, 0, 0},      {2, 0, 3, 6, 0, 0, 0},
                                    {2, 7, 0, 6, 0, 3, 0}};
    for (int i = 0; i < 7 * 8 * MACHINES; i++) {
        int mark = held_count;
        rope_one(machine[i % 2], &cases[i / 16], types[i / 2 % 2], i / 4 % 2, i / 8 % 2);
        drop_to(mark);
    }
}

static void test_rope_table(void **state) {
    (void)state;
    enum { ROWS = 31, DIM = 96 };
    const int64_t first = 1000003;
    float *got = blank(ROWS * DIM, MF_F32);
    double *want = take(ROWS * DIM * sizeof *want);
    for (int64_t t = 0; t < ROWS; t++)
        for (int64_t i = 0; i < DIM / 2; i++) {
            double angle = (double)(first + t) / pow(500000.0, 2.0 * (double)i / DIM);
            want[t * DIM + i] = cos(angle);
            want[t * DIM + DIM / 2 + i] = sin(angle);
        }
    for (int m = 0; m < MACHINES; m++) {
        ASSERT_OK(mf_rope_table(machine[m], first, ROWS, DIM, 500000.0, got));
        check_close("rope table", ROWS * DIM, got, MF_F32, want);
    }
}

/* Gated activation. */

static double silu(double g) { return g / (1 + exp(-g)); }

static double silu_slope(double g) {
    const double step = 1e-5;
    return (silu(g + step) - silu(g - step)) / (2 * step);
}

static void swiglu_one(mf_device *device, int64_t n, int64_t width, mf_dtype type, float scale) {
    int64_t ld = width + 3, count = n * width;
    void *gate = values("gate", span(n, width, ld), type), *up = values("up", span(n, width, ld), type);
    for (int64_t i = 0; type == MF_F32 && i < span(n, width, ld); i++) ((float *)gate)[i] *= scale;
    void *d = values("d", count, type), *dg = blank(count, type), *du = blank(count, type);
    double *g = doubles(packed(gate, type, n, width, ld), count, type),
           *u = doubles(packed(up, type, n, width, ld), count, type), *want_d = doubles(d, count, type),
           *want = take((size_t)count * sizeof *want);
    mf_swiglu_args args = {type, n, width, gate, up, ld, blank(count, type), d, dg, du};
    for (int64_t i = 0; i < count; i++) want[i] = silu(g[i]) * u[i];
    ASSERT_OK(mf_swiglu_forward(device, &args));
    check_close("swiglu", count, args.out, type, want);
    args.out = blank(count, type);
    ASSERT_OK(mf_swiglu_backward(device, &args));
    check_close("swiglu in backward", count, args.out, type, want);
    for (int64_t i = 0; i < count; i++) want[i] = want_d[i] * silu(g[i]);
    check_close("swiglu d_up", count, du, type, want);
    for (int64_t i = 0; i < count; i++) want[i] = want_d[i] * u[i] * silu_slope(g[i]);
    check_close("swiglu d_gate", count, dg, type, want);
}

static void test_swiglu(void **state) {
    (void)state;
    for (int i = 0; i < SIZES * 2 * MACHINES; i++) {
        swiglu_one(machine[i % 2], sizes[i / 4][0], sizes[i / 4][1], types[i / 2 % 2], 1);
        swiglu_one(machine[i % 2], sizes[i / 4][0], sizes[i / 4][1], types[i / 2 % 2], 1e4f);
    }
}

/* Embedding. */

static void embed_one(int64_t n, int64_t h, mf_dtype type) {
    const int64_t first = 10, rows = 9, low = 7; /* ids from 7 to 21: some lie on either side of the slice */
    int32_t *ids = take((size_t)n * sizeof *ids);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(low + (int64_t)(mf_random_u64(1, 2, (uint64_t)i) % 15));
    unsigned char *table = values("table", rows * h, type);
    float *d_out = normals("d_out", n * h), *d_table[MACHINES];
    size_t row_bytes = bytes_of(h, type);
    double *want = doubles(normals("d_table", rows * h), rows * h, MF_F32);
    for (int64_t i = 0; i < n * h; i++)
        if (ids[i / h] >= first && ids[i / h] < first + rows)
            want[(ids[i / h] - first) * h + i % h] += (double)d_out[i];
    for (int m = 0; m < MACHINES; m++) {
        unsigned char *out = blank(n * h, type), *untouched = blank(h, type);
        d_table[m] = normals("d_table", rows * h);
        mf_embed_args args = {type, n, h, first, rows, ids, table, out, d_out, d_table[m]};
        ASSERT_OK(mf_embed_forward(machine[m], &args));
        for (int64_t i = 0; i < n; i++) {
            int64_t row = ids[i] - first;
            check_same("embedding", out + (size_t)i * row_bytes,
                       row >= 0 && row < rows ? table + (size_t)row * row_bytes : untouched, row_bytes);
        }
        ASSERT_OK(mf_embed_backward(machine[m], &args));
        check_close("embedding's gradient", rows * h, d_table[m], MF_F32, want);
    }
    check_same("embedding's gradient on two threads", d_table[1], d_table[0], bytes_of(rows * h, MF_F32));
}

static void test_embed(void **state) {
    (void)state;
    for (int i = 0; i < SIZES * 2; i++) embed_one(sizes[i / 2][0], sizes[i / 2][1], types[i % 2]);
}

/* Cross-entropy. */

typedef struct entropy {
    int64_t n, vocab;
    const float *logits; /* [n, vocab] */
    const int32_t *labels;
    float *maximum, *sum, *label_logit;
} entropy;

static entropy entropy_make(int64_t n, int64_t vocab, float scale) {
    float *logits = normals("logits", n * vocab);
    int32_t *labels = take((size_t)n * sizeof *labels);
    for (int64_t i = 0; i < n * vocab; i++) logits[i] *= scale;
    for (int64_t t = 0; t < n; t++)
        labels[t] = t % 5 == 3 ? -100 : (int32_t)(mf_random_u64(3, 4, (uint64_t)t) % (uint64_t)vocab);
    return (entropy){n, vocab, logits, labels, blank(n, MF_F32), blank(n, MF_F32), blank(n, MF_F32)};
}

/* The logits of ids begin .. end - 1, as a call takes them: dense, and free to be spoiled. */
static mf_xent_args slice(const entropy *e, int64_t begin, int64_t end) {
    float *part = blank(e->n * (end - begin), MF_F32);
    for (int64_t t = 0; t < e->n && end > begin; t++)
        memcpy(part + t * (end - begin), e->logits + t * e->vocab + begin, (size_t)(end - begin) * 4);
    return (mf_xent_args){.n = e->n,
                          .width = end - begin,
                          .first = begin,
                          .labels = e->labels,
                          .logits = part,
                          .maximum = e->maximum,
                          .sum = e->sum,
                          .label_logit = e->label_logit};
}

static double log_sum_exp(int64_t n, const double *x) {
    double maximum = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) maximum = fmax(maximum, x[i]);
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] - maximum);
    return maximum + log(sum);
}

static double entropy_loss(const entropy *e) {
    double loss = 0;
    for (int64_t t = 0; t < e->n; t++)
        if (e->labels[t] >= 0)
            loss += log_sum_exp(e->vocab, doubles(e->logits + t * e->vocab, e->vocab, MF_F32)) -
                    (double)e->logits[t * e->vocab + e->labels[t]];
    return loss;
}

static double *entropy_differences(const entropy *e, double scale) {
    double *d = take((size_t)(e->n * e->vocab) * sizeof *d), *x = doubles(e->logits, e->n * e->vocab, MF_F32);
    const double step = 1e-4;
    for (int64_t i = 0; i < e->n * e->vocab; i++) {
        int64_t t = i / e->vocab, label = e->labels[t];
        double kept = x[i], up, down, *row = x + t * e->vocab;
        x[i] = kept + step, up = log_sum_exp(e->vocab, row);
        x[i] = kept - step, down = log_sum_exp(e->vocab, row);
        x[i] = kept;
        d[i] = label < 0 ? 0 : scale * ((up - down) / (2 * step) - (i % e->vocab == label));
    }
    return d;
}

/* A vocabulary cut into uneven slices, some empty, visited in an order of its own. */
typedef struct cutting {
    int parts;
    double end[5]; /* of the vocabulary */
    int order[5];
} cutting;

static const cutting cuttings[] = {{1, {1}, {0}},
                                   {2, {0.5, 1}, {1, 0}},
                                   {4, {0.3, 0.3, 0.9, 1}, {2, 1, 3, 0}},
                                   {5, {0, 0.1, 0.15, 1, 1}, {4, 3, 0, 2, 1}},
                                   {3, {0.99, 1, 1}, {1, 2, 0}}};
enum { CUTTINGS = sizeof cuttings / sizeof *cuttings };

static mf_xent_args part_of(const entropy *e, const cutting *c, int turn_index) {
    int part = c->order[turn_index];
    int64_t from = part ? (int64_t)(c->end[part - 1] * (double)e->vocab) : 0;
    return slice(e, from, (int64_t)(c->end[part] * (double)e->vocab));
}

static double forward_loss(mf_device *device, const entropy *e, const cutting *c) {
    double loss = 1e9;
    mf_xent_args whole = slice(e, 0, 0);
    ASSERT_OK(mf_xent_begin(device, &whole));
    for (int i = 0; i < c->parts; i++) {
        mf_xent_args part = part_of(e, c, i);
        ASSERT_OK(mf_xent_update(device, &part));
    }
    ASSERT_OK(mf_xent_loss(device, &whole, &loss));
    return loss;
}

static void check_entropy_grad(mf_device *device, const entropy *e, const cutting *c, mf_dtype type,
                               const double *want) {
    float *all = blank(e->n * e->vocab, MF_F32);
    for (int i = 0; i < c->parts; i++) {
        mf_xent_args part = part_of(e, c, i);
        part.type = type;
        part.scale = 0.37f;
        part.d_logits = blank(part.n * part.width, type);
        ASSERT_OK(mf_xent_grad(device, &part));
        for (int64_t k = 0; k < part.n * part.width; k++) {
            int64_t t = k / part.width;
            all[t * e->vocab + part.first + k % part.width] = (float)at(part.d_logits, type, k);
            if (e->labels[t] < 0) assert_true(at(part.d_logits, type, k) == 0);
        }
    }
    double error = relative_error(e->n * e->vocab, all, want);
    if (!(error < mf_tolerance(type))) print_error("gradient of cross-entropy: relative error %g\n", error);
    assert_true(error < mf_tolerance(type));
}

static void entropy_one(int64_t n, int64_t vocab, float scale) {
    entropy e = entropy_make(n, vocab, scale);
    double want = entropy_loss(&e), *d = entropy_differences(&e, (double)0.37f);
    for (int i = 0; i < CUTTINGS * MACHINES; i++) {
        const cutting *c = &cuttings[i / 2];
        double loss = forward_loss(machine[i % 2], &e, c);
        if (!(fabs(loss - want) <= 1e-6 * (1 + fabs(want)))) print_error("loss %.9g, not %.9g\n", loss, want);
        assert_true(fabs(loss - want) <= 1e-6 * (1 + fabs(want)));
        for (int t = 0; t < 2; t++) check_entropy_grad(machine[i % 2], &e, c, types[t], d);
    }
}

static void test_cross_entropy(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{0, 7}, {3, 2}, {7, 31}, {31, 257}, {5, 1000}, {257, 7}};
    for (int i = 0; i < 6; i++) {
        entropy_one(shapes[i][0], shapes[i][1], 3);
        drop_to(0);
    }
}

/* Logits far apart: the loss is finite and right, however the vocabulary is cut. */
static void test_cross_entropy_extremes(void **state) {
    (void)state;
    for (int i = 0; i < CUTTINGS * MACHINES; i++) {
        entropy e = entropy_make(7, 31, 1e4f);
        double loss = forward_loss(machine[i % 2], &e, &cuttings[i / 2]), want = entropy_loss(&e);
        assert_true(isfinite(loss) && fabs(loss - want) <= 1e-6 * want);
    }
}

static void test_cross_entropy_nan(void **state) {
    (void)state;
    for (int i = 0; i < CUTTINGS * MACHINES; i++)
        for (int64_t where = 0; where < 31; where++) {
            entropy e = entropy_make(1, 31, 1);
            float *logits = copy_of(e.logits, 31, MF_F32);
            logits[where] = NAN;
            e.logits = logits;
            assert_true(isnan(forward_loss(machine[i % 2], &e, &cuttings[i / 2])));
        }
}

/* Masked rows are out of the loss, whatever stands in them; in the gradient they are 0. */
static void test_cross_entropy_masked(void **state) {
    (void)state;
    entropy e = entropy_make(9, 31, 1), wild = e;
    int32_t all_masked[] = {-1, -100, -1, -1, INT32_MIN, -7, -1, -1, -2};
    float *logits = copy_of(e.logits, 9 * 31, MF_F32);
    logits[40] = NAN, logits[80] = INFINITY;
    e.labels = wild.labels = all_masked;
    wild.logits = logits;
    double *zero = entropy_differences(&e, 1);
    for (int i = 0; i < CUTTINGS * MACHINES; i++) {
        assert_true(forward_loss(machine[i % 2], &wild, &cuttings[i / 2]) == 0);
        check_entropy_grad(machine[i % 2], &wild, &cuttings[i / 2], types[i % 2], zero);
    }
}

/* The exponential. */

static void test_exp(void **state) {
    (void)state;
    double worst = 0;
    for (int i = 0; i <= 2000000; i++) {
        float x = -87.3f + (float)i * (175.5f / 2000000);
        if (x > 88.3f) break;
        double want = exp((double)x), error = fabs((double)mf_cpu_exp(x) - want) / want;
        worst = fmax(worst, error);
    }
    if (worst >= 2.5e-7) print_error("largest relative error of mf_cpu_exp: %g\n", worst);
    assert_true(worst < 2.5e-7);
    assert_true(mf_cpu_exp(0) == 1 && mf_cpu_exp(-0.0f) == 1);
    assert_true(mf_cpu_exp(-87.4f) == 0 && mf_cpu_exp(-1e30f) == 0 && mf_cpu_exp(-INFINITY) == 0);
    assert_true(isinf(mf_cpu_exp(89)) && isinf(mf_cpu_exp(1e30f)) && isinf(mf_cpu_exp(INFINITY)));
    assert_true(isnan(mf_cpu_exp(NAN)) && isnan(mf_cpu_exp(-NAN)));
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

/* Operations counted. */

enum { SEEN_MAX = 4 };

static double pairs_seen(const mf_attention_args *a) {
    double pairs = 0;
    for (int i = 0; i < a->query_chunks; i++)
        for (int j = 0; j < a->key_chunks; j++)
            for (int64_t q = 0; q < a->queries[i].rows; q++)
                for (int64_t k = 0; k < a->keys[j].rows; k++)
                    pairs += a->keys[j].position + k <= a->queries[i].position + q;
    return pairs * (double)(a->batch * a->heads);
}

/* Rank `rank` of `ranks` in a zigzag of chunks of unlike sizes, its queries over all the keys. */
static void count_attention(int ranks, int rank, int64_t unit) {
    enum { BATCH = 2, HEADS = 3, DIM = 8 };
    int chunks = 2 * ranks, own[] = {rank, chunks - 1 - rank};
    int64_t begin_of[2 * SEEN_MAX + 1] = {0};
    mf_key_chunk keys[2 * SEEN_MAX];
    mf_query_chunk queries[2];
    for (int i = 0; i < chunks; i++) begin_of[i + 1] = begin_of[i] + unit + i % 3;
    int64_t total = begin_of[chunks], width = HEADS * DIM;
    char *k = values("k", BATCH * total * width, MF_F32), *v = values("v", BATCH * total * width, MF_F32);
    for (int i = 0; i < chunks; i++) {
        int64_t first = begin_of[i] * width * 4;
        keys[i] = (mf_key_chunk){.rows = begin_of[i + 1] - begin_of[i],
                                 .position = begin_of[i],
                                 .k = k + first,
                                 .v = v + first,
                                 .ld = width,
                                 .batch_ld = total * width};
    }
    int64_t tokens = 0;
    for (int i = 0; i < 2; i++) {
        queries[i] = (mf_query_chunk){keys[own[i]].rows, keys[own[i]].position, tokens};
        tokens += queries[i].rows;
    }
    mf_attention_args a = {.type = MF_F32,
                           .batch = BATCH,
                           .tokens = tokens,
                           .heads = HEADS,
                           .group = 1,
                           .kv_heads = HEADS,
                           .head_dim = DIM,
                           .scale = 1,
                           .query_chunks = 2,
                           .key_chunks = chunks,
                           .queries = queries,
                           .keys = keys,
                           .q = values("q", BATCH * tokens * width, MF_F32),
                           .q_ld = width,
                           .o = blank(BATCH * tokens * width, MF_F32),
                           .o_ld = width,
                           .lse = blank(BATCH * tokens * HEADS, MF_F32),
                           .lse_ld = HEADS};
    double before = mf_device_flops(machine[0]);
    ASSERT_OK(mf_attention_forward(machine[0], &a));
    assert_true(mf_device_flops(machine[0]) - before == 4.0 * DIM * pairs_seen(&a));
}

static void test_flops(void **state) {
    (void)state;
    for (int ranks = 1; ranks <= SEEN_MAX; ranks++)
        for (int rank = 0; rank < ranks; rank++)
            for (int64_t unit = 1; unit < 40; unit += 19) count_attention(ranks, rank, unit);
}

static void test_refusals(void **state) {
    (void)state;
    mf_device *none = NULL;
    double sum;
    float x[8] = {0};
    ASSERT_FAILS(mf_device_create("abacus", memory, 1, &none), MF_EUNSUPPORTED, "abacus");
    ASSERT_FAILS(mf_device_create("cpu", memory, 0, &none), MF_EINVAL, "threads is 0");
    assert_null(none);
    mf_device *d = machine[0];
    mf_rope_args rope = {MF_F32, 1, 1, 1, 3, x, x, false, 3, x, 3, false};
    ASSERT_FAILS(mf_rope(d, &rope), MF_EINVAL, "even head size");
    rope.head_dim = 4, rope.tokens = 2;
    ASSERT_FAILS(mf_rope(d, &rope), MF_EINVAL, "rows overlap");
    ASSERT_FAILS(mf_rope_table(d, 0, 1, 3, 1e4, x), MF_EINVAL, "even head size");
    ASSERT_FAILS(mf_rmsnorm_forward(d, -1, 4, 0, MF_F32, x, x, x), MF_EINVAL, "-1 x 4");
    ASSERT_FAILS(mf_sum_squares(d, -1, x, &sum), MF_EINVAL, "-1");
    ASSERT_FAILS(mf_add(d, -3, MF_F32, x, x, x), MF_EINVAL, "-3");
    ASSERT_FAILS(mf_accumulate(d, 2, 4, x, 3, x, 4), MF_EINVAL, "rows overlap");
    ASSERT_FAILS(mf_copy_rows(d, 2, 8, x, 4, x, 8), MF_EINVAL, "rows overlap");
    ASSERT_FAILS(mf_cast(d, &(mf_cast_args){2, 4, x, 4, MF_F32, x, 3, MF_F32}), MF_EINVAL, "rows overlap");
    ASSERT_FAILS(mf_swiglu_forward(d, &(mf_swiglu_args){.n = 2, .width = 4, .in_ld = 3}), MF_EINVAL,
                 "rows overlap");
    ASSERT_FAILS(mf_adamw(d, &(mf_adamw_args){.n = 1, .step = 0}), MF_EINVAL, "counts from 1");
    ASSERT_FAILS(mf_embed_forward(d, &(mf_embed_args){.n = 1, .h = -2}), MF_EINVAL, "1 x -2");
    ASSERT_FAILS(mf_xent_update(d, &(mf_xent_args){.n = 1, .width = -2}), MF_EINVAL, "1 x -2");
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_cast_rounds),
        TEST(test_cast_rows),
        TEST(test_copies),
        TEST(test_add),
        TEST(test_accumulate),
        TEST(test_gemm),
        TEST(test_gemm_empty),
        TEST(test_gemm_large),
        TEST(test_gemm_refuses),
        TEST(test_rmsnorm),
        TEST(test_rope),
        TEST(test_rope_table),
        TEST(test_swiglu),
        TEST(test_embed),
        TEST(test_cross_entropy),
        TEST(test_cross_entropy_extremes),
        TEST(test_cross_entropy_nan),
        TEST(test_cross_entropy_masked),
        TEST(test_exp),
        TEST(test_adamw),
        TEST(test_adamw_without_weights),
        TEST(test_sum_squares),
        TEST(test_fill_normal_slices),
        TEST(test_fill_normal_moments),
        TEST(test_flops),
        TEST(test_refusals),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
