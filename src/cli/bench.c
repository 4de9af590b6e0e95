/* bench.c: `meshfold bench`: one model under many layouts, in one run. */
#include "cli/bench_plot.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/device_choice.h"
#include "cli/machine.h"
#include "cli/run_settings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

typedef struct settings {
    mf_run_settings run;
    const char *lengths, *frames, *json, *csv, *plot;
    mf_words mesh;
    int64_t batch, steps, rounds;
    bool forward;
} settings;

typedef struct command {
    settings s;
    mf_flag_table table;
    mf_flags flags;
    mf_model_options model;
    mf_bench bench;
    bool reports;             /* rank 0 is in this process */
    bool measured;            /* all inputs were good */
    mf_bench_case *at_work;   /* what all ranks measure now */
    mf_measure_result result; /* of it */
    mf_cluster *machine;      /* NULL: not calibrated */
} command;

static void add_inputs(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Model");
    mf_run_settings_add_model(&s->run, t, false);
    mf_flag lengths = MF_TEXT("seq", &s->lengths, "N,...", "tokens of a sequence, one or more lengths");
    lengths.fallback = "1024";
    mf_table_add(t, lengths);
    mf_table_add(
        t, MF_TEXT("frames", &s->frames, "N,...",
                   "frames of a clip, one or more lengths, of a model of videos (default: the model's)"));
    mf_run_settings_add_clip(&s->run, t, false);
    mf_table_add(t, MF_INT("batch", &s->batch, "1", 1, 1 << 20, "sequences of each dp replica"));
    mf_table_add(t, MF_INT("seed", &s->run.seed, "1", 0, 9007199254740992.0,
                           "decides the initial weights and the random tokens"));
    mf_table_group(t, "Numbers");
    mf_run_settings_add_numbers(&s->run, t);
}

static void add_layout(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Layouts");
    mf_run_settings_add_meshes(&s->run, t, &s->mesh,
                               "single, or axes and their ranks (tsp, tp, sp, dp), one mesh a word; the "
                               "flags below may stand in a mesh too, as in sp=4,stream=gather, and else "
                               "hold for every mesh that has a use for them");
    mf_table_group(t, "Engine");
    mf_run_settings_add_engine_or_one(&s->run, t);
}

static void add_measurement(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Measurement");
    mf_table_add(t, MF_INT("rounds", &s->rounds, "3", 1, MF_BENCH_ROUNDS,
                           "times that every mesh has its turn at every length"));
    mf_table_add(t, MF_INT("steps", &s->steps, "2", 1, MF_BENCH_STEPS,
                           "timed steps of a turn, after one that warms up"));
    mf_table_add(t, MF_SWITCH("forward", &s->forward,
                              "the forward pass and the loss alone, without gradients and optimizer"));
    mf_table_group(t, "Output");
    mf_table_add(
        t, MF_TEXT("json", &s->json, "FILE", "write all figures as JSON; - for stdout, without tables"));
    mf_table_add(t, MF_TEXT("csv", &s->csv, "FILE", "write a line a layout and length; - for stdout"));
    mf_table_add(
        t, MF_TEXT("plot", &s->plot, "DIR",
                   "draw memory.svg, time.svg and bytes.svg with gnuplot; their data and scripts are kept"));
}

static void describe(command *c) {
    add_inputs(&c->s, &c->table);
    add_layout(&c->s, &c->table);
    add_measurement(&c->s, &c->table);
    c->flags = (mf_flags){.command = "meshfold bench",
                          .usage = "--model PRESET|PATH --seq N,... --mesh MESH... [flags]",
                          .about = "measures memory, bytes moved and time of one model under many layouts",
                          .groups = c->table.group,
                          .group_count = c->table.groups};
    mf_run_settings_begin(&c->s.run);
}

static void help(command *c) {
    mf_flags_help(&c->flags, stdout);
    mf_print_presets();
    printf("\nA layout that does not fit is a row that says so; under mpiexec, where a rank's error is "
           "everyone's,\n"
           "it ends the run.\n"
           "\nExamples\n"
           "  meshfold bench --model demo --seq 512,2048 --mesh single tsp=4 tp=4 tp=2,sp=2\n"
           "  meshfold bench --model speed --seq 4096,16384 --mesh tsp=4 --mesh sp=4,stream=gather --plot "
           "figures\n"
           "  meshfold bench --model demo --mesh single tsp=2 --forward --json -\n"
           "  mpiexec -n 4 meshfold bench --model speed --seq 4096 --mesh tsp=4 tp=4 --csv bench.csv\n");
}

static mf_status read_length(const char *flag, const char *list, const char *at, int64_t *out) {
    char *end = NULL;
    errno = 0;
    long long value = *at >= '0' && *at <= '9' ? strtoll(at, &end, 10) : 0;
    bool ends = end && (*end == ',' || *end == '\0');
    if (!ends || errno || value < 1 || value > 1 << 28)
        return MF_FAIL(MF_EINVAL, "--%s %.100s: expected lengths from 1 to %d with commas, as in 4096,16384",
                       flag, list, 1 << 28);
    *out = value;
    return MF_OK;
}

