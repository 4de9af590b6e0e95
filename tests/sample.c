/* sample.c: which tokens are drawn and how often; text and ids of models with and without a tokenizer. */
#include "support.h"

#include "meshfold/infer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VOCAB = 600, DRAWS = 40000 };

/* How often each of VOCAB tokens comes in DRAWS draws. */
static void draw_many(const mf_sampling *s, const float *scores, int64_t *count) {
    mf_candidate *scratch = NULL;
    ASSERT_OK(mf_host_alloc(VOCAB, sizeof *scratch, &scratch));
    memset(count, 0, VOCAB * sizeof *count);
    for (uint64_t i = 0; i < DRAWS; i++) {
        int32_t id = -1;
        ASSERT_OK(mf_sample(s, scores, VOCAB, 5, i, scratch, &id));
        assert_true(id >= 0 && id < VOCAB);
        count[id]++;
    }
    mf_host_free(scratch);
}

static int by_probability(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a < b) - (a > b);
}

/* What a token's probability must at least be for it to be drawn: found by sorting all. */
static double threshold(const mf_sampling *s, const double *p) {
    double sorted[VOCAB], sum = 0;
    int64_t n = VOCAB;
    memcpy(sorted, p, sizeof sorted);
    qsort(sorted, VOCAB, sizeof *sorted, by_probability);
    if (s->top_k > 0 && s->top_k < n) n = s->top_k;
    for (int64_t i = 0; i < n; i++) sum += sorted[i];
    double kept = 0;
    for (int64_t i = 0; i < n; i++) {
        kept += sorted[i];
        if (s->top_p < 1 && kept >= s->top_p * sum) return sorted[i];
    }
    return sorted[n - 1];
}

static void tokens_come_as_often_as_they_should(void **state) {
    (void)state;
    static const mf_sampling ways[] = {{.temperature = 1, .top_p = 1, .seed = 1},
                                       {.temperature = 0.5, .top_p = 1, .seed = 2},
                                       {.temperature = 3, .top_p = 0.6, .seed = 3},
                                       {.temperature = 1, .top_k = 7, .top_p = 1, .seed = 4},
                                       {.temperature = 2, .top_k = 300, .top_p = 0.9, .seed = 5},
                                       {.temperature = 1, .top_k = VOCAB + 1, .top_p = 0.3, .seed = 6}};
    float scores[VOCAB];
    fill_normal("scores", 2, VOCAB, scores);
    scores[17] = -INFINITY;
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        int64_t count[VOCAB];
        double p[VOCAB], sum = 0, kept = 0, chi = 0;
        int64_t kinds = 0;
        draw_many(&ways[w], scores, count);
        for (int i = 0; i < VOCAB; i++) sum += p[i] = exp((double)scores[i] / ways[w].temperature);
        double least = threshold(&ways[w], p);
        for (int i = 0; i < VOCAB; i++) kept += p[i] >= least ? p[i] : 0;
        for (int i = 0; i < VOCAB; i++) {
            double want = DRAWS * p[i] / kept;
            if (p[i] < least || p[i] == 0) {
                assert_int_equal(count[i], 0);
            } else if (want > 5) {
                chi += pow((double)count[i] - want, 2) / want;
                kinds++;
            }
        }
        if (chi > (double)kinds + 6 * sqrt(2 * (double)kinds))
            fail_msg("way %zu: chi-square %.1f over %lld tokens", w, chi, (long long)kinds);
    }
}

static void the_best_is_the_first_of_equals(void **state) {
    (void)state;
    const float scores[] = {1, 3, -INFINITY, 3, 2};
    mf_candidate scratch[5];
    int32_t id = -1;
    ASSERT_OK(mf_sample(&(mf_sampling){.top_p = 1}, scores, 5, 0, 0, scratch, &id));
    assert_int_equal(id, 1);
    for (uint64_t i = 0; i < 50; i++) {
        ASSERT_OK(mf_sample(&(mf_sampling){.temperature = 9, .top_k = 1, .top_p = 1}, scores, 5, 0, i,
                            scratch, &id));
        assert_int_equal(id, 1);
    }
    const float bad[] = {1, NAN}, none[] = {-INFINITY, -INFINITY};
    ASSERT_FAILS(mf_sample(&(mf_sampling){.top_p = 1}, bad, 2, 0, 0, scratch, &id), MF_ENONFINITE, "token 1");
    ASSERT_FAILS(mf_sample(&(mf_sampling){.top_p = 1}, none, 2, 0, 0, scratch, &id), MF_ENONFINITE,
                 "-infinity");
}

