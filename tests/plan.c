/* plan.c: clusters read and refused, what a transfer costs where, and steps planned on them. */
#include "support.h"

#include "meshfold/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char file[96];

/* Writes a cluster in which `from` is replaced by `to`. */
static void write_cluster(const char *from, const char *to) {
    static const char good[] =
        "{\"name\": \"two by two\", \"device\": {\"name\": \"d\", \"memory_gib\": 1, \"memory_gb_per_s\": "
        "100,\n"
        " \"tflops\": {\"f32\": 1, \"bf16\": 2}, \"gemm\": {\"share\": 0.5, \"half\": 0},\n"
        " \"attention\": {\"share\": 1, \"half\": 0}, \"launch_us\": 1, \"overlaps\": true},\n"
        " \"levels\": [{\"name\": \"in\", \"ranks\": 2, \"latency_us\": 1, \"gb_per_s\": 10},\n"
        "            {\"name\": \"mid\", \"ranks\": 4, \"latency_us\": 2, \"gb_per_s\": 5},\n"
        "            {\"name\": \"out\", \"ranks\": 0, \"latency_us\": 3, \"gb_per_s\": 1}]}\n";
    const char *at = from ? strstr(good, from) : good;
    assert_non_null(at);
    FILE *out = fopen(file, "w");
    assert_non_null(out);
    if (from)
        fprintf(out, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    else
        fprintf(out, "%s", good);
    assert_int_equal(fclose(out), 0);
}

static void clusters_are_read(void **state) {
    (void)state;
    mf_cluster c;
    write_cluster(NULL, NULL);
    ASSERT_OK(mf_cluster_load(file, &c));
    assert_string_equal(c.name, "two by two");
    assert_true(c.memory_bytes == 1073741824.0 && c.flops[MF_BF16] == 2e12 && c.launch_s == 1e-6 &&
                c.overlaps);
    assert_true(c.levels == 3 && c.level[1].ranks == 4 && c.level[2].bytes_per_s == 1e9);
}

#define TWELVE "twelve bytes"
#define NINETY_SIX TWELVE TWELVE TWELVE TWELVE TWELVE TWELVE TWELVE TWELVE

/* A machine's file from before an operation had another name. */
#define OLDER_RATES                                                                                          \
    "\"measured\": [{\"ranks\": 1, \"threads\": 1, \"pace_tflops\": [1], \"rates\": [{\"what\": "            \
    "\"swiglu_forward\", \"type\": \"f32\", \"bytes\": [64], \"gb_per_s\": [1]}]}]"

static void clusters_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *why;
    } bad[] = {{"{\"name\"", "[", "line 1"},
               {"\"name\": \"two by two\", ", "", "name is missing"},
               {"\"memory_gib\": 1", "\"memory_gib\": 0", "device.memory_gib must be above zero"},
               {"\"memory_gib\": 1", "\"memory_gib\": \"1\"", "device.memory_gib must be a number"},
               {"\"memory_gib\": 1", "\"memory_gib\": 1e308", "device.memory_gib must be from 1e-12 to 1e15"},
               {"\"share\": 0.5", "\"share\": 5e-324", "device.gemm.share must be from 1e-12 to 1e15"},
               {"\"two by two\"", "\"two\\nby two\"", "name has control characters"},
               {"two by two", NINETY_SIX, "name is longer than 95 bytes"},
               {"\"bf16\": 2", "\"bf16\": -2", "device.tflops.bf16 must be above zero"},
               {", \"bf16\": 2", "", "device.tflops.bf16 is missing"},
               {"\"share\": 0.5", "\"share\": 1.5", "device.gemm.share is of the peak"},
               {"\"half\": 0}", "\"half\": -1}", "device.gemm.half must not be negative"},
               {"\"launch_us\": 1, ", "", "device.launch_us is missing"},
               {"\"overlaps\": true", "\"overlaps\": 1", "device.overlaps must be true or false"},
               {"\"ranks\": 4", "\"ranks\": 3", "levels[1].ranks must be a multiple"},
               {"\"ranks\": 4", "\"ranks\": 2", "levels[1].ranks must be a multiple"},
               {"\"ranks\": 4", "\"ranks\": 0", "levels[1].ranks is 0 before the last level"},
               {"\"ranks\": 0", "\"ranks\": 8", "levels[2].ranks of the last level must be 0"},
               {"\"ranks\": 2", "\"ranks\": 2.5", "levels[0].ranks must be a whole number"},
               {"\"gb_per_s\": 5", "\"gb_per_s\": 0", "levels[1].gb_per_s must be above zero"},
               {"\"overlaps\": true", "\"overlaps\": true, " OLDER_RATES,
                "swiglu_forward: f32 is nothing that has a rate"},
               {"\"levels\": [", "\"levels\": [7, ", "levels[0].name is missing"},
               {"\"levels\"", "\"level\"", "levels must be a list"}};
    mf_cluster c;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_cluster(bad[i].from, bad[i].to);
        ASSERT_FAILS(mf_cluster_load(file, &c), MF_EFORMAT, bad[i].why);
    }
    unlink(file);
    ASSERT_FAILS(mf_cluster_load(file, &c), MF_EIO, file);
}

