/* config.c: config.json files that are read, refused by name, and written back; presets; counts. */
#include "support.h"

#include "meshfold/io.h"
#include "meshfold/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64], file[96];

#define GOOD_SIZES                                                                                           \
    "\"hidden_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"intermediate_size\": "     \
    "192, "                                                                                                  \
    "\"vocab_size\": 256"
#define GOOD "\"architectures\": [\"LlamaForCausalLM\"], " GOOD_SIZES

static mf_status load_text(const char *text, mf_model_config *out) {
    MF_TRY(mf_file_write(file, text, strlen(text)));
    return mf_config_load(file, out);
}

#define QWEN3 "\"model_type\": \"qwen3\", " GOOD_SIZES
#define SLIDING QWEN3 ", \"use_sliding_window\": true, \"sliding_window\": 8, "
#define LLAMA3(low, high, original)                                                                          \
    "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": " low ", \"high_freq_factor\": " high   \
    ", \"original_max_position_embeddings\": " original "}"

static void test_defaults(void **state) {
    (void)state;
    mf_model_config c;
    ASSERT_OK(load_text("{" GOOD "}", &c));
    assert_int_equal(c.hidden, 64);
    assert_int_equal(c.layers, 2);
    assert_int_equal(c.heads, 4);
    assert_int_equal(c.kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.ffn, 192);
    assert_int_equal(c.vocab, 256);
    assert_true(c.rope_theta == 10000 && c.norm_eps == 1e-6 && c.init_range == 0.02 && !c.tied);
}

