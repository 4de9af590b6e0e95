/* tokenizer.c: a tokenizer.json, and behind a 0 a text: opened, encoded, decoded. */
#include "codec.h"
#include "fuzz.h"

const fuzz_shape fuzz_input = FUZZ_JSON;

static const char name[] = "tokenizer.json";

/* A text in the vocabulary finds its token. */
static void check_names(const mf_tokenizer *t) {
    for (int32_t id = 0; id < mf_tokenizer_size(t); id++) {
        const char *text = mf_tokenizer_token(t, id);
        FUZZ_CLAIM(!text || mf_tokenizer_find(t, text) == id);
    }
    FUZZ_CLAIM(mf_tokenizer_bos(t) < mf_tokenizer_size(t) && mf_tokenizer_eos(t) < mf_tokenizer_size(t));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    mf_tokenizer *tokenizer = NULL;
    mf_encoder *encoder = NULL;
    size_t end = fuzz_json_end(data, bytes), text = end < bytes ? end + 1 : 0;
    fuzz_put(name, data, end);
    mf_status status = mf_tokenizer_open(fuzz_path(""), &tokenizer);
    if (status) {
        fuzz_check_refusal(status, name);
        return 0;
    }
    check_names(tokenizer);
    FUZZ_CLAIM(!mf_encoder_create(tokenizer, &encoder));
    fuzz_codec(tokenizer, encoder, data + text, bytes - text);
    mf_encoder_destroy(encoder);
    mf_tokenizer_close(tokenizer);
    return 0;
}
