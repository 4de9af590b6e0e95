/* tokenizer.h: text to token ids and back, as a Hugging Face tokenizer.json says.
 *
 *     mf_tokenizer *tokenizer = NULL;
 *     mf_encoder *encoder = NULL;
 *     mf_ids ids = {0};
 *     MF_TRY(mf_tokenizer_open("models/llama", &tokenizer));       // the folder, or the file in it
 *     MF_TRY(mf_encoder_create(tokenizer, &encoder));              // one a thread
 *     MF_TRY(mf_encode(encoder, "Hello", 5, NULL, &ids));          // ids.id[0 .. ids.count - 1]
 *     MF_TRY(mf_decode(tokenizer, ids.id, ids.count, false, &text, &bytes));
 *     mf_host_free(text);
 *     mf_ids_free(&ids);
 *     mf_encoder_destroy(encoder);
 *     mf_tokenizer_close(tokenizer);
 *
 * docs/tokenizers.md says which tokenizers are read, and which are refused. */
#ifndef MESHFOLD_TOKENIZER_H
#define MESHFOLD_TOKENIZER_H

#include "meshfold/base.h"

/* Never changes once it is open: any number of threads may use it. */
typedef struct mf_tokenizer mf_tokenizer;
/* path: a tokenizer.json, or a folder with one. MF_EIO and MF_EFORMAT name the file and what is wrong in it;
 * MF_EUNSUPPORTED names the part that is not known here. */
mf_status mf_tokenizer_open(const char *path, mf_tokenizer **out);
void mf_tokenizer_close(mf_tokenizer *tokenizer);

/* All ids are below it; some below it may have no token. */
int32_t mf_tokenizer_size(const mf_tokenizer *tokenizer);
/* What begins and ends a text, by the tokenizer_config.json or config.json beside the file, else by the names
 * that are in use. -1: none. */
int32_t mf_tokenizer_bos(const mf_tokenizer *tokenizer);
int32_t mf_tokenizer_eos(const mf_tokenizer *tokenizer);
/* The token as the file spells it; the tokenizer's, do not free. NULL when no token has this id. */
const char *mf_tokenizer_token(const mf_tokenizer *tokenizer, int32_t id);
bool mf_tokenizer_is_special(const mf_tokenizer *tokenizer, int32_t id);
/* -1: no token is spelled so. */
int32_t mf_tokenizer_find(const mf_tokenizer *tokenizer, const char *token);
/* XXH3 of the file, 64 bits, as xxhsum -H3 prints it. */
uint64_t mf_tokenizer_hash(const mf_tokenizer *tokenizer);
/* The file that was read; the tokenizer's. */
const char *mf_tokenizer_path(const mf_tokenizer *tokenizer);

/* A list that grows. Zeroed it is empty. */
typedef struct mf_ids {
    int32_t *id;
    int64_t count, room;
} mf_ids;
mf_status mf_ids_add(mf_ids *ids, int32_t id);
void mf_ids_free(mf_ids *ids);

typedef struct mf_encode_options {
    bool add_special;     /* the tokens that the file puts before and after a text (BOS, EOS) */
    bool special_as_text; /* special tokens' names in the text are text like any other */
} mf_encode_options;

/* One thread's scratch, with a cache of words. Borrows the tokenizer. */
typedef struct mf_encoder mf_encoder;
mf_status mf_encoder_create(const mf_tokenizer *tokenizer, mf_encoder **out);
void mf_encoder_destroy(mf_encoder *encoder);
/* Adds the ids of text[0 .. bytes - 1] to `out`. What is not UTF-8 is read as U+FFFD, one for each maximal
 * subpart (Unicode 15, 3.9). options: NULL for none. On failure `out` holds what it held. MF_EINVAL for texts
 * of 2 GiB and more; MF_EUNSUPPORTED when a pattern of the file takes too many steps on this text, or its
 * normalizer makes far more of it. */
mf_status mf_encode(mf_encoder *encoder, const void *text, int64_t bytes, const mf_encode_options *options,
                    mf_ids *out);

/* *text: NUL-terminated, always UTF-8; the caller frees it with mf_host_free. Ids without a token stand for
 * nothing. skip_special: leaves special tokens out. MF_EUNSUPPORTED as mf_encode. */
mf_status mf_decode(const mf_tokenizer *tokenizer, const int32_t *ids, int64_t count, bool skip_special,
                    char **text, size_t *bytes);

/* The same for ids that come one by one:
 *
 *     MF_TRY(mf_decoder_push(decoder, id, &text, &bytes));   // bytes may be 0: a character is not whole yet
 *     MF_TRY(mf_decoder_end(decoder, &text, &bytes));        // what is left; the next push begins a new text
 *
 * What comes out is mf_decode's text in portions of whole characters; only where tokens of single bytes
 * (<0xE2>) are not UTF-8 together do the two put U+FFFD otherwise. */
typedef struct mf_decoder mf_decoder;
mf_status mf_decoder_create(const mf_tokenizer *tokenizer, bool skip_special, mf_decoder **out);
void mf_decoder_destroy(mf_decoder *decoder);
/* *text: the decoder's, until its next call. */
mf_status mf_decoder_push(mf_decoder *decoder, int32_t id, const char **text, size_t *bytes);
mf_status mf_decoder_end(mf_decoder *decoder, const char **text, size_t *bytes);

#endif
