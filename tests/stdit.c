/* stdit.c: models of videos, against another implementation's results (golden/make_stdit.py): velocities,
 * loss and every gradient on all kinds of meshes; saved and read again; their config.json, presets and
 * counts.
 */
#include "golden.h"
#include "support.h"

#include "meshfold/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const models[] = {"plain", "conditioned"};
enum { MODELS = sizeof models / sizeof *models };

typedef struct trial {
    golden golden;
    const char *mesh_text;
    mf_mesh_spec mesh;
    mf_layout layout;
    mf_dtype type;
    mf_recompute recompute;
    bool forward_only;
    const char *save_to; /* and nothing is compared */
    /* filled on rank 0 */
    double velocity_error, loss_error, worst; /* relative */
    char worst_name[80];
} trial;

/* One rank's model of the folder's weights, and its part of the clips. */
typedef struct member {
    trial *trial;
    bool first; /* of all ranks */
    int64_t batch, first_clip;
    mf_memory *memory;
    mf_device *device;
    mf_mesh mesh;
    mf_model *model;
    mf_model_state state;
    float *master, *input, *target, *velocity;
    mf_model_call call;
} member;

static mf_status load_weights(member *m) {
    const trial *t = m->trial;
    m->state = mf_model_state_get(m->model);
    MF_TRY(mf_host_alloc((size_t)m->state.cut, sizeof(float), &m->master));
    MF_TRY(mf_model_load(m->model, t->golden.folder, m->master));
    MF_TRY(mf_convert(m->device, m->state.cut, m->master, MF_F32, m->state.cut_weights, t->type));
    if (t->forward_only) return MF_OK;
    MF_TRY(mf_zero(m->device, m->state.cut_grads, (size_t)m->state.cut * sizeof(float)));
    return mf_zero(m->device, m->state.replicated_grads, (size_t)m->state.replicated * sizeof(float));
}

static int64_t clip_values(const golden *g) { return g->tokens * mf_config_values(&g->config); }

/* This rank's part of its replica's clips; last: where the last block cuts them. */
static mf_status cut_clips(member *m, const char *name, bool last, float **out) {
    const golden *g = &m->trial->golden;
    int64_t rows = mf_model_clip_rows(m->model, last), values = mf_config_values(&g->config);
    const float *whole = golden_values(g, name) + m->first_clip * clip_values(g);
    MF_TRY(mf_host_alloc((size_t)mf_max(rows * values, 1), sizeof **out, out));
    for (int64_t b = 0; b < m->batch && rows; b++)
        mf_model_cut_clip(m->model, last, whole + b * clip_values(g), *out + b * (rows / m->batch) * values);
    return MF_OK;
}

static mf_status take_clips(member *m) {
    const golden *g = &m->trial->golden;
    const mf_video_config *v = &g->config.video;
    int64_t condition = v->condition_tokens * v->condition_channels;
    MF_TRY(cut_clips(m, "input", false, &m->input));
    MF_TRY(cut_clips(m, "target", true, &m->target));
    MF_TRY(mf_host_alloc((size_t)(m->batch * clip_values(g)), sizeof(float), &m->velocity));
    m->call = (mf_model_call){.input = m->input,
                              .target = m->target,
                              .time = golden_values(g, "time") + m->first_clip,
                              .scale = (float)(1.0 / (double)(g->batch * clip_values(g))),
                              .last = true};
    if (condition) m->call.condition = golden_values(g, "condition") + m->first_clip * condition;
    return MF_OK;
}

static mf_status build(mf_world *world, member *m) {
    const trial *t = m->trial;
    int replicas = mf_axes_ranks(&t->mesh, t->layout.data);
    m->first = mf_world_rank(world) == 0;
    m->batch = t->golden.batch / replicas;
    mf_model_options options = {.config = t->golden.config,
                                .type = t->type,
                                .recompute = t->recompute,
                                .batch = m->batch,
                                .tokens = t->golden.tokens,
                                .grid = mf_config_grid(&t->golden.config),
                                .forward_only = t->forward_only};
    MF_TRY(mf_memory_create(NULL, &m->memory));
    MF_TRY(mf_device_create("cpu", m->memory, 1, &m->device));
    MF_TRY(mf_mesh_create(world, &t->mesh, &m->mesh));
    mf_comm *data = mf_mesh_axis(&m->mesh, "dp");
    m->first_clip = data ? mf_comm_rank(data) * m->batch : 0;
    MF_TRY(mf_model_create(&options, &t->layout, &m->mesh, m->device, &m->model));
    MF_TRY(load_weights(m));
    MF_TRY(take_clips(m));
    return mf_barrier(mf_model_world(m->model));
}

