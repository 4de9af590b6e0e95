/* model_files.c: a model to and from a Hugging Face folder, each rank its own slices. */
#include "train/model_files.h"

#include "device/staging.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* "[64, 192]" */
typedef struct shape_text {
    char text[96];
} shape_text;

static shape_text describe(int dims, const int64_t *shape) {
    shape_text out = {"["};
    size_t used = 1;
    for (int i = 0; i < dims; i++)
        used += (size_t)snprintf(out.text + used, sizeof out.text - used, "%s%lld", i ? ", " : "",
                                 (long long)shape[i]);
    snprintf(out.text + used, sizeof out.text - used, "]");
    return out;
}

static mf_status check_param(const mf_tensor_set *files, const mf_named_shape *v) {
    const char *path = mf_tensor_set_path(files);
    const mf_tensor_info *t = mf_tensor_set_find(files, v->name);
    int64_t matrix[] = {v->rows, v->cols};
    int dims = v->rows ? 2 : 1;
    const int64_t *shape = v->rows ? matrix : &v->cols;
    if (!t) return MF_FAIL(MF_EFORMAT, "%s: has no tensor %s, which the model needs", path, v->name);
    if (t->dims != dims || memcmp(t->shape, shape, (size_t)dims * sizeof *shape) != 0)
        return MF_FAIL(MF_EFORMAT, "%s: tensor %s is %s, but the model's is %s", path, v->name,
                       describe(t->dims, t->shape).text, describe(dims, shape).text);
    if (t->type == MF_FILE_OTHER)
        return MF_FAIL(MF_EUNSUPPORTED, "%s: tensor %s is %s; F32, BF16 and F16 can be read", path, v->name,
                       t->type_name);
    return MF_OK;
}

/* Files may hold an output matrix that is the embedding again, and tables that older programs kept. */
static bool is_spare(const char *name) {
    const char *inv_freq = strstr(name, ".rotary_emb.inv_freq");
    return strcmp(name, "lm_head.weight") == 0 || inv_freq;
}

/* What the file has beyond the model was trained with the rest: without it the rest is worth little. */
static mf_status check_nothing_more(const mf_named_shape *params, int count, const mf_tensor_set *files) {
    const mf_tensor_info *t;
    for (int i = 0; (t = mf_tensor_set_at(files, i)); i++) {
        bool known = is_spare(t->name);
        for (int p = 0; p < count && !known; p++) known = strcmp(params[p].name, t->name) == 0;
        if (!known)
            return MF_FAIL(MF_EFORMAT, "%s: has a tensor %.200s, which the model does not have",
                           mf_tensor_set_path(files), t->name);
    }
    return MF_OK;
}

mf_status mf_model_files_open(const mf_model_config *config, const char *folder, mf_tensor_set **out) {
    mf_status status = MF_OK;
    mf_named_shape *params = NULL;
    mf_tensor_set *files = NULL;
    int count = 0;
    *out = NULL;
    MF_GO(mf_config_param_list(config, &params, &count));
    MF_GO(mf_tensor_set_open(folder, &files));
    for (int i = 0; i < count; i++) MF_GO(check_param(files, &params[i]));
    MF_GO(check_nothing_more(params, count, files));
    *out = files;
    files = NULL;
fail:
    mf_tensor_set_close(files);
    mf_host_free(params);
    return status;
}

/* As many rows of a slice as go through the host at once. */
static int64_t rows_at_once(const mf_staging *s, const mf_param_view *v) {
    return (int64_t)(s->room / sizeof(float)) / mf_max(1, v->slice_cols);
}

static mf_status read_slice(const mf_tensor_info *t, const mf_param_view *v, mf_staging *s, float *to) {
    int64_t at_once = rows_at_once(s, v);
    for (int64_t row = 0; row < v->slice_rows; row += at_once) {
        int64_t rows = mf_min(at_once, v->slice_rows - row), n = rows * v->slice_cols;
        float *at = NULL;
        MF_TRY(mf_staging_place(s, to + row * v->slice_cols, (size_t)n * sizeof *to, &at));
        MF_TRY(mf_tensor_read(t, v->first_row + row, rows, v->first_col, v->slice_cols, at));
    }
    return mf_staging_send(s);
}

static mf_status read_slices(mf_model *model, const mf_tensor_set *files, mf_staging *s, float *master) {
    mf_model_state state = mf_model_state_get(model);
    for (int i = 0; i < mf_model_params(model); i++) {
        mf_param_view v = mf_model_param(model, i);
        float *to = v.replicated ? state.replicated_weights : master;
        if (!to) continue; /* this rank has no part of any cut tensor */
        MF_TRY(read_slice(mf_tensor_set_find(files, v.name), &v, s, to + v.offset));
    }
    return MF_OK;
}

static int64_t longest_row(const mf_model *model) {
    int64_t longest = 1;
    for (int i = 0; i < mf_model_params(model); i++)
        longest = mf_max(longest, mf_model_param(model, i).slice_cols);
    return longest;
}

