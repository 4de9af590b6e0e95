/* config_json.c: Hugging Face's config.json in and out, for every family. */
#include "io/json_file.h"
#include "meshfold/io.h"
#include "model/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tanh approximation, in transformers' word. */
static const char gelu[] = "gelu_pytorch_tanh";

/* Real ones have a few kilobytes. */
enum { FILE_LIMIT_BYTES = 1 << 20 };

/* A value of the file for a message; what is long is named by its kind. */
typedef struct value_text {
    char text[64];
} value_text;

static value_text describe(const json_t *value) {
    value_text out = {{0}};
    size_t room = sizeof out.text - 1;
    const size_t flags = JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12);
    if (!value) return (value_text){"missing"};
    if (json_dumpb(value, out.text, room, flags) <= room) return out;
    if (json_is_string(value)) return (value_text){"a long text"};
    if (json_is_array(value)) return (value_text){"a long list"};
    return (value_text){"a large object"};
}

/* Hugging Face writes null where a field is left to its default. */
static const json_t *given(const json_t *root, const char *name) {
    const json_t *value = json_object_get(root, name);
    return json_is_null(value) ? NULL : value;
}

static mf_status read_integers(const char *path, const json_t *root, mf_model_config *out) {
    for (int i = 0; i < MF_CONFIG_INTEGERS; i++) {
        const mf_config_integer *field = &mf_config_integers[i];
        if (!(field->kinds & mf_config_kind(out))) continue;
        const json_t *value = field->required ? json_object_get(root, field->name) : given(root, field->name);
        if (!value && !field->required) continue;
        if (!json_is_integer(value)) return mf_config_refuse_integer(path, field, describe(value).text);
        *mf_config_integer_at(out, field) = json_integer_value(value);
        MF_TRY(mf_config_check_integer(path, field, json_integer_value(value)));
    }
    return MF_OK;
}

static mf_status read_real(const char *path, const json_t *value, const mf_config_real *field,
                           mf_model_config *out) {
    if (!value) return MF_OK;
    if (!json_is_number(value)) return mf_config_refuse_real(path, field, describe(value).text);
    *mf_config_real_at(out, field) = json_number_value(value);
    return mf_config_check_real(path, field, json_number_value(value));
}

/* A whole number that no table has; `absent` where the file says nothing, 0 where it says null. */
static mf_status read_count(const char *path, const json_t *root, const char *name, int64_t least,
                            int64_t absent, int64_t *out) {
    const int64_t most = (int64_t)1 << 40;
    const json_t *value = json_object_get(root, name);
    *out = value ? json_integer_value(value) : absent;
    if (!value || json_is_null(value)) return MF_OK;
    if (json_is_integer(value) && *out >= least && *out <= most) return MF_OK;
    return MF_FAIL(MF_EINVAL, "%s: %s is %s; it must be a whole number from %lld", path, name,
                   describe(value).text, (long long)least);
}

static mf_status read_flag(const char *path, const json_t *root, const char *name, bool *out) {
    const json_t *value = given(root, name);
    *out = json_is_true(value);
    if (!value || json_is_boolean(value)) return MF_OK;
    return MF_FAIL(MF_EINVAL, "%s: %s is %s; it must be true or false", path, name, describe(value).text);
}

static mf_status fill_defaults(const char *path, const json_t *root, mf_model_config *c) {
    const mf_family_facts *family = &mf_model_families[c->family];
    if (!json_object_get(root, "num_key_value_heads")) c->kv_heads = family->kv_heads;
    if (!json_object_get(root, "head_dim")) c->head_dim = family->head_dim;
    if (!c->kv_heads) c->kv_heads = c->heads;
    c->qkv_bias = family->qkv_bias;
    c->qk_norm = family->qk_norm;
    if (c->head_dim) return MF_OK;
    if (c->hidden % c->heads)
        return MF_FAIL(
            MF_EINVAL,
            "%s: head_dim is not given, and hidden_size %lld does not divide by num_attention_heads %lld",
            path, (long long)c->hidden, (long long)c->heads);
    c->head_dim = c->hidden / c->heads;
    return MF_OK;
}

static bool names_family(const json_t *value, const char *name) {
    return json_is_string(value) && strcmp(json_string_value(value), name) == 0;
}