static void drop(member *m) {
    float *all[] = {m->master, m->input, m->target, m->velocity};
    mf_model_destroy(m->model);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_host_free(all[i]);
    mf_mesh_destroy(&m->mesh);
    mf_device_destroy(m->device);
    mf_memory_destroy(m->memory);
}

static mf_status compare_velocity(member *m) {
    const golden *g = &m->trial->golden;
    MF_TRY(mf_model_velocity(m->model, &m->call, m->velocity));
    if (m->first)
        m->trial->velocity_error =
            golden_error(m->batch * clip_values(g), m->velocity, golden_values(g, "velocity"));
    return mf_barrier(mf_model_world(m->model));
}

/* loss: this rank's share. */
static mf_status compare_loss(member *m, double loss) {
    const golden *g = &m->trial->golden;
    double want = (double)*golden_values(g, "loss");
    MF_TRY(mf_barrier(mf_model_world(m->model))); /* peers may have been adding to own gradients until here */
    MF_TRY(mf_allreduce_f64(mf_model_world(m->model), &loss, 1));
    loss /= (double)(g->batch * clip_values(g));
    if (m->first) m->trial->loss_error = fabs(loss - want) / want;
    return MF_OK;
}

static mf_status compare_gradient(member *m, int param) {
    trial *t = m->trial;
    mf_param_view v = mf_model_param(m->model, param);
    int64_t n = mf_max(v.rows, 1) * v.cols;
    float *whole = NULL;
    char name[100];
    snprintf(name, sizeof name, "grad.%s", v.name);
    MF_TRY(mf_host_alloc((size_t)n, sizeof *whole, &whole));
    mf_status status = mf_model_collect_gradient(m->model, param, whole);
    double error = golden_error(n, whole, golden_values(&t->golden, name));
    mf_host_free(whole);
    if (!m->first || error <= t->worst) return status;
    t->worst = error;
    snprintf(t->worst_name, sizeof t->worst_name, "%s", v.name);
    return status;
}

static mf_status compare_gradients(member *m) {
    double loss = 0;
    MF_TRY(mf_model_gradients(m->model, &m->call, &loss));
    MF_TRY(compare_loss(m, loss));
    for (int i = 0; i < mf_model_params(m->model); i++) MF_TRY(compare_gradient(m, i));
    return mf_barrier(mf_model_world(m->model));
}

static mf_status compare_forward(member *m) {
    double loss = 0;
    MF_TRY(mf_model_loss(m->model, &m->call, &loss));
    return compare_loss(m, loss);
}

static mf_status body(mf_world *world, void *argument) {
    mf_status status = MF_OK;
    member m = {.trial = argument};
    MF_GO(build(world, &m));
    if (m.trial->save_to) {
        MF_GO(mf_model_save(m.model, m.device, m.trial->save_to));
    } else {
        MF_GO(compare_velocity(&m));
        MF_GO(m.trial->forward_only ? compare_forward(&m) : compare_gradients(&m));
    }
fail:
    drop(&m);
    return status;
}

static void launch(trial *t, const char *model, const char *mesh, bool no_borrow) {
    golden_open_video(model, &t->golden);
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &t->mesh, &t->layout));
    mf_launch_options options = {
        .engine = "local", .ranks = mf_mesh_ranks(&t->mesh), .no_borrow = no_borrow, .timeout_s = 60};
    mf_status status = mf_launch(&options, body, t);
    if (status) fail_msg("%s, %s: %s", model, mesh, mf_error_last()->message);
}

