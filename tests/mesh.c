/* mesh.c: the mesh's text, its groups and coordinates, and how sequences and heads are cut. */
#include "support.h"
#include "meshfold/schedule.h"

#include <stdlib.h>
#include <string.h>

/* The text. */

static void test_parse(void **state) {
    (void)state;
    mf_mesh_spec spec = {.axes = 3};
    ASSERT_OK(mf_mesh_parse("single", &spec));
    assert_int_equal(spec.axes, 0);
    assert_int_equal(mf_mesh_ranks(&spec), 1);
    static const char *const texts[] = {"tsp=1", "tsp=4", "tsp=1048576"};
    static const int ranks[] = {1, 4, 1048576};
    for (int i = 0; i < 3; i++) {
        ASSERT_OK(mf_mesh_parse(texts[i], &spec));
        assert_int_equal(spec.axes, 1);
        assert_string_equal(spec.axis[0].name, "tsp");
        assert_int_equal(spec.axis[0].size, ranks[i]);
        assert_int_equal(mf_mesh_ranks(&spec), ranks[i]);
    }
}

static void test_parse_refuses(void **state) {
    (void)state;
    static const struct {
        const char *text, *why;
    } bad[] = {{"", "\"\" is not an axis and its size, as in tsp=4"},
               {"tsp", "\"tsp\" is not an axis"},
               {"Single", "\"Single\" is not an axis"},
               {"single,tsp=2", "\"single\" is not an axis"},
               {"tsp=2,", "\"\" is not an axis"},
               {",tsp=2", "\"\" is not an axis"},
               {"tsp=2,tsp=2", "axis tsp is given twice"},
               {"tq=2", "no axis is called \"tq\"; this version has: "},
               {"ts=2", "no axis is called \"ts\""},
               {"tspx=2", "no axis is called \"tspx\""},
               {"TSP=2", "no axis is called \"TSP\""},
               {" tsp=2", "no axis is called \" tsp\""},
               {"=2", "no axis is called \"\""},
               {"tsp=", "whole number from 1"},
               {"tsp=0", "whole number from 1"},
               {"tsp=-2", "whole number from 1"},
               {"tsp=+2", "whole number from 1"},
               {"tsp= 2", "whole number from 1"},
               {"tsp=2 ", "whole number from 1"},
               {"tsp=2x", "whole number from 1"},
               {"tsp=2.5", "whole number from 1"},
               {"tsp=0x10", "whole number from 1"},
               {"tsp=2=3", "whole number from 1"},
               {"tsp=1048577", "whole number from 1 to 1048576"},
               {"tsp=99999999999999999999999", "whole number from 1"}};
    mf_mesh_spec spec;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ASSERT_FAILS(mf_mesh_parse(bad[i].text, &spec), MF_EINVAL, bad[i].why);
}

/* Groups and coordinates. */

