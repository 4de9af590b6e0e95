/* data.c: sequences out of a text. */
#include "meshfold/train.h"

#include <stdio.h>

mf_status mf_dataset_make(const mf_text *text, int64_t seq, mf_dataset *out) {
    *out = (mf_dataset){.bytes = text->bytes, .total = text->count, .train = text->count - text->count / 10};
    int64_t held_out = out->total - out->train,
            need = seq + 1; /* the held-out part is never the longer one */
    char shorter[48] = "";
    if (held_out >= need) return MF_OK;
    if (held_out > 1) snprintf(shorter, sizeof shorter, ", or --seq %lld or less", (long long)held_out - 1);
    return MF_FAIL(
        MF_EINVAL,
        "--seq %lld: the text has %lld bytes, of which the last tenth (%lld) is held out; each part "
        "must hold a sequence and one byte more: use a text of %lld bytes or more%s",
        (long long)seq, (long long)out->total, (long long)held_out, 10 * (long long)need, shorter);
}

static void copy_window(const uint8_t *from, int64_t seq, int32_t *ids, int32_t *labels) {
    for (int64_t i = 0; i < seq; i++) {
        ids[i] = from[i];
        labels[i] = from[i + 1];
    }
}

void mf_dataset_draw(const mf_dataset *data, int64_t seq, uint64_t seed, uint64_t draw, int32_t *ids,
                     int32_t *labels) {
    uint64_t starts = (uint64_t)(data->train - seq);
    uint64_t start = mf_random_u64(seed, mf_random_key("training sequence"), draw) % starts;
    copy_window(data->bytes + start, seq, ids, labels);
}

int64_t mf_dataset_evals(const mf_dataset *data, int64_t seq) {
    return (data->total - data->train - 1) / seq;
}

void mf_dataset_eval(const mf_dataset *data, int64_t seq, int64_t index, int32_t *ids, int32_t *labels) {
    copy_window(data->bytes + data->train + index * seq, seq, ids, labels);
}
