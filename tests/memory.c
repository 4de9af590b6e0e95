/* memory.c: what a rank holds, by the accounted peaks: of tsp=8 against one rank alone and against the other
 * layouts, of replicas, of gathered layers; of dsp=8 the same. */
#include "support.h"

#include "train/clips.h"

#include <stdlib.h>

enum { RANKS = 8 };

static const mf_dtype first_type = MF_TEST_SPARSE ? MF_BF16 : MF_F32;

typedef struct measured {
    mf_model_options options;
    mf_mesh_spec mesh;
    mf_layout layout;
    mf_memory_stats worst; /* of all ranks, category by category; filled under the rank's own index */
    mf_memory_stats rank[RANKS];
    bool step; /* run a forward and backward; else build only */
} measured;

/* Of a model of videos. */
static mf_status place_clips(mf_clip_room *clips, const mf_model *model, mf_model_call *call) {
    const mf_model_options *o = mf_model_options_get(model);
    if (!mf_options_are_of_videos(o)) return MF_OK;
    for (int64_t b = 0; b < o->batch; b++)
        MF_TRY(mf_clip_place(clips, model, &(mf_clip_draw){.pick = {.seed = 1, .index = b}, .time = -1}, b));
    mf_clip_fill(clips, model, 0, call);
    return MF_OK;
}

static mf_status run_once(measured *m, mf_model *model, mf_device *device, mf_memory *memory) {
    mf_model_state state = mf_model_state_get(model);
    int64_t tokens = m->options.batch * mf_model_rows(model);
    mf_buffer ids = {0};
    mf_clip_room clips = {0};
    double loss = 0;
    mf_status status = MF_OK;
    MF_GO(mf_buffer_alloc(memory, MF_WORKSPACE, (size_t)tokens * sizeof(int32_t), "ids", &ids));
    MF_GO(mf_zero(device, ids.data, (size_t)tokens * sizeof(int32_t)));
    mf_model_call call = {.ids = ids.data, .labels = ids.data, .scale = 1, .last = true};
    MF_GO(mf_clip_room_open(&clips, model, memory, device, m->options.batch));
    MF_GO(place_clips(&clips, model, &call));
    MF_GO(mf_zero(device, state.cut_weights, (size_t)state.cut * mf_dtype_bytes(state.type)));
    MF_GO(mf_zero(device, state.replicated_weights, (size_t)state.replicated * sizeof(float)));
    MF_GO(mf_barrier(mf_model_world(model)));
    MF_GO(mf_model_gradients(model, &call, &loss));
    MF_GO(mf_barrier(mf_model_world(model)));
fail:
    mf_buffer_free(memory, &ids);
    mf_clip_room_close(&clips);
    return status;
}

static mf_status body(mf_world *world, void *argument) {
    measured *m = argument;
    mf_status status = MF_OK;
    mf_memory *memory = NULL;
    mf_device *device = NULL;
    mf_mesh mesh = {0};
    mf_model *model = NULL;
    mf_optimizer *optimizer = NULL;
    MF_GO(mf_memory_create(NULL, &memory));
    MF_GO(mf_device_create("cpu", memory, 1, &device));
    MF_GO(mf_mesh_create(world, &m->mesh, &mesh));
    MF_GO(mf_model_create(&m->options, &m->layout, &mesh, device, &model));
    MF_GO(mf_optimizer_create(model, device, &(mf_adam_options){.steps = 1}, NULL, &optimizer));
    if (m->step) MF_GO(run_once(m, model, device, memory));
    m->rank[mf_world_rank(world)] = mf_memory_stats_get(memory);
    MF_GO(mf_barrier(mesh.world));
fail:
    mf_optimizer_destroy(optimizer);
    mf_model_destroy(model);
    mf_mesh_destroy(&mesh);
    mf_device_destroy(device);
    mf_memory_destroy(memory);
    return status;
}

