/* safetensors.c: a file's header may lie: whatever is let through lies inside the file, once. */
#include "fuzz.h"

#include "meshfold/io.h"

#include <string.h>

const fuzz_shape fuzz_input = FUZZ_HEADER;

static const char name[] = "x.safetensors";

/* Every byte is touched: where the map ends is known to the machine alone. */
static size_t sum_of(const mf_tensor_info *t) {
    const uint8_t *data = t->data;
    size_t sum = 0;
    for (size_t i = 0; i < t->bytes; i++) sum += data[i];
    return sum;
}

static void read_all(const mf_tensor_info *t) {
    int64_t rows = t->dims == 2 ? t->shape[0] : 1, cols = t->dims ? t->shape[t->dims - 1] : 0;
    float *out = NULL;
    FUZZ_CLAIM(!mf_host_alloc(t->bytes, sizeof *out, &out)); /* at least as many as there are values */
    mf_status status = mf_tensor_read(t, 0, rows, 0, cols, out);
    FUZZ_CLAIM(!status == (t->type != MF_FILE_OTHER && (t->dims == 1 || t->dims == 2)));
    FUZZ_CLAIM(mf_tensor_read(t, 0, rows, 1, cols, out) != MF_OK);
    FUZZ_CLAIM(mf_tensor_read(t, rows, INT64_MAX, 0, cols, out) != MF_OK);
    FUZZ_CLAIM(mf_tensor_read(t, 0, 0, cols, 0, out) == status); /* nothing, and behind all there is */
    mf_host_free(out);
}

static void check(const mf_safetensors *file, size_t file_bytes) {
    size_t bytes = 0;
    for (int i = 0; i < mf_safetensors_count(file); i++) {
        const mf_tensor_info *t = mf_safetensors_at(file, i);
        FUZZ_CLAIM(mf_safetensors_find(file, t->name) == t);
        FUZZ_CLAIM(sum_of(t) <= 255 * t->bytes);
        read_all(t);
        bytes += t->bytes;
    }
    FUZZ_CLAIM(bytes + sizeof(uint64_t) <= file_bytes);
    mf_safetensors_metadata(file, "format");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    mf_safetensors *file = NULL;
    fuzz_put(name, data, bytes);
    mf_status status = mf_safetensors_open(fuzz_path(name), &file);
    if (status)
        fuzz_check_refusal(status, name);
    else
        check(file, bytes);
    mf_safetensors_close(file);
    return 0;
}
