/* cut.c: tensors cut along any dimension and switched to any other, over 1 to 8 ranks, at sizes that divide
 * by nothing and sizes smaller than the ranks, borrowed and sent: every element where it belongs; bytes by
 * formula.
 */
#include "cut_scenario.h"
#include "support.h"

#include <string.h>

static void launch(cut_trial *t, int ranks, bool no_borrow) {
    mf_launch_options options = {.engine = "local", .ranks = ranks, .no_borrow = no_borrow, .timeout_s = 60};
    mf_status status = mf_launch(&options, cut_trial_run, t);
    if (status)
        fail_msg("%d dimensions, from %d to %d, %d ranks%s: %s", t->dims, t->from, t->to, ranks,
                 no_borrow ? ", sent" : "", mf_error_last()->message);
}

static void any_tensor_any_dimensions(void **state) {
    (void)state;
    static const int counts[] = {1, 2, 3, 4, 8};
    for (int i = 0; i < (MF_TEST_SPARSE ? 40 : 200); i++) {
        cut_trial t = cut_trial_at(i);
        launch(&t, counts[i % 5], i % 2);
    }
}

/* Of M bytes, a switch moves M / N * (N - 1) / N a rank; two of them here. */
static void bytes_by_formula(void **state) {
    (void)state;
    for (int ranks = 2; ranks <= 8; ranks *= 2)
        for (int sent = 0; sent < 2; sent++) {
            cut_trial t = {.dims = 4, .from = 2, .to = 1, .size = {3, 16, 24, 5}, .element = 4};
            int64_t all = 3 * 16 * 24 * 5 * 4;
            launch(&t, ranks, sent);
            assert_int_equal(t.moved, 2 * all / ranks * (ranks - 1));
        }
}

static void what_is_not_there_is_refused(void **state) {
    (void)state;
    cut_trial t = {.dims = 2, .from = 2, .size = {4, 4}, .element = 4}, many = {.dims = 9, .element = 4};
    mf_launch_options options = {.engine = "local", .ranks = 1};
    ASSERT_FAILS(mf_launch(&options, cut_trial_run, &t), MF_EINVAL, "dimension 2 of a tensor that has 2");
    ASSERT_FAILS(mf_launch(&options, cut_trial_run, &many), MF_EINVAL, "a tensor of 9 dimensions");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_tensor_any_dimensions),
                                       cmocka_unit_test(bytes_by_formula),
                                       cmocka_unit_test(what_is_not_there_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