/* Values that go through the host at once, or a row where it is longer. */
enum { AT_ONCE = 1 << 20 };
static size_t room_of(const mf_model *model) {
    return (size_t)mf_max(AT_ONCE, longest_row(model)) * sizeof(float);
}

static mf_staging staging_of(mf_model *model) {
    return (mf_staging){.device = mf_model_device(model), .room = room_of(model)};
}

/* One looks first: what is wrong with a file that all ranks see is found, and said, once. */
static mf_status open_together(mf_model *model, const char *folder, mf_tensor_set **out) {
    mf_comm *comm = mf_model_world(model);
    const mf_model_config *config = &mf_model_options_get(model)->config;
    if (mf_comm_rank(comm) == 0) MF_TRY(mf_model_files_open(config, folder, out));
    MF_TRY(mf_barrier(comm));
    return *out ? MF_OK : mf_model_files_open(config, folder, out);
}

mf_status mf_model_load(mf_model *model, const char *folder, float *master) {
    mf_tensor_set *files = NULL;
    mf_staging staging = staging_of(model);
    mf_status status = open_together(model, folder, &files);
    if (!status) status = read_slices(model, files, &staging, master);
    mf_staging_close(&staging);
    mf_tensor_set_close(files);
    return status;
}

/* A slice by some rows at a time, so that little of it is ever there in f32. */
static mf_status read_narrow(const mf_tensor_info *t, const mf_param_view *v, mf_staging *s,
                             const mf_model_state *state, float *some) {
    int64_t at_once = rows_at_once(s, v);
    for (int64_t row = 0; row < v->slice_rows; row += at_once) {
        int64_t rows = mf_min(at_once, v->slice_rows - row), n = rows * v->slice_cols;
        size_t to = (size_t)(v->offset + row * v->slice_cols) * mf_dtype_bytes(state->type);
        float *at = NULL;
        MF_TRY(mf_staging_place(s, some, (size_t)n * sizeof *some, &at));
        MF_TRY(mf_tensor_read(t, v->first_row + row, rows, v->first_col, v->slice_cols, at));
        MF_TRY(mf_staging_send(s));
        MF_TRY(mf_convert(s->device, n, some, MF_F32, (char *)state->cut_weights + to, state->type));
    }
    return MF_OK;
}

static mf_status read_weights(mf_model *model, const mf_tensor_set *files, mf_staging *s, float *some) {
    mf_model_state state = mf_model_state_get(model);
    for (int i = 0; i < mf_model_params(model); i++) {
        mf_param_view v = mf_model_param(model, i);
        const mf_tensor_info *t = mf_tensor_set_find(files, v.name);
        if (v.replicated)
            MF_TRY(read_slice(t, &v, s, state.replicated_weights + v.offset));
        else if (state.cut_weights)
            MF_TRY(read_narrow(t, &v, s, &state, some));
    }
    return MF_OK;
}

mf_status mf_model_load_weights(mf_model *model, mf_device *device, const char *folder) {
    mf_status status = MF_OK;
    mf_memory *memory = mf_device_memory(device);
    mf_staging staging = {.device = device, .room = room_of(model)};
    mf_tensor_set *files = NULL;
    mf_buffer some = {0};
    MF_GO(open_together(model, folder, &files));
    MF_GO(mf_buffer_alloc(memory, MF_WORKSPACE, staging.room, "weights as they are read", &some));
    MF_GO(read_weights(model, files, &staging, some.data));
fail:
    mf_staging_close(&staging);
    mf_buffer_free(memory, &some);
    mf_tensor_set_close(files);
    return status;
}

static mf_status write_slice(mf_tensor_writer *writer, int index, const mf_param_view *v, mf_staging *s,
                             const float *from) {
    int64_t at_once = rows_at_once(s, v);
    for (int64_t row = 0; row < v->slice_rows; row += at_once) {
        int64_t rows = mf_min(at_once, v->slice_rows - row), n = rows * v->slice_cols;
        const float *at = NULL;
        MF_TRY(mf_staging_fetch(s, from + row * v->slice_cols, (size_t)n * sizeof *from, &at));
        MF_TRY(mf_tensors_write(writer, index, v->first_row + row, rows, v->first_col, v->slice_cols, at));
    }
    return MF_OK;
}

static mf_status write_slices(mf_model *model, const float *master, mf_tensor_writer *writer,
                              bool first_rank) {
    mf_status status = MF_OK;
    mf_model_state state = mf_model_state_get(model);
    mf_staging staging = staging_of(model);
    for (int i = 0; i < mf_model_params(model); i++) {
        mf_param_view v = mf_model_param(model, i);
        const float *from = v.replicated ? state.replicated_weights : master;
        if (!(v.replicated ? first_rank : state.writes) || !from) continue;
        MF_GO(write_slice(writer, i, &v, &staging, from + v.offset));
    }
fail:
    mf_staging_close(&staging);
    return status;
}

