/* info.c: `meshfold info`: what this build has, what the machine offers, and whether a mesh fits on it. */
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/machine.h"

#include "meshfold/comm.h"
#include "meshfold/device.h"
#include "meshfold/mesh.h"

#include <hwloc.h>

/* The build passes these; a compilation by hand need not. */
#ifndef MESHFOLD_BUILD_TYPE
#define MESHFOLD_BUILD_TYPE "unnamed build type"
#endif
#ifdef MESHFOLD_NATIVE
enum { NATIVE = 1 };
#else
enum { NATIVE = 0 };
#endif
#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

enum { WARNINGS = 4, WARNING = 640, GPUS = 16 };

typedef struct settings {
    const char *mesh;
    int64_t threads; /* of each rank; 0: the cores shared out */
    bool json;
} settings;

typedef struct facts {
    mf_machine machine;
    char gpu[GPUS][MF_CUDA_WORDS], no_gpu[512]; /* why there is none; "" where there are some */
    int gpus;
    int64_t ranks, threads;
    char warnings[WARNINGS][WARNING];
    int warning_count;
} facts;

static char *next_warning(facts *f) { return f->warnings[f->warning_count++]; }

static void warn(facts *f) {
    const mf_machine *m = &f->machine;
    int workers = mf_machine_workers(m);
    if (f->ranks * f->threads > workers)
        snprintf(
            next_warning(f), WARNING,
            "%lld ranks x %lld threads on %d cores: they will take turns, so times say nothing about speed",
            (long long)f->ranks, (long long)f->threads, workers);
    if (m->cpu_limit > 0 && m->cpu_limit < m->usable_cores)
        snprintf(next_warning(f), WARNING,
                 "the control group grants %.3g cores' worth of time, less than the %d cores", m->cpu_limit,
                 m->usable_cores);
    if (m->nvidia_gpu && *f->no_gpu)
        snprintf(next_warning(f), WARNING, "an NVIDIA GPU is there, but can't be used: %s", f->no_gpu);
}

static mf_status look_at_gpus(facts *f) {
    if (mf_cuda_look()) snprintf(f->no_gpu, sizeof f->no_gpu, "%s", mf_error_last()->message);
    f->gpus = (int)mf_min(mf_cuda_count(), GPUS);
    for (int i = 0; i < f->gpus; i++) MF_TRY(mf_cuda_gpu_description(i, f->gpu[i]));
    return MF_OK;
}

static mf_status gather(const settings *s, facts *f) {
    f->ranks = mf_mpi_ranks();
    if (s->mesh) {
        mf_mesh_spec spec = {0};
        MF_TRY(mf_mesh_parse(s->mesh, &spec));
        f->ranks = mf_mesh_ranks(&spec);
    }
    MF_TRY(mf_machine_look(&f->machine));
    MF_TRY(look_at_gpus(f));
    f->threads = s->threads ? s->threads : mf_max(1, mf_machine_workers(&f->machine) / f->ranks);
    warn(f);
    return MF_OK;
}

static double gib(int64_t bytes) { return (double)bytes / (double)(1 << 30); }

static void print_build(void) {
    printf("meshfold %s\n", MESHFOLD_VERSION);
    printf("  build       %s, %s%s, OpenMP %d\n", COMPILER, MESHFOLD_BUILD_TYPE,
           NATIVE ? ", for this machine's own instructions" : "", _OPENMP);
    printf("  libraries   %s, jansson %s, hwloc %s\n", mf_cpu_description(), jansson_version_str(),
           HWLOC_VERSION);
    const char *mpi = mf_mpi_description();
    printf("  MPI         %s\n", *mpi ? mpi : "not built in");
    const char *cuda = mf_cuda_description();
    printf("  for GPUs    %s\n", *cuda ? cuda : "no CUDA");
}

static void print_machine(const mf_machine *m) {
    printf("  processor   %s\n", *m->processor ? m->processor : "unnamed");
    printf("  cores       %d in %d package%s, %d hardware threads; this process may use %d and %d", m->cores,
           m->packages, m->packages == 1 ? "" : "s", m->threads, m->usable_cores, m->usable_threads);
    if (m->cpu_limit > 0) printf(", for %.3g cores' worth of time", m->cpu_limit);
    printf("\n  vectors    ");
    bool any = false;
    for (int i = 0; i < MF_VECTOR_SETS; i++) {
        if (m->vectors[i]) printf(" %s", mf_vector_name(i));
        any = any || m->vectors[i];
    }
    printf("%s\n", any ? "" : " none that are known");
    printf("  memory      %.1f GiB, %.1f GiB available", gib(m->memory_bytes), gib(m->available_bytes));
    if (m->memory_limit_bytes) printf("; the control group may use %.1f GiB", gib(m->memory_limit_bytes));
    printf("\n");
}

