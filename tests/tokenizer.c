/* tokenizer.c: tokenizers of known kinds against the reference's ids, round trips, texts that come token by
 * token, and files and texts that nobody meant well. tests/golden/make_tokenizers.py made what is compared
 * with. */
#include "support.h"

#include "io/pattern.h"
#include "io/tokenize.h"
#include "meshfold/io.h"
#include "meshfold/tokenizer.h"

#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN MESHFOLD_SOURCE "/tests/golden/tokenizer/"

static const char *const names[] = {"gpt2",     "llama3",  "qwen2",     "gpt4o", "llama2",
                                    "crossing", "mistral", "metaspace", "parts"};
enum { NAMES = sizeof names / sizeof *names };

static char folder[64], path_text[256];

static const char *golden(const char *name) {
    snprintf(path_text, sizeof path_text, GOLDEN "%s.json", name);
    return path_text;
}

static json_t *load(const char *name) {
    json_error_t error;
    json_t *json = json_load_file(golden(name), 0, &error);
    if (!json) print_error("%s: %s\n", golden(name), error.text);
    assert_non_null(json);
    return json;
}

/* One tokenizer with an encoder. */
typedef struct subject {
    mf_tokenizer *tokenizer;
    mf_encoder *encoder;
    const char *name;
} subject;

static void begin(subject *s, const char *name) {
    s->name = name;
    ASSERT_OK(mf_tokenizer_open(golden(name), &s->tokenizer));
    ASSERT_OK(mf_encoder_create(s->tokenizer, &s->encoder));
}

static void end(subject *s) {
    mf_encoder_destroy(s->encoder);
    mf_tokenizer_close(s->tokenizer);
}

static void check_ids(const subject *s, const char *what, size_t index, const mf_ids *got,
                      const json_t *want) {
    bool same = (size_t)got->count == json_array_size(want);
    for (int64_t i = 0; same && i < got->count; i++)
        same = got->id[i] == json_integer_value(json_array_get(want, (size_t)i));
    if (same) return;
    print_error("%s: case %zu, %s: got", s->name, index, what);
    for (int64_t i = 0; i < got->count; i++)
        print_error(" %d(%s)", (int)got->id[i], mf_tokenizer_token(s->tokenizer, got->id[i]));
    char *text = json_dumps(want, 0);
    print_error("\nexpected %s\n", text);
    free(text);
    fail();
}

static void check_text(const subject *s, const char *what, size_t index, const char *got, size_t bytes,
                       const char *want) {
    if (bytes == strlen(want) && !memcmp(got, want, bytes)) return;
    print_error("%s: case %zu, %s: got\n[%s]\nexpected\n[%s]\n", s->name, index, what, got, want);
    fail();
}

static void check_encoded(const subject *s, const char *what, size_t index, const json_t *text,
                          const mf_encode_options *options, const json_t *want) {
    mf_ids ids = {0};
    ASSERT_OK(
        mf_encode(s->encoder, json_string_value(text), (int64_t)json_string_length(text), options, &ids));
    check_ids(s, what, index, &ids, want);
    mf_ids_free(&ids);
}