static void test_given(void **state) {
    (void)state;
    mf_model_config c;
    ASSERT_OK(load_text(
        "{\"model_type\": \"llama\", " GOOD_SIZES
        ", \"num_key_value_heads\": 2, \"head_dim\": 10, \"rope_theta\": 500000, \"rope_scaling\": null,"
        "\"rms_norm_eps\": 1e-5, \"initializer_range\": 0.01, \"tie_word_embeddings\": true,"
        "\"hidden_act\": \"silu\", \"attention_bias\": false, \"pretraining_tp\": 4}",
        &c));
    assert_int_equal(c.kv_heads, 2);
    assert_int_equal(c.head_dim, 10);
    assert_true(c.rope_theta == 500000 && c.norm_eps == 1e-5 && c.init_range == 0.01 && c.tied);
    ASSERT_OK(load_text(
        "{" GOOD ", \"num_key_value_heads\": null, \"head_dim\": null, \"rope_parameters\": "
        "{\"rope_theta\": 2e6, \"rope_type\": \"default\"}, \"rope_scaling\": {\"type\": \"default\"}}",
        &c));
    assert_int_equal(c.kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_true(c.rope_theta == 2e6);
}

/* What each family means where its file says nothing, and what it says by itself. */
static void test_families(void **state) {
    (void)state;
    mf_model_config c;
    ASSERT_OK(load_text("{\"model_type\": \"mistral\", \"num_key_value_heads\": 2, " GOOD_SIZES "}", &c));
    assert_true(c.family == MF_MISTRAL && c.window == 4096 && c.window_from == 0 && !c.qkv_bias &&
                !c.qk_norm);
    ASSERT_OK(load_text("{\"architectures\": [\"MistralForCausalLM\"], \"num_key_value_heads\": 2, "
                        "\"sliding_window\": null, " GOOD_SIZES "}",
                        &c));
    assert_int_equal(c.window, 0);
    ASSERT_OK(load_text("{\"model_type\": \"qwen2\", \"num_key_value_heads\": 2, " GOOD_SIZES "}", &c));
    assert_true(c.family == MF_QWEN2 && c.qkv_bias && !c.qk_norm && c.window == 0 && c.head_dim == 16);
    ASSERT_OK(load_text("{" SLIDING "\"num_key_value_heads\": 2, \"max_window_layers\": 1}", &c));
    assert_true(c.family == MF_QWEN3 && !c.qkv_bias && c.qk_norm && c.head_dim == 128);
    assert_true(c.window == 8 && c.window_from == 1);
    ASSERT_OK(load_text("{" SLIDING "\"num_key_value_heads\": 2, \"layer_types\": [\"full_attention\", "
                        "\"sliding_attention\"]}",
                        &c));
    assert_int_equal(c.window_from, 1);
    ASSERT_OK(load_text("{" GOOD ", \"sliding_window\": 7, \"max_position_embeddings\": 77, "
                        "\"rope_scaling\": " LLAMA3("1", "4", "64") "}",
                        &c));
    assert_true(c.window == 0 && c.positions == 77 && c.scaling.kind == MF_ROPE_LLAMA3);
    assert_true(c.scaling.factor == 8 && c.scaling.low_freq == 1 && c.scaling.high_freq == 4);
    assert_int_equal(c.scaling.original, 64);
}

static void same_config(const mf_model_config *a, const mf_model_config *b) {
    assert_int_equal(a->family, b->family);
    assert_int_equal(mf_config_params(a), mf_config_params(b));
    assert_true(a->qkv_bias == b->qkv_bias && a->qk_norm == b->qk_norm && a->head_dim == b->head_dim);
    assert_true(a->window == b->window && a->window_from == b->window_from);
    assert_true(a->scaling.kind == b->scaling.kind && a->scaling.factor == b->scaling.factor);
    assert_true(a->scaling.low_freq == b->scaling.low_freq && a->scaling.high_freq == b->scaling.high_freq);
    assert_int_equal(a->scaling.original, b->scaling.original);
}

static void test_families_saved(void **state) {
    (void)state;
    for (int family = 0; family < MF_STDIT; family++)
        for (int kind = MF_ROPE_PLAIN; kind <= MF_ROPE_LLAMA3; kind++) {
            mf_model_config c, again = {0};
            ASSERT_OK(mf_config_preset("tiny", &c));
            c.family = (mf_model_family)family;
            c.qkv_bias = family == MF_QWEN2;
            c.qk_norm = family == MF_QWEN3;
            c.window = family == MF_LLAMA || kind == 2 ? 0 : 77;
            c.window_from = c.window && family >= MF_QWEN2 ? 1 : 0;
            c.positions = 5000;
            if (kind) c.scaling = (mf_rope_scaling){(mf_rope_kind)kind, 2.7, 0, 0, 0};
            if (kind == MF_ROPE_LLAMA3)
                c.scaling.low_freq = 1, c.scaling.high_freq = 4.1, c.scaling.original = 64;
            ASSERT_OK(mf_config_save(&c, MF_BF16, 4096, file));
            ASSERT_OK(mf_config_load(file, &again));
            same_config(&c, &again);
            assert_int_equal(again.positions, 5000);
            c.qk_norm = !c.qk_norm;
            ASSERT_FAILS(mf_config_save(&c, MF_BF16, 4096, file), MF_EINVAL, mf_model_family_name(c.family));
        }
}

/* A field that stands in the text twice would be a duplicate, so the text is cut together from what is not
 * replaced. */
static void refuse_size(const char *name, const char *value, const char *part) {
    static const char *const fields[] = {"hidden_size", "num_hidden_layers", "num_attention_heads",
                                         "intermediate_size", "vocab_size"};
    static const char *const values[] = {"64", "2", "4", "192", "256"};
    char text[1024] = "{\"model_type\": \"llama\"", item[128];
    mf_model_config c;
    for (int i = 0; i < 5; i++) {
        if (!strcmp(fields[i], name)) continue;
        snprintf(item, sizeof item, ", \"%s\": %s", fields[i], values[i]);
        strcat(text, item);
    }
    snprintf(item, sizeof item, ", \"%s\": %s}", name, value);
    strcat(text, value ? item : "}");
    ASSERT_FAILS(load_text(text, &c), MF_EINVAL, part);
    assert_non_null(strstr(mf_error_last()->message, file));
}

static void test_sizes_refused(void **state) {
    (void)state;
    refuse_size("num_attention_heads", "-4",
                "num_attention_heads is -4; it must be a whole number from 1 to 65536");
    refuse_size("num_attention_heads", NULL, "num_attention_heads is missing; it must be");
    refuse_size("num_attention_heads", "null", "num_attention_heads is null");
    refuse_size("hidden_size", "0", "hidden_size is 0; it must be a whole number from 1 to 1048576");
    refuse_size("hidden_size", "\"64\"", "hidden_size is \"64\"");
    refuse_size("hidden_size", "64.5", "hidden_size is 64.5");
    refuse_size("hidden_size", "[64]", "hidden_size is [64]");
    refuse_size("hidden_size", "true", "hidden_size is true");
    refuse_size("num_hidden_layers", "10001",
                "num_hidden_layers is 10001; it must be a whole number from 1 to 10000");
    refuse_size("vocab_size", "16777217", "vocab_size is 16777217");
    refuse_size("intermediate_size", "9223372036854775807", "intermediate_size is 9223372036854775807");
    refuse_size("num_key_value_heads", "0", "num_key_value_heads is 0");
    refuse_size("num_key_value_heads", "3",
                "num_attention_heads 4 is not a multiple of num_key_value_heads 3");
    refuse_size("num_attention_heads", "7", "hidden_size 64 does not divide by num_attention_heads 7");
    refuse_size("head_dim", "15", "head_dim is 15; it must be even");
    refuse_size("head_dim", "-2", "head_dim is -2");
    refuse_size("rms_norm_eps", "0", "rms_norm_eps is 0; it must be a number above 0 and at most 1");
    refuse_size("rms_norm_eps", "\"x\"", "rms_norm_eps is \"x\"");
    refuse_size("initializer_range", "-0.02", "initializer_range is -0.02");
    refuse_size("rope_theta", "1e300", "rope_theta is 1e+300");
    refuse_size("tie_word_embeddings", "1", "tie_word_embeddings is 1; it must be true or false");
}

static void refuse(const char *text, mf_status status, const char *part) {
    mf_model_config c;
    ASSERT_FAILS(load_text(text, &c), status, part);
}

static void test_features_refused(void **state) {
    (void)state;
    refuse("{\"architectures\": [\"GPT2LMHeadModel\"], " GOOD_SIZES "}", MF_EUNSUPPORTED,
           "architectures is [\"GPT2LMHeadModel\"]; LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM");
    refuse("{" GOOD_SIZES "}", MF_EUNSUPPORTED, "model_type is missing; it must be \"llama\"");
    refuse("{\"model_type\": \"gemma\", " GOOD_SIZES "}", MF_EUNSUPPORTED, "model_type is \"gemma\"");
    refuse("{" GOOD ", \"hidden_act\": \"gelu\"}", MF_EUNSUPPORTED, "hidden_act is \"gelu\"");
    refuse("{" GOOD ", \"attention_bias\": true}", MF_EUNSUPPORTED, "attention_bias is true");
    refuse("{" GOOD ", \"mlp_bias\": true}", MF_EUNSUPPORTED, "mlp_bias is true");
    refuse("{" GOOD ", \"attention_dropout\": 0.1}", MF_EUNSUPPORTED, "attention_dropout is 0.1");
    refuse("{" GOOD ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2.0}}", MF_EUNSUPPORTED,
           "rope_scaling is of type \"yarn\"");
    refuse("{" GOOD ", \"rope_scaling\": {\"factor\": 2.0}}", MF_EUNSUPPORTED, "rope_scaling has no type");
    refuse("{" GOOD ", \"rope_parameters\": {\"rope_type\": \"llama3\"}}", MF_EINVAL,
           "rope_parameters has factor missing");
    refuse("{" GOOD ", \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": -1}}", MF_EINVAL,
           "rope scaling has factor -1");
    refuse("{" GOOD ", \"rope_scaling\": " LLAMA3("4", "1", "64") "}", MF_EINVAL,
           "low_freq_factor 4 and high_freq_factor 1");
    refuse("{" GOOD ", \"rope_scaling\": " LLAMA3("1", "4", "0") "}", MF_EINVAL,
           "original_max_position_embeddings is 0");
    refuse("{" QWEN3 ", \"use_sliding_window\": 1}", MF_EINVAL, "use_sliding_window is 1");
    refuse("{" QWEN3 ", \"sliding_window\": 0, \"use_sliding_window\": true}", MF_EINVAL,
           "sliding_window is 0");
    refuse("{" QWEN3 ", \"attention_bias\": true}", MF_EUNSUPPORTED, "attention_bias is true");
    refuse("{" SLIDING "\"layer_types\": [\"sliding_attention\", \"full_attention\"]}", MF_EUNSUPPORTED,
           "layer_types has \"full_attention\" after");
    refuse("{" SLIDING "\"layer_types\": [\"sliding_attention\"]}", MF_EINVAL, "1 entries for 2 layers");
    refuse("{" SLIDING "\"layer_types\": [\"linear_attention\", \"full_attention\"]}", MF_EUNSUPPORTED,
           "layer_types has \"linear_attention\"");
    refuse("{" QWEN3 ", \"layer_types\": [\"full_attention\", \"sliding_attention\"]}", MF_EINVAL,
           "there is no window");
    refuse("{" GOOD ", \"rope_parameters\": {\"partial_rotary_factor\": 0.5}}", MF_EUNSUPPORTED,
           "partial_rotary_factor 0.5");
    refuse("{" GOOD ", \"rope_parameters\": 7}", MF_EINVAL, "rope_parameters is 7");
    refuse("{" GOOD ", \"rope_theta\": 10000, \"rope_parameters\": {\"rope_theta\": 20000}}", MF_EINVAL,
           "rope_theta is 10000, but 20000 in rope_parameters");
}

