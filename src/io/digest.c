/* digest.c: see digest.h. */
#include "io/digest.h"
#include "io/file.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

enum { CHUNK_BYTES = 1 << 20 };

mf_digest mf_digest_of(const void *data, size_t bytes) {
    return (mf_digest){.bytes = (int64_t)bytes, .xxh3 = XXH3_64bits(data, bytes)};
}

static mf_status digest_open(int fd, int64_t size, const char *path, mf_digest *out) {
    mf_status status = MF_OK;
    char *chunk = NULL;
    XXH3_state_t *state = XXH3_createState();
    if (!state) MF_GO(MF_FAIL(MF_ENOMEM, "%s: no memory for its checksum", path));
    MF_GO(mf_host_alloc(CHUNK_BYTES, 1, &chunk));
    XXH3_64bits_reset(state);
    for (int64_t at = 0; at < size; at += CHUNK_BYTES) {
        size_t part = (size_t)mf_min(size - at, CHUNK_BYTES);
        MF_GO(mf_fd_read(fd, chunk, part, at, path));
        XXH3_64bits_update(state, chunk, part);
    }
    *out = (mf_digest){.bytes = size, .xxh3 = XXH3_64bits_digest(state)};
fail:
    mf_host_free(chunk);
    XXH3_freeState(state);
    return status;
}

mf_status mf_digest_file(const char *path, mf_digest *out) {
    int fd = -1;
    int64_t size = 0;
    MF_TRY(mf_regular_open(path, O_RDONLY, &fd, &size));
    mf_status status = digest_open(fd, size, path, out);
    close(fd);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

static mf_status check_bytes(const char *path, int64_t bytes, mf_digest expected) {
    if (bytes == expected.bytes) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: has %lld bytes, but %lld were written", path, (long long)bytes,
                   (long long)expected.bytes);
}

mf_status mf_digest_check_size(const char *path, mf_digest expected) {
    int fd = -1;
    int64_t size = 0;
    MF_TRY(mf_regular_open(path, O_RDONLY, &fd, &size));
    close(fd);
    return check_bytes(path, size, expected);
}

mf_status mf_digest_check(const char *path, mf_digest expected) {
    mf_digest found = {0};
    MF_TRY(mf_digest_check_size(path, expected));
    MF_TRY(mf_digest_file(path, &found));
    MF_TRY(check_bytes(path, found.bytes, expected));
    if (found.xxh3 == expected.xxh3) return MF_OK;
    return MF_FAIL(MF_EFORMAT,
                   "%s: its content is not what was written: its checksum is %016llx, not %016llx", path,
                   (unsigned long long)found.xxh3, (unsigned long long)expected.xxh3);
}
