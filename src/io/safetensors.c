/* safetensors.c: maps a safetensors file, believes nothing its header says, and hands out tensors.
 * The format: https://github.com/huggingface/safetensors#format. */
#include "io/safetensors.h"
#include "io/file.h"
#include "io/json_file.h"
#include "io/values.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct mf_safetensors {
    char *path; /* owned */
    const uint8_t *map;
    size_t map_bytes;
    size_t data_begin;
    int count;
    mf_tensor_info *tensor;   /* in the order of their data */
    mf_tensor_info **by_name; /* sorted */
    char *names;              /* what the tensors' names point into */
    json_t *metadata;         /* texts by name; NULL: none */
};

static const struct known_type {
    const char *name;
    int bits;
    mf_file_type type;
} known_types[] = {
    {"F32", 32, MF_FILE_F32},      {"BF16", 16, MF_FILE_BF16},    {"F16", 16, MF_FILE_F16},
    {"F64", 64, MF_FILE_OTHER},    {"I64", 64, MF_FILE_OTHER},    {"I32", 32, MF_FILE_OTHER},
    {"I16", 16, MF_FILE_OTHER},    {"I8", 8, MF_FILE_OTHER},      {"U64", 64, MF_FILE_OTHER},
    {"U32", 32, MF_FILE_OTHER},    {"U16", 16, MF_FILE_OTHER},    {"U8", 8, MF_FILE_OTHER},
    {"BOOL", 8, MF_FILE_OTHER},    {"C64", 64, MF_FILE_OTHER},    {"F8_E4M3", 8, MF_FILE_OTHER},
    {"F8_E5M2", 8, MF_FILE_OTHER}, {"F8_E8M0", 8, MF_FILE_OTHER}, {"F6_E2M3", 6, MF_FILE_OTHER},
    {"F6_E3M2", 6, MF_FILE_OTHER}, {"F4", 4, MF_FILE_OTHER},
};

static const struct known_type *find_type(const char *name) {
    for (size_t i = 0; i < sizeof known_types / sizeof *known_types; i++)
        if (!strcmp(known_types[i].name, name)) return &known_types[i];
    return NULL;
}

/* A name in a message: long ones are cut, so that what is wrong with it still fits. */
#define TENSOR "%s: tensor %.100s "

static mf_status read_type(const char *path, const json_t *entry, mf_tensor_info *info,
                           const struct known_type **out) {
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (!name) return MF_FAIL(MF_EFORMAT, TENSOR "states no dtype", path, info->name);
    const struct known_type *type = find_type(name);
    if (!type) return MF_FAIL(MF_EUNSUPPORTED, TENSOR "has the unknown type %.40s", path, info->name, name);
    info->type = type->type;
    memcpy(info->type_name, type->name, strlen(type->name) + 1);
    *out = type;
    return MF_OK;
}

static mf_status read_shape(const char *path, const json_t *entry, mf_tensor_info *info, int64_t *values) {
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) return MF_FAIL(MF_EFORMAT, TENSOR "states no shape", path, info->name);
    if (json_array_size(shape) > MF_TENSOR_DIMS)
        return MF_FAIL(MF_EUNSUPPORTED, TENSOR "has %zu dimensions; at most %d are supported", path,
                       info->name, json_array_size(shape), MF_TENSOR_DIMS);
    info->dims = (int)json_array_size(shape);
    *values = 1;
    for (int i = 0; i < info->dims; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        info->shape[i] = json_integer_value(size);
        if (!json_is_integer(size) || info->shape[i] < 0)
            return MF_FAIL(MF_EFORMAT, TENSOR "has a size in its shape that is not a whole number from 0",
                           path, info->name);
        if (__builtin_mul_overflow(*values, info->shape[i], values))
            return MF_FAIL(MF_EFORMAT, TENSOR "has a shape that overflows", path, info->name);
    }
    return MF_OK;
}

/* Sets info->data and ->bytes to where the header says, which is inside the file. */
static mf_status read_offsets(const mf_safetensors *file, const json_t *entry, mf_tensor_info *info) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return MF_FAIL(MF_EFORMAT, TENSOR "has data_offsets that are not two whole numbers", file->path,
                       info->name);
    int64_t begin = json_integer_value(first), end = json_integer_value(last);
    int64_t available = (int64_t)(file->map_bytes - file->data_begin);
    if (begin < 0 || end < begin || end > available)
        return MF_FAIL(MF_EFORMAT, TENSOR "has data_offsets %lld to %lld; the file's data are 0 to %lld",
                       file->path, info->name, (long long)begin, (long long)end, (long long)available);
    info->data = file->map + file->data_begin + begin;
    info->bytes = (size_t)(end - begin);
    return MF_OK;
}

