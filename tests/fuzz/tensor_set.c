/* tensor_set.c: an index of two files may name anything; what is let through is in the file that it names. */
#include "fuzz.h"

#include "meshfold/io.h"

const fuzz_shape fuzz_input = FUZZ_JSON;

static const char name[] = "model.safetensors.index.json";

static void make_files(void) {
    static const mf_tensor_spec a[] = {{"x", 2, 3}, {"y", 0, 4}}, b[] = {{"z", 1, 2}};
    FUZZ_CLAIM(!mf_tensors_create(fuzz_path("a.safetensors"), a, 2, MF_F32));
    FUZZ_CLAIM(!mf_tensors_create(fuzz_path("b.safetensors"), b, 1, MF_BF16));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static bool made;
    mf_tensor_set *set = NULL;
    if (!made) make_files();
    made = true;
    fuzz_put(name, data, bytes);
    mf_status status = mf_tensor_set_open(fuzz_path(""), &set);
    if (status) {
        fuzz_check_refusal(status, FUZZ_FOLDER);
        return 0;
    }
    const mf_tensor_info *t;
    for (int i = 0; (t = mf_tensor_set_at(set, i)); i++) FUZZ_CLAIM(mf_tensor_set_find(set, t->name) == t);
    mf_tensor_set_close(set);
    return 0;
}
