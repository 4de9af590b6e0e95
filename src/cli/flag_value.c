/* flag_value.c: see flag_value.h. */
#include "cli/flag_value.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LABEL = 5000 /* a path, and more */, RANGE = 96 };

/* How an error begins. */
static void label(char *out, const mf_flag *flag, const char *file, const char *text) {
    if (file)
        snprintf(out, LABEL, "%s: \"%s\" %s", file, flag->name, text);
    else
        snprintf(out, LABEL, "--%s %s", flag->name, text);
}

/* " from 1 to 64", " of at least 1", " of at most 64" or nothing. */
static void describe_range(char *out, const mf_flag *flag) {
    bool any = flag->low == 0 && flag->high == 0;
    if (any || (isinf(flag->low) && isinf(flag->high)))
        out[0] = '\0';
    else if (isinf(flag->high))
        snprintf(out, RANGE, " of at least %.15g", flag->low);
    else if (isinf(flag->low))
        snprintf(out, RANGE, " of at most %.15g", flag->high);
    else
        snprintf(out, RANGE, " from %.15g to %.15g", flag->low, flag->high);
}

static mf_status refuse_number(const mf_flag *flag, const char *file, const char *text) {
    char where[LABEL], range[RANGE];
    label(where, flag, file, text);
    describe_range(range, flag);
    const char *noun = flag->kind == MF_FLAG_INT ? "an integer" : "a number";
    return MF_FAIL(MF_EINVAL, "%s: expected %s%s", where, noun, range);
}

static bool in_range(const mf_flag *flag, double value) {
    return (flag->low == 0 && flag->high == 0) || (value >= flag->low && value <= flag->high);
}

static mf_status set_integer(const mf_flag *flag, const char *file, const char *text, int64_t *target) {
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    bool plain = isdigit((unsigned char)text[0]) || (text[0] == '-' && isdigit((unsigned char)text[1]));
    if (!plain || *end || errno || !in_range(flag, (double)value)) return refuse_number(flag, file, text);
    *target = value;
    return MF_OK;
}

static mf_status set_real(const mf_flag *flag, const char *file, const char *text, double *target) {
    char *end = NULL;
    double value = strtod(text, &end);
    /* strtod alone would take "inf", "nan", "0x1p3" and leading blanks */
    bool plain = *text && strspn(text, "+-.0123456789eE") == strlen(text);
    if (!plain || *end || !isfinite(value) || !in_range(flag, value)) return refuse_number(flag, file, text);
    *target = value;
    return MF_OK;
}

static mf_status set_choice(const mf_flag *flag, const char *file, const char *text, const char **target) {
    size_t length = strlen(text);
    for (const char *choice = flag->choices; choice;) {
        size_t span = strcspn(choice, "|");
        if (span == length && strncmp(choice, text, span) == 0) {
            *target = text;
            return MF_OK;
        }
        choice = choice[span] ? choice + span + 1 : NULL;
    }
    char where[LABEL];
    label(where, flag, file, text);
    return MF_FAIL(MF_EINVAL, "%s: expected one of %s", where, flag->choices);
}

static mf_status set_switch(const mf_flag *flag, const char *text, bool *target) {
    bool on = strcmp(text, "true") == 0;
    if (!on && strcmp(text, "false") != 0)
        return MF_FAIL(MF_EINVAL, "--%s=%s: a switch takes no value but true or false", flag->name, text);
    *target = on;
    return MF_OK;
}

/* There is room for a power of two of items. */
static mf_status append(mf_words *words, const char *text) {
    size_t count = (size_t)words->count;
    const char **items = NULL;
    if ((count & (count - 1)) == 0) {
        MF_TRY(mf_host_alloc(count ? 2 * count : 1, sizeof *items, &items));
        if (count) memcpy(items, words->items, count * sizeof *items);
        mf_host_free(words->items);
        words->items = items;
    }
    words->items[words->count++] = text;
    return MF_OK;
}

mf_status mf_flag_set_text(const mf_flag *flag, const char *file, const char *text, void *target) {
    if (text[0] == '\0')
        return MF_FAIL(MF_EINVAL, "%s%s%s has an empty value", file ? file : "", file ? ": " : "--",
                       flag->name);
    switch (flag->kind) {
    case MF_FLAG_INT:
        return set_integer(flag, file, text, target);
    case MF_FLAG_REAL:
        return set_real(flag, file, text, target);
    case MF_FLAG_CHOICE:
        return set_choice(flag, file, text, target);
    case MF_FLAG_SWITCH:
        return set_switch(flag, text, target);
    case MF_FLAG_LIST:
        return append(target, text);
    case MF_FLAG_TEXT:
        break;
    }
    *(const char **)target = text;
    return MF_OK;
}

static const char *const expected_json[] = {"an integer", "a number",      "a string",
                                            "a string",   "true or false", "an array of strings"};

static const char *json_noun(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a fraction or exponent";
    case JSON_NULL:
        return "null";
    default:
        return "true or false";
    }
}

static bool right_type(mf_flag_kind kind, const json_t *value) {
    switch (kind) {
    case MF_FLAG_INT:
        return json_is_integer(value);
    case MF_FLAG_REAL:
        return json_is_number(value);
    case MF_FLAG_SWITCH:
        return json_is_boolean(value);
    case MF_FLAG_LIST:
        return json_is_array(value) && json_array_size(value) > 0;
    default:
        return json_is_string(value);
    }
}

static mf_status refuse_type(const mf_flag *flag, const char *file, const char *got) {
    return MF_FAIL(MF_EINVAL, "%s: \"%s\" must be %s, not %s", file, flag->name, expected_json[flag->kind],
                   got);
}

static mf_status set_list(const mf_flag *flag, const char *file, const json_t *value, void *target) {
    size_t i = 0;
    json_t *item = NULL;
    json_array_foreach(value, i, item) {
        if (!json_is_string(item)) return refuse_type(flag, file, "an array with other things in it");
        MF_TRY(mf_flag_set_text(flag, file, json_string_value(item), target));
    }
    return MF_OK;
}

mf_status mf_flag_set_json(const mf_flag *flag, const char *file, const json_t *value, void *target) {
    char number[64];
    bool empty = json_is_array(value) && json_array_size(value) == 0;
    if (!right_type(flag->kind, value))
        return refuse_type(flag, file, empty ? "an empty array" : json_noun(value));
    if (flag->kind == MF_FLAG_LIST) return set_list(flag, file, value, target);
    if (json_is_string(value)) return mf_flag_set_text(flag, file, json_string_value(value), target);
    if (json_is_boolean(value))
        return mf_flag_set_text(flag, file, json_is_true(value) ? "true" : "false", target);
    if (json_is_integer(value))
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
    else
        snprintf(number, sizeof number, "%.17g", json_real_value(value));
    return mf_flag_set_text(flag, file, number, target);
}

bool mf_pair_read(const char *text, int64_t *first, int64_t *second) {
    size_t length = strlen(text);
    int a = 0, b = 0, end = 0;
    bool plain = strspn(text, "0123456789x") == length; /* sscanf alone would take signs and spaces */
    if (!plain || sscanf(text, "%9dx%9d%n", &a, &b, &end) != 2 || (size_t)end != length) return false;
    *first = a;
    *second = b;
    return true;
}
