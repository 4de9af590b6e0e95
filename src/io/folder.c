/* folder.c: names in a folder: walked, renamed, removed, and known to the disk. */
#include "io/file.h"
#include "meshfold/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

mf_status mf_folder_sync(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return MF_FAIL(MF_EIO, "%s: cannot be opened: %s", path, strerror(errno));
    int cause = fsync(fd) ? errno : 0;
    close(fd);
    /* some file systems have no such call for folders, and need none */
    if (cause && cause != EINVAL) return MF_FAIL(MF_EIO, "%s: cannot be flushed: %s", path, strerror(cause));
    return MF_OK;
}

mf_status mf_folder_walk(const char *path, mf_status (*visit)(void *context, const char *name),
                         void *context) {
    mf_status status = MF_OK;
    DIR *dir = opendir(path);
    if (!dir && errno == ENOENT) return MF_OK;
    if (!dir) return MF_FAIL(MF_EIO, "%s: cannot be read: %s", path, strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            MF_GO(visit(context, entry->d_name));
fail:
    closedir(dir);
    return status;
}

static mf_status remove_file(void *context, const char *name) {
    mf_status status = MF_OK;
    char *path = NULL;
    MF_TRY(mf_format(&path, "%s/%s", (const char *)context, name));
    if (unlink(path) != 0 && errno != ENOENT)
        status = MF_FAIL(MF_EIO, "%s: cannot be removed: %s", path, strerror(errno));
    mf_host_free(path);
    return status;
}

mf_status mf_folder_remove(const char *path) {
    MF_TRY(mf_folder_walk(path, remove_file, (void *)(uintptr_t)path));
    if (rmdir(path) != 0 && errno != ENOENT)
        return MF_FAIL(MF_EIO, "%s: cannot be removed: %s", path, strerror(errno));
    return MF_OK;
}

mf_status mf_folder_rename(const char *parent, const char *from, const char *to) {
    if (rename(from, to) != 0) return MF_FAIL(MF_EIO, "%s: cannot be put in place: %s", to, strerror(errno));
    return mf_folder_sync(parent);
}
