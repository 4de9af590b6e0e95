/* checkpoint_manifest.c: a checkpoint's manifest, to JSON and back. It carries its own checksum, and nothing
 * that it says is believed: whatever is missing, of another type or out of range is refused by name. */
#include "io/digest.h"
#include "io/json_file.h"
#include "train/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char format_name[] = "meshfold checkpoint";
static const char checksum_name[] = "manifest_xxh3";

/* A double comes back as it was. */
enum { DIGITS = 17 };

void mf_manifest_free(mf_manifest *m) {
    mf_host_free(m->settings);
    mf_host_free(m->part);
    *m = (mf_manifest){0};
}

typedef struct hex {
    char text[17];
} hex;

static hex hex_of(uint64_t value) {
    hex out;
    snprintf(out.text, sizeof out.text, "%016llx", (unsigned long long)value);
    return out;
}

/* JSON has no word for what is not finite: null stands for it. */
static json_t *real(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *file_json(const char *name, mf_digest digest) {
    return json_pack("{s:s, s:I, s:s}", "file", name, "bytes", (json_int_t)digest.bytes, "xxh3",
                     hex_of(digest.xxh3).text);
}

static void part_file(int part, char out[32]) { snprintf(out, 32, "part-%05d.safetensors", part); }

static json_t *parts_json(const mf_manifest *m) {
    json_t *parts = json_array();
    for (int i = 0; i < m->parts; i++) {
        char name[32];
        part_file(i, name);
        json_array_append_new(parts, file_json(name, m->part[i]));
    }
    return parts;
}

static json_t *run_json(const mf_manifest *m) {
    if (m->converted)
        return json_pack("{s:b, s:i, s:I}", "converted", 1, "ranks", m->parts, "params",
                         (json_int_t)m->params);
    return json_pack("{s:s, s:s, s:i, s:s, s:I, s:I, s:I, s:I, s:s}", "mesh", m->mesh, "layout", m->layout,
                     "ranks", m->parts, "dtype", mf_dtype_name(m->type), "params", (json_int_t)m->params,
                     "seed", (json_int_t)m->seed, "seq", (json_int_t)m->tokens, "sequences",
                     (json_int_t)m->sequences, "data_xxh3", hex_of(m->progress.data).text);
}

static json_t *progress_json(const mf_manifest *m) {
    const mf_checkpoint_progress *p = &m->progress;
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "step", (json_int_t)p->step, "updates",
                     (json_int_t)m->updates, "skipped", (json_int_t)p->skipped, "skipped_in_a_row",
                     (json_int_t)p->skipped_in_a_row, "eval_step", (json_int_t)p->eval_step, "loss_first",
                     real(p->loss_first), "loss_last", real(p->loss_last), "loss_eval", real(p->loss_eval));
}

static json_t *schedule_json(const mf_manifest *m) {
    const mf_adam_options *a = &m->adam;
    if (m->converted) return json_null();
    return json_pack("{s:f, s:f, s:I, s:I}", "lr", (double)a->lr, "min_lr", (double)a->min_lr, "warmup",
                     (json_int_t)a->warmup, "steps", (json_int_t)a->steps);
}

/* Of all the rest, in a form that depends on the values alone. */
static mf_status checksum(const json_t *manifest, uint64_t *out) {
    char *text = json_dumps(manifest, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(DIGITS));
    if (!text) return MF_FAIL(MF_ENOMEM, "no memory for a checkpoint's manifest");
    *out = mf_digest_of(text, strlen(text)).xxh3;
    free(text);
    return MF_OK;
}

static json_t *to_json(const mf_manifest *m) {
    json_t *settings = m->settings ? json_loads(m->settings, 0, NULL) : json_null();
    return json_pack("{s:s, s:i, s:o, s:o, s:o, s:o, s:o, s:o}", "format", format_name, "version",
                     MF_MANIFEST_VERSION, "run", run_json(m), "progress", progress_json(m), "schedule",
                     schedule_json(m), "settings", settings, "config", file_json("config.json", m->config),
                     "parts", parts_json(m));
}

mf_status mf_manifest_write(const mf_manifest *m, const char *folder) {
    mf_status status = MF_OK;
    uint64_t sum = 0;
    char *path = NULL;
    json_t *root = to_json(m);
    if (!root) return MF_FAIL(MF_ENOMEM, "no memory for a checkpoint's manifest");
    MF_GO(checksum(root, &sum));
    json_object_set_new(root, checksum_name, json_string(hex_of(sum).text));
    MF_GO(mf_format(&path, "%s/manifest.json", folder));
    MF_GO(mf_json_write(path, root, JSON_INDENT(2) | JSON_REAL_PRECISION(DIGITS)));
fail:
    mf_host_free(path);
    json_decref(root);
    return status;
}

