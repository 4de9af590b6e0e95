/* text.c: any text, by a tokenizer of a known kind, which the first byte names. */
#include "codec.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>

const fuzz_shape fuzz_input = FUZZ_BYTES;

static const char *const names[] = {"gpt2",     "llama3",  "qwen2",     "gpt4o", "llama2",
                                    "crossing", "mistral", "metaspace", "parts"};
enum { NAMES = sizeof names / sizeof *names };

static mf_tokenizer *opened[NAMES];
static mf_encoder *encoder[NAMES];

static void close_all(void) {
    for (int i = 0; i < NAMES; i++) {
        mf_encoder_destroy(encoder[i]);
        mf_tokenizer_close(opened[i]);
    }
}

static void open_all(void) {
    for (int i = 0; i < NAMES; i++) {
        char path[256];
        snprintf(path, sizeof path, MESHFOLD_SOURCE "/tests/golden/tokenizer/%s.json", names[i]);
        FUZZ_CLAIM(!mf_tokenizer_open(path, &opened[i]));
        FUZZ_CLAIM(!mf_encoder_create(opened[i], &encoder[i]));
    }
    atexit(close_all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (!bytes) return 0;
    if (!*opened) open_all();
    int i = data[0] % NAMES;
    fuzz_codec(opened[i], encoder[i], data + 1, bytes - 1);
    return 0;
}
