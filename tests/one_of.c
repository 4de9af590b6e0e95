/* one_of.c: one rank run alone among stand-ins, against the same rank among its peers and run dry: memory, by
 * category and moment, and transfers, to the byte; and what such a rank is not asked for. */
#include "support.h"

#include "meshfold/train.h"

#include <math.h>
#include <string.h>

enum { RANKS = 8 };

typedef struct three {
    mf_measure_options options;
    mf_measure_result among, alone;
    mf_rank_report dry[RANKS];
} three;

static mf_status run_among(mf_world *world, void *argument) {
    three *t = argument;
    return mf_measure(world, &t->options, &t->among);
}

static mf_status run_alone(mf_world *world, void *argument) {
    three *t = argument;
    return mf_measure(world, &t->options, &t->alone);
}

static mf_status run_dry(mf_world *world, void *argument) {
    three *t = argument;
    double step_s = 0;
    return mf_measure_dry(world, &t->options, &t->dry[mf_world_rank(world)], &step_s);
}

static void same_memory(const char *name, const mf_rank_report *alone, const mf_rank_report *other,
                        const char *whose) {
    for (int c = 0; c < MF_CATEGORIES; c++)
        if (alone->memory.peak[c] != other->memory.peak[c] ||
            alone->memory.at_peak[c] != other->memory.at_peak[c])
            fail_msg("%s, rank %d, %s: peak %lld, %s %lld; at the total's peak %lld, %s %lld", name,
                     alone->rank, mf_category_name((mf_category)c), (long long)alone->memory.peak[c], whose,
                     (long long)other->memory.peak[c], (long long)alone->memory.at_peak[c], whose,
                     (long long)other->memory.at_peak[c]);
    assert_int_equal(alone->memory.peak_total, other->memory.peak_total);
    assert_int_equal(alone->rank, other->rank);
    assert_int_equal(alone->tokens, other->tokens);
}

static void same_transfers(const char *name, const mf_rank_report *alone, const mf_rank_report *other) {
    assert_int_equal(alone->groups, other->groups);
    for (int g = 0; g < alone->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++) {
            const mf_comm_stat *a = &alone->group[g].stat[op], *b = &other->group[g].stat[op];
            if (a->calls != b->calls || a->bytes != b->bytes || a->borrowed_bytes != b->borrowed_bytes)
                fail_msg("%s, rank %d, axis %s, %s: %lld calls, %lld + %lld bytes; else %lld, %lld + %lld",
                         name, alone->rank, alone->group[g].axis, a->op, (long long)a->calls,
                         (long long)a->bytes, (long long)a->borrowed_bytes, (long long)b->calls,
                         (long long)b->bytes, (long long)b->borrowed_bytes);
        }
}

static void check_rank(three *t, const char *name, mf_launch_options launch, int rank) {
    launch.engine = "one-of";
    launch.only_rank = rank;
    if (mf_launch(&launch, run_alone, t))
        fail_msg("%s, rank %d alone: %s", name, rank, mf_error_last()->message);
    assert_int_equal(t->alone.ranks, 1);
    same_memory(name, t->alone.rank, &t->among.rank[rank], "among peers");
    same_memory(name, t->alone.rank, &t->dry[rank], "dry");
    same_transfers(name, t->alone.rank, &t->among.rank[rank]);
    same_transfers(name, t->alone.rank, &t->dry[rank]);
    mf_measure_free(&t->alone);
}

static void check_mesh(three *t, const char *mesh, bool no_borrow) {
    char name[160];
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &t->options.mesh, &t->options.layout));
    snprintf(name, sizeof name, "%s, %s, %s", mesh, mf_dtype_name(t->options.model.type),
             no_borrow ? "sent" : "borrowed");
    mf_launch_options launch = {
        .engine = "local", .ranks = mf_mesh_ranks(&t->options.mesh), .no_borrow = no_borrow, .timeout_s = 60};
    if (mf_launch(&launch, run_among, t)) fail_msg("%s: %s", name, mf_error_last()->message);
    launch.engine = "dry";
    if (mf_launch(&launch, run_dry, t)) fail_msg("%s, dry: %s", name, mf_error_last()->message);
    for (int rank = 0; rank < launch.ranks; rank += MF_TEST_SPARSE ? 3 : 1) check_rank(t, name, launch, rank);
    mf_measure_free(&t->among);
}

