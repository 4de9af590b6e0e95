/* tokenizer.c: a tokenizer.json, opened and asked. */
#include "io/tokenizer.h"
#include "io/digest.h"
#include "io/json_file.h"
#include "meshfold/io.h"

#include <string.h>
#include <sys/stat.h>

mf_status mf_ids_reserve(mf_ids *ids, size_t more) {
    size_t room = (size_t)ids->room;
    MF_TRY(mf_grow(&ids->id, (size_t)ids->count, &room, more, sizeof *ids->id));
    ids->room = (int64_t)room;
    return MF_OK;
}

mf_status mf_ids_add(mf_ids *ids, int32_t id) {
    if (ids->count == ids->room) MF_TRY(mf_ids_reserve(ids, 1));
    ids->id[ids->count++] = id;
    return MF_OK;
}

void mf_ids_free(mf_ids *ids) {
    mf_host_free(ids->id);
    *ids = (mf_ids){0};
}

mf_status mf_tokenizer_blame(const mf_tokenizer *t, mf_status status) {
    return status ? MF_FAIL(status, "%s: %s", t->path, mf_error_last()->message) : MF_OK;
}

static mf_status find_file(const char *path, char **out) {
    struct stat info;
    if (stat(path, &info) || !S_ISDIR(info.st_mode)) return mf_host_strdup(path, out);
    size_t length = strlen(path);
    return mf_format(out, "%s%stokenizer.json", path, length && path[length - 1] == '/' ? "" : "/");
}

static mf_status load(mf_tokenizer *t, json_t **out) {
    char *content = NULL;
    size_t bytes = 0;
    MF_TRY(mf_file_read(t->path, &content, &bytes));
    t->hash = mf_digest_of(content, bytes).xxh3;
    mf_status status = mf_json_parse(t->path, content, bytes, out);
    mf_host_free(content);
    MF_TRY(status);
    if (!json_is_object(*out)) return MF_FAIL(MF_EFORMAT, "%s: is no JSON object", t->path);
    return MF_OK;
}

static int32_t largest_id(const mf_tokenizer *t) {
    int32_t largest = -1;
    for (size_t i = 0; i <= t->bpe.vocabulary.mask; i++)
        if (t->bpe.vocabulary.slot[i].id > largest) largest = t->bpe.vocabulary.slot[i].id;
    for (int i = 0; i < t->added.count; i++)
        if (t->added.token[i].id > largest) largest = t->added.token[i].id;
    return largest;
}

static mf_status name_token(mf_tokenizer *t, int32_t id, const char *text, size_t bytes) {
    mf_token *token = &t->token[id];
    if (token->text)
        return MF_FAIL(MF_EFORMAT, "%s: tokens %.100s and %.100s have the same id %d", t->path, token->text,
                       text, (int)id);
    token->text = text;
    token->bytes = bytes;
    return MF_OK;
}

static mf_status name_tokens(mf_tokenizer *t, const mf_text_table *table) {
    for (size_t i = 0; i <= table->mask; i++) {
        const mf_text_slot *slot = &table->slot[i];
        if (slot->id >= 0)
            MF_TRY(name_token(t, slot->id, (const char *)table->texts.data + slot->offset, slot->bytes));
    }
    return MF_OK;
}

/* An added token may be one of the vocabulary's, whose id it then must have. */
static mf_status enter_name(mf_tokenizer *t, const mf_added_token *added) {
    int32_t known = mf_tokenizer_find(t, added->text);
    if (known < 0) return mf_text_table_add(&t->names, added->text, strlen(added->text), added->id);
    if (known == added->id) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: added token %.100s has the id %d, and elsewhere %d", t->path, added->text,
                   (int)added->id, (int)known);
}

/* As it is looked for: as it is, or as the normalizer makes it. */
static mf_status make_findable(mf_tokenizer *t, mf_matcher *matcher, mf_normal_scratch *scratch, int index) {
    const mf_added_token *added = &t->added.token[index];
    mf_token *token = &t->token[added->id];
    mf_stretch text = {(const uint8_t *)token->text, token->bytes, true};
    if (!added->normalized) return mf_finder_add(&t->added.plain, text.text, text.bytes, index);
    MF_TRY(mf_normalize(&t->normalizer, matcher, scratch, &text));
    if (!token->normalized) MF_TRY(mf_host_alloc(text.bytes + 1, 1, &token->normalized));
    memcpy(token->normalized, text.text, text.bytes);
    token->normalized_bytes = text.bytes;
    return mf_finder_add(&t->added.normalized, text.text, text.bytes, index);
}

static mf_status enter_added(mf_tokenizer *t, mf_matcher *matcher, mf_normal_scratch *scratch, int index) {
    mf_added_token *added = &t->added.token[index];
    mf_token *token = &t->token[added->id];
    added->text = NULL;
    token->special = token->special || added->special;
    mf_status status = make_findable(t, matcher, scratch, index);
    if (!status) return MF_OK;
    return MF_FAIL(status, "%s: added token %.100s: %s", t->path, token->text, mf_error_last()->message);
}

