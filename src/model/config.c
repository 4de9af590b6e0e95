/* config.c: model configurations: Hugging Face's config.json in and out, and whether their sizes fit
 * together. */
#include "meshfold/model.h"

#include "meshfold/io.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Real ones have a few kilobytes. */
enum { FILE_LIMIT_BYTES = 1 << 20 };
/* Far above any model, and low enough that bytes per parameter times this never overflow. */
static const int64_t params_limit = (int64_t)1 << 50;

/* Whole numbers and numbers, as config.json names them. */
typedef struct integer_field {
    const char *name;
    size_t offset;
    int64_t most;
    bool required;
} integer_field;

typedef struct real_field {
    const char *name;
    size_t offset;
    double most;
} real_field;

#define FIELD(member) offsetof(mf_model_config, member)
static const integer_field integers[] = {
    {"hidden_size", FIELD(hidden), 1 << 20, true},
    {"num_hidden_layers", FIELD(layers), 10000, true},
    {"num_attention_heads", FIELD(heads), 65536, true},
    {"num_key_value_heads", FIELD(kv_heads), 65536, false},
    {"head_dim", FIELD(head_dim), 65536, false},
    {"intermediate_size", FIELD(ffn), 1 << 24, true},
    {"vocab_size", FIELD(vocab), 1 << 24, true},
};
static const real_field reals[] = {
    {"rope_theta", FIELD(rope_theta), 1e12},
    {"rms_norm_eps", FIELD(norm_eps), 1},
    {"initializer_range", FIELD(init_range), 10},
};
#undef FIELD
enum { INTEGERS = sizeof integers / sizeof *integers, REALS = sizeof reals / sizeof *reals };

static int64_t *integer_at(mf_model_config *config, size_t offset) {
    return (void *)((char *)config + offset);
}

static double *real_at(mf_model_config *config, size_t offset) { return (void *)((char *)config + offset); }

static mf_status refuse_integer(const char *where, const integer_field *field, const char *value) {
    return MF_FAIL(MF_EINVAL, "%s: %s is %s; it must be a whole number from 1 to %lld", where, field->name,
                   value, (long long)field->most);
}

static mf_status refuse_real(const char *where, const real_field *field, const char *value) {
    return MF_FAIL(MF_EINVAL, "%s: %s is %s; it must be a number above 0 and at most %g", where, field->name,
                   value, field->most);
}

static mf_status check_integer(const char *where, const integer_field *field, int64_t value) {
    char text[32];
    if (value >= 1 && value <= field->most) return MF_OK;
    snprintf(text, sizeof text, "%lld", (long long)value);
    return refuse_integer(where, field, text);
}

static mf_status check_real(const char *where, const real_field *field, double value) {
    char text[32];
    if (value > 0 && value <= field->most) return MF_OK;
    snprintf(text, sizeof text, "%g", value);
    return refuse_real(where, field, text);
}

static mf_status check_fit(const mf_model_config *c, const char *where) {
    if (c->heads % c->kv_heads)
        return MF_FAIL(
            MF_EINVAL,
            "%s: num_attention_heads %lld is not a multiple of num_key_value_heads %lld; each key-value "
            "head serves the same number of query heads",
            where, (long long)c->heads, (long long)c->kv_heads);
    if (c->head_dim % 2)
        return MF_FAIL(MF_EINVAL, "%s: head_dim is %lld; it must be even, since rotary positions turn pairs",
                       where, (long long)c->head_dim);
    double hidden = (double)c->hidden, heads = (double)(c->heads + c->kv_heads);
    double params =
        (double)c->layers * (2 * hidden * heads * (double)c->head_dim + 3 * hidden * (double)c->ffn) +
        2 * hidden * (double)c->vocab;
    if (params > (double)params_limit)
        return MF_FAIL(MF_EINVAL,
                       "%s: its sizes make %.3g parameters; at most %.3g are supported: lower hidden_size, "
                       "num_hidden_layers, intermediate_size or the heads",
                       where, params, (double)params_limit);
    return MF_OK;
}

