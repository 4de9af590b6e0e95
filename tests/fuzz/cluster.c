/* cluster.c: a cluster's description, with rates: what is let through can be saved, read again, and asked. */
#include "fuzz.h"

#include "meshfold/plan.h"

#include <math.h>

const fuzz_shape fuzz_input = FUZZ_JSON;

static const char name[] = "cluster.json", copy[] = "copy.json";

static void check(const mf_cluster *cluster, mf_cluster *again) {
    int ranks[] = {0, 1, 9};
    FUZZ_CLAIM(cluster->levels > 0 && cluster->levels <= MF_CLUSTER_LEVELS);
    FUZZ_CLAIM(mf_cluster_level(cluster, ranks, 3) < cluster->levels);
    FUZZ_CLAIM(mf_cluster_memory(cluster, 3) > 0 && isfinite(mf_cluster_memory(cluster, 3)));
    FUZZ_CLAIM(!mf_cluster_save(cluster, fuzz_path(copy)));
    FUZZ_CLAIM(!mf_cluster_load(fuzz_path(copy), again));
    FUZZ_CLAIM(again->levels == cluster->levels && again->measured == cluster->measured);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static mf_cluster cluster, again; /* too large for a stack */
    fuzz_put(name, data, bytes);
    mf_status status = mf_cluster_load(fuzz_path(name), &cluster);
    if (status)
        fuzz_check_refusal(status, name);
    else
        check(&cluster, &again);
    return 0;
}