#define EXPECT(condition)                                                                                    \
    do {                                                                                                     \
        if (!(condition)) return MF_FAIL(MF_EINVAL, "not so: %s", #condition);                               \
    } while (0)

static mf_status check_groups(const mf_mesh *mesh, int rank, int size) {
    const char *const names[] = {"tsp", "world", "self"};
    mf_comm *const groups[] = {mf_mesh_axis(mesh, "tsp"), mesh->world, mesh->self};
    for (int i = 0; i < 3; i++) {
        float sum = (float)(rank + 1);
        EXPECT(groups[i] && strcmp(mf_comm_axis(groups[i]), names[i]) == 0);
        EXPECT(mf_comm_rank(groups[i]) == (i < 2 ? rank : 0) &&
               mf_comm_size(groups[i]) == (i < 2 ? size : 1));
        MF_TRY(mf_allreduce(groups[i], &sum, 1, MF_F32, NULL));
        EXPECT(sum == (i < 2 ? (float)(size * (size + 1) / 2) : (float)(rank + 1)));
    }
    EXPECT(mesh->coords[0] == rank);
    EXPECT(!mf_mesh_axis(mesh, "dp") && !mf_mesh_axis(mesh, "") && !mf_mesh_axis(mesh, "world"));
    return MF_OK;
}

static mf_status on_tsp(mf_world *world, void *argument) {
    (void)argument;
    int rank = mf_world_rank(world), size = mf_world_size(world);
    char text[32];
    mf_mesh_spec spec;
    mf_mesh mesh;
    snprintf(text, sizeof text, "tsp=%d", size);
    MF_TRY(mf_mesh_parse(text, &spec));
    MF_TRY(mf_mesh_create(world, &spec, &mesh));
    mf_status status = check_groups(&mesh, rank, size);
    mf_mesh_destroy(&mesh);
    EXPECT(!mesh.world && !mesh.self && mesh.spec.axes == 0);
    return status;
}

static mf_status on_one_rank(mf_world *world, void *argument) {
    (void)argument;
    mf_mesh_spec spec;
    mf_mesh mesh;
    MF_TRY(mf_mesh_parse("single", &spec));
    MF_TRY(mf_mesh_create(world, &spec, &mesh));
    bool right = !mf_mesh_axis(&mesh, "tsp") && mf_comm_size(mesh.world) == 1 && mf_comm_size(mesh.self) == 1;
    mf_mesh_destroy(&mesh);
    EXPECT(right);
    return MF_OK;
}

static mf_status on_two_axes(mf_world *world, void *argument) {
    (void)argument;
    mf_mesh_spec spec = {.axes = 2, .axis = {{"outer", 2}, {"inner", 3}}};
    int rank = mf_world_rank(world);
    float outer = (float)rank, inner = (float)rank;
    mf_mesh mesh;
    MF_TRY(mf_mesh_create(world, &spec, &mesh));
    EXPECT(mesh.coords[0] == rank / 3 && mesh.coords[1] == rank % 3);
    MF_TRY(mf_allreduce(mf_mesh_axis(&mesh, "outer"), &outer, 1, MF_F32, NULL));
    MF_TRY(mf_allreduce(mf_mesh_axis(&mesh, "inner"), &inner, 1, MF_F32, NULL));
    EXPECT(outer == (float)(2 * (rank % 3) + 3));
    EXPECT(inner == (float)(rank / 3 * 9 + 3));
    EXPECT(mf_comm_rank(mesh.group[1]) == rank / 3 && mf_comm_rank(mesh.group[2]) == rank % 3);
    mf_mesh_destroy(&mesh);
    return MF_OK;
}

static mf_status on_too_few(mf_world *world, void *argument) {
    (void)argument;
    mf_mesh_spec spec = {.axes = 1, .axis = {{"tsp", 4}}};
    mf_mesh mesh;
    mf_status status = mf_mesh_create(world, &spec, &mesh);
    mf_mesh_destroy(&mesh);
    return status;
}

static mf_status launch(int ranks, mf_rank_body body) {
    return mf_launch(&(mf_launch_options){.engine = "local", .ranks = ranks, .timeout_s = 60}, body, NULL);
}

static void test_groups(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 3, 4, 8};
    for (int i = 0; i < 5; i++) ASSERT_OK(launch(sizes[i], on_tsp));
    ASSERT_OK(launch(1, on_one_rank));
    ASSERT_OK(launch(6, on_two_axes));
    ASSERT_FAILS(launch(2, on_too_few), MF_EINVAL, "the mesh has 4 ranks, but 2 were started");
}

/* Shares. */

static void test_shares(void **state) {
    (void)state;
    for (int64_t n = 0; n <= 70; n++)
        for (int64_t parts = 1; parts <= 19; parts++) {
            assert_int_equal(mf_share_begin(n, parts, 0), 0);
            assert_int_equal(mf_share_begin(n, parts, parts), n);
            for (int64_t i = 0; i < parts; i++) {
                int64_t share = mf_share_begin(n, parts, i + 1) - mf_share_begin(n, parts, i);
                assert_true(share == n / parts || share == n / parts + (n % parts != 0));
            }
        }
    assert_int_equal(mf_share_begin(INT64_C(1) << 40, 1 << 16, 12345), INT64_C(12345) << 24);
}

static int64_t share_of(int64_t n, int64_t parts, int64_t member) {
    int64_t share = 0;
    while (mf_share_begin(n, parts, share + 1) <= member) share++;
    return share;
}

/* A key head lies in the share of its first query head, also when a group of query heads is cut. */
static void test_heads_lie_with_their_keys(void **state) {
    (void)state;
    for (int64_t kv_heads = 1; kv_heads <= 17; kv_heads++)
        for (int64_t group = 1; group <= 9; group++)
            for (int64_t parts = 1; parts <= 19; parts++)
                for (int64_t kv = 0; kv < kv_heads; kv++)
                    assert_int_equal(share_of(kv_heads, parts, kv),
                                     share_of(kv_heads * group, parts, kv * group));
}

