/* tokenizer_model.c: the model: a vocabulary and merges, read and believed only as far as they fit together.
 */
#include "io/tokenizer.h"

#include <stdio.h>
#include <string.h>

static mf_status check_kind(const mf_reading *at, const json_t *model) {
    const json_t *type = json_object_get(model, "type");
    const char *name = json_string_value(type);
    if (!json_is_object(model)) return MF_FAIL(MF_EFORMAT, "%s: has no model", at->path);
    if (name && strcmp(name, "BPE")) return mf_json_refuse(at, name);
    if (!name && !json_object_get(model, "merges")) return mf_json_refuse(at, "one that is not BPE");
    if (json_number_value(json_object_get(model, "dropout")) != 0) return mf_json_refuse(at, "dropout");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const char *affix = json_string_value(json_object_get(model, affixes[i]));
        if (affix && *affix) return mf_json_refuse(at, affixes[i]);
    }
    return MF_OK;
}

static mf_status read_vocabulary(const mf_reading *at, json_t *entries, mf_bpe *out) {
    const char *token;
    json_t *value;
    if (!json_is_object(entries))
        return MF_FAIL(MF_EFORMAT, "%s: %s: vocab is no object", at->path, at->part);
    MF_TRY(mf_text_table_make(json_object_size(entries), &out->vocabulary));
    json_object_foreach(entries, token, value) {
        int32_t id = -1;
        MF_TRY(mf_json_id(at, value, token, &id));
        MF_TRY(mf_text_table_add(&out->vocabulary, token, strlen(token), id));
    }
    return MF_OK;
}

/* One merge: "a b" or ["a", "b"]. */
typedef struct merge_text {
    const char *a, *b;
    size_t a_bytes, b_bytes;
} merge_text;

static bool split_merge(const json_t *entry, merge_text *out) {
    const char *text = json_string_value(entry);
    if (!text) {
        out->a = json_string_value(json_array_get(entry, 0));
        out->b = json_string_value(json_array_get(entry, 1));
        if (!out->a || !out->b || json_array_size(entry) != 2) return false;
        out->a_bytes = strlen(out->a);
        out->b_bytes = strlen(out->b);
        return true;
    }
    const char *space = strchr(text, ' ');
    if (!space || strchr(space + 1, ' ')) return false;
    *out = (merge_text){text, space + 1, (size_t)(space - text), strlen(space + 1)};
    return true;
}

static mf_status find_part(const mf_reading *at, const mf_bpe *bpe, const char *text, size_t bytes,
                           size_t rank, int32_t *out) {
    *out = mf_text_table_find(&bpe->vocabulary, text, bytes);
    if (*out >= 0) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: %s: merge %zu is about %.*s, which is not in the vocabulary", at->path,
                   at->part, rank, (int)(bytes < 100 ? bytes : 100), text);
}

/* True where a "▁" follows something else in it. */
static bool holds_inner_space(const mf_bytes *token) {
    static const char space[] = "\xe2\x96\x81";
    size_t at = 0;
    while (token->count - at >= 3 && !memcmp(token->data + at, space, 3)) at += 3;
    return memmem(token->data + at, token->count - at, space, 3) != NULL;
}

static mf_status read_merge(const mf_reading *at, const json_t *entry, size_t rank, mf_bytes *joined,
                            mf_bpe *out) {
    merge_text merge = {0};
    int32_t a = -1, b = -1, then = -1;
    if (!split_merge(entry, &merge))
        return MF_FAIL(MF_EFORMAT, "%s: %s: merge %zu is no pair of tokens", at->path, at->part, rank);
    joined->count = 0;
    MF_TRY(mf_bytes_add(joined, merge.a, merge.a_bytes));
    MF_TRY(mf_bytes_add(joined, merge.b, merge.b_bytes));
    MF_TRY(find_part(at, out, merge.a, merge.a_bytes, rank, &a));
    MF_TRY(find_part(at, out, merge.b, merge.b_bytes, rank, &b));
    MF_TRY(find_part(at, out, (const char *)joined->data, joined->count, rank, &then));
    if (holds_inner_space(joined)) out->cuts_before_space = false;
    return mf_pair_table_put(&out->merges, (uint32_t)a, (uint32_t)b, (uint32_t)rank, (uint32_t)then);
}

