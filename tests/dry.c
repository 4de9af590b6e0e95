/* dry.c: a step run dry against the same step run: every rank's memory, by category and moment, and every
 * transfer, to the byte. */
#include "support.h"

#include "device/ops.h"
#include "meshfold/train.h"

#include <math.h>
#include <string.h>

enum { RANKS = 8 };

typedef struct both {
    mf_measure_options options;
    mf_measure_result measured;
    mf_rank_report dry[RANKS];
    double step_s[RANKS];
} both;

static mf_status run(mf_world *world, void *argument) {
    both *b = argument;
    return mf_measure(world, &b->options, &b->measured);
}

static mf_status run_dry(mf_world *world, void *argument) {
    both *b = argument;
    int rank = mf_world_rank(world);
    return mf_measure_dry(world, &b->options, &b->dry[rank], &b->step_s[rank]);
}

static void same_memory(const char *name, int rank, const mf_memory_stats *got, const mf_memory_stats *dry) {
    for (int c = 0; c < MF_CATEGORIES; c++)
        if (got->peak[c] != dry->peak[c] || got->at_peak[c] != dry->at_peak[c] || got->now[c] != dry->now[c])
            fail_msg("%s, rank %d, %s: peak %lld, dry %lld; at the total's peak %lld, dry %lld", name, rank,
                     mf_category_name((mf_category)c), (long long)got->peak[c], (long long)dry->peak[c],
                     (long long)got->at_peak[c], (long long)dry->at_peak[c]);
    assert_int_equal(got->peak_total, dry->peak_total);
}

static void same_transfers(const char *name, int rank, const mf_rank_report *got, const mf_rank_report *dry) {
    assert_int_equal(got->groups, dry->groups);
    for (int g = 0; g < got->groups; g++) {
        assert_string_equal(got->group[g].axis, dry->group[g].axis);
        for (int op = 0; op < MF_COMM_OPS; op++) {
            const mf_comm_stat *a = &got->group[g].stat[op], *b = &dry->group[g].stat[op];
            if (a->calls == b->calls && a->bytes == b->bytes && a->borrowed_bytes == b->borrowed_bytes)
                continue;
            fail_msg("%s, rank %d, axis %s, %s: %lld calls, %lld + %lld bytes; dry %lld, %lld + %lld", name,
                     rank, got->group[g].axis, a->op, (long long)a->calls, (long long)a->bytes,
                     (long long)a->borrowed_bytes, (long long)b->calls, (long long)b->bytes,
                     (long long)b->borrowed_bytes);
        }
    }
}

static void compare(both *b, const char *mesh, bool no_borrow) {
    char name[160];
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &b->options.mesh, &b->options.layout));
    snprintf(name, sizeof name, "%s, %s, recompute %d%s, %s", mesh, mf_dtype_name(b->options.model.type),
             (int)b->options.model.recompute, b->options.model.forward_only ? ", forward" : "",
             no_borrow ? "sent" : "borrowed");
    mf_launch_options launch = {
        .engine = "local", .ranks = mf_mesh_ranks(&b->options.mesh), .no_borrow = no_borrow, .timeout_s = 60};
    if (mf_launch(&launch, run, b)) fail_msg("%s: %s", name, mf_error_last()->message);
    launch.engine = "dry";
    if (mf_launch(&launch, run_dry, b)) fail_msg("%s, dry: %s", name, mf_error_last()->message);
    for (int rank = 0; rank < launch.ranks; rank++) {
        same_memory(name, rank, &b->measured.rank[rank].memory, &b->dry[rank].memory);
        same_transfers(name, rank, &b->measured.rank[rank], &b->dry[rank]);
        assert_int_equal(b->measured.rank[rank].tokens, b->dry[rank].tokens);
    }
    mf_measure_free(&b->measured);
}

static const char *const meshes[] = {
    "single",
    "tsp=2",
    "tsp=3",
    "tsp=8",
    "tp=2",
    "tp=3,reduction=scatter",
    "sp=3,kv-bucket=1",
    "sp=2,exchange=ring",
    "sp=3,exchange=ulysses",
    "sp=3,stream=gather",
    "sp=2",
    "tsp=2,attention-stream=ring,exchange=ring",
    "tp=2,sp=2,exchange=ring,reduction=scatter",
    "tp=2,tsp=2",
    "tsp=2,sp=2",
    "dp=2,tsp=2",
    "dp=2,tp=2,zero=0",
    "dp=2,tp=2,sp=2,stream=gather",
};

