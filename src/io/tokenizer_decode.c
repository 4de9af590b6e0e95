/* tokenizer_decode.c: ids back to text: tokens go through the decoder's steps one by one. ByteLevel and Fuse
 * make one token of all that come, and hand it on in portions. */
#include "io/tokenizer.h"

#include <string.h>

/* What a step remembers from token to token. */
typedef struct memory {
    mf_bytes held; /* bytes that are no whole character yet */
    bool begun;    /* a token, or where tokens are fused the one, has come */
    size_t left;   /* strip: characters that may still go */
} memory;

struct mf_decoder {
    const mf_tokenizer *tokenizer;
    mf_matcher *matcher;
    bool skip_special;
    bool whole;  /* the text comes out at the end, so that what is no UTF-8 is known in time */
    bool begun;  /* a token has come */
    size_t room; /* bytes that replacing may still make of the tokens that have come */
    memory memory[MF_TOKENIZER_STEPS];
    mf_bytes scratch[MF_TOKENIZER_STEPS], out;
};

/* The step takes tokens one by one; it can't be told where a fused one has parts. */
static mf_status read_plain(const mf_reading *at, const json_t *part, const char *type,
                            mf_decode_step *step) {
    const char *text = NULL;
    if (step->fused) return mf_json_refuse(at, "a step other than Strip behind ByteLevel or Fuse");
    if (!strcmp(type, "ByteFallback")) {
        step->kind = MF_DECODE_BYTE_FALLBACK;
        return MF_OK;
    }
    if (!strcmp(type, "Replace")) {
        step->kind = MF_DECODE_REPLACE;
        MF_TRY(mf_json_text(at, part, "content", &text));
        MF_TRY(mf_host_strdup(text, &step->content));
        return mf_json_pattern(at, part, &step->pattern);
    }
    if (strcmp(type, "Metaspace")) return mf_json_refuse(at, type);
    step->kind = MF_DECODE_METASPACE;
    MF_TRY(mf_json_text(at, part, "replacement", &text));
    if (!*text) return MF_FAIL(MF_EFORMAT, "%s: %s: Metaspace's replacement is empty", at->path, at->part);
    MF_TRY(mf_json_flag(at, part, "add_prefix_space", true, &step->drops_first));
    const char *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
    if (scheme) step->drops_first = strcmp(scheme, "never") != 0;
    return mf_pattern_literal(text, &step->pattern);
}

static mf_status read_strip(const mf_reading *at, const json_t *part, mf_decode_step *step) {
    const char *content = NULL;
    size_t stop = 0;
    step->kind = MF_DECODE_STRIP;
    MF_TRY(mf_json_text(at, part, "content", &content));
    MF_TRY(mf_json_count(at, part, "start", &step->most));
    MF_TRY(mf_json_count(at, part, "stop", &stop));
    if (stop) return mf_json_refuse(at, "Strip with a stop");
    return mf_host_strdup(content, &step->content);
}

static mf_status read_step(const mf_reading *at, const json_t *part, const char *type, void *out) {
    mf_decode_chain *chain = out;
    if (chain->count == MF_TOKENIZER_STEPS) return mf_json_refuse(at, "a Sequence of so many steps");
    mf_decode_step *step = &chain->step[chain->count++];
    if (chain->count > 1) {
        const mf_decode_step *before = step - 1;
        step->fused = before->fused || before->kind == MF_DECODE_FUSE || before->kind == MF_DECODE_BYTE_LEVEL;
    }
    if (!strcmp(type, "Strip")) return read_strip(at, part, step);
    if (strcmp(type, "Fuse") && strcmp(type, "ByteLevel")) return read_plain(at, part, type, step);
    step->kind = !strcmp(type, "Fuse") ? MF_DECODE_FUSE : MF_DECODE_BYTE_LEVEL;
    return step->fused && step->kind == MF_DECODE_BYTE_LEVEL ? mf_json_refuse(at, "ByteLevel behind Fuse")
                                                             : MF_OK;
}

mf_status mf_decode_chain_read(const mf_reading *at, const json_t *part, mf_decode_chain *out) {
    out->spaced = !part || json_is_null(part);
    return mf_json_parts(at, part, "decoders", read_step, out);
}

void mf_decode_chain_free(mf_decode_chain *chain) {
    for (int i = 0; i < chain->count; i++) {
        mf_pattern_free(&chain->step[i].pattern);
        mf_host_free(chain->step[i].content);
    }
    *chain = (mf_decode_chain){0};
}

static mf_status take(mf_decoder *d, int index, const uint8_t *text, size_t bytes);