static const char *const meshes[] = {
    "single",
    "tsp=8",
    "tp=8",
    "tp=8,reduction=scatter",
    "tp=4,sp=2",
    "tp=2,sp=4",
    "sp=8",
    "sp=8,stream=gather",
    "sp=3,exchange=ring",
    "sp=4,exchange=ulysses",
    "dp=4",
    "dp=4,zero=0",
    "dp=2,sp=2",
    "tsp=3,attention-stream=ring,exchange=ring",
    "tp=2,tsp=2",
};
static const char *const video_meshes[] = {
    "dsp=8",
    "dsp=8,stream=ring",
    "dsp=3,stream=gather",
    "sp=8,exchange=ring",
    "sp=4,exchange=ulysses,stream=ring",
    "tp=8,reduction=scatter",
    "tsp=8",
};

/* Sizes that divide by nothing, so that ranks have shares of different sizes. */
static three *make(mf_dtype type) {
    three *t = NULL;
    ASSERT_OK(mf_host_alloc(1, sizeof *t, &t));
    t->options = (mf_measure_options){.model = {.config = {.hidden = 72,
                                                           .layers = 2,
                                                           .heads = 8,
                                                           .kv_heads = 4,
                                                           .head_dim = 12,
                                                           .ffn = 202,
                                                           .vocab = 301,
                                                           .rope_theta = 10000,
                                                           .norm_eps = 1e-5,
                                                           .init_range = 0.02},
                                                .type = type,
                                                .batch = 2,
                                                .tokens = 77,
                                                .seed = 1},
                                      .threads = 1,
                                      .steps = 2};
    return t;
}

static void texts(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i += MF_TEST_SPARSE ? 4 : 1)
        for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
            three *t = make(type);
            t->options.model.recompute = i % 2 ? MF_RECOMPUTE_BLOCK : MF_RECOMPUTE_NONE;
            check_mesh(t, meshes[i], false);
            check_mesh(t, meshes[i], true);
            mf_host_free(t);
        }
}

static void videos(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof video_meshes / sizeof *video_meshes; i += MF_TEST_SPARSE ? 3 : 1)
        for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
            three *t = make(type);
            mf_model_config *c = &t->options.model.config;
            c->family = MF_STDIT;
            c->kv_heads = c->heads;
            c->video = (mf_video_config){.frames = 5, .height = 6, .width = 14, .channels = 3, .patch = 2};
            t->options.model.grid = (mf_clip_grid){5, 3, 7};
            t->options.model.tokens = mf_clip_tokens(&t->options.model.grid);
            check_mesh(t, video_meshes[i], false);
            check_mesh(t, video_meshes[i], true);
            mf_host_free(t);
        }
}

/* What stands in for peers' bytes: own ones where sizes are the same, else small numbers, and of a sum the
 * own term. */
static mf_status every_transfer(mf_world *world, void *argument) {
    enum { OWN = 3, MOST = 70000 };
    static float in[MOST], out[4 * MOST];
    const int everyone[] = {0, 1, 2, 3};
    const size_t offsets[] = {0, OWN * sizeof *in, 2 * OWN * sizeof *in, 3 * OWN * sizeof *in,
                              MOST * sizeof *in},
                 even[] = {0, 4, 8, 12, 16};
    mf_comm *comm = NULL;
    mf_request request = {0};
    (void)argument;
    MF_TRY(mf_comm_create(world, "axis", everyone, 4, &comm));
    for (int i = 0; i < MOST; i++) in[i] = (float)i;
    MF_TRY(mf_allgather(comm, in, out, offsets, &request));
    MF_TRY(mf_finish(comm, &request));
    for (int i = 0; i < 3 * OWN; i++) assert_true(out[i] == in[i % OWN]);
    for (int i = 3 * OWN; i < MOST; i++) assert_true(fabsf(out[i]) < 1 && out[i] != 0);
    MF_TRY(mf_broadcast(comm, out, sizeof out, 2, NULL));
    for (int i = 0; i < 4 * MOST; i++) assert_true(fabsf(out[i]) < 1);
    MF_TRY(mf_broadcast(comm, in, sizeof in, mf_comm_rank(comm), NULL));
    MF_TRY(mf_shift(comm, in + 4, 8, out, 8, NULL));
    assert_true(out[0] == in[4] && out[1] == in[5] && fabsf(out[2]) < 1);
    MF_TRY(mf_shift(comm, in + 4, 8, out, 4, NULL));
    assert_true(fabsf(out[0]) < 1 && out[1] == in[5]);
    MF_TRY(mf_alltoall(comm, in, even, out, even, NULL));
    assert_memory_equal(out, in, 16);
    MF_TRY(mf_allreduce(comm, in, MOST, MF_F32, NULL));
    for (int i = 0; i < MOST; i++) assert_true(in[i] == (float)i);
    MF_TRY(mf_barrier(comm));
    mf_comm_destroy(comm);
    return MF_OK;
}

