/* ops_layers.c: matrix products, RMS norm, rotary positions and activations against plain
 * double-precision formulas, gradients against finite differences of those; on one thread and on two, in both
 * compute types, at awkward sizes. */
#include "ops.h"

#include <math.h>
#include <string.h>

/* Matrix products. */

typedef struct product {
    int64_t m, n, k, gap, offset; /* elements between rows, and from where memory begins */
    bool a_transposed, b_transposed, accumulate;
    mf_dtype type, c_type;
} product;

/* A copy that begins `offset` elements into its memory. */
static void *moved(const void *data, int64_t n, mf_dtype type, int64_t offset) {
    char *out = (char *)blank(n + offset, type) + bytes_of(offset, type);
    memcpy(out, data, bytes_of(n, type));
    return out;
}

static void *moved_values(const char *name, int64_t n, mf_dtype type, int64_t offset) {
    return moved(values(name, n, type), n, type, offset);
}

static mf_gemm_args gemm_args(const product *p) {
    int64_t a_rows = p->a_transposed ? p->k : p->m, a_width = p->a_transposed ? p->m : p->k;
    int64_t b_rows = p->b_transposed ? p->n : p->k, b_width = p->b_transposed ? p->k : p->n;
    int64_t a_ld = a_width + p->gap, b_ld = b_width + 2 * p->gap, c_ld = p->n + 3 * p->gap;
    int64_t c_size = span(p->m, p->n, c_ld);
    return (mf_gemm_args){.m = p->m,
                          .n = p->n,
                          .k = p->k,
                          .a = {moved_values("a", span(a_rows, a_width, a_ld), p->type, p->offset), a_ld,
                                p->type, p->a_transposed},
                          .b = {moved_values("b", span(b_rows, b_width, b_ld), p->type, p->offset), b_ld,
                                p->type, p->b_transposed},
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
        args.c = moved(start, span(p->m, p->n, args.c_ld), p->c_type, p->offset);
        gemm_check(machine[m], &args, want);
    }
    drop_to(mark);
}

static void gemm_all_ways_from(const int64_t size[3], int64_t gap, int64_t offset) {
    static const mf_dtype pair[][2] = {{MF_F32, MF_F32}, {MF_BF16, MF_F32}, {MF_BF16, MF_BF16}};
    for (unsigned way = 0; way < 24; way++)
        gemm_one(&(product){.m = size[0],
                            .n = size[1],
                            .k = size[2],
                            .gap = gap,
                            .offset = offset,
                            .a_transposed = way & 1,
                            .b_transposed = way & 2,
                            .accumulate = way & 4,
                            .type = pair[way / 8][0],
                            .c_type = pair[way / 8][1]});
}

static void gemm_all_ways(const int64_t size[3], int64_t gap) { gemm_all_ways_from(size, gap, 0); }

static void test_gemm(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1},    {1, 70, 3},  {70, 1, 33},  {17, 3, 1},  {3, 17, 70},
                                        {33, 33, 17}, {70, 33, 3}, {17, 70, 70}, {1, 17, 33}, {33, 1, 1},
                                        {69, 67, 65}, {7, 5, 31},  {4, 70, 65},  {2, 3, 130}};
    for (int i = 0; i < 14; i++) gemm_all_ways(shapes[i], i % 3 * 5);
}

