/* ids.c: a description of token ids, and behind a 0 the ids: what is let through is a text of ids below its
 * vocabulary. */
#include "fuzz.h"

#include "meshfold/io.h"

const fuzz_shape fuzz_input = FUZZ_JSON;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    mf_text text = {0};
    size_t end = fuzz_json_end(data, bytes), ids = end < bytes ? end + 1 : end;
    fuzz_put("x.json", data, end);
    fuzz_put("x.bin", data + ids, bytes - ids);
    const char *path = fuzz_path("x.bin");
    mf_status status = mf_text_load(&path, 1, &text);
    if (status) {
        fuzz_check_refusal(status, FUZZ_FOLDER);
        return 0;
    }
    FUZZ_CLAIM(text.count > 0 && (size_t)text.count * (size_t)text.width == bytes - ids);
    for (int64_t i = 0; i < text.count; i++)
        FUZZ_CLAIM(mf_text_at(&text, i) >= 0 && mf_text_at(&text, i) < text.vocab);
    mf_text_free(&text);
    return 0;
}