static mf_status enter_all_added(mf_tokenizer *t) {
    mf_status status = MF_OK;
    mf_matcher *matcher = NULL;
    mf_normal_scratch scratch = {0};
    MF_GO(mf_matcher_create(&matcher));
    for (int i = 0; i < t->added.count; i++) MF_GO(enter_added(t, matcher, &scratch, i));
fail:
    mf_matcher_destroy(matcher);
    mf_normal_scratch_free(&scratch);
    return status;
}

static mf_status enter_tokens(mf_tokenizer *t) {
    MF_TRY(mf_text_table_make((size_t)t->added.count, &t->names));
    for (int i = 0; i < t->added.count; i++) MF_TRY(enter_name(t, &t->added.token[i]));
    t->size = largest_id(t) + 1;
    MF_TRY(mf_host_alloc((size_t)t->size, sizeof *t->token, &t->token));
    MF_TRY(name_tokens(t, &t->bpe.vocabulary));
    MF_TRY(name_tokens(t, &t->names));
    return enter_all_added(t);
}

/* A template may name any id. */
static mf_status check_ids(const mf_tokenizer *t, const mf_ids *ids) {
    for (int64_t i = 0; i < ids->count; i++)
        if (ids->id[i] >= t->size || !t->token[ids->id[i]].text)
            return MF_FAIL(MF_EFORMAT, "%s: post_processor: there is no token %d", t->path, (int)ids->id[i]);
    return MF_OK;
}

static mf_status read_parts(mf_tokenizer *t, const json_t *json) {
    const mf_reading normalizer = {t->path, "normalizer"}, splitter = {t->path, "pre_tokenizer"},
                     model = {t->path, "model"}, added = {t->path, "added_tokens"},
                     template = {t->path, "post_processor"}, chain = {t->path, "decoder"};
    MF_TRY(mf_normalizer_read(&normalizer, json_object_get(json, "normalizer"), &t->normalizer));
    MF_TRY(mf_splitter_read(&splitter, json_object_get(json, "pre_tokenizer"), &t->splitter));
    MF_TRY(mf_bpe_read(&model, json_object_get(json, "model"), t->splitter.byte_level, &t->bpe));
    MF_TRY(mf_added_read(&added, json_object_get(json, "added_tokens"), &t->added));
    MF_TRY(mf_template_read(&template, json_object_get(json, "post_processor"), t));
    MF_TRY(mf_decode_chain_read(&chain, json_object_get(json, "decoder"), &t->chain));
    MF_TRY(enter_tokens(t));
    MF_TRY(check_ids(t, &t->before));
    return check_ids(t, &t->after);
}

mf_status mf_tokenizer_open(const char *path, mf_tokenizer **out) {
    mf_status status = MF_OK;
    mf_tokenizer *t = NULL;
    json_t *json = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *t, &t));
    MF_GO(find_file(path, &t->path));
    MF_GO(load(t, &json));
    MF_GO(read_parts(t, json));
    MF_GO(mf_tokenizer_find_ends(t));
    *out = t;
    t = NULL;
fail:
    json_decref(json);
    mf_tokenizer_close(t);
    return status;
}

void mf_tokenizer_close(mf_tokenizer *t) {
    if (!t) return;
    for (int32_t i = 0; t->token && i < t->size; i++) mf_host_free(t->token[i].normalized);
    mf_host_free(t->token);
    mf_text_table_free(&t->names);
    mf_normalizer_free(&t->normalizer);
    mf_added_free(&t->added);
    mf_splitter_free(&t->splitter);
    mf_bpe_free(&t->bpe);
    mf_decode_chain_free(&t->chain);
    mf_ids_free(&t->before);
    mf_ids_free(&t->after);
    mf_host_free(t->path);
    mf_host_free(t);
}

int32_t mf_tokenizer_size(const mf_tokenizer *t) { return t->size; }
int32_t mf_tokenizer_bos(const mf_tokenizer *t) { return t->bos; }
int32_t mf_tokenizer_eos(const mf_tokenizer *t) { return t->eos; }
uint64_t mf_tokenizer_hash(const mf_tokenizer *t) { return t->hash; }
const char *mf_tokenizer_path(const mf_tokenizer *t) { return t->path; }

const char *mf_tokenizer_token(const mf_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->size ? t->token[id].text : NULL;
}

bool mf_tokenizer_is_special(const mf_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->size && t->token[id].special;
}

int32_t mf_tokenizer_find(const mf_tokenizer *t, const char *token) {
    size_t bytes = strlen(token);
    int32_t id = mf_text_table_find(&t->names, token, bytes);
    return id >= 0 ? id : mf_text_table_find(&t->bpe.vocabulary, token, bytes);
}
