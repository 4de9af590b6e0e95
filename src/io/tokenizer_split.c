/* tokenizer_split.c: the pre-tokenizer: steps that cut a text into words. Each piece goes all the way down
 * before the next is cut off, so that no list of pieces is needed. */
#include "io/tokenizer.h"

#include <string.h>

/* GPT-2's: https://github.com/openai/gpt-2/blob/master/src/encoder.py. */
static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static mf_status read_behaviour(const mf_reading *at, const json_t *part, mf_behaviour *out) {
    static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious",
                                        "MergedWithNext"};
    const char *name = NULL;
    MF_TRY(mf_json_text(at, part, "behavior", &name));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *out = (mf_behaviour)i;
        if (!strcmp(name, names[i])) return MF_OK;
    }
    return mf_json_refuse(at, name);
}

static mf_status read_split(const mf_reading *at, const json_t *part, mf_split_step *step) {
    MF_TRY(read_behaviour(at, part, &step->behaviour));
    MF_TRY(mf_json_flag(at, part, "invert", false, &step->invert));
    return mf_json_pattern(at, part, &step->pattern);
}

static mf_status read_byte_level(const mf_reading *at, const json_t *part, mf_splitter *splitter,
                                 mf_split_step *step) {
    bool prefix = false;
    step->kind = MF_SPLIT_BYTE_LEVEL;
    splitter->byte_level = true;
    MF_TRY(mf_json_flag(at, part, "add_prefix_space", true, &prefix));
    MF_TRY(mf_json_flag(at, part, "use_regex", true, &step->cuts));
    step->prepend = prefix ? MF_PREPEND_ALWAYS : MF_PREPEND_NEVER;
    return mf_pattern_compile(byte_level_pattern, &step->pattern);
}

static mf_status read_scheme(const mf_reading *at, const json_t *part, mf_prepend *out) {
    static const char *const names[] = {"never", "first", "always"};
    const json_t *value = json_object_get(part, "prepend_scheme");
    bool prefix = false;
    MF_TRY(mf_json_flag(at, part, "add_prefix_space", true, &prefix));
    *out = prefix ? MF_PREPEND_ALWAYS : MF_PREPEND_NEVER;
    if (!value) return MF_OK;
    const char *name = json_string_value(value);
    for (int i = 0; name && i < 3; i++) {
        *out = (mf_prepend)i;
        if (!strcmp(name, names[i])) return MF_OK;
    }
    return MF_FAIL(MF_EFORMAT, "%s: %s: prepend_scheme is none of never, first, always", at->path, at->part);
}

static mf_status read_metaspace(const mf_reading *at, const json_t *part, mf_split_step *step) {
    const char *space = NULL;
    step->kind = MF_SPLIT_METASPACE;
    MF_TRY(read_scheme(at, part, &step->prepend));
    MF_TRY(mf_json_flag(at, part, "split", true, &step->cuts));
    MF_TRY(mf_json_text(at, part, "replacement", &space));
    step->space_bytes = strlen(space);
    if (!*space || step->space_bytes != (size_t)mf_utf8_width((uint8_t)*space))
        return MF_FAIL(MF_EFORMAT, "%s: %s: Metaspace's replacement is not one character", at->path,
                       at->part);
    return mf_host_strdup(space, &step->space);
}

static mf_status read_digits(const mf_reading *at, const json_t *part, mf_split_step *step) {
    bool single = false;
    MF_TRY(mf_json_flag(at, part, "individual_digits", false, &single));
    step->behaviour = single ? MF_ISOLATED : MF_CONTIGUOUS;
    return mf_pattern_compile("\\p{N}", &step->pattern);
}

static mf_status read_step(const mf_reading *at, const json_t *part, const char *type, void *out) {
    mf_splitter *splitter = out;
    if (splitter->count == MF_TOKENIZER_STEPS) return mf_json_refuse(at, "a Sequence of so many steps");
    if (splitter->byte_level) return mf_json_refuse(at, "a step behind ByteLevel");
    mf_split_step *step = &splitter->step[splitter->count++];
    if (!strcmp(type, "Split")) return read_split(at, part, step);
    if (!strcmp(type, "ByteLevel")) return read_byte_level(at, part, splitter, step);
    if (!strcmp(type, "Metaspace")) return read_metaspace(at, part, step);
    if (!strcmp(type, "Digits")) return read_digits(at, part, step);
    if (!strcmp(type, "Punctuation")) {
        MF_TRY(read_behaviour(at, part, &step->behaviour));
        return mf_pattern_compile("[!-/:-@\\[-`{-~\\p{P}]", &step->pattern);
    }
    step->behaviour = MF_REMOVED;
    if (!strcmp(type, "WhitespaceSplit")) return mf_pattern_compile("\\s", &step->pattern);
    return mf_json_refuse(at, type);
}

mf_status mf_splitter_read(const mf_reading *at, const json_t *part, mf_splitter *out) {
    return mf_json_parts(at, part, "pretokenizers", read_step, out);
}

void mf_splitter_free(mf_splitter *splitter) {
    for (int i = 0; i < splitter->count; i++) {
        mf_pattern_free(&splitter->step[i].pattern);
        mf_host_free(splitter->step[i].space);
    }
    *splitter = (mf_splitter){0};
}

static mf_status take_step(mf_encoder *encoder, int index, const mf_stretch *in);

static mf_status hand_on(mf_encoder *encoder, int index, const mf_stretch *in, size_t begin, size_t end) {
    mf_stretch piece = {in->text + begin, end - begin, in->first && begin == 0};
    return begin < end ? take_step(encoder, index + 1, &piece) : MF_OK;
}

