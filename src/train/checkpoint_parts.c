/* checkpoint_parts.c: what the tensors of a part are: rectangles of parameters, known by their names. */
#include "train/checkpoint.h"

#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b) {
    return strcmp((*(const mf_named_shape *const *)a)->name, (*(const mf_named_shape *const *)b)->name);
}

mf_status mf_param_names_make(const mf_model_config *config, mf_param_names *out) {
    *out = (mf_param_names){0};
    MF_TRY(mf_config_param_list(config, &out->param, &out->count));
    mf_status status = mf_host_alloc((size_t)out->count, sizeof *out->by_name, &out->by_name);
    if (status) {
        mf_param_names_free(out);
        return mf_error_pass(__FILE__, __LINE__, status);
    }
    for (int i = 0; i < out->count; i++) out->by_name[i] = &out->param[i];
    qsort(out->by_name, (size_t)out->count, sizeof *out->by_name, by_name);
    return MF_OK;
}

void mf_param_names_free(mf_param_names *names) {
    mf_host_free(names->by_name);
    mf_host_free(names->param);
    *names = (mf_param_names){0};
}

static const mf_named_shape *find(const mf_param_names *names, const char *name, size_t length) {
    int low = 0, high = names->count;
    while (low < high) {
        int middle = (low + high) / 2, order = strncmp(name, names->by_name[middle]->name, length);
        if (order == 0 && names->by_name[middle]->name[length]) order = -1;
        if (order == 0) return names->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

mf_status mf_part_identify(const mf_param_names *names, const char *path, const mf_safetensors *part,
                           const mf_tensor_info *t, mf_part_tensor *out) {
    const char *param = NULL, *stated = mf_safetensors_metadata(part, t->name);
    size_t length = 0;
    char shape[48];
    *out = (mf_part_tensor){.tensor = t};
    if (!mf_piece_name_read(t->name, &out->kind, &param, &length, &out->first_row, &out->first_col))
        return MF_FAIL(MF_EFORMAT, "%s: has a tensor %.100s, which is none of a checkpoint's", path, t->name);
    const mf_named_shape *whole = find(names, param, length);
    if (!whole)
        return MF_FAIL(MF_EFORMAT, "%s: has a tensor %.100s, which the model does not have", path, t->name);
    out->param = (int)(whole - names->param);
    mf_piece_shape(whole->rows, whole->cols, shape);
    if (!stated || strcmp(stated, shape) != 0)
        return MF_FAIL(MF_EFORMAT, "%s: tensor %.100s is of a tensor of shape %.40s, but the model's is %s",
                       path, t->name, stated ? stated : "(none)", shape);
    int dims = whole->rows ? 2 : 1;
    if (t->dims != dims || t->type != MF_FILE_F32)
        return MF_FAIL(MF_EFORMAT, "%s: tensor %.100s is not a slice of %s in F32", path, t->name, shape);
    out->rows = dims == 2 ? t->shape[0] : 1;
    out->cols = t->shape[dims - 1];
    bool inside =
        out->rows <= mf_max(whole->rows, 1) - out->first_row && out->cols <= whole->cols - out->first_col;
    if (!inside) return MF_FAIL(MF_EFORMAT, "%s: tensor %.100s leaves its %s", path, t->name, shape);
    return MF_OK;
}
