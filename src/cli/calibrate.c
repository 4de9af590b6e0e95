/* calibrate.c: `meshfold calibrate`: measures the machine at hand and writes its description for `plan`. */
#include "cli/commands.h"
#include "cli/device_choice.h"
#include "cli/flag_table.h"
#include "cli/machine.h"
#include "cli/predict.h"
#include "cli/text.h"
#include "meshfold/io.h"
#include "meshfold/plan.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct command {
    const char *out, *device;
    char file[4096];
    int64_t passes;
    bool quick;
    mf_flag_table table;
    mf_flags flags;
    mf_machine machine;
    int cores;   /* or GPUs */
    int at_work; /* ranks that measure now */
    mf_cluster cluster;
} command;

static void describe(command *c) {
    mf_flag_table *t = &c->table;
    mf_table_group(t, "Measurement");
    mf_device_flag_add(&c->device, t, "device",
                       "what is measured: cpu or cuda; auto: cuda where there is a GPU");
    mf_table_add(t, MF_INT("passes", &c->passes, "5", 1, MF_CALIBRATE_PASSES,
                           "times that everything is measured; the median is kept"));
    mf_table_add(t,
                 MF_SWITCH("quick", &c->quick, "small sizes alone: seconds instead of minutes, and rough"));
    mf_table_group(t, "Output");
    mf_table_add(t, MF_TEXT("out", &c->out, "FILE",
                            "the description, as those in clusters/ (default: where plan, train and bench "
                            "look for the machine at hand: MESHFOLD_MACHINE, or meshfold/machine.json, of "
                            "cuda machine-cuda.json, in XDG_CONFIG_HOME or ~/.config)"));
    c->flags =
        (mf_flags){.command = "meshfold calibrate",
                   .usage = "[--device NAME] [--out FILE] [--passes N] [--quick]",
                   .about = "measures the machine at hand and writes its description for meshfold plan",
                   .groups = t->group,
                   .group_count = t->groups};
}

static void help(const command *c) {
    mf_flags_help(&c->flags, stdout);
    printf(
        "\nMeasured are matrix products over their shapes, attention over lengths and head sizes, every "
        "other\n"
        "operation and every collective over bytes; first by one rank that has all cores, then by as many "
        "ranks\n"
        "as there are cores. It takes a few minutes, in which the machine should have nothing else to do.\n"
        "\nExamples\n"
        "  meshfold calibrate --out here.json\n"
        "  meshfold plan --model demo --cluster here.json --mesh single tsp=2\n");
}

static void progress(void *context, int done, int all) {
    const command *c = context;
    if (!isatty(STDERR_FILENO)) return;
    fprintf(stderr, "\r%d rank%s at work: %3d%%", c->at_work, mf_plural(c->at_work), 100 * done / all);
}

static mf_status body(mf_world *world, void *argument) {
    command *c = argument;
    mf_calibrate_options options = {.device = c->device,
                                    .threads = c->cores / c->at_work,
                                    .passes = (int)c->passes,
                                    .quick = c->quick,
                                    .context = c,
                                    .progress = progress};
    mf_rates own;
    MF_TRY(mf_calibrate(world, &options, &own));
    if (mf_world_rank(world) == 0) c->cluster.rates[c->cluster.measured] = own;
    return MF_OK;
}

/* One rank with all cores, and as many ranks as cores; between them, where there is room, powers of two. */
static mf_status measure(command *c) {
    MF_TRY(mf_machine_look(&c->machine));
    bool gpus = mf_device_is_gpu(c->device);
    c->cores = (int)mf_min(gpus ? mf_cuda_count() : mf_machine_workers(&c->machine), MF_CALIBRATE_RANKS);
    for (int ranks = 1; ranks <= c->cores; c->cluster.measured++) {
        c->at_work = ranks;
        MF_TRY(mf_launch(&(mf_launch_options){.engine = "local", .ranks = ranks}, body, c));
        if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%*s\r", 40, "");
        bool last_but_one = c->cluster.measured + 2 == MF_CLUSTER_RATES;
        ranks = ranks == c->cores ? ranks + 1 : last_but_one ? c->cores : (int)mf_min(2 * ranks, c->cores);
    }
    return MF_OK;
}