static measured measure(const char *mesh, const mf_model_options *options, bool no_borrow, bool step) {
    measured m = {.options = *options, .step = step};
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &m.mesh, &m.layout));
    mf_launch_options launch = {.engine = "local", .ranks = mf_mesh_ranks(&m.mesh), .no_borrow = no_borrow};
    ASSERT_OK(mf_launch(&launch, body, &m));
    for (int rank = 0; rank < launch.ranks; rank++)
        for (int c = 0; c < MF_CATEGORIES; c++)
            m.worst.peak[c] = mf_max(m.worst.peak[c], m.rank[rank].peak[c]);
    return m;
}

static mf_model_options wide(mf_dtype type) {
    return (mf_model_options){.config = {.hidden = 512,
                                         .layers = 2,
                                         .heads = 16,
                                         .kv_heads = 8,
                                         .head_dim = 32,
                                         .ffn = 2048,
                                         .vocab = 1024,
                                         .rope_theta = 10000,
                                         .norm_eps = 1e-5,
                                         .init_range = 0.02},
                              .type = type,
                              .batch = 1,
                              .tokens = 1024,
                              .seed = 1};
}

static void at_most(const char *what, mf_dtype type, int64_t got, double limit) {
    if ((double)got <= limit) return;
    fail_msg("%s in %s: %lld bytes, at most %.0f allowed", what, mf_dtype_name(type), (long long)got, limit);
}

static void state_is_one_share(void **unused) {
    (void)unused;
    for (mf_dtype type = first_type; type <= MF_BF16; type++) {
        mf_model_options options = wide(type);
        measured alone = measure("single", &options, false, false),
                 cut = measure("tsp=8", &options, false, false);
        double norms = (double)((2 * options.config.layers + 1) * options.config.hidden) * sizeof(float);
        const mf_category state[] = {MF_WEIGHTS, MF_GRADS, MF_OPTIMIZER};
        for (int i = 0; i < 3; i++) {
            double replicated = state[i] == MF_OPTIMIZER ? 2 * norms : norms;
            at_most(mf_category_name(state[i]), type, cut.worst.peak[state[i]],
                    1.01 / RANKS * ((double)alone.worst.peak[state[i]] - replicated) + replicated);
        }
    }
}

static void activations_are_one_share(void **unused) {
    (void)unused;
    for (mf_dtype type = first_type; type <= MF_BF16; type++) {
        for (int mode = MF_TEST_SPARSE ? MF_RECOMPUTE_BLOCK : MF_RECOMPUTE_NONE; mode <= MF_RECOMPUTE_BLOCK;
             mode++) {
            mf_model_options options = wide(type);
            options.config.hidden = 128;
            options.config.ffn = 512;
            options.config.head_dim = 8;
            options.tokens = 32768;
            options.recompute = (mf_recompute)mode;
            measured alone = measure("single", &options, false, false),
                     cut = measure("tsp=8", &options, false, false);
            at_most("activations", type, cut.worst.peak[MF_ACTIVATIONS],
                    1.10 / RANKS * (double)alone.worst.peak[MF_ACTIVATIONS]);
        }
    }
}

/* Sent: two of the largest shard with its gradient; one head group's keys of all ranks, the own ones packed
 * for sending, and two of one rank's key gradients. Borrowed: attention's gradients on their way to their
 * owner. */
static void in_flight_is_two_shards_and_a_head_group(void **unused) {
    (void)unused;
    for (mf_dtype type = first_type; type <= MF_BF16; type++) {
        mf_model_options options = wide(type);
        const mf_model_config *c = &options.config;
        double size = (double)mf_dtype_bytes(type), h = (double)c->hidden;
        double attention = h * (double)(2 * c->heads + 2 * c->kv_heads) * (double)c->head_dim / RANKS;
        double largest = 3 * h * (double)c->ffn / RANKS;
        double group = 2 * (double)(options.tokens * c->kv_heads * c->head_dim) /
                       RANKS; /* elements of keys and values */
        measured sent = measure("tsp=8", &options, true, true),
                 borrowed = measure("tsp=8", &options, false, true);
        at_most("stream, sent", type, sent.worst.peak[MF_STREAM], 2 * largest * (size + sizeof(float)));
        at_most("exchange, sent", type, sent.worst.peak[MF_EXCHANGE],
                group * size + group / RANKS * (2 * sizeof(float)));
        at_most("stream, borrowed", type, borrowed.worst.peak[MF_STREAM], 2 * attention * sizeof(float));
        at_most("exchange, borrowed", type, borrowed.worst.peak[MF_EXCHANGE], 0);
    }
}

