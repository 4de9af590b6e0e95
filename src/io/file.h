/* file.h: what the files of this folder share: exact reads and writes, and a file that is written beside its
 * place. */
#ifndef MF_IO_FILE_H
#define MF_IO_FILE_H

#include "meshfold/base.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors are stored little-endian and are copied as they lie"
#endif

/* Opens a regular file; flags as open(2) has them. Anything else (a folder, a pipe) is refused without
 * waiting on it. */
mf_status mf_regular_open(const char *path, int flags, int *fd, int64_t *size);
/* All of one, to be read. MF_EFORMAT when it is empty. */
mf_status mf_regular_map(const char *path, const uint8_t **out, size_t *bytes);
/* Accepts NULL. */
void mf_regular_unmap(const uint8_t *map, size_t bytes);
/* Exactly `bytes` at `offset`, whatever the system call's portions. path is for the error. */
mf_status mf_fd_read(int fd, void *out, size_t bytes, int64_t offset, const char *path);
mf_status mf_fd_write(int fd, const void *data, size_t bytes, int64_t offset, const char *path);

/* A file under another name in the same folder: kept, it takes its place in one step; dropped, nothing has
 * happened. Whoever has the old file open or mapped goes on seeing the old one. */
typedef struct mf_draft {
    char *path; /* the draft's own, owned */
    int fd;
} mf_draft;
mf_status mf_draft_open(const char *path, mf_draft *out);
/* Flushes, closes and renames to `path`. On failure the draft still has to be dropped. */
mf_status mf_draft_keep(mf_draft *draft, const char *path);
/* Accepts a kept or zeroed one. */
void mf_draft_drop(mf_draft *draft);

/* folder.c: what was made, renamed and removed in the folder is on the disk. */
mf_status mf_folder_sync(const char *path);
/* Removes a folder and the files in it; one that is not there is fine. Folders in it make it fail. MF_EIO. */
mf_status mf_folder_remove(const char *path);
/* Calls visit for every name in the folder but "." and "..", in no order; what visit fails with ends the
 * walk. A folder that is not there has no names. MF_EIO. */
mf_status mf_folder_walk(const char *path, mf_status (*visit)(void *context, const char *name),
                         void *context);
/* Renames, and sees to it that the folder `parent` of both knows it. MF_EIO. */
mf_status mf_folder_rename(const char *parent, const char *from, const char *to);

#endif