/* Pieces of a text, in their order: matches, and what lies between them. The last is held back until it is
 * known whether the next one joins it. */
typedef struct pieces {
    mf_encoder *encoder;
    int index;
    const mf_stretch *in;
    bool any, held_match;
    size_t begin, end; /* of what is held back */
} pieces;

static bool joins(mf_behaviour behaviour, bool held_match, bool match) {
    switch (behaviour) {
    case MF_CONTIGUOUS:
        return held_match == match;
    case MF_MERGED_WITH_PREVIOUS:
        return match && !held_match;
    case MF_MERGED_WITH_NEXT:
        return held_match && !match;
    default:
        return false;
    }
}

static mf_status let_go(pieces *p, const mf_split_step *step) {
    if (!p->any || (step->behaviour == MF_REMOVED && p->held_match)) return MF_OK;
    return hand_on(p->encoder, p->index, p->in, p->begin, p->end);
}

static mf_status add_piece(pieces *p, const mf_split_step *step, size_t begin, size_t end, bool match) {
    if (p->any && joins(step->behaviour, p->held_match, match)) {
        p->end = end;
    } else {
        MF_TRY(let_go(p, step));
        p->begin = begin;
        p->end = end;
    }
    p->any = true;
    p->held_match = match;
    return MF_OK;
}

static mf_status cut_by_pattern(mf_encoder *encoder, int index, const mf_stretch *in) {
    const mf_split_step *step = &encoder->tokenizer->splitter.step[index];
    pieces p = {.encoder = encoder, .index = index, .in = in};
    mf_walk walk = {.text = in->text, .bytes = in->bytes};
    size_t done = 0;
    for (;;) {
        MF_TRY(mf_pattern_next(&step->pattern, encoder->matcher, &walk));
        if (!walk.found) break;
        if (done < walk.begin) MF_TRY(add_piece(&p, step, done, walk.begin, step->invert));
        MF_TRY(add_piece(&p, step, walk.begin, walk.end, !step->invert));
        done = walk.end;
    }
    if (done < in->bytes) MF_TRY(add_piece(&p, step, done, in->bytes, step->invert));
    return let_go(&p, step);
}

/* The text with a space in front where it has none. */
static mf_status prefix_space(mf_encoder *encoder, int index, mf_stretch *in) {
    mf_bytes *out = &encoder->step[index];
    if (in->text[0] == ' ') return MF_OK;
    out->count = 0;
    MF_TRY(mf_bytes_add(out, " ", 1));
    MF_TRY(mf_bytes_add(out, in->text, in->bytes));
    in->text = out->data;
    in->bytes = out->count;
    return MF_OK;
}

static mf_status byte_level(mf_encoder *encoder, int index, mf_stretch in) {
    const mf_split_step *step = &encoder->tokenizer->splitter.step[index];
    if (step->prepend) MF_TRY(prefix_space(encoder, index, &in));
    return step->cuts ? cut_by_pattern(encoder, index, &in) : hand_on(encoder, index, &in, 0, in.bytes);
}

/* The text with every space replaced, and one in front where the step wants it. */
static mf_status put_metaspaces(const mf_split_step *step, const mf_stretch *in, mf_bytes *out) {
    bool there = in->text[0] == ' ' ||
                 (in->bytes >= step->space_bytes && !memcmp(in->text, step->space, step->space_bytes));
    bool wanted = step->prepend == MF_PREPEND_ALWAYS || (step->prepend == MF_PREPEND_FIRST && in->first);
    out->count = 0;
    if (wanted && !there) MF_TRY(mf_bytes_add(out, step->space, step->space_bytes));
    for (size_t at = 0; at < in->bytes;) {
        const uint8_t *space = memchr(in->text + at, ' ', in->bytes - at);
        size_t end = space ? (size_t)(space - in->text) : in->bytes;
        MF_TRY(mf_bytes_add(out, in->text + at, end - at));
        if (space) MF_TRY(mf_bytes_add(out, step->space, step->space_bytes));
        at = end + 1;
    }
    return MF_OK;
}

/* A word begins at every space, and with it. */
static mf_status metaspace(mf_encoder *encoder, int index, const mf_stretch *given) {
    const mf_split_step *step = &encoder->tokenizer->splitter.step[index];
    mf_bytes *out = &encoder->step[index];
    MF_TRY(put_metaspaces(step, given, out));
    mf_stretch in = {out->data, out->count, given->first};
    size_t begin = 0;
    while (step->cuts && begin < in.bytes) {
        size_t from = begin + (size_t)mf_utf8_width(in.text[begin]);
        const uint8_t *space = memmem(in.text + from, in.bytes - from, step->space, step->space_bytes);
        if (!space) break;
        size_t end = (size_t)(space - in.text);
        MF_TRY(hand_on(encoder, index, &in, begin, end));
        begin = end;
    }
    return hand_on(encoder, index, &in, begin, in.bytes);
}

static mf_status take_step(mf_encoder *encoder, int index, const mf_stretch *in) {
    const mf_splitter *splitter = &encoder->tokenizer->splitter;
    if (index == splitter->count) return mf_bpe_word(encoder, in->text, in->bytes);
    switch (splitter->step[index].kind) {
    case MF_SPLIT_BYTE_LEVEL:
        return byte_level(encoder, index, *in);
    case MF_SPLIT_METASPACE:
        return metaspace(encoder, index, in);
    default:
        return cut_by_pattern(encoder, index, in);
    }
}

mf_status mf_split_words(mf_encoder *encoder, const mf_stretch *stretch) {
    return stretch->bytes ? take_step(encoder, 0, stretch) : MF_OK;
}