static mf_status find_architecture(const char *path, const json_t *list, mf_model_family *out) {
    const json_t *item;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)list, i, item) {
        for (int f = 0; f < MF_MODEL_FAMILIES; f++) {
            *out = (mf_model_family)f;
            if (names_family(item, mf_model_families[f].architecture)) return MF_OK;
        }
    }
    return MF_FAIL(MF_EUNSUPPORTED, "%s: architectures is %s; %s, %s, %s, %s and %s are supported", path,
                   describe(list).text, mf_model_families[MF_LLAMA].architecture,
                   mf_model_families[MF_MISTRAL].architecture, mf_model_families[MF_QWEN2].architecture,
                   mf_model_families[MF_QWEN3].architecture, mf_model_families[MF_STDIT].architecture);
}

static mf_status find_family(const char *path, const json_t *root, mf_model_family *out) {
    const json_t *list = given(root, "architectures"), *type = json_object_get(root, "model_type");
    if (list) return find_architecture(path, list, out);
    for (int f = 0; f < MF_MODEL_FAMILIES; f++) {
        *out = (mf_model_family)f;
        if (names_family(type, mf_model_families[f].model_type)) return MF_OK;
    }
    return MF_FAIL(MF_EUNSUPPORTED,
                   "%s: architectures is missing and model_type is %s; it must be \"llama\", \"mistral\", "
                   "\"qwen2\", \"qwen3\" or \"stdit\"",
                   path, describe(type).text);
}

/* Fields that would change what the model computes in ways that this version has no code for. */
static mf_status check_features(const char *path, const json_t *root, const char *activation) {
    static const char *const off[] = {"attention_bias", "mlp_bias"};
    for (int i = 0; i < 2; i++) {
        const json_t *bias = given(root, off[i]);
        if (bias && !json_is_false(bias))
            return MF_FAIL(MF_EUNSUPPORTED, "%s: %s is %s; this version supports false", path, off[i],
                           describe(bias).text);
    }
    const json_t *act = given(root, "hidden_act"), *dropout = given(root, "attention_dropout");
    if (act && !names_family(act, activation))
        return MF_FAIL(MF_EUNSUPPORTED, "%s: hidden_act is %s; this version supports \"%s\"", path,
                       describe(act).text, activation);
    if (dropout && (!json_is_number(dropout) || json_number_value(dropout) != 0))
        return MF_FAIL(MF_EUNSUPPORTED, "%s: attention_dropout is %s; this version supports 0", path,
                       describe(dropout).text);
    return MF_OK;
}

static mf_status read_scaling_number(const char *path, const char *name, const json_t *rope,
                                     const char *field, double *out) {
    const json_t *value = given(rope, field);
    *out = json_number_value(value);
    if (json_is_number(value)) return MF_OK;
    return MF_FAIL(MF_EINVAL, "%s: %s has %s %s; it must be a number", path, name, field,
                   describe(value).text);
}

static mf_status read_llama3(const char *path, const char *name, const json_t *rope, mf_model_config *out) {
    mf_rope_scaling *s = &out->scaling;
    MF_TRY(read_scaling_number(path, name, rope, "low_freq_factor", &s->low_freq));
    MF_TRY(read_scaling_number(path, name, rope, "high_freq_factor", &s->high_freq));
    return read_count(path, rope, "original_max_position_embeddings", 1, out->positions, &s->original);
}

/* rope: the object `name` of the file, NULL when absent. */
static mf_status read_scaling(const char *path, const char *name, const json_t *rope, mf_model_config *out) {
    if (!rope) return MF_OK;
    if (!json_is_object(rope))
        return MF_FAIL(MF_EINVAL, "%s: %s is %s; it must be an object or null", path, name,
                       describe(rope).text);
    const json_t *kind = json_object_get(rope, "rope_type"), *part = given(rope, "partial_rotary_factor");
    const char *text = json_string_value(kind ? kind : json_object_get(rope, "type"));
    if (!kind) kind = json_object_get(rope, "type");
    if (part && (!json_is_number(part) || json_number_value(part) != 1))
        return MF_FAIL(MF_EUNSUPPORTED, "%s: %s has partial_rotary_factor %s; this version supports 1", path,
                       name, describe(part).text);
    if (!kind || (text && strcmp(text, "default") == 0)) return MF_OK;
    bool llama3 = text && strcmp(text, "llama3") == 0, linear = text && strcmp(text, "linear") == 0;
    if (!llama3 && !linear)
        return MF_FAIL(MF_EUNSUPPORTED,
                       "%s: %s is of type %s; this version supports \"default\", \"linear\" and \"llama3\"",
                       path, name, describe(kind).text);
    out->scaling = (mf_rope_scaling){.kind = llama3 ? MF_ROPE_LLAMA3 : MF_ROPE_LINEAR};
    MF_TRY(read_scaling_number(path, name, rope, "factor", &out->scaling.factor));
    return llama3 ? read_llama3(path, name, rope, out) : MF_OK;
}

