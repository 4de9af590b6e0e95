/* ops_loss.c: embedding, and cross-entropy over slices of a vocabulary, against plain double-precision
 * formulas, gradients against finite differences of those; on one thread and on two, in both compute types,
 * at awkward sizes. */
#include "device/cpu/exp.h"
#include "ops.h"

#include <math.h>
#include <string.h>

/* Embedding. */

static void embed_one(int64_t n, int64_t h, mf_dtype type, mf_dtype d_type) {
    const int64_t first = 10, rows = 9, low = 7; /* ids from 7 to 21: some lie on either side of the slice */
    int32_t *ids = take((size_t)n * sizeof *ids);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)(low + (int64_t)(mf_random_u64(1, 2, (uint64_t)i) % 15));
    unsigned char *table = values("table", rows * h, type);
    void *d_out = values("d_out", n * h, d_type);
    float *d_table[MACHINES];
    size_t row_bytes = bytes_of(h, type);
    double *want = doubles(normals("d_table", rows * h), rows * h, MF_F32);
    for (int64_t i = 0; i < n * h; i++)
        if (ids[i / h] >= first && ids[i / h] < first + rows)
            want[(ids[i / h] - first) * h + i % h] += at(d_out, d_type, i);
    for (int m = 0; m < MACHINES; m++) {
        unsigned char *out = blank(n * h, type), *untouched = blank(h, type);
        d_table[m] = normals("d_table", rows * h);
        mf_embed_args args = {type, n, h, first, rows, ids, table, out, d_out, d_type, d_table[m]};
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
    for (int i = 0; i < SIZES; i++) {
        embed_one(sizes[i][0], sizes[i][1], MF_F32, MF_F32);
        embed_one(sizes[i][0], sizes[i][1], MF_BF16, MF_F32);
        embed_one(sizes[i][0], sizes[i][1], MF_BF16, MF_BF16);
    }
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

/* States of parts of the vocabulary, merged. */

static void find_state(mf_device *device, const mf_xent_args *part) {
    ASSERT_OK(mf_xent_begin(device, part));
    ASSERT_OK(mf_xent_update(device, part));
}

/* Each part's state, as the rank that holds the part has it: [parts][3][n]. */
static float *states_of(mf_device *device, const entropy *e, const cutting *c) {
    float *states = blank(3 * c->parts * e->n, MF_F32);
    for (int i = 0; i < c->parts; i++) {
        entropy own = *e;
        own.maximum = states + 3 * i * e->n;
        own.sum = own.maximum + e->n;
        own.label_logit = own.sum + e->n;
        mf_xent_args part = part_of(&own, c, i);
        find_state(device, &part);
    }
    return states;
}

/* The maximum and the label's logit are to the bit those of one pass; of one part the sum is too. */
static void check_merged(mf_device *device, const entropy *e, const cutting *c) {
    size_t bytes = bytes_of(e->n, MF_F32);
    entropy whole = *e;
    whole.maximum = blank(e->n, MF_F32), whole.sum = blank(e->n, MF_F32);
    whole.label_logit = blank(e->n, MF_F32);
    mf_xent_args want = slice(&whole, 0, e->vocab), got = slice(e, 0, 0);
    find_state(device, &want);
    ASSERT_OK(mf_xent_merge(device, &got, c->parts, states_of(device, e, c)));
    check_same("merged maximum", got.maximum, want.maximum, bytes);
    check_same("merged label_logit", got.label_logit, want.label_logit, bytes);
    check_close("merged sum", e->n, got.sum, MF_F32, doubles(want.sum, e->n, MF_F32));
    if (c->parts == 1) check_same("sum of one part", got.sum, want.sum, bytes);
}

static void test_merge(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{0, 7}, {1, 1}, {3, 2}, {31, 257}, {257, 7}};
    for (int i = 0; i < 5 * CUTTINGS * MACHINES; i++) {
        const int64_t *shape = shapes[i / CUTTINGS / MACHINES];
        entropy e = entropy_make(shape[0], shape[1], 3), far_apart = entropy_make(shape[0], shape[1], 1e4f);
        check_merged(machine[i % 2], &e, &cuttings[i / 2 % CUTTINGS]);
        check_merged(machine[i % 2], &far_apart, &cuttings[i / 2 % CUTTINGS]);
        drop_to(0);
    }
}

/* Parts without columns merge to a state as it begins. */
static void test_merge_of_nothing(void **state) {
    (void)state;
    for (int parts = 1; parts <= 5; parts++) {
        entropy e = entropy_make(3, 7, 1);
        cutting nothing = {parts, {0}, {0, 1, 2, 3, 4}};
        mf_xent_args merged = slice(&e, 0, 0);
        ASSERT_OK(mf_xent_merge(machine[0], &merged, parts, states_of(machine[0], &e, &nothing)));
        for (int t = 0; t < 3; t++)
            assert_true(merged.maximum[t] == -INFINITY && merged.sum[t] == 0 && merged.label_logit[t] == 0);
    }
}

/* Wherever the NaN is: a logit, so that only its part's sum has it, or a maximum. */
static void test_merge_nan(void **state) {
    (void)state;
    for (int i = 0; i < CUTTINGS; i++)
        for (int64_t where = 0; where < 31; where++) {
            entropy e = entropy_make(1, 31, 1);
            float *logits = copy_of(e.logits, 31, MF_F32), *states;
            mf_xent_args merged = slice(&e, 0, 0);
            double loss = 0;
            states = states_of(machine[0], &e, &cuttings[i]);
            states[3 * (where % cuttings[i].parts)] = NAN;
            ASSERT_OK(mf_xent_merge(machine[0], &merged, cuttings[i].parts, states));
            assert_true(isnan(merged.sum[0]));
            logits[where] = NAN;
            e.logits = logits;
            states = states_of(machine[0], &e, &cuttings[i]);
            ASSERT_OK(mf_xent_merge(machine[0], &merged, cuttings[i].parts, states));
            ASSERT_OK(mf_xent_loss(machine[0], &merged, &loss));
            assert_true(isnan(loss));
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

static void test_loss_refuses(void **state) {
    (void)state;
    float x[8] = {0};
    mf_device *d = machine[0];
    mf_embed_args narrow = {.type = MF_F32, .n = 1, .h = 1, .rows = 1, .d_out_type = MF_BF16};
    ASSERT_FAILS(mf_embed_forward(d, &(mf_embed_args){.n = 1, .h = -2}), MF_EINVAL, "1 x -2");
    ASSERT_FAILS(mf_embed_backward(d, &narrow), MF_EINVAL, "mixed types");
    ASSERT_FAILS(mf_xent_update(d, &(mf_xent_args){.n = 1, .width = -2}), MF_EINVAL, "1 x -2");
    ASSERT_FAILS(mf_xent_merge(d, &(mf_xent_args){.n = -1}, 1, x), MF_EINVAL, "-1 x 0");
    ASSERT_FAILS(mf_xent_merge(d, &(mf_xent_args){.n = 1}, 0, x), MF_EINVAL, "0 parts");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        OPS_TEST(test_embed),
        OPS_TEST(test_cross_entropy),
        OPS_TEST(test_cross_entropy_extremes),
        OPS_TEST(test_cross_entropy_nan),
        OPS_TEST(test_cross_entropy_masked),
        OPS_TEST(test_merge),
        OPS_TEST(test_merge_of_nothing),
        OPS_TEST(test_merge_nan),
        OPS_TEST(test_exp),
        OPS_TEST(test_loss_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