/* The best rate of a grid. */
static double best(const mf_rates *r, const mf_grid *grid) {
    double most = 0;
    int values = grid->axes > 0;
    for (int i = 0; i < grid->axes; i++) values *= grid->axis[i].points;
    for (int i = 0; i < values; i++) most = fmax(most, r->value[grid->first + i]);
    return most;
}

/* Of the smallest size: on a GPU an operation takes no less, whatever it does. */
static double least_s(const mf_rates *r, const mf_grid *grid) {
    return grid->axes ? grid->axis[0].at[0] / r->value[grid->first] : 1e-6;
}

static void describe_device(command *c) {
    mf_cluster *out = &c->cluster;
    bool gpu = mf_device_is_gpu(c->device);
    char words[MF_DEVICE_WORDS];
    mf_device_words(c->device, words);
    snprintf(out->device, sizeof out->device, "%.90s", strcmp(words, "cpu") ? words : "a processor");
    snprintf(out->computes, sizeof out->computes, gpu ? "cuda" : "cpu");
    out->memory_bytes = (double)(gpu ? mf_cuda_memory_bytes(0) : c->machine.available_bytes);
    out->shared = !gpu;
    out->overlaps = gpu;
    snprintf(out->level[0].name, sizeof out->level[0].name, "%s",
             gpu ? "GPUs of one machine" : "threads of one process");
}

/* Peaks are the best that was measured; what was measured goes before them wherever it was. */
static void describe_machine(command *c) {
    mf_cluster *out = &c->cluster;
    const mf_rates *one = &out->rates[0], *all = &out->rates[out->measured - 1];
    double link = best(all, &all->transfer[MF_OP_SHIFT]);
    double copies = best(one, &one->touch[MF_DO_COPY_ROWS][MF_F32]);
    snprintf(out->name, sizeof out->name, "the machine at hand");
    describe_device(c);
    out->memory_bytes_per_s = copies;
    out->flops[MF_F32] = best(one, &one->gemm[MF_F32][MF_FORM_NN]);
    out->flops[MF_BF16] = best(one, &one->gemm[MF_BF16][MF_FORM_NN]);
    out->gemm = out->attention = (mf_efficiency){.share = 1};
    out->launch_s = mf_device_is_gpu(c->device) ? least_s(one, &one->touch[MF_DO_ADD][MF_F32]) : 1e-6;
    out->levels = 1;
    out->level[0].latency_s = 1e-6;
    out->level[0].bytes_per_s = link > 0 ? link : copies;
}

static mf_status check_writable(const char *file, const char *folder) {
    struct stat info;
    if (stat(file, &info) == 0 && !S_ISREG(info.st_mode))
        return MF_FAIL(MF_EIO, "%s: cannot be written: it exists and is not a regular file", file);
    if (access(folder, W_OK) == 0) return MF_OK;
    return MF_FAIL(MF_EIO, "%s: cannot be created: %s", file, strerror(errno));
}

/* Found out before the minutes that measuring takes. */
static mf_status prepare(command *c) {
    char folder[sizeof c->file];
    if (c->out)
        snprintf(c->file, sizeof c->file, "%s", c->out);
    else
        MF_TRY(mf_machine_file(c->device, c->file));
    snprintf(folder, sizeof folder, "%s", c->file);
    char *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    if (!c->out && slash) MF_TRY(mf_folder_make(folder));
    return check_writable(c->file, slash ? folder : ".");
}

static mf_status run(command *c) {
    MF_TRY(mf_device_choose("device", &c->device));
    MF_TRY(prepare(c));
    MF_TRY(measure(c));
    describe_machine(c);
    MF_TRY(mf_cluster_save(&c->cluster, c->file));
    printf("wrote %s\n", c->file);
    return MF_OK;
}

int mf_command_calibrate(int argc, char **argv) {
    command *c = NULL;
    mf_status status = mf_host_alloc(1, sizeof *c, &c);
    if (status) return mf_report_error(status);
    describe(c);
    status = mf_flags_parse(&c->flags, argc, argv);
    if (!status && c->flags.help)
        help(c);
    else if (!status)
        status = run(c);
    int code = status ? mf_report_error(status) : 0;
    mf_flags_free(&c->flags);
    mf_host_free(c);
    return code;
}