/* What is being read, for errors. */
typedef struct reader {
    const char *path;
    const json_t *root;
} reader;

static mf_status read_integer(const reader *r, const json_t *in, const char *name, int64_t least,
                              int64_t most, int64_t *out) {
    const json_t *value = json_object_get(in, name);
    *out = json_integer_value(value);
    if (json_is_integer(value) && *out >= least && *out <= most) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: \"%s\" is no whole number from %lld to %lld", r->path, name,
                   (long long)least, (long long)most);
}

static mf_status read_text(const reader *r, const json_t *in, const char *name, const char **out) {
    *out = json_string_value(json_object_get(in, name));
    return *out ? MF_OK : MF_FAIL(MF_EFORMAT, "%s: \"%s\" is no text", r->path, name);
}

/* Cut, it might end within a character. */
static mf_status read_description(const reader *r, const json_t *in, const char *name,
                                  char out[MF_LAYOUT_DESCRIPTION]) {
    const char *text = NULL;
    MF_TRY(read_text(r, in, name, &text));
    if (snprintf(out, MF_LAYOUT_DESCRIPTION, "%s", text) < MF_LAYOUT_DESCRIPTION) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: \"%s\" is longer than %d bytes", r->path, name,
                   MF_LAYOUT_DESCRIPTION - 1);
}

static mf_status read_real(const reader *r, const json_t *in, const char *name, double *out) {
    const json_t *value = json_object_get(in, name);
    *out = json_is_null(value) ? (double)NAN : json_number_value(value);
    if (json_is_null(value) || json_is_number(value)) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: \"%s\" is neither a number nor null", r->path, name);
}

static mf_status read_hex(const reader *r, const json_t *in, const char *name, uint64_t *out) {
    const char *text = NULL;
    char *end = NULL;
    MF_TRY(read_text(r, in, name, &text));
    *out = strtoull(text, &end, 16);
    if (strlen(text) == 16 && strcmp(hex_of(*out).text, text) == 0) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: \"%s\" is not sixteen hexadecimal digits", r->path, name);
}

static mf_status read_object(const reader *r, const json_t *in, const char *name, const json_t **out) {
    *out = json_object_get(in, name);
    return json_is_object(*out) ? MF_OK : MF_FAIL(MF_EFORMAT, "%s: \"%s\" is no object", r->path, name);
}

/* The file must have the name that it always has: a manifest can't point elsewhere. */
static mf_status read_file(const reader *r, const json_t *entry, const char *expected, mf_digest *out) {
    const char *name = NULL;
    MF_TRY(read_text(r, entry, "file", &name));
    if (strcmp(name, expected) != 0)
        return MF_FAIL(MF_EFORMAT, "%s: names a file %.100s where %s is due", r->path, name, expected);
    MF_TRY(read_integer(r, entry, "bytes", 0, INT64_MAX, &out->bytes));
    return read_hex(r, entry, "xxh3", &out->xxh3);
}

static mf_status read_version(const reader *r) {
    const char *format = NULL;
    int64_t version = 0;
    MF_TRY(read_text(r, r->root, "format", &format));
    if (strcmp(format, format_name) != 0)
        return MF_FAIL(MF_EFORMAT, "%s: is no manifest of a checkpoint", r->path);
    MF_TRY(read_integer(r, r->root, "version", 1, INT32_MAX, &version));
    if (version == MF_MANIFEST_VERSION) return MF_OK;
    return MF_FAIL(MF_EUNSUPPORTED, "%s: has version %lld; this program reads version %d", r->path,
                   (long long)version, MF_MANIFEST_VERSION);
}

/* Takes the checksum out of root. */
static mf_status check_checksum(const reader *r, json_t *root) {
    uint64_t stated = 0, found = 0;
    MF_TRY(read_hex(r, root, checksum_name, &stated));
    json_object_del(root, checksum_name);
    MF_TRY(checksum(root, &found));
    if (found == stated) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: its content is not what was written: its checksum is %s, not %s", r->path,
                   hex_of(found).text, hex_of(stated).text);
}

static mf_status read_run(const reader *r, mf_manifest *out) {
    const json_t *run = NULL;
    const char *type = NULL;
    int64_t seed = 0;
    MF_TRY(read_object(r, r->root, "run", &run));
    MF_TRY(read_integer(r, run, "params", 1, INT64_MAX, &out->params));
    out->converted = json_is_true(json_object_get(run, "converted"));
    if (out->converted) return MF_OK;
    MF_TRY(read_description(r, run, "mesh", out->mesh));
    MF_TRY(read_description(r, run, "layout", out->layout));
    MF_TRY(read_text(r, run, "dtype", &type));
    out->type = strcmp(type, mf_dtype_name(MF_BF16)) == 0 ? MF_BF16 : MF_F32;
    if (strcmp(type, mf_dtype_name(out->type)) != 0)
        return MF_FAIL(MF_EFORMAT, "%s: \"dtype\" is %.40s; f32 and bf16 are known", r->path, type);
    MF_TRY(read_integer(r, run, "seed", INT64_MIN, INT64_MAX, &seed));
    out->seed = (uint64_t)seed;
    MF_TRY(read_integer(r, run, "seq", 1, INT64_MAX, &out->tokens));
    MF_TRY(read_integer(r, run, "sequences", 1, INT64_MAX, &out->sequences));
    return read_hex(r, run, "data_xxh3", &out->progress.data);
}