/* The same shape at ever other places: what is kept of one product must not be taken for the next. */
static void test_gemm_anywhere(void **state) {
    (void)state;
    static const int64_t offsets[] = {0, 1, 2, 5, 8, 0};
    for (int i = 0; i < 6; i++) gemm_all_ways_from((const int64_t[]){16, 24, 32}, 0, offsets[i]);
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
    ASSERT_OK(mf_rope_table(device, &(mf_rope_table_args){.first = c->first,
                                                          .rows = c->tokens,
                                                          .head_dim = c->head_dim,
                                                          .theta = 10000,
                                                          .cos_sin = table}));
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

/* Llama 3.1's rule, by wavelengths: short ones stay, long ones are stretched, those between are mixed. */
static double scaled(double frequency, const mf_rope_scaling *s) {
    double wavelength = 2 * acos(-1) / frequency, original = (double)s->original;
    if (s->kind == MF_ROPE_PLAIN) return frequency;
    if (s->kind == MF_ROPE_LINEAR || wavelength > original / s->low_freq) return frequency / s->factor;
    if (wavelength < original / s->high_freq) return frequency;
    double smooth = (original / wavelength - s->low_freq) / (s->high_freq - s->low_freq);
    return (1 - smooth) * frequency / s->factor + smooth * frequency;
}

static void rope_table(mf_rope_scaling scaling) {
    enum { ROWS = 31, DIM = 96 };
    const int64_t first = 1000003;
    float *got = blank(ROWS * DIM, MF_F32);
    double *want = take(ROWS * DIM * sizeof *want);
    for (int64_t t = 0; t < ROWS; t++)
        for (int64_t i = 0; i < DIM / 2; i++) {
            double frequency = 1 / pow(500000.0, 2.0 * (double)i / DIM);
            double angle = (double)(first + t) * scaled(frequency, &scaling);
            want[t * DIM + i] = cos(angle);
            want[t * DIM + DIM / 2 + i] = sin(angle);
        }
    for (int m = 0; m < MACHINES; m++) {
        ASSERT_OK(mf_rope_table(machine[m], &(mf_rope_table_args){first, ROWS, DIM, 500000, scaling, got}));
        check_close("rope table", ROWS * DIM, got, MF_F32, want);
    }
}

static void test_rope_table(void **state) {
    (void)state;
    rope_table((mf_rope_scaling){0});
    rope_table((mf_rope_scaling){.kind = MF_ROPE_LINEAR, .factor = 2.5});
    rope_table((mf_rope_scaling){MF_ROPE_LLAMA3, 8, 1, 4, 8192});
}

/* Norms of heads, and biases: gradients are of sums of d * y. */

static void headnorm_one(int64_t rows, int64_t heads, int64_t d, mf_dtype type) {
    int64_t width = heads * d, ld = width + 3, d_ld = width + 5;
    mf_headnorm_args a = {.type = type, .rows = rows, .heads = heads, .head_dim = d, .eps = 1e-5f, .ld = ld};
    void *x = values("x", span(rows, width, ld), type), *dy = values("dy", span(rows, width, d_ld), type);
    float *w = normals("w", d), *dw[MACHINES];
    double *in = doubles(packed(x, type, rows, width, ld), rows * width, type), *w2 = doubles(w, d, MF_F32),
           *out = doubles(packed(x, type, rows, width, ld), rows * width, type),
           *grad = doubles(packed(dy, type, rows, width, d_ld), rows * width, type),
           *want_dx = take((size_t)(rows * width) * sizeof *want_dx),
           *want_dw = doubles(normals("dw", d), d, MF_F32);
    void *dx[MACHINES];
    for (int64_t i = 0; i < rows * width; i++) want_dx[i] = 0;
    for (int64_t t = 0; t < rows * heads; t++) {
        double r = inverse_rms(d, in + t * d, 1e-5);
        for (int64_t i = 0; i < d; i++) out[t * d + i] *= r * w2[i];
    }
    norm_differences(rows * heads, d, 1e-5, in, w2, grad, want_dx, want_dw);
    a.weight = w;
    for (int m = 0; m < MACHINES; m++) {
        a.x = copy_of(x, span(rows, width, ld), type);
        ASSERT_OK(mf_headnorm_forward(machine[m], &a));
        check_close("norm of heads", rows * width, packed(a.x, type, rows, width, ld), type, out);
        a.x = x;
        a.d = dx[m] = copy_of(dy, span(rows, width, d_ld), type);
        a.d_ld = d_ld;
        a.dweight = dw[m] = normals("dw", d);
        ASSERT_OK(mf_headnorm_backward(machine[m], &a));
        check_close("norm of heads dx", rows * width, packed(a.d, type, rows, width, d_ld), type, want_dx);
        check_close("norm of heads dweight", d, dw[m], MF_F32, want_dw);
    }
    check_same("dx on two threads", dx[1], dx[0], bytes_of(span(rows, width, d_ld), type));
    check_same("dweight on two threads", dw[1], dw[0], bytes_of(d, MF_F32));
}

static void test_headnorm(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{0, 3, 8},  {5, 0, 8},    {1, 1, 2},   {7, 3, 6},
                                        {64, 1, 2}, {130, 2, 33}, {65, 5, 128}};
    for (int i = 0; i < 7 * 2; i++) {
        int mark = held_count;
        headnorm_one(shapes[i / 2][0], shapes[i / 2][1], shapes[i / 2][2], types[i % 2]);
        drop_to(mark);
    }
}

static void bias_one(int64_t rows, int64_t width, mf_dtype type) {
    int64_t ld = width + 4;
    float *bias = normals("bias", width), *sums[MACHINES];
    void *x = values("x", span(rows, width, ld), type);
    double *in = doubles(packed(x, type, rows, width, ld), rows * width, type),
           *want = doubles(packed(x, type, rows, width, ld), rows * width, type),
           *want_sums = doubles(normals("sums", width), width, MF_F32);
    for (int64_t i = 0; i < rows * width; i++) {
        want[i] += (double)bias[i % width];
        want_sums[i % width] += in[i];
    }
    for (int m = 0; m < MACHINES; m++) {
        mf_bias_args a = {.type = type, .rows = rows, .width = width, .bias = bias, .d = x, .ld = ld};
        a.x = copy_of(x, span(rows, width, ld), type);
        a.d_bias = sums[m] = normals("sums", width);
        ASSERT_OK(mf_bias_forward(machine[m], &a));
        check_close("bias", rows * width, packed(a.x, type, rows, width, ld), type, want);
        ASSERT_OK(mf_bias_backward(machine[m], &a));
        check_close("bias's gradient", width, sums[m], MF_F32, want_sums);
    }
    check_same("sums on two threads", sums[1], sums[0], bytes_of(width, MF_F32));
}

