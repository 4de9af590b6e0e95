/* codec.h: what must hold of any tokenizer and any text. */
#ifndef MF_FUZZ_CODEC_H
#define MF_FUZZ_CODEC_H

#include "meshfold/tokenizer.h"

/* Encodes the text and decodes its ids, at once and one by one; decodes ids made of the text's bytes. */
void fuzz_codec(const mf_tokenizer *tokenizer, mf_encoder *encoder, const uint8_t *text, size_t bytes);

#endif