/* Says the ids of bytes, and holds each portion to be whole characters. */
static void say_bytes(const mf_speech *speech, const char *bytes, const char *want) {
    mf_voice *voice = NULL;
    char got[200] = "";
    const char *text = NULL;
    size_t length = 0;
    ASSERT_OK(mf_voice_create(speech, &voice));
    for (size_t i = 0; bytes[i]; i++) {
        ASSERT_OK(mf_voice_say(voice, (uint8_t)bytes[i], &text, &length));
        assert_true(length == 0 || ((uint8_t)text[0] & 0xc0) != 0x80);
        strncat(got, text, length);
    }
    ASSERT_OK(mf_voice_end(voice, &text, &length));
    strncat(got, text, length);
    assert_string_equal(got, want);
    mf_voice_destroy(voice);
}

static void bytes_become_characters(void **state) {
    (void)state;
    char folder[] = "/tmp/mf_test_sample_XXXXXX";
    mf_speech *speech = NULL;
    mf_ids ids = {0};
    int32_t stop[MF_STOPS];
    assert_non_null(mkdtemp(folder));
    ASSERT_FAILS(mf_speech_open(folder, NULL, 300, &speech), MF_EINVAL, "vocabulary of 300");
    ASSERT_OK(mf_speech_open(folder, NULL, 256, &speech));
    assert_int_equal(mf_speech_stops(speech, stop), 0);
    ASSERT_OK(mf_speech_read(speech, "a\xff", 2, &ids));
    assert_int_equal(ids.count, 2);
    assert_int_equal(ids.id[1], 255);
    ASSERT_FAILS(mf_speech_read(speech, "", 0, &ids), MF_EINVAL, "empty");
    say_bytes(speech, "plain \xe2\x82\xac and \xf0\x9f\x98\x80", "plain \xe2\x82\xac and \xf0\x9f\x98\x80");
    say_bytes(speech, "cut \xe2\x82", "cut \xef\xbf\xbd");
    say_bytes(speech, "\xff\xe2z\x80", "\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd");
    mf_ids_free(&ids);
    mf_speech_close(speech);
    rmdir(folder);
}

/* One number or a list, of the file that has them first. */
static void texts_end_where_files_say(void **state) {
    (void)state;
    char folder[] = "/tmp/mf_test_sample_XXXXXX", config[100], generation[100];
    mf_speech *speech = NULL;
    int32_t stop[MF_STOPS];
    assert_non_null(mkdtemp(folder));
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(generation, sizeof generation, "%s/generation_config.json", folder);
    ASSERT_OK(mf_file_write(config, "{\"eos_token_id\": 7}", 19));
    ASSERT_OK(mf_speech_open(folder, NULL, 256, &speech));
    assert_int_equal(mf_speech_stops(speech, stop), 1);
    assert_int_equal(stop[0], 7);
    mf_speech_close(speech);
    ASSERT_OK(mf_file_write(generation, "{\"eos_token_id\": [9, -1, \"x\", 8]}", 33));
    ASSERT_OK(mf_speech_open(folder, NULL, 256, &speech));
    assert_int_equal(mf_speech_stops(speech, stop), 2);
    assert_int_equal(stop[0], 9);
    assert_int_equal(stop[1], 8);
    mf_speech_close(speech);
    ASSERT_OK(mf_file_write(generation, "{", 1));
    ASSERT_FAILS(mf_speech_open(folder, NULL, 256, &speech), MF_EFORMAT, "generation_config.json");
    unlink(config);
    unlink(generation);
    rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(tokens_come_as_often_as_they_should),
                                       cmocka_unit_test(the_best_is_the_first_of_equals),
                                       cmocka_unit_test(bytes_become_characters),
                                       cmocka_unit_test(texts_end_where_files_say)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