static int64_t largest_total(const measured *m) {
    int64_t largest = 0;
    for (int rank = 0; rank < mf_mesh_ranks(&m->mesh); rank++)
        largest = mf_max(largest, m->rank[rank].peak_total);
    return largest;
}

/* The paper's proportions (one key head a query head, F = 4), a step with all recomputed, everything sent. */
static mf_model_options proportions(int64_t tokens) {
    mf_model_options options = wide(MF_BF16);
    options.config.hidden = 128;
    options.config.layers = 6;
    options.config.heads = options.config.kv_heads = 8;
    options.config.head_dim = 16;
    options.config.ffn = 512;
    options.config.vocab = 256;
    options.recompute = MF_RECOMPUTE_BLOCK;
    options.tokens = tokens;
    return options;
}

static void tsp_holds_the_least(void **unused) {
    (void)unused;
    static const char *const others[] = {"tp=8",      "tp=8,reduction=scatter", "tp=4,sp=2",
                                         "tp=2,sp=4", "sp=8,stream=gather",     "sp=8"};
    for (int64_t tokens = 512; tokens <= (MF_TEST_SPARSE ? 512 : 4096); tokens *= 8) {
        mf_model_options options = proportions(tokens);
        measured tsp = measure("tsp=8", &options, true, true);
        for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
            measured other = measure(others[i], &options, true, true);
            if (largest_total(&tsp) >= largest_total(&other))
                fail_msg("%lld tokens: tsp=8 holds %lld bytes, %s %lld", (long long)tokens,
                         (long long)largest_total(&tsp), others[i], (long long)largest_total(&other));
        }
    }
}

/* ZeRO-1: of the optimizer's state each replica has its share, and the norms' whole. */
static void replicas_share_the_optimizer(void **unused) {
    (void)unused;
    mf_model_options options = wide(MF_BF16);
    double norms = 2.0 * (double)((2 * options.config.layers + 1) * options.config.hidden) * sizeof(float);
    measured alone = measure("single", &options, false, false);
    double whole = (double)alone.worst.peak[MF_OPTIMIZER] - norms;
    const char *const cut[] = {"dp=4", "sp=4", "dp=2,sp=2"};
    for (int i = MF_TEST_SPARSE ? 2 : 0; i < 3; i++) {
        measured m = measure(cut[i], &options, false, false);
        at_most(cut[i], MF_BF16, m.worst.peak[MF_OPTIMIZER], 1.01 / 4 * whole + norms);
    }
    measured copied = measure("dp=4,zero=0", &options, false, false);
    assert_true(copied.worst.peak[MF_OPTIMIZER] == alone.worst.peak[MF_OPTIMIZER]);
}

/* Gather: the part at work and the next, or the last one's gradient: at most a layer's two parts with two
 * parts' gradients. */
static void gather_has_a_layer_in_flight(void **unused) {
    (void)unused;
    mf_model_options options = wide(MF_BF16);
    const mf_model_config *c = &options.config;
    double h = (double)c->hidden, mlp = 3 * h * (double)c->ffn;
    double attention = h * (double)(2 * c->heads + 2 * c->kv_heads) * (double)c->head_dim;
    measured m = measure("sp=8,stream=gather", &options, false, true);
    at_most("stream, gather", MF_BF16, m.worst.peak[MF_STREAM], (mlp + attention) * (2 + 4));
    assert_true((double)m.worst.peak[MF_STREAM] > (mlp + attention) * 2);
}

