/* config.c: a model configuration's sizes: whether they fit together, what they come to, where they are
 * found.
 */
#include "model/config.h"

#include "meshfold/io.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Far above any model, and low enough that bytes per parameter times this never overflow. */
static const int64_t params_limit = (int64_t)1 << 50;

#define FIELD(member) offsetof(mf_model_config, member)
enum { ALL = MF_TEXTS | MF_VIDEOS };
const mf_config_integer mf_config_integers[MF_CONFIG_INTEGERS] = {
    {"hidden_size", FIELD(hidden), 1 << 20, true, ALL},
    {"num_hidden_layers", FIELD(layers), 10000, true, ALL},
    {"num_attention_heads", FIELD(heads), 65536, true, ALL},
    {"num_key_value_heads", FIELD(kv_heads), 65536, false, MF_TEXTS},
    {"head_dim", FIELD(head_dim), 65536, false, ALL},
    {"intermediate_size", FIELD(ffn), 1 << 24, true, ALL},
    {"vocab_size", FIELD(vocab), 1 << 24, true, MF_TEXTS},
    {"sample_frames", FIELD(video.frames), 1 << 20, true, MF_VIDEOS},
    {"sample_height", FIELD(video.height), 1 << 20, true, MF_VIDEOS},
    {"sample_width", FIELD(video.width), 1 << 20, true, MF_VIDEOS},
    {"in_channels", FIELD(video.channels), 4096, true, MF_VIDEOS},
    {"patch_size", FIELD(video.patch), 1024, true, MF_VIDEOS},
    {"condition_tokens", FIELD(video.condition_tokens), 1 << 20, false, MF_VIDEOS},
    {"condition_channels", FIELD(video.condition_channels), 1 << 20, false, MF_VIDEOS},
};
const mf_config_real mf_config_reals[MF_CONFIG_REALS] = {
    {"rope_theta", FIELD(rope_theta), 1e12, MF_TEXTS},
    {"rms_norm_eps", FIELD(norm_eps), 1, MF_TEXTS},
    {"layer_norm_eps", FIELD(norm_eps), 1, MF_VIDEOS},
    {"initializer_range", FIELD(init_range), 10, ALL},
};
#undef FIELD

const mf_family_facts mf_model_families[MF_MODEL_FAMILIES] = {
    [MF_LLAMA] = {.architecture = "LlamaForCausalLM", .model_type = "llama", .has_attention_bias = true},
    [MF_MISTRAL] = {.architecture = "MistralForCausalLM",
                    .model_type = "mistral",
                    .kv_heads = 8,
                    .window = 4096,
                    .has_window = true},
    [MF_QWEN2] = {.architecture = "Qwen2ForCausalLM",
                  .model_type = "qwen2",
                  .kv_heads = 32,
                  .window = 4096,
                  .qkv_bias = true,
                  .has_window = true,
                  .has_window_layers = true},
    [MF_QWEN3] = {.architecture = "Qwen3ForCausalLM",
                  .model_type = "qwen3",
                  .kv_heads = 32,
                  .head_dim = 128,
                  .window = 4096,
                  .qk_norm = true,
                  .has_window = true,
                  .has_window_layers = true,
                  .has_attention_bias = true},
    [MF_STDIT] = {.architecture = "SpatialTemporalTransformer", .model_type = "stdit"},
};

const char *mf_model_family_name(mf_model_family family) { return mf_model_families[family].architecture; }

mf_status mf_config_refuse_integer(const char *where, const mf_config_integer *field, const char *value) {
    return MF_FAIL(MF_EINVAL, "%s: %s is %s; it must be a whole number from 1 to %lld", where, field->name,
                   value, (long long)field->most);
}

mf_status mf_config_refuse_real(const char *where, const mf_config_real *field, const char *value) {
    return MF_FAIL(MF_EINVAL, "%s: %s is %s; it must be a number above 0 and at most %g", where, field->name,
                   value, field->most);
}

mf_status mf_config_check_integer(const char *where, const mf_config_integer *field, int64_t value) {
    char text[32];
    if (value >= 1 && value <= field->most) return MF_OK;
    snprintf(text, sizeof text, "%lld", (long long)value);
    return mf_config_refuse_integer(where, field, text);
}

