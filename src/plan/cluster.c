/* cluster.c: a cluster's description, from JSON; every entry is looked at before any is believed. */
#include "meshfold/plan.h"

#include "io/json_file.h"
#include "plan/rates_json.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const double GIB = 1024.0 * 1024 * 1024;

/* Where in the file an entry is looked for, for errors. */
typedef struct place {
    const char *path; /* the file's */
    const char *in;   /* "device", "levels[1]"; "" at the top */
} place;

static mf_status complain(const place *at, const char *key, const char *what) {
    return MF_FAIL(MF_EFORMAT, "%s: %s%s%s %s", at->path, at->in, *at->in ? "." : "", key, what);
}

/* Names are shown on a line, and whole: cut, one might end within a character. */
static mf_status read_text(const place *at, const json_t *from, const char *key, char out[MF_CLUSTER_NAME]) {
    const json_t *value = json_object_get(from, key);
    if (!value) return complain(at, key, "is missing");
    if (!json_is_string(value)) return complain(at, key, "must be a text");
    if (json_string_length(value) >= MF_CLUSTER_NAME) return complain(at, key, "is longer than 95 bytes");
    for (const char *c = json_string_value(value); *c; c++)
        if (iscntrl((unsigned char)*c)) return complain(at, key, "has control characters");
    snprintf(out, MF_CLUSTER_NAME, "%s", json_string_value(value));
    return MF_OK;
}

/* A number above zero, or from zero where `zero`. */
static mf_status read_number(const place *at, const json_t *from, const char *key, bool zero, double *out) {
    const json_t *value = json_object_get(from, key);
    if (!value) return complain(at, key, "is missing");
    if (!json_is_number(value)) return complain(at, key, "must be a number");
    *out = json_number_value(value);
    if (*out < 0 || (*out == 0 && !zero))
        return complain(at, key, zero ? "must not be negative" : "must be above zero");
    return *out == 0 || mf_within_reason(*out) ? MF_OK : complain(at, key, "must be from 1e-12 to 1e15");
}

static mf_status read_object(const place *at, const json_t *from, const char *key, const json_t **out) {
    *out = json_object_get(from, key);
    if (!*out) return complain(at, key, "is missing");
    return json_is_object(*out) ? MF_OK : complain(at, key, "must be an object");
}

static mf_status read_efficiency(const place *at, const json_t *device, const char *key, mf_efficiency *out) {
    const json_t *from = NULL;
    char in[64];
    MF_TRY(read_object(at, device, key, &from));
    snprintf(in, sizeof in, "%s.%s", at->in, key);
    place inner = {at->path, in};
    MF_TRY(read_number(&inner, from, "share", false, &out->share));
    if (out->share > 1) return complain(&inner, "share", "is of the peak: it must be at most 1");
    return read_number(&inner, from, "half", true, &out->half);
}

/* Optional. */
static mf_status read_shared(const place *at, const json_t *device, bool *out) {
    const json_t *shared = json_object_get(device, "shared");
    *out = json_is_true(shared);
    return !shared || json_is_boolean(shared) ? MF_OK : complain(at, "shared", "must be true or false");
}

/* Optional: rates that were measured are of one kind of device. */
static mf_status read_computes(const place *at, const json_t *device, mf_cluster *c) {
    const json_t *value = json_object_get(device, "computes");
    const char *text = json_string_value(value);
    if (!value) return MF_OK;
    if (!text || (strcmp(text, "cpu") != 0 && strcmp(text, "cuda") != 0))
        return complain(at, "computes", "must be cpu or cuda");
    snprintf(c->computes, sizeof c->computes, "%s", text);
    return MF_OK;
}

/* Optional: an entry for each number of ranks that were at work. */
static mf_status read_measured(const char *path, const json_t *device, mf_cluster *c) {
    place at = {path, "device"};
    const json_t *list = json_object_get(device, "measured");
    char where[600];
    if (!list) return MF_OK;
    if (!json_is_array(list) || json_array_size(list) > MF_CLUSTER_RATES)
        return complain(&at, "measured", "must be a list of at most 4");
    for (size_t i = 0; i < json_array_size(list); i++) {
        snprintf(where, sizeof where, "%s: device.measured[%zu]", path, i);
        MF_TRY(mf_rates_read(where, json_array_get(list, i), &c->rates[i]));
        if (i > 0 && c->rates[i].ranks <= c->rates[i - 1].ranks)
            return complain(&at, "measured", "must go from few ranks to many");
        c->measured++;
    }
    return MF_OK;
}

static mf_status read_device(const char *path, const json_t *root, mf_cluster *c) {
    place top = {path, ""}, at = {path, "device"}, rates = {path, "device.tflops"};
    const json_t *device = NULL, *tflops = NULL, *overlaps = NULL;
    MF_TRY(read_object(&top, root, "device", &device));
    MF_TRY(read_text(&at, device, "name", c->device));
    MF_TRY(read_number(&at, device, "memory_gib", false, &c->memory_bytes));
    MF_TRY(read_number(&at, device, "memory_gb_per_s", false, &c->memory_bytes_per_s));
    MF_TRY(read_object(&at, device, "tflops", &tflops));
    MF_TRY(read_number(&rates, tflops, "f32", false, &c->flops[MF_F32]));
    MF_TRY(read_number(&rates, tflops, "bf16", false, &c->flops[MF_BF16]));
    MF_TRY(read_efficiency(&at, device, "gemm", &c->gemm));
    MF_TRY(read_efficiency(&at, device, "attention", &c->attention));
    MF_TRY(read_number(&at, device, "launch_us", true, &c->launch_s));
    overlaps = json_object_get(device, "overlaps");
    if (!json_is_boolean(overlaps)) return complain(&at, "overlaps", "must be true or false");
    c->overlaps = json_is_true(overlaps);
    MF_TRY(read_shared(&at, device, &c->shared));
    MF_TRY(read_computes(&at, device, c));
    c->memory_bytes *= GIB;
    c->memory_bytes_per_s *= 1e9;
    c->flops[MF_F32] *= 1e12;
    c->flops[MF_BF16] *= 1e12;
    c->launch_s *= 1e-6;
    return read_measured(path, device, c);
}

