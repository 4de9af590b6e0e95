/* parity.c: tsp against one rank: loss and the gradient of every parameter, at every awkward shape and mode.
 */
#include "support.h"

#include "parity.h"

#include <stdlib.h>

static void every_shape(int ranks, mf_dtype type) {
    char mesh[16];
    snprintf(mesh, sizeof mesh, "tsp=%d", ranks);
    for (int i = 0; parity_case_at(i); i++) {
        parity_case shape = *parity_case_at(i);
        parity_run run = {.type = type, .threads = 1};
        ASSERT_OK(parity_lay_out(&run, &shape, mesh));
        for (int no_borrow = 0; no_borrow < 2; no_borrow++) {
            for (int mode = MF_RECOMPUTE_NONE; mode <= MF_RECOMPUTE_BLOCK; mode++) {
                if (MF_TEST_SPARSE && mode != (i + no_borrow) % 3) continue;
                run.recompute = (mf_recompute)mode;
                parity_check(&run, no_borrow);
            }
            run.forward_only = true;
            parity_check(&run, no_borrow);
            run.forward_only = false;
            run.packed = true;
            parity_check(&run, no_borrow);
            run.packed = false;
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
    parity_run run = {.type = MF_F32, .threads = 3};
    ASSERT_OK(parity_lay_out(&run, &shape, "tsp=2"));
    parity_check(&run, false);
    parity_check(&run, true);
}

static void tiles_agree(void **state) {
    (void)state;
    parity_case shape = parity_long_case();
    for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
        parity_run run = {.type = type, .threads = 1};
        ASSERT_OK(parity_lay_out(&run, &shape, "tsp=2"));
        parity_check(&run, false);
        run.recompute = MF_RECOMPUTE_BLOCK;
        parity_check(&run, true);
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