mf_status mf_config_check_real(const char *where, const mf_config_real *field, double value) {
    char text[32];
    if (value > 0 && value <= field->most) return MF_OK;
    snprintf(text, sizeof text, "%g", value);
    return mf_config_refuse_real(where, field, text);
}

static mf_status check_clips(const mf_model_config *c, const char *where) {
    const mf_video_config *v = &c->video;
    if (v->height % v->patch || v->width % v->patch)
        return MF_FAIL(MF_EINVAL, "%s: clips of %lldx%lld are not whole patches of %lld", where,
                       (long long)v->height, (long long)v->width, (long long)v->patch);
    if (c->layers % 2)
        return MF_FAIL(MF_EINVAL,
                       "%s: num_hidden_layers is %lld; it must be even, since blocks over places and over "
                       "frames take turns",
                       where, (long long)c->layers);
    if (c->hidden % 2)
        return MF_FAIL(MF_EINVAL, "%s: hidden_size is %lld; it must be even, since positions are pairs",
                       where, (long long)c->hidden);
    if (!v->condition_tokens != !v->condition_channels)
        return MF_FAIL(MF_EINVAL, "%s: condition_tokens and condition_channels go together", where);
    return MF_OK;
}

static mf_status check_fit(const mf_model_config *c, const char *where) {
    if (c->family == MF_STDIT) MF_TRY(check_clips(c, where));
    if (c->heads % c->kv_heads)
        return MF_FAIL(
            MF_EINVAL,
            "%s: num_attention_heads %lld is not a multiple of num_key_value_heads %lld; each key-value "
            "head serves the same number of query heads",
            where, (long long)c->heads, (long long)c->kv_heads);
    if (c->head_dim % 2 && c->family != MF_STDIT)
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

static mf_status check_window(const mf_model_config *c, const char *where) {
    if (c->window < 0 || c->window_from < 0)
        return MF_FAIL(MF_EINVAL, "%s: a window of %lld tokens from layer %lld on", where,
                       (long long)c->window, (long long)c->window_from);
    return MF_OK;
}

static mf_status check_scaling(const mf_rope_scaling *s, const char *where) {
    if (s->kind == MF_ROPE_PLAIN) return MF_OK;
    if (!(s->factor > 0 && s->factor <= 1e9))
        return MF_FAIL(MF_EINVAL, "%s: rope scaling has factor %g; it must be a number above 0", where,
                       s->factor);
    if (s->kind == MF_ROPE_LINEAR) return MF_OK;
    if (!(s->low_freq > 0 && s->high_freq > s->low_freq && s->high_freq <= 1e9))
        return MF_FAIL(MF_EINVAL,
                       "%s: rope scaling has low_freq_factor %g and high_freq_factor %g; the first must be "
                       "above 0, the second above the first",
                       where, s->low_freq, s->high_freq);
    if (s->original < 1)
        return MF_FAIL(MF_EINVAL,
                       "%s: rope scaling has original_max_position_embeddings %lld; it must be at least 1",
                       where, (long long)s->original);
    return MF_OK;
}

mf_status mf_config_check(const mf_model_config *config, const char *where) {
    mf_model_config c = *config;
    for (int i = 0; i < MF_CONFIG_INTEGERS; i++) {
        const mf_config_integer *field = &mf_config_integers[i];
        int64_t value = *mf_config_integer_at(&c, field);
        bool absent = field->kinds == MF_VIDEOS && !field->required && value == 0;
        if (!(field->kinds & mf_config_kind(&c)) || absent) continue;
        MF_TRY(mf_config_check_integer(where, field, value));
    }
    for (int i = 0; i < MF_CONFIG_REALS; i++) {
        const mf_config_real *field = &mf_config_reals[i];
        if (field->kinds & mf_config_kind(&c))
            MF_TRY(mf_config_check_real(where, field, *mf_config_real_at(&c, field)));
    }
    MF_TRY(check_window(&c, where));
    MF_TRY(check_scaling(&c.scaling, where));
    return check_fit(&c, where);
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

bool mf_config_is_gated(const mf_model_config *c) { return c->family != MF_STDIT || c->video.gated; }

int64_t mf_config_values(const mf_model_config *c) {
    return c->video.patch * c->video.patch * c->video.channels;
}

int64_t mf_config_condition_values(const mf_model_config *c) {
    return c->video.condition_tokens * c->video.condition_channels;
}

mf_clip_grid mf_config_grid(const mf_model_config *c) {
    const mf_video_config *v = &c->video;
    if (c->family != MF_STDIT) return (mf_clip_grid){0};
    return (mf_clip_grid){.frames = v->frames, .rows = v->height / v->patch, .columns = v->width / v->patch};
}

/* The weights of a layer that are multiplied with a token. */
static int64_t layer_weights(const mf_model_config *c) {
    return 2 * c->hidden * (c->heads + c->kv_heads) * c->head_dim +
           (mf_config_is_gated(c) ? 3 : 2) * c->hidden * c->ffn;
}

/* Tables, biases, and the matrices between patches and the residual stream. */
static int64_t video_vectors(const mf_model_config *c) {
    int64_t h = c->hidden, values = mf_config_values(c);
    int64_t biases = 8 * h + (c->video.condition_tokens ? h : 0);
    return 6 * h * c->layers + biases + h * values + h + 2 * h + values * h + values;
}

int64_t mf_config_vectors(const mf_model_config *c) {
    int64_t biases = c->qkv_bias ? (c->heads + 2 * c->kv_heads) * c->head_dim : 0;
    if (c->family == MF_STDIT) return video_vectors(c);
    return c->layers * (biases + (c->qk_norm ? 2 * c->head_dim : 0));
}

/* Of a condition, in every layer: two maps of a token, and two of the condition's. */
static int64_t cross_weights(const mf_model_config *c) {
    return c->video.condition_tokens ? 2 * c->hidden * c->heads * c->head_dim : 0;
}

int64_t mf_config_outer(const mf_model_config *c) {
    int64_t h = c->hidden;
    if (c->family == MF_STDIT) return h * (MF_TIME_FEATURES + h + 6 * h + c->video.condition_channels);
    return (c->tied ? 1 : 2) * c->vocab * h;
}

int64_t mf_config_params(const mf_model_config *c) {
    int64_t norms = c->family == MF_STDIT ? 0 : (2 * c->layers + 1) * c->hidden;
    int64_t layer = layer_weights(c) + 2 * cross_weights(c);
    return c->layers * layer + mf_config_outer(c) + norms + mf_config_vectors(c);
}

double mf_config_pairs(const mf_model_config *c, int64_t layer, int64_t tokens) {
    int64_t seen = c->window && layer >= c->window_from ? mf_min(c->window, tokens) : tokens;
    return (double)seen * (double)(seen + 1) / 2 + (double)(tokens - seen) * (double)seen;
}

double mf_config_step_flops(const mf_model_config *c, int64_t sequences, int64_t tokens) {
    double count = (double)tokens;
    double weights = (double)c->layers * (double)layer_weights(c) + (double)c->vocab * (double)c->hidden;
    double attention = 0;
    for (int64_t layer = 0; layer < c->layers; layer++)
        attention += 4.0 * (double)c->head_dim * (double)c->heads * mf_config_pairs(c, layer, tokens);
    return 3.0 * (double)sequences * (2.0 * weights * count + attention);
}

static double clips_step_flops(const mf_model_options *o, int64_t clips) {
    const mf_model_config *c = &o->config;
    double frames = (double)o->grid.frames, places = (double)mf_clip_places(&o->grid);
    double pairs = frames * places * (places + frames) / 2; /* of a layer, in the mean */
    double weights = (double)c->layers * (double)(layer_weights(c) + cross_weights(c));
    pairs += frames * places * (double)c->video.condition_tokens;
    weights += 2 * (double)c->hidden * (double)mf_config_values(c);
    double attention = 4.0 * (double)c->layers * (double)c->head_dim * (double)c->heads * pairs;
    return 3.0 * (double)clips * (2.0 * weights * frames * places + attention);
}

double mf_model_step_flops(const mf_model_options *o, int64_t sequences) {
    double all = o->config.family == MF_STDIT ? clips_step_flops(o, sequences)
                                              : mf_config_step_flops(&o->config, sequences, o->tokens);
    return o->forward_only ? all / 3 : all;
}