static void test_files_refused(void **state) {
    (void)state;
    mf_model_config c;
    refuse("", MF_EFORMAT, "is not valid JSON");
    refuse("[1]", MF_EFORMAT, "is not a JSON object");
    refuse("{" GOOD "} x", MF_EFORMAT, "is not valid JSON");
    refuse("{" GOOD ", \"hidden_size\": 128}", MF_EFORMAT, "duplicate object key");
    refuse("{\"hidden_size\": 99999999999999999999}", MF_EFORMAT, "too big integer");
    ASSERT_FAILS(mf_config_load("/nonexistent/config.json", &c), MF_EIO, "/nonexistent/config.json");
    ASSERT_FAILS(mf_config_load("/dev/zero", &c), MF_EIO, "is not a regular file");
    char *large = NULL;
    ASSERT_OK(mf_host_alloc(1, (2 << 20), &large));
    memset(large, ' ', 2 << 20);
    ASSERT_OK(mf_file_write(file, large, 2 << 20));
    ASSERT_FAILS(mf_config_load(file, &c), MF_EFORMAT, "a config.json has at most");
    mf_host_free(large);
}

static void test_find(void **state) {
    (void)state;
    mf_model_config c, tiny;
    ASSERT_OK(load_text("{" GOOD ", \"num_key_value_heads\": 1}", &c));
    ASSERT_OK(mf_config_find(folder, &c));
    assert_int_equal(c.kv_heads, 1);
    ASSERT_OK(mf_config_find(file, &c));
    assert_int_equal(c.kv_heads, 1);
    ASSERT_OK(mf_config_find("tiny", &tiny));
    assert_int_equal(tiny.hidden, 64);
    assert_int_equal(tiny.kv_heads, 2);
    ASSERT_FAILS(mf_config_find("tinny", &c), MF_EINVAL,
                 "no model tinny: a preset (tiny, shakespeare, demo, ");
    ASSERT_FAILS(mf_config_find("/", &c), MF_EIO, "config.json");
}

