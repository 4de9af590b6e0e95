/* families.c: models of every family as transformers saves and computes them (golden/make_families.py):
 * logits, loss and the norm of every gradient on several meshes; folders of several files; saved again to the
 * byte. */
#include "golden.h"
#include "support.h"

#include "meshfold/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RANKS = 4 };

typedef struct trial {
    golden golden;
    mf_mesh_spec mesh;
    mf_layout layout;
    mf_dtype type;
    bool forward_only;
    const char *save_to;
    /* filled on rank 0 */
    double logits_error, loss_error, worst;
    char worst_name[80];
} trial;

/* One rank's model of the folder's weights. */
typedef struct member {
    mf_memory *memory;
    mf_device *device;
    mf_mesh mesh;
    mf_model *model;
    mf_model_state state;
    float *master, *logits;
    int32_t ids[512], labels[512];
} member;

static mf_status build(mf_world *world, const trial *t, member *m) {
    mf_model_options options = {.config = t->golden.config,
                                .type = t->type,
                                .batch = t->golden.batch,
                                .tokens = t->golden.tokens,
                                .forward_only = t->forward_only};
    MF_TRY(mf_memory_create(NULL, &m->memory));
    MF_TRY(mf_device_create("cpu", m->memory, 1, &m->device));
    MF_TRY(mf_mesh_create(world, &t->mesh, &m->mesh));
    MF_TRY(mf_model_create(&options, &t->layout, &m->mesh, m->device, &m->model));
    m->state = mf_model_state_get(m->model);
    MF_TRY(mf_host_alloc((size_t)m->state.cut, sizeof(float), &m->master));
    MF_TRY(mf_host_alloc((size_t)(t->golden.batch * t->golden.tokens * t->golden.config.vocab), sizeof(float),
                         &m->logits));
    MF_TRY(mf_model_load(m->model, t->golden.folder, m->master));
    MF_TRY(mf_convert(m->device, m->state.cut, m->master, MF_F32, m->state.cut_weights, t->type));
    if (!t->forward_only) {
        MF_TRY(mf_zero(m->device, m->state.cut_grads, (size_t)m->state.cut * sizeof(float)));
        MF_TRY(mf_zero(m->device, m->state.replicated_grads, (size_t)m->state.replicated * sizeof(float)));
    }
    int64_t rows = mf_model_rows(m->model);
    for (int64_t b = 0; b < t->golden.batch && rows; b++) {
        mf_model_cut(m->model, t->golden.ids + b * t->golden.tokens, m->ids + b * rows);
        mf_model_cut(m->model, t->golden.labels + b * t->golden.tokens, m->labels + b * rows);
    }
    return mf_barrier(mf_model_world(m->model));
}

static void drop(member *m) {
    mf_host_free(m->master);
    mf_host_free(m->logits);
    mf_model_destroy(m->model);
    mf_mesh_destroy(&m->mesh);
    mf_device_destroy(m->device);
    mf_memory_destroy(m->memory);
}

/* All tokens' in falling order, so that an order is not taken for granted. */
static mf_status compare_logits(trial *t, member *m, bool first) {
    int64_t tokens[512], vocab = t->golden.config.vocab, count = t->golden.batch * t->golden.tokens;
    const float *want = golden_values(&t->golden, "logits");
    double worst = 0;
    for (int64_t i = 0; i < count; i++) tokens[i] = count - 1 - i;
    mf_logits_call call = {.ids = m->ids, .count = count, .tokens = tokens, .logits = m->logits};
    MF_TRY(mf_model_logits(m->model, &call));
    for (int64_t i = 0; i < count; i++)
        worst = fmax(worst, golden_error(vocab, m->logits + i * vocab, want + tokens[i] * vocab));
    if (first) t->logits_error = worst;
    tokens[0] = count;
    if (mf_model_logits(m->model, &call) != MF_EINVAL)
        return MF_FAIL(MF_ELIBRARY, "logits of a token that is not there");
    return mf_barrier(mf_model_world(m->model));
}