static void check(trial *t, const char *model, const char *mesh, bool no_borrow) {
    double tolerance = mf_tolerance(t->type);
    launch(t, model, mesh, no_borrow);
    golden_close(&t->golden);
    if (t->velocity_error < tolerance && t->loss_error < tolerance && t->worst < tolerance) return;
    fail_msg("%s, %s, %s, recompute %d: velocities off by %.2e, loss by %.2e, gradients by %.2e (%s)", model,
             mesh, mf_dtype_name(t->type), (int)t->recompute, t->velocity_error, t->loss_error, t->worst,
             t->worst_name);
}

/* Shares that differ, and ranks that have nothing: 3 frames of 2x5 patches, and 2 of 4x3. */
static const char *const meshes[] = {"single",
                                     "dsp=2",
                                     "dsp=3",
                                     "dsp=3,stream=ring",
                                     "dsp=2,stream=broadcast",
                                     "dsp=4,stream=gather",
                                     "sp=2",
                                     "sp=3,exchange=ring",
                                     "sp=2,exchange=ulysses",
                                     "sp=2,stream=gather,exchange=ring",
                                     "tp=2",
                                     "tp=3,reduction=scatter",
                                     "tp=2,sp=2,reduction=scatter",
                                     "tp=2,dsp=2",
                                     "tsp=2",
                                     "tsp=3,stream=ring,exchange=ring",
                                     "dp=2,dsp=2,stream=ring",
                                     "dp=2,tp=2"};
enum { MESHES = sizeof meshes / sizeof *meshes };

static void check_all(mf_dtype type) {
    for (int f = 0; f < MODELS; f++)
        for (int i = 0; i < MESHES; i++) {
            trial t = {.type = type, .recompute = (mf_recompute)(i % 3)};
            check(&t, models[f], meshes[i], i % 2);
            if (i == 0)
                print_message("%s, %s: velocities off by %.1e, loss by %.1e, gradients by %.1e (%s)\n",
                              models[f], mf_dtype_name(type), t.velocity_error, t.loss_error, t.worst,
                              t.worst_name);
        }
}

static void f32_agrees(void **state) {
    (void)state;
    check_all(MF_F32);
}

static void bf16_agrees(void **state) {
    (void)state;
    check_all(MF_BF16);
}

static void recomputation_changes_nothing(void **state) {
    (void)state;
    static const char *const some[] = {"single", "dsp=2,stream=ring", "tp=2,sp=2,reduction=scatter"};
    for (int i = 0; i < 3; i++)
        for (int recompute = MF_RECOMPUTE_NONE; recompute <= MF_RECOMPUTE_BLOCK; recompute++) {
            trial t = {.recompute = (mf_recompute)recompute};
            check(&t, "conditioned", some[i], false);
        }
}

static void forward_alone(void **state) {
    (void)state;
    for (int i = 0; i < MESHES; i++) {
        trial t = {.forward_only = true};
        check(&t, models[i % MODELS], meshes[i], false);
    }
}

