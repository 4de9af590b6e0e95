/* tokenizer_json.c: values out of a tokenizer.json that are what they should be. */
#include "io/tokenizer.h"

#include <string.h>

mf_status mf_json_text(const mf_reading *at, const json_t *object, const char *name, const char **out) {
    *out = json_string_value(json_object_get(object, name));
    if (*out) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: %s: %s is no text", at->path, at->part, name);
}

mf_status mf_json_flag(const mf_reading *at, const json_t *object, const char *name, bool fallback,
                       bool *out) {
    const json_t *value = json_object_get(object, name);
    *out = fallback;
    if (!value || json_is_null(value)) return MF_OK;
    *out = json_is_true(value);
    if (json_is_boolean(value)) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: %s: %s is neither true nor false", at->path, at->part, name);
}

mf_status mf_json_count(const mf_reading *at, const json_t *object, const char *name, size_t *out) {
    const json_t *value = json_object_get(object, name);
    *out = (size_t)json_integer_value(value);
    if (json_is_integer(value) && json_integer_value(value) >= 0) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: %s: %s is no whole number from 0", at->path, at->part, name);
}

mf_status mf_json_id(const mf_reading *at, const json_t *value, const char *of, int32_t *out) {
    json_int_t id = json_integer_value(value);
    *out = -1;
    if (!json_is_integer(value) || id < 0 || id >= MF_TOKENIZER_IDS)
        return MF_FAIL(MF_EFORMAT, "%s: %s: token %.100s has an id that is no whole number from 0 to %d",
                       at->path, at->part, of, MF_TOKENIZER_IDS - 1);
    *out = (int32_t)id;
    return MF_OK;
}

mf_status mf_json_pattern(const mf_reading *at, const json_t *object, mf_pattern *out) {
    const json_t *pattern = json_object_get(object, "pattern");
    const char *literal = json_string_value(json_object_get(pattern, "String"));
    const char *expression = json_string_value(json_object_get(pattern, "Regex"));
    if (!literal == !expression || json_object_size(pattern) != 1)
        return MF_FAIL(MF_EFORMAT, "%s: %s: its pattern is neither a String nor a Regex", at->path, at->part);
    mf_status status = literal ? mf_pattern_literal(literal, out) : mf_pattern_compile(expression, out);
    return status ? MF_FAIL(status, "%s: %s: %s", at->path, at->part, mf_error_last()->message) : MF_OK;
}

mf_status mf_json_refuse(const mf_reading *at, const char *type) {
    return MF_FAIL(MF_EUNSUPPORTED, "%s: %s: %.100s is not supported", at->path, at->part, type);
}

mf_status mf_json_parts(const mf_reading *at, const json_t *part, const char *list, mf_part_reader read,
                        void *out) {
    const char *type = NULL;
    const json_t *member;
    size_t i;
    if (!part || json_is_null(part)) return MF_OK;
    MF_TRY(mf_json_text(at, part, "type", &type));
    if (strcmp(type, "Sequence")) return read(at, part, type, out);
    if (!json_is_array(json_object_get(part, list)))
        return MF_FAIL(MF_EFORMAT, "%s: %s: a Sequence has no list of %s", at->path, at->part, list);
    json_array_foreach(json_object_get(part, list), i, member) {
        if (!json_is_object(member))
            return MF_FAIL(MF_EFORMAT, "%s: %s: a Sequence holds what is no object", at->path, at->part);
        MF_TRY(mf_json_parts(at, member, list, read, out));
    }
    return MF_OK;
}
