/* tokenizer_encode.c: a text from end to end: what is a token as it stands is cut out, the rest goes on. */
#include "io/tokenizer.h"

mf_status mf_encoder_create(const mf_tokenizer *tokenizer, mf_encoder **out) {
    mf_encoder *encoder = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *encoder, &encoder));
    encoder->tokenizer = tokenizer;
    mf_status status = mf_matcher_create(&encoder->matcher);
    if (status) {
        mf_encoder_destroy(encoder);
        return status;
    }
    *out = encoder;
    return MF_OK;
}

void mf_encoder_destroy(mf_encoder *encoder) {
    if (!encoder) return;
    mf_matcher_destroy(encoder->matcher);
    mf_bytes_free(&encoder->lossy);
    mf_normal_scratch_free(&encoder->normal);
    for (int i = 0; i < MF_TOKENIZER_STEPS; i++) mf_bytes_free(&encoder->step[i]);
    mf_host_free(encoder->symbol);
    mf_host_free(encoder->queue);
    mf_host_free(encoder->cache);
    mf_host_free(encoder);
}

typedef mf_status (*stretch_job)(mf_encoder *encoder, const mf_stretch *stretch, bool special_as_text);

/* Cuts tokens out of a stretch: each is put out, what lies between them goes to `rest`. */
static mf_status cut_added(mf_encoder *encoder, const mf_finder *finder, const mf_stretch *in,
                           bool special_as_text, stretch_job rest) {
    mf_added_walk walk = {.text = in->text, .bytes = in->bytes, .special_as_text = special_as_text};
    while (walk.done < in->bytes) {
        mf_added_next(&encoder->tokenizer->added, finder, &walk);
        size_t end = walk.token ? walk.begin : in->bytes;
        mf_stretch between = {in->text + walk.done, end - walk.done, in->first && walk.done == 0};
        if (walk.done < end) MF_TRY(rest(encoder, &between, special_as_text));
        if (!walk.token) break;
        MF_TRY(mf_ids_add(encoder->out, walk.token->id));
        walk.done = walk.end;
    }
    return MF_OK;
}

static mf_status split(mf_encoder *encoder, const mf_stretch *stretch, bool special_as_text) {
    (void)special_as_text;
    return mf_split_words(encoder, stretch);
}

static mf_status normalize(mf_encoder *encoder, const mf_stretch *given, bool special_as_text) {
    const mf_tokenizer *t = encoder->tokenizer;
    mf_stretch stretch = *given;
    MF_TRY(mf_normalize(&t->normalizer, encoder->matcher, &encoder->normal, &stretch));
    return cut_added(encoder, &t->added.normalized, &stretch, special_as_text, split);
}

static mf_status encode(mf_encoder *encoder, mf_stretch text, const mf_encode_options *options) {
    const mf_tokenizer *t = encoder->tokenizer;
    for (int64_t i = 0; options->add_special && i < t->before.count; i++)
        MF_TRY(mf_ids_add(encoder->out, t->before.id[i]));
    if (mf_utf8_valid(text.text, text.bytes) < text.bytes) {
        encoder->lossy.count = 0;
        MF_TRY(mf_utf8_add_lossy(&encoder->lossy, text.text, text.bytes));
        text.text = encoder->lossy.data;
        text.bytes = encoder->lossy.count;
    }
    MF_TRY(cut_added(encoder, &t->added.plain, &text, options->special_as_text, normalize));
    for (int64_t i = 0; options->add_special && i < t->after.count; i++)
        MF_TRY(mf_ids_add(encoder->out, t->after.id[i]));
    return MF_OK;
}

mf_status mf_encode(mf_encoder *encoder, const void *text, int64_t bytes, const mf_encode_options *options,
                    mf_ids *out) {
    static const mf_encode_options none;
    if (bytes < 0 || bytes > MF_TOKENIZER_TEXT)
        return MF_FAIL(MF_EINVAL, "a text of %lld bytes: from 0 to %d can be encoded at once",
                       (long long)bytes, MF_TOKENIZER_TEXT);
    int64_t before = out->count;
    encoder->out = out;
    mf_status status = encode(encoder, (mf_stretch){text, (size_t)bytes, true}, options ? options : &none);
    encoder->out = NULL;
    if (status) out->count = before;
    return mf_tokenizer_blame(encoder->tokenizer, status);
}