static void print_gpus(const facts *f) {
    if (*f->no_gpu) printf("  GPUs        none: %s\n", f->no_gpu);
    for (int i = 0; i < f->gpus; i++) printf("  cuda:%-6d %s\n", i, f->gpu[i]);
}

static void print_text(const facts *f) {
    print_build();
    print_machine(&f->machine);
    print_gpus(f);
    printf("  ranks       %lld with %lld thread%s each\n", (long long)f->ranks, (long long)f->threads,
           f->threads == 1 ? "" : "s");
    for (int i = 0; i < f->warning_count; i++) printf("warning: %s\n", f->warnings[i]);
}

static json_t *build_json(void) {
    const char *mpi = mf_mpi_description(), *cuda = mf_cuda_description();
    return json_pack("{s:s, s:s, s:b, s:i, s:b, s:s, s:b, s:s, s:s, s:s, s:s}", "compiler", COMPILER, "type",
                     MESHFOLD_BUILD_TYPE, "native", NATIVE, "openmp", _OPENMP, "mpi", *mpi != '\0',
                     "mpi_description", mpi, "cuda", *cuda != '\0', "cuda_description", cuda, "cpu",
                     mf_cpu_description(), "jansson", jansson_version_str(), "hwloc", HWLOC_VERSION);
}

static json_t *machine_json(const facts *f) {
    const mf_machine *m = &f->machine;
    json_t *gpus = json_array();
    for (int i = 0; i < f->gpus; i++) json_array_append_new(gpus, json_string(f->gpu[i]));
    json_t *vectors = json_array();
    for (int i = 0; i < MF_VECTOR_SETS; i++)
        if (m->vectors[i]) json_array_append_new(vectors, json_string(mf_vector_name(i)));
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:f, s:I, s:I, s:I, s:b, s:o, s:s, s:o}", "processor",
                     m->processor, "packages", m->packages, "cores", m->cores, "threads", m->threads,
                     "usable_cores", m->usable_cores, "usable_threads", m->usable_threads, "cpu_limit",
                     m->cpu_limit, "memory_bytes", (json_int_t)m->memory_bytes, "available_bytes",
                     (json_int_t)m->available_bytes, "memory_limit_bytes", (json_int_t)m->memory_limit_bytes,
                     "nvidia_gpu", m->nvidia_gpu, "gpus", gpus, "no_gpu", f->no_gpu, "vectors", vectors);
}

static mf_status print_json(const facts *f) {
    json_t *warnings = json_array();
    for (int i = 0; i < f->warning_count; i++) json_array_append_new(warnings, json_string(f->warnings[i]));
    json_t *object = json_pack("{s:s, s:o, s:o, s:I, s:I, s:o}", "version", MESHFOLD_VERSION, "build",
                               build_json(), "machine", machine_json(f), "ranks", (json_int_t)f->ranks,
                               "threads", (json_int_t)f->threads, "warnings", warnings);
    if (!object) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(object, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(object);
    return MF_OK;
}

static mf_status run(mf_flags *flags, const settings *s, int argc, char **argv) {
    MF_TRY(mf_flags_parse(flags, argc, argv));
    if (flags->help) {
        mf_flags_help(flags, stdout);
        return MF_OK;
    }
    facts f = {0};
    MF_TRY(gather(s, &f));
    if (s->json) return print_json(&f);
    print_text(&f);
    return MF_OK;
}

int mf_command_info(int argc, char **argv) {
    settings s = {0};
    const mf_flag table[] = {
        {"mesh", MF_FLAG_TEXT, .target = &s.mesh, .value_name = "MESH",
         .about = "warn when these ranks need more cores than there are, e.g. tsp=4"},
        {"threads", MF_FLAG_INT, .target = &s.threads, .low = 1, .high = 4096,
         .about = "threads of each rank (default: the cores shared out)"},
        {"json", MF_FLAG_SWITCH, .target = &s.json, .about = "print one JSON object"},
    };
    const mf_flag_group group = {"What to report", table, sizeof table / sizeof table[0]};
    mf_flags flags = {.command = "meshfold info",
                      .about = "what this build has and what this machine offers",
                      .groups = &group,
                      .group_count = 1};
    mf_status status = run(&flags, &s, argc, argv);
    mf_flags_free(&flags);
    return status ? mf_report_error(status) : 0;
}