static mf_status compare_gradients(trial *t, member *m, bool first) {
    double loss = 0, scale = 1.0 / (double)(t->golden.batch * (t->golden.tokens - 1));
    mf_model_call call = {.ids = m->ids, .labels = m->labels, .scale = (float)scale, .last = true};
    MF_TRY(mf_model_gradients(m->model, &call, &loss));
    MF_TRY(mf_barrier(mf_model_world(m->model)));
    MF_TRY(mf_allreduce_f64(mf_model_world(m->model), &loss, 1));
    double want_loss = (double)*golden_values(&t->golden, "loss");
    if (first) t->loss_error = fabs(loss * scale - want_loss) / want_loss;
    for (int i = 0; i < mf_model_params(m->model); i++) {
        mf_param_view v = mf_model_param(m->model, i);
        int64_t n = mf_max(v.rows, 1) * v.cols;
        char name[100];
        float *whole = NULL;
        double norm = 0;
        MF_TRY(mf_host_alloc((size_t)n, sizeof *whole, &whole));
        mf_status status = mf_model_collect_gradient(m->model, i, whole);
        for (int64_t k = 0; k < n; k++) norm += (double)whole[k] * (double)whole[k];
        mf_host_free(whole);
        MF_TRY(status);
        snprintf(name, sizeof name, "norm.%s", v.name);
        double want = (double)*golden_values(&t->golden, name), error = fabs(sqrt(norm) - want) / want;
        if (!first || error <= t->worst) continue;
        t->worst = error;
        snprintf(t->worst_name, sizeof t->worst_name, "%s", v.name);
    }
    return mf_barrier(mf_model_world(m->model));
}

static mf_status body(mf_world *world, void *argument) {
    trial *t = argument;
    mf_status status = MF_OK;
    bool first = mf_world_rank(world) == 0;
    member *m = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *m, &m));
    MF_GO(build(world, t, m));
    if (t->save_to) {
        MF_GO(mf_model_save(m->model, m->device, t->save_to));
    } else {
        MF_GO(compare_logits(t, m, first));
        if (!t->forward_only) MF_GO(compare_gradients(t, m, first));
    }
fail:
    drop(m);
    mf_host_free(m);
    return status;
}

static void launch(trial *t, const char *mesh, bool no_borrow) {
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &t->mesh, &t->layout));
    mf_launch_options options = {
        .engine = "local", .ranks = mf_mesh_ranks(&t->mesh), .no_borrow = no_borrow, .timeout_s = 60};
    mf_status status = mf_launch(&options, body, t);
    if (status) fail_msg("%s, %s: %s", t->golden.folder, mesh, mf_error_last()->message);
}

static void transformers_agree(void **state) {
    (void)state;
    static const char *const meshes[] = {"single",
                                         "tsp=2",
                                         "tsp=3,stream=ring,exchange=ring",
                                         "tp=2",
                                         "tp=2,sp=2",
                                         "tp=3,reduction=scatter",
                                         "tp=2,tsp=2",
                                         "sp=2,stream=gather,exchange=ulysses"};
    for (int f = 0; golden_families[f]; f++)
        for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++) {
            trial t = {.type = MF_F32};
            golden_open(golden_families[f], &t.golden);
            launch(&t, meshes[i], i % 2);
            golden_close(&t.golden);
            if (i == 0)
                print_message("%s: logits off by %.1e, loss by %.1e, gradients' norms by %.1e\n",
                              golden_families[f], t.logits_error, t.loss_error, t.worst);
            if (t.logits_error < 1e-5 && t.loss_error < 1e-5 && t.worst < 1e-5) continue;
            fail_msg("%s, %s: logits off by %.2e, loss by %.2e, gradient's norm by %.2e (%s)",
                     golden_families[f], meshes[i], t.logits_error, t.loss_error, t.worst, t.worst_name);
        }
}

static void logits_alone(void **state) {
    (void)state;
    static const char *const meshes[] = {"single", "tsp=2", "tp=2,sp=2,reduction=scatter"};
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++) {
        trial t = {.forward_only = true};
        golden_open("qwen2", &t.golden);
        launch(&t, meshes[i], false);
        golden_close(&t.golden);
        assert_true(t.logits_error < 1e-5);
    }
}