static mf_status read_tensor(const mf_safetensors *file, const json_t *entry, mf_tensor_info *info) {
    const struct known_type *type = NULL;
    int64_t values = 0, bits = 0;
    if (!json_is_object(entry))
        return MF_FAIL(MF_EFORMAT, TENSOR "is no JSON object", file->path, info->name);
    MF_TRY(read_type(file->path, entry, info, &type));
    MF_TRY(read_shape(file->path, entry, info, &values));
    MF_TRY(read_offsets(file, entry, info));
    if (__builtin_mul_overflow(values, (int64_t)type->bits, &bits) || bits % 8 ||
        (uint64_t)bits / 8 != info->bytes)
        return MF_FAIL(MF_EFORMAT, TENSOR "has %zu bytes of data, which %lld values of %s do not fill",
                       file->path, info->name, info->bytes, (long long)values, type->name);
    return MF_OK;
}

static mf_status check_metadata(const mf_safetensors *file, json_t *metadata) {
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return MF_FAIL(MF_EFORMAT, "%s: __metadata__ is no JSON object", file->path);
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return MF_FAIL(MF_EFORMAT, "%s: __metadata__ holds something that is not text under %.100s",
                           file->path, key);
    }
    return MF_OK;
}

static int compare_data(const void *a, const void *b) {
    const mf_tensor_info *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    if (p != q) return p < q ? -1 : 1;
    /* An empty tensor comes before the one that begins where it lies. */
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int compare_names(const void *a, const void *b) {
    const mf_tensor_info *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Every byte of data must belong to exactly one tensor. Needs the order of compare_data. */
static mf_status check_cover(const mf_safetensors *file) {
    const uint8_t *at = file->map + file->data_begin, *end = file->map + file->map_bytes;
    for (int i = 0; i < file->count; i++) {
        const mf_tensor_info *t = &file->tensor[i];
        if ((const uint8_t *)t->data != at)
            return MF_FAIL(MF_EFORMAT, TENSOR "%s the data before it", file->path, t->name,
                           (const uint8_t *)t->data < at ? "overlaps" : "leaves a hole after");
        at += t->bytes;
    }
    if (at != end)
        return MF_FAIL(MF_EFORMAT, "%s: its last %td bytes belong to no tensor", file->path, end - at);
    return MF_OK;
}

static mf_status allocate(mf_safetensors *file, json_t *header) {
    const char *name;
    json_t *entry;
    size_t name_bytes = 0,
           count = json_object_size(header) - (json_object_get(header, "__metadata__") ? 1 : 0);
    json_object_foreach(header, name, entry) name_bytes += strlen(name) + 1;
    MF_TRY(mf_host_alloc(name_bytes, 1, &file->names));
    MF_TRY(mf_host_alloc(count, sizeof *file->tensor, &file->tensor));
    return mf_host_alloc(count, sizeof(mf_tensor_info *), &file->by_name);
}

static mf_status read_tensors(mf_safetensors *file, json_t *header) {
    const char *name;
    json_t *entry;
    MF_TRY(allocate(file, header));
    char *next_name = file->names;
    json_object_foreach(header, name, entry) {
        if (!strcmp(name, "__metadata__")) {
            MF_TRY(check_metadata(file, entry));
            file->metadata = json_incref(entry);
            continue;
        }
        mf_tensor_info *info = &file->tensor[file->count++];
        info->name = next_name;
        next_name = stpcpy(next_name, name) + 1;
        MF_TRY(read_tensor(file, entry, info));
    }
    qsort(file->tensor, (size_t)file->count, sizeof *file->tensor, compare_data);
    for (int i = 0; i < file->count; i++) file->by_name[i] = &file->tensor[i];
    qsort(file->by_name, (size_t)file->count, sizeof *file->by_name, compare_names);
    return check_cover(file);
}

static mf_status map_file(mf_safetensors *file) {
    int fd = -1;
    int64_t size = 0;
    MF_TRY(mf_regular_open(file->path, O_RDONLY, &fd, &size));
    void *map = size < 8 ? NULL : mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
    int cause = errno;
    close(fd);
    if (!map)
        return MF_FAIL(MF_EFORMAT, "%s: is no safetensors file: %lld bytes are too few", file->path,
                       (long long)size);
    if (map == MAP_FAILED) return MF_FAIL(MF_EIO, "%s: cannot be mapped: %s", file->path, strerror(cause));
    file->map = map;
    file->map_bytes = (size_t)size;
    return MF_OK;
}

static mf_status parse_header(mf_safetensors *file, json_t **out) {
    uint64_t length;
    memcpy(&length, file->map, sizeof length);
    if (length > MF_SAFETENSORS_HEADER_LIMIT || length > file->map_bytes - 8)
        return MF_FAIL(
            MF_EFORMAT,
            "%s: is no safetensors file or cut short: its header would have %llu bytes, the file %zu",
            file->path, (unsigned long long)length, file->map_bytes);
    const char *text = (const char *)file->map + 8;
    if (length == 0 || text[0] != '{')
        return MF_FAIL(MF_EFORMAT, "%s: is no safetensors file: its header is no JSON object", file->path);
    file->data_begin = 8 + (size_t)length;
    return mf_json_parse(file->path, text, (size_t)length, out);
}

mf_status mf_safetensors_open(const char *path, mf_safetensors **out) {
    mf_status status = MF_OK;
    mf_safetensors *file = NULL;
    json_t *header = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *file, &file));
    MF_GO(mf_host_strdup(path, &file->path));
    MF_GO(map_file(file));
    MF_GO(parse_header(file, &header));
    MF_GO(read_tensors(file, header));
    *out = file;
    file = NULL;
fail:
    json_decref(header);
    mf_safetensors_close(file);
    return status;
}

