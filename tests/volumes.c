/* volumes.c: the counters against the formulas of docs/volumes.md, to the byte, and where tsp begins to send
 * less than tp. */
#include "support.h"

#include "meshfold/train.h"

#include <stdlib.h>
#include <string.h>

enum { GROUPS = 1 << MF_MESH_AXES };

typedef struct counted {
    mf_model_options model;
    mf_mesh_spec mesh;
    mf_layout layout;
    /* filled on rank 0: what the ranks sent or read in place */
    double bytes[GROUPS][MF_COMM_OPS];
} counted;

/* Every rank must have counted the same; false where one has not. */
static mf_status sum_up(counted *c, mf_mesh *mesh) {
    for (int axes = 1; axes < GROUPS; axes++) {
        mf_comm_stat stats[MF_COMM_OPS];
        if (!mesh->group[axes]) continue;
        mf_comm_stats(mesh->group[axes], stats);
        for (int op = 0; op < MF_COMM_OPS; op++) {
            double own = (double)(stats[op].bytes + stats[op].borrowed_bytes), sum = own;
            MF_TRY(mf_allreduce_f64(mesh->world, &sum, 1));
            double mean = sum / mf_comm_size(mesh->world);
            if (own != mean)
                return MF_FAIL(MF_EINVAL, "axis %s, %s: one rank counted %.0f bytes, the mean is %.1f",
                               mf_comm_axis(mesh->group[axes]), stats[op].op, own, mean);
            if (mf_comm_rank(mesh->world) == 0) c->bytes[axes][op] = own;
        }
    }
    return MF_OK;
}

/* Bytes of zeros that serve as all input of a step. */
static size_t input_bytes(const counted *c) {
    const mf_video_config *v = &c->model.config.video;
    int64_t token = mf_max(mf_config_values(&c->model.config), 1);
    int64_t all = mf_max(c->model.tokens * token, v->condition_tokens * v->condition_channels);
    return (size_t)(c->model.batch * all) * sizeof(float);
}

static mf_model_call call_with(const counted *c, const void *zeros) {
    if (c->model.config.family == MF_STDIT)
        return (mf_model_call){
            .input = zeros, .target = zeros, .time = zeros, .condition = zeros, .scale = 1, .last = true};
    return (mf_model_call){.ids = zeros, .labels = zeros, .scale = 1, .last = true};
}

static mf_status step(const counted *c, mf_model *model, mf_device *device) {
    mf_memory *memory = mf_device_memory(device);
    mf_status status = MF_OK;
    mf_model_state state = mf_model_state_get(model);
    mf_buffer zeros = {0};
    double loss = 0;
    MF_GO(mf_buffer_alloc(memory, MF_WORKSPACE, input_bytes(c), "input", &zeros));
    MF_GO(mf_zero(device, zeros.data, input_bytes(c)));
    mf_model_call call = call_with(c, zeros.data);
    MF_GO(mf_zero(device, state.cut_weights, (size_t)state.cut * mf_dtype_bytes(state.type)));
    MF_GO(mf_zero(device, state.replicated_weights, (size_t)state.replicated * sizeof(float)));
    MF_GO(mf_barrier(mf_model_world(model)));
    if (c->model.forward_only) {
        MF_GO(mf_model_loss(model, &call, &loss));
    } else {
        MF_GO(mf_model_gradients(model, &call, &loss));
        MF_GO(mf_model_share_updates(model));
    }
    MF_GO(mf_barrier(mf_model_world(model)));
fail:
    mf_buffer_free(memory, &zeros);
    return status;
}

static mf_status body(mf_world *world, void *argument) {
    counted *c = argument;
    mf_status status = MF_OK;
    mf_memory *memory = NULL;
    mf_device *device = NULL;
    mf_mesh mesh = {0};
    mf_model *model = NULL;
    MF_GO(mf_memory_create(NULL, &memory));
    MF_GO(mf_device_create("cpu", memory, 1, &device));
    MF_GO(mf_mesh_create(world, &c->mesh, &mesh));
    MF_GO(mf_model_create(&c->model, &c->layout, &mesh, device, &model));
    MF_GO(step(c, model, device));
    MF_GO(sum_up(c, &mesh));
    MF_GO(mf_barrier(mesh.world));
fail:
    mf_model_destroy(model);
    mf_mesh_destroy(&mesh);
    mf_device_destroy(device);
    mf_memory_destroy(memory);
    return status;
}

