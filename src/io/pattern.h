/* pattern.h: the regular expressions of a tokenizer.json, which are Oniguruma's, matched by PCRE2.
 *
 *     MF_TRY(mf_pattern_compile("\\p{N}{1,3}", &pattern));
 *     mf_walk walk = {.text = text, .bytes = bytes};
 *     do {
 *         MF_TRY(mf_pattern_next(&pattern, matcher, &walk));
 *         ... walk.found, text[walk.begin .. walk.end - 1] ...
 *     } while (walk.found);
 *     mf_pattern_free(&pattern);
 */
#ifndef MF_IO_PATTERN_H
#define MF_IO_PATTERN_H

#include "io/bytes.h"

/* Does not change once it is made: any number of threads may match with it. */
typedef struct mf_pattern {
    struct pcre2_real_code_8 *code; /* NULL: a literal */
    char *text;                     /* as it was given, owned */
    size_t bytes;
    bool jit;
} mf_pattern;

/* MF_EFORMAT for what is no expression; MF_EUNSUPPORTED names what the two read differently. */
mf_status mf_pattern_compile(const char *text, mf_pattern *out);
/* Matches just this text, which must not be empty. */
mf_status mf_pattern_literal(const char *text, mf_pattern *out);
void mf_pattern_free(mf_pattern *pattern);
/* The same expression as PCRE2 spells it. */
mf_status mf_pattern_translate(const char *text, mf_bytes *out);

/* What one thread needs to match. */
typedef struct mf_matcher mf_matcher;
mf_status mf_matcher_create(mf_matcher **out);
void mf_matcher_destroy(mf_matcher *matcher);

/* From match to match: set text (UTF-8) and bytes, zero the rest. */
typedef struct mf_walk {
    const uint8_t *text;
    size_t bytes;
    bool found;
    size_t begin, end; /* of the match */
    size_t at;         /* where the search goes on */
    size_t barred;     /* an empty match that ends at barred - 1 would touch the one before */
} mf_walk;
/* MF_EUNSUPPORTED when it takes more steps or memory than a tokenizer's pattern should. */
mf_status mf_pattern_next(const mf_pattern *pattern, mf_matcher *matcher, mf_walk *walk);

#endif
