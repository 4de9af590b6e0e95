/* layouts.c: every layout beside tsp against one rank: loss, the gradient of every parameter and its norm, at
 * every awkward shape and mode. */
#include "support.h"

#include "parity.h"

static const char *const two[] = {
    "tp=2",
    "tp=2,reduction=scatter",
    "sp=2,kv-bucket=1",
    "sp=2,exchange=ring",
    "sp=2,exchange=ulysses",
    "sp=2,stream=gather",
    "sp=2,stream=broadcast",
    "dp=2",
    "dp=2,zero=0",
    "tsp=2,attention-stream=ring",
    "tsp=2,attention-stream=ring,exchange=ulysses",
    "tsp=2,mlp-stream=broadcast,exchange=ring",
    "tsp=2,stream=gather",
};

static const char *const three[] = {
    "tp=3",
    "tp=3,reduction=scatter",
    "sp=3",
    "sp=3,exchange=ring",
    "sp=3,exchange=ulysses",
    "sp=3,stream=gather,exchange=ring",
    "tsp=3,attention-stream=ring,exchange=ring",
    "tsp=3,attention-stream=gather,mlp-stream=broadcast,exchange=ulysses",
    "tsp=3,attention-stream=broadcast,mlp-stream=gather",
    "dp=3",
};

static const char *const four[] = {
    "tp=4",
    "tp=4,reduction=scatter",
    "sp=4,exchange=ring",
    "sp=4,exchange=ulysses",
    "sp=4,stream=gather,kv-bucket=1",
    "tsp=4,attention-stream=ring,kv-bucket=1",
    "tp=2,sp=2",
    "tp=2,sp=2,reduction=scatter,exchange=ring",
    "tp=2,sp=2,exchange=ulysses",
    "sp=2,tp=2,stream=gather,reduction=scatter",
    "tp=2,tsp=2",
    "tsp=2,tp=2,attention-stream=ring,reduction=scatter",
    "tsp=2,sp=2,exchange=ring",
    "dp=2,tsp=2",
    "dp=2,tp=2,zero=0",
    "dp=2,sp=2",
    "dp=2,sp=2,stream=gather",
};

static const char *const six[] = {
    "tp=6,reduction=scatter",
    "sp=6,exchange=ring",
    "sp=6,stream=gather",
    "tp=3,sp=2",
    "tp=2,sp=3,exchange=ulysses,reduction=scatter",
    "tp=3,sp=2,stream=gather",
    "tp=2,tsp=3",
    "tp=3,tsp=2,exchange=ring",
    "tsp=3,sp=2",
    "dp=3,tp=2",
    "dp=2,tsp=3,zero=0",
};

static const char *const eight[] = {
    "tp=8",
    "sp=8",
    "sp=8,exchange=ring,stream=gather",
    "tp=2,sp=4,exchange=ring",
    "tp=4,sp=2,reduction=scatter,exchange=ulysses",
    "tp=4,tsp=2",
    "tsp=4,sp=2,attention-stream=gather",
    "tsp=2,tp=2,sp=2",
    "dp=2,tp=2,sp=2,reduction=scatter",
    "dp=2,tsp=4",
    "dp=2,sp=2,tsp=2",
    "dp=4,tp=2",
};

static void check_layouts(const char *const *meshes, size_t count) {
    for (size_t m = 0; m < count; m++)
        for (int i = 0; parity_case_at(i); i++)
            if (!MF_TEST_SPARSE || ((int)m + i) % 2 == 0) parity_check_modes(meshes[m], parity_case_at(i), i);
}

#define LAYOUTS(list)                                                                                        \
    static void on_##list##_ranks(void **state) {                                                            \
        (void)state;                                                                                         \
        check_layouts(list, sizeof list / sizeof *list);                                                     \
    }
LAYOUTS(two)
LAYOUTS(three)
LAYOUTS(four)
LAYOUTS(six)
LAYOUTS(eight)

/* A window that is one token, shorter than a rank's chunks, as long, longer, and longer than the sequence. */
static void windows_of_any_length(void **state) {
    (void)state;
    static const int64_t lengths[] = {1, 5, 10, 13, 40, 100};
    static const char *const meshes[] = {
        "tsp=2",     "sp=2,exchange=ring", "sp=2,exchange=ulysses",
        "tp=2,sp=2", "tsp=2,stream=ring",  "sp=2,stream=gather,exchange=ring"};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t m = 0; m < sizeof meshes / sizeof *meshes; m++) {
            parity_case shape = *parity_case_at(0);
            parity_run run = {.type = MF_F32, .threads = 1};
            shape.config.window = lengths[i];
            shape.tokens = 40; /* two ranks have chunks of ten */
            ASSERT_OK(parity_lay_out(&run, &shape, meshes[m]));
            parity_check(&run, i % 2);
        }
}

/* Ulysses must have run somewhere: shapes that it refuses are passed over. */
static void ulysses_fits_some_shapes(void **state) {
    (void)state;
    parity_run run = {.type = MF_F32};
    int fits = 0;
    for (int i = 0; parity_case_at(i); i++) {
        parity_case shape = *parity_case_at(i);
        ASSERT_OK(parity_lay_out(&run, &shape, "sp=4,exchange=ulysses"));
        fits += parity_possible(&run);
    }
    assert_true(fits >= 3);
}

/* What a group's signals have counted outlives a model. */
static void models_follow_each_other_on_one_mesh(void **state) {
    (void)state;
    static const char *const borrowing[] = {"tsp=3", "sp=2,exchange=ring", "tsp=2,sp=2"};
    for (int i = 0; i < 3; i++) {
        parity_case shape = *parity_case_at(0);
        parity_run run = {.type = MF_F32, .threads = 1, .models = 3};
        ASSERT_OK(parity_lay_out(&run, &shape, borrowing[i]));
        parity_check(&run, false);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_two_ranks),
        cmocka_unit_test(on_three_ranks),
        cmocka_unit_test(on_four_ranks),
        cmocka_unit_test(on_six_ranks),
        cmocka_unit_test(on_eight_ranks),
        cmocka_unit_test(windows_of_any_length),
        cmocka_unit_test(ulysses_fits_some_shapes),
        cmocka_unit_test(models_follow_each_other_on_one_mesh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