static void test_bias(void **state) {
    (void)state;
    for (int i = 0; i < SIZES * 2; i++) {
        int mark = held_count;
        bias_one(sizes[i / 2][0], sizes[i / 2][1], types[i % 2]);
        drop_to(mark);
    }
}

/* Attention merged over parts. */

static void merge_one(int64_t rows, int64_t heads, int64_t d, int parts, bool held, mf_dtype type) {
    int64_t width = heads * d, o_ld = width + 3, lse_ld = heads + 2, row = width + heads;
    for (int i = 0; i < MACHINES; i++) {
        int keep = held_count;
        float *part = normals("part", parts * rows * row), *lse = normals("lse", span(rows, heads, lse_ld));
        void *o = held ? values("o", span(rows, width, o_ld), type) : blank(span(rows, width, o_ld), type);
        double *want = take((size_t)(rows * width) * sizeof *want);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t h = 0; h < heads; h++) {
                double sum = 0, e = held ? exp((double)lse[r * lse_ld + h]) : 0,
                       *to = want + r * width + h * d;
                for (int64_t k = 0; k < d; k++) to[k] = held ? e * at(o, type, r * o_ld + h * d + k) : 0;
                sum = e;
                for (int p = 0; p < parts; p++) {
                    float *of = part + (p * rows + r) * row;
                    if ((r + h + p) % 3 == 0) of[width + h] = -INFINITY; /* it had no key */
                    e = exp((double)of[width + h]);
                    sum += e;
                    for (int64_t k = 0; k < d; k++) to[k] += e * (double)of[h * d + k];
                }
                for (int64_t k = 0; k < d; k++) to[k] = sum > 0 ? to[k] / sum : 0;
            }
        mf_attention_merge_args args = {.type = type,
                                        .rows = rows,
                                        .heads = heads,
                                        .head_dim = d,
                                        .parts = parts,
                                        .part = part,
                                        .o = o,
                                        .o_ld = o_ld,
                                        .lse = held ? lse : NULL,
                                        .lse_ld = lse_ld};
        ASSERT_OK(mf_attention_merge(machine[i], &args));
        check_close("merged attention", rows * width, packed(o, type, rows, width, o_ld), type, want);
        drop_to(keep);
    }
}

static void test_attention_merge(void **state) {
    (void)state;
    for (int t = 0; t < 2; t++)
        for (int held = 0; held < 2; held++)
            for (int parts = 0; parts < 4; parts++) {
                merge_one(1, 1, 1, parts, held, types[t]);
                merge_one(5, 3, 7, parts, held, types[t]);
                merge_one(2, 4, 64, parts, held, types[t]);
                merge_one(0, 4, 8, parts, held, types[t]);
            }
    mf_attention_merge_args impossible = {.rows = 1, .heads = 1, .head_dim = 0};
    ASSERT_FAILS(mf_attention_merge(machine[0], &impossible), MF_EINVAL, "impossible");
}

/* Activations, gated and plain. */