static void test_presets_and_save(void **state) {
    (void)state;
    const char *name = NULL, *about = NULL;
    int count = 0;
    for (; mf_config_preset_at(count, &name, &about); count++) {
        mf_model_config c, again = {0};
        ASSERT_OK(mf_config_preset(name, &c));
        ASSERT_OK(mf_config_check(&c, name));
        if (c.family == MF_STDIT) continue; /* stdit.c has those */
        c.tied = count % 2;
        c.rope_theta = 10000.0 / 3; /* needs all its digits */
        ASSERT_OK(mf_config_save(&c, MF_BF16, 4096, file));
        ASSERT_OK(mf_config_load(file, &again));
        assert_int_equal(c.head_dim, again.head_dim);
        assert_int_equal(mf_config_params(&c), mf_config_params(&again));
        assert_true(c.rope_theta == again.rope_theta && c.norm_eps == again.norm_eps);
        assert_true(c.init_range == again.init_range && c.tied == again.tied);
    }
    assert_int_equal(count, 10);
    mf_model_config broken;
    ASSERT_OK(mf_config_preset("tiny", &broken));
    ASSERT_FAILS(mf_config_save(&broken, MF_F32, 0, file), MF_EINVAL, "max_position_embeddings is 0");
    broken.norm_eps = NAN;
    ASSERT_FAILS(mf_config_save(&broken, MF_F32, 64, file), MF_EINVAL, "rms_norm_eps is nan");
}

