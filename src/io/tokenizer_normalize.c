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
    mf_host_free(scratch->spare);
}

/* *count: of the characters that text's come apart into, as they come. */
static mf_status decompose(int options, mf_normal_scratch *scratch, const uint8_t *text, size_t bytes,
                           size_t *count) {
    enum { MOST = 32 }; /* of one character: U+FDFA has 18 */
    for (size_t at = 0; at < bytes; at += (size_t)mf_utf8_width(text[at])) {
        MF_TRY(mf_grow(&scratch->points, *count, &scratch->point_room, MOST, sizeof *scratch->points));
        utf8proc_ssize_t more =
            utf8proc_decompose_char((utf8proc_int32_t)mf_utf8_point(text + at), scratch->points + *count,
                                    MOST, (utf8proc_option_t)options, NULL);
        if (more < 0 || more > MOST) return MF_FAIL(MF_ELIBRARY, "utf8proc: %s", utf8proc_errmsg(more));
        *count += (size_t)more;
    }
    return MF_OK;
}

static int class_of(int32_t point) { return utf8proc_get_property(point)->combining_class; }

/* Two sorted runs, [0, middle) and [middle, count), into out: [count]. */
static void merge(const int32_t *points, size_t middle, size_t count, int32_t *out) {
    size_t a = 0, b = middle;
    for (size_t i = 0; i < count; i++) {
        bool first = b == count || (a < middle && class_of(points[a]) <= class_of(points[b]));
        out[i] = first ? points[a++] : points[b++];
    }
}

/* Marks by their classes, those of one class as they came. spare: [count]. */
static void sort_marks(int32_t *points, size_t count, int32_t *spare) {
    size_t middle = count / 2;
    if (count < 2) return;
    sort_marks(points, middle, spare);
    sort_marks(points + middle, count - middle, spare);
    if (class_of(points[middle - 1]) <= class_of(points[middle])) return;
    merge(points, middle, count, spare);
    memcpy(points, spare, count * sizeof *points);
}

/* Canonical order (Unicode 15, 3.11). utf8proc's own takes quadratic time where all of a text is marks. */
static mf_status order_marks(mf_normal_scratch *scratch, size_t count) {
    int32_t *points = scratch->points;
    MF_TRY(mf_grow(&scratch->spare, 0, &scratch->spare_room, count, sizeof *scratch->spare));
    for (size_t at = 0, end; at < count; at = end + 1) {
        for (end = at; end < count && class_of(points[end]); end++) {
        }
        sort_marks(points + at, end - at, scratch->spare);
    }
    return MF_OK;
}

/* text in one of the four forms, by utf8proc. */
static mf_status add_form(int options, mf_normal_scratch *scratch, const uint8_t *text, size_t bytes,
                          mf_bytes *out) {
    size_t count = 0;
    options |= UTF8PROC_STABLE;
    MF_TRY(decompose(options, scratch, text, bytes, &count));
    MF_TRY(order_marks(scratch, count));
    utf8proc_ssize_t points =
        utf8proc_normalize_utf32(scratch->points, (utf8proc_ssize_t)count, (utf8proc_option_t)options);
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

static mf_status check_growth(const mf_bytes *out, size_t most) {
    if (out->count <= most) return MF_OK;
    return MF_FAIL(MF_EUNSUPPORTED, "normalizer: makes %zu bytes and more where it may make %zu", out->count,
                   most);
}

static mf_status replace(const mf_normal_step *step, mf_matcher *matcher, mf_stretch *in, size_t most,
                         mf_bytes *out) {
    mf_walk walk = {.text = in->text, .bytes = in->bytes};
    size_t done = 0, content = strlen(step->content);
    for (;;) {
        MF_TRY(mf_pattern_next(&step->pattern, matcher, &walk));
        if (!walk.found) break;
        MF_TRY(mf_bytes_add(out, in->text + done, walk.begin - done));
        MF_TRY(mf_bytes_add(out, step->content, content));
        MF_TRY(check_growth(out, most));
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
                           mf_stretch *in, size_t most, mf_bytes *out) {
    switch (step->kind) {
    case MF_NORMAL_LOWERCASE:
        return lowercase(in, out);
    case MF_NORMAL_REPLACE:
        return replace(step, matcher, in, most, out);
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
    size_t most = mf_most_of(stretch->bytes);
    for (int i = 0; i < normalizer->count; i++) {
        const mf_normal_step *step = &normalizer->step[i];
        if (step->kind == MF_NORMAL_STRIP) {
            strip(step, stretch);
            continue;
        }
        mf_bytes *out = &scratch->text[made++ % 2]; /* the text is in the other, or outside */
        out->count = 0;
        MF_TRY(mf_bytes_reserve(out, stretch->bytes));
        MF_TRY(take_step(step, matcher, scratch, stretch, most, out));
        MF_TRY(check_growth(out, most));
        stretch->text = out->data;
        stretch->bytes = out->count;
    }
    return MF_OK;
}