/* All slices of all ranks, into a file that has its final name only when it is whole. Collective. A failing
 * first rank removes the file: not before all have it open, or they would report that it is not there. */
static mf_status write_weights(mf_model *model, mf_comm *world, const float *master,
                               const mf_tensor_spec *specs, int count, const char *path) {
    mf_status status = MF_OK;
    mf_dtype type = mf_model_state_get(model).type;
    bool first_rank = mf_comm_rank(world) == 0;
    mf_tensor_writer *writer = NULL;
    char *draft = NULL;
    MF_GO(mf_format(&draft, "%s.part", path));
    if (first_rank) {
        MF_GO(mf_tensors_create(draft, specs, count, type));
        MF_GO(mf_tensors_open_writer(draft, specs, count, type, &writer));
    }
    MF_GO(mf_barrier(world));
    if (!first_rank) MF_GO(mf_tensors_open_writer(draft, specs, count, type, &writer));
    MF_GO(mf_barrier(world));
    MF_GO(write_slices(model, master, writer, first_rank));
    status = mf_tensors_close_writer(writer);
    writer = NULL;
    if (!status) MF_GO(mf_barrier(world));
    if (!status && first_rank && rename(draft, path) != 0)
        status = MF_FAIL(MF_EIO, "%s: cannot be put in place: %s", path, strerror(errno));
fail:
    mf_tensors_close_writer(writer);
    if (status && first_rank && draft) unlink(draft);
    mf_host_free(draft);
    return status;
}

/* Weights as f32, where the gradients are. */
static mf_status widen(mf_model *model, mf_device *device) {
    mf_model_state s = mf_model_state_get(model);
    return mf_convert(device, s.cut, s.cut_weights, s.type, s.cut_grads, MF_F32);
}

static mf_status save_weights(mf_model *model, mf_device *device, const mf_tensor_spec *specs,
                              const char *path) {
    mf_comm *world = mf_model_world(model);
    mf_model_state s = mf_model_state_get(model);
    MF_TRY(mf_barrier(world)); /* no peer adds to own gradients */
    MF_TRY(widen(model, device));
    MF_TRY(write_weights(model, world, s.cut_grads, specs, mf_model_params(model), path));
    return mf_zero(device, s.cut_grads, (size_t)s.cut * sizeof(float));
}

/* What says how a model's text becomes tokens and is continued, beside its weights. */
static const char *const companions[] = {"tokenizer.json",
                                         "tokenizer_config.json",
                                         "special_tokens_map.json",
                                         "generation_config.json",
                                         "merges.txt",
                                         "vocab.json",
                                         "tokenizer.model",
                                         "chat_template.jinja",
                                         "added_tokens.json"};

mf_status mf_file_copy(const char *from, const char *to) {
    char *content = NULL;
    size_t bytes = 0;
    MF_TRY(mf_file_read(from, &content, &bytes));
    mf_status status = mf_file_write(to, content, bytes);
    mf_host_free(content);
    return status;
}

static mf_status carry_one(const char *from, const char *to, const char *name,
                           mf_status (*carry)(const char *from, const char *to)) {
    mf_status status = MF_OK;
    char *source = NULL, *target = NULL;
    MF_GO(mf_format(&source, "%s/%s", from, name));
    MF_GO(mf_format(&target, "%s/%s", to, name));
    if (access(source, F_OK) == 0) MF_GO(carry(source, target));
fail:
    mf_host_free(source);
    mf_host_free(target);
    return status;
}

mf_status mf_model_carry(const char *from, const char *to) {
    for (size_t i = 0; i < sizeof companions / sizeof *companions; i++)
        MF_TRY(carry_one(from, to, companions[i], mf_file_copy));
    return carry_one(from, to, "config.json", mf_config_carry);
}

mf_status mf_model_save(mf_model *model, mf_device *device, const char *folder) {
    mf_status status = MF_OK;
    int count = mf_model_params(model);
    const mf_model_options *options = mf_model_options_get(model);
    mf_tensor_spec *specs = NULL;
    char *weights = NULL, *config = NULL;
    MF_GO(mf_host_alloc((size_t)count, sizeof *specs, &specs));
    for (int i = 0; i < count; i++) {
        mf_param_view v = mf_model_param(model, i);
        specs[i] = (mf_tensor_spec){.name = v.name, .rows = v.rows, .cols = v.cols};
    }
    MF_GO(mf_format(&weights, "%s/model.safetensors", folder));
    MF_GO(mf_format(&config, "%s/config.json", folder));
    MF_GO(save_weights(model, device, specs, weights));
    if (mf_comm_rank(mf_model_world(model)) == 0)
        MF_GO(mf_config_save(&options->config, mf_model_state_get(model).type, options->tokens, config));
fail:
    mf_host_free(config);
    mf_host_free(weights);
    mf_host_free(specs);
    return status;
}