/* Sizes that divide by nothing, and larger than the CPU's tiles. */
static both *make(mf_dtype type, int64_t tokens, int threads) {
    both *b = NULL;
    ASSERT_OK(mf_host_alloc(1, sizeof *b, &b));
    b->options = (mf_measure_options){.model = {.config = {.hidden = 72,
                                                           .layers = 2,
                                                           .heads = 6,
                                                           .kv_heads = 3,
                                                           .head_dim = 12,
                                                           .ffn = 202,
                                                           .vocab = 301,
                                                           .rope_theta = 10000,
                                                           .norm_eps = 1e-5,
                                                           .init_range = 0.02},
                                                .type = type,
                                                .batch = 2,
                                                .tokens = tokens,
                                                .seed = 1},
                                      .threads = threads,
                                      .steps = 1};
    return b;
}

static void every_mode(both *b, const char *mesh) {
    for (int mode = MF_RECOMPUTE_NONE; mode <= MF_RECOMPUTE_BLOCK; mode++) {
        b->options.model.recompute = (mf_recompute)mode;
        compare(b, mesh, false);
        compare(b, mesh, true);
    }
    b->options.model.recompute = MF_RECOMPUTE_NONE;
    b->options.model.forward_only = true;
    compare(b, mesh, true);
    b->options.model.forward_only = false;
}

static void dry_steps_equal_real_ones(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i += MF_TEST_SPARSE ? 6 : 1)
        for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
            both *b = make(type, 77, 1);
            every_mode(b, meshes[i]);
            mf_host_free(b);
        }
}

#if !defined(__SANITIZE_THREAD__) /* which does not see the barriers of an OpenMP library */
static void longer_ones_too(void **state) {
    (void)state;
    for (mf_dtype type = MF_F32; type <= MF_BF16; type++)
        for (int threads = 1; threads <= 3; threads += 2) {
            both *b = make(type, 1500, threads);
            b->options.model.config.tied = threads > 1;
            compare(b, "single", false);
            compare(b, "tsp=2", false);
            compare(b, "tp=2", true);
            compare(b, "sp=2,stream=gather,exchange=ring", true);
            mf_host_free(b);
        }
}
#endif

/* Biases, norms of heads, a window, stretched angles, room for documents. */
static void relatives_too(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i += MF_TEST_SPARSE ? 6 : 1)
        for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
            both *b = make(type, 77, 1);
            mf_model_config *c = &b->options.model.config;
            c->qkv_bias = i % 2 == 0;
            c->qk_norm = i % 3 < 2;
            c->window = 9;
            c->window_from = (int64_t)i % 2;
            b->options.model.packed = i % 3 == 0;
            c->scaling = (mf_rope_scaling){MF_ROPE_LLAMA3, 8, 1, 4, 64};
            every_mode(b, meshes[i]);
            mf_host_free(b);
        }
}

static const char *const video_meshes[] = {
    "single",
    "dsp=2",
    "dsp=3",
    "dsp=8",
    "dsp=3,stream=ring",
    "dsp=2,stream=broadcast",
    "dsp=2,stream=gather",
    "dsp=2,tp=2",
    "dp=2,dsp=2,stream=ring",
    "sp=3",
    "sp=2,exchange=ring",
    "sp=3,exchange=ulysses",
    "tp=3,reduction=scatter",
    "tp=2,sp=2,exchange=ring,reduction=scatter",
    "tsp=3",
};

/* Sizes that divide by nothing; at 8 ranks some have no frames. */
static void videos_too(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof video_meshes / sizeof *video_meshes; i += MF_TEST_SPARSE ? 6 : 1)
        for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
            both *b = make(type, 5 * 3 * 7, 1);
            mf_model_config *c = &b->options.model.config;
            c->family = MF_STDIT;
            c->kv_heads = c->heads;
            c->video = (mf_video_config){5, 6, 14, 3, 2, 0, 0, i % 2 == 0};
            c->video.condition_tokens = c->video.condition_channels = i % 3 ? 0 : 7;
            b->options.model.grid = (mf_clip_grid){5, 3, 7};
            b->options.accumulate = 1 + (int64_t)i % 2;
            every_mode(b, video_meshes[i]);
            mf_host_free(b);
        }
}