static double activated(mf_activation_kind kind, double x) {
    if (kind == MF_SILU) return x / (1 + exp(-x));
    return x / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

static double activation_slope(mf_activation_kind kind, double x) {
    const double step = 1e-5;
    return (activated(kind, x + step) - activated(kind, x - step)) / (2 * step);
}

typedef struct activating {
    mf_activation_kind kind;
    bool gated;
    mf_dtype type;
    float scale; /* of the activation's input, in f32 */
} activating;

static void activation_one(mf_device *device, int64_t n, int64_t width, const activating *c) {
    int64_t ld = width + 3, count = n * width;
    mf_dtype type = c->type;
    void *gate = values("gate", span(n, width, ld), type), *up = values("up", span(n, width, ld), type);
    for (int64_t i = 0; type == MF_F32 && i < span(n, width, ld); i++) ((float *)gate)[i] *= c->scale;
    void *d = values("d", count, type), *dg = blank(count, type), *du = blank(count, type);
    double *g = doubles(packed(gate, type, n, width, ld), count, type),
           *u = doubles(packed(up, type, n, width, ld), count, type), *want_d = doubles(d, count, type),
           *want = take((size_t)count * sizeof *want);
    mf_activation_args args = {.type = type,
                               .kind = c->kind,
                               .n = n,
                               .width = width,
                               .gate = gate,
                               .up = c->gated ? up : NULL,
                               .in_ld = ld,
                               .out = blank(count, type),
                               .d_out = d,
                               .d_gate = dg,
                               .d_up = c->gated ? du : NULL};
    for (int64_t i = 0; i < count; i++) {
        if (!c->gated) u[i] = 1;
        want[i] = activated(c->kind, g[i]) * u[i];
    }
    ASSERT_OK(mf_activation_forward(device, &args));
    check_close("activation", count, args.out, type, want);
    args.out = blank(count, type);
    ASSERT_OK(mf_activation_backward(device, &args));
    check_close("activation in backward", count, args.out, type, want);
    for (int64_t i = 0; i < count; i++) want[i] = want_d[i] * u[i] * activation_slope(c->kind, g[i]);
    check_close("activation d_gate", count, dg, type, want);
    if (!c->gated) return;
    for (int64_t i = 0; i < count; i++) want[i] = want_d[i] * activated(c->kind, g[i]);
    check_close("activation d_up", count, du, type, want);
}

static void test_activation(void **state) {
    (void)state;
    for (int i = 0; i < SIZES * MACHINES * 16; i++) {
        int mark = held_count;
        activating c = {i / 2 % 2 ? MF_GELU : MF_SILU, i / 4 % 2, types[i / 8 % 2], i / 16 % 2 ? 1e4f : 1};
        activation_one(machine[i % 2], sizes[i / 32][0], sizes[i / 32][1], &c);
        drop_to(mark);
    }
}

static void test_layers_refuse(void **state) {
    (void)state;
    float x[8] = {0};
    mf_device *d = machine[0];
    mf_rope_args rope = {MF_F32, 1, 1, 1, 3, x, x, false, 3, x, 3, false};
    ASSERT_FAILS(mf_rope(d, &rope), MF_EINVAL, "even head size");
    rope.head_dim = 4, rope.tokens = 2;
    ASSERT_FAILS(mf_rope(d, &rope), MF_EINVAL, "rows overlap");
    ASSERT_FAILS(
        mf_rope_table(d, &(mf_rope_table_args){.rows = 1, .head_dim = 3, .theta = 1e4, .cos_sin = x}),
        MF_EINVAL, "even head size");
    mf_rope_table_args table = {.rows = 1, .head_dim = 4, .theta = 1e4, .cos_sin = x};
    table.scaling = (mf_rope_scaling){.kind = MF_ROPE_LINEAR};
    ASSERT_FAILS(mf_rope_table(d, &table), MF_EINVAL, "scaled by 0");
    table.scaling = (mf_rope_scaling){MF_ROPE_LLAMA3, 8, 4, 4, 64};
    ASSERT_FAILS(mf_rope_table(d, &table), MF_EINVAL, "between 4 and 4 turns in 64 tokens");
    mf_headnorm_args heads = {.rows = 2, .heads = 2, .head_dim = 2, .x = x, .ld = 3};
    ASSERT_FAILS(mf_headnorm_forward(d, &heads), MF_EINVAL, "rows overlap");
    heads.ld = 4, heads.d_ld = 3;
    ASSERT_FAILS(mf_headnorm_backward(d, &heads), MF_EINVAL, "rows overlap");
    mf_bias_args bias = {.rows = 2, .width = 4, .x = x, .ld = 3};
    ASSERT_FAILS(mf_bias_forward(d, &bias), MF_EINVAL, "rows overlap");
    ASSERT_FAILS(mf_rmsnorm_forward(d, -1, 4, 0, MF_F32, x, x, x), MF_EINVAL, "-1 x 4");
    ASSERT_FAILS(mf_activation_forward(d, &(mf_activation_args){.n = 2, .width = 4, .in_ld = 3}), MF_EINVAL,
                 "rows overlap");
    ASSERT_FAILS(mf_activation_backward(d, &(mf_activation_args){.kind = (mf_activation_kind)2}), MF_EINVAL,
                 "kind 2");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        OPS_TEST(test_gemm),         OPS_TEST(test_gemm_empty),    OPS_TEST(test_gemm_large),
        OPS_TEST(test_gemm_refuses), OPS_TEST(test_gemm_anywhere), OPS_TEST(test_rmsnorm),
        OPS_TEST(test_rope),         OPS_TEST(test_rope_table),    OPS_TEST(test_attention_merge),
        OPS_TEST(test_activation),   OPS_TEST(test_layers_refuse), OPS_TEST(test_headnorm),
        OPS_TEST(test_bias),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