/* At once, and token by token, where no portion may break a character. */
static void check_decoded(const subject *s, const char *what, size_t index, const json_t *list, bool skip,
                          const char *want) {
    mf_decoder *decoder = NULL;
    int32_t ids[2048];
    char *whole = NULL, streamed[8192];
    const char *part;
    size_t bytes = 0, streamed_bytes = 0, count = json_array_size(list);
    assert_true(count < 2048);
    for (size_t i = 0; i < count; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    ASSERT_OK(mf_decode(s->tokenizer, ids, (int64_t)count, skip, &whole, &bytes));
    check_text(s, what, index, whole, bytes, want);
    mf_host_free(whole);
    ASSERT_OK(mf_decoder_create(s->tokenizer, skip, &decoder));
    for (size_t i = 0; i <= count; i++) {
        if (i < count)
            ASSERT_OK(mf_decoder_push(decoder, ids[i], &part, &bytes));
        else
            ASSERT_OK(mf_decoder_end(decoder, &part, &bytes));
        assert_int_equal(mf_utf8_valid((const uint8_t *)part, bytes), bytes);
        assert_true(streamed_bytes + bytes < sizeof streamed);
        memcpy(streamed + streamed_bytes, part, bytes + 1);
        streamed_bytes += bytes;
    }
    check_text(s, "streamed", index, streamed, streamed_bytes, want);
    mf_decoder_destroy(decoder);
}

static void check_golden(const char *name) {
    static const mf_encode_options special = {.add_special = true}, as_text = {.special_as_text = true};
    char answers[64];
    const json_t *text;
    size_t i;
    subject s;
    begin(&s, name);
    snprintf(answers, sizeof answers, "%s.ids", name);
    json_t *cases = load("cases"), *want = load(answers);
    const json_t *decoded = json_object_get(want, "decoded"), *skipped = json_object_get(want, "skipped");
    json_array_foreach(cases, i, text) {
        const json_t *ids = json_array_get(json_object_get(want, "special"), i);
        check_encoded(&s, "plain", i, text, NULL, json_array_get(json_object_get(want, "plain"), i));
        check_encoded(&s, "special", i, text, &special, ids);
        check_encoded(&s, "as text", i, text, &as_text, json_array_get(json_object_get(want, "as_text"), i));
        check_decoded(&s, "decoded", i, ids, false, json_string_value(json_array_get(decoded, i)));
        check_decoded(&s, "skipped", i, ids, true, json_string_value(json_array_get(skipped, i)));
    }
    json_decref(cases);
    json_decref(want);
    end(&s);
}

static void test_golden(void **state) {
    (void)state;
    for (int i = 0; i < NAMES; i++) check_golden(names[i]);
}

/* Random text: of characters from everywhere, words and spaces, special tokens' names. */
static uint64_t draw(uint64_t *at, uint64_t below) { return mf_random_u64(11, 1, (*at)++) % below; }

static uint32_t draw_point(uint64_t *at) {
    static const uint32_t ranges[][2] = {{1, 0x80},          {0x20, 0x7f},       {9, 14},
                                         {0x80, 0x250},      {0x300, 0x370},     {0x370, 0x530},
                                         {0x590, 0x700},     {0x900, 0xe80},     {0x1100, 0x1200},
                                         {0x1e00, 0x2100},   {0x2000, 0x2070},   {0x2500, 0x2800},
                                         {0x3000, 0x3100},   {0x4e00, 0x9fff},   {0xac00, 0xd7a4},
                                         {0xe000, 0x10000},  {0x1d400, 0x1d800}, {0x1f300, 0x1fb00},
                                         {0x10000, 0x110000}};
    const uint32_t *range = ranges[draw(at, sizeof ranges / sizeof *ranges)];
    return range[0] + (uint32_t)draw(at, range[1] - range[0]);
}

static size_t draw_text(uint64_t *at, uint8_t *out, size_t room) {
    static const char *const words[] = {" the",          "  ",     "\n", "\r\n", "don't", "<s>",
                                        "<|endoftext|>", "123456", "\t"};
    size_t bytes = 0, items = draw(at, 60);
    for (size_t i = 0; i < items && bytes + 32 < room; i++) {
        if (draw(at, 3) == 0) {
            const char *word = words[draw(at, sizeof words / sizeof *words)];
            memcpy(out + bytes, word, strlen(word));
            bytes += strlen(word);
        } else {
            bytes += (size_t)mf_utf8_put(draw_point(at), out + bytes);
        }
    }
    return bytes;
}

/* decode(encode(x)) is x wherever no normalizer stands in the way. */
static void check_round_trip(const subject *s, const uint8_t *text, size_t bytes) {
    mf_ids ids = {0};
    char *back = NULL;
    size_t back_bytes = 0;
    ASSERT_OK(mf_encode(s->encoder, text, (int64_t)bytes, NULL, &ids));
    for (int64_t i = 0; i < ids.count; i++) assert_non_null(mf_tokenizer_token(s->tokenizer, ids.id[i]));
    ASSERT_OK(mf_decode(s->tokenizer, ids.id, ids.count, false, &back, &back_bytes));
    if (back_bytes != bytes || memcmp(back, text, bytes) != 0) {
        print_error("%s: [%.*s] came back as [%s]\n", s->name, (int)bytes, (const char *)text, back);
        fail();
    }
    mf_host_free(back);
    mf_ids_free(&ids);
}

static void test_round_trips(void **state) {
    (void)state;
    static const char *const exact[] = {"gpt2", "llama3"};
    uint8_t text[2048];
    for (int n = 0; n < 2; n++) {
        subject s;
        uint64_t at = 0;
        begin(&s, exact[n]);
        for (int i = 0; i < (MF_TEST_SPARSE ? 300 : 3000); i++)
            check_round_trip(&s, text, draw_text(&at, text, sizeof text));
        check_round_trip(&s, (const uint8_t *)"a\0b\0", 4);
        end(&s);
    }
}

static void expect_same(subject *s, const char *text, size_t bytes, const char *as) {
    mf_ids got = {0}, want = {0};
    ASSERT_OK(mf_encode(s->encoder, text, (int64_t)bytes, NULL, &got));
    ASSERT_OK(mf_encode(s->encoder, as, (int64_t)strlen(as), NULL, &want));
    assert_int_equal(got.count, want.count);
    if (want.count) assert_memory_equal(got.id, want.id, (size_t)want.count * sizeof *want.id);
    mf_ids_free(&got);
    mf_ids_free(&want);
}

/* One U+FFFD for each maximal subpart; the examples of Unicode 15, tables 3-8 to 3-11. */
static void test_invalid_utf8(void **state) {
    (void)state;
#define BAD "\xef\xbf\xbd"
    for (int n = 0; n < NAMES; n++) {
        subject s;
        begin(&s, names[n]);
        expect_same(&s, "\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", 9, BAD BAD BAD BAD BAD BAD BAD BAD "A");
        expect_same(&s, "\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", 9, BAD BAD BAD BAD BAD BAD BAD BAD "A");
        expect_same(&s, "\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", 9, BAD BAD BAD BAD BAD "A" BAD BAD "B");
        expect_same(&s, "\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", 9, BAD BAD BAD BAD "A");
        expect_same(&s, "ab\xe2\x82", 4, "ab" BAD);
        end(&s);
    }
#undef BAD
}

static void test_random_bytes(void **state) {
    (void)state;
    uint8_t text[512];
    for (int n = 0; n < NAMES; n++) {
        subject s;
        uint64_t at = (uint64_t)n << 32;
        mf_ids ids = {0};
        char *back = NULL;
        size_t bytes = 0;
        begin(&s, names[n]);
        for (int i = 0; i < (MF_TEST_SPARSE ? 100 : 1000); i++) {
            size_t count = draw(&at, sizeof text);
            for (size_t b = 0; b < count; b++) text[b] = (uint8_t)draw(&at, 256);
            ids.count = 0;
            ASSERT_OK(mf_encode(s.encoder, text, (int64_t)count, NULL, &ids));
            for (int64_t k = 0; k < ids.count; k++)
                ids.id[k] = (int32_t)draw(&at, 900) - 20; /* any ids at all */
            ASSERT_OK(mf_decode(s.tokenizer, ids.id, ids.count, false, &back, &bytes));
            assert_int_equal(mf_utf8_valid((uint8_t *)back, bytes), bytes);
            mf_host_free(back);
        }
        mf_ids_free(&ids);
        end(&s);
    }
}

/* Words far longer than the cache takes, and texts with nothing to cut at. */
static void test_long_words(void **state) {
    (void)state;
    enum { LONG = 300000 };
    char *text = NULL;
    ASSERT_OK(mf_host_alloc(LONG + 1, 1, &text));
    for (int kind = 0; kind < 4; kind++) {
        for (int i = 0; i < LONG; i++) text[i] = kind == 3 ? "the \n"[i % 5] : " a\ne"[kind];
        for (int n = 0; n < NAMES; n++) {
            subject s;
            mf_ids ids = {0};
            begin(&s, names[n]);
            ASSERT_OK(mf_encode(s.encoder, text, LONG, NULL, &ids));
            mf_ids_free(&ids);
            end(&s);
        }
    }
    mf_host_free(text);
}

static void put_tokenizer(const char *content, size_t bytes) {
    snprintf(path_text, sizeof path_text, "%s/tokenizer.json", folder);
    ASSERT_OK(mf_file_write(path_text, content, bytes));
}

/* A tokenizer of two letters, with these parts. */
static mf_status open_with(const char *model, const char *others, mf_tokenizer **out) {
    char *content = NULL;
    ASSERT_OK(
        mf_format(&content, "{\"model\": {\"type\": \"BPE\", %s}%s%s}", model, *others ? ", " : "", others));
    put_tokenizer(content, strlen(content));
    mf_host_free(content);
    return mf_tokenizer_open(folder, out);
}

#define LETTERS "\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]"

static void refused(const char *model, const char *others, mf_status status, const char *part) {
    mf_tokenizer *tokenizer = NULL;
    ASSERT_FAILS(open_with(model, others, &tokenizer), status, part);
    assert_null(tokenizer);
}

static void test_refused_models(void **state) {
    (void)state;
    refused("\"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]", "", MF_EFORMAT, "merge 0 is about b");
    refused("\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": [[\"a\", \"b\"]]", "", MF_EFORMAT, "about ab");
    refused("\"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []", "", MF_EFORMAT, "have the same id 0");
    refused("\"vocab\": {\"a\": -1}, \"merges\": []", "", MF_EFORMAT, "token a has an id");
    refused("\"vocab\": {\"a\": 99999999999}, \"merges\": []", "", MF_EFORMAT, "token a has an id");
    refused("\"vocab\": {\"a\": \"0\"}, \"merges\": []", "", MF_EFORMAT, "token a has an id");
    refused("\"vocab\": {\"a\": 0, \"a\": 1}, \"merges\": []", "", MF_EFORMAT, "duplicate");
    refused("\"vocab\": [], \"merges\": []", "", MF_EFORMAT, "vocab is no object");
    refused("\"vocab\": {\"a\": 0}", "", MF_EFORMAT, "merges are no list");
    refused("\"vocab\": {\"a\": 0}, \"merges\": [\"a\"]", "", MF_EFORMAT, "merge 0 is no pair");
    refused("\"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]", "", MF_EFORMAT, "merge 0 is no pair");
    refused("\"vocab\": {\"a\": 0}, \"merges\": [\"a a a\"]", "", MF_EFORMAT, "merge 0 is no pair");
    refused(LETTERS ", \"unk_token\": \"?\"", "", MF_EFORMAT, "unk_token ? is not in the vocabulary");
    refused(LETTERS ", \"byte_fallback\": 1", "", MF_EFORMAT, "byte_fallback is neither true nor false");
    refused(LETTERS ", \"dropout\": 0.1", "", MF_EUNSUPPORTED, "model: dropout");
    refused(LETTERS ", \"end_of_word_suffix\": \"</w>\"", "", MF_EUNSUPPORTED, "end_of_word_suffix");
    put_tokenizer("{\"model\": {\"type\": \"Unigram\"}}", 30);
    mf_tokenizer *t = NULL;
    ASSERT_FAILS(mf_tokenizer_open(folder, &t), MF_EUNSUPPORTED, "model: Unigram is not supported");
    put_tokenizer("{\"model\": 1}", 12);
    ASSERT_FAILS(mf_tokenizer_open(folder, &t), MF_EFORMAT, "has no model");
    put_tokenizer("[", 1);
    ASSERT_FAILS(mf_tokenizer_open(folder, &t), MF_EFORMAT, "is not valid JSON");
    ASSERT_FAILS(mf_tokenizer_open("/nonexistent", &t), MF_EIO, "/nonexistent");
}

static void test_refused_parts(void **state) {
    (void)state;
    refused(LETTERS, "\"normalizer\": {\"type\": \"Precompiled\"}", MF_EUNSUPPORTED,
            "normalizer: Precompiled");
    refused(LETTERS, "\"normalizer\": {}", MF_EFORMAT, "normalizer: type is no text");
    refused(LETTERS, "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [1]}", MF_EFORMAT,
            "no object");
    refused(LETTERS, "\"pre_tokenizer\": {\"type\": \"BertPreTokenizer\"}", MF_EUNSUPPORTED,
            "BertPreTokenizer");
    refused(LETTERS,
            "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(\"}, \"behavior\": "
            "\"Isolated\"}",
            MF_EFORMAT, "pattern (: missing closing parenthesis");
    refused(LETTERS,
            "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"a{2}+\"}, \"behavior\": "
            "\"Isolated\"}",
            MF_EUNSUPPORTED, "{2}+ is not supported");
    refused(LETTERS, "\"decoder\": {\"type\": \"WordPiece\"}", MF_EUNSUPPORTED, "decoder: WordPiece");
    refused(LETTERS, "\"post_processor\": {\"type\": \"BertProcessing\"}", MF_EUNSUPPORTED, "BertProcessing");
    refused(LETTERS,
            "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
            "\"x\"}}, {\"Sequence\": {\"id\": \"A\"}}], \"special_tokens\": {\"x\": {\"ids\": [7]}}}",
            MF_EFORMAT, "there is no token 7");
    refused(LETTERS, "\"added_tokens\": [{\"id\": 3, \"content\": \"a\"}]", MF_EFORMAT,
            "added token a has the id 3, and elsewhere 0");
    refused(LETTERS, "\"added_tokens\": [{\"id\": 2, \"content\": \"x\"}]", MF_EFORMAT, "have the same id 2");
    refused(LETTERS, "\"added_tokens\": [{\"content\": \"x\"}]", MF_EFORMAT, "token x has an id");
    refused(LETTERS, "\"added_tokens\": {}", MF_EFORMAT, "are no list of tokens");
}

/* Linear, where a search from each token over all the space before it, or behind it, took hours. */
static void check_tokens_of_space(const char *strips) {
    enum { LONG = 1000000 };
    char added[128], *text = NULL;
    mf_tokenizer *tokenizer = NULL;
    mf_encoder *encoder = NULL;
    mf_ids ids = {0};
    snprintf(added, sizeof added, "\"added_tokens\": [{\"id\": 3, \"content\": \" \", \"%s\": true}]",
             strips);
    ASSERT_OK(open_with(LETTERS, added, &tokenizer));
    ASSERT_OK(mf_encoder_create(tokenizer, &encoder));
    ASSERT_OK(mf_host_alloc(LONG, 1, &text));
    memset(text, ' ', LONG - 1);
    text[LONG - 1] = 'a';
    ASSERT_OK(mf_encode(encoder, text, LONG, NULL, &ids));
    assert_int_equal(ids.count, LONG);
    mf_host_free(text);
    mf_ids_free(&ids);
    mf_encoder_destroy(encoder);
    mf_tokenizer_close(tokenizer);
}

static void test_tokens_of_space(void **state) {
    (void)state;
    check_tokens_of_space("lstrip");
    check_tokens_of_space("rstrip");
}

/* Marks in the wrong order are put right in less than quadratic time: U+0301 has class 230, U+0327 class 202.
 */
static void test_many_marks(void **state) {
    (void)state;
    enum { MARKS = 1000000 };
    char *text = NULL;
    subject s;
    mf_ids ids[2] = {{0}};
    begin(&s, "qwen2");
    ASSERT_OK(mf_host_alloc(MARKS, 2, &text));
    for (int ordered = 0; ordered < 2; ordered++) {
        for (int i = 0; i < MARKS; i++)
            memcpy(text + 2 * i, (i < MARKS / 2) == ordered ? "\xcc\xa7" : "\xcc\x81", 2);
        ASSERT_OK(mf_encode(s.encoder, text, 2 * MARKS, NULL, &ids[ordered]));
    }
    assert_int_equal(ids[0].count, ids[1].count);
    assert_memory_equal(ids[0].id, ids[1].id, (size_t)ids[0].count * sizeof *ids[0].id);
    mf_host_free(text);
    mf_ids_free(&ids[0]);
    mf_ids_free(&ids[1]);
    end(&s);
}

static void begin_growing(const char *part, mf_tokenizer **out) {
#define GROW "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}, \"content\": \"aaaaaaaaaa\"}"
    char parts[1024];
    snprintf(parts, sizeof parts,
             "\"%s\": {\"type\": \"Sequence\", \"%ss\": [" GROW "," GROW "," GROW "," GROW "," GROW "]}",
             part, part);
    ASSERT_OK(open_with(LETTERS, parts, out));
#undef GROW
}

/* What five replacements make of a letter; sixteen would fill any memory. */
static void test_growth(void **state) {
    (void)state;
    mf_tokenizer *tokenizer = NULL;
    mf_encoder *encoder = NULL;
    mf_ids ids = {0};
    char *text = NULL;
    size_t bytes = 0;
    begin_growing("normalizer", &tokenizer);
    ASSERT_OK(mf_encoder_create(tokenizer, &encoder));
    ASSERT_FAILS(mf_encode(encoder, "a", 1, NULL, &ids), MF_EUNSUPPORTED,
                 "tokenizer.json: normalizer: makes");
    mf_encoder_destroy(encoder);
    mf_tokenizer_close(tokenizer);
    begin_growing("decoder", &tokenizer);
    ASSERT_FAILS(mf_decode(tokenizer, (int32_t[]){0}, 1, false, &text, &bytes), MF_EUNSUPPORTED,
                 "tokenizer.json: decoder: makes");
    mf_tokenizer_close(tokenizer);
}

/* `count` added tokens, of so many bytes each, behind the letters. */
static mf_status open_with_added(int count, int bytes, mf_tokenizer **out) {
    mf_bytes json = {0};
    char entry[1200];
    ASSERT_OK(mf_bytes_add(&json, "\"added_tokens\": [", 17));
    for (int i = 0; i < count; i++) {
        int length = snprintf(entry, sizeof entry, "%s{\"id\": %d, \"content\": \"%-*d\"}", i ? "," : "",
                              i + 3, bytes, i);
        ASSERT_OK(mf_bytes_add(&json, entry, (size_t)length));
    }
    ASSERT_OK(mf_bytes_add(&json, "]", 2));
    mf_status status = open_with(LETTERS, (const char *)json.data, out);
    mf_bytes_free(&json);
    return status;
}

static void test_many_added(void **state) {
    (void)state;
    mf_tokenizer *tokenizer = NULL;
    ASSERT_OK(open_with_added(100000, 7, &tokenizer));
    assert_int_equal(mf_tokenizer_find(tokenizer, "99999  "), 100002);
    mf_tokenizer_close(tokenizer);
    ASSERT_FAILS(open_with_added(1, 1100, &tokenizer), MF_EUNSUPPORTED, "1100 bytes; at most 1024 are");
    ASSERT_FAILS(open_with_added(4300, 1000, &tokenizer), MF_EUNSUPPORTED, "more than 4194304 bytes");
}

/* Small values are many times larger in memory. */
static void test_many_values(void **state) {
    (void)state;
    enum { VALUES = 8400000 };
    mf_tokenizer *tokenizer = NULL;
    char *content = NULL;
    ASSERT_OK(mf_host_alloc(VALUES, 2, &content));
    for (int i = 0; i < VALUES; i++) memcpy(content + 2 * i, i ? ",1" : "[1", 2);
    content[2 * VALUES - 1] = ']';
    put_tokenizer(content, 2 * VALUES);
    ASSERT_FAILS(mf_tokenizer_open(folder, &tokenizer), MF_EUNSUPPORTED, "more than 8388608 values");
    mf_host_free(content);
}

/* A pattern that would take until the end of days on this text ends with an error. */
static void test_catastrophe(void **state) {
    (void)state;
    mf_tokenizer *tokenizer = NULL;
    mf_encoder *encoder = NULL;
    mf_ids ids = {0};
    char text[200];
    memset(text, 'a', sizeof text);
    ASSERT_OK(
        open_with(LETTERS,
                  "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"(a|aa)+(?=c)\"}, "
                  "\"behavior\": \"Isolated\"}",
                  &tokenizer));
    ASSERT_OK(mf_encoder_create(tokenizer, &encoder));
    ASSERT_FAILS(mf_encode(encoder, text, sizeof text, NULL, &ids), MF_EUNSUPPORTED, "limit exceeded");
    assert_int_equal(ids.count, 0);
    ASSERT_OK(mf_encode(encoder, text, 3, NULL, &ids)); /* it goes on */
    assert_int_equal(ids.count, 3);
    ASSERT_FAILS(mf_encode(encoder, text, -1, NULL, &ids), MF_EINVAL, "a text of -1 bytes");
    assert_int_equal(ids.count, 3);
    mf_ids_free(&ids);
    mf_encoder_destroy(encoder);
    mf_tokenizer_close(tokenizer);
}

static void test_translation(void **state) {
    (void)state;
    static const char *const same[][2] = {
        {"\\p{L}+|\\P{N}|\\p{^Lu}", "\\p{L}+|\\P{N}|\\p{^Lu}"},
        {"\\p{Han}", "\\p{sc:Han}"},
        {"[\\s]\\v\\u00e4\\x{1F600}", "[\\t-\\r\\x{85}\\p{Z}]\\x0b\\x{00e4}\\x{1F600}"},
        {"(?i:a)(?!b)(?:c){1,3}?{x}", "(?i:a)(?!b)(?:c){1,3}?{x}"},
    };
    static const char *const refused_ones[] = {"[a[b]]", "[a&&b]",  "[]a]",   "\\h",   "\\bx",
                                               "\\1",    "(?<n>x)", "a(?i)b", "a{2}?", "a{,3}",
                                               "\\xe4",  "[\\W]",   "(?m:.)", "\\p{L", "(*ACCEPT)"};
    mf_bytes out = {0};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        out.count = 0;
        ASSERT_OK(mf_pattern_translate(same[i][0], &out));
        assert_int_equal(out.count, strlen(same[i][1]));
        assert_memory_equal(out.data, same[i][1], out.count);
    }
    for (size_t i = 0; i < sizeof refused_ones / sizeof *refused_ones; i++)
        ASSERT_FAILS(mf_pattern_translate(refused_ones[i], &out), MF_EUNSUPPORTED, "is not supported");
    mf_bytes_free(&out);
}

/* Every N-th allocation fails: an error, nothing lost, and the encoder goes on. */
static void test_faults(void **state) {
    (void)state;
    static const char *const some[] = {"llama3", "llama2", "parts"};
    static const char text[] = "<s>Hello w\xc3\xb6rld\n\n 123  e\xcc\x81 <|eot_id|> \xff";
    for (int n = 0; n < 3; n++) {
        for (int at = 1;; at += at < 60 ? 1 : 17) {
            mf_tokenizer *tokenizer = NULL;
            mf_encoder *encoder = NULL;
            mf_ids ids = {0};
            char *back = NULL;
            size_t bytes = 0;
            mf_fault_arm(MF_FAULT_ALLOC, at);
            mf_status status = mf_tokenizer_open(golden(some[n]), &tokenizer);
            if (!status) status = mf_encoder_create(tokenizer, &encoder);
            if (!status) status = mf_encode(encoder, text, sizeof text - 1, NULL, &ids);
            if (!status) status = mf_decode(tokenizer, ids.id, ids.count, false, &back, &bytes);
            bool fired = mf_fault_fired(MF_FAULT_ALLOC);
            mf_fault_arm(MF_FAULT_ALLOC, 0);
            assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
            if (encoder && !back) ASSERT_OK(mf_encode(encoder, text, sizeof text - 1, NULL, &ids));
            mf_host_free(back);
            mf_ids_free(&ids);
            mf_encoder_destroy(encoder);
            mf_tokenizer_close(tokenizer);
            if (!fired) break;
        }
    }
}

/* What can be opened can be used: whatever it says, no text makes it fall. */
static void try_content(const char *content, size_t bytes) {
    static const char text[] = "<s> Hello, w\xc3\xb6rld! 123\r\n\n  don't e\xcc\x81 <|endoftext|>\t";
    mf_tokenizer *tokenizer = NULL;
    mf_encoder *encoder = NULL;
    mf_ids ids = {0};
    char *back = NULL;
    size_t back_bytes = 0;
    const mf_encode_options options = {.add_special = true};
    put_tokenizer(content, bytes);
    if (mf_tokenizer_open(folder, &tokenizer)) return;
    ASSERT_OK(mf_encoder_create(tokenizer, &encoder));
    if (!mf_encode(encoder, text, sizeof text - 1, &options, &ids) &&
        !mf_decode(tokenizer, ids.id, ids.count, false, &back, &back_bytes))
        assert_int_equal(mf_utf8_valid((uint8_t *)back, back_bytes), back_bytes);
    mf_host_free(back);
    mf_ids_free(&ids);
    mf_encoder_destroy(encoder);
    mf_tokenizer_close(tokenizer);
}

/* A word of the file, or a piece of it, in another's place: more of what comes out is JSON than of flipped
 * bytes. */
static size_t mutate(uint64_t *at, const char *from, size_t bytes, char *out, size_t room) {
    static const char *const words[] = {"null", "true", "-1",       "1e9",        "\"\"",
                                        "[]",   "{}",   "99999999", "\"\\uffff\""};
    memcpy(out, from, bytes);
    for (size_t changes = 1 + draw(at, 3); changes > 0; changes--) {
        size_t place = draw(at, bytes), length = draw(at, 12);
        const char *word = words[draw(at, sizeof words / sizeof *words)];
        if (draw(at, 4) == 0) {
            out[place] = (char)draw(at, 256);
        } else if (draw(at, 8) == 0) {
            bytes = place + 1;
        } else if (place + length < bytes &&
                   bytes + 16 < room) { /* the value that begins after the next colon */
            char *colon = memchr(out + place, ':', bytes - place);
            if (!colon) continue;
            size_t begin_at = (size_t)(colon + 1 - out), end_at = begin_at;
            while (end_at < bytes && !strchr(",]}", out[end_at])) end_at++;
            memmove(out + begin_at + strlen(word), out + end_at, bytes - end_at);
            memcpy(out + begin_at, word, strlen(word));
            bytes += strlen(word) - (end_at - begin_at);
        }
    }
    return bytes;
}

static void test_mutations(void **state) {
    (void)state;
    uint64_t at = 0;
    for (int n = 0; n < NAMES; n++) {
        char *content = NULL, *changed = NULL;
        size_t bytes = 0;
        ASSERT_OK(mf_file_read(golden(names[n]), &content, &bytes));
        ASSERT_OK(mf_host_alloc(bytes + 256, 1, &changed));
        for (int i = 0; i < (MF_TEST_SPARSE ? 20 : 150); i++) {
            /* mostly the front, where everything but vocabulary and merges is */
            size_t front =
                mutate(&at, content, i % 3 ? (bytes < 2500 ? bytes : 2500) : bytes, changed, bytes + 256);
            if (i % 3 && bytes > 2500 && front > 2000) {
                size_t rest = bytes - 2500;
                memcpy(changed + front, content + 2500, rest);
                front += rest;
            }
            try_content(changed, front);
        }
        mf_host_free(content);
        mf_host_free(changed);
    }
}

typedef struct encoding {
    pthread_t thread;
    const mf_tokenizer *tokenizer;
    mf_ids ids;
    mf_status status;
} encoding;

static void *encode_alone(void *argument) {
    encoding *e = argument;
    mf_encoder *encoder = NULL;
    uint8_t text[2048];
    uint64_t at = 0;
    e->status = mf_encoder_create(e->tokenizer, &encoder);
    for (int i = 0; !e->status && i < 200; i++) {
        size_t bytes = draw_text(&at, text, sizeof text);
        e->status = mf_encode(encoder, text, (int64_t)bytes, NULL, &e->ids);
    }
    mf_encoder_destroy(encoder);
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    enum { THREADS = 4 };
    for (int n = 0; n < NAMES; n++) {
        encoding e[THREADS];
        mf_tokenizer *tokenizer = NULL;
        ASSERT_OK(mf_tokenizer_open(golden(names[n]), &tokenizer));
        for (int i = 0; i < THREADS; i++) {
            e[i] = (encoding){.tokenizer = tokenizer};
            assert_int_equal(pthread_create(&e[i].thread, NULL, encode_alone, &e[i]), 0);
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(e[i].thread, NULL);
            assert_int_equal(e[i].status, MF_OK);
            assert_int_equal(e[i].ids.count, e[0].ids.count);
            assert_memory_equal(e[i].ids.id, e[0].ids.id, (size_t)e[0].ids.count * sizeof *e[0].ids.id);
            if (i) mf_ids_free(&e[i].ids);
        }
        mf_ids_free(&e[0].ids);
        mf_tokenizer_close(tokenizer);
    }
}

static void test_ends(void **state) {
    (void)state;
    subject s;
    mf_tokenizer *t = NULL;
    begin(&s, "llama3");
    assert_string_equal(mf_tokenizer_token(s.tokenizer, mf_tokenizer_bos(s.tokenizer)), "<|begin_of_text|>");
    assert_string_equal(mf_tokenizer_token(s.tokenizer, mf_tokenizer_eos(s.tokenizer)), "<|end_of_text|>");
    assert_int_equal(mf_tokenizer_find(s.tokenizer, "<|eot_id|>"), 802);
    assert_true(mf_tokenizer_is_special(s.tokenizer, 802));
    assert_false(mf_tokenizer_is_special(s.tokenizer, 5));
    assert_int_equal(mf_tokenizer_find(s.tokenizer, "absent token"), -1);
    assert_null(mf_tokenizer_token(s.tokenizer, mf_tokenizer_size(s.tokenizer)));
    assert_null(mf_tokenizer_token(s.tokenizer, -1));
    end(&s);
    char config[96];
    snprintf(config, sizeof config, "%s/tokenizer_config.json", folder);
    static const char content[] = "{\"bos_token\": null, \"eos_token\": {\"content\": \"ab\"}}";
    ASSERT_OK(mf_file_write(config, content, sizeof content - 1));
    ASSERT_OK(open_with(LETTERS, "", &t));
    assert_int_equal(mf_tokenizer_eos(t), 2);
    assert_int_equal(mf_tokenizer_bos(t), -1);
    mf_tokenizer_close(t);
    ASSERT_OK(mf_file_write(config, "{", 1));
    refused(LETTERS, "", MF_EFORMAT, "tokenizer_config.json: is not valid JSON");
    unlink(config);
}

/* Whatever fails, nothing half-written stays. */
static void test_tokenize_faults(void **state) {
    (void)state;
    char out[96], in[96];
    mf_tokenizer *tokenizer = NULL;
    mf_tokenize_result result;
    snprintf(out, sizeof out, "%s/ids.bin", folder);
    snprintf(in, sizeof in, "%s/in", folder);
    ASSERT_OK(mf_file_write(in, "one\ntwo", 7));
    ASSERT_OK(mf_tokenizer_open(golden("gpt2"), &tokenizer));
    const char *paths[] = {in};
    mf_tokenize_options options = {.tokenizer = tokenizer,
                                   .paths = paths,
                                   .path_count = 1,
                                   .out = out,
                                   .separator = mf_tokenizer_eos(tokenizer),
                                   .by_line = true,
                                   .threads = 2};
    for (int at = 1;; at++) {
        mf_fault_arm(MF_FAULT_ALLOC, at);
        mf_status status = mf_tokenize(&options, &result);
        bool fired = mf_fault_fired(MF_FAULT_ALLOC);
        mf_fault_arm(MF_FAULT_ALLOC, 0);
        assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
        assert_int_equal(access(out, F_OK), status ? -1 : 0);
        if (!fired) break;
    }
    assert_int_equal(result.documents, 2);
    options.threads = 1;
    options.separator = 1 << 30;
    ASSERT_FAILS(mf_tokenize(&options, &result), MF_EINVAL, "there is no token");
    mf_tokenizer_close(tokenizer);
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/mf_test_tokenizer_XXXXXX");
    if (!mkdtemp(folder)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),          cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_invalid_utf8),    cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_long_words),      cmocka_unit_test(test_refused_models),
        cmocka_unit_test(test_refused_parts),   cmocka_unit_test(test_catastrophe),
        cmocka_unit_test(test_translation),     cmocka_unit_test(test_faults),
        cmocka_unit_test(test_mutations),       cmocka_unit_test(test_tokens_of_space),
        cmocka_unit_test(test_many_marks),      cmocka_unit_test(test_growth),
        cmocka_unit_test(test_many_added),      cmocka_unit_test(test_many_values),
        cmocka_unit_test(test_threads),         cmocka_unit_test(test_ends),
        cmocka_unit_test(test_tokenize_faults),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) || failed;
}
