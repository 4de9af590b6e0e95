/* speech.c: a model's text: by its tokenizer, or a byte a token. */
#include "io/bytes.h"
#include "io/json_file.h"
#include "meshfold/infer.h"
#include "meshfold/io.h"

#include <string.h>
#include <unistd.h>

struct mf_speech {
    mf_tokenizer *tokenizer; /* NULL: bytes */
    mf_encoder *encoder;
    int stops;
    int32_t stop[MF_STOPS];
};

struct mf_voice {
    mf_decoder *decoder; /* NULL: bytes */
    mf_bytes held, out;  /* what is not a whole character yet */
};

static void add_stop(mf_speech *s, const json_t *id) {
    json_int_t value = json_integer_value(id);
    if (json_is_integer(id) && value >= 0 && value <= INT32_MAX && s->stops < MF_STOPS)
        s->stop[s->stops++] = (int32_t)value;
}

/* eos_token_id of a file in the folder, a number or a list, where it is there and has one. */
static mf_status look_for_stops(mf_speech *s, const char *folder, const char *name) {
    mf_status status = MF_OK;
    char *path = NULL;
    json_t *root = NULL;
    if (s->stops) return MF_OK;
    MF_GO(mf_format(&path, "%s/%s", folder, name));
    if (access(path, F_OK) != 0) goto fail;
    MF_GO(mf_json_read(path, &root));
    const json_t *ids = json_object_get(root, "eos_token_id");
    add_stop(s, ids);
    for (size_t i = 0; i < json_array_size(ids); i++) add_stop(s, json_array_get(ids, i));
fail:
    json_decref(root);
    mf_host_free(path);
    return status;
}

static mf_status open_tokenizer(mf_speech *s, const char *path) {
    MF_TRY(mf_tokenizer_open(path, &s->tokenizer));
    return mf_encoder_create(s->tokenizer, &s->encoder);
}

/* The folder's own tokenizer, or bytes. */
static mf_status look_for_tokenizer(mf_speech *s, const char *folder, int64_t vocab) {
    mf_status status = MF_OK;
    char *path = NULL;
    MF_TRY(mf_format(&path, "%s/tokenizer.json", folder));
    if (access(path, F_OK) == 0)
        status = open_tokenizer(s, path);
    else if (vocab != 256)
        status = MF_FAIL(MF_EINVAL, "%s: is not there, and a vocabulary of %lld is not one of bytes", path,
                         (long long)vocab);
    mf_host_free(path);
    return status;
}

mf_status mf_speech_open(const char *folder, const char *tokenizer, int64_t vocab, mf_speech **out) {
    mf_status status = MF_OK;
    mf_speech *s = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *s, &s));
    MF_GO(tokenizer ? open_tokenizer(s, tokenizer) : look_for_tokenizer(s, folder, vocab));
    MF_GO(look_for_stops(s, folder, "generation_config.json"));
    MF_GO(look_for_stops(s, folder, "config.json"));
    int32_t end = s->tokenizer ? mf_tokenizer_eos(s->tokenizer) : -1;
    if (!s->stops && end >= 0) s->stop[s->stops++] = end;
    *out = s;
    return MF_OK;
fail:
    mf_speech_close(s);
    return status;
}

void mf_speech_close(mf_speech *s) {
    if (!s) return;
    mf_encoder_destroy(s->encoder);
    mf_tokenizer_close(s->tokenizer);
    mf_host_free(s);
}

int mf_speech_stops(const mf_speech *s, int32_t out[MF_STOPS]) {
    memcpy(out, s->stop, sizeof s->stop);
    return s->stops;
}

mf_status mf_speech_read(mf_speech *s, const void *text, int64_t bytes, mf_ids *out) {
    const mf_encode_options options = {.add_special = true};
    const uint8_t *from = text;
    int64_t before = out->count;
    if (s->tokenizer) MF_TRY(mf_encode(s->encoder, text, bytes, &options, out));
    for (int64_t i = 0; i < bytes && !s->tokenizer; i++) MF_TRY(mf_ids_add(out, from[i]));
    if (out->count == before)
        return MF_FAIL(MF_EINVAL,
                       "the prompt is empty, and this model's texts begin with no token of their own");
    return MF_OK;
}

mf_status mf_voice_create(const mf_speech *speech, mf_voice **out) {
    mf_voice *v = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *v, &v));
    mf_status status = speech->tokenizer ? mf_decoder_create(speech->tokenizer, true, &v->decoder) : MF_OK;
    if (!status)
        *out = v;
    else
        mf_voice_destroy(v);
    return status;
}

void mf_voice_destroy(mf_voice *v) {
    if (!v) return;
    mf_decoder_destroy(v->decoder);
    mf_bytes_free(&v->held);
    mf_bytes_free(&v->out);
    mf_host_free(v);
}

static mf_status let_out(mf_voice *v, bool all, const char **text, size_t *bytes) {
    v->out.count = 0;
    MF_TRY(mf_utf8_hand_on(&v->held, all, &v->out));
    MF_TRY(mf_bytes_add(&v->out, "", 1));
    *text = (const char *)v->out.data;
    *bytes = v->out.count - 1;
    return MF_OK;
}

mf_status mf_voice_say(mf_voice *v, int32_t id, const char **text, size_t *bytes) {
    if (v->decoder) return mf_decoder_push(v->decoder, id, text, bytes);
    MF_TRY(mf_bytes_add(&v->held, &(uint8_t){(uint8_t)id}, 1));
    return let_out(v, false, text, bytes);
}

mf_status mf_voice_end(mf_voice *v, const char **text, size_t *bytes) {
    if (v->decoder) return mf_decoder_end(v->decoder, text, bytes);
    return let_out(v, true, text, bytes);
}
