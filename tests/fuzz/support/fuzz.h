/* fuzz.h: what the fuzz targets share. A target reads bytes that nobody meant well, and states what must
 * hold:
 *
 *     const fuzz_shape fuzz_input = FUZZ_JSON;
 *     int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
 *         fuzz_put("config.json", data, bytes);
 *         mf_status status = mf_config_load(fuzz_path("config.json"), &config);
 *         if (status) fuzz_check_refusal(status, "config.json");
 *         else FUZZ_CLAIM(config.layers > 0);
 *         return 0;
 *     }
 *
 * replay.c gives it the files of corpus/NAME, libFuzzer (scripts/fuzz.sh) what mutate.c makes of them. */
#ifndef MF_FUZZ_H
#define MF_FUZZ_H

#include "meshfold/base.h"

#include <jansson.h>

/* What an input is made of; the target's. */
typedef enum fuzz_shape {
    FUZZ_BYTES,
    FUZZ_JSON,  /* then, behind a 0, anything */
    FUZZ_HEADER /* safetensors: eight bytes of length, JSON of that length, anything */
} fuzz_shape;
extern const fuzz_shape fuzz_input;
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Where the input's JSON ends: at the first 0, or at its end. */
size_t fuzz_json_end(const uint8_t *data, size_t bytes);

/* In the path of every file, as errors have it. */
#define FUZZ_FOLDER "meshfold-fuzz-"
/* A file in a folder of this process's own, which goes with it; "": the folder. Valid until the next but
 * three. */
const char *fuzz_path(const char *name);
/* Writes a file into it. */
void fuzz_put(const char *name, const void *data, size_t bytes);

/* An error names what it is about, on one line, and is not that memory ran out. */
void fuzz_check_refusal(mf_status status, const char *name);

/* Ends the process when it is false. */
#define FUZZ_CLAIM(truth) ((truth) ? (void)0 : fuzz_fail(__FILE__, __LINE__, #truth))
_Noreturn void fuzz_fail(const char *file, int line, const char *claim);

#endif
