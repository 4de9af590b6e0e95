/* parity.c: tsp against one rank: loss and the gradient of every parameter, at every awkward shape and mode.
 */
#include "support.h"

#include "parity.h"

#include <stdlib.h>

static void check(parity_run *run, bool no_borrow) {
    mf_launch_options options = {
        .engine = "local", .ranks = mf_mesh_ranks(&run->mesh), .no_borrow = no_borrow, .timeout_s = 60};
    ASSERT_OK(mf_launch(&options, parity_body, run));
    double tolerance = mf_tolerance(run->type);
    if (run->loss_error < tolerance && run->worst < tolerance) return;
    print_error("%s, %d ranks, %s, recompute %d, %s: loss error %.2e, worst gradient error %.2e (%s)\n",
                run->shape->name, mf_mesh_ranks(&run->mesh), mf_dtype_name(run->type), (int)run->recompute,
                no_borrow ? "sent" : "borrowed", run->loss_error, run->worst, run->worst_name);
    fail();
}

static void every_shape(int ranks, mf_dtype type) {
    char mesh[16];
    snprintf(mesh, sizeof mesh, "tsp=%d", ranks);
    for (int i = 0; parity_case_at(i); i++) {
        parity_case shape = *parity_case_at(i);
        parity_run run = {.shape = &shape, .type = type, .threads = 1};
        ASSERT_OK(mf_mesh_parse(mesh, &run.mesh));
        for (int no_borrow = 0; no_borrow < 2; no_borrow++) {
            for (int mode = MF_RECOMPUTE_NONE; mode <= MF_RECOMPUTE_BLOCK; mode++) {
                run.recompute = (mf_recompute)mode;
                check(&run, no_borrow);
            }
            run.forward_only = true;
            check(&run, no_borrow);
            run.forward_only = false;
        }
    }
}

static void gradients_agree(void **state) {
    (void)state;
    const int ranks[] = {1, 2, 3, 4, 5, 8};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        every_shape(ranks[i], MF_F32);
        every_shape(ranks[i], MF_BF16);
    }
}

/* The thread sanitizer does not see the barriers of an OpenMP library that was not built with it; and it
 * would take minutes for the tiles, which are one rank's own. */
#if !defined(__SANITIZE_THREAD__)
static void several_threads_a_rank(void **state) {
    (void)state;
    parity_case shape = *parity_case_at(4);
    parity_run run = {.shape = &shape, .type = MF_F32, .threads = 3};
    ASSERT_OK(mf_mesh_parse("tsp=2", &run.mesh));
    check(&run, false);
    check(&run, true);
}

static void tiles_agree(void **state) {
    (void)state;
    parity_case shape = parity_long_case();
    for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
        parity_run run = {.shape = &shape, .type = type, .threads = 1};
        ASSERT_OK(mf_mesh_parse("tsp=2", &run.mesh));
        check(&run, false);
        run.recompute = MF_RECOMPUTE_BLOCK;
        check(&run, true);
    }
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree),
#if !defined(__SANITIZE_THREAD__)
        cmocka_unit_test(tiles_agree),
        cmocka_unit_test(several_threads_a_rank),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