/* A model that no machine here has memory for. */
static void large_models_run_dry(void **state) {
    (void)state;
    both *b = make(MF_BF16, 131072, 4);
    ASSERT_OK(mf_config_preset("tsp-7b", &b->options.model.config));
    b->options.model.batch = 1;
    b->options.model.recompute = MF_RECOMPUTE_BLOCK;
    ASSERT_OK(mf_layout_parse("tsp=8", &mf_layout_words_none, &b->options.mesh, &b->options.layout));
    mf_launch_options launch = {.engine = "dry", .ranks = 8, .no_borrow = true, .only = true, .only_rank = 3};
    ASSERT_OK(mf_launch(&launch, run_dry, b));
    /* 18 bytes of state a parameter, an eighth of them here. */
    double state_bytes = 18.0 / 8 * (double)mf_config_params(&b->options.model.config);
    assert_true((double)b->dry[3].memory.peak_total > state_bytes);
    assert_true((double)b->dry[3].memory.peak_total < 2 * state_bytes);
    mf_host_free(b);
}

/* A machine of round figures. */
static double gemm_s(const mf_costs *c, const mf_gemm_args *a) {
    (void)c;
    return 2.0 * (double)a->m * (double)a->n * (double)a->k / 1e12;
}
static double attention_s(const mf_costs *c, const mf_attention_args *a, bool backward, double pairs) {
    (void)c;
    return (backward ? 10.0 : 4.0) * (double)a->head_dim * pairs / 1e12;
}
/* Row by row: a tile of queries is computed with all keys that its last row sees. */
static double pairs_met(const mf_attention_args *a) {
    double pairs = 0;
    for (int i = 0; i < a->query_chunks; i++) {
        const mf_query_chunk *q = &a->queries[i];
        for (int64_t row = 0; row < q->rows; row++) {
            int64_t tile = q->position + row / MF_QUERY_TILE * MF_QUERY_TILE;
            int64_t end = mf_min(tile + MF_QUERY_TILE, q->position + q->rows);
            int64_t begin = a->window ? tile - a->window + 1 : -1000000;
            for (int j = 0; j < a->key_chunks; j++) {
                int64_t first = mf_max(begin, a->keys[j].position);
                pairs += (double)mf_max(0, mf_min(end, a->keys[j].position + a->keys[j].rows) - first);
            }
        }
    }
    return pairs * (double)(a->batch * a->heads);
}

static double pairs_seen(const mf_attention_args *a) {
    double pairs = 0;
    for (int i = 0; i < a->query_chunks; i++)
        for (int64_t p = a->queries[i].position; p < a->queries[i].position + a->queries[i].rows; p++)
            for (int j = 0; j < a->key_chunks; j++) {
                int64_t first = mf_max(a->window ? p - a->window + 1 : 0, a->keys[j].position);
                pairs += (double)mf_max(0, mf_min(p + 1, a->keys[j].position + a->keys[j].rows) - first);
            }
    return pairs * (double)(a->batch * a->heads);
}

static void pairs_are_counted_by_tiles(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 3000; i++) {
        int64_t random[8];
        for (uint64_t k = 0; k < 8; k++) random[k] = (int64_t)(mf_random_u64(3, k, i) % 700);
        const mf_query_chunk queries[] = {{.rows = random[0], .position = random[1]},
                                          {.rows = random[2], .position = random[3]}};
        const mf_key_chunk keys[] = {{.rows = random[4], .position = random[5]},
                                     {.rows = random[6], .position = random[7]}};
        const mf_attention_args a = {.batch = 2,
                                     .heads = 3,
                                     .window = i % 3 ? (int64_t)(mf_random_u64(3, 9, i) % 400) : 0,
                                     .query_chunks = 2,
                                     .key_chunks = 2,
                                     .queries = queries,
                                     .keys = keys};
        assert_true(mf_attention_pairs_met(&a) == pairs_met(&a));
        assert_true(mf_attention_pairs(&a) == pairs_seen(&a));
        mf_attention_args all = a;
        all.window = 0, all.all_keys = true;
        double pairs = (double)((random[0] + random[2]) * (random[4] + random[6]) * 2 * 3);
        assert_true(mf_attention_pairs_met(&all) == pairs && mf_attention_pairs(&all) == pairs);
    }
}

