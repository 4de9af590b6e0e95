/* tensor_stream.c: see tensor_stream.h. */
#include "io/tensor_stream.h"
#include "io/file.h"
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct mf_tensor_stream {
    char *path; /* owned */
    int fd;
    XXH3_state_t *hash;
    int64_t written, bytes; /* so far; of the whole file */
    bool finished;
};

mf_status mf_tensor_stream_write(mf_tensor_stream *s, const void *data, size_t bytes) {
    if ((int64_t)bytes > s->bytes - s->written)
        return MF_FAIL(MF_EINVAL, "%s: gets more values than its tensors have", s->path);
    MF_TRY(mf_fd_write(s->fd, data, bytes, s->written, s->path));
    XXH3_64bits_update(s->hash, data, bytes);
    s->written += (int64_t)bytes;
    return MF_OK;
}

static mf_status create(mf_tensor_stream *s) {
    s->fd = open(s->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (s->fd < 0) return MF_FAIL(MF_EIO, "%s: cannot be created: %s", s->path, strerror(errno));
    s->hash = XXH3_createState();
    if (!s->hash) return MF_FAIL(MF_ENOMEM, "%s: no memory for its checksum", s->path);
    XXH3_64bits_reset(s->hash);
    return MF_OK;
}

mf_status mf_tensor_stream_open(const char *path, const mf_tensor_info *tensors, int count, json_t *metadata,
                                mf_tensor_stream **out) {
    mf_status status = MF_OK;
    mf_tensor_stream *s = NULL;
    char *header = NULL;
    size_t header_bytes = 0;
    int64_t data_bytes = 0;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *s, &s));
    s->fd = -1;
    MF_GO(mf_host_strdup(path, &s->path));
    MF_GO(mf_tensor_header(tensors, count, metadata, &header, &header_bytes, &data_bytes));
    MF_GO(create(s));
    s->bytes = (int64_t)header_bytes + data_bytes;
    MF_GO(mf_tensor_stream_write(s, header, header_bytes));
    *out = s;
    s = NULL;
fail:
    mf_host_free(header);
    mf_tensor_stream_close(s);
    return status;
}

mf_status mf_tensor_stream_finish(mf_tensor_stream *s, mf_digest *out) {
    if (s->written < s->bytes)
        return MF_FAIL(MF_EINVAL, "%s: lacks %lld bytes of its tensors' values", s->path,
                       (long long)(s->bytes - s->written));
    if (fsync(s->fd)) return MF_FAIL(MF_EIO, "%s: cannot be flushed: %s", s->path, strerror(errno));
    int closed = close(s->fd);
    s->fd = -1;
    if (closed) return MF_FAIL(MF_EIO, "%s: cannot be closed: %s", s->path, strerror(errno));
    *out = (mf_digest){.bytes = s->bytes, .xxh3 = XXH3_64bits_digest(s->hash)};
    s->finished = true;
    return MF_OK;
}

void mf_tensor_stream_close(mf_tensor_stream *s) {
    if (!s) return;
    if (s->fd >= 0) close(s->fd);
    if (!s->finished && s->hash) unlink(s->path); /* what has a state was created */
    XXH3_freeState(s->hash);
    mf_host_free(s->path);
    mf_host_free(s);
}