static void transfers_take_the_level_that_joins_them(void **state) {
    (void)state;
    mf_cluster c;
    write_cluster(NULL, NULL);
    ASSERT_OK(mf_cluster_load(file, &c));
    static const struct {
        int ranks[2], level;
    } groups[] = {{{0, 1}, 0}, {{2, 3}, 0}, {{1, 2}, 1}, {{0, 3}, 1}, {{3, 4}, 2}, {{1, 9}, 2}, {{8, 9}, 0}};
    mf_costs costs = mf_cluster_costs(&c, 16);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        int level = mf_cluster_level(&c, groups[i].ranks, 2);
        assert_int_equal(level, groups[i].level);
        mf_transfer_cost t = {.op = MF_OP_ALLREDUCE, .bytes = 1e6, .ranks = groups[i].ranks, .size = 2};
        double expected = 2 * c.level[level].latency_s + 1e6 / c.level[level].bytes_per_s;
        assert_true(fabs(costs.transfer_s(&costs, &t) - expected) < 1e-12);
    }
}

/* Seconds for 1 GB a rank, without latency: by hand from 10, 5 and 1 GB/s within two, four and all ranks. */
static void links_of_a_unit_carry_a_collective_together(void **state) {
    (void)state;
    static const struct {
        int op, size, ranks[8];
        double s;
    } groups[] = {
        {MF_OP_ALLGATHER, 2, {0, 1}, 0.1},
        {MF_OP_ALLGATHER, 4, {0, 1, 2, 3}, 0.1},
        {MF_OP_ALLGATHER, 8, {0, 1, 2, 3, 4, 5, 6, 7}, 0.25},
        {MF_OP_REDUCE_SCATTER, 8, {0, 1, 2, 3, 4, 5, 6, 7}, 0.25},
        {MF_OP_ALLREDUCE, 8, {0, 1, 2, 3, 4, 5, 6, 7}, 0.25},
        {MF_OP_BROADCAST, 4, {0, 2, 4, 6}, 0.5},
        {MF_OP_REDUCE, 4, {0, 1, 8, 9}, 0.5},
        {MF_OP_ALLGATHER, 3, {0, 4, 8}, 1},
        {MF_OP_ALLGATHER, 5, {0, 1, 2, 3, 4}, 1}, /* the last unit has one link */
        {MF_OP_ALLTOALL, 2, {0, 1}, 0.1},
        {MF_OP_ALLTOALL, 8, {0, 1, 2, 3, 4, 5, 6, 7}, 4.0 / 7},
        {MF_OP_ALLTOALL, 2, {0, 4}, 1},
        {MF_OP_SHIFT, 4, {0, 1, 2, 3}, 0.2},
        {MF_OP_SHIFT, 8, {0, 1, 2, 3, 4, 5, 6, 7}, 1},
    };
    mf_cluster c;
    write_cluster(NULL, NULL);
    ASSERT_OK(mf_cluster_load(file, &c));
    for (int i = 0; i < c.levels; i++) c.level[i].latency_s = 0;
    mf_costs costs = mf_cluster_costs(&c, 16);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        mf_transfer_cost t = {
            .op = groups[i].op, .bytes = 1e9, .ranks = groups[i].ranks, .size = groups[i].size};
        double s = costs.transfer_s(&costs, &t);
        if (fabs(s - groups[i].s) > 1e-12) fail_msg("group %zu: %g s, not %g", i, s, groups[i].s);
    }
}