/* Levels join ever more ranks, each a whole number of the one inside it; the last joins any number. */
static mf_status check_ranks(const place *at, const mf_cluster *c, int index, bool last, double ranks) {
    if (ranks != floor(ranks) || ranks > 1 << 30) return complain(at, "ranks", "must be a whole number");
    if (last != (ranks == 0))
        return complain(at, "ranks",
                        last ? "of the last level must be 0: it joins any number"
                             : "is 0 before the last level");
    if (last || index == 0) return MF_OK;
    int inside = c->level[index - 1].ranks;
    if ((int)ranks <= inside || (int)ranks % inside)
        return complain(at, "ranks", "must be a multiple of the level's inside it");
    return MF_OK;
}

static mf_status read_level(const char *path, const json_t *from, int index, bool last, mf_cluster *c) {
    char in[32];
    double ranks = 0;
    snprintf(in, sizeof in, "levels[%d]", index);
    place at = {path, in};
    MF_TRY(read_text(&at, from, "name", c->level[index].name));
    MF_TRY(read_number(&at, from, "ranks", true, &ranks));
    MF_TRY(read_number(&at, from, "latency_us", true, &c->level[index].latency_s));
    MF_TRY(read_number(&at, from, "gb_per_s", false, &c->level[index].bytes_per_s));
    MF_TRY(check_ranks(&at, c, index, last, ranks));
    c->level[index].ranks = (int)ranks;
    c->level[index].latency_s *= 1e-6;
    c->level[index].bytes_per_s *= 1e9;
    return MF_OK;
}

static mf_status read_levels(const char *path, const json_t *root, mf_cluster *c) {
    place top = {path, ""};
    const json_t *levels = json_object_get(root, "levels");
    if (!json_is_array(levels) || json_array_size(levels) == 0)
        return complain(&top, "levels", "must be a list of at least one level");
    if (json_array_size(levels) > MF_CLUSTER_LEVELS)
        return complain(&top, "levels", "has more than 4 levels");
    c->levels = (int)json_array_size(levels);
    for (int i = 0; i < c->levels; i++)
        MF_TRY(read_level(path, json_array_get(levels, (size_t)i), i, i + 1 == c->levels, c));
    return MF_OK;
}

mf_status mf_cluster_load(const char *path, mf_cluster *out) {
    json_t *root = NULL;
    place top = {path, ""};
    *out = (mf_cluster){0};
    MF_TRY(mf_json_read(path, &root));
    mf_status status = json_is_object(root) ? MF_OK : MF_FAIL(MF_EFORMAT, "%s: must be a JSON object", path);
    if (!status) status = read_text(&top, root, "name", out->name);
    if (!status) status = read_device(path, root, out);
    if (!status) status = read_levels(path, root, out);
    json_decref(root);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

static json_t *efficiency_json(const mf_efficiency *e) {
    return json_pack("{s:f, s:f}", "share", e->share, "half", e->half);
}

static json_t *device_json(const mf_cluster *c) {
    json_t *measured = json_array();
    for (int i = 0; i < c->measured; i++) json_array_append_new(measured, mf_rates_write(&c->rates[i]));
    return json_pack("{s:s, s:s*, s:f, s:f, s:{s:f, s:f}, s:o, s:o, s:f, s:b, s:b, s:o}", "name", c->device,
                     "computes", *c->computes ? c->computes : NULL, "memory_gib", c->memory_bytes / GIB,
                     "memory_gb_per_s", c->memory_bytes_per_s / 1e9, "tflops", "f32", c->flops[MF_F32] / 1e12,
                     "bf16", c->flops[MF_BF16] / 1e12, "gemm", efficiency_json(&c->gemm), "attention",
                     efficiency_json(&c->attention), "launch_us", c->launch_s * 1e6, "overlaps", c->overlaps,
                     "shared", c->shared, "measured", measured);
}

static json_t *levels_json(const mf_cluster *c) {
    json_t *out = json_array();
    for (int i = 0; i < c->levels; i++)
        json_array_append_new(out, json_pack("{s:s, s:i, s:f, s:f}", "name", c->level[i].name, "ranks",
                                             c->level[i].ranks, "latency_us", c->level[i].latency_s * 1e6,
                                             "gb_per_s", c->level[i].bytes_per_s / 1e9));
    return out;
}

mf_status mf_cluster_save(const mf_cluster *c, const char *path) {
    json_t *all =
        json_pack("{s:s, s:o, s:o}", "name", c->name, "device", device_json(c), "levels", levels_json(c));
    mf_status status = mf_json_write(path, all, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    json_decref(all);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

double mf_cluster_memory(const mf_cluster *c, int ranks) {
    return c->shared ? c->memory_bytes / ranks : c->memory_bytes;
}

int mf_cluster_level(const mf_cluster *c, const int *ranks, int size) {
    for (int level = 0; level + 1 < c->levels; level++) {
        bool joined = true;
        for (int i = 1; i < size; i++)
            joined &= ranks[i] / c->level[level].ranks == ranks[0] / c->level[level].ranks;
        if (joined) return level;
    }
    return c->levels - 1;
}
