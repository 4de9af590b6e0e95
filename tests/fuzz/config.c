/* config.c: a config.json: what is let through is a model that can be, and comes back from the file that it
 * is saved to. */
#include "fuzz.h"

#include "meshfold/io.h"
#include "meshfold/model.h"

#include <string.h>

const fuzz_shape fuzz_input = FUZZ_JSON;

static const char name[] = "config.json", copy[] = "copy.json";

static char *text_of(const char *path) {
    char *text = NULL;
    size_t bytes = 0;
    FUZZ_CLAIM(!mf_file_read(path, &text, &bytes));
    return text;
}

static void check(const mf_model_config *config) {
    mf_model_config again;
    FUZZ_CLAIM(!mf_config_check(config, name));
    FUZZ_CLAIM(mf_config_params(config) > 0);
    FUZZ_CLAIM(mf_config_step_flops(config, 1, 1 << 20) > 0);
    FUZZ_CLAIM(!mf_config_save(config, MF_BF16, 1, fuzz_path(copy)));
    char *saved = text_of(fuzz_path(copy));
    FUZZ_CLAIM(!mf_config_load(fuzz_path(copy), &again));
    FUZZ_CLAIM(!mf_config_save(&again, MF_BF16, 1, fuzz_path(copy)));
    char *saved_again = text_of(fuzz_path(copy));
    FUZZ_CLAIM(!strcmp(saved, saved_again));
    FUZZ_CLAIM(!mf_config_carry(fuzz_path(name), fuzz_path(copy)));
    FUZZ_CLAIM(!mf_config_load(fuzz_path(copy), &again));
    mf_host_free(saved);
    mf_host_free(saved_again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    mf_model_config config;
    fuzz_put(name, data, bytes);
    mf_status status = mf_config_load(fuzz_path(name), &config);
    if (status)
        fuzz_check_refusal(status, name);
    else
        check(&config);
    return 0;
}
