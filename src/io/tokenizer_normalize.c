/* tokenizer_normalize.c: the normalizer: steps that change a text as a whole. */
#include "io/tokenizer.h"

#include <string.h>
#include <utf8proc.h>

static const struct known_form {
    const char *name;
    mf_normal_kind kind;
    int options; /* utf8proc's */
} known_forms[] = {
    {"NFC", MF_NORMAL_NFC, UTF8PROC_COMPOSE},
    {"NFD", MF_NORMAL_NFD, UTF8PROC_DECOMPOSE},
    {"NFKC", MF_NORMAL_NFKC, UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
    {"NFKD", MF_NORMAL_NFKD, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
};

static mf_status read_replace(const mf_reading *at, const json_t *part, mf_normal_step *step) {
    const char *content = NULL;
    step->kind = MF_NORMAL_REPLACE;
    MF_TRY(mf_json_text(at, part, "content", &content));
    MF_TRY(mf_host_strdup(content, &step->content));
    return mf_json_pattern(at, part, &step->pattern);
}

static mf_status read_strip(const mf_reading *at, const json_t *part, mf_normal_step *step) {
    step->kind = MF_NORMAL_STRIP;
    MF_TRY(mf_json_flag(at, part, "strip_left", true, &step->left));
    return mf_json_flag(at, part, "strip_right", true, &step->right);
}

static mf_status read_step(const mf_reading *at, const json_t *part, const char *type, void *out) {
    mf_normalizer *normalizer = out;
    const char *content = NULL;
    if (normalizer->count == MF_TOKENIZER_STEPS) return mf_json_refuse(at, "a Sequence of so many steps");
    mf_normal_step *step = &normalizer->step[normalizer->count++];
    for (size_t i = 0; i < sizeof known_forms / sizeof *known_forms; i++) {
        step->kind = known_forms[i].kind;
        if (!strcmp(type, known_forms[i].name)) return MF_OK;
    }
    step->kind = MF_NORMAL_LOWERCASE;
    if (!strcmp(type, "Lowercase")) return MF_OK;
    if (!strcmp(type, "Replace")) return read_replace(at, part, step);
    if (!strcmp(type, "Strip")) return read_strip(at, part, step);
    if (strcmp(type, "Prepend")) return mf_json_refuse(at, type);
    step->kind = MF_NORMAL_PREPEND;
    MF_TRY(mf_json_text(at, part, "prepend", &content));
    return mf_host_strdup(content, &step->content);
}

mf_status mf_normalizer_read(const mf_reading *at, const json_t *part, mf_normalizer *out) {
    return mf_json_parts(at, part, "normalizers", read_step, out);
}

void mf_normalizer_free(mf_normalizer *normalizer) {
    for (int i = 0; i < normalizer->count; i++) {
        mf_pattern_free(&normalizer->step[i].pattern);
        mf_host_free(normalizer->step[i].content);
    }
    *normalizer = (mf_normalizer){0};
}

void mf_normal_scratch_free(mf_normal_scratch *scratch) {
    mf_bytes_free(&scratch->text[0]);
    mf_bytes_free(&scratch->text[1]);
    mf_host_free(scratch->points);
}

/* text in one of the four forms, by utf8proc. */
static mf_status add_form(int options, mf_normal_scratch *scratch, const uint8_t *text, size_t bytes,
                          mf_bytes *out) {
    options |= UTF8PROC_STABLE;
    utf8proc_ssize_t points =
        utf8proc_decompose(text, (utf8proc_ssize_t)bytes, NULL, 0, (utf8proc_option_t)options);
    if (points < 0) return MF_FAIL(MF_ELIBRARY, "utf8proc: %s", utf8proc_errmsg(points));
    MF_TRY(mf_grow(&scratch->points, 0, &scratch->point_room, (size_t)points + 1, sizeof *scratch->points));
    points = utf8proc_decompose(text, (utf8proc_ssize_t)bytes, scratch->points, points,
                                (utf8proc_option_t)options);
    points = utf8proc_normalize_utf32(scratch->points, points, (utf8proc_option_t)options);
    if (points < 0) return MF_FAIL(MF_ELIBRARY, "utf8proc: %s", utf8proc_errmsg(points));
    MF_TRY(mf_bytes_reserve(out, 4 * (size_t)points));
    for (utf8proc_ssize_t i = 0; i < points; i++)
        out->count += (size_t)mf_utf8_put((uint32_t)scratch->points[i], out->data + out->count);
    return MF_OK;
}

/* Characters below it stay as they are in this form, and what follows one of them that is below it too can't
 * change it: in NFC all of Latin without combining marks, else ASCII. */
static uint32_t settled_below(mf_normal_kind kind) { return kind == MF_NORMAL_NFC ? 0x300 : 0x80; }

/* The first character from `at` on that can't change: settled in this form, or not known to the reference. */
static size_t end_of_run(const mf_stretch *in, uint32_t limit, size_t at) {
    while (at < in->bytes) {
        uint32_t point = mf_utf8_point(in->text + at);
        if (point < limit || mf_normal_is_newer(point)) break;
        at += (size_t)mf_utf8_width(in->text[at]);
    }
    return at;
}

/* Only runs that could change go through utf8proc: each with the character before it, which a mark may join.
 */
static mf_status normal_form(const mf_normal_step *step, mf_normal_scratch *scratch, const mf_stretch *in,
                             mf_bytes *out) {
    uint32_t limit = settled_below(step->kind);
    size_t begin = 0, last = 0, at = 0; /* what is not put out yet; the character before; here */
    while (at < in->bytes) {
        size_t end = end_of_run(in, limit, at);
        if (end == at) {
            last = at;
            at += (size_t)mf_utf8_width(in->text[at]);
            if (mf_utf8_point(in->text + last) >= limit) last = at; /* nothing joins what is not known */
            continue;
        }
        MF_TRY(mf_bytes_add(out, in->text + begin, last - begin));
        MF_TRY(add_form(known_forms[step->kind].options, scratch, in->text + last, end - last, out));
        begin = last = at = end;
    }
    return mf_bytes_add(out, in->text + begin, in->bytes - begin);
}

/* Character by character, as the reference does: no final sigma, and one character that becomes two. */
static mf_status lowercase(const mf_stretch *in, mf_bytes *out) {
    static const uint8_t dotted_i[] = {'i', 0xcc, 0x87};
    for (size_t at = 0; at < in->bytes; at += (size_t)mf_utf8_width(in->text[at])) {
        uint32_t point = mf_utf8_point(in->text + at);
        MF_TRY(mf_bytes_reserve(out, 4));
        if (point == 0x130)
            MF_TRY(mf_bytes_add(out, dotted_i, sizeof dotted_i));
        else
            out->count +=
                (size_t)mf_utf8_put((uint32_t)utf8proc_tolower((int32_t)point), out->data + out->count);
    }
    return MF_OK;
}

static mf_status replace(const mf_normal_step *step, mf_matcher *matcher, mf_stretch *in, mf_bytes *out) {
    mf_walk walk = {.text = in->text, .bytes = in->bytes};
    size_t done = 0, content = strlen(step->content);
    for (;;) {
        MF_TRY(mf_pattern_next(&step->pattern, matcher, &walk));
        if (!walk.found) break;
        MF_TRY(mf_bytes_add(out, in->text + done, walk.begin - done));
        MF_TRY(mf_bytes_add(out, step->content, content));
        if (walk.begin == 0 && walk.end > 0 && !content) in->first = false;
        done = walk.end;
    }
    return mf_bytes_add(out, in->text + done, in->bytes - done);
}

static void strip(const mf_normal_step *step, mf_stretch *in) {
    while (step->left && in->bytes && mf_utf8_is_space(mf_utf8_point(in->text))) {
        int width = mf_utf8_width(in->text[0]);
        in->text += width;
        in->bytes -= (size_t)width;
        in->first = false;
    }
    while (step->right && in->bytes) {
        size_t last = mf_utf8_last(in->text, in->bytes);
        if (!mf_utf8_is_space(mf_utf8_point(in->text + last))) break;
        in->bytes = last;
    }
}

static mf_status take_step(const mf_normal_step *step, mf_matcher *matcher, mf_normal_scratch *scratch,
                           mf_stretch *in, mf_bytes *out) {
    switch (step->kind) {
    case MF_NORMAL_LOWERCASE:
        return lowercase(in, out);
    case MF_NORMAL_REPLACE:
        return replace(step, matcher, in, out);
    case MF_NORMAL_PREPEND:
        if (in->bytes) MF_TRY(mf_bytes_add(out, step->content, strlen(step->content)));
        return mf_bytes_add(out, in->text, in->bytes);
    default:
        return normal_form(step, scratch, in, out);
    }
}

mf_status mf_normalize(const mf_normalizer *normalizer, mf_matcher *matcher, mf_normal_scratch *scratch,
                       mf_stretch *stretch) {
    int made = 0;
    for (int i = 0; i < normalizer->count; i++) {
        const mf_normal_step *step = &normalizer->step[i];
        if (step->kind == MF_NORMAL_STRIP) {
            strip(step, stretch);
            continue;
        }
        mf_bytes *out = &scratch->text[made++ % 2]; /* the text is in the other, or outside */
        out->count = 0;
        MF_TRY(mf_bytes_reserve(out, stretch->bytes));
        MF_TRY(take_step(step, matcher, scratch, stretch, out));
        stretch->text = out->data;
        stretch->bytes = out->count;
    }
    return MF_OK;
}
