/* model_files.c: a model to and from a Hugging Face folder, each rank its own slices. */
#include "meshfold/train.h"

#include <sys/stat.h>

static mf_status load_param(mf_model *model, const mf_safetensors *file, int index, float *master,
                            const char *path) {
    mf_param_view v = mf_model_param(model, index);
    mf_model_state state = mf_model_state_get(model);
    const mf_tensor_info *t = mf_safetensors_find(file, v.name);
    if (!t) return MF_FAIL(MF_EFORMAT, "%s has no tensor %s, which the model needs", path, v.name);
    bool fits = v.rows ? t->dims == 2 && t->shape[0] == v.rows && t->shape[1] == v.cols
                       : t->dims == 1 && t->shape[0] == v.cols;
    if (!fits)
        return MF_FAIL(MF_EFORMAT, "%s: %s is %lld x %lld in %d dimensions, but the model's is %lld x %lld",
                       path, v.name, (long long)t->shape[0], (long long)(t->dims > 1 ? t->shape[1] : 1),
                       t->dims, (long long)mf_max(v.rows, 1), (long long)v.cols);
    float *to = (v.replicated ? state.replicated_weights : master) + v.offset;
    return mf_tensor_read(t, v.first_row, v.slice_rows, v.first_col, v.slice_cols, to);
}

static mf_status refuse_sharded(const char *folder) {
    mf_status status = MF_OK;
    char *index = NULL;
    struct stat found;
    MF_TRY(mf_format(&index, "%s/model.safetensors.index.json", folder));
    if (stat(index, &found) == 0)
        status = MF_FAIL(MF_EUNSUPPORTED, "%s: models in several files are not read by this version", index);
    mf_host_free(index);
    return status;
}

mf_status mf_model_load(mf_model *model, const char *folder, float *master) {
    mf_status status = MF_OK;
    mf_safetensors *file = NULL;
    char *path = NULL;
    MF_GO(refuse_sharded(folder));
    MF_GO(mf_format(&path, "%s/model.safetensors", folder));
    MF_GO(mf_safetensors_open(path, &file));
    for (int i = 0; i < mf_model_params(model); i++) MF_GO(load_param(model, file, i, master, path));
fail:
    mf_safetensors_close(file);
    mf_host_free(path);
    return status;
}

static mf_status write_slices(mf_model *model, const float *master, mf_tensor_writer *writer,
                              bool first_rank) {
    mf_model_state state = mf_model_state_get(model);
    for (int i = 0; i < mf_model_params(model); i++) {
        mf_param_view v = mf_model_param(model, i);
        if (v.replicated && !first_rank) continue;
        const float *from = (v.replicated ? state.replicated_weights : master) + v.offset;
        MF_TRY(mf_tensors_write(writer, i, v.first_row, v.slice_rows, v.first_col, v.slice_cols, from));
    }
    return MF_OK;
}

mf_status mf_model_save(mf_model *model, mf_comm *world, const float *master, const char *folder) {
    mf_status status = MF_OK;
    int count = mf_model_params(model);
    mf_dtype type = mf_model_state_get(model).type;
    const mf_model_options *options = mf_model_options_get(model);
    mf_tensor_spec *specs = NULL;
    mf_tensor_writer *writer = NULL;
    char *weights = NULL, *config = NULL;
    MF_GO(mf_host_alloc((size_t)count, sizeof *specs, &specs));
    for (int i = 0; i < count; i++) {
        mf_param_view v = mf_model_param(model, i);
        specs[i] = (mf_tensor_spec){.name = v.name, .rows = v.rows, .cols = v.cols};
    }
    MF_GO(mf_format(&weights, "%s/model.safetensors", folder));
    MF_GO(mf_format(&config, "%s/config.json", folder));
    bool first_rank = mf_comm_rank(world) == 0;
    if (first_rank) {
        MF_GO(mf_tensors_create(weights, specs, count, type));
        MF_GO(mf_config_save(&options->config, type, options->tokens, config));
    }
    MF_GO(mf_barrier(world));
    MF_GO(mf_tensors_open_writer(weights, specs, count, type, &writer));
    MF_GO(write_slices(model, master, writer, first_rank));
    status = mf_tensors_close_writer(writer);
    writer = NULL;
    if (!status) MF_GO(mf_barrier(world));
fail:
    if (writer) mf_tensors_close_writer(writer);
    mf_host_free(config);
    mf_host_free(weights);
    mf_host_free(specs);
    return status;
}
