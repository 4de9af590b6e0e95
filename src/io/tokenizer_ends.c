/* tokenizer_ends.c: which tokens begin and end a text. tokenizer.json does not say; the files beside it may.
 */
#include "io/tokenizer.h"
#include "io/json_file.h"
#include "meshfold/io.h"

#include <string.h>
#include <unistd.h>

/* A file beside the tokenizer; *out is NULL where there is none. */
static mf_status load_beside(const mf_tokenizer *tokenizer, const char *name, json_t **out) {
    mf_status status = MF_OK;
    char *path = NULL;
    const char *slash = strrchr(tokenizer->path, '/');
    int folder = slash ? (int)(slash + 1 - tokenizer->path) : 0;
    *out = NULL;
    MF_GO(mf_format(&path, "%.*s%s", folder, tokenizer->path, name));
    if (access(path, F_OK) == 0) MF_GO(mf_json_read(path, out));
fail:
    mf_host_free(path);
    return status;
}

/* "<s>", or {"content": "<s>", ...} */
static int32_t by_name(const mf_tokenizer *tokenizer, const json_t *value) {
    const char *name = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    return name ? mf_tokenizer_find(tokenizer, name) : -1;
}

/* 1, or [1, 2]: a model may have several ends, of which the first counts. */
static int32_t by_id(const mf_tokenizer *tokenizer, const json_t *value) {
    const json_t *first = json_is_array(value) ? json_array_get(value, 0) : value;
    json_int_t id = json_is_integer(first) ? json_integer_value(first) : -1;
    return id >= 0 && id < tokenizer->size && tokenizer->token[id].text ? (int32_t)id : -1;
}

static int32_t by_custom(const mf_tokenizer *tokenizer, const char *const *names, int count) {
    for (int i = 0; i < count; i++) {
        int32_t id = mf_tokenizer_find(tokenizer, names[i]);
        if (id >= 0 && tokenizer->token[id].special) return id;
    }
    return -1;
}

mf_status mf_tokenizer_find_ends(mf_tokenizer *tokenizer) {
    static const char *const begins[] = {"<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>"};
    static const char *const ends[] = {"<|end_of_text|>", "</s>", "<eos>", "<|endoftext|>", "<|im_end|>"};
    json_t *names = NULL, *ids = NULL;
    mf_status status = MF_OK;
    MF_GO(load_beside(tokenizer, "tokenizer_config.json", &names));
    MF_GO(load_beside(tokenizer, "config.json", &ids));
    tokenizer->bos = by_name(tokenizer, json_object_get(names, "bos_token"));
    tokenizer->eos = by_name(tokenizer, json_object_get(names, "eos_token"));
    if (tokenizer->bos < 0) tokenizer->bos = by_id(tokenizer, json_object_get(ids, "bos_token_id"));
    if (tokenizer->eos < 0) tokenizer->eos = by_id(tokenizer, json_object_get(ids, "eos_token_id"));
    if (tokenizer->bos < 0 && !names)
        tokenizer->bos = by_custom(tokenizer, begins, sizeof begins / sizeof *begins);
    if (tokenizer->eos < 0 && !names) tokenizer->eos = by_custom(tokenizer, ends, sizeof ends / sizeof *ends);
fail:
    json_decref(names);
    json_decref(ids);
    return status;
}
