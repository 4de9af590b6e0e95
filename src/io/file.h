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

#endif
