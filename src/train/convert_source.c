/* convert_source.c: what a conversion starts from: a model's folder, or the newest whole checkpoint. */
#include "io/safetensors.h"
#include "io/values.h"
#include "train/convert.h"
#include "train/model_files.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static mf_status has(const char *folder, const char *name, bool *out) {
    char *path = NULL;
    MF_TRY(mf_format(&path, "%s/%s", folder, name));
    *out = access(path, F_OK) == 0;
    mf_host_free(path);
    return MF_OK;
}

static mf_status has_model(const char *folder, bool *out) {
    MF_TRY(has(folder, "model.safetensors", out));
    return *out ? MF_OK : has(folder, "model.safetensors.index.json", out);
}

/* Where a folder's checkpoints are: in it, or in a run's "checkpoints"; it may be one. *out, owned by the
 * caller, is NULL where there are none. */
static mf_status find_checkpoints(const char *folder, char **out) {
    int64_t *step = NULL;
    int count = 0;
    bool of_run = false, itself = false;
    *out = NULL;
    MF_TRY(has(folder, "checkpoints", &of_run));
    if (of_run) return mf_format(out, "%s/checkpoints", folder);
    MF_TRY(has(folder, "manifest.json", &itself));
    MF_TRY(mf_checkpoint_steps(folder, &step, &count));
    mf_host_free(step);
    return itself || count ? mf_host_strdup(folder, out) : MF_OK;
}

static mf_status read_config(mf_conversion *c, const char *folder) {
    MF_TRY(mf_format(&c->config, "%s/config.json", folder));
    return mf_config_type(c->config, c->config_type);
}

static mf_status name_params(mf_conversion *c) {
    mf_model_config config;
    MF_TRY(mf_config_load(c->config, &config));
    MF_TRY(mf_param_names_make(&config, &c->names));
    c->count = c->names.count;
    return mf_host_alloc((size_t)c->count, sizeof *c->from, &c->from);
}

/* All that the folder has, whatever it is. */
static mf_status list_tensors(mf_conversion *c) {
    MF_TRY(mf_tensor_set_open(c->options->from, &c->set));
    while (mf_tensor_set_at(c->set, c->count)) c->count++;
    MF_TRY(mf_host_alloc((size_t)c->count, sizeof *c->from, &c->from));
    for (int i = 0; i < c->count; i++) c->from[i] = *mf_tensor_set_at(c->set, i);
    return MF_OK;
}

/* What the model needs, and nothing else may be there. */
static mf_status list_params(mf_conversion *c) {
    mf_model_config config;
    MF_TRY(mf_config_load(c->config, &config));
    MF_TRY(mf_model_files_open(&config, c->options->from, &c->set));
    MF_TRY(name_params(c));
    for (int i = 0; i < c->count; i++) c->from[i] = *mf_tensor_set_find(c->set, c->names.param[i].name);
    return MF_OK;
}

static mf_status open_model(mf_conversion *c) {
    MF_TRY(read_config(c, c->options->from));
    MF_TRY(c->options->checkpoint ? list_params(c) : list_tensors(c));
    snprintf(c->result->from, sizeof c->result->from, "%s", mf_tensor_set_path(c->set));
    return MF_OK;
}

static mf_status open_checkpoint(mf_conversion *c, const char *folder) {
    MF_TRY(mf_checkpoint_find_alone(folder, c->options->observer, &c->checkpoint));
    const char *path = mf_checkpoint_path(c->checkpoint);
    snprintf(c->result->from, sizeof c->result->from, "%s", path);
    MF_TRY(read_config(c, path));
    MF_TRY(name_params(c));
    MF_TRY(mf_checkpoint_weights_open(c->checkpoint, &c->names, &c->weights));
    for (int i = 0; i < c->count; i++) {
        const mf_named_shape *p = &c->names.param[i];
        mf_tensor_spec spec = {.name = p->name, .rows = p->rows, .cols = p->cols};
        MF_TRY(mf_tensor_describe(&spec, MF_F32, &c->from[i]));
    }
    return MF_OK;
}

mf_status mf_conversion_open(mf_conversion *c) {
    const char *from = c->options->from;
    char *checkpoints = NULL;
    bool model = false;
    MF_TRY(has_model(from, &model));
    if (model) return open_model(c);
    MF_TRY(find_checkpoints(from, &checkpoints));
    if (!checkpoints)
        return MF_FAIL(MF_EINVAL,
                       "%s: has neither a model (model.safetensors, or model.safetensors.index.json) nor a "
                       "checkpoint",
                       from);
    mf_status status = c->options->checkpoint ? MF_FAIL(MF_EINVAL, "%s: is a checkpoint already", from)
                                              : open_checkpoint(c, checkpoints);
    mf_host_free(checkpoints);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

mf_status mf_conversion_companion(const mf_conversion *c, char **out) {
    *out = NULL;
    if (!c->checkpoint) return mf_host_strdup(c->options->from, out);
    const char *settings = mf_checkpoint_settings(c->checkpoint);
    json_t *root = settings ? json_loads(settings, 0, NULL) : NULL;
    const char *init = json_string_value(json_object_get(root, "init"));
    mf_status status = init ? mf_host_strdup(init, out) : MF_OK;
    json_decref(root);
    return status;
}

mf_status mf_conversion_read(const mf_conversion *c, int tensor, int64_t first, int64_t n, float *out) {
    const mf_tensor_info *t = &c->from[tensor];
    if (!t->data) return mf_checkpoint_weights_read(c->weights, tensor, first, n, out);
    mf_values_widen(t->type, (const char *)t->data + first * (int64_t)mf_file_type_bytes(t->type), n, out);
    return MF_OK;
}

void mf_conversion_close(mf_conversion *c) {
    mf_checkpoint_weights_close(c->weights);
    mf_checkpoint_close(c->checkpoint);
    mf_tensor_set_close(c->set);
    mf_param_names_free(&c->names);
    mf_host_free(c->from);
    mf_host_free(c->config);
}
