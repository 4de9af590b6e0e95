/* video_layouts.c: every layout of a model of videos against one rank: loss, the gradient of every parameter
 * and its norm, and velocities, with grids that no number of ranks divides, or smaller than it, in every
 * mode. */
#include "support.h"

#include "parity.h"

static const char *const one_or_two[] = {
    "dsp=1",
    "dsp=2",
    "dsp=2,stream=ring",
    "dsp=2,stream=broadcast",
    "dsp=2,stream=gather",
    "dsp=2,attention-stream=ring,mlp-stream=broadcast",
    "dp=2",
    "sp=2,kv-bucket=1",
    "sp=2,exchange=ring",
    "sp=2,exchange=ulysses",
    "sp=2,stream=gather",
    "tsp=2",
    "tsp=2,attention-stream=ring,exchange=ulysses",
    "tp=2",
    "tp=2,reduction=scatter",
};

static const char *const three[] = {
    "dsp=3",
    "dsp=3,stream=ring",
    "dsp=3,stream=broadcast",
    "dsp=3,stream=gather",
    "dsp=3,attention-stream=gather,mlp-stream=ring",
    "sp=3",
    "sp=3,exchange=ring",
    "sp=3,exchange=ulysses,stream=ring",
    "tsp=3,exchange=ring",
    "tp=3",
    "tp=3,reduction=scatter",
};

static const char *const four[] = {
    "dsp=4",
    "dsp=4,stream=ring",
    "dsp=4,stream=gather",
    "dsp=2,tp=2",
    "tp=2,dsp=2,stream=ring",
    "dsp=2,tp=2,stream=gather",
    "dp=2,dsp=2",
    "dp=2,dsp=2,stream=broadcast,zero=0",
    "sp=4",
    "sp=4,exchange=ring,stream=gather",
    "sp=4,exchange=ulysses",
    "tsp=4",
    "tp=4,reduction=scatter",
    "tp=2,sp=2,exchange=ring,reduction=scatter",
    "tp=2,sp=2,exchange=ulysses",
    "tsp=2,sp=2",
    "tp=2,tsp=2",
};

static const char *const eight[] = {
    "dsp=8",
    "dsp=8,stream=ring",
    "dsp=8,stream=broadcast",
    "dsp=8,stream=gather",
    "dsp=4,tp=2",
    "dp=2,dsp=2,tp=2,stream=ring",
    "dp=2,dsp=4",
    "sp=8",
    "sp=8,exchange=ring",
    "sp=8,exchange=ulysses",
    "tsp=8",
    "tp=8",
    "tp=8,reduction=scatter",
    "tp=2,sp=4,reduction=scatter",
};

static void check_layouts(const char *const *meshes, size_t count) {
    for (size_t m = 0; m < count; m++)
        for (int i = 0; parity_video_case_at(i); i++)
            if (!MF_TEST_SPARSE || ((int)m + i) % 2 == 0)
                parity_check_modes(meshes[m], parity_video_case_at(i), ((int)m + i) % PARITY_TURNS);
}

#define LAYOUTS(list)                                                                                        \
    static void on_##list##_ranks(void **state) {                                                            \
        (void)state;                                                                                         \
        check_layouts(list, sizeof list / sizeof *list);                                                     \
    }
LAYOUTS(one_or_two)
LAYOUTS(three)
LAYOUTS(four)
LAYOUTS(eight)

/* What a group's signals have counted outlives a model. */
static void models_follow_each_other_on_one_mesh(void **state) {
    (void)state;
    static const char *const borrowing[] = {"dsp=3", "dsp=2,stream=ring", "dsp=2,tp=2"};
    for (int i = 0; i < 3; i++) {
        parity_case shape = *parity_video_case_at(1);
        parity_run run = {.type = MF_F32, .threads = 1, .models = 3};
        ASSERT_OK(parity_lay_out(&run, &shape, borrowing[i]));
        parity_check(&run, false);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_one_or_two_ranks),
        cmocka_unit_test(on_three_ranks),
        cmocka_unit_test(on_four_ranks),
        cmocka_unit_test(on_eight_ranks),
        cmocka_unit_test(models_follow_each_other_on_one_mesh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
