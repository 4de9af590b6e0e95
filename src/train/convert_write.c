/* convert_write.c: a conversion's tensors into safetensors files, a bounded piece at a time. */
#include "io/json_file.h"
#include "io/safetensors.h"
#include "io/tensor_stream.h"
#include "io/values.h"
#include "train/convert.h"

#include <string.h>

/* Values that are converted at once. */
enum { PIECE = 1 << 18 };

static int64_t elements_of(const mf_tensor_info *t) {
    int64_t elements = 1;
    for (int i = 0; i < t->dims; i++) elements *= t->shape[i];
    return elements;
}

static mf_status name_tensor(mf_conversion *c, int i) {
    if (!c->options->checkpoint) return MF_OK;
    MF_TRY(mf_piece_name(MF_ELEMENT_WEIGHT, c->from[i].name, 0, 0, &c->name[i]));
    c->to[i].name = c->name[i];
    return MF_OK;
}

static void type_tensor(mf_conversion *c, int i) {
    mf_tensor_info *t = &c->to[i];
    if (t->type == MF_FILE_OTHER || c->type == MF_FILE_OTHER) return;
    t->type = c->type;
    strcpy(t->type_name, mf_file_type_name(t->type));
    t->bytes = (size_t)elements_of(t) * mf_file_type_bytes(t->type);
}

/* One after another into a file until the next would not fit. */
static void cut_files(mf_conversion *c) {
    int64_t held = 0;
    for (int i = 0; i < c->count; i++) {
        int64_t bytes = (int64_t)c->to[i].bytes;
        if (i == 0 || (held > 0 && bytes > c->options->shard_bytes - held)) {
            c->first[c->files++] = i;
            held = 0;
        }
        held += bytes;
        c->result->bytes += bytes;
    }
    c->first[c->files] = c->count;
    c->result->tensors = c->count;
    c->result->files = c->files;
}

mf_status mf_conversion_plan(mf_conversion *c) {
    size_t count = (size_t)c->count;
    if (c->count == 0) return MF_FAIL(MF_EINVAL, "%s: has no tensors", c->result->from);
    MF_TRY(mf_host_alloc(count, sizeof *c->to, &c->to));
    MF_TRY(mf_host_alloc(count, sizeof *c->name, &c->name));
    MF_TRY(mf_host_alloc(count + 1, sizeof *c->first, &c->first));
    for (int i = 0; i < c->count; i++) {
        c->to[i] = c->from[i];
        type_tensor(c, i);
        MF_TRY(name_tensor(c, i));
    }
    cut_files(c);
    return mf_host_alloc((size_t)c->files, sizeof *c->digest, &c->digest);
}

/* What is under way, for progress, and where pieces are converted. */
typedef struct writer {
    mf_conversion *c;
    int64_t done;
    float *values;  /* [PIECE] */
    void *narrowed; /* [PIECE] of any type */
} writer;

static mf_status put(writer *w, mf_tensor_stream *stream, const void *data, size_t bytes) {
    const mf_convert_options *o = w->c->options;
    MF_TRY(mf_tensor_stream_write(stream, data, bytes));
    w->done += (int64_t)bytes;
    if (o->progress) o->progress(o->context, w->done, w->c->result->bytes);
    return MF_OK;
}

static mf_status copy_tensor(writer *w, mf_tensor_stream *stream, const mf_tensor_info *t) {
    const size_t most = PIECE * sizeof(float);
    for (size_t at = 0; at < t->bytes; at += most)
        MF_TRY(put(w, stream, (const char *)t->data + at, t->bytes - at < most ? t->bytes - at : most));
    return MF_OK;
}

static mf_status convert_piece(writer *w, mf_tensor_stream *stream, int i, int64_t first, int64_t n) {
    const mf_tensor_info *to = &w->c->to[i];
    MF_TRY(mf_conversion_read(w->c, i, first, n, w->values));
    int64_t bad = mf_values_narrow(to->type, w->values, n, w->narrowed);
    if (bad < n)
        return MF_FAIL(MF_EINVAL, "tensor %.200s has the value %g, which is too large for %s",
                       w->c->from[i].name, (double)w->values[bad], to->type_name);
    return put(w, stream, w->narrowed, (size_t)n * mf_file_type_bytes(to->type));
}

