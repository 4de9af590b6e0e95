/* no_nccl.c: stands in for nccl.c where NCCL was not found: ranks learn it before the first transfer. */
#include "device/cuda/cuda.h"
#include "device/links.h"

static mf_status make_id(void *id) {
    (void)id;
    return MF_FAIL(MF_EUNSUPPORTED, "engine nccl: this build has no NCCL");
}

static mf_status place(mf_device *device, char *out) {
    (void)device;
    return make_id(out);
}

/* Nothing else is ever called. */
const mf_link_ops mf_cuda_links = {.make_id = make_id, .place = place};
