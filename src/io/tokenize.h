/* tokenize.h: files of text to one file of token ids, by all cores.
 *
 *     mf_tokenize_options options = {.tokenizer = t, .paths = &path, .path_count = 1, .out = "book.bin",
 *                                    .separator = mf_tokenizer_eos(t), .threads = 4};
 *     MF_TRY(mf_tokenize(&options, &result));      // book.bin, and book.json beside it, as mf_text_load
 * reads them
 */
#ifndef MF_IO_TOKENIZE_H
#define MF_IO_TOKENIZE_H

#include "meshfold/tokenizer.h"

typedef struct mf_tokenize_result {
    int64_t files, documents, bytes, ids;
    int width; /* bytes of an id */
} mf_tokenize_result;

typedef struct mf_tokenize_options {
    const mf_tokenizer *tokenizer;
    const char *const *paths; /* files, and folders of files */
    int path_count;
    const char *out;   /* NAME.bin */
    int32_t separator; /* put behind each document; -1: none */
    bool by_line;      /* each line is a document, an empty one none; else each file */
    mf_encode_options encode;
    int threads;
    void *context;
    void (*progress)(void *context, int64_t done_bytes, int64_t all_bytes); /* or NULL; one call at a time */
} mf_tokenize_options;

/* The ids come in the order of the documents, whatever the threads. They and the description take their
 * places when all is written: on failure what stood there stands. MF_EINVAL where there is nothing to
 * tokenize; MF_EIO, MF_EUNSUPPORTED name the file. */
mf_status mf_tokenize(const mf_tokenize_options *options, mf_tokenize_result *out);

#endif
