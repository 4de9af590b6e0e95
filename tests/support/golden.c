/* golden.c: what other implementations found, from their files. */
#include "golden.h"

#include "support.h"

#include <math.h>

const char *const golden_families[] = {"llama3",      "llama_linear", "mistral",    "qwen2",
                                       "qwen2_plain", "qwen3",        "qwen3_tied", NULL};

const float *golden_values(const golden *g, const char *name) {
    const mf_tensor_info *t = mf_safetensors_find(g->file, name);
    if (!t) fail_msg("%s: golden.safetensors has no %s", g->folder, name);
    return t->data;
}

/* which: the tensor whose first two dimensions are batch and tokens. */
static const mf_tensor_info *open_folder(const char *kind, const char *name, const char *which, golden *g) {
    char path[600];
    snprintf(g->folder, sizeof g->folder, "%s/tests/golden/%s/%s", MESHFOLD_SOURCE, kind, name);
    ASSERT_OK(mf_config_find(g->folder, &g->config));
    snprintf(path, sizeof path, "%s/golden.safetensors", g->folder);
    ASSERT_OK(mf_safetensors_open(path, &g->file));
    const mf_tensor_info *first = mf_safetensors_find(g->file, which);
    g->batch = first->shape[0];
    g->tokens = first->shape[1];
    return first;
}

void golden_open(const char *name, golden *g) {
    const mf_tensor_info *ids = open_folder("families", name, "ids", g);
    for (int64_t i = 0; i < g->batch * g->tokens; i++) g->ids[i] = (int32_t)((const float *)ids->data)[i];
    for (int64_t i = 0; i < g->batch * g->tokens; i++)
        g->labels[i] = (i + 1) % g->tokens ? g->ids[i + 1] : -1;
}

void golden_open_video(const char *name, golden *g) { open_folder("stdit", name, "input", g); }

void golden_close(golden *g) { mf_safetensors_close(g->file); }

double golden_error(int64_t n, const float *got, const float *want) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += pow((double)got[i] - (double)want[i], 2);
        norm += pow((double)want[i], 2);
    }
    return sqrt(difference / norm);
}
