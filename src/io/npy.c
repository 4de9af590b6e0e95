/* npy.c: see npy.h. */
#include "io/npy.h"
#include "meshfold/io.h"

#include <stdio.h>
#include <string.h>

static const char magic[6] = {'\x93', 'N', 'U', 'M', 'P', 'Y'};
enum { PREFIX = 10, ALIGNMENT = 64 };

/* What is left of the header. */
typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_spaces(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n')) c->at++;
}

/* Takes the word where it is next. */
static bool take(cursor *c, const char *word) {
    size_t length = strlen(word);
    skip_spaces(c);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0) return false;
    c->at += length;
    return true;
}

/* A quoted text without escapes, cut to what fits out. */
static bool take_text(cursor *c, char *out, size_t room) {
    bool single = take(c, "'");
    if (!single && !take(c, "\"")) return false;
    const char *end = memchr(c->at, single ? '\'' : '"', (size_t)(c->end - c->at));
    if (!end) return false;
    size_t length = (size_t)(end - c->at) < room ? (size_t)(end - c->at) : room - 1;
    memcpy(out, c->at, length);
    out[length] = 0;
    c->at = end + 1;
    return true;
}

static bool take_size(cursor *c, int64_t *out) {
    skip_spaces(c);
    const char *begin = c->at;
    for (*out = 0; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
        if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, *c->at - '0', out))
            return false;
    return c->at > begin;
}

/* What a header has told so far. */
typedef struct description {
    mf_npy npy;
    bool has_type, has_order, has_shape, columns_first;
} description;

static bool take_shape(cursor *c, description *d) {
    mf_npy *n = &d->npy;
    if (!take(c, "(")) return false;
    while (!take(c, ")")) {
        int64_t size;
        if (!take_size(c, &size)) return false;
        if (n->dims < MF_NPY_DIMS) n->size[n->dims] = size;
        n->dims++;
        if (take(c, ",")) continue;
        if (!take(c, ")")) return false;
        break;
    }
    return d->has_shape = true;
}

static bool take_order(cursor *c, description *d) {
    d->columns_first = take(c, "True");
    return d->has_order = d->columns_first || take(c, "False");
}

/* One "key: value". */
static bool take_entry(cursor *c, description *d) {
    char key[16];
    if (!take_text(c, key, sizeof key) || !take(c, ":")) return false;
    if (!strcmp(key, "descr") && !d->has_type)
        return d->has_type = take_text(c, d->npy.type, sizeof d->npy.type);
    if (!strcmp(key, "fortran_order") && !d->has_order) return take_order(c, d);
    return !strcmp(key, "shape") && !d->has_shape && take_shape(c, d);
}

static bool take_description(cursor *c, description *d) {
    if (!take(c, "{")) return false;
    while (!take(c, "}")) {
        if (!take_entry(c, d)) return false;
        if (take(c, ",")) continue;
        if (!take(c, "}")) return false;
        break;
    }
    skip_spaces(c);
    return c->at == c->end && d->has_type && d->has_order && d->has_shape;
}

/* Finds the header, and where it ends. */
static mf_status find_header(const char *path, const uint8_t *file, size_t bytes, cursor *out) {
    if (bytes < PREFIX || memcmp(file, magic, sizeof magic) != 0)
        return MF_FAIL(MF_EFORMAT, "%s: is no .npy file: it does not begin as one", path);
    int version = file[6];
    if (version < 1 || version > 3)
        return MF_FAIL(MF_EUNSUPPORTED, "%s: is of .npy version %d.%d; 1.0 to 3.0 can be read", path, version,
                       file[7]);
    size_t begin = version == 1 ? PREFIX : PREFIX + 2, length = (size_t)file[8] | (size_t)file[9] << 8;
    if (bytes < begin) return MF_FAIL(MF_EFORMAT, "%s: ends within its header", path);
    if (version > 1) length |= (size_t)file[10] << 16 | (size_t)file[11] << 24;
    if (length > bytes - begin)
        return MF_FAIL(MF_EFORMAT, "%s: its header would have %zu bytes, the file has %zu", path, length,
                       bytes);
    *out = (cursor){(const char *)file + begin, (const char *)file + begin + length};
    return MF_OK;
}

mf_status mf_npy_read(const char *path, const uint8_t *file, size_t bytes, mf_npy *out) {
    cursor c = {0};
    description d = {0};
    MF_TRY(find_header(path, file, bytes, &c));
    const char *text = c.at;
    int length = (int)mf_min(c.end - c.at, 80);
    if (!take_description(&c, &d))
        return MF_FAIL(MF_EFORMAT, "%s: its header describes no array of plain values: %.*s", path, length,
                       text);
    if (d.columns_first)
        return MF_FAIL(MF_EUNSUPPORTED, "%s: is in Fortran's order; C's order can be read", path);
    d.npy.data_begin = (size_t)(c.end - (const char *)file);
    *out = d.npy;
    return MF_OK;
}

mf_status mf_npy_check(const char *path, const mf_npy *n, size_t file_bytes, int64_t value_bytes) {
    int64_t bytes = value_bytes, there = (int64_t)(file_bytes - n->data_begin);
    for (int i = 0; i < n->dims; i++) {
        if (n->size[i] == 0) return MF_FAIL(MF_EFORMAT, "%s: is empty: dimension %d is 0", path, i + 1);
        if (__builtin_mul_overflow(bytes, n->size[i], &bytes)) bytes = INT64_MAX;
    }
    if (bytes == there) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: has %lld bytes of values; its header tells of %s%lld", path,
                   (long long)there, bytes == INT64_MAX ? "more than " : "", (long long)bytes);
}

void mf_npy_shape_text(const mf_npy *n, char out[MF_NPY_TEXT]) {
    int used = snprintf(out, MF_NPY_TEXT, "(");
    for (int i = 0; i < mf_min(n->dims, MF_NPY_DIMS); i++)
        used +=
            snprintf(out + used, MF_NPY_TEXT - (size_t)used, "%s%lld", i ? ", " : "", (long long)n->size[i]);
    snprintf(out + used, MF_NPY_TEXT - (size_t)used, "%s)", n->dims > MF_NPY_DIMS ? ", ..." : "");
}

mf_status mf_npy_write(const mf_npy *n, char **out, size_t *out_bytes) {
    mf_status status = MF_OK;
    char *text = NULL, shape[MF_NPY_TEXT];
    mf_npy_shape_text(n, shape);
    MF_GO(mf_format(&text, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", n->type, shape));
    size_t length = strlen(text), whole = (PREFIX + length + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    const char about[] = {1, 0, (char)((whole - PREFIX) & 255), (char)((whole - PREFIX) >> 8)};
    MF_GO(mf_host_alloc(whole, 1, out));
    memset(*out, ' ', whole);
    memcpy(*out, magic, sizeof magic);
    memcpy(*out + sizeof magic, about, sizeof about);
    memcpy(*out + PREFIX, text, length);
    (*out)[whole - 1] = '\n';
    *out_bytes = whole;
fail:
    mf_host_free(text);
    return status;
}
