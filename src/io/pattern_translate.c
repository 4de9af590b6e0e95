/* pattern_translate.c: from Oniguruma's spelling of an expression to PCRE2's. What both spell alike is
 * copied, what they spell otherwise is rewritten, and what would mean another thing or is not known here is
 * refused. Oniguruma: https://github.com/kkos/oniguruma/blob/master/doc/RE; PCRE2: pcre2pattern(3). */
#include "io/pattern.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

typedef struct translation {
    const char *text, *at;
    mf_bytes *out;
    bool in_class;
} translation;

static mf_status put(translation *t, const char *text) { return mf_bytes_add(t->out, text, strlen(text)); }

static mf_status copy(translation *t, size_t bytes) {
    MF_TRY(mf_bytes_add(t->out, t->at, bytes));
    t->at += bytes;
    return MF_OK;
}

static mf_status refuse(const translation *t, size_t bytes) {
    return MF_FAIL(MF_EUNSUPPORTED, "pattern %.200s: %.*s is not supported", t->text, (int)bytes, t->at);
}

/* \p{Han}, \P{L}, \p{^L}: general categories are one thing to both; a script's name means what is written in
 * it to Oniguruma, and what is used with it to PCRE2, unless that is asked for the other. */
static mf_status put_property(translation *t) {
    static const char categories[] =
        " C Cc Cf Cn Co Cs L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi "
        "Po Ps S Sc Sk Sm So Z Zl Zp Zs Any ";
    const char *name = t->at + 2, *end = strchr(name, '}');
    char word[48];
    if (*name != '{' || !end || end - name > 40) return refuse(t, 2);
    name++;
    if (*name == '^') name++;
    snprintf(word, sizeof word, " %.*s ", (int)(end - name), name);
    MF_TRY(mf_bytes_add(t->out, t->at, (size_t)(name - t->at)));
    if (!strstr(categories, word)) MF_TRY(put(t, "sc:"));
    t->at = name;
    return copy(t, (size_t)(end + 1 - name));
}

/* \x41 and \x{1F600} are both spelled so; \xE4 is a byte to Oniguruma. \u0041 is Oniguruma's alone. */
static mf_status put_number(translation *t) {
    const char *digit = t->at + 2;
    bool long_form = t->at[1] == 'u';
    size_t digits = 0, most = long_form ? 4 : 2;
    if (!long_form && *digit == '{') {
        size_t inside = strspn(digit + 1, "0123456789abcdefABCDEF");
        return inside && digit[1 + inside] == '}' ? copy(t, inside + 4) : refuse(t, 3);
    }
    while (digits < most && isxdigit((unsigned char)digit[digits])) digits++;
    if (digits < most || (!long_form && digit[0] > '7')) return refuse(t, 2 + digits);
    if (!long_form) return copy(t, 4);
    MF_TRY(put(t, "\\x{"));
    MF_TRY(mf_bytes_add(t->out, digit, 4));
    t->at += 6;
    return put(t, "}");
}

/* Space, word and digit are Unicode's properties to Oniguruma; PCRE2's own are a little wider or narrower. */
static const char *rewritten(char letter, bool in_class) {
    switch (letter) {
    case 's':
        return in_class ? "\\t-\\r\\x{85}\\p{Z}" : "[\\t-\\r\\x{85}\\p{Z}]";
    case 'S':
        return in_class ? "\\P{White_Space}" : "[^\\t-\\r\\x{85}\\p{Z}]";
    case 'w':
        return in_class ? "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}" : "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]";
    case 'W':
        return in_class ? NULL : "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]";
    case 'v':
        return "\\x0b";
    default:
        return NULL;
    }
}

static mf_status put_escape(translation *t) {
    char letter = t->at[1];
    const char *other = rewritten(letter, t->in_class);
    if (other) {
        t->at += 2;
        return put(t, other);
    }
    if (letter == 'p' || letter == 'P') return put_property(t);
    if (letter == 'x' || letter == 'u') return put_number(t);
    if (letter && strchr("dDnrtfea", letter)) return copy(t, 2);
    if (letter && !t->in_class && strchr("Az", letter)) return copy(t, 2);
    if (!letter || isalnum((unsigned char)letter)) return refuse(t, letter ? 2 : 1);
    if ((unsigned char)letter >= 0x80) { /* stands for itself, escaped or not */
        t->at++;
        return copy(t, (size_t)mf_utf8_width((uint8_t)letter));
    }
    return copy(t, 2);
}

/* Groups, looks ahead and behind. (?i) to the end of a group is one thing to both at the front only; (*WORD)
 * is PCRE2's alone. */
static mf_status put_group(translation *t) {
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"};
    if (t->at[1] == '*') return refuse(t, 2);
    if (t->at[1] != '?') return copy(t, 1);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strncmp(t->at, known[i], strlen(known[i]))) return copy(t, strlen(known[i]));
    if (t->at == t->text && !strncmp(t->at, "(?i)", 4)) return copy(t, 4);
    return refuse(t, strnlen(t->at, 4));
}

/* {n,m}: what follows it, or stands in it, can mean another thing. */
static mf_status put_interval(translation *t) {
    size_t low = strspn(t->at + 1, "0123456789"), high = 0;
    const char *end = t->at + 1 + low;
    bool range = *end == ',';
    if (range) high = strspn(++end, "0123456789");
    end += high;
    if (*end != '}' || !(low + high)) return copy(t, 1); /* a brace like any other */
    size_t bytes = (size_t)(end + 1 - t->at);
    if (!low || end[1] == '+' || (end[1] == '?' && !range)) return refuse(t, bytes + 1);
    return copy(t, bytes);
}

static mf_status put_outside(translation *t) {
    switch (*t->at) {
    case '(':
        return put_group(t);
    case '{':
        return put_interval(t);
    case '[':
        t->in_class = true;
        if (t->at[1] == ']' || !strncmp(t->at, "[^]", 3)) return refuse(t, 2);
        return copy(t, t->at[1] == '^' ? 2 : 1);
    default:
        return copy(t, (size_t)mf_utf8_width((uint8_t)*t->at));
    }
}

/* Sets within sets and && are Oniguruma's alone. */
static mf_status put_inside(translation *t) {
    if (*t->at == '[') return refuse(t, strnlen(t->at, 2));
    if (!strncmp(t->at, "&&", 2)) return refuse(t, 2);
    if (*t->at == ']') t->in_class = false;
    return copy(t, (size_t)mf_utf8_width((uint8_t)*t->at));
}

mf_status mf_pattern_translate(const char *text, mf_bytes *out) {
    translation t = {.text = text, .at = text, .out = out};
    if (mf_utf8_valid((const uint8_t *)text, strlen(text)) < strlen(text))
        return MF_FAIL(MF_EFORMAT, "a pattern is not UTF-8");
    MF_TRY(mf_bytes_reserve(out, 1)); /* an empty one, too, has an address */
    while (*t.at) {
        if (*t.at == '\\')
            MF_TRY(put_escape(&t));
        else
            MF_TRY(t.in_class ? put_inside(&t) : put_outside(&t));
    }
    return MF_OK;
}