static mf_status read_lengths(const char *flag, const char *list, int64_t lengths[MF_BENCH_LENGTHS],
                              int *count) {
    *count = 0;
    for (const char *at = list;; at++) {
        if (*count == MF_BENCH_LENGTHS)
            return MF_FAIL(MF_EINVAL, "--%s: more than %d lengths", flag, MF_BENCH_LENGTHS);
        MF_TRY(read_length(flag, list, at, &lengths[(*count)++]));
        at += strcspn(at, ",");
        if (!*at) return MF_OK;
    }
}

static mf_status read_mesh(const command *c, const char *text, mf_measure_options *out) {
    *out = (mf_measure_options){.model = c->model, .steps = c->s.steps, .device = c->s.run.device};
    MF_TRY(mf_run_settings_layout(&c->s.run, text, false, &out->mesh, &out->layout));
    MF_TRY(mf_run_settings_check_started(&c->s.run, text, mf_mesh_ranks(&out->mesh)));
    return mf_run_settings_threads(&c->s.run, mf_mesh_ranks(&out->mesh), &out->threads);
}

/* What can't be at this length is known before anything starts. */
static void look_ahead(mf_bench_case *c) {
    const mf_measure_options *o = &c->options;
    if (mf_model_check(&o->model, &o->layout, &o->mesh))
        mf_bench_refuse(c);
    else
        mf_volume_predict(&o->model, &o->layout, &o->mesh, &c->predicted);
}

/* Frames of clips, where the model or the flag says so. */
static mf_status read_all_lengths(const command *c, int64_t lengths[MF_BENCH_LENGTHS], int *count) {
    if (c->s.frames) return read_lengths("frames", c->s.frames, lengths, count);
    return read_lengths("seq", c->s.lengths, lengths, count);
}

static mf_status make_cases(command *c) {
    mf_bench *b = &c->bench;
    int64_t lengths[MF_BENCH_LENGTHS];
    MF_TRY(read_all_lengths(c, lengths, &b->lengths));
    b->meshes = c->s.mesh.count;
    MF_TRY(mf_host_alloc((size_t)b->lengths * (size_t)b->meshes, sizeof *b->cases, &b->cases));
    for (int m = 0; m < b->meshes; m++) {
        mf_measure_options options;
        MF_TRY(read_mesh(c, c->s.mesh.items[m], &options));
        for (int i = 0; i < b->lengths; i++) {
            MF_TRY(mf_run_settings_shape(&c->s.run, mf_flags_given(&c->flags, "seq"), lengths[i],
                                         c->s.frames ? lengths[i] : -1, &options.model));
            *mf_bench_at(b, i, m) = (mf_bench_case){.mesh = c->s.mesh.items[m], .options = options};
            look_ahead(mf_bench_at(b, i, m));
        }
    }
    return MF_OK;
}

static bool to_stdout(const char *path) { return path && strcmp(path, "-") == 0; }

static mf_status check_outputs(const settings *s) {
    if (to_stdout(s->json) && to_stdout(s->csv))
        return MF_FAIL(MF_EINVAL, "--json - and --csv - both want stdout: name a file for one of them");
    MF_TRY(mf_check_output("json", s->json));
    MF_TRY(mf_check_output("csv", s->csv));
    return s->plot ? mf_bench_plot_check(s->plot) : MF_OK;
}

/* What this process has now: a sanitizer's own map, for one, is not the layouts' to pay for. */
static int64_t mapped_bytes(void) {
    long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%*d %*d %*d %*d %*d %lld", &pages) != 1) pages = 0;
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

/* Without a limit the system grants more than there is, and kills the program when that is used. */
static mf_status limit_memory(void) {
    mf_machine machine;
    struct rlimit limit;
    MF_TRY(mf_machine_look(&machine));
    int64_t bytes = machine.available_bytes;
    if (machine.memory_limit_bytes) bytes = mf_min(bytes, machine.memory_limit_bytes);
    if (getrlimit(RLIMIT_DATA, &limit)) return MF_OK;
    rlim_t wanted = (rlim_t)(bytes + mapped_bytes());
    if (wanted >= limit.rlim_cur) return MF_OK;
    limit.rlim_cur = wanted;
    if (setrlimit(RLIMIT_DATA, &limit) == 0) return MF_OK;
    return MF_FAIL(MF_ELIBRARY, "memory cannot be limited: %s", strerror(errno));
}

static mf_status prepare(command *c) {
    const settings *s = &c->s;
    MF_TRY(mf_device_choose("device", &c->s.run.device));
    MF_TRY(mf_run_settings_model(&s->run, "meshfold bench", &c->model));
    c->model.batch = s->batch;
    c->model.forward_only = s->forward;
    c->bench = (mf_bench){.model = s->run.model,
                          .engine = mf_run_settings_engine(&s->run),
                          .device = s->run.device,
                          .recompute = s->run.recompute,
                          .forward = s->forward,
                          .rounds = (int)s->rounds,
                          .steps = (int)s->steps};
    MF_TRY(make_cases(c));
    MF_TRY(check_outputs(s));
    MF_TRY(mf_machine_load(s->run.device, &c->machine));
    /* a GPU refuses what it has not, and its driver reserves more of the host's addresses than there is
     * memory */
    return mf_run_settings_mpi(&s->run) || mf_device_is_gpu(s->run.device) ? MF_OK : limit_memory();
}

/* The process's peak resident size, which reports have beside what is accounted, starts anew. Where the
 * system can't do that it stays the largest so far. */
static void restart_resident_peak(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file) return;
    fputs("5", file);
    fclose(file);
}

