/* pattern.c: an expression, and behind a 0 a text: translated, compiled, and matched from end to end. */
#include "fuzz.h"

#include "io/pattern.h"

#include <string.h>

const fuzz_shape fuzz_input = FUZZ_BYTES;

static bool is_boundary(const mf_walk *walk, size_t at) {
    return at == walk->bytes || (at < walk->bytes && (walk->text[at] & 0xc0) != 0x80);
}

/* Matches follow each other, in whole characters, and end. */
static void walk_through(const mf_pattern *pattern, const mf_bytes *text) {
    mf_matcher *matcher = NULL;
    mf_walk walk = {.text = text->data, .bytes = text->count};
    size_t done = 0, matches = 0;
    FUZZ_CLAIM(!mf_matcher_create(&matcher));
    for (;;) {
        mf_status status = mf_pattern_next(pattern, matcher, &walk);
        if (status) fuzz_check_refusal(status, "pattern");
        if (status || !walk.found) break;
        FUZZ_CLAIM(done <= walk.begin && walk.begin <= walk.end);
        FUZZ_CLAIM(is_boundary(&walk, walk.begin) && is_boundary(&walk, walk.end));
        FUZZ_CLAIM(++matches <= text->count + 1);
        done = walk.end;
    }
    mf_matcher_destroy(matcher);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    mf_pattern pattern = {0};
    mf_bytes text = {0};
    char *expression = NULL;
    size_t end = fuzz_json_end(data, bytes);
    FUZZ_CLAIM(!mf_host_alloc(end + 1, 1, &expression));
    memcpy(expression, data, end);
    FUZZ_CLAIM(!mf_bytes_reserve(&text, 1));
    FUZZ_CLAIM(!mf_utf8_add_lossy(&text, data + end, bytes - end));
    mf_status status = mf_pattern_compile(expression, &pattern);
    if (status)
        fuzz_check_refusal(status, "pattern");
    else
        walk_through(&pattern, &text);
    mf_pattern_free(&pattern);
    mf_bytes_free(&text);
    mf_host_free(expression);
    return 0;
}