static void own_bytes_stand_in(void **state) {
    (void)state;
    ASSERT_OK(mf_launch(&(mf_launch_options){.engine = "one-of", .ranks = 4, .only_rank = 1}, every_transfer,
                        NULL));
}

/* Peers' memory is own memory where that is large enough; accounted is only what is the rank's. */
static mf_status shared_memory(mf_world *world, void *argument) {
    const int everyone[] = {0, 1, 2};
    mf_comm *comm = NULL;
    mf_memory *memory = argument;
    mf_shared even = {0}, uneven = {.most_bytes = 200000};
    MF_TRY(mf_comm_create(world, "axis", everyone, 3, &comm));
    MF_TRY(mf_shared_alloc(comm, memory, MF_WEIGHTS, 1000, "even", &even));
    assert_int_equal(mf_memory_stats_get(memory).now_total, 1024);
    assert_true(even.peer[1] == even.own && even.peer[2] == even.own && even.own);
    MF_TRY(mf_shared_alloc(comm, memory, MF_WEIGHTS, 0, "uneven", &uneven));
    assert_int_equal(mf_memory_stats_get(memory).now_total, 1024);
    const float *peers = uneven.peer[1];
    for (int i = 0; i < 50000; i++) assert_true(fabsf(peers[i]) < 1);
    MF_TRY(mf_signal(comm, 0, 1));
    MF_TRY(mf_await(comm, 2, 0, 99));
    mf_shared_free(comm, memory, &uneven);
    mf_shared_free(comm, memory, &even);
    assert_int_equal(mf_memory_stats_get(memory).now_total, 0);
    mf_comm_destroy(comm);
    return MF_OK;
}

static void stand_ins_are_not_accounted(void **state) {
    (void)state;
    mf_memory *memory = NULL;
    ASSERT_OK(mf_memory_create(NULL, &memory));
    ASSERT_OK(mf_launch(&(mf_launch_options){.engine = "one-of", .ranks = 3}, shared_memory, memory));
    mf_memory_destroy(memory);
}

static mf_status nothing(mf_world *world, void *argument) {
    (void)world, (void)argument;
    return MF_OK;
}

static mf_status save(mf_world *world, void *argument) { return mf_train(world, argument, NULL); }

static void what_means_nothing_is_not_saved(void **state) {
    (void)state;
    three *t = make(MF_F32);
    mf_launch_options launch = {.engine = "one-of", .ranks = 1};
    mf_train_options options = {
        .model = t->options.model, .save_to = "nowhere", .accumulate = 1, .threads = 1};
    assert_int_equal(mf_launch(&launch, save, &options), MF_EINVAL);
    assert_non_null(strstr(mf_error_last()->message, "--out"));
    options.save_to = NULL, options.resume_from = "nowhere";
    assert_int_equal(mf_launch(&launch, save, &options), MF_EINVAL);
    assert_non_null(strstr(mf_error_last()->message, "--resume"));
    launch.only_rank = 1;
    assert_int_equal(mf_launch(&launch, nothing, NULL), MF_EINVAL);
    assert_non_null(strstr(mf_error_last()->message, "rank 1 of 1"));
    mf_host_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts), cmocka_unit_test(videos), cmocka_unit_test(own_bytes_stand_in),
        cmocka_unit_test(stand_ins_are_not_accounted), cmocka_unit_test(what_means_nothing_is_not_saved)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
