/* manifest.c: a checkpoint's manifest. It is given the checksum that belongs to it: who wants to harm can do
 * that, too. What is let through comes back from what is written. */
#include "fuzz.h"

#include "train/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const fuzz_shape fuzz_input = FUZZ_JSON;

static const char name[] = "manifest.json";

/* The input's manifests speak of these. */
static void make_files(void) {
    fuzz_put("config.json", "{}", 2);
    fuzz_put("part-00000.safetensors", "12345678", 8);
    fuzz_put("part-00001.safetensors", "", 0);
}

static void put_with_checksum(json_t *root) {
    const size_t compact = JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17);
    char sum[17];
    json_object_del(root, "manifest_xxh3");
    char *text = json_dumps(root, compact);
    snprintf(sum, sizeof sum, "%016llx", (unsigned long long)mf_digest_of(text, strlen(text)).xxh3);
    free(text);
    json_object_set_new(root, "manifest_xxh3", json_string(sum));
    text = json_dumps(root, compact);
    fuzz_put(name, text, strlen(text));
    free(text);
}

static bool same_number(double a, double b) { return a == b || (a != a && b != b); }

static void check(const mf_manifest *m) {
    mf_manifest again;
    FUZZ_CLAIM(m->parts > 0 && m->progress.skipped <= m->progress.step);
    FUZZ_CLAIM(!mf_manifest_write(m, fuzz_path("")));
    FUZZ_CLAIM(!mf_manifest_read(fuzz_path(""), &again));
    FUZZ_CLAIM(!strcmp(m->mesh, again.mesh) && !strcmp(m->layout, again.layout) && m->seed == again.seed);
    FUZZ_CLAIM(m->parts == again.parts && m->params == again.params && m->type == again.type);
    FUZZ_CLAIM(m->progress.step == again.progress.step && m->progress.data == again.progress.data);
    FUZZ_CLAIM(same_number(m->progress.loss_last, again.progress.loss_last));
    FUZZ_CLAIM(!m->settings == !again.settings);
    FUZZ_CLAIM(!m->settings || !strcmp(m->settings, again.settings));
    mf_manifest_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    mf_manifest manifest;
    make_files();
    fuzz_put(name, data, bytes);
    json_t *root = json_loadb((const char *)data, bytes, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(root)) put_with_checksum(root);
    json_decref(root);
    mf_status status = mf_manifest_read(fuzz_path(""), &manifest);
    if (status)
        fuzz_check_refusal(status, FUZZ_FOLDER);
    else
        check(&manifest);
    mf_manifest_free(&manifest);
    return 0;
}
