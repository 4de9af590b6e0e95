/* config_presets.c: the models that have a name. */
#include "meshfold/model.h"

#include <stdio.h>
#include <string.h>

typedef struct preset {
    const char *name, *about;
    mf_model_config config;
} preset;

/* What the presets do not differ in: Hugging Face's defaults for Llama. */
#define COMMON .rope_theta = 10000, .norm_eps = 1e-6, .init_range = 0.02

/* Of videos: the MLP is plain and four times as wide. SIDE: of a square frame; TOKENS, WIDTH: of the
 * condition. */
#define VIDEO(H, LAYERS, HEADS, FRAMES, SIDE, CHANNELS, PATCH, TOKENS, WIDTH)                                \
    {                                                                                                        \
        .family = MF_STDIT, .hidden = H, .layers = LAYERS, .heads = HEADS, .kv_heads = HEADS,                \
        .head_dim = (H) / (HEADS), .ffn = 4 * (H), .norm_eps = 1e-6, .init_range = 0.02,                     \
        .video = {FRAMES, SIDE, SIDE, CHANNELS, PATCH, TOKENS, WIDTH, false},                                \
    }

/* hidden, layers, heads, key-value heads, head dimension, ffn, vocabulary */
static const preset presets[] = {
    {"tiny",
     "0.13 M parameters, for tests and first tries; text as bytes",
     {64, 2, 4, 2, 16, 192, 256, COMMON}},
    {"shakespeare",
     "1.1 M parameters, for a small text; text as bytes",
     {128, 4, 4, 4, 32, 512, 256, COMMON}},
    {"demo",
     "3.1 M parameters, 8 heads on 4 key-value heads; text as bytes",
     {256, 4, 8, 4, 32, 704, 256, COMMON}},
    {"speed", "61 M parameters, few wide layers; text as bytes", {1024, 4, 16, 4, 64, 4096, 256, COMMON}},
    {"1b", "1.4 billion parameters; vocabulary of 32000", {2048, 20, 16, 8, 128, 8192, 32000, COMMON}},
    {"tsp-7b",
     "the TSP paper's reference sizes (arXiv 2604.26294), 8.9 billion parameters with a gated MLP",
     {4096, 32, 32, 32, 128, 16384, 32000, COMMON}},
    {"stdit-tiny", "1.35 M parameters, for clips of 8 frames of 32x32 pixels, patches of 4x4",
     VIDEO(128, 6, 4, 8, 32, 3, 4, 0, 0)},
    {"stdit-shapes", "1.74 M parameters: stdit-tiny with a condition, what clips of meshfold shapes show",
     VIDEO(128, 6, 4, 8, 32, 3, 4, 2, 16)},
    {"stdit-720m",
     "0.71 billion parameters, a size of the DSP paper (arXiv 2403.10266); latents of 32 frames of 64x64",
     VIDEO(1152, 44, 16, 32, 64, 4, 2, 0, 0)},
    {"stdit-3b",
     "3.05 billion parameters, the paper's other size; latents of 32 frames of 128x128, as of 1024x1024 "
     "pixels",
     VIDEO(2048, 60, 32, 32, 128, 4, 2, 0, 0)},
};
enum { PRESETS = sizeof presets / sizeof *presets };

bool mf_config_preset_at(int index, const char **name, const char **about) {
    if (index < 0 || index >= PRESETS) return false;
    *name = presets[index].name;
    *about = presets[index].about;
    return true;
}

mf_status mf_config_preset(const char *name, mf_model_config *out) {
    char known[256] = "";
    size_t used = 0;
    for (int i = 0; i < PRESETS; i++) {
        if (!strcmp(presets[i].name, name)) {
            *out = presets[i].config;
            return MF_OK;
        }
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", presets[i].name);
    }
    return MF_FAIL(MF_EINVAL, "no model %.200s: a preset (%s), a config.json or a folder that holds one",
                   name, known);
}
