/* predict.c: see predict.h. */
#include "cli/predict.h"

#include "cli/rank_json.h"
#include "cli/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

mf_status mf_machine_file(const char *device, char out[4096]) {
    const char *name = mf_device_is_gpu(device) ? "machine-cuda" : "machine";
    const char *file = getenv("MESHFOLD_MACHINE"), *folder = getenv("XDG_CONFIG_HOME"),
               *home = getenv("HOME");
    int length = 0;
    if (file && *file)
        length = snprintf(out, 4096, "%s", file);
    else if (folder && *folder)
        length = snprintf(out, 4096, "%s/meshfold/%s.json", folder, name);
    else if (home && *home)
        length = snprintf(out, 4096, "%s/.config/meshfold/%s.json", home, name);
    if (length > 0 && length < 4096) return MF_OK;
    return MF_FAIL(MF_EINVAL, "none of MESHFOLD_MACHINE, XDG_CONFIG_HOME and HOME says where the machine's "
                              "description is");
}

/* Before there were GPUs, files did not say it. */
static bool is_of(const mf_cluster *machine, const char *device) {
    const char *kind = mf_device_is_gpu(device) ? "cuda" : "cpu";
    return strcmp(*machine->computes ? machine->computes : "cpu", kind) == 0;
}

mf_status mf_machine_load(const char *device, mf_cluster **out) {
    char path[4096];
    *out = NULL;
    MF_TRY(mf_machine_file(device, path));
    if (access(path, F_OK) != 0) return MF_OK;
    MF_TRY(mf_host_alloc(1, sizeof **out, out));
    mf_status status = mf_cluster_load(path, *out);
    if (!status && is_of(*out, device)) return MF_OK;
    mf_host_free(*out);
    *out = NULL;
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

/* More ranks than were measured share the cores, each with as many threads. A GPU's rates don't depend on
 * threads. */
static bool times_known(const mf_cluster *machine, const mf_measure_options *options) {
    int ranks = mf_mesh_ranks(&options->mesh);
    bool gpu = mf_device_is_gpu(options->device);
    for (int i = 0; machine && i < machine->measured; i++) {
        const mf_rates *r = &machine->rates[i];
        bool most = !gpu && i + 1 == machine->measured && ranks > r->ranks;
        if ((r->ranks == ranks || most) && (gpu || r->threads == options->threads)) return true;
    }
    return false;
}

mf_status mf_predict(const mf_cluster *machine, const mf_measure_options *options, bool borrows, int rank,
                     mf_prediction *out) {
    mf_plan_result plan;
    bool timed = times_known(machine, options);
    const mf_cluster *cluster = timed ? machine : NULL;
    MF_TRY(mf_plan_after(cluster, options, rank, borrows, options->steps > 0, &plan));
    *out = (mf_prediction){.rank = plan.rank, .step_s = plan.step_s, .packed = options->model.packed};
    return MF_OK;
}

json_t *mf_prediction_json(const mf_mesh_spec *mesh, const mf_prediction *p) {
    json_t *out = mf_rank_json(mesh, &p->rank);
    json_object_set_new(out, "step_s", p->step_s > 0 ? json_real(p->step_s) : json_null());
    return out;
}

double mf_moved(const mf_rank_report *r) {
    double bytes = 0;
    for (int g = 0; g < r->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++)
            bytes += (double)(r->group[g].stat[op].bytes + r->group[g].stat[op].borrowed_bytes);
    return bytes;
}

static void print_line(const char *name, const mf_rank_report *r, double step_s) {
    char text[32];
    printf("  %-10s %12s", name, mf_bytes_text((double)r->memory.peak_total, text));
    for (int i = 0; i < MF_CATEGORIES; i++) printf(" %12s", mf_bytes_text((double)r->memory.peak[i], text));
    printf(" %12s", mf_bytes_text(mf_moved(r), text));
    if (step_s > 0)
        printf(" %8.4f s\n", step_s);
    else
        printf("  unknown\n");
}

void mf_prediction_print(const mf_prediction *p, const mf_rank_report *measured, double measured_s) {
    bool same = memcmp(&p->rank.memory, &measured->memory, sizeof p->rank.memory) == 0 &&
                mf_moved(&p->rank) == mf_moved(measured);
    printf("\nrank %d beside a dry run of it: memory and bytes %s\n  %-10s %12s", p->rank.rank,
           same ? "equal" : "DIFFER", "", "total");
    for (int i = 0; i < MF_CATEGORIES; i++) printf(" %12s", mf_category_name((mf_category)i));
    printf(" %12s %10s\n", "moved", "step");
    print_line("measured", measured, measured_s);
    print_line("predicted", &p->rank, p->step_s);
    if (p->step_s > 0)
        printf("  predicted step: %+.1f%%%s\n", 100 * (p->step_s / measured_s - 1),
               p->packed ? ", as if sequences were one document each" : "");
    else
        printf("  step times are predicted once meshfold calibrate has measured this machine\n");
}
