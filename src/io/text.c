/* text.c: finds the files of a text, then reads them into one piece. */
#include "io/file.h"
#include "io/ids.h"
#include "meshfold/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct source {
    char *path; /* owned */
    int64_t bytes;
} source;

typedef struct source_list {
    source *item;
    int count, capacity;
} source_list;

static void list_free(source_list *list) {
    for (int i = 0; i < list->count; i++) mf_host_free(list->item[i].path);
    mf_host_free(list->item);
}

static mf_status list_reserve(source_list *list) {
    if (list->count < list->capacity) return MF_OK;
    int capacity = list->capacity ? list->capacity * 2 : 16;
    source *larger = NULL;
    MF_TRY(mf_host_alloc((size_t)capacity, sizeof *larger, &larger));
    if (list->count) memcpy(larger, list->item, (size_t)list->count * sizeof *larger);
    mf_host_free(list->item);
    list->item = larger;
    list->capacity = capacity;
    return MF_OK;
}

static mf_status list_add(source_list *list, const char *path, int64_t bytes) {
    MF_TRY(list_reserve(list));
    MF_TRY(mf_host_strdup(path, &list->item[list->count].path));
    list->item[list->count++].bytes = bytes;
    return MF_OK;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static mf_status add_folder(source_list *list, const char *folder);

/* An entry of a folder. Links to files are followed; links to folders are not, so that no walk can turn in a
 * circle. */
static mf_status add_entry(source_list *list, const char *path) {
    struct stat info;
    if (lstat(path, &info)) return MF_FAIL(MF_EIO, "%s: cannot be examined: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) return add_folder(list, path);
    if (S_ISLNK(info.st_mode) && stat(path, &info))
        return MF_FAIL(MF_EIO, "%s: is a link that leads nowhere: %s", path, strerror(errno));
    if (S_ISREG(info.st_mode)) return list_add(list, path, info.st_size);
    return MF_OK;
}

static mf_status add_named(source_list *list, const char *folder, const char *name) {
    char *path = NULL;
    size_t length = strlen(folder);
    MF_TRY(mf_format(&path, "%s%s%s", folder, length && folder[length - 1] == '/' ? "" : "/", name));
    mf_status status = add_entry(list, path);
    mf_host_free(path);
    return status;
}

static mf_status add_folder(source_list *list, const char *folder) {
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
static mf_status add_path(source_list *list, const char *path) {
    struct stat info;
    if (stat(path, &info)) return MF_FAIL(MF_EIO, "%s: cannot be read: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) return add_folder(list, path);
    if (S_ISREG(info.st_mode)) return list_add(list, path, info.st_size);
    return MF_FAIL(MF_EIO, "%s: is neither a regular file nor a folder", path);
}

static mf_status read_source(const source *from, uint8_t *to) {
    int fd = -1;
    int64_t size = 0;
    MF_TRY(mf_regular_open(from->path, O_RDONLY, &fd, &size));
    mf_status status = mf_fd_read(fd, to, (size_t)from->bytes, 0, from->path);
    close(fd);
    return status;
}

static mf_status total_bytes(const source_list *list, const char *const *paths, int count, int64_t *total) {
    *total = 0;
    for (int i = 0; i < list->count; i++) {
        if (__builtin_add_overflow(*total, list->item[i].bytes, total))
            return MF_FAIL(MF_EINVAL, "%s: the files up to here have more bytes than can be counted",
                           list->item[i].path);
    }
    if (*total > 0) return MF_OK;
    if (count == 0) return MF_FAIL(MF_EINVAL, "no text: no file or folder was named");
    if (list->count == 0)
        return MF_FAIL(MF_EINVAL, "no text in %s%s: 0 files in it", paths[0],
                       count > 1 ? " and what follows it" : "");
    return MF_FAIL(MF_EINVAL, "no text in %s%s: %d files, all empty", paths[0],
                   count > 1 ? " and what follows it" : "", list->count);
}

mf_status mf_text_load(const char *const *paths, int count, mf_text *out) {
    mf_status status = MF_OK;
    source_list list = {0};
    mf_text text = {0};
    *out = (mf_text){0};
    for (int i = 0; i < count; i++) {
        if (!mf_ids_described(paths[i])) continue;
        if (count == 1) return mf_ids_map(paths[0], out);
        return MF_FAIL(MF_EINVAL, "%s: holds ids: it must be given alone", paths[i]);
    }
    for (int i = 0; i < count; i++) MF_GO(add_path(&list, paths[i]));
    MF_GO(total_bytes(&list, paths, count, &text.count));
    MF_GO(mf_host_alloc((size_t)text.count, 1, &text.bytes));
    text.files = list.count;
    int64_t at = 0;
    for (int i = 0; i < list.count; at += list.item[i++].bytes)
        MF_GO(read_source(&list.item[i], text.bytes + at));
    *out = text;
    text = (mf_text){0};
fail:
    mf_text_free(&text);
    list_free(&list);
    return status;
}

void mf_text_free(mf_text *text) {
    if (text->width)
        mf_ids_unmap(text);
    else
        mf_host_free(text->bytes);
    *text = (mf_text){0};
}
