/* tokenizer.c: how fast texts become ids, on one core.
 *
 *     bench_tokenizer TOKENIZER FILE...
 *
 * Each file is encoded and decoded as one text, several times; the best counts. Times are the thread's own,
 * so that what else the machine does counts less. */
#include "meshfold/io.h"
#include "meshfold/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REPEATS = 5 };

static void check(mf_status status, const char *what) {
    if (!status) return;
    fprintf(stderr, "%s: %s\n", what, mf_error_last()->message);
    exit(1);
}

static double own_s(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* A cold encoder each time: its cache of words is part of the cost. */
static double encode_s(const mf_tokenizer *tokenizer, const mf_text *text, mf_ids *ids) {
    mf_encoder *encoder = NULL;
    check(mf_encoder_create(tokenizer, &encoder), "encoder");
    ids->count = 0;
    double began = own_s();
    check(mf_encode(encoder, text->bytes, text->count, NULL, ids), "encode");
    double spent = own_s() - began;
    mf_encoder_destroy(encoder);
    return spent;
}

static double decode_s(const mf_tokenizer *tokenizer, const mf_text *text, const mf_ids *ids, bool *same) {
    char *back = NULL;
    size_t bytes = 0;
    double began = own_s();
    check(mf_decode(tokenizer, ids->id, ids->count, false, &back, &bytes), "decode");
    double spent = own_s() - began;
    *same = bytes == (size_t)text->count && !memcmp(back, text->bytes, bytes);
    mf_host_free(back);
    return spent;
}

static void measure(const mf_tokenizer *tokenizer, const char *path) {
    mf_text text;
    mf_ids ids = {0};
    double encode = 1e30, decode = 1e30;
    bool same = false;
    check(mf_text_load(&path, 1, &text), path);
    for (int i = 0; i < REPEATS; i++) {
        double spent = encode_s(tokenizer, &text, &ids);
        encode = spent < encode ? spent : encode;
        spent = decode_s(tokenizer, &text, &ids, &same);
        decode = spent < decode ? spent : decode;
    }
    double megabytes = (double)text.count / 1e6;
    printf("%-40s %8.2f MB %6.2f bytes a token, encode %7.1f MB/s, decode %7.1f MB/s%s\n", path, megabytes,
           (double)text.count / (double)mf_max(ids.count, 1), megabytes / encode, megabytes / decode,
           same ? "" : ", comes back changed");
    mf_ids_free(&ids);
    mf_text_free(&text);
}

int main(int argc, char **argv) {
    mf_tokenizer *tokenizer = NULL;
    if (argc < 3) {
        fprintf(stderr, "usage: %s TOKENIZER FILE...\n", argv[0]);
        return 2;
    }
    double began = own_s();
    check(mf_tokenizer_open(argv[1], &tokenizer), argv[1]);
    printf("%s: %d ids, opened in %.3f s\n", argv[1], (int)mf_tokenizer_size(tokenizer), own_s() - began);
    for (int i = 2; i < argc; i++) measure(tokenizer, argv[i]);
    mf_tokenizer_close(tokenizer);
    return 0;
}
