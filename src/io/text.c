/* text.c: reads the files of a text into one piece. */
#include "io/file.h"
#include "io/ids.h"
#include "io/sources.h"
#include "meshfold/io.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static mf_status read_source(const mf_source *from, uint8_t *to) {
    int fd = -1;
    int64_t size = 0;
    MF_TRY(mf_regular_open(from->path, O_RDONLY, &fd, &size));
    mf_status status = mf_fd_read(fd, to, (size_t)from->bytes, 0, from->path);
    close(fd);
    return status;
}

static mf_status total_bytes(const mf_sources *list, const char *const *paths, int count, int64_t *total) {
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
    return MF_FAIL(MF_EINVAL, "no text in %s%s: %d file%s, all empty", paths[0],
                   count > 1 ? " and what follows it" : "", list->count, list->count == 1 ? "" : "s");
}

mf_status mf_text_load(const char *const *paths, int count, mf_text *out) {
    mf_status status = MF_OK;
    mf_sources list = {0};
    mf_text text = {0};
    *out = (mf_text){0};
    for (int i = 0; i < count; i++) {
        if (!mf_ids_described(paths[i])) continue;
        if (count == 1) return mf_ids_map(paths[0], out);
        return MF_FAIL(MF_EINVAL, "%s: holds ids: it must be given alone", paths[i]);
    }
    MF_GO(mf_sources_find(paths, count, &list));
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
    mf_sources_free(&list);
    return status;
}

void mf_text_free(mf_text *text) {
    if (text->width)
        mf_ids_unmap(text);
    else
        mf_host_free(text->bytes);
    *text = (mf_text){0};
}