void mf_safetensors_close(mf_safetensors *file) {
    if (!file) return;
    void *map = (void *)(uintptr_t)file->map;
    if (map) munmap(map, file->map_bytes);
    json_decref(file->metadata);
    mf_host_free(file->tensor);
    mf_host_free(file->by_name);
    mf_host_free(file->names);
    mf_host_free(file->path);
    mf_host_free(file);
}

const char *mf_safetensors_metadata(const mf_safetensors *file, const char *name) {
    return json_string_value(json_object_get(file->metadata, name));
}

int mf_safetensors_count(const mf_safetensors *file) { return file->count; }

const mf_tensor_info *mf_safetensors_at(const mf_safetensors *file, int index) {
    return &file->tensor[index];
}

const mf_tensor_info *mf_safetensors_find(const mf_safetensors *file, const char *name) {
    mf_tensor_info wanted = {.name = name}, *key = &wanted;
    mf_tensor_info **found =
        bsearch(&key, file->by_name, (size_t)file->count, sizeof *file->by_name, compare_names);
    return found ? *found : NULL;
}

mf_status mf_slice_check(const char *name, int64_t tensor_rows, int64_t tensor_cols, int64_t first_row,
                         int64_t rows, int64_t first_col, int64_t cols) {
    bool inside = first_row >= 0 && rows >= 0 && rows <= tensor_rows && first_row <= tensor_rows - rows &&
                  first_col >= 0 && cols >= 0 && cols <= tensor_cols && first_col <= tensor_cols - cols;
    if (inside) return MF_OK;
    return MF_FAIL(MF_EINVAL,
                   "tensor %.100s is %lld x %lld; %lld rows from %lld and %lld columns from %lld leave it",
                   name, (long long)tensor_rows, (long long)tensor_cols, (long long)rows,
                   (long long)first_row, (long long)cols, (long long)first_col);
}

mf_status mf_tensor_read(const mf_tensor_info *t, int64_t first_row, int64_t rows, int64_t first_col,
                         int64_t cols, float *out) {
    if (t->type == MF_FILE_OTHER)
        return MF_FAIL(MF_EUNSUPPORTED, "tensor %.100s is %s; F32, BF16 and F16 can be read", t->name,
                       t->type_name);
    if (t->dims != 1 && t->dims != 2)
        return MF_FAIL(MF_EINVAL, "tensor %.100s has %d dimensions; 1 or 2 can be read", t->name, t->dims);
    int64_t tensor_rows = t->dims == 2 ? t->shape[0] : 1, tensor_cols = t->shape[t->dims - 1];
    MF_TRY(mf_slice_check(t->name, tensor_rows, tensor_cols, first_row, rows, first_col, cols));
    if (rows == 0 || cols == 0) return MF_OK; /* a shape of no values may have sizes of any size */
    int64_t value_bytes = (int64_t)mf_file_type_bytes(t->type);
    const uint8_t *from = (const uint8_t *)t->data + (first_row * tensor_cols + first_col) * value_bytes;
    if (cols == tensor_cols) { /* rows follow each other: one run */
        cols *= rows;
        rows = 1;
    }
    for (int64_t r = 0; r < rows; r++)
        mf_values_widen(t->type, from + r * tensor_cols * value_bytes, cols, out + r * cols);
    return MF_OK;
}