static void count(counted *c, const char *mesh, bool no_borrow) {
    memset(c->bytes, 0, sizeof c->bytes);
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &c->mesh, &c->layout));
    mf_launch_options launch = {.engine = "local", .ranks = mf_mesh_ranks(&c->mesh), .no_borrow = no_borrow};
    if (mf_launch(&launch, body, c)) fail_msg("%s: %s", mesh, mf_error_last()->message);
}

static double predicted(const mf_volume *v, const char *axis, int op) {
    for (int i = 0; i < v->groups; i++)
        if (strcmp(v->group[i].axis, axis) == 0) return v->group[i].bytes[op];
    return 0;
}

static void compare(counted *c, const char *mesh, bool no_borrow) {
    mf_volume v;
    double formula = 0, all = 0;
    count(c, mesh, no_borrow);
    mf_volume_predict(&c->model, &c->layout, &c->mesh, &v);
    for (unsigned axes = 1; axes < 1u << c->mesh.axes; axes++) {
        char name[MF_AXES_NAME];
        mf_axes_name(&c->mesh, axes, name);
        for (int op = 0; op < MF_COMM_OPS; op++) {
            all += c->bytes[axes][op];
            if (c->bytes[axes][op] != predicted(&v, name, op))
                fail_msg("%s, %s, %s%s: %s by operation %d counted %.0f bytes, the formula says %.3f", mesh,
                         no_borrow ? "sent" : "borrowed", mf_dtype_name(c->model.type),
                         c->model.forward_only ? ", forward" : "", name, op, c->bytes[axes][op],
                         predicted(&v, name, op));
        }
    }
    for (int i = 0; i < v.groups; i++)
        for (int op = 0; op < MF_COMM_OPS; op++) formula += v.group[i].bytes[op];
    if (formula != all ||
        (all == 0 && !c->model.forward_only)) /* something was predicted for an axis that is not there */
        fail_msg("%s: counted %.0f bytes in all, the formula says %.3f", mesh, all, formula);
}

static mf_model_options small_model(int64_t kv_heads) {
    return (mf_model_options){.config = {.hidden = 64,
                                         .layers = 3,
                                         .heads = 8,
                                         .kv_heads = kv_heads,
                                         .head_dim = 8,
                                         .ffn = 96,
                                         .vocab = 48,
                                         .rope_theta = 10000,
                                         .norm_eps = 1e-5,
                                         .init_range = 0.02},
                              .batch = 2,
                              .tokens = 32,
                              .seed = 1};
}

static const char *const meshes[] = {
    "tsp=2",
    "tsp=4",
    "tsp=8",
    "tsp=2,attention-stream=ring",
    "tsp=4,attention-stream=gather,mlp-stream=broadcast",
    "tsp=4,exchange=ring",
    "tp=2",
    "tp=4,reduction=scatter",
    "tp=8",
    "sp=2",
    "sp=4,kv-bucket=1",
    "sp=4,exchange=ring",
    "sp=4,exchange=ulysses",
    "sp=8,exchange=ulysses",
    "sp=4,stream=gather",
    "sp=2,stream=ring",
    "dp=2",
    "dp=4,zero=0",
    "tp=2,sp=2",
    "tp=2,sp=4,reduction=scatter,exchange=ring",
    "tp=2,sp=2,stream=gather,exchange=ulysses",
    "tsp=2,tp=2",
    "tsp=2,sp=2",
    "tsp=2,tp=2,sp=2,reduction=scatter",
    "dp=2,tsp=4",
    "dp=2,tp=2,sp=2",
};

static void every_mode(counted *c, const char *mesh) {
    for (int mode = MF_RECOMPUTE_NONE; mode <= MF_RECOMPUTE_BLOCK; mode++) {
        c->model.recompute = (mf_recompute)mode;
        compare(c, mesh, mode == MF_RECOMPUTE_BLOCK);
    }
    c->model.recompute = MF_RECOMPUTE_NONE;
    compare(c, mesh, true);
    c->model.forward_only = true;
    compare(c, mesh, false);
    compare(c, mesh, true);
    c->model.forward_only = false;
}

static void counters_equal_formulas(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i += MF_TEST_SPARSE ? 3 : 1)
        for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
            counted c = {.model = small_model(8)};
            c.model.type = type;
            if (type == MF_BF16) { /* and other proportions */
                c.model.config.heads = 16;
                c.model.config.tied = true;
            }
            every_mode(&c, meshes[i]);
        }
}

