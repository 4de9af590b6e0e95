/* tensor_set.c: the tensors of a model's folder, in one file or in several that an index names. Files are
 * mapped, so nobody holds more of them than is read. */
#include "io/file.h"
#include "io/json_file.h"
#include "meshfold/io.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct member {
    char *name; /* in the folder */
    mf_safetensors *file;
} member;

struct mf_tensor_set {
    char *path; /* of the one file, or the index */
    int count;
    member *file; /* [count] */
};

const char *mf_tensor_set_path(const mf_tensor_set *set) { return set->path; }

const mf_tensor_info *mf_tensor_set_find(const mf_tensor_set *set, const char *name) {
    const mf_tensor_info *found = NULL;
    for (int i = 0; i < set->count && !found; i++) found = mf_safetensors_find(set->file[i].file, name);
    return found;
}

const mf_tensor_info *mf_tensor_set_at(const mf_tensor_set *set, int index) {
    for (int i = 0; i < set->count; i++) {
        if (index < mf_safetensors_count(set->file[i].file))
            return mf_safetensors_at(set->file[i].file, index);
        index -= mf_safetensors_count(set->file[i].file);
    }
    return NULL;
}

void mf_tensor_set_close(mf_tensor_set *set) {
    if (!set) return;
    for (int i = 0; i < set->count; i++) {
        mf_safetensors_close(set->file[i].file);
        mf_host_free(set->file[i].name);
    }
    mf_host_free(set->file);
    mf_host_free(set->path);
    mf_host_free(set);
}

static mf_status open_single(mf_tensor_set *set) {
    MF_TRY(mf_host_alloc(1, sizeof *set->file, &set->file));
    set->count = 1;
    return mf_safetensors_open(set->path, &set->file->file);
}

static mf_status read_index(const char *path, json_t **out) {
    MF_TRY(mf_json_read(path, out));
    if (json_object_size(json_object_get(*out, "weight_map")) > 0) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: has no weight_map that says which file a tensor is in", path);
}

/* A name that stays in the folder. */
static bool is_plain(const char *name) { return name && *name && *name != '.' && !strchr(name, '/'); }

static member *find_file(const mf_tensor_set *set, const char *name) {
    for (int i = 0; i < set->count; i++)
        if (strcmp(set->file[i].name, name) == 0) return &set->file[i];
    return NULL;
}

/* Every file that the index names, once. */
static mf_status open_files(mf_tensor_set *set, const char *folder, json_t *map) {
    const char *tensor;
    json_t *value;
    MF_TRY(mf_host_alloc(json_object_size(map), sizeof *set->file, &set->file));
    json_object_foreach(map, tensor, value) {
        const char *name = json_string_value(value);
        char *path = NULL;
        if (!is_plain(name))
            return MF_FAIL(MF_EFORMAT, "%s: tensor %.100s is in no file of this folder", set->path, tensor);
        if (find_file(set, name)) continue;
        member *file = &set->file[set->count++];
        MF_TRY(mf_host_strdup(name, &file->name));
        MF_TRY(mf_format(&path, "%s/%s", folder, name));
        mf_status status = mf_safetensors_open(path, &file->file);
        mf_host_free(path);
        MF_TRY(status);
    }
    return MF_OK;
}

static mf_status check_named(const mf_tensor_set *set, json_t *map) {
    const char *tensor;
    json_t *value;
    json_object_foreach(map, tensor, value) {
        const member *file = find_file(set, json_string_value(value));
        if (!mf_safetensors_find(file->file, tensor))
            return MF_FAIL(MF_EFORMAT, "%s: tensor %.100s is not in %.200s, where the index has it",
                           set->path, tensor, file->name);
    }
    return MF_OK;
}

/* What one file has, another may not have too, and the index has to know. */
static mf_status check_held(const mf_tensor_set *set, const member *file, json_t *map) {
    for (int i = 0; i < mf_safetensors_count(file->file); i++) {
        const char *tensor = mf_safetensors_at(file->file, i)->name;
        const char *named = json_string_value(json_object_get(map, tensor));
        if (!named)
            return MF_FAIL(MF_EFORMAT, "%s: tensor %.100s of %.200s is not in the index", set->path, tensor,
                           file->name);
        if (strcmp(named, file->name) != 0)
            return MF_FAIL(MF_EFORMAT, "%s: tensor %.100s is in %.200s and in %.200s", set->path, tensor,
                           named, file->name);
    }
    return MF_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const member *)a)->name, ((const member *)b)->name);
}

static mf_status open_indexed(mf_tensor_set *set, const char *folder) {
    mf_status status = MF_OK;
    json_t *index = NULL;
    MF_GO(read_index(set->path, &index));
    json_t *map = json_object_get(index, "weight_map");
    MF_GO(open_files(set, folder, map));
    MF_GO(check_named(set, map));
    for (int i = 0; i < set->count; i++) MF_GO(check_held(set, &set->file[i], map));
    qsort(set->file, (size_t)set->count, sizeof *set->file, by_name); /* the index is sorted by tensors */
fail:
    json_decref(index);
    return status;
}

static bool exists(const char *path) {
    struct stat found;
    return stat(path, &found) == 0;
}

/* One file goes first, as in transformers; an index is what there is else. */
static mf_status find_set(mf_tensor_set *set, const char *folder, bool *indexed) {
    char *index = NULL;
    MF_TRY(mf_format(&set->path, "%s/model.safetensors", folder));
    if (exists(set->path)) return MF_OK;
    MF_TRY(mf_format(&index, "%s/model.safetensors.index.json", folder));
    *indexed = exists(index);
    if (!*indexed) {
        mf_host_free(index);
        return MF_OK; /* opening the one file says that it is not there */
    }
    mf_host_free(set->path);
    set->path = index;
    return MF_OK;
}

mf_status mf_tensor_set_open(const char *folder, mf_tensor_set **out) {
    mf_status status = MF_OK;
    mf_tensor_set *set = NULL;
    bool indexed = false;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *set, &set));
    MF_GO(find_set(set, folder, &indexed));
    MF_GO(indexed ? open_indexed(set, folder) : open_single(set));
    *out = set;
    return MF_OK;
fail:
    mf_tensor_set_close(set);
    return status;
}