static void empty_folder(const char *folder) {
    char path[200];
    static const char *const names[] = {"model.safetensors", "config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
}

static void same_config(const mf_model_config *a, const mf_model_config *b) {
    assert_true(a->family == b->family && a->hidden == b->hidden && a->layers == b->layers);
    assert_true(a->heads == b->heads && a->kv_heads == b->kv_heads && a->head_dim == b->head_dim);
    assert_true(a->ffn == b->ffn && a->norm_eps == b->norm_eps && a->init_range == b->init_range);
    assert_memory_equal(&a->video, &b->video, sizeof a->video);
}

/* What was read and not trained is what is written. */
static void compare_saved(const golden *g, const char *folder) {
    mf_tensor_set *before = NULL, *after = NULL;
    mf_model_config config;
    const mf_tensor_info *a, *b;
    int count = 0;
    ASSERT_OK(mf_config_find(folder, &config));
    same_config(&config, &g->config);
    ASSERT_OK(mf_tensor_set_open(g->folder, &before));
    ASSERT_OK(mf_tensor_set_open(folder, &after));
    for (; (a = mf_tensor_set_at(before, count)); count++) {
        b = mf_tensor_set_find(after, a->name);
        assert_non_null(b);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    assert_null(mf_tensor_set_at(after, count));
    mf_tensor_set_close(before);
    mf_tensor_set_close(after);
}

static void saved_as_read(void **state) {
    (void)state;
    static const mf_dtype stored[MODELS] = {MF_F32, MF_BF16};
    char folder[] = "/tmp/mf_test_stdit_XXXXXX";
    assert_non_null(mkdtemp(folder));
    for (int f = 0; f < MODELS; f++)
        for (int i = 0; i < MESHES; i++) {
            trial t = {.type = stored[f], .save_to = folder};
            launch(&t, models[f], meshes[i], false);
            compare_saved(&t.golden, folder);
            golden_close(&t.golden);
            empty_folder(folder);
        }
    rmdir(folder);
}

/* Elements of all parameters, one by one. */
static int64_t listed(const mf_model_config *config) {
    mf_named_shape *list = NULL;
    int count = 0;
    int64_t sum = 0;
    ASSERT_OK(mf_config_param_list(config, &list, &count));
    for (int i = 0; i < count; i++) sum += mf_max(list[i].rows, 1) * list[i].cols;
    mf_host_free(list);
    return sum;
}

static void presets_count(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t params; /* L (12 h² + 6 h) + 7 h² + 267 h + 2 h v + v, of L layers and v values a patch */
    } presets[] = {{"stdit-tiny", 1345456}, {"stdit-720m", 710649232}, {"stdit-3b", 3050608656}};
    for (int i = 0; i < 3; i++)
        for (int kind = 0; kind < 4; kind++) {
            mf_model_config c;
            ASSERT_OK(mf_config_preset(presets[i].name, &c));
            if (kind == 0) assert_int_equal(mf_config_params(&c), presets[i].params);
            c.video.gated = kind & 1;
            if (kind & 2) c.video.condition_tokens = 3, c.video.condition_channels = 17;
            ASSERT_OK(mf_config_check(&c, presets[i].name));
            assert_int_equal(mf_config_params(&c), listed(&c));
        }
}

/* A config.json, of which each field can be replaced or left out. */
typedef struct field {
    const char *name, *value;
} field;
static const field good[] = {{"model_type", "\"stdit\""},  {"hidden_act", "\"gelu_pytorch_tanh\""},
                             {"hidden_size", "24"},        {"num_hidden_layers", "4"},
                             {"num_attention_heads", "3"}, {"head_dim", "5"},
                             {"intermediate_size", "31"},  {"sample_frames", "6"},
                             {"sample_height", "8"},       {"sample_width", "12"},
                             {"in_channels", "2"},         {"patch_size", "4"},
                             {"condition_tokens", "7"},    {"condition_channels", "9"},
                             {"mlp_gated", "true"},        {"layer_norm_eps", "1e-5"},
                             {"initializer_range", "0.03"}};

/* value NULL: left out. */
static mf_status load_with(const char *name, const char *value, mf_model_config *out) {
    char path[] = "/tmp/mf_test_stdit_XXXXXX", text[1024] = "{", item[80];
    int file = mkstemp(path);
    assert_true(file >= 0);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const char *now = strcmp(good[i].name, name) ? good[i].value : value;
        if (!now) continue;
        snprintf(item, sizeof item, "%s\"%s\": %s", text[1] ? ", " : "", good[i].name, now);
        strcat(text, item);
    }
    strcat(text, "}");
    mf_status status = mf_file_write(path, text, strlen(text));
    if (!status) status = mf_config_load(path, out);
    close(file);
    unlink(path);
    return status;
}

