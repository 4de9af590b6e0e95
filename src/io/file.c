/* file.c: whole small files, folders, and the exact reads and writes under everything else here. */
#include "io/file.h"
#include "meshfold/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* mf_file_read is for configurations, tokenizers and the like: what is larger was named by mistake. */
static const int64_t whole_file_limit_bytes = (int64_t)256 << 20;

mf_status mf_format(char **out, const char *format, ...) {
    va_list arguments;
    *out = NULL;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) return MF_FAIL(MF_EINVAL, "text cannot be formatted: %s", format);
    MF_TRY(mf_host_alloc((size_t)length + 1, 1, out));
    va_start(arguments, format);
    vsnprintf(*out, (size_t)length + 1, format, arguments);
    va_end(arguments);
    return MF_OK;
}

mf_status mf_regular_open(const char *path, int flags, int *out, int64_t *size) {
    struct stat info;
    *out = -1;
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return MF_FAIL(MF_EIO, "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &info)) {
        int cause = errno;
        close(fd);
        return MF_FAIL(MF_EIO, "%s: cannot be examined: %s", path, strerror(cause));
    }
    if (!S_ISREG(info.st_mode)) {
        close(fd);
        return MF_FAIL(MF_EIO, "%s: is not a regular file", path);
    }
    *out = fd;
    *size = info.st_size;
    return MF_OK;
}

mf_status mf_regular_map(const char *path, const uint8_t **out, size_t *bytes) {
    int fd = -1;
    int64_t size = 0;
    MF_TRY(mf_regular_open(path, O_RDONLY, &fd, &size));
    void *map = size ? mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    int cause = errno;
    close(fd);
    if (!map) return MF_FAIL(MF_EFORMAT, "%s: is empty", path);
    if (map == MAP_FAILED) return MF_FAIL(MF_EIO, "%s: cannot be mapped: %s", path, strerror(cause));
    *out = map;
    *bytes = (size_t)size;
    return MF_OK;
}

void mf_regular_unmap(const uint8_t *map, size_t bytes) {
    if (map) munmap((void *)(uintptr_t)map, bytes);
}

