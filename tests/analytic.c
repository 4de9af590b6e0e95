/* analytic.c: the TSP paper's table against numbers worked out by hand, and against the formulas that the
 * counters are held to. */
#include "support.h"

#include "meshfold/analytic.h"
#include "meshfold/train.h"

#include <math.h>
#include <string.h>

/* The paper's reference model: 32 layers of 16 h^2, no vocabulary. */
static mf_model_options papers_model(void) {
    return (mf_model_options){.config = {.hidden = 4096,
                                         .layers = 32,
                                         .heads = 32,
                                         .kv_heads = 32,
                                         .head_dim = 128,
                                         .ffn = 16384,
                                         .rope_theta = 10000,
                                         .norm_eps = 1e-5},
                              .type = MF_BF16,
                              .recompute = MF_RECOMPUTE_BLOCK,
                              .batch = 1,
                              .tokens = 131072};
}

static const double GI = 1024.0 * 1024 * 1024;

static const mf_analytic_row *find(const mf_analytic *t, mf_scheme scheme, int tensor) {
    for (int i = 0; i < t->rows; i++)
        if (t->row[i].scheme == scheme && (tensor == 0 || t->row[i].tensor == tensor)) return &t->row[i];
    fail_msg("no row of scheme %d, tensor %d", (int)scheme, tensor);
    return NULL;
}

static void expect(const mf_analytic *t, mf_scheme scheme, int tensor, double state_gib, double kept_gi,
                   double sent_gi, double in_flight_gi) {
    const mf_analytic_row *r = find(t, scheme, tensor);
    double got[] = {r->state_bytes, r->kept, r->sent, r->in_flight};
    double want[] = {state_gib * GI, kept_gi * GI, sent_gi * GI, in_flight_gi * GI};
    for (int i = 0; i < 4; i++)
        if (got[i] != want[i])
            fail_msg("scheme %d, figure %d: %.17g, by hand %.17g", (int)scheme, i, got[i], want[i]);
}

/* 2^33 parameters; BSh = 2^29, h^2 = 2^24. */
static void papers_model_by_hand(void **state) {
    (void)state;
    mf_model_options model = papers_model();
    mf_analytic t;
    ASSERT_OK(mf_analytic_make(&model, 8, &t));
    assert_true(t.weights == 8 * GI && t.attention + t.mlp == 0.25 * GI && t.state_bytes_each == 18);
    assert_int_equal(t.rows, 7);
    expect(&t, MF_SCHEME_TP, 0, 18, 16, 2, 0);
    expect(&t, MF_SCHEME_TP_SCATTER, 0, 18, 2, 2, 0);
    expect(&t, MF_SCHEME_SP, 0, 144, 2, 1, 1);
    expect(&t, MF_SCHEME_TP_SP, 4, 36, 8, 1.25, 0.25);
    expect(&t, MF_SCHEME_TP_SP, 2, 72, 4, 1, 0.5);
    expect(&t, MF_SCHEME_ZERO3_SP, 0, 18, 2, 1.25, 1.25);
    expect(&t, MF_SCHEME_TSP, 0, 18, 2, 1.25, (0.125 + 1) / 8); /* attention: 2 of 4 h^2, and 2 BSh */
    model.tokens = 4096; /* 2 of the MLP's 12 h^2 are more than 8 h^2 and 2 BSh */
    ASSERT_OK(mf_analytic_make(&model, 8, &t));
    expect(&t, MF_SCHEME_TSP, 0, 18, 0.0625, 0.25 + 0.03125, 0.375 / 8);
}

static void other_modes_and_types(void **state) {
    (void)state;
    mf_model_options model = papers_model();
    mf_analytic t;
    model.config.vocab = 32768; /* V h = 2^27 */
    model.type = MF_F32;
    model.recompute = MF_RECOMPUTE_NONE; /* h (4+2g+2F) = 14h, of which tp cuts 12h */
    ASSERT_OK(mf_analytic_make(&model, 4, &t));
    assert_true(t.weights == 8.25 * GI);
    expect(&t, MF_SCHEME_TP, 0, 8.25 * 16 / 4, 16 * 2 + 16 * 12 / 4, 2, 0);
    expect(&t, MF_SCHEME_TSP, 0, 8.25 * 16 / 4, 16 * 14 / 4.0, 1.25, 1.125 / 4);
    model.config.tied = true;
    model.recompute = MF_RECOMPUTE_ATTENTION;
    ASSERT_OK(mf_analytic_make(&model, 4, &t));
    expect(&t, MF_SCHEME_TP_SCATTER, 0, 8.125 * 16 / 4, 16 * 9 / 4.0, 2, 0);
    model.forward_only = true; /* the residual stream alone, weights alone */
    ASSERT_OK(mf_analytic_make(&model, 4, &t));
    expect(&t, MF_SCHEME_SP, 0, 8.125 * 4, 0.125, 1, 1);
}