static void config_is_read(void **state) {
    (void)state;
    mf_model_config c;
    ASSERT_OK(load_with("", NULL, &c));
    mf_model_config want = {.hidden = 24,
                            .layers = 4,
                            .heads = 3,
                            .kv_heads = 3,
                            .head_dim = 5,
                            .ffn = 31,
                            .norm_eps = 1e-5,
                            .init_range = 0.03,
                            .family = MF_STDIT};
    want.video = (mf_video_config){6, 8, 12, 2, 4, 7, 9, true};
    same_config(&c, &want);
    mf_clip_grid grid = mf_config_grid(&c);
    assert_true(grid.frames == 6 && grid.rows == 2 && grid.columns == 3 && mf_config_values(&c) == 32);
    ASSERT_OK(load_with("head_dim", NULL, &c));
    assert_int_equal(c.head_dim, 8);
    ASSERT_OK(load_with("mlp_gated", NULL, &c));
    assert_false(c.video.gated);
}

static void config_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *name, *value, *part;
        mf_status kind;
    } wrong[] = {
        {"model_type", "\"sora\"", "model_type is \"sora\"", MF_EUNSUPPORTED},
        {"hidden_act", "\"gelu\"", "hidden_act is \"gelu\"; this version supports \"gelu_pytorch_tanh\"",
         MF_EUNSUPPORTED},
        {"hidden_act", "\"silu\"", "hidden_act is \"silu\"", MF_EUNSUPPORTED},
        {"hidden_size", NULL, "hidden_size is missing", MF_EINVAL},
        {"hidden_size", "25", "hidden_size is 25; it must be even", MF_EINVAL},
        {"num_hidden_layers", "3", "num_hidden_layers is 3; it must be even", MF_EINVAL},
        {"num_hidden_layers", "0", "num_hidden_layers is 0", MF_EINVAL},
        {"num_attention_heads", "-1", "num_attention_heads is -1", MF_EINVAL},
        {"head_dim", "0", "head_dim is 0", MF_EINVAL},
        {"intermediate_size", "\"31\"", "intermediate_size is \"31\"", MF_EINVAL},
        {"sample_frames", NULL, "sample_frames is missing", MF_EINVAL},
        {"sample_frames", "0", "sample_frames is 0", MF_EINVAL},
        {"sample_height", "6", "clips of 6x12 are not whole patches of 4", MF_EINVAL},
        {"sample_width", "13", "clips of 8x13 are not whole patches of 4", MF_EINVAL},
        {"in_channels", "1e3", "in_channels is 1000.0", MF_EINVAL},
        {"patch_size", "5", "not whole patches of 5", MF_EINVAL},
        {"patch_size", "2000", "patch_size is 2000; it must be a whole number from 1 to 1024", MF_EINVAL},
        {"condition_tokens", NULL, "condition_tokens and condition_channels go together", MF_EINVAL},
        {"condition_channels", NULL, "condition_tokens and condition_channels go together", MF_EINVAL},
        {"condition_channels", "-9", "condition_channels is -9", MF_EINVAL},
        {"mlp_gated", "1", "mlp_gated is 1; it must be true or false", MF_EINVAL},
        {"layer_norm_eps", "0", "layer_norm_eps is 0", MF_EINVAL},
        {"initializer_range", "\"x\"", "initializer_range is \"x\"", MF_EINVAL},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        mf_model_config c;
        ASSERT_FAILS(load_with(wrong[i].name, wrong[i].value, &c), wrong[i].kind, wrong[i].part);
    }
}

/* Sizes that no file gives. */
static void sizes_are_refused(void **state) {
    (void)state;
    mf_model_config c;
    ASSERT_OK(mf_config_preset("stdit-tiny", &c));
    c.head_dim = 0;
    ASSERT_FAILS(mf_config_check(&c, "here"), MF_EINVAL, "here: head_dim is 0");
    ASSERT_OK(mf_config_preset("stdit-tiny", &c));
    c.video.condition_tokens = -1;
    ASSERT_FAILS(mf_config_check(&c, "here"), MF_EINVAL, "here: condition_tokens is -1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_agrees),        cmocka_unit_test(bf16_agrees),
        cmocka_unit_test(forward_alone),     cmocka_unit_test(recomputation_changes_nothing),
        cmocka_unit_test(saved_as_read),     cmocka_unit_test(presets_count),
        cmocka_unit_test(config_is_read),    cmocka_unit_test(config_is_refused),
        cmocka_unit_test(sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
