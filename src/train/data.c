/* data.c: sequences out of a text. */
#include "meshfold/train.h"

#include <stdio.h>

mf_status mf_dataset_make(const mf_text *text, int64_t seq, mf_dataset *out) {
    *out = (mf_dataset){.text = *text, .total = text->count, .train = text->count - text->count / 10};
    int64_t held_out = out->total - out->train,
            need = seq + 1; /* the held-out part is never the longer one */
    const char *unit = text->width ? "token" : "byte";
    char shorter[48] = "";
    if (held_out >= need) return MF_OK;
    if (held_out > 1) snprintf(shorter, sizeof shorter, ", or --seq %lld or less", (long long)held_out - 1);
    return MF_FAIL(MF_EINVAL,
                   "--seq %lld: the text has %lld %ss, of which the last tenth (%lld) is held out; each part "
                   "must hold a sequence and one %s more: use a text of %lld %ss or more%s",
                   (long long)seq, (long long)out->total, unit, (long long)held_out, unit,
                   10 * (long long)need, unit, shorter);
}

mf_status mf_text_fits(const mf_text *text, int64_t vocab) {
    if (text->width && text->vocab > vocab)
        return MF_FAIL(MF_EINVAL, "vocab_size is %lld, but the text's ids are of a vocabulary of %lld",
                       (long long)vocab, (long long)text->vocab);
    if (!text->width && vocab < 256)
        return MF_FAIL(MF_EINVAL, "vocab_size is %lld; text is bytes, which need at least 256",
                       (long long)vocab);
    return MF_OK;
}

mf_status mf_text_is_separated(const mf_text *text) {
    if (text->separated) return MF_OK;
    if (!text->width)
        return MF_FAIL(MF_EINVAL, "text read as bytes does not say where documents end; give a NAME.bin that "
                                  "meshfold tokenize made");
    return MF_FAIL(MF_EINVAL, "the description of the ids names no separator; make them with meshfold "
                              "tokenize --separator TOKEN");
}

void mf_text_documents(const mf_text *text, const int32_t *ids, int64_t tokens, int32_t *begins) {
    int32_t begin = 0;
    for (int64_t i = 0; i < tokens; i++) {
        begins[i] = begin;
        if (ids[i] == text->separator) begin = (int32_t)(i + 1);
    }
}

static void copy_window(const mf_text *text, int64_t first, int64_t seq, int32_t *ids, int32_t *labels) {
    for (int64_t i = 0; i < seq; i++) {
        ids[i] = mf_text_at(text, first + i);
        labels[i] = mf_text_at(text, first + i + 1);
    }
}

void mf_dataset_draw(const mf_dataset *data, int64_t seq, uint64_t seed, uint64_t draw, int32_t *ids,
                     int32_t *labels) {
    uint64_t starts = (uint64_t)(data->train - seq);
    uint64_t start = mf_random_u64(seed, mf_random_key("training sequence"), draw) % starts;
    copy_window(&data->text, (int64_t)start, seq, ids, labels);
}

int64_t mf_dataset_evals(const mf_dataset *data, int64_t seq) {
    return (data->total - data->train - 1) / seq;
}

void mf_dataset_eval(const mf_dataset *data, int64_t seq, int64_t index, int32_t *ids, int32_t *labels) {
    copy_window(&data->text, data->train + index * seq, seq, ids, labels);
}