static mf_status read_merges(const mf_reading *at, const json_t *list, mf_bpe *out) {
    mf_status status = MF_OK;
    mf_bytes joined = {0};
    size_t rank = 0;
    if (!json_is_array(list) || json_array_size(list) > INT32_MAX)
        return MF_FAIL(MF_EFORMAT, "%s: %s: merges are no list", at->path, at->part);
    MF_TRY(mf_pair_table_make(json_array_size(list), &out->merges));
    MF_GO(mf_bytes_reserve(&joined, 1));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        const char *text = json_string_value(entry);
        if (text && !strncmp(text, "#version", 8)) continue; /* the first line of GPT-2's merges.txt */
        MF_GO(read_merge(at, entry, rank++, &joined, out));
    }
fail:
    mf_bytes_free(&joined);
    return status;
}

static mf_status read_unknown(const mf_reading *at, const json_t *model, mf_bpe *out) {
    const char *unknown = json_string_value(json_object_get(model, "unk_token"));
    out->unknown = -1;
    if (!unknown) return MF_OK;
    out->unknown = mf_text_table_find(&out->vocabulary, unknown, strlen(unknown));
    if (out->unknown >= 0) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: %s: unk_token %.100s is not in the vocabulary", at->path, at->part,
                   unknown);
}

/* The symbols of single bytes, and of what stands for a byte that has none. */
static void find_bytes(mf_bpe *out) {
    for (int byte = 0; byte < 256; byte++) {
        uint8_t spelled[4];
        char fallback[8];
        uint32_t point = out->byte_level ? mf_byte_level_point((uint8_t)byte) : (uint32_t)byte;
        int width = mf_utf8_put(point, spelled);
        snprintf(fallback, sizeof fallback, "<0x%02X>", (unsigned)byte);
        out->byte_symbol[byte] = mf_text_table_find(&out->vocabulary, spelled, (size_t)width);
        out->byte_token[byte] = mf_text_table_find(&out->vocabulary, fallback, 6);
    }
}

/* Whole words by the bytes that they are spelled for, so that a word need not be spelled to be looked up. */
static mf_status find_words(mf_bpe *out) {
    mf_status status = MF_OK;
    mf_bytes bytes = {0};
    const mf_text_table *all = &out->vocabulary;
    MF_TRY(mf_text_table_make(all->count, &out->words));
    for (size_t i = 0; i <= all->mask; i++) {
        const mf_text_slot *slot = &all->slot[i];
        if (slot->id < 0) continue;
        bytes.count = 0;
        MF_GO(mf_bytes_reserve(&bytes, slot->bytes + 1));
        if (mf_byte_level_decode(all->texts.data + slot->offset, slot->bytes, bytes.data, &bytes.count))
            MF_GO(mf_text_table_add(&out->words, bytes.data, bytes.count, slot->id));
    }
fail:
    mf_bytes_free(&bytes);
    return status;
}

mf_status mf_bpe_read(const mf_reading *at, const json_t *model, bool byte_level, mf_bpe *out) {
    MF_TRY(check_kind(at, model));
    out->byte_level = byte_level;
    MF_TRY(mf_json_flag(at, model, "byte_fallback", false, &out->byte_fallback));
    MF_TRY(mf_json_flag(at, model, "fuse_unk", false, &out->fuse_unknown));
    MF_TRY(mf_json_flag(at, model, "ignore_merges", false, &out->ignore_merges));
    MF_TRY(read_vocabulary(at, json_object_get(model, "vocab"), out));
    MF_TRY(read_unknown(at, model, out));
    out->cuts_before_space =
        !byte_level && !out->ignore_merges && mf_text_table_find(&out->vocabulary, "\xe2\x96\x81", 3) >= 0;
    MF_TRY(read_merges(at, json_object_get(model, "merges"), out));
    find_bytes(out);
    return byte_level && out->ignore_merges ? find_words(out) : MF_OK;
}

void mf_bpe_free(mf_bpe *bpe) {
    mf_text_table_free(&bpe->vocabulary);
    mf_text_table_free(&bpe->words);
    mf_pair_table_free(&bpe->merges);
}
