/* module.c: finds the library that holds what is built for CUDA: beside the program, or where
 * MESHFOLD_CUDA_MODULE says; and asks it what it has. */
#include "device/ops.h"

#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIBRARY "libmeshfold_cuda.so"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const mf_cuda_module *module;
static char reason[256], found_at[PATH_MAX + 64];

/* The program's own folder, or the folder above it, where the tests' programs have theirs. */
static void *open_beside(const char *above) {
    char own[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", own, sizeof own - 1);
    if (n < 0) return NULL;
    own[n] = 0;
    snprintf(found_at, sizeof found_at, "%s/%s" LIBRARY, dirname(own), above);
    return access(found_at, R_OK) == 0 ? dlopen(found_at, RTLD_NOW | RTLD_LOCAL) : NULL;
}

static void *open_library(void) {
    const char *named = getenv("MESHFOLD_CUDA_MODULE");
    if (!named || !*named) {
        void *library = open_beside("");
        return library ? library : open_beside("../");
    }
    snprintf(found_at, sizeof found_at, "%s", named);
    return dlopen(named, RTLD_NOW | RTLD_LOCAL);
}

/* Says so where the library was not built together with this program. */
static bool is_of_this_build(void *library) {
    const mf_cuda_build own = MF_CUDA_BUILD, *its = dlsym(library, "mf_cuda_module_build");
    if (its && memcmp(its, &own, sizeof own) == 0) return true;
    const char *version = its ? its->version : "another version";
    bool same = its && strcmp(version, own.version) == 0;
    snprintf(reason, sizeof reason, "%.150s is of %s%.31s, not of this program's %s: build them together",
             found_at, same ? "other sources of " : "", version, own.version);
    return false;
}

static void load(void) {
    dlerror();
    void *library = open_library();
    if (library && !is_of_this_build(library)) return;
    if (library) module = dlsym(library, "mf_cuda_module_table");
    if (module) return;
    const char *error = dlerror();
    snprintf(reason, sizeof reason, "%s",
             error ? error : LIBRARY " does not lie beside the program; a build with nvcc makes it");
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
