/* digest.h: a file's size and checksum, by which a later reader knows that it is the one that was written. */
#ifndef MF_IO_DIGEST_H
#define MF_IO_DIGEST_H

#include "meshfold/base.h"

typedef struct mf_digest {
    int64_t bytes;
    uint64_t xxh3; /* XXH3, 64 bits, seed 0: xxhsum -H3 prints the same */
} mf_digest;

mf_digest mf_digest_of(const void *data, size_t bytes);
/* Reads the whole file, a buffer at a time. MF_EIO. */
mf_status mf_digest_file(const char *path, mf_digest *out);
/* MF_EFORMAT says how the file differs: it is not there, of another size, or its content has changed. */
mf_status mf_digest_check(const char *path, mf_digest expected);
/* The same, but the content is not read. */
mf_status mf_digest_check_size(const char *path, mf_digest expected);

#endif