/* The sequence's cut. */

enum { TOKENS_MAX = 70, RANKS_MAX = 9 };

/* Marks a rank's tokens in `owner` and checks its runs. */
static void mark_runs(int64_t tokens, int ranks, int rank, int *owner) {
    mf_run runs[MF_RUNS];
    int count = mf_cut_runs(tokens, ranks, rank, runs);
    int64_t row = 0;
    assert_in_range(count, 1, MF_RUNS);
    for (int i = 0; i < count; i++) {
        assert_true(runs[i].rows >= 0 && runs[i].position >= 0);
        assert_true(runs[i].position + runs[i].rows <= tokens);
        assert_int_equal(runs[i].first_row, row);
        if (i) assert_true(runs[i].position > runs[i - 1].position + runs[i - 1].rows); /* in order, apart */
        row += runs[i].rows;
        for (int64_t t = 0; t < runs[i].rows; t++) {
            assert_int_equal(owner[runs[i].position + t], -1);
            owner[runs[i].position + t] = rank;
        }
    }
    assert_int_equal(mf_cut_rows(tokens, ranks, rank), row);
    assert_true(row >= tokens / (2 * ranks) * 2);
    assert_true(row <= mf_ceil_div(tokens, 2 * ranks) * 2);
}

static void test_cut_tiles(void **state) {
    (void)state;
    int owner[TOKENS_MAX];
    for (int64_t tokens = 0; tokens <= TOKENS_MAX; tokens++)
        for (int ranks = 1; ranks <= RANKS_MAX; ranks++) {
            for (int64_t t = 0; t < tokens; t++) owner[t] = -1;
            for (int rank = 0; rank < ranks; rank++) mark_runs(tokens, ranks, rank, owner);
            for (int64_t t = 0; t < tokens; t++) assert_true(owner[t] >= 0);
        }
}

/* When the chunks come out even, each rank has chunk `rank` and its mirror image. */
static void test_cut_is_a_zigzag(void **state) {
    (void)state;
    static const int zigzag[] = {0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 2, 2, 1, 1, 0, 0};
    int owner[16];
    for (int t = 0; t < 16; t++) owner[t] = -1;
    for (int rank = 0; rank < 4; rank++) mark_runs(16, 4, rank, owner);
    assert_memory_equal(owner, zigzag, sizeof zigzag);
    mf_run runs[MF_RUNS];
    assert_int_equal(mf_cut_runs(16, 4, 0, runs), 2);
    assert_int_equal(mf_cut_runs(16, 4, 3, runs), 1);
    assert_int_equal(mf_cut_runs(16, 1, 0, runs), 1);
}

/* Query-key pairs of a rank's tokens. */
static int64_t causal_pairs(int64_t tokens, int ranks, int rank) {
    mf_run runs[MF_RUNS];
    int64_t pairs = 0;
    for (int i = 0, count = mf_cut_runs(tokens, ranks, rank, runs); i < count; i++)
        for (int64_t t = 0; t < runs[i].rows; t++) pairs += runs[i].position + t + 1;
    return pairs;
}

/* Two chunks may each be a token longer or shorter than the mean; a token has at most `tokens` pairs. */
static void test_cut_is_balanced(void **state) {
    (void)state;
    static const int64_t lengths[] = {4096, 10007, 65521};
    for (int i = 0; i < 3; i++)
        for (int ranks = 1; ranks <= RANKS_MAX; ranks++) {
            int64_t s = lengths[i], mean = s * (s + 1) / 2 / ranks, sum = 0;
            for (int rank = 0; rank < ranks; rank++) {
                int64_t pairs = causal_pairs(s, ranks, rank);
                assert_true(llabs(pairs - mean) <= 2 * s);
                sum += pairs;
            }
            assert_int_equal(sum, s * (s + 1) / 2);
        }
}

/* Sets of axes. */

