/* sources.c: see sources.h. */
#include "io/sources.h"
#include "meshfold/io.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static mf_status list_reserve(mf_sources *list) {
    if (list->count < list->capacity) return MF_OK;
    int capacity = list->capacity ? list->capacity * 2 : 16;
    mf_source *larger = NULL;
    MF_TRY(mf_host_alloc((size_t)capacity, sizeof *larger, &larger));
    if (list->count) memcpy(larger, list->item, (size_t)list->count * sizeof *larger);
    mf_host_free(list->item);
    list->item = larger;
    list->capacity = capacity;
    return MF_OK;
}

static mf_status list_add(mf_sources *list, const char *path, int64_t bytes) {
    MF_TRY(list_reserve(list));
    MF_TRY(mf_host_strdup(path, &list->item[list->count].path));
    list->item[list->count++].bytes = bytes;
    return MF_OK;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static mf_status add_folder(mf_sources *list, const char *folder);

/* An entry of a folder. Links to files are followed; links to folders are not, so that no walk can turn in a
 * circle. */
static mf_status add_entry(mf_sources *list, const char *path) {
    struct stat info;
    if (lstat(path, &info)) return MF_FAIL(MF_EIO, "%s: cannot be examined: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) return add_folder(list, path);
    if (S_ISLNK(info.st_mode) && stat(path, &info))
        return MF_FAIL(MF_EIO, "%s: is a link that leads nowhere: %s", path, strerror(errno));
    if (S_ISREG(info.st_mode)) return list_add(list, path, info.st_size);
    return MF_OK;
}

static mf_status add_named(mf_sources *list, const char *folder, const char *name) {
    char *path = NULL;
    size_t length = strlen(folder);
    MF_TRY(mf_format(&path, "%s%s%s", folder, length && folder[length - 1] == '/' ? "" : "/", name));
    mf_status status = add_entry(list, path);
    mf_host_free(path);
    return status;
}

static mf_status add_folder(mf_sources *list, const char *folder) {
    struct dirent **entry = NULL;
    mf_status status = MF_OK;
    int count = scandir(folder, &entry, is_visible, by_name);
    if (count < 0) return MF_FAIL(MF_EIO, "%s: cannot be listed: %s", folder, strerror(errno));
    for (int i = 0; i < count; i++) {
        if (!status) status = add_named(list, folder, entry[i]->d_name);
        free(entry[i]);
    }
    free(entry);
    return status;
}

/* A path that the user gave: unlike an entry it must be something that can be read. */
static mf_status add_path(mf_sources *list, const char *path) {
    struct stat info;
    if (stat(path, &info)) return MF_FAIL(MF_EIO, "%s: cannot be read: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) return add_folder(list, path);
    if (S_ISREG(info.st_mode)) return list_add(list, path, info.st_size);
    return MF_FAIL(MF_EIO, "%s: is neither a regular file nor a folder", path);
}

mf_status mf_sources_find(const char *const *paths, int count, mf_sources *out) {
    *out = (mf_sources){0};
    for (int i = 0; i < count; i++) {
        mf_status status = add_path(out, paths[i]);
        if (!status) continue;
        mf_sources_free(out);
        return mf_error_pass(__FILE__, __LINE__, status);
    }
    return MF_OK;
}

void mf_sources_free(mf_sources *sources) {
    for (int i = 0; i < sources->count; i++) mf_host_free(sources->item[i].path);
    mf_host_free(sources->item);
    *sources = (mf_sources){0};
}