/* Replaces matches by `content`. */
static mf_status replace(mf_decoder *d, int index, const char *content, const uint8_t *text, size_t bytes) {
    const mf_decode_step *step = &d->tokenizer->chain.step[index];
    mf_bytes *out = &d->scratch[index];
    mf_walk walk = {.text = text, .bytes = bytes};
    size_t done = 0;
    out->count = 0;
    MF_TRY(mf_bytes_reserve(out, 1));
    while (bytes > 0) {
        MF_TRY(mf_pattern_next(&step->pattern, d->matcher, &walk));
        if (!walk.found) break;
        MF_TRY(mf_bytes_add(out, text + done, walk.begin - done));
        MF_TRY(mf_bytes_add(out, content, strlen(content)));
        if (out->count > d->room)
            return MF_FAIL(MF_EUNSUPPORTED, "decoder: makes %zu bytes and more where it may make %zu",
                           out->count, d->room);
        done = walk.end;
    }
    MF_TRY(mf_bytes_add(out, text + done, bytes - done));
    d->room -= out->count < d->room ? out->count : d->room;
    return take(d, index + 1, out->data, out->count);
}

static int digit_of(uint8_t letter) {
    if (letter >= '0' && letter <= '9') return letter - '0';
    letter |= 0x20;
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

/* The byte that "<0xE2>" names; -1: it is no such token. */
static int named_byte(const uint8_t *text, size_t bytes) {
    if (bytes != 6 || memcmp(text, "<0x", 3) || text[5] != '>') return -1;
    int high = digit_of(text[3]), low = digit_of(text[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

/* Hands on what is held, as one token where it is UTF-8, else U+FFFD for each byte: so does the reference. */
static mf_status release(mf_decoder *d, int index) {
    mf_bytes *held = &d->memory[index].held;
    size_t count = held->count;
    held->count = 0;
    if (!count) return MF_OK;
    if (mf_utf8_valid(held->data, count) == count) return take(d, index + 1, held->data, count);
    for (size_t i = 0; i < count; i++)
        MF_TRY(take(d, index + 1, mf_utf8_replacement, sizeof mf_utf8_replacement));
    return MF_OK;
}

/* What comes behind does not look where a token ends: bytes may go on as soon as they are a character. */
static bool may_part(const mf_decode_chain *chain, int index) {
    return index + 1 == chain->count || chain->step[index + 1].kind == MF_DECODE_FUSE;
}

static mf_status byte_fallback(mf_decoder *d, int index, const uint8_t *text, size_t bytes) {
    mf_bytes *held = &d->memory[index].held;
    int named = named_byte(text, bytes);
    if (named < 0) {
        MF_TRY(release(d, index));
        return take(d, index + 1, text, bytes);
    }
    uint8_t byte = (uint8_t)named;
    MF_TRY(mf_bytes_add(held, &byte, 1));
    if (d->whole || !may_part(&d->tokenizer->chain, index)) return MF_OK;
    if (mf_utf8_look(held->data, held->count).cut) return MF_OK;
    return release(d, index);
}

/* Takes up to `left` of the step's character off the front. */
static mf_status strip(mf_decoder *d, int index, const uint8_t *text, size_t bytes) {
    const mf_decode_step *step = &d->tokenizer->chain.step[index];
    memory *m = &d->memory[index];
    size_t width = strlen(step->content);
    if (!step->fused || !m->begun) m->left = step->most;
    m->begun = true;
    while (m->left && width && bytes >= width && !memcmp(text, step->content, width)) {
        text += width;
        bytes -= width;
        m->left--;
    }
    if (bytes) m->left = 0;
    return take(d, index + 1, text, bytes);
}

static mf_status hand_on_characters(mf_decoder *d, int index, bool all) {
    mf_bytes *out = &d->scratch[index];
    out->count = 0;
    MF_TRY(mf_utf8_hand_on(&d->memory[index].held, all, out));
    return out->count ? take(d, index + 1, out->data, out->count) : MF_OK;
}

static mf_status byte_level(mf_decoder *d, int index, const uint8_t *text, size_t bytes) {
    mf_bytes *held = &d->memory[index].held;
    size_t count = 0;
    MF_TRY(mf_bytes_reserve(held, bytes));
    if (mf_byte_level_decode(text, bytes, held->data + held->count, &count))
        held->count += count;
    else
        MF_TRY(mf_bytes_add(held, text, bytes));
    return hand_on_characters(d, index, false);
}

static mf_status take(mf_decoder *d, int index, const uint8_t *text, size_t bytes) {
    const mf_decode_chain *chain = &d->tokenizer->chain;
    if (index == chain->count) return mf_bytes_add(&d->out, text, bytes);
    const mf_decode_step *step = &chain->step[index];
    bool first = !d->memory[index].begun;
    switch (step->kind) {
    case MF_DECODE_REPLACE:
        return replace(d, index, step->content, text, bytes);
    case MF_DECODE_METASPACE:
        d->memory[index].begun = true;
        return replace(d, index, first && step->drops_first ? "" : " ", text, bytes);
    case MF_DECODE_BYTE_FALLBACK:
        return byte_fallback(d, index, text, bytes);
    case MF_DECODE_STRIP:
        return strip(d, index, text, bytes);
    case MF_DECODE_FUSE:
        return take(d, index + 1, text, bytes);
    default:
        return byte_level(d, index, text, bytes);
    }
}

static mf_status finish(mf_decoder *d) {
    const mf_decode_chain *chain = &d->tokenizer->chain;
    for (int i = 0; i < chain->count; i++) {
        if (chain->step[i].kind == MF_DECODE_BYTE_FALLBACK) MF_TRY(release(d, i));
        if (chain->step[i].kind == MF_DECODE_BYTE_LEVEL) MF_TRY(hand_on_characters(d, i, true));
    }
    return MF_OK;
}

/* Forgets the text, not the memory. */
static void begin_again(mf_decoder *d) {
    d->begun = false;
    for (int i = 0; i < MF_TOKENIZER_STEPS; i++) {
        d->memory[i].begun = false;
        d->memory[i].held.count = 0;
    }
}

static mf_status take_id(mf_decoder *d, int32_t id) {
    const mf_tokenizer *t = d->tokenizer;
    if (id < 0 || id >= t->size || !t->token[id].text) return MF_OK;
    const mf_token *token = &t->token[id];
    if (d->skip_special && token->special) return MF_OK;
    if (t->chain.spaced && d->begun) MF_TRY(mf_bytes_add(&d->out, " ", 1));
    d->begun = true;
    const char *text = token->normalized ? token->normalized : token->text;
    size_t bytes = token->normalized ? token->normalized_bytes : token->bytes;
    d->room += mf_most_of(bytes);
    return take(d, 0, (const uint8_t *)text, bytes);
}

mf_status mf_decoder_create(const mf_tokenizer *tokenizer, bool skip_special, mf_decoder **out) {
    mf_decoder *d = NULL;
    mf_status status = MF_OK;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *d, &d));
    d->tokenizer = tokenizer;
    d->skip_special = skip_special;
    MF_GO(mf_matcher_create(&d->matcher));
    *out = d;
    d = NULL;
fail:
    mf_decoder_destroy(d);
    return status;
}

void mf_decoder_destroy(mf_decoder *d) {
    if (!d) return;
    mf_matcher_destroy(d->matcher);
    for (int i = 0; i < MF_TOKENIZER_STEPS; i++) {
        mf_bytes_free(&d->memory[i].held);
        mf_bytes_free(&d->scratch[i]);
    }
    mf_bytes_free(&d->out);
    mf_host_free(d);
}

/* Makes out a string, and hands it out. */
static mf_status show(mf_decoder *d, const char **text, size_t *bytes) {
    MF_TRY(mf_bytes_reserve(&d->out, 1));
    d->out.data[d->out.count] = 0;
    *text = (const char *)d->out.data;
    *bytes = d->out.count;
    return MF_OK;
}

mf_status mf_decoder_push(mf_decoder *d, int32_t id, const char **text, size_t *bytes) {
    d->out.count = 0;
    MF_TRY(mf_tokenizer_blame(d->tokenizer, take_id(d, id)));
    return show(d, text, bytes);
}

mf_status mf_decoder_end(mf_decoder *d, const char **text, size_t *bytes) {
    d->out.count = 0;
    mf_status status = finish(d);
    begin_again(d);
    MF_TRY(mf_tokenizer_blame(d->tokenizer, status));
    return show(d, text, bytes);
}

mf_status mf_decode(const mf_tokenizer *tokenizer, const int32_t *ids, int64_t count, bool skip_special,
                    char **text, size_t *bytes) {
    mf_status status = MF_OK;
    mf_decoder *d = NULL;
    const char *shown = NULL;
    *text = NULL;
    *bytes = 0;
    MF_TRY(mf_decoder_create(tokenizer, skip_special, &d));
    d->whole = true;
    for (int64_t i = 0; i < count; i++) MF_GO(take_id(d, ids[i]));
    MF_GO(finish(d));
    MF_GO(show(d, &shown, bytes));
    *text = (char *)d->out.data;
    d->out = (mf_bytes){0};
fail:
    mf_decoder_destroy(d);
    return mf_tokenizer_blame(tokenizer, status);
}