/* Biases and norms of heads are summed over all ranks; a window sends no less. */
static void relatives_too(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++) {
        counted c = {.model = small_model(8)};
        c.model.config.qkv_bias = c.model.config.qk_norm = true;
        c.model.config.window = 5;
        every_mode(&c, meshes[i]);
    }
}

static mf_model_options video_model(void) {
    return (mf_model_options){.config = {.family = MF_STDIT,
                                         .hidden = 64,
                                         .layers = 4,
                                         .heads = 8,
                                         .kv_heads = 8,
                                         .head_dim = 8,
                                         .ffn = 96,
                                         .norm_eps = 1e-5,
                                         .init_range = 0.02,
                                         .video = {8, 8, 16, 1, 2, 0, 0, false}},
                              .batch = 2,
                              .tokens = 8 * 4 * 8,
                              .grid = {8, 4, 8},
                              .seed = 1};
}

static const char *const video_meshes[] = {
    "dsp=2",
    "dsp=8",
    "dsp=4,zero=0",
    "dsp=4,stream=ring",
    "dsp=4,stream=broadcast",
    "dsp=2,stream=gather",
    "dsp=4,attention-stream=gather,mlp-stream=ring",
    "dsp=2,tp=2",
    "dsp=2,tp=2,stream=ring",
    "dp=2,dsp=2",
    "dp=2,dsp=2,stream=ring",
    "sp=4",
    "sp=4,exchange=ring",
    "sp=8,exchange=ulysses",
    "sp=2,stream=gather,exchange=ulysses",
    "tp=4",
    "tp=4,reduction=scatter",
    "tp=2,sp=2,reduction=scatter,exchange=ulysses",
    "tsp=4",
    "tsp=2,attention-stream=ring,exchange=ulysses",
    "tsp=2,tp=2,sp=2",
    "dp=2,tp=2",
};

/* Plain, and with a condition and a gated MLP. */
static void videos_too(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof video_meshes / sizeof *video_meshes; i += MF_TEST_SPARSE ? 4 : 1)
        for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
            counted c = {.model = video_model()};
            c.model.type = type;
            if (type == MF_BF16) {
                c.model.config.video.condition_tokens = 3;
                c.model.config.video.condition_channels = 5;
                c.model.config.video.gated = true;
            }
            every_mode(&c, video_meshes[i]);
        }
}

/* What a rank sends for one layer's forward: a model of two layers against one of one. */
static double layer_volume(const char *mesh, int64_t hidden, int64_t kv_heads, int64_t tokens) {
    double volume[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        counted c = {.model = small_model(kv_heads)};
        c.model.config.hidden = hidden;
        c.model.config.head_dim = hidden / 8;
        c.model.config.ffn = 4 * hidden;
        c.model.config.layers = i + 1;
        c.model.tokens = tokens;
        c.model.batch = 1;
        c.model.type = MF_BF16;
        c.model.forward_only = true;
        count(&c, mesh, true);
        for (int axes = 1; axes < GROUPS; axes++)
            for (int op = 0; op < MF_COMM_OPS; op++) volume[i] += c.bytes[axes][op];
    }
    return volume[1] - volume[0];
}

/* BS = 8h for g = 1, F = 4; for g = 1/4 (2 + 2g + 3F) / (4 - 2g) = 29/7. */
static void tsp_sends_less_beyond_the_crossover(void **state) {
    (void)state;
    const struct { int64_t hidden, kv_heads, tokens; } at[] = {{64, 8, 8 * 64}, {112, 2, 29 * 112 / 7}};
    for (int i = 0; i < 2; i++) {
        double tsp = layer_volume("tsp=2", at[i].hidden, at[i].kv_heads, at[i].tokens);
        double tp = layer_volume("tp=2", at[i].hidden, at[i].kv_heads, at[i].tokens);
        assert_true(tsp == tp && tsp > 0);
        assert_true(layer_volume("tsp=2", at[i].hidden, at[i].kv_heads, at[i].tokens - 4) >
                    layer_volume("tp=2", at[i].hidden, at[i].kv_heads, at[i].tokens - 4));
        assert_true(layer_volume("tsp=2", at[i].hidden, at[i].kv_heads, at[i].tokens + 4) <
                    layer_volume("tp=2", at[i].hidden, at[i].kv_heads, at[i].tokens + 4));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(counters_equal_formulas),
                                       cmocka_unit_test(relatives_too), cmocka_unit_test(videos_too),
                                       cmocka_unit_test(tsp_sends_less_beyond_the_crossover)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
