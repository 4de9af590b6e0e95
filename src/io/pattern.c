/* pattern.c: expressions compiled and matched; pattern_translate.c rewrites them for PCRE2. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "io/pattern.h"

#include <pcre2.h>
#include <string.h>

/* Per match. Patterns of real tokenizers stay far below: what does not would be minutes for one text. */
enum { MATCH_STEPS = 10000000, HEAP_KIB = 64 << 10, JIT_STACK = 1 << 20 };

struct mf_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static mf_status compile(const mf_bytes *translated, mf_pattern *out) {
    int error = 0;
    PCRE2_SIZE where = 0;
    PCRE2_UCHAR reason[128];
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return MF_FAIL(MF_ENOMEM, "no memory for a pattern");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    /* Oniguruma's ^ and $ are those of lines, always */
    out->code = pcre2_compile(translated->data, translated->count,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                              &where, context);
    pcre2_compile_context_free(context);
    if (out->code) {
        out->jit = pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE) == 0;
        return MF_OK;
    }
    pcre2_get_error_message(error, reason, sizeof reason);
    return MF_FAIL(error == PCRE2_ERROR_NOMEMORY ? MF_ENOMEM : MF_EFORMAT, "pattern %.200s: %s", out->text,
                   (const char *)reason);
}

mf_status mf_pattern_compile(const char *text, mf_pattern *out) {
    mf_status status = MF_OK;
    mf_bytes translated = {0};
    *out = (mf_pattern){.bytes = strlen(text)};
    MF_GO(mf_host_strdup(text, &out->text));
    MF_GO(mf_pattern_translate(text, &translated));
    MF_GO(compile(&translated, out));
fail:
    mf_bytes_free(&translated);
    if (status) mf_pattern_free(out);
    return status;
}

mf_status mf_pattern_literal(const char *text, mf_pattern *out) {
    *out = (mf_pattern){.bytes = strlen(text)};
    if (!*text) return MF_FAIL(MF_EUNSUPPORTED, "an empty pattern is not supported");
    return mf_host_strdup(text, &out->text);
}

void mf_pattern_free(mf_pattern *pattern) {
    pcre2_code_free(pattern->code);
    mf_host_free(pattern->text);
    *pattern = (mf_pattern){0};
}

mf_status mf_matcher_create(mf_matcher **out) {
    mf_matcher *matcher = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *matcher, &matcher));
    matcher->data = pcre2_match_data_create(1, NULL);
    matcher->context = pcre2_match_context_create(NULL);
    matcher->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK, NULL); /* NULL where there is no JIT */
    if (!matcher->data || !matcher->context) {
        mf_matcher_destroy(matcher);
        return MF_FAIL(MF_ENOMEM, "no memory to match patterns with");
    }
    pcre2_set_match_limit(matcher->context, MATCH_STEPS);
    pcre2_set_depth_limit(matcher->context, MATCH_STEPS);
    pcre2_set_heap_limit(matcher->context, HEAP_KIB);
    if (matcher->stack) pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
    *out = matcher;
    return MF_OK;
}

void mf_matcher_destroy(mf_matcher *matcher) {
    if (!matcher) return;
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_jit_stack_free(matcher->stack);
    mf_host_free(matcher);
}

static void find_literal(const mf_pattern *pattern, mf_walk *walk) {
    const uint8_t *from = walk->text + walk->at;
    size_t left = walk->bytes - walk->at;
    const uint8_t *hit = pattern->bytes == 1 ? memchr(from, pattern->text[0], left)
                                             : memmem(from, left, pattern->text, pattern->bytes);
    walk->found = hit != NULL;
    if (!hit) return;
    walk->begin = (size_t)(hit - walk->text);
    walk->end = walk->at = walk->begin + pattern->bytes;
}

static mf_status refuse(const mf_pattern *pattern, int code) {
    PCRE2_UCHAR reason[128];
    pcre2_get_error_message(code, reason, sizeof reason);
    return MF_FAIL(code == PCRE2_ERROR_NOMEMORY ? MF_ENOMEM : MF_EUNSUPPORTED,
                   "pattern %.200s on this text: %s", pattern->text, (const char *)reason);
}

static mf_status search(const mf_pattern *pattern, mf_matcher *m, mf_walk *walk) {
    int code = PCRE2_ERROR_JIT_STACKLIMIT;
    if (pattern->jit)
        code = pcre2_jit_match(pattern->code, walk->text, walk->bytes, walk->at, PCRE2_NO_UTF_CHECK, m->data,
                               m->context);
    if (code == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter takes more, from the heap */
        code = pcre2_match(pattern->code, walk->text, walk->bytes, walk->at,
                           PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data, m->context);
    walk->found = code >= 0;
    if (code < 0 && code != PCRE2_ERROR_NOMATCH) return refuse(pattern, code);
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(m->data);
    if (walk->found) {
        walk->begin = range[0];
        walk->end = range[1];
    }
    return MF_OK;
}

/* As the onig crate's find_iter: an empty match counts unless it touches the match before it. */
mf_status mf_pattern_next(const mf_pattern *pattern, mf_matcher *matcher, mf_walk *walk) {
    if (!pattern->code) {
        find_literal(pattern, walk);
        return MF_OK;
    }
    while (walk->at <= walk->bytes) {
        MF_TRY(search(pattern, matcher, walk));
        if (!walk->found) return MF_OK;
        if (walk->begin < walk->end || walk->end + 1 != walk->barred) {
            walk->at = walk->end;
            walk->barred = walk->end + 1;
            return MF_OK;
        }
        walk->at += walk->at < walk->bytes ? (size_t)mf_utf8_width(walk->text[walk->at]) : 1;
    }
    walk->found = false;
    return MF_OK;
}
