/* mutate.c: libFuzzer's mutations of inputs whose JSON should mostly stay JSON: one value of it is dropped,
 * renamed, or takes another value. */
#include "fuzz.h"

#include "io/bytes.h"

#include <stdlib.h>
#include <string.h>

/* libFuzzer's. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t most, unsigned seed);

typedef struct dice {
    uint64_t seed, thrown;
} dice;

static size_t throw_dice(dice *d, size_t below) {
    return (size_t)(mf_random_u64(d->seed, 0, d->thrown++) % (below ? below : 1));
}

/* A value's place in an object (key) or an array (index). */
typedef struct place {
    json_t *in;
    const char *key;
    size_t index;
    json_t *value;
} place;

static place child_at(json_t *in, size_t at) {
    if (json_is_array(in)) return (place){in, NULL, at, json_array_get(in, at)};
    void *entry = json_object_iter(in);
    while (at-- > 0) entry = json_object_iter_next(in, entry);
    return (place){in, json_object_iter_key(entry), 0, json_object_iter_value(entry)};
}

static size_t children(const json_t *value) { return json_array_size(value) + json_object_size(value); }

/* Down from the root, so that a part with few values is drawn as often as a long list. The root has some. */
static place draw(json_t *root, dice *d) {
    place at = child_at(root, throw_dice(d, children(root)));
    while (children(at.value) && throw_dice(d, 4)) at = child_at(at.value, throw_dice(d, children(at.value)));
    return at;
}

static json_t *odd_value(dice *d) {
    static const char values[] =
        "[null, true, false, 0, -1, 1, 2, 3, 255, 65536, 2147483648, 9223372036854775807, "
        "-9223372036854775808, -0.0, 0.5, 1e308, 5e-324, \"\", \" \", \"a\", \"\\u2581\", \"<0xE2>\", "
        "\"\\ufdfa\\u0130\", \".\\n\", [], {}, [[]], [0, 0]]";
    json_t *all = json_loads(values, 0, NULL);
    json_t *value = json_incref(json_array_get(all, throw_dice(d, json_array_size(all))));
    json_decref(all);
    return value;
}

static json_t *mutated_text(const json_t *text) {
    enum { ROOM = 4096 };
    uint8_t buffer[ROOM];
    size_t bytes = json_string_length(text) < ROOM / 2 ? json_string_length(text) : ROOM / 2;
    memcpy(buffer, json_string_value(text), bytes);
    bytes = LLVMFuzzerMutate(buffer, bytes, ROOM);
    return json_stringn((const char *)buffer, mf_utf8_valid(buffer, bytes));
}

/* NULL where nothing comes of it. */
static json_t *other_value(json_t *root, const place *at, dice *d) {
    json_t *list;
    switch (throw_dice(d, 8)) {
    case 0:
        return odd_value(d);
    case 1:
        return json_integer((json_int_t)throw_dice(d, 300));
    case 2:
    case 3:
        return json_deep_copy(draw(root, d).value);
    case 4:
        list = json_array();
        for (size_t i = throw_dice(d, 20); i > 0; i--) json_array_append(list, at->value);
        return list;
    default:
        if (json_is_string(at->value)) return mutated_text(at->value);
        if (json_is_integer(at->value))
            return json_integer(json_integer_value(at->value) ^ (json_int_t)1 << throw_dice(d, 63));
        return json_deep_copy(draw(root, d).value);
    }
}

static void set(const place *at, json_t *value) {
    if (at->key)
        json_object_set_new(at->in, at->key, value);
    else
        json_array_set_new(at->in, at->index, value);
}

static void drop(const place *at) {
    if (at->key)
        json_object_del(at->in, at->key);
    else
        json_array_remove(at->in, at->index);
}

/* The value also stands elsewhere: under another name, or behind the list's others. */
static void repeat(json_t *root, const place *at, dice *d) {
    json_t *copy = json_deep_copy(at->value);
    if (!at->key) {
        json_array_insert_new(at->in, throw_dice(d, json_array_size(at->in) + 1), copy);
        return;
    }
    const char *name = draw(root, d).key;
    json_object_set_new(at->in, name ? name : "type", copy);
}

static void change(json_t *root, dice *d) {
    if (!children(root)) return;
    place at = draw(root, d);
    switch (throw_dice(d, 8)) {
    case 0:
        drop(&at);
        break;
    case 1:
        repeat(root, &at, d);
        break;
    default:
        set(&at, other_value(root, &at, d));
    }
}

/* Returns the bytes of the new text in data, 0 when it is no JSON or has no room. */
static size_t mutate_json(uint8_t *data, size_t bytes, size_t most, dice *d) {
    size_t used = 0;
    json_t *root = json_loadb((const char *)data, bytes, 0, NULL);
    for (size_t i = 1 + throw_dice(d, 3); root && i > 0; i--) change(root, d);
    char *text = root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    if (text && strlen(text) <= most) {
        used = strlen(text);
        memcpy(data, text, used);
    }
    free(text);
    json_decref(root);
    return used;
}

/* The input's JSON lies between what is before and what is behind. Returns the input's new size, 0: as it
 * was. */
static size_t mutate_between(uint8_t *data, size_t bytes, size_t most, size_t before, size_t json, dice *d) {
    size_t behind = bytes - before - json, used = 0;
    uint8_t *work = malloc(most);
    if (before + behind < most) {
        memcpy(work, data + before, json);
        used = mutate_json(work, json, most - before - behind, d);
    }
    if (used) {
        memmove(data + before + used, data + before + json, behind);
        memcpy(data + before, work, used);
        if (before) memcpy(data, &(uint64_t){used}, sizeof(uint64_t));
        used += before + behind;
    }
    free(work);
    return used;
}

/* Anything at all, and what lies behind the JSON, is libFuzzer's own to change. */
static size_t mutate_behind(uint8_t *data, size_t bytes, size_t most, size_t from) {
    return from < bytes ? from + LLVMFuzzerMutate(data + from, bytes - from, most - from) : 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t most, unsigned seed) {
    dice d = {.seed = seed};
    uint64_t length = 0;
    size_t used = 0, before = fuzz_input == FUZZ_HEADER ? sizeof length : 0;
    size_t turn = fuzz_input == FUZZ_BYTES ? 0 : throw_dice(&d, 10);
    if (before && bytes >= before) memcpy(&length, data, before);
    if (!before) length = fuzz_json_end(data, bytes);
    bool framed = bytes >= before && length <= bytes - before;
    if (turn > 2 && framed) used = mutate_between(data, bytes, most, before, (size_t)length, &d);
    if (turn > 0 && turn <= 2 && framed)
        used = mutate_behind(data, bytes, most, before + (size_t)length + (before ? 0 : 1));
    return used ? used : LLVMFuzzerMutate(data, bytes, most);
}