mf_status mf_fd_read(int fd, void *out, size_t bytes, int64_t offset, const char *path) {
    char *to = out;
    while (bytes > 0) {
        ssize_t got = pread(fd, to, bytes, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return MF_FAIL(MF_EIO, "%s: cannot be read: %s", path, strerror(errno));
        if (got == 0) return MF_FAIL(MF_EIO, "%s: ends %zu bytes too early", path, bytes);
        to += got;
        offset += got;
        bytes -= (size_t)got;
    }
    return MF_OK;
}

mf_status mf_fd_write(int fd, const void *data, size_t bytes, int64_t offset, const char *path) {
    const char *from = data;
    while (bytes > 0) {
        ssize_t put = pwrite(fd, from, bytes, offset);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return MF_FAIL(MF_EIO, "%s: cannot be written: %s", path, strerror(put ? errno : ENOSPC));
        from += put;
        offset += put;
        bytes -= (size_t)put;
    }
    return MF_OK;
}

/* A rename would silently put a file where a device or a pipe was. */
static mf_status check_replaceable(const char *path) {
    struct stat info;
    if (lstat(path, &info)) {
        if (errno == ENOENT) return MF_OK;
        return MF_FAIL(MF_EIO, "%s: cannot be written: %s", path, strerror(errno));
    }
    if (S_ISREG(info.st_mode) || S_ISLNK(info.st_mode)) return MF_OK;
    return MF_FAIL(MF_EIO, "%s: cannot be written: it exists and is not a regular file", path);
}

mf_status mf_draft_open(const char *path, mf_draft *out) {
    static atomic_uint serial;
    *out = (mf_draft){.fd = -1};
    MF_TRY(check_replaceable(path));
    for (int attempt = 0; attempt < 100; attempt++) {
        char *name = NULL;
        MF_TRY(mf_format(&name, "%s.%ld-%u.part", path, (long)getpid(), atomic_fetch_add(&serial, 1)));
        int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        int cause = errno;
        if (fd >= 0) {
            *out = (mf_draft){.path = name, .fd = fd};
            return MF_OK;
        }
        mf_host_free(name);
        if (cause != EEXIST) return MF_FAIL(MF_EIO, "%s: cannot be created: %s", path, strerror(cause));
    }
    return MF_FAIL(MF_EIO, "%s: cannot be created: its folder is full of unfinished %s.*.part files", path,
                   path);
}

mf_status mf_draft_keep(mf_draft *draft, const char *path) {
    if (fsync(draft->fd)) return MF_FAIL(MF_EIO, "%s: cannot be flushed: %s", path, strerror(errno));
    int closed = close(draft->fd);
    draft->fd = -1;
    if (closed) return MF_FAIL(MF_EIO, "%s: cannot be closed: %s", path, strerror(errno));
    if (rename(draft->path, path))
        return MF_FAIL(MF_EIO, "%s: cannot be put in place: %s", path, strerror(errno));
    mf_host_free(draft->path);
    draft->path = NULL;
    return MF_OK;
}

void mf_draft_drop(mf_draft *draft) {
    if (!draft->path) return;
    if (draft->fd >= 0) close(draft->fd);
    unlink(draft->path);
    mf_host_free(draft->path);
    *draft = (mf_draft){.fd = -1};
}

/* Doubles a NUL-terminated buffer of *capacity bytes. */
static mf_status grow(char **buffer, size_t *capacity) {
    char *larger = NULL;
    MF_TRY(mf_host_alloc(*capacity * 2, 1, &larger));
    memcpy(larger, *buffer, *capacity);
    mf_host_free(*buffer);
    *buffer = larger;
    *capacity *= 2;
    return MF_OK;
}

/* Reads to the end rather than to the stated size: files in /proc state none, and others may be growing. */
static mf_status read_to_end(int fd, const char *path, char **buffer, size_t capacity, size_t *used) {
    *used = 0;
    for (;;) {
        if (*used + 1 == capacity) MF_TRY(grow(buffer, &capacity));
        ssize_t got = read(fd, *buffer + *used, capacity - 1 - *used);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return MF_FAIL(MF_EIO, "%s: cannot be read: %s", path, strerror(errno));
        if (got == 0) break;
        *used += (size_t)got;
        if (*used > (size_t)whole_file_limit_bytes) return MF_FAIL(MF_EIO, "%s: grows without end", path);
    }
    (*buffer)[*used] = 0;
    return MF_OK;
}

mf_status mf_file_read(const char *path, char **content, size_t *bytes) {
    mf_status status = MF_OK;
    int fd = -1;
    int64_t size = 0;
    char *buffer = NULL;
    *content = NULL;
    *bytes = 0;
    MF_GO(mf_regular_open(path, O_RDONLY, &fd, &size));
    if (size > whole_file_limit_bytes) {
        MF_GO(MF_FAIL(MF_EIO, "%s: has %lld bytes; a file of this kind has at most %lld", path,
                      (long long)size, (long long)whole_file_limit_bytes));
    }
    size_t capacity = (size_t)mf_max(size, 4094) + 2;
    MF_GO(mf_host_alloc(capacity, 1, &buffer));
    MF_GO(read_to_end(fd, path, &buffer, capacity, bytes));
    *content = buffer;
    buffer = NULL;
fail:
    mf_host_free(buffer);
    if (fd >= 0) close(fd);
    return status;
}

mf_status mf_file_write(const char *path, const char *content, size_t bytes) {
    mf_status status = MF_OK;
    mf_draft draft = {0};
    MF_GO(mf_draft_open(path, &draft));
    MF_GO(mf_fd_write(draft.fd, content, bytes, 0, path));
    MF_GO(mf_draft_keep(&draft, path));
fail:
    mf_draft_drop(&draft);
    return status;
}

static mf_status make_one(const char *path) {
    struct stat info;
    if (!mkdir(path, 0777)) return MF_OK;
    int cause = errno;
    if (!stat(path, &info) && S_ISDIR(info.st_mode)) return MF_OK;
    return MF_FAIL(MF_EIO, "%s: cannot be made a folder: %s", path, strerror(cause));
}

mf_status mf_folder_make(const char *path) {
    mf_status status = MF_OK;
    char *part = NULL;
    if (!*path) return MF_FAIL(MF_EINVAL, "a folder with an empty name cannot be made");
    MF_TRY(mf_host_strdup(path, &part));
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        MF_GO(make_one(part));
        *slash = '/';
    }
    MF_GO(make_one(part));
fail:
    mf_host_free(part);
    return status;
}