static double no_time(const mf_costs *c, mf_operation operation, mf_dtype type, double bytes) {
    (void)c, (void)operation, (void)type, (void)bytes;
    return 0;
}
static double transfer_s(const mf_costs *c, const mf_transfer_cost *t) {
    (void)t;
    return *(const double *)c->context * t->bytes;
}

static double dry_step(const char *mesh, double seconds_per_byte, bool overlaps, both *b) {
    mf_costs costs = {.context = &seconds_per_byte,
                      .gemm_s = gemm_s,
                      .attention_s = attention_s,
                      .touch_s = no_time,
                      .transfer_s = transfer_s,
                      .overlaps = overlaps};
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &b->options.mesh, &b->options.layout));
    mf_launch_options launch = {.engine = "dry",
                                .ranks = mf_mesh_ranks(&b->options.mesh),
                                .no_borrow = true,
                                .only = true,
                                .costs = &costs};
    ASSERT_OK(mf_launch(&launch, run_dry, b));
    return b->step_s[0];
}

static double sent_bytes(const mf_rank_report *r) {
    double bytes = 0;
    for (int g = 0; g < r->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++) bytes += (double)r->group[g].stat[op].bytes;
    return bytes;
}

static double exposed_s(const mf_rank_report *r) {
    double seconds = 0;
    for (int g = 0; g < r->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++) seconds += r->group[g].stat[op].exposed_s;
    return seconds;
}

/* All that a step computes, and all that it sends, when nothing overlaps; less when it does, but never less
 * than either; and what stands between is what is reported as exposed. */
static void time_passes_as_the_costs_say(void **state) {
    (void)state;
    static const char *const laid_out[] = {"tsp=4", "tp=4", "sp=4,stream=gather", "dp=2,tsp=2",
                                           "tp=2,sp=2,exchange=ring"};
    both *b = make(MF_BF16, 4096, 1);
    b->options.model.config.hidden = 512;
    b->options.model.config.heads = b->options.model.config.kv_heads = 8;
    b->options.model.config.head_dim = 64;
    b->options.model.config.ffn = 2048;
    b->options.model.config.vocab = 1024;
    /* The whole step's FLOPs at 10^12 a second: attention's backward is 10 a pair here, the model's 8. */
    double flops = mf_config_step_flops(&b->options.model.config, 2, 4096),
           single = dry_step("single", 0, true, b);
    assert_true(single > flops / 1e12 && single < 1.2 * flops / 1e12);
    for (size_t i = 0; i < sizeof laid_out / sizeof *laid_out; i++) {
        double link = 1e-10, work = dry_step(laid_out[i], 0, true, b), bytes = sent_bytes(&b->dry[0]);
        double apart = dry_step(laid_out[i], link, false, b), apart_exposed = exposed_s(&b->dry[0]);
        double beside = dry_step(laid_out[i], link, true, b), beside_exposed = exposed_s(&b->dry[0]);
        assert_true(bytes > 0 && work > 0);
        assert_true(fabs(apart - work - link * bytes) < 1e-9 * apart);
        if (strcmp(laid_out[i], "tp=4") == 0) /* waits for every sum */
            assert_true(fabs(beside - apart) < 1e-9 * apart);
        else
            assert_true(beside < apart);
        assert_true(beside >= work && beside >= link * bytes);
        assert_true(fabs(beside - work - beside_exposed) < 1e-9 * beside);
        assert_true(apart_exposed < apart);
    }
    mf_host_free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dry_steps_equal_real_ones),
#if !defined(__SANITIZE_THREAD__)
        cmocka_unit_test(longer_ones_too),
#endif
        cmocka_unit_test(relatives_too),
        cmocka_unit_test(videos_too),
        cmocka_unit_test(large_models_run_dry),
        cmocka_unit_test(pairs_are_counted_by_tiles),
        cmocka_unit_test(time_passes_as_the_costs_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
