/* tensor_writer.c: a safetensors file made whole first, then filled in slice by slice by any number of
 * writers. */
#include "io/file.h"
#include "io/safetensors.h"
#include "meshfold/io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { SCRATCH = 8192 }; /* values converted at a time; on the stack, so that writers can share one handle */

typedef struct place {
    char *name;         /* owned */
    int64_t rows, cols; /* a 1-D tensor is one row */
    int64_t begin;      /* from the file's start */
} place;

struct mf_tensor_writer {
    char *path; /* owned */
    int fd;
    mf_dtype type;
    int count;
    place *place;
};

/* A header for tensors of one type. */
static mf_status header_of(const mf_tensor_spec *specs, int count, mf_dtype type, char **header,
                           size_t *header_bytes, int64_t *data_bytes) {
    mf_status status = MF_OK;
    mf_tensor_info *tensors = NULL;
    *header = NULL;
    MF_TRY(mf_host_alloc((size_t)count, sizeof *tensors, &tensors));
    for (int i = 0; i < count; i++) MF_GO(mf_tensor_describe(&specs[i], type, &tensors[i]));
    MF_GO(mf_tensor_header(tensors, count, NULL, header, header_bytes, data_bytes));
fail:
    mf_host_free(tensors);
    return status;
}

/* Takes the disk's space now, where the file system can, so that a full disk is found before training and not
 * after. */
static mf_status reserve(int fd, int64_t bytes, const char *path) {
    if (!fallocate(fd, 0, 0, bytes)) return MF_OK;
    if ((errno == EOPNOTSUPP || errno == ENOSYS) && !ftruncate(fd, bytes)) return MF_OK;
    return MF_FAIL(MF_EIO, "%s: no room for %lld bytes: %s", path, (long long)bytes, strerror(errno));
}

mf_status mf_tensors_create(const char *path, const mf_tensor_spec *specs, int count, mf_dtype type) {
    mf_status status = MF_OK;
    char *header = NULL;
    size_t header_bytes = 0;
    int64_t data_bytes = 0;
    mf_draft draft = {0};
    MF_GO(header_of(specs, count, type, &header, &header_bytes, &data_bytes));
    MF_GO(mf_draft_open(path, &draft));
    MF_GO(reserve(draft.fd, (int64_t)header_bytes + data_bytes, path));
    MF_GO(mf_fd_write(draft.fd, header, header_bytes, 0, path));
    MF_GO(mf_draft_keep(&draft, path));
fail:
    mf_draft_drop(&draft);
    mf_host_free(header);
    return status;
}

/* A file made from other specs would be filled in at wrong places. */
static mf_status check_header(int fd, int64_t size, const char *header, size_t header_bytes,
                              int64_t data_bytes, const char *path) {
    char *found = NULL;
    bool same = size == (int64_t)header_bytes + data_bytes;
    if (same) {
        MF_TRY(mf_host_alloc(header_bytes, 1, &found));
        mf_status status = mf_fd_read(fd, found, header_bytes, 0, path);
        same = !status && !memcmp(found, header, header_bytes);
        mf_host_free(found);
        MF_TRY(status);
    }
    if (!same) return MF_FAIL(MF_EINVAL, "%s: was not created for the tensors that are to be written", path);
    return MF_OK;
}

static mf_status set_places(mf_tensor_writer *writer, const mf_tensor_spec *specs, int count, int64_t begin) {
    MF_TRY(mf_host_alloc((size_t)count, sizeof *writer->place, &writer->place));
    for (int i = 0; i < count; i++, writer->count++) {
        place *p = &writer->place[i];
        *p = (place){.rows = mf_max(specs[i].rows, 1), .cols = specs[i].cols, .begin = begin};
        MF_TRY(mf_host_strdup(specs[i].name, &p->name));
        begin += p->rows * p->cols * (int64_t)mf_dtype_bytes(writer->type);
    }
    return MF_OK;
}

static void destroy(mf_tensor_writer *writer) {
    if (writer->fd >= 0) close(writer->fd);
    for (int i = 0; i < writer->count; i++) mf_host_free(writer->place[i].name);
    mf_host_free(writer->place);
    mf_host_free(writer->path);
    mf_host_free(writer);
}

mf_status mf_tensors_open_writer(const char *path, const mf_tensor_spec *specs, int count, mf_dtype type,
                                 mf_tensor_writer **out) {
    mf_status status = MF_OK;
    mf_tensor_writer *writer = NULL;
    char *header = NULL;
    size_t header_bytes = 0;
    int64_t data_bytes = 0, size = 0;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *writer, &writer));
    writer->fd = -1;
    writer->type = type;
    MF_GO(mf_host_strdup(path, &writer->path));
    MF_GO(header_of(specs, count, type, &header, &header_bytes, &data_bytes));
    MF_GO(set_places(writer, specs, count, (int64_t)header_bytes));
    MF_GO(mf_regular_open(path, O_RDWR, &writer->fd, &size));
    MF_GO(check_header(writer->fd, size, header, header_bytes, data_bytes, path));
    *out = writer;
    writer = NULL;
fail:
    mf_host_free(header);
    if (writer) destroy(writer);
    return status;
}

/* n values that lie one after another in the file. */
static mf_status write_run(const mf_tensor_writer *writer, int64_t offset, const float *in, int64_t n) {
    uint16_t scratch[SCRATCH];
    if (writer->type == MF_F32)
        return mf_fd_write(writer->fd, in, (size_t)n * sizeof *in, offset, writer->path);
    for (int64_t done = 0; done < n; done += SCRATCH) {
        int64_t part = mf_min(n - done, SCRATCH);
        for (int64_t i = 0; i < part; i++) scratch[i] = mf_bf16_from_f32(in[done + i]);
        MF_TRY(mf_fd_write(writer->fd, scratch, (size_t)part * 2, offset + done * 2, writer->path));
    }
    return MF_OK;
}

mf_status mf_tensors_write(mf_tensor_writer *writer, int index, int64_t first_row, int64_t rows,
                           int64_t first_col, int64_t cols, const float *in) {
    if (index < 0 || index >= writer->count)
        return MF_FAIL(MF_EINVAL, "%s: has no tensor %d, only %d", writer->path, index, writer->count);
    const place *p = &writer->place[index];
    MF_TRY(mf_slice_check(p->name, p->rows, p->cols, first_row, rows, first_col, cols));
    int64_t value_bytes = (int64_t)mf_dtype_bytes(writer->type);
    int64_t offset = p->begin + (first_row * p->cols + first_col) * value_bytes;
    if (cols == p->cols) return write_run(writer, offset, in, rows * cols);
    for (int64_t r = 0; r < rows; r++)
        MF_TRY(write_run(writer, offset + r * p->cols * value_bytes, in + r * cols, cols));
    return MF_OK;
}

mf_status mf_tensors_close_writer(mf_tensor_writer *writer) {
    mf_status status = MF_OK;
    if (!writer) return MF_OK;
    if (fsync(writer->fd))
        status = MF_FAIL(MF_EIO, "%s: cannot be flushed: %s", writer->path, strerror(errno));
    int closed = close(writer->fd);
    writer->fd = -1;
    if (closed && !status)
        status = MF_FAIL(MF_EIO, "%s: cannot be closed: %s", writer->path, strerror(errno));
    destroy(writer);
    return status;
}