/* Older files have rope_theta beside the other fields and rope_scaling, newer ones all in rope_parameters. */
static mf_status read_rope(const char *path, const json_t *root, mf_model_config *out) {
    const mf_config_real *field = &mf_config_reals[0];
    const json_t *scaling = given(root, "rope_scaling"), *rope = given(root, "rope_parameters");
    const json_t *outer = given(root, field->name), *inner = given(rope, field->name);
    MF_TRY(read_scaling(path, "rope_scaling", scaling, out));
    MF_TRY(read_scaling(path, "rope_parameters", rope, out));
    if (scaling && !json_object_get(scaling, "type") && !json_object_get(scaling, "rope_type"))
        return MF_FAIL(MF_EUNSUPPORTED,
                       "%s: rope_scaling has no type; this version supports \"default\", \"linear\", "
                       "\"llama3\" or null",
                       path);
    MF_TRY(read_real(path, outer, field, out));
    MF_TRY(read_real(path, inner, field, out));
    if (outer && inner && json_number_value(outer) != json_number_value(inner))
        return MF_FAIL(MF_EINVAL, "%s: rope_theta is %s, but %s in rope_parameters; one of them must go",
                       path, describe(outer).text, describe(inner).text);
    return MF_OK;
}

/* The first layer that slides, by a list of every layer's kind: those after it must slide too. */
static mf_status read_layer_types(const char *path, const json_t *list, mf_model_config *out) {
    const json_t *item;
    size_t i;
    int64_t sliding = 0;
    json_array_foreach((json_t *)(uintptr_t)list, i, item) {
        bool slides = names_family(item, "sliding_attention");
        if (!slides && !names_family(item, "full_attention"))
            return MF_FAIL(MF_EUNSUPPORTED,
                           "%s: layer_types has %s; this version supports \"full_attention\" and "
                           "\"sliding_attention\"",
                           path, describe(item).text);
        if (!slides && sliding)
            return MF_FAIL(MF_EUNSUPPORTED,
                           "%s: layer_types has \"full_attention\" after \"sliding_attention\"; this "
                           "version supports windows in the last layers only",
                           path);
        sliding += slides;
    }
    if (json_array_size(list) != (size_t)out->layers)
        return MF_FAIL(MF_EINVAL, "%s: layer_types has %zu entries for %lld layers", path,
                       json_array_size(list), (long long)out->layers);
    if (sliding && !out->window)
        return MF_FAIL(MF_EINVAL, "%s: layer_types has \"sliding_attention\", but there is no window", path);
    out->window_from = out->layers - sliding;
    return MF_OK;
}

static mf_status read_window(const char *path, const json_t *root, mf_model_config *out) {
    const mf_family_facts *family = &mf_model_families[out->family];
    const json_t *types = given(root, "layer_types");
    bool used = false;
    if (!family->has_window) return MF_OK;
    MF_TRY(read_count(path, root, "sliding_window", 1, family->window, &out->window));
    if (!family->has_window_layers) return MF_OK;
    MF_TRY(read_flag(path, root, "use_sliding_window", &used));
    if (!used) out->window = 0;
    if (types) MF_TRY(read_layer_types(path, types, out));
    if (used && !types) MF_TRY(read_count(path, root, "max_window_layers", 0, 28, &out->window_from));
    if (!out->window) out->window_from = 0;
    return MF_OK;
}

static mf_status read_reals(const char *path, const json_t *root, mf_model_config *out) {
    for (int i = 1; i < MF_CONFIG_REALS; i++)
        if (mf_config_reals[i].kinds & mf_config_kind(out))
            MF_TRY(read_real(path, given(root, mf_config_reals[i].name), &mf_config_reals[i], out));
    return MF_OK;
}

static mf_status read_video(const char *path, const json_t *root, mf_model_config *out) {
    MF_TRY(check_features(path, root, gelu));
    MF_TRY(read_integers(path, root, out));
    MF_TRY(fill_defaults(path, root, out));
    MF_TRY(read_reals(path, root, out));
    MF_TRY(read_flag(path, root, "mlp_gated", &out->video.gated));
    return mf_config_check(out, path);
}