static mf_status one_case(mf_world *world, void *argument) {
    command *c = argument;
    return mf_measure(world, &c->at_work->options, &c->result);
}

/* world: of the ranks that run already; NULL: they are started for this one. */
static mf_status measure(command *c, mf_world *world, mf_bench_case *at) {
    c->at_work = at;
    restart_resident_peak();
    if (world) return one_case(world, c);
    return mf_run_settings_launch(&c->s.run, mf_mesh_ranks(&at->options.mesh), one_case, c);
}

/* Puts the case before this thread's last error. */
static mf_status name_case(const mf_bench_case *at, mf_status status) {
    mf_error error = *mf_error_last();
    snprintf(error.message, sizeof error.message, "--mesh %.100s, %lld tokens: %.350s", at->mesh,
             (long long)at->options.model.tokens, mf_error_last()->message);
    mf_error_adopt(&error);
    return status;
}

static mf_status take(command *c, mf_world *world, mf_bench_case *at, mf_status status) {
    if (status == MF_ENOMEM && !world) {
        mf_bench_refuse(at);
        mf_measure_free(&c->result);
        return MF_OK;
    }
    if (!status && c->reports) status = mf_bench_add(&c->bench, at, &c->result);
    return status ? name_case(at, status) : MF_OK;
}

/* A line a turn, for whoever watches. */
static void say_begin(const command *c, int round, const mf_bench_case *at) {
    if (!c->reports || !isatty(STDERR_FILENO)) return;
    fprintf(stderr, "round %d/%d, %lld tokens, %s: ", round + 1, c->bench.rounds,
            (long long)at->options.model.tokens, at->mesh);
    fflush(stderr);
}

static void say_end(const command *c, const mf_bench_case *at, double began_s) {
    if (!c->reports || !isatty(STDERR_FILENO)) return;
    fprintf(stderr, "%.1f s%s\n", mf_now_s() - began_s, at->refused ? ", does not fit" : "");
}

static mf_status one_turn(command *c, mf_world *world, int round, mf_bench_case *at) {
    double began_s = mf_now_s();
    say_begin(c, round, at);
    MF_TRY(take(c, world, at, measure(c, world, at)));
    say_end(c, at, began_s);
    return MF_OK;
}

/* Every layout has its turn before any has its second: what disturbs the machine for a while disturbs all. */
static mf_status all_rounds(command *c, mf_world *world) {
    mf_bench *b = &c->bench;
    for (int round = 0; round < b->rounds; round++)
        for (int i = 0; i < b->lengths * b->meshes; i++)
            if (!b->cases[i].refused) MF_TRY(one_turn(c, world, round, &b->cases[i]));
    return MF_OK;
}

static mf_status all_in_one_launch(mf_world *world, void *argument) {
    command *c = argument;
    c->reports = mf_world_rank(world) == 0;
    return all_rounds(c, world);
}

/* MPI starts once in a process, so there all layouts share its ranks. */
static mf_status run(command *c) {
    int ranks = mf_mesh_ranks(&c->bench.cases->options.mesh);
    c->reports = true;
    if (mf_run_settings_mpi(&c->s.run)) return mf_run_settings_launch(&c->s.run, ranks, all_in_one_launch, c);
    return all_rounds(c, NULL);
}

static mf_status report(command *c) {
    const settings *s = &c->s;
    if (!c->reports) return MF_OK;
    MF_TRY(mf_bench_predict(&c->bench, c->machine, !s->run.no_borrow));
    if (!to_stdout(s->json) && !to_stdout(s->csv)) mf_bench_print(&c->bench);
    if (s->json) MF_TRY(mf_bench_write_json(&c->bench, s->json));
    if (s->csv) MF_TRY(mf_bench_write_csv(&c->bench, s->csv));
    return s->plot ? mf_bench_plot(&c->bench, s->plot) : MF_OK;
}

static mf_status measure_and_report(command *c) {
    MF_TRY(prepare(c));
    MF_TRY(run(c));
    c->measured = true;
    return report(c);
}

int mf_command_bench(int argc, char **argv) {
    command c = {0};
    describe(&c);
    mf_status status = mf_flags_parse(&c.flags, argc, argv);
    if (!status && c.flags.help)
        help(&c);
    else if (!status)
        status = measure_and_report(&c);
    int code = status ? mf_report_error(status) : 0;
    if (status && c.measured) code = 1; /* what failed was an output */
    if (c.s.run.launched && status) mf_abort_peers(code);
    mf_host_free(c.machine);
    mf_measure_free(&c.result);
    mf_bench_free(&c.bench);
    mf_flags_free(&c.flags);
    return code;
}
