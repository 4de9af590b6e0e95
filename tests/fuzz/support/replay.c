/* replay.c FOLDER: gives each file of a folder to the fuzz target that this is linked with. */
#include "fuzz.h"
#include "meshfold/io.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int is_visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static void replay(const char *folder, const char *name) {
    char *path = NULL, *content = NULL;
    uint8_t *exact = NULL;
    size_t bytes = 0;
    FUZZ_CLAIM(!mf_format(&path, "%s/%s", folder, name));
    FUZZ_CLAIM(!mf_file_read(path, &content, &bytes));
    FUZZ_CLAIM(!mf_host_alloc(bytes, 1, &exact)); /* nothing behind it that may be read */
    memcpy(exact, content, bytes);
    mf_host_free(content);
    printf("%s\n", name);
    fflush(stdout); /* the last one named is the one that crashed */
    LLVMFuzzerTestOneInput(exact, bytes);
    mf_host_free(exact);
    mf_host_free(path);
}

int main(int argc, char **argv) {
    struct dirent **entry = NULL;
    int count = argc == 2 ? scandir(argv[1], &entry, is_visible, alphasort) : -1;
    if (count <= 0) {
        fprintf(stderr, "usage: %s FOLDER, with at least one file in it\n", argv[0]);
        return 2;
    }
    for (int i = 0; i < count; i++) {
        replay(argv[1], entry[i]->d_name);
        free(entry[i]);
    }
    free(entry);
    return 0;
}