mf_status mf_config_check(const mf_model_config *config, const char *where) {
    mf_model_config c = *config;
    for (int i = 0; i < INTEGERS; i++)
        MF_TRY(check_integer(where, &integers[i], *integer_at(&c, integers[i].offset)));
    for (int i = 0; i < REALS; i++) MF_TRY(check_real(where, &reals[i], *real_at(&c, reals[i].offset)));
    return check_fit(&c, where);
}

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
    for (int i = 0; i < INTEGERS; i++) {
        const integer_field *field = &integers[i];
        const json_t *value = field->required ? json_object_get(root, field->name) : given(root, field->name);
        if (!value && !field->required) continue;
        if (!json_is_integer(value)) return refuse_integer(path, field, describe(value).text);
        *integer_at(out, field->offset) = json_integer_value(value);
        MF_TRY(check_integer(path, field, json_integer_value(value)));
    }
    return MF_OK;
}

static mf_status read_real(const char *path, const json_t *value, const real_field *field,
                           mf_model_config *out) {
    if (!value) return MF_OK;
    if (!json_is_number(value)) return refuse_real(path, field, describe(value).text);
    *real_at(out, field->offset) = json_number_value(value);
    return check_real(path, field, json_number_value(value));
}

static mf_status fill_defaults(const char *path, mf_model_config *c) {
    if (!c->kv_heads) c->kv_heads = c->heads;
    if (c->head_dim) return MF_OK;
    if (c->hidden % c->heads)
        return MF_FAIL(
            MF_EINVAL,
            "%s: head_dim is not given, and hidden_size %lld does not divide by num_attention_heads %lld",
            path, (long long)c->hidden, (long long)c->heads);
    c->head_dim = c->hidden / c->heads;
    return MF_OK;
}

static mf_status check_family(const char *path, const json_t *root) {
    const json_t *list = given(root, "architectures"), *type = json_object_get(root, "model_type"), *item;
    size_t i;
    if (!list) {
        const char *name = json_string_value(type);
        if (name && !strcmp(name, "llama")) return MF_OK;
        return MF_FAIL(MF_EUNSUPPORTED,
                       "%s: architectures is missing and model_type is %s; it must be \"llama\"", path,
                       describe(type).text);
    }
    json_array_foreach((json_t *)(uintptr_t)list, i, item) {
        if (json_is_string(item) && !strcmp(json_string_value(item), "LlamaForCausalLM")) return MF_OK;
    }
    return MF_FAIL(MF_EUNSUPPORTED, "%s: architectures is %s; LlamaForCausalLM is supported", path,
                   describe(list).text);
}

/* Fields that would change what the model computes in ways that this version has no code for. */
static mf_status check_features(const char *path, const json_t *root) {
    static const char *const off[] = {"attention_bias", "mlp_bias"};
    for (int i = 0; i < 2; i++) {
        const json_t *bias = given(root, off[i]);
        if (bias && !json_is_false(bias))
            return MF_FAIL(MF_EUNSUPPORTED, "%s: %s is %s; this version supports false", path, off[i],
                           describe(bias).text);
    }
    const json_t *act = given(root, "hidden_act"), *dropout = given(root, "attention_dropout");
    if (act && (!json_is_string(act) || strcmp(json_string_value(act), "silu") != 0))
        return MF_FAIL(MF_EUNSUPPORTED, "%s: hidden_act is %s; this version supports \"silu\"", path,
                       describe(act).text);
    if (dropout && (!json_is_number(dropout) || json_number_value(dropout) != 0))
        return MF_FAIL(MF_EUNSUPPORTED, "%s: attention_dropout is %s; this version supports 0", path,
                       describe(dropout).text);
    return MF_OK;
}

