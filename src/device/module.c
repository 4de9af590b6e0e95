/* module.c: finds the library that holds what is built for CUDA: beside the program, or where
 * MESHFOLD_CUDA_MODULE says; and asks it what it has. */
#include "device/ops.h"

#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LIBRARY "libmeshfold_cuda.so"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const mf_cuda_module *module;
static char reason[256];

/* The program's own folder, or the folder above it, where the tests' programs have theirs. */
static void *open_beside(const char *above) {
    char own[PATH_MAX], path[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", own, sizeof own - 1);
    if (n < 0) return NULL;
    own[n] = 0;
    snprintf(path, sizeof path, "%s/%s" LIBRARY, dirname(own), above);
    return access(path, R_OK) == 0 ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
}

static void load(void) {
    const char *named = getenv("MESHFOLD_CUDA_MODULE");
    dlerror();
    void *library = named ? dlopen(named, RTLD_NOW | RTLD_LOCAL) : open_beside("");
    if (!library && !named) library = open_beside("../");
    if (library) module = dlsym(library, "mf_cuda_module_table");
    if (module) return;
    const char *error = dlerror();
    snprintf(reason, sizeof reason, "%s", error ? error : "this build has none: there was no nvcc");
}

mf_status mf_cuda_module_load(const mf_cuda_module **out) {
    pthread_once(&once, load);
    *out = module;
    return module ? MF_OK : MF_FAIL(MF_EUNSUPPORTED, "no CUDA: %s", reason);
}

/* NULL where there is none; the thread's last error stays as it was. */
static const mf_cuda_module *loaded(void) {
    const mf_cuda_module *found = NULL;
    mf_error before = *mf_error_last();
    if (mf_cuda_module_load(&found)) mf_error_adopt(&before);
    return found;
}

int mf_cuda_count(void) {
    const mf_cuda_module *found = loaded();
    return found ? found->count() : 0;
}

int64_t mf_cuda_memory_bytes(int number) {
    const mf_cuda_module *found = loaded();
    return found && number < found->count() ? found->memory_bytes(number) : 0;
}

mf_status mf_cuda_look(void) {
    const mf_cuda_module *found = NULL;
    MF_TRY(mf_cuda_module_load(&found));
    return found->look();
}

const char *mf_cuda_description(void) {
    static _Thread_local char text[128];
    const mf_cuda_module *found = loaded();
    if (found) found->describe(text, sizeof text);
    return text;
}

mf_status mf_cuda_gpu_description(int number, char *out) {
    const mf_cuda_module *found = NULL;
    MF_TRY(mf_cuda_module_load(&found));
    return found->describe_gpu(number, out, MF_CUDA_WORDS);
}