static void test_limits_fit_together(void **state) {
    (void)state;
    mf_model_config c;
    ASSERT_OK(mf_config_preset("tiny", &c));
    c.hidden = 1 << 20;
    c.heads = c.kv_heads = c.head_dim = 65536;
    c.layers = 10000;
    ASSERT_FAILS(mf_config_check(&c, "here"), MF_EINVAL, "here: its sizes make 1.8e+20 parameters");
    c.head_dim = 0;
    ASSERT_FAILS(mf_config_check(&c, "here"), MF_EINVAL, "here: head_dim is 0");
}

/* Parameters counted tensor by tensor, and FLOPs by running over every query and key. */
static void test_counts(void **state) {
    (void)state;
    mf_model_config c = {
        .hidden = 6, .layers = 3, .heads = 4, .kv_heads = 2, .head_dim = 8, .ffn = 5, .vocab = 11};
    int64_t products = 3 * (6 * 32 + 2 * 6 * 16 + 32 * 6 + 3 * 6 * 5);
    assert_int_equal(mf_config_params(&c), products + 3 * 2 * 6 + 6 + 2 * 11 * 6);
    double attention = 0;
    for (int query = 0; query < 7; query++)
        for (int key = 0; key <= query; key++) attention += 3 * 4 * (2 * 8 + 2 * 8);
    double forward = 2.0 * 7 * (double)(products + 11 * 6) + attention;
    assert_true(fabs(mf_config_step_flops(&c, 2, 7) - 3 * 2 * forward) < 0.5);
    c.window = 3;
    c.window_from = 1;
    for (int query = 0; query < 7; query++)
        for (int key = 0; key <= query - 3; key++) forward -= 2 * 4 * (2 * 8 + 2 * 8);
    assert_true(fabs(mf_config_step_flops(&c, 2, 7) - 3 * 2 * forward) < 0.5);
    c.qkv_bias = c.qk_norm = true;
    assert_int_equal(mf_config_vectors(&c), 3 * (8 * 8 + 2 * 8));
    c.qkv_bias = c.qk_norm = false;
    c.tied = true;
    assert_int_equal(mf_config_params(&c), products + 3 * 2 * 6 + 6 + 11 * 6);
    assert_true(fabs(mf_config_step_flops(&c, 2, 7) - 3 * 2 * forward) < 0.5);
}

static void test_allocation_faults(void **state) {
    (void)state;
    mf_model_config c;
    ASSERT_OK(load_text("{" GOOD "}", &c));
    for (int n = 1;; n++) {
        mf_fault_arm(MF_FAULT_ALLOC, n);
        mf_status status = mf_config_find(folder, &c);
        bool fired = mf_fault_fired(MF_FAULT_ALLOC);
        mf_fault_arm(MF_FAULT_ALLOC, 0);
        assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
        if (!fired) break;
    }
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/mf_test_config_XXXXXX");
    if (!mkdtemp(folder)) return 1;
    snprintf(file, sizeof file, "%s/config.json", folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),         cmocka_unit_test(test_given),
        cmocka_unit_test(test_families),         cmocka_unit_test(test_families_saved),
        cmocka_unit_test(test_sizes_refused),    cmocka_unit_test(test_features_refused),
        cmocka_unit_test(test_files_refused),    cmocka_unit_test(test_find),
        cmocka_unit_test(test_presets_and_save), cmocka_unit_test(test_limits_fit_together),
        cmocka_unit_test(test_counts),           cmocka_unit_test(test_allocation_faults),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(file);
    rmdir(folder);
    return failed;
}