/* rope: the object `name` of the file, NULL when absent. */
static mf_status check_rope_kind(const char *path, const char *name, const json_t *rope) {
    if (!rope) return MF_OK;
    if (!json_is_object(rope))
        return MF_FAIL(MF_EINVAL, "%s: %s is %s; it must be an object or null", path, name,
                       describe(rope).text);
    const json_t *kind = json_object_get(rope, "rope_type"), *part = given(rope, "partial_rotary_factor");
    if (!kind) kind = json_object_get(rope, "type");
    if (kind && (!json_is_string(kind) || strcmp(json_string_value(kind), "default") != 0))
        return MF_FAIL(MF_EUNSUPPORTED, "%s: %s is of type %s; this version supports \"default\"", path, name,
                       describe(kind).text);
    if (part && (!json_is_number(part) || json_number_value(part) != 1))
        return MF_FAIL(MF_EUNSUPPORTED, "%s: %s has partial_rotary_factor %s; this version supports 1", path,
                       name, describe(part).text);
    return MF_OK;
}

/* Older files have rope_theta beside the other fields, newer ones inside rope_parameters. */
static mf_status read_rope(const char *path, const json_t *root, mf_model_config *out) {
    const real_field *field = &reals[0];
    const json_t *scaling = given(root, "rope_scaling"), *rope = given(root, "rope_parameters");
    const json_t *outer = given(root, field->name), *inner = given(rope, field->name);
    MF_TRY(check_rope_kind(path, "rope_scaling", scaling));
    MF_TRY(check_rope_kind(path, "rope_parameters", rope));
    if (scaling && !json_object_get(scaling, "type") && !json_object_get(scaling, "rope_type"))
        return MF_FAIL(MF_EUNSUPPORTED,
                       "%s: rope_scaling has no type; this version supports \"default\" or null", path);
    MF_TRY(read_real(path, outer, field, out));
    MF_TRY(read_real(path, inner, field, out));
    if (outer && inner && json_number_value(outer) != json_number_value(inner))
        return MF_FAIL(MF_EINVAL, "%s: rope_theta is %s, but %s in rope_parameters; one of them must go",
                       path, describe(outer).text, describe(inner).text);
    return MF_OK;
}

static mf_status read_fields(const char *path, const json_t *root, mf_model_config *out) {
    const json_t *tied = given(root, "tie_word_embeddings");
    MF_TRY(check_family(path, root));
    MF_TRY(check_features(path, root));
    MF_TRY(read_integers(path, root, out));
    MF_TRY(fill_defaults(path, out));
    MF_TRY(read_rope(path, root, out));
    for (int i = 1; i < REALS; i++) MF_TRY(read_real(path, given(root, reals[i].name), &reals[i], out));
    if (tied && !json_is_boolean(tied))
        return MF_FAIL(MF_EINVAL, "%s: tie_word_embeddings is %s; it must be true or false", path,
                       describe(tied).text);
    out->tied = json_is_true(tied);
    return mf_config_check(out, path);
}