static mf_status write_tensor(writer *w, mf_tensor_stream *stream, int i) {
    const mf_tensor_info *from = &w->c->from[i];
    int64_t elements = elements_of(from);
    if (from->data && strcmp(from->type_name, w->c->to[i].type_name) == 0)
        return copy_tensor(w, stream, from);
    for (int64_t first = 0; first < elements; first += PIECE)
        MF_TRY(convert_piece(w, stream, i, first, mf_min(elements - first, PIECE)));
    return MF_OK;
}

static mf_status file_name(const mf_conversion *c, const char *folder, int file, char **out) {
    if (c->options->checkpoint) return mf_part_name(folder, file, out);
    if (c->files == 1) return mf_format(out, "%s/model.safetensors", folder);
    return mf_format(out, "%s/model-%05d-of-%05d.safetensors", folder, file + 1, c->files);
}

/* A part says how large the whole of each tensor is. */
static mf_status shapes_of(const mf_conversion *c, int file, json_t **out) {
    char shape[48];
    *out = NULL;
    if (!c->options->checkpoint) return MF_OK;
    *out = json_object();
    int failed = !*out;
    for (int i = c->first[file]; i < c->first[file + 1]; i++) {
        mf_piece_shape(c->names.param[i].rows, c->names.param[i].cols, shape);
        failed |= json_object_set_new(*out, c->to[i].name, json_string(shape));
    }
    return failed ? MF_FAIL(MF_ENOMEM, "no memory for the shapes of a checkpoint's tensors") : MF_OK;
}

static mf_status write_file(writer *w, int file) {
    mf_conversion *c = w->c;
    mf_status status = MF_OK;
    int first = c->first[file], end = c->first[file + 1];
    char *path = NULL;
    json_t *shapes = NULL;
    mf_tensor_stream *stream = NULL;
    MF_GO(file_name(c, c->draft, file, &path));
    MF_GO(shapes_of(c, file, &shapes));
    MF_GO(mf_tensor_stream_open(path, c->to + first, end - first, shapes, &stream));
    for (int i = first; i < end; i++) MF_GO(write_tensor(w, stream, i));
    MF_GO(mf_tensor_stream_finish(stream, &c->digest[file]));
fail:
    mf_tensor_stream_close(stream);
    json_decref(shapes);
    mf_host_free(path);
    return status;
}

static mf_status add_to_map(const mf_conversion *c, json_t *map, int file) {
    char *path = NULL;
    int failed = 0;
    MF_TRY(file_name(c, "", file, &path));
    for (int i = c->first[file]; i < c->first[file + 1]; i++)
        failed |= json_object_set_new(map, c->to[i].name, json_string(path + 1));
    mf_host_free(path);
    return failed ? MF_FAIL(MF_ENOMEM, "no memory for an index of tensors") : MF_OK;
}

/* As transformers writes it. */
static mf_status write_index(const mf_conversion *c) {
    mf_status status = MF_OK;
    char *path = NULL;
    json_t *map = json_object(), *root = json_pack("{s:{s:I}, s:O}", "metadata", "total_size",
                                                   (json_int_t)c->result->bytes, "weight_map", map);
    for (int file = 0; file < c->files; file++) MF_GO(add_to_map(c, map, file));
    MF_GO(mf_format(&path, "%s/model.safetensors.index.json", c->draft));
    MF_GO(mf_json_write(path, root, JSON_INDENT(2) | JSON_SORT_KEYS));
fail:
    mf_host_free(path);
    json_decref(root);
    json_decref(map);
    return status;
}

mf_status mf_conversion_write(mf_conversion *c) {
    mf_status status = MF_OK;
    writer w = {.c = c};
    MF_GO(mf_host_alloc(PIECE, sizeof *w.values, &w.values));
    MF_GO(mf_host_alloc(PIECE, sizeof(float), &w.narrowed));
    for (int file = 0; file < c->files; file++) MF_GO(write_file(&w, file));
    if (!c->options->checkpoint && c->files > 1) MF_GO(write_index(c));
fail:
    mf_host_free(w.narrowed);
    mf_host_free(w.values);
    return status;
}
