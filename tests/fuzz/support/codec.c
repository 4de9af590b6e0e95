/* codec.c: see codec.h. */
#include "codec.h"
#include "fuzz.h"

#include "io/bytes.h"

#include <string.h>

static bool is_utf8(const void *text, size_t bytes) { return mf_utf8_valid(text, bytes) == bytes; }

/* The text of a stream of ids, each portion of it whole characters; false: a pattern took too long. */
static bool stream(const mf_tokenizer *t, const mf_ids *ids, bool skip_special, mf_bytes *out) {
    mf_decoder *decoder = NULL;
    mf_status status = MF_OK;
    FUZZ_CLAIM(!mf_decoder_create(t, skip_special, &decoder));
    for (int64_t i = 0; i <= ids->count && !status; i++) {
        const char *part = NULL;
        size_t bytes = 0;
        status = i < ids->count ? mf_decoder_push(decoder, ids->id[i], &part, &bytes)
                                : mf_decoder_end(decoder, &part, &bytes);
        if (status) break;
        FUZZ_CLAIM(is_utf8(part, bytes) && part[bytes] == 0);
        FUZZ_CLAIM(!mf_bytes_add(out, part, bytes));
    }
    mf_decoder_destroy(decoder);
    return !status;
}

/* Only where bytes are not UTF-8 together may the two differ, in their U+FFFD. */
static void check_same(const char *whole, size_t bytes, const mf_bytes *streamed) {
    bool replaced = memmem(whole, bytes, mf_utf8_replacement, sizeof mf_utf8_replacement);
    FUZZ_CLAIM(replaced || (streamed->count == bytes && (!bytes || !memcmp(streamed->data, whole, bytes))));
}

static void decode(const mf_tokenizer *t, const mf_ids *ids, bool skip_special) {
    char *whole = NULL;
    size_t bytes = 0;
    mf_bytes streamed = {0};
    mf_status status = mf_decode(t, ids->id, ids->count, skip_special, &whole, &bytes);
    if (status) {
        fuzz_check_refusal(status, mf_tokenizer_path(t));
        return;
    }
    FUZZ_CLAIM(is_utf8(whole, bytes) && whole[bytes] == 0);
    if (stream(t, ids, skip_special, &streamed)) check_same(whole, bytes, &streamed);
    mf_bytes_free(&streamed);
    mf_host_free(whole);
}

static void encode(const mf_tokenizer *t, mf_encoder *encoder, const uint8_t *text, size_t bytes,
                   mf_encode_options options) {
    mf_ids ids = {0}, again = {0};
    mf_status status = mf_encode(encoder, text, (int64_t)bytes, &options, &ids);
    if (status) {
        fuzz_check_refusal(status, mf_tokenizer_path(t));
        FUZZ_CLAIM(ids.count == 0);
        mf_ids_free(&ids);
        return;
    }
    for (int64_t i = 0; i < ids.count; i++) FUZZ_CLAIM(mf_tokenizer_token(t, ids.id[i]));
    FUZZ_CLAIM(!mf_encode(encoder, text, (int64_t)bytes, &options, &again)); /* from its cache */
    FUZZ_CLAIM(again.count == ids.count);
    FUZZ_CLAIM(!ids.count || !memcmp(ids.id, again.id, (size_t)ids.count * sizeof *ids.id));
    decode(t, &ids, options.special_as_text);
    mf_ids_free(&ids);
    mf_ids_free(&again);
}

void fuzz_codec(const mf_tokenizer *t, mf_encoder *encoder, const uint8_t *text, size_t bytes) {
    mf_ids ids = {0};
    encode(t, encoder, text, bytes, (mf_encode_options){.add_special = true});
    encode(t, encoder, text, bytes, (mf_encode_options){.special_as_text = true});
    for (size_t i = 0; i < bytes; i++) FUZZ_CLAIM(!mf_ids_add(&ids, text[i] - 2));
    decode(t, &ids, false);
    mf_ids_free(&ids);
}