/* A level outside that is faster than one inside it. */
static void inner_links_limit_a_collective(void **state) {
    (void)state;
    static const int ranks[] = {0, 1, 2, 3, 4, 5, 6, 7};
    mf_cluster c;
    write_cluster("\"gb_per_s\": 5", "\"gb_per_s\": 0.2");
    ASSERT_OK(mf_cluster_load(file, &c));
    mf_costs costs = mf_cluster_costs(&c, 16);
    mf_transfer_cost t = {.op = MF_OP_ALLGATHER, .bytes = 1e9, .ranks = ranks, .size = 8};
    double expected = 3 * c.level[2].latency_s + 1e9 / (2 * 0.2e9);
    assert_true(fabs(costs.transfer_s(&costs, &t) - expected) < 1e-12);
}

static mf_measure_options laid_out(const char *mesh, const char *model, int64_t tokens) {
    mf_measure_options o = {
        .model = {.type = MF_BF16, .recompute = MF_RECOMPUTE_BLOCK, .batch = 1, .tokens = tokens},
        .threads = 1};
    ASSERT_OK(mf_config_preset(model, &o.model.config));
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &o.mesh, &o.layout));
    return o;
}

/* A model of 8.9 billion parameters at 128K tokens on 8 ranks of every cluster that comes with the program.
 */
static void shipped_clusters_plan_the_papers_model(void **state) {
    (void)state;
    const char *const names[] = {"h100", "h200", "mi300x"};
    mf_measure_options tsp = laid_out("tsp=8", "tsp-7b", 131072), tp = laid_out("tp=8", "tsp-7b", 131072);
    for (int i = 0; i < 3; i++) {
        char path[512];
        mf_cluster c;
        mf_plan_result a, b;
        snprintf(path, sizeof path, "%s/clusters/%s.json", MESHFOLD_SOURCE, names[i]);
        ASSERT_OK(mf_cluster_load(path, &c));
        ASSERT_OK(mf_plan(&c, &tsp, 0, false, &a));
        ASSERT_OK(mf_plan(&c, &tp, 0, false, &b));
        assert_true(a.fits && a.rank.memory.peak_total < b.rank.memory.peak_total);
        assert_true(b.fits == ((double)b.rank.memory.peak_total <= c.memory_bytes));
        assert_true(b.fits || b.short_by_bytes == (double)b.rank.memory.peak_total - c.memory_bytes);
        assert_true(a.step_s > 0 && a.flops_share > 0.1 && a.flops_share < c.gemm.share);
        assert_true(a.exposed_s >= 0 && a.exposed_s < a.step_s);
        assert_true(fabs(a.tokens_per_s * a.step_s - 131072) < 1);
    }
}

/* Ranks further apart pay more. */
static void slower_links_take_longer(void **state) {
    (void)state;
    mf_cluster c;
    mf_plan_result near, far;
    write_cluster(NULL, NULL);
    ASSERT_OK(mf_cluster_load(file, &c));
    mf_measure_options inside = laid_out("dp=4,tp=2", "demo", 512),
                       across = laid_out("tp=2,dp=4", "demo", 512);
    ASSERT_OK(mf_plan(&c, &inside, 0, false, &near));
    ASSERT_OK(mf_plan(&c, &across, 0, false, &far));
    assert_int_equal(near.rank.memory.peak_total, far.rank.memory.peak_total);
    assert_true(near.step_s < far.step_s);
    unlink(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(clusters_are_read),
                                       cmocka_unit_test(clusters_are_refused),
                                       cmocka_unit_test(transfers_take_the_level_that_joins_them),
                                       cmocka_unit_test(links_of_a_unit_carry_a_collective_together),
                                       cmocka_unit_test(inner_links_limit_a_collective),
                                       cmocka_unit_test(shipped_clusters_plan_the_papers_model),
                                       cmocka_unit_test(slower_links_take_longer)};
    snprintf(file, sizeof file, "%s/meshfold-plan-XXXXXX", P_tmpdir);
    int descriptor = mkstemp(file);
    if (descriptor < 0) return 1;
    close(descriptor);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