static mf_status read_progress(const reader *r, mf_manifest *out) {
    const json_t *in = NULL;
    mf_checkpoint_progress *p = &out->progress;
    MF_TRY(read_object(r, r->root, "progress", &in));
    MF_TRY(read_integer(r, in, "step", 0, INT64_MAX, &p->step));
    MF_TRY(read_integer(r, in, "updates", 0, p->step, &out->updates));
    MF_TRY(read_integer(r, in, "skipped", 0, p->step, &p->skipped));
    MF_TRY(read_integer(r, in, "skipped_in_a_row", 0, p->skipped, &p->skipped_in_a_row));
    MF_TRY(read_integer(r, in, "eval_step", 0, p->step, &p->eval_step));
    MF_TRY(read_real(r, in, "loss_first", &p->loss_first));
    MF_TRY(read_real(r, in, "loss_last", &p->loss_last));
    return read_real(r, in, "loss_eval", &p->loss_eval);
}

static mf_status read_settings(const reader *r, mf_manifest *out) {
    const json_t *settings = json_object_get(r->root, "settings");
    if (json_is_null(settings)) return MF_OK;
    if (!json_is_object(settings))
        return MF_FAIL(MF_EFORMAT, "%s: \"settings\" is neither an object nor null", r->path);
    char *text = json_dumps(settings, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS));
    if (!text) return MF_FAIL(MF_ENOMEM, "no memory for a run's settings");
    mf_status status = mf_host_strdup(text, &out->settings);
    free(text);
    return status;
}

static mf_status read_parts(const reader *r, mf_manifest *out) {
    const json_t *parts = json_object_get(r->root, "parts"), *run = json_object_get(r->root, "run");
    int64_t ranks = 0;
    MF_TRY(read_integer(r, run, "ranks", 1, MF_PARTS_MOST, &ranks));
    if (!json_is_array(parts) || (int64_t)json_array_size(parts) != ranks)
        return MF_FAIL(MF_EFORMAT, "%s: \"parts\" is no list of %lld, one for each rank", r->path,
                       (long long)ranks);
    MF_TRY(mf_host_alloc((size_t)ranks, sizeof *out->part, &out->part));
    out->parts = (int)ranks;
    for (int i = 0; i < out->parts; i++) {
        char name[32];
        part_file(i, name);
        MF_TRY(read_file(r, json_array_get(parts, (size_t)i), name, &out->part[i]));
    }
    return read_file(r, json_object_get(r->root, "config"), "config.json", &out->config);
}

static mf_status parse(const char *path, json_t **out) {
    MF_TRY(mf_json_read(path, out));
    if (!json_is_object(*out)) return MF_FAIL(MF_EFORMAT, "%s: is no JSON object", path);
    return MF_OK;
}

static mf_status read_members(const char *path, json_t *root, mf_manifest *out) {
    reader r = {.path = path, .root = root};
    MF_TRY(read_version(&r));
    MF_TRY(check_checksum(&r, root));
    MF_TRY(read_run(&r, out));
    MF_TRY(read_progress(&r, out));
    MF_TRY(read_settings(&r, out));
    return read_parts(&r, out);
}

static mf_status check_files(const mf_manifest *m, const char *folder) {
    mf_status status = MF_OK;
    char *path = NULL;
    MF_GO(mf_format(&path, "%s/config.json", folder));
    MF_GO(mf_digest_check(path, m->config));
    for (int i = 0; i < m->parts; i++) {
        mf_host_free(path);
        path = NULL;
        MF_GO(mf_part_name(folder, i, &path));
        MF_GO(mf_digest_check_size(path, m->part[i]));
    }
fail:
    mf_host_free(path);
    return status;
}

mf_status mf_manifest_read(const char *folder, mf_manifest *out) {
    mf_status status = MF_OK;
    char *path = NULL;
    json_t *root = NULL;
    *out = (mf_manifest){0};
    MF_GO(mf_format(&path, "%s/manifest.json", folder));
    MF_GO(parse(path, &root));
    MF_GO(read_members(path, root, out));
    MF_GO(check_files(out, folder));
fail:
    json_decref(root);
    mf_host_free(path);
    if (status) mf_manifest_free(out);
    return status;
}