static mf_status read_object(const char *path, json_t **out) {
    json_error_t error;
    char *text = NULL;
    size_t bytes = 0;
    MF_TRY(mf_file_read(path, &text, &bytes));
    *out = bytes > FILE_LIMIT_BYTES ? NULL : json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    mf_host_free(text);
    if (bytes > FILE_LIMIT_BYTES)
        return MF_FAIL(MF_EFORMAT, "%s: has %zu bytes; a config.json has at most %d", path, bytes,
                       FILE_LIMIT_BYTES);
    if (!*out)
        return MF_FAIL(MF_EFORMAT, "%s: is not valid JSON: %s (line %d, column %d)", path, error.text,
                       error.line, error.column);
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

static bool is_preset(const char *name) {
    const char *known = NULL, *about = NULL;
    for (int i = 0; mf_config_preset_at(i, &known, &about); i++)
        if (!strcmp(known, name)) return true;
    return false;
}

mf_status mf_config_find(const char *name, mf_model_config *out) {
    struct stat info;
    char *path = NULL;
    if (is_preset(name)) return mf_config_preset(name, out);
    if (stat(name, &info)) {
        if (errno != ENOENT && errno != ENOTDIR)
            return MF_FAIL(MF_EIO, "%s: cannot be read: %s", name, strerror(errno));
        return mf_config_preset(name, out); /* fails, and lists what there is */
    }
    if (!S_ISDIR(info.st_mode)) return mf_config_load(name, out);
    MF_TRY(mf_format(&path, "%s/config.json", name));
    mf_status status = mf_config_load(path, out);
    mf_host_free(path);
    return status;
}

/* The fewest digits that read back as the same numbers: 1e-06 rather than 9.9999999999999995e-07. */
static size_t digits_needed(const mf_model_config *config) {
    mf_model_config c = *config;
    char text[40];
    size_t digits = 6;
    for (int i = 0; i < REALS; i++) {
        double value = *real_at(&c, reals[i].offset);
        for (; digits < 17; digits++) {
            snprintf(text, sizeof text, "%.*g", (int)digits, value);
            if (strtod(text, NULL) == value) break;
        }
    }
    return digits;
}

static json_t *to_json(const mf_model_config *config, mf_dtype type, int64_t positions) {
    mf_model_config c = *config;
    json_t *root = json_pack("{s:[s], s:s, s:s}", "architectures", "LlamaForCausalLM", "model_type", "llama",
                             "torch_dtype", type == MF_F32 ? "float32" : "bfloat16");
    int failed = !root;
    for (int i = 0; i < INTEGERS; i++)
        failed |=
            json_object_set_new(root, integers[i].name, json_integer(*integer_at(&c, integers[i].offset)));
    for (int i = 0; i < REALS; i++)
        failed |= json_object_set_new(root, reals[i].name, json_real(*real_at(&c, reals[i].offset)));
    json_t *rest = json_pack("{s:b, s:I, s:s, s:b, s:b, s:f, s:n, s:b, s:i, s:n, s:n}", "tie_word_embeddings",
                             c.tied, "max_position_embeddings", (json_int_t)positions, "hidden_act", "silu",
                             "attention_bias", 0, "mlp_bias", 0, "attention_dropout", 0.0, "rope_scaling",
                             "use_cache", 1, "pretraining_tp", 1, "bos_token_id", "eos_token_id");
    failed |= json_object_update(root, rest);
    json_decref(rest);
    if (!failed) return root;
    json_decref(root);
    return NULL;
}

mf_status mf_config_save(const mf_model_config *config, mf_dtype type, int64_t positions, const char *path) {
    char *text = NULL, *line = NULL;
    MF_TRY(mf_config_check(config, path));
    if (positions < 1)
        return MF_FAIL(MF_EINVAL, "%s: max_position_embeddings is %lld; it must be at least 1", path,
                       (long long)positions);
    json_t *root = to_json(config, type, positions);
    if (root) text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(digits_needed(config)));
    json_decref(root);
    if (!text) return MF_FAIL(MF_ENOMEM, "%s: no memory for its text", path);
    mf_status status = mf_format(&line, "%s\n", text);
    if (!status) status = mf_file_write(path, line, strlen(line));
    mf_host_free(line);
    free(text);
    return status;
}

/* The weights of a layer that are multiplied with a token. */
static int64_t layer_weights(const mf_model_config *c) {
    return 2 * c->hidden * (c->heads + c->kv_heads) * c->head_dim + 3 * c->hidden * c->ffn;
}

int64_t mf_config_params(const mf_model_config *c) {
    int64_t norms = (2 * c->layers + 1) * c->hidden, embedding = c->vocab * c->hidden;
    return c->layers * layer_weights(c) + norms + (c->tied ? 1 : 2) * embedding;
}

double mf_config_step_flops(const mf_model_config *c, int64_t sequences, int64_t tokens) {
    double count = (double)tokens;
    double weights = (double)c->layers * (double)layer_weights(c) + (double)c->vocab * (double)c->hidden;
    double attention =
        4.0 * (double)c->head_dim * (double)c->heads * (count * (count + 1) / 2) * (double)c->layers;
    return 3.0 * (double)sequences * (2.0 * weights * count + attention);
}

double mf_model_step_flops(const mf_model_options *o, int64_t sequences) {
    double all = mf_config_step_flops(&o->config, sequences, o->tokens);
    return o->forward_only ? all / 3 : all;
}
