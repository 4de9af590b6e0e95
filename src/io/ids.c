/* ids.c: see ids.h. */
#include "io/ids.h"

#include "io/file.h"
#include "io/json_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static mf_status description_of(const char *path, char **out) {
    size_t length = strlen(path);
    return mf_format(out, "%.*s.json", (int)(length - 4), path);
}

bool mf_ids_described(const char *path) {
    size_t length = strlen(path);
    char *description = NULL;
    if (length < 5 || strcmp(path + length - 4, ".bin") != 0 || description_of(path, &description))
        return false;
    bool found = access(description, F_OK) == 0;
    mf_host_free(description);
    return found;
}

static mf_status read_number(const char *path, const json_t *root, const char *key, int64_t least,
                             int64_t most, int64_t *out) {
    const json_t *value = json_object_get(root, key);
    *out = json_integer_value(value);
    if (json_is_integer(value) && *out >= least && *out <= most) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: %s must be a whole number from %lld to %lld", path, key, (long long)least,
                   (long long)most);
}

static mf_status read_separator(const char *path, const json_t *root, mf_text *out) {
    const json_t *value = json_object_get(root, "separator");
    int64_t id = 0;
    out->separated = value && !json_is_null(value);
    if (out->separated) MF_TRY(read_number(path, root, "separator", 0, out->vocab - 1, &id));
    out->separator = (int32_t)id;
    return MF_OK;
}

static mf_status read_fields(const char *path, const json_t *root, mf_text *out) {
    const char *type = json_string_value(json_object_get(root, "type"));
    if (!type || (strcmp(type, "uint16") != 0 && strcmp(type, "uint32") != 0))
        return MF_FAIL(MF_EFORMAT, "%s: type must be \"uint16\" or \"uint32\"", path);
    out->width = strcmp(type, "uint16") == 0 ? 2 : 4;
    MF_TRY(read_number(path, root, "count", 1, INT64_MAX / 8, &out->count));
    MF_TRY(read_number(path, root, "vocab_size", 1, out->width == 2 ? 65536 : INT32_MAX, &out->vocab));
    return read_separator(path, root, out);
}

static mf_status read_description(const char *ids, mf_text *out) {
    char *path = NULL;
    json_t *root = NULL;
    MF_TRY(description_of(ids, &path));
    mf_status status = mf_json_read(path, &root);
    if (!status)
        status = json_is_object(root) ? read_fields(path, root, out)
                                      : MF_FAIL(MF_EFORMAT, "%s: is no JSON object", path);
    json_decref(root);
    mf_host_free(path);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

/* Every id, once: what follows can then believe them. */
static mf_status check_ids(const char *path, const mf_text *text) {
    for (int64_t i = 0; i < text->count; i++) {
        int32_t id = mf_text_at(text, i);
        if (id < 0 || id >= text->vocab)
            return MF_FAIL(MF_EFORMAT, "%s: id %lld is %u, beyond a vocabulary of %lld", path, (long long)i,
                           (unsigned)id, (long long)text->vocab);
    }
    return MF_OK;
}

mf_status mf_ids_map(const char *path, mf_text *out) {
    mf_text text = {.files = 1};
    int fd = -1;
    int64_t bytes = 0;
    MF_TRY(read_description(path, &text));
    MF_TRY(mf_regular_open(path, O_RDONLY, &fd, &bytes));
    if (bytes != text.count * text.width) {
        close(fd);
        return MF_FAIL(MF_EFORMAT, "%s: has %lld bytes, but its description tells of %lld ids of %d bytes",
                       path, (long long)bytes, (long long)text.count, text.width);
    }
    void *map = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, fd, 0);
    int cause = errno;
    close(fd);
    if (map == MAP_FAILED) return MF_FAIL(MF_EIO, "%s: cannot be mapped: %s", path, strerror(cause));
    text.bytes = map;
    mf_status status = check_ids(path, &text);
    if (status)
        mf_ids_unmap(&text);
    else
        *out = text;
    return status;
}

void mf_ids_unmap(mf_text *text) { munmap(text->bytes, (size_t)(text->count * text->width)); }
