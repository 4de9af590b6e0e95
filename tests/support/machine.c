/* machine.c: see machine.h. */
#include "machine.h"

#include "device/ops.h"

#include <stdlib.h>
#include <string.h>

const char *machine_name(void) {
    const char *named = getenv("MESHFOLD_TEST_DEVICE");
    return named && *named ? named : "cpu";
}

/* NULL: the host's own memory does. */
static const mf_cuda_module *gpus(void) {
    const mf_cuda_module *module = NULL;
    if (strncmp(machine_name(), "cuda", 4) == 0 && mf_cuda_module_load(&module)) abort();
    return module;
}

void *machine_take(size_t bytes) {
    const mf_cuda_module *module = gpus();
    return module ? module->managed_take(bytes ? bytes : 1) : malloc(bytes ? bytes : 1);
}

void machine_give_back(void *data) {
    const mf_cuda_module *module = gpus();
    if (module)
        module->managed_give_back(data);
    else
        free(data);
}
