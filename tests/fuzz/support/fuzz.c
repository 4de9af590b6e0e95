/* fuzz.c: see fuzz.h. */
#include "fuzz.h"

#include "io/bytes.h"

#include <ctype.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char folder[256];

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where) {
    (void)info, (void)kind, (void)where;
    return remove(path);
}

static void remove_folder(void) { nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS); }

static void make_folder(void) {
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.200s/" FUZZ_FOLDER "XXXXXX", parent ? parent : "/tmp");
    FUZZ_CLAIM(mkdtemp(folder));
    atexit(remove_folder);
}

const char *fuzz_path(const char *name) {
    static char path[4][512];
    static unsigned turn;
    if (!*folder) make_folder();
    char *out = path[turn++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

void fuzz_put(const char *name, const void *data, size_t bytes) {
    FILE *file = fopen(fuzz_path(name), "wb");
    FUZZ_CLAIM(file);
    FUZZ_CLAIM(fwrite(data, 1, bytes, file) == bytes);
    FUZZ_CLAIM(fclose(file) == 0);
}

size_t fuzz_json_end(const uint8_t *data, size_t bytes) {
    const uint8_t *zero = bytes ? memchr(data, 0, bytes) : NULL;
    return zero ? (size_t)(zero - data) : bytes;
}

void fuzz_check_refusal(mf_status status, const char *name) {
    const mf_error *error = mf_error_last();
    FUZZ_CLAIM(error->status == status);
    FUZZ_CLAIM(status != MF_ENOMEM);
    FUZZ_CLAIM(strstr(error->message, name));
    for (const char *c = error->message; *c; c++) FUZZ_CLAIM(!iscntrl((unsigned char)*c));
    FUZZ_CLAIM(mf_utf8_valid((const uint8_t *)error->message, strlen(error->message)) ==
               strlen(error->message));
}

_Noreturn void fuzz_fail(const char *file, int line, const char *claim) {
    fprintf(stderr, "%s:%d: does not hold: %s\nthe last error: %s\n", file, line, claim,
            mf_error_last()->message);
    abort();
}
