/* tokenizer_template.c: the post-processor, as far as it changes ids: the tokens around a text. */
#include "io/tokenizer.h"

#include <string.h>

/* The ids that a template's special token stands for. */
static mf_status add_special(const mf_reading *at, const json_t *part, const char *name, mf_ids *out) {
    const json_t *ids =
        json_object_get(json_object_get(json_object_get(part, "special_tokens"), name), "ids");
    if (!json_is_array(ids))
        return MF_FAIL(MF_EFORMAT, "%s: %s: the template's %.100s has no ids", at->path, at->part, name);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id = -1;
        MF_TRY(mf_json_id(at, json_array_get(ids, i), name, &id));
        MF_TRY(mf_ids_add(out, id));
    }
    return MF_OK;
}

/* One piece of a template: a special token, or the text. */
static mf_status read_piece(const mf_reading *at, const json_t *part, const json_t *piece, bool *text_seen,
                            mf_ids *before, mf_ids *after) {
    const json_t *special = json_object_get(piece, "SpecialToken"),
                 *text = json_object_get(piece, "Sequence");
    const char *name = NULL;
    MF_TRY(mf_json_text(at, special ? special : text, "id", &name));
    if (special) return add_special(at, part, name, *text_seen ? after : before);
    if (*text_seen || strcmp(name, "A"))
        return mf_json_refuse(at, "a template that does not hold the text once");
    *text_seen = true;
    return MF_OK;
}

/* A template around what the processors before it have made. */
static mf_status wrap(mf_tokenizer *tokenizer, const mf_ids *before, const mf_ids *after) {
    mf_status status = MF_OK;
    mf_ids outer = {0};
    for (int64_t i = 0; i < before->count; i++) MF_GO(mf_ids_add(&outer, before->id[i]));
    for (int64_t i = 0; i < tokenizer->before.count; i++) MF_GO(mf_ids_add(&outer, tokenizer->before.id[i]));
    for (int64_t i = 0; i < after->count; i++) MF_GO(mf_ids_add(&tokenizer->after, after->id[i]));
    mf_ids_free(&tokenizer->before);
    tokenizer->before = outer;
    outer = (mf_ids){0};
fail:
    mf_ids_free(&outer);
    return status;
}

static mf_status read_template(const mf_reading *at, const json_t *part, mf_tokenizer *tokenizer) {
    mf_status status = MF_OK;
    const json_t *single = json_object_get(part, "single");
    mf_ids before = {0}, after = {0};
    bool text_seen = false;
    if (!json_is_array(single)) return MF_FAIL(MF_EFORMAT, "%s: %s: single is no list", at->path, at->part);
    for (size_t i = 0; i < json_array_size(single); i++)
        MF_GO(read_piece(at, part, json_array_get(single, i), &text_seen, &before, &after));
    if (!text_seen) MF_GO(mf_json_refuse(at, "a template that does not hold the text once"));
    MF_GO(wrap(tokenizer, &before, &after));
fail:
    mf_ids_free(&before);
    mf_ids_free(&after);
    return status;
}

/* ByteLevel only trims offsets, which nobody asks for here. */
static mf_status read_step(const mf_reading *at, const json_t *part, const char *type, void *out) {
    if (!strcmp(type, "ByteLevel")) return MF_OK;
    if (!strcmp(type, "TemplateProcessing")) return read_template(at, part, out);
    return mf_json_refuse(at, type);
}

mf_status mf_template_read(const mf_reading *at, const json_t *part, mf_tokenizer *tokenizer) {
    return mf_json_parts(at, part, "processors", read_step, tokenizer);
}