static void empty_folder(const char *folder) {
    char path[200];
    static const char *const names[] = {"model.safetensors", "config.json", "tokenizer.json", "merges.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
}

/* What was read and not trained is what is written, where the types are the same. */
static void compare_saved(const golden *g, const char *folder) {
    mf_tensor_set *before = NULL, *after = NULL;
    mf_model_config config;
    const mf_tensor_info *a, *b;
    int count = 0;
    ASSERT_OK(mf_config_find(folder, &config));
    assert_true(config.family == g->config.family && config.window == g->config.window);
    assert_true(config.window_from == g->config.window_from && config.head_dim == g->config.head_dim);
    assert_memory_equal(&config.scaling, &g->config.scaling, sizeof config.scaling);
    ASSERT_OK(mf_tensor_set_open(g->folder, &before));
    ASSERT_OK(mf_tensor_set_open(folder, &after));
    for (; (a = mf_tensor_set_at(before, count)); count++) {
        b = mf_tensor_set_find(after, a->name);
        assert_non_null(b);
        if (a->type == MF_FILE_F16) continue;
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    assert_null(mf_tensor_set_at(after, count));
    mf_tensor_set_close(before);
    mf_tensor_set_close(after);
}

static mf_dtype stored_type(const golden *g) {
    mf_tensor_set *set = NULL;
    ASSERT_OK(mf_tensor_set_open(g->folder, &set));
    mf_dtype type = mf_tensor_set_at(set, 0)->type == MF_FILE_BF16 ? MF_BF16 : MF_F32;
    mf_tensor_set_close(set);
    return type;
}

static void saved_as_read(void **state) {
    (void)state;
    static const char *const meshes[] = {"single", "tp=3", "tsp=2", "tp=2,sp=2,stream=gather"};
    char folder[] = "/tmp/mf_test_families_XXXXXX";
    assert_non_null(mkdtemp(folder));
    for (int f = 0; golden_families[f]; f++)
        for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++) {
            trial t = {.save_to = folder};
            golden_open(golden_families[f], &t.golden);
            t.type = stored_type(&t.golden);
            launch(&t, meshes[i], false);
            compare_saved(&t.golden, folder);
            golden_close(&t.golden);
            empty_folder(folder);
        }
    rmdir(folder);
}

/* A tokenizer goes with its model; what is not there is not missed. */
static void companions_are_carried(void **state) {
    (void)state;
    char from[] = "/tmp/mf_test_families_XXXXXX", to[] = "/tmp/mf_test_families_XXXXXX", path[200],
         *text = NULL;
    static const char with_tokens[] = "{\"bos_token_id\": 7, \"eos_token_id\": [8, 9]}";
    mf_model_config config;
    size_t bytes = 0;
    assert_non_null(mkdtemp(from));
    assert_non_null(mkdtemp(to));
    snprintf(path, sizeof path, "%s/tokenizer.json", from);
    ASSERT_OK(mf_file_write(path, "{}\n", 3));
    snprintf(path, sizeof path, "%s/merges.txt", from);
    ASSERT_OK(mf_file_write(path, "", 0));
    ASSERT_OK(mf_config_preset("tiny", &config));
    snprintf(path, sizeof path, "%s/config.json", to);
    ASSERT_OK(mf_config_save(&config, MF_F32, 8, path));
    snprintf(path, sizeof path, "%s/config.json", from);
    ASSERT_OK(mf_file_write(path, with_tokens, strlen(with_tokens)));
    ASSERT_OK(mf_model_carry(from, to));
    snprintf(path, sizeof path, "%s/config.json", to);
    ASSERT_OK(mf_file_read(path, &text, &bytes));
    assert_non_null(strstr(text, "\"bos_token_id\": 7"));
    assert_non_null(strstr(text, "\"rms_norm_eps\": 1e-6"));
    mf_host_free(text);
    ASSERT_OK(mf_config_load(path, &config));
    snprintf(path, sizeof path, "%s/tokenizer.json", to);
    ASSERT_OK(mf_file_read(path, &text, &bytes));
    assert_string_equal(text, "{}\n");
    mf_host_free(text);
    snprintf(path, sizeof path, "%s/merges.txt", to);
    assert_int_equal(access(path, F_OK), 0);
    snprintf(path, sizeof path, "%s/vocab.json", to);
    assert_int_not_equal(access(path, F_OK), 0);
    snprintf(path, sizeof path, "%s/none", to);
    ASSERT_FAILS(mf_model_carry(from, path), MF_EIO, "none/tokenizer.json");
    empty_folder(from);
    empty_folder(to);
    rmdir(from);
    rmdir(to);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(transformers_agree), cmocka_unit_test(logits_alone),
                                       cmocka_unit_test(saved_as_read),
                                       cmocka_unit_test(companions_are_carried)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
