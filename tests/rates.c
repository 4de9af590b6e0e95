/* rates.c: lines between measured rates, the file that holds them, and a calibration of this machine. */
#include "support.h"

#include "meshfold/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ASSERT_NEAR(a, b) assert_true(fabs((a) - (b)) <= 1e-9 * fabs(b))

static mf_rates *rates_make(void) {
    mf_rates *rates = calloc(1, sizeof *rates);
    assert_non_null(rates);
    rates->ranks = 1;
    rates->threads = 2;
    rates->pace = 1e11;
    return rates;
}

static void between_sizes_logarithms_lie_on_lines(void **state) {
    (void)state;
    mf_rates *rates = rates_make();
    mf_grid *grid = &rates->touch[MF_DO_ADD][MF_F32];
    const mf_grid_axis bytes = {3, {100, 400, 1600}};
    ASSERT_OK(mf_rates_add(rates, grid, 1, &bytes, (double[]){10, 40, 20}));
    double exact = 400, middle = 200, beyond = 6400, below = 50, falling = 800;
    ASSERT_NEAR(mf_rates_s(rates, grid, &exact, 400), 10.0);
    ASSERT_NEAR(mf_rates_s(rates, grid, &middle, 200), 200 / 20.0);
    ASSERT_NEAR(mf_rates_s(rates, grid, &falling, 800), 800 / sqrt(800.0));
    ASSERT_NEAR(mf_rates_s(rates, grid, &beyond, 6400), 320.0); /* the last rate */
    ASSERT_NEAR(mf_rates_s(rates, grid, &below, 50), 10.0);     /* the first time */
    free(rates);
}

/* The rate m^a n^b k^c is a plane in logarithms: it comes back exactly anywhere inside. */
static void three_sizes_blend_exactly_on_a_plane(void **state) {
    (void)state;
    mf_rates *rates = rates_make();
    mf_grid *grid = &rates->gemm[MF_BF16][MF_FORM_TN];
    const mf_grid_axis axis[] = {{2, {10, 1000}}, {3, {10, 40, 90}}, {2, {8, 128}}};
    double value[12];
    for (int i = 0; i < 12; i++)
        value[i] =
            pow(axis[0].at[i / 6], 0.5) * pow(axis[1].at[i / 2 % 3], -0.25) * pow(axis[2].at[i % 2], 2);
    ASSERT_OK(mf_rates_add(rates, grid, 3, axis, value));
    for (double m = 10; m <= 1000; m *= 1.7)
        for (double n = 10; n <= 90; n *= 1.3)
            for (double k = 8; k <= 128; k *= 1.9) {
                double rate = pow(m, 0.5) * pow(n, -0.25) * pow(k, 2);
                ASSERT_NEAR(mf_rates_s(rates, grid, (double[]){m, n, k}, 7), 7 / rate);
            }
    free(rates);
}

static void too_many_rates_are_refused(void **state) {
    (void)state;
    mf_rates *rates = rates_make();
    const mf_grid_axis axis[] = {
        {8, {1, 2, 3, 4, 5, 6, 7, 8}}, {8, {1, 2, 3, 4, 5, 6, 7, 8}}, {8, {1, 2, 3, 4, 5, 6, 7, 8}}};
    double value[512];
    for (int i = 0; i < 512; i++) value[i] = 1;
    for (int i = 0; i < MF_RATE_VALUES / 512; i++)
        ASSERT_OK(mf_rates_add(rates, &rates->gemm[i % 2][i % MF_FORMS], 3, axis, value));
    ASSERT_FAILS(mf_rates_add(rates, &rates->gemm[0][0], 3, axis, value), MF_EINVAL, "more than");
    free(rates);
}

static mf_status body(mf_world *world, void *argument) {
    mf_rates *out = argument, *own = rates_make();
    mf_calibrate_options options = {.device = "cpu", .threads = 1, .passes = 1, .quick = true};
    mf_status status = mf_calibrate(world, &options, own);
    if (!status && mf_world_rank(world) == 0) *out = *own;
    free(own);
    return status;
}

static void same_numbers(const mf_cluster *a, const mf_cluster *b) {
    assert_int_equal(a->measured, b->measured);
    for (int i = 0; i < a->measured; i++) {
        const mf_rates *x = &a->rates[i], *y = &b->rates[i];
        assert_true(x->ranks == y->ranks && x->threads == y->threads && x->values == y->values);
        assert_true(fabs(x->pace / y->pace - 1) < 1e-3);
        const double size[] = {100, 300, 100};
        double s = mf_rates_s(x, &x->gemm[MF_F32][MF_FORM_NN], size, 1);
        assert_true(fabs(s / mf_rates_s(y, &y->gemm[MF_F32][MF_FORM_NN], size, 1) - 1) < 1e-3);
        for (int type = 0; type < 2; type++)
            for (int form = 0; form < MF_FORMS; form++)
                assert_int_equal(x->gemm[type][form].axes, y->gemm[type][form].axes);
        for (int op = 0; op < MF_COMM_OPS; op++) assert_int_equal(x->transfer[op].axes, y->transfer[op].axes);
    }
}

/* This machine by two ranks: everything that a step needs has a rate, and the file gives the same back. */
static void a_calibration_comes_back_from_its_file(void **state) {
    (void)state;
    mf_cluster *made = calloc(1, sizeof *made), *read = calloc(1, sizeof *read);
    char path[] = "/tmp/meshfold-rates-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && made && read);
    close(fd);
    *made = (mf_cluster){.name = "here",
                         .device = "this",
                         .memory_bytes = 1 << 30,
                         .memory_bytes_per_s = 1e9,
                         .flops = {1e9, 1e9},
                         .gemm = {1, 0},
                         .attention = {1, 0},
                         .shared = true,
                         .levels = 1,
                         .level = {{"threads", 0, 1e-6, 1e9}},
                         .measured = 1};
    ASSERT_OK(mf_launch(&(mf_launch_options){.engine = "local", .ranks = 2}, body, &made->rates[0]));
    const mf_rates *r = &made->rates[0];
    for (int type = MF_F32; type <= MF_BF16; type++) {
        for (int form = MF_FORM_NN; form <= MF_FORM_TN; form++) assert_int_equal(r->gemm[type][form].axes, 3);
        assert_true(r->attention[type][0].axes == 2 && r->attention[type][1].axes == 2);
        assert_int_equal(r->touch[MF_DO_ACTIVATION_BACKWARD][type].axes, 1);
    }
    assert_true(r->ranks == 2 && r->pace > 0 && r->transfer[MF_OP_SHIFT].axes == 1);
    ASSERT_OK(mf_cluster_save(made, path));
    ASSERT_OK(mf_cluster_load(path, read));
    assert_true(read->shared && mf_cluster_memory(read, 2) == (1 << 30) / 2);
    same_numbers(made, read);
    unlink(path);
    free(made);
    free(read);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(between_sizes_logarithms_lie_on_lines),
        cmocka_unit_test(three_sizes_blend_exactly_on_a_plane),
        cmocka_unit_test(too_many_rates_are_refused),
        cmocka_unit_test(a_calibration_comes_back_from_its_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