/* Of 16 frames of 8x8 patches. What is whole on every rank is small at this size: tables, biases and the
 * matrices of patches are 0.3% of the parameters in 2 layers of 512, embedded times and positions 0.2% of the
 * activations.
 */
static mf_model_options clips(mf_dtype type, int64_t hidden) {
    mf_model_options options = {
        .config = {.family = MF_STDIT,
                   .hidden = hidden,
                   .layers = 2,
                   .heads = 16,
                   .kv_heads = 16,
                   .head_dim = hidden / 16,
                   .ffn = 4 * hidden,
                   .norm_eps = 1e-5,
                   .init_range = 0.02,
                   .video = {.frames = 16, .height = 16, .width = 16, .channels = 4, .patch = 2}},
        .type = type,
        .batch = 1,
        .seed = 1};
    options.grid = mf_config_grid(&options.config);
    options.tokens = mf_clip_tokens(&options.grid);
    return options;
}

static void dsp_keeps_one_share_of_activations(void **unused) {
    (void)unused;
    for (mf_dtype type = first_type; type <= MF_BF16; type++)
        for (int mode = MF_RECOMPUTE_NONE; mode <= MF_RECOMPUTE_BLOCK; mode++) {
            mf_model_options options = clips(type, 128);
            options.recompute = (mf_recompute)mode;
            measured alone = measure("single", &options, false, false),
                     cut = measure("dsp=8", &options, false, false);
            at_most("activations of videos", type, cut.worst.peak[MF_ACTIVATIONS],
                    1.10 / RANKS * (double)alone.worst.peak[MF_ACTIVATIONS]);
        }
}

static void dsp_streams_one_share_of_the_state(void **unused) {
    (void)unused;
    const mf_category state[] = {MF_WEIGHTS, MF_GRADS, MF_OPTIMIZER};
    for (mf_dtype type = first_type; type <= MF_BF16; type++) {
        mf_model_options options = clips(type, 512);
        measured alone = measure("single", &options, false, false),
                 cut = measure("dsp=8,stream=ring", &options, false, false);
        for (int i = 0; i < 3; i++)
            at_most(mf_category_name(state[i]), type, cut.worst.peak[state[i]],
                    1.10 / RANKS * (double)alone.worst.peak[state[i]]);
    }
}

/* Of the layouts that the paper compares, and those with streams; a step with all recomputed, everything
 * sent. tsp, too, has a share of both, and of keys a shard's heads at a time where dsp has a switch. */
static void dsp_with_a_stream_holds_the_least(void **unused) {
    (void)unused;
    static const char *const others[] = {"dsp=8",
                                         "dsp=8,stream=gather",
                                         "sp=8,exchange=ring",
                                         "sp=8,exchange=ulysses,stream=ring",
                                         "sp=8,stream=gather",
                                         "tp=8,reduction=scatter"};
    mf_model_options options = clips(MF_BF16, 128);
    options.recompute = MF_RECOMPUTE_BLOCK;
    measured dsp = measure("dsp=8,stream=ring", &options, true, true),
             tsp = measure("tsp=8", &options, true, true);
    at_most("dsp=8,stream=ring beside tsp=8", MF_BF16, largest_total(&dsp),
            1.03 * (double)largest_total(&tsp));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        measured other = measure(others[i], &options, true, true);
        at_most(others[i], MF_BF16, largest_total(&dsp), (double)largest_total(&other) - 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(state_is_one_share),
                                       cmocka_unit_test(activations_are_one_share),
                                       cmocka_unit_test(in_flight_is_two_shards_and_a_head_group),
                                       cmocka_unit_test(tsp_holds_the_least),
                                       cmocka_unit_test(replicas_share_the_optimizer),
                                       cmocka_unit_test(gather_has_a_layer_in_flight),
                                       cmocka_unit_test(dsp_keeps_one_share_of_activations),
                                       cmocka_unit_test(dsp_streams_one_share_of_the_state),
                                       cmocka_unit_test(dsp_with_a_stream_holds_the_least)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