static mf_status check_joint(mf_mesh *mesh, mf_axes axes, const char *name, const int *ranks, int size) {
    mf_comm *group = NULL, *again = NULL;
    int own = -1;
    float sum = 0, expected = 0;
    MF_TRY(mf_mesh_group(mesh, axes, &group));
    MF_TRY(mf_mesh_group(mesh, axes, &again));
    EXPECT(group == again && strcmp(mf_comm_axis(group), name) == 0 && mf_comm_size(group) == size);
    for (int i = 0; i < size; i++) {
        if (ranks[i] == mf_world_rank(mesh->launched)) own = i;
        expected += (float)ranks[i];
    }
    sum = (float)mf_world_rank(mesh->launched);
    MF_TRY(mf_allreduce(group, &sum, 1, MF_F32, NULL));
    EXPECT(own == mf_comm_rank(group) && sum == expected);
    return MF_OK;
}

static mf_status joint_body(mf_world *world, void *argument) {
    mf_mesh_spec spec;
    mf_mesh mesh;
    (void)argument;
    MF_TRY(mf_mesh_parse("dp=2,tp=1,sp=2,tsp=2", &spec));
    EXPECT(mf_mesh_find(&spec, "sp") == 4 && mf_mesh_find(&spec, "ep") == 0);
    EXPECT(mf_axes_ranks(&spec, 1 | 4) == 4 && mf_axes_ranks(&spec, 0) == 1);
    MF_TRY(mf_mesh_create(world, &spec, &mesh));
    int r = mf_world_rank(world), dp_sp[4], sp_tsp[4];
    for (int i = 0; i < 4; i++) {
        dp_sp[i] = i / 2 * 4 + i % 2 * 2 + r % 2;
        sp_tsp[i] = r / 4 * 4 + i;
    }
    MF_TRY(check_joint(&mesh, 1 | 4, "dp+sp", dp_sp, 4));
    MF_TRY(check_joint(&mesh, 4 | 8 | 2, "sp+tsp", sp_tsp, 4)); /* an axis of one rank adds nothing */
    MF_TRY(check_joint(&mesh, 8 | 2, "tsp", (int[]){r / 2 * 2, r / 2 * 2 + 1}, 2));
    MF_TRY(check_joint(&mesh, 2, "self", &r, 1));
    MF_TRY(mf_barrier(mesh.world));
    mf_mesh_destroy(&mesh);
    return MF_OK;
}

static void test_joint_groups(void **state) {
    (void)state;
    mf_launch_options options = {.engine = "local", .ranks = 8};
    ASSERT_OK(mf_launch(&options, joint_body, NULL));
}

/* Layouts. */

static mf_layout laid_out(const char *text) {
    mf_mesh_spec mesh;
    mf_layout layout = {0};
    if (mf_layout_parse(text, &mf_layout_words_none, &mesh, &layout))
        fail_msg("%s: %s", text, mf_error_last()->message);
    return layout;
}

static void test_layouts_by_axes(void **state) {
    (void)state;
    mf_layout single = laid_out("single"), tsp = laid_out("tsp=4"), tp = laid_out("dp=2,tp=2,sp=2");
    assert_true(single.attention == &mf_stream_resident && single.exchange == &mf_exchange_none);
    assert_true(single.reduction == &mf_reduction_none && !single.stream && !single.sequence && !single.data);
    assert_true(tsp.attention == &mf_stream_broadcast && tsp.mlp == &mf_stream_ring && tsp.stream == 1);
    assert_true(tsp.vocabulary == &mf_stream_ring && tsp.exchange == &mf_exchange_allgather &&
                tsp.sequence == 1);
    assert_true(tp.data == 1 && tp.tensor == 2 && tp.sequence == 4 && !tp.stream && tp.cut_updates);
    assert_true(tp.reduction == &mf_reduction_allreduce && tp.mlp == &mf_stream_resident);
}

static void test_layout_words(void **state) {
    (void)state;
    mf_layout zero3 = laid_out("exchange=ring,sp=4,stream=gather"),
              mixed = laid_out("tsp=2,mlp-stream=broadcast");
    assert_true(zero3.stream == 1 && zero3.sequence == 1 && zero3.exchange == &mf_exchange_ring);
    assert_true(zero3.attention == &mf_stream_gather && zero3.mlp == &mf_stream_gather &&
                zero3.vocabulary == &mf_stream_gather);
    assert_true(mixed.mlp == &mf_stream_broadcast && mixed.attention == &mf_stream_broadcast);
    assert_true(laid_out("sp=2,kv-bucket=3").kv_bucket == 3 && !laid_out("dp=2,zero=0").cut_updates);
    assert_true(laid_out("tp=2,reduction=scatter").reduction == &mf_reduction_scatter);
    assert_true(laid_out("sp=2,tsp=3,stream=gather").stream == 2);
}