static mf_status read_fields(const char *path, const json_t *root, mf_model_config *out) {
    MF_TRY(find_family(path, root, &out->family));
    if (out->family == MF_STDIT) return read_video(path, root, out);
    MF_TRY(check_features(path, root, "silu"));
    MF_TRY(read_integers(path, root, out));
    MF_TRY(fill_defaults(path, root, out));
    MF_TRY(read_count(path, root, "max_position_embeddings", 1, 0, &out->positions));
    MF_TRY(read_rope(path, root, out));
    MF_TRY(read_window(path, root, out));
    MF_TRY(read_reals(path, root, out));
    MF_TRY(read_flag(path, root, "tie_word_embeddings", &out->tied));
    return mf_config_check(out, path);
}

static mf_status read_object(const char *path, json_t **out) {
    char *text = NULL;
    size_t bytes = 0;
    MF_TRY(mf_file_read(path, &text, &bytes));
    mf_status status = bytes > FILE_LIMIT_BYTES
                           ? MF_FAIL(MF_EFORMAT, "%s: has %zu bytes; a config.json has at most %d", path,
                                     bytes, FILE_LIMIT_BYTES)
                           : mf_json_parse(path, text, bytes, out);
    mf_host_free(text);
    MF_TRY(status);
    if (json_is_object(*out)) return MF_OK;
    json_decref(*out);
    *out = NULL;
    return MF_FAIL(MF_EFORMAT, "%s: is not a JSON object", path);
}

mf_status mf_config_load(const char *path, mf_model_config *out) {
    json_t *root = NULL;
    mf_model_config config = {.rope_theta = 10000, .norm_eps = 1e-6, .init_range = 0.02};
    MF_TRY(read_object(path, &root));
    mf_status status = read_fields(path, root, &config);
    json_decref(root);
    MF_TRY(status);
    *out = config;
    return MF_OK;
}

/* Digits that read back as the same number: 1e-06 rather than 9.9999999999999995e-07. */
static size_t digits_of(double value) {
    char text[40];
    size_t digits = 6;
    for (; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*g", (int)digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return digits;
}

/* The fewest that do for all numbers in it. */
static size_t digits_needed(json_t *value) {
    const char *name;
    json_t *item;
    size_t i, digits = json_is_real(value) ? digits_of(json_real_value(value)) : 6;
    json_array_foreach(value, i, item) {
        size_t own = digits_needed(item);
        if (own > digits) digits = own;
    }
    json_object_foreach(value, name, item) {
        size_t own = digits_needed(item);
        if (own > digits) digits = own;
    }
    return digits;
}

static json_t *scaling_json(const mf_rope_scaling *s) {
    if (s->kind == MF_ROPE_PLAIN) return json_null();
    if (s->kind == MF_ROPE_LINEAR) return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", s->factor);
    return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", s->factor,
                     "low_freq_factor", s->low_freq, "high_freq_factor", s->high_freq,
                     "original_max_position_embeddings", (json_int_t)s->original);
}

/* What the family's files have beside the others'. */
static int add_family(const mf_model_config *c, json_t *root) {
    const mf_family_facts *family = &mf_model_families[c->family];
    int failed = 0;
    if (family->has_attention_bias) failed |= json_object_set_new(root, "attention_bias", json_false());
    if (c->family == MF_LLAMA) {
        failed |= json_object_set_new(root, "mlp_bias", json_false());
        failed |= json_object_set_new(root, "pretraining_tp", json_integer(1));
    }
    if (family->has_window)
        failed |=
            json_object_set_new(root, "sliding_window", c->window ? json_integer(c->window) : json_null());
    if (!family->has_window_layers) return failed;
    failed |= json_object_set_new(root, "use_sliding_window", json_boolean(c->window > 0));
    return failed | json_object_set_new(root, "max_window_layers",
                                        json_integer(c->window ? c->window_from : c->layers));
}

/* What all families' files have, each under its own fields' names. */
static json_t *common_json(mf_model_config *c, mf_dtype type) {
    const mf_family_facts *family = &mf_model_families[c->family];
    json_t *root = json_pack("{s:[s], s:s, s:s}", "architectures", family->architecture, "model_type",
                             family->model_type, "torch_dtype", type == MF_F32 ? "float32" : "bfloat16");
    int failed = !root;
    for (int i = 0; i < MF_CONFIG_INTEGERS; i++) {
        const mf_config_integer *field = &mf_config_integers[i];
        int64_t value = *mf_config_integer_at(c, field);
        if ((field->kinds & mf_config_kind(c)) && value)
            failed |= json_object_set_new(root, field->name, json_integer(value));
    }
    for (int i = 0; i < MF_CONFIG_REALS; i++)
        if (mf_config_reals[i].kinds & mf_config_kind(c))
            failed |= json_object_set_new(root, mf_config_reals[i].name,
                                          json_real(*mf_config_real_at(c, &mf_config_reals[i])));
    if (!failed) return root;
    json_decref(root);
    return NULL;
}