static void crossovers(void **state) {
    (void)state;
    mf_model_options model = papers_model();
    mf_analytic t;
    ASSERT_OK(mf_analytic_make(&model, 8, &t));
    assert_true(find(&t, MF_SCHEME_TP, 0)->tsp_less_beyond == 8 * 4096);
    assert_true(find(&t, MF_SCHEME_TP_SCATTER, 0)->tsp_less_beyond == 8 * 4096);
    /* 16h^2 / (4h/2 + 2h/4 - 2h) = 32h; 4h/4 + 2h/2 is no more than tsp's own 2h */
    assert_true(find(&t, MF_SCHEME_TP_SP, 4)->tsp_less_beyond == 32 * 4096);
    assert_true(isinf(find(&t, MF_SCHEME_TP_SP, 2)->tsp_less_beyond));
    assert_true(isinf(find(&t, MF_SCHEME_SP, 0)->tsp_less_beyond));
    assert_true(isinf(find(&t, MF_SCHEME_ZERO3_SP, 0)->tsp_less_beyond));
    model.config.kv_heads = 8;
    ASSERT_OK(mf_analytic_make(&model, 8, &t));
    assert_true(fabs(find(&t, MF_SCHEME_TP, 0)->tsp_less_beyond - 4096 * 29.0 / 7) < 1e-6);
    model.tokens = 16970; /* 29h/7 is 16969.1 */
    ASSERT_OK(mf_analytic_make(&model, 8, &t));
    assert_true(find(&t, MF_SCHEME_TSP, 0)->sent < find(&t, MF_SCHEME_TP, 0)->sent);
    model.tokens = 16969;
    ASSERT_OK(mf_analytic_make(&model, 8, &t));
    assert_true(find(&t, MF_SCHEME_TSP, 0)->sent > find(&t, MF_SCHEME_TP, 0)->sent);
}

/* Bytes on each set of axes of one layer's forward, each back from (n-1)/n: a model of two layers less one of
 * one. */
static double predicted_layer(mf_model_options model, const char *mesh) {
    double bytes[2] = {0, 0};
    mf_mesh_spec spec;
    mf_layout layout;
    model.forward_only = true;
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &spec, &layout));
    for (int i = 0; i < 2; i++) {
        mf_volume v;
        model.config.layers = i + 1;
        mf_volume_predict(&model, &layout, &spec, &v);
        for (int g = 0; g < v.groups; g++) {
            double n = mf_axes_ranks(&spec, mf_mesh_find(&spec, v.group[g].axis));
            for (int op = 0; op < MF_COMM_OPS; op++) bytes[i] += v.group[g].bytes[op] * n / (n - 1);
        }
    }
    return bytes[1] - bytes[0];
}

static void volumes_are_those_of_the_counters(void **state) {
    (void)state;
    static const struct {
        const char *mesh;
        mf_scheme scheme;
        int tensor;
    } schemes[] = {{"tp=8", MF_SCHEME_TP, 8},         {"tp=8,reduction=scatter", MF_SCHEME_TP_SCATTER, 8},
                   {"sp=8", MF_SCHEME_SP, 1},         {"tp=4,sp=2", MF_SCHEME_TP_SP, 4},
                   {"tp=2,sp=4", MF_SCHEME_TP_SP, 2}, {"sp=8,stream=gather", MF_SCHEME_ZERO3_SP, 1},
                   {"tsp=8", MF_SCHEME_TSP, 1}};
    mf_model_options model = papers_model();
    model.config.vocab = 32000;
    for (int64_t kv_heads = 32; kv_heads >= 8; kv_heads /= 2) {
        mf_analytic t;
        model.config.kv_heads = kv_heads;
        ASSERT_OK(mf_analytic_make(&model, 8, &t));
        for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
            double sent = find(&t, schemes[i].scheme, schemes[i].tensor)->sent * 2;
            double counted = predicted_layer(model, schemes[i].mesh);
            if (fabs(sent - counted) > 1e-9 * counted)
                fail_msg("%s, %lld key heads: %.0f bytes, volume.c says %.0f", schemes[i].mesh,
                         (long long)kv_heads, sent, counted);
        }
    }
}

static void degrees(void **state) {
    (void)state;
    mf_model_options model = papers_model();
    static mf_analytic t;
    ASSERT_FAILS(mf_analytic_make(&model, 1, &t), MF_EINVAL, "a degree of 1");
    ASSERT_FAILS(mf_analytic_make(&model, MF_ANALYTIC_DEGREE + 1, &t), MF_EINVAL, "from 2 to 65536");
    ASSERT_OK(mf_analytic_make(&model, 55440, &t)); /* has 120 divisors, no number below 65537 has more */
    assert_int_equal(t.rows, MF_ANALYTIC_ROWS);
    ASSERT_OK(mf_analytic_make(&model, 7, &t));
    assert_int_equal(t.rows, 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(papers_model_by_hand),
                                       cmocka_unit_test(other_modes_and_types), cmocka_unit_test(crossovers),
                                       cmocka_unit_test(volumes_are_those_of_the_counters),
                                       cmocka_unit_test(degrees)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