static void test_layout_refuses(void **state) {
    (void)state;
    static const struct {
        const char *text, *why;
    } bad[] = {
        {"", "\"\" is not an axis and its size"},
        {"tp=2,", "\"\" is not an axis"},
        {"tp=2,stream=gather", "needs an axis sp, tsp or dsp"},
        {"tsp=2,stream=resident", "on tsp no stream can be resident"},
        {"sp=2,attention-stream=gather", "both resident or both not"},
        {"sp=2,stream=borrow", "stream can't be \"borrow\"; it is resident, gather, broadcast or ring"},
        {"sp=2,mlp-stream=", "mlp-stream can't be \"\""},
        {"tp=2,exchange=ring", "needs an axis that cuts the sequence"},
        {"sp=2,exchange=none", "leaves queries without the keys of other ranks"},
        {"sp=2,exchange=Ring", "exchange can't be \"Ring\""},
        {"sp=2,reduction=scatter", "needs an axis tp"},
        {"tp=2,reduction=none", "leaves partial sums"},
        {"tsp=2,exchange=ulysses", "needs all heads at once"},
        {"sp=2,exchange=ring,kv-bucket=2", "kv-bucket says how many heads exchange=allgather gathers"},
        {"sp=2,kv-bucket=-1", "whole number from 0"},
        {"dp=2,zero=2", "zero takes 0 or 1"},
        {"dp=2,zero=1x", "zero takes 0 or 1"},
        {"sp=2,exchange=ring,exchange=ring", "exchange is given twice"},
        {"dp=1048576,tp=1048576,sp=1048576,tsp=1048576", "more than 1048576 ranks"},
        {"sp=2,sp=2", "axis sp is given twice"}};
    mf_mesh_spec mesh;
    mf_layout layout;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ASSERT_FAILS(mf_layout_parse(bad[i].text, &mf_layout_words_none, &mesh, &layout), MF_EINVAL,
                     bad[i].why);
}

/* A command's flags apply where a mesh has a use for them; as the only mesh's they must have one. */
static void test_layout_defaults(void **state) {
    (void)state;
    mf_mesh_spec mesh;
    mf_layout layout;
    mf_layout_words words = {.exchange = "ring", .reduction = "scatter", .kv_bucket = -1, .zero = 0};
    ASSERT_OK(mf_layout_parse("single", &words, &mesh, &layout));
    assert_true(layout.exchange == &mf_exchange_none && !layout.cut_updates);
    ASSERT_OK(mf_layout_parse("tp=2,sp=2,exchange=ulysses", &words, &mesh, &layout));
    assert_true(layout.exchange == &mf_exchange_ulysses && layout.reduction == &mf_reduction_scatter);
    ASSERT_OK(mf_layout_parse("dsp=2,tp=2", &words, &mesh, &layout));
    assert_true(layout.exchange == &mf_exchange_switch && layout.reduction == &mf_reduction_allreduce);
    words.exchange = "ulysses"; /* needs all heads at once */
    ASSERT_OK(mf_layout_parse("tsp=2", &words, &mesh, &layout));
    assert_true(layout.exchange == &mf_exchange_allgather);
    ASSERT_OK(mf_layout_parse("tsp=2,stream=gather", &words, &mesh, &layout));
    assert_true(layout.exchange == &mf_exchange_ulysses);
    words.exchange = "ring";
    words.strict = true;
    ASSERT_FAILS(mf_layout_parse("tp=2", &words, &mesh, &layout), MF_EINVAL, "exchange=ring needs an axis");
    ASSERT_OK(mf_layout_parse("tp=2,sp=2", &words, &mesh, &layout));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_parse_refuses),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_heads_lie_with_their_keys),
        cmocka_unit_test(test_cut_tiles),
        cmocka_unit_test(test_cut_is_a_zigzag),
        cmocka_unit_test(test_cut_is_balanced),
        cmocka_unit_test(test_joint_groups),
        cmocka_unit_test(test_layouts_by_axes),
        cmocka_unit_test(test_layout_words),
        cmocka_unit_test(test_layout_refuses),
        cmocka_unit_test(test_layout_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