static int add_text(const mf_model_config *c, int64_t positions, json_t *root) {
    json_t *rest = json_pack("{s:b, s:I, s:s, s:f, s:o, s:b, s:n, s:n}", "tie_word_embeddings", c->tied,
                             "max_position_embeddings", (json_int_t)mf_max(positions, c->positions),
                             "hidden_act", "silu", "attention_dropout", 0.0, "rope_scaling",
                             scaling_json(&c->scaling), "use_cache", 1, "bos_token_id", "eos_token_id");
    int failed = json_object_update(root, rest);
    json_decref(rest);
    return failed | add_family(c, root);
}

static int add_video(const mf_model_config *c, json_t *root) {
    return json_object_set_new(root, "hidden_act", json_string(gelu)) |
           json_object_set_new(root, "mlp_gated", json_boolean(c->video.gated));
}

static json_t *to_json(const mf_model_config *config, mf_dtype type, int64_t positions) {
    mf_model_config c = *config;
    json_t *root = common_json(&c, type);
    int failed = !root || (c.family == MF_STDIT ? add_video(&c, root) : add_text(&c, positions, root));
    if (!failed) return root;
    json_decref(root);
    return NULL;
}

/* A file says by its family what a model has. */
static mf_status check_savable(const mf_model_config *c, const char *path) {
    const mf_family_facts *family = &mf_model_families[c->family];
    bool same = c->qkv_bias == family->qkv_bias && c->qk_norm == family->qk_norm;
    if (same && (!c->window || family->has_window) &&
        (!c->window_from || !c->window || family->has_window_layers))
        return MF_OK;
    return MF_FAIL(MF_EINVAL, "%s: %s can't say what this model has: its biases, heads' norms or windows",
                   path, family->architecture);
}

static mf_status write_json(json_t *root, const char *path) {
    return mf_json_write(path, root, JSON_INDENT(2) | JSON_REAL_PRECISION(digits_needed(root)));
}

mf_status mf_config_save(const mf_model_config *config, mf_dtype type, int64_t positions, const char *path) {
    MF_TRY(mf_config_check(config, path));
    MF_TRY(check_savable(config, path));
    if (positions < 1)
        return MF_FAIL(MF_EINVAL, "%s: max_position_embeddings is %lld; it must be at least 1", path,
                       (long long)positions);
    json_t *root = to_json(config, type, positions);
    mf_status status = write_json(root, path);
    json_decref(root);
    return status;
}

mf_status mf_config_carry(const char *from, const char *to) {
    static const char *const tokens[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    mf_status status = MF_OK;
    json_t *source = NULL, *target = NULL;
    bool changed = false;
    MF_GO(read_object(from, &source));
    MF_GO(read_object(to, &target));
    for (int i = 0; i < 3; i++) {
        json_t *id = json_object_get(source, tokens[i]);
        if (!id || json_equal(id, json_object_get(target, tokens[i]))) continue;
        changed = true;
        if (json_object_set(target, tokens[i], id))
            MF_GO(MF_FAIL(MF_ENOMEM, "%s: no memory for its text", to));
    }
    if (changed) MF_GO(write_json(target, to));
fail:
    json_decref(source);
    json_decref(target);
    return status;
}

/* Newer files say dtype, older ones torch_dtype. */
static const char *const type_names[] = {"dtype", "torch_dtype"};

mf_status mf_config_type(const char *path, char out[MF_CONFIG_TYPE]) {
    json_t *root = NULL;
    MF_TRY(read_object(path, &root));
    out[0] = '\0';
    for (int i = 0; i < 2; i++) {
        const char *type = json_string_value(json_object_get(root, type_names[i]));
        if (type && !out[0]) snprintf(out, MF_CONFIG_TYPE, "%s", type);
    }
    json_decref(root);
    return MF_OK;
}

mf_status mf_config_retype(const char *from, const char *type, const char *to) {
    json_t *root = NULL;
    MF_TRY(read_object(from, &root));
    bool newer = json_object_get(root, type_names[0]), older = json_object_get(root, type_names[1]);
    int failed = newer ? json_object_set_new(root, type_names[0], json_string(type)) : 0;
    if (older || !newer) failed |= json_object_set_new(root, type_names[1], json_string(type));
    mf_status status = failed ? MF_FAIL(MF_ENOMEM, "%s: no memory for its text", to) : write_json(root, to);
    json_decref(root);
    return status;
}
