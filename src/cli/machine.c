/* machine.c: topology from hwloc; memory, limits and instructions from /proc and the control groups. */
#include "cli/machine.h"

#include <hwloc.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const vector_names[MF_VECTOR_SETS] = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"};

const char *mf_vector_name(int index) { return vector_names[index]; }

static int count_inside(hwloc_topology_t topology, hwloc_const_cpuset_t set, hwloc_obj_type_t type) {
    int count = 0;
    for (hwloc_obj_t o = NULL; (o = hwloc_get_next_obj_by_type(topology, type, o));)
        count += hwloc_bitmap_intersects(o->cpuset, set) != 0;
    return count;
}

static void read_topology(hwloc_topology_t topology, hwloc_cpuset_t bound, mf_machine *out) {
    /* where binding can't be asked for, all that is there is taken as usable */
    if (hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_PROCESS))
        hwloc_bitmap_copy(bound, hwloc_topology_get_allowed_cpuset(topology));
    out->packages = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PACKAGE);
    out->cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE);
    out->threads = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU);
    out->usable_cores = count_inside(topology, bound, HWLOC_OBJ_CORE);
    out->usable_threads = count_inside(topology, bound, HWLOC_OBJ_PU);
}

static mf_status look_at_cores(mf_machine *out) {
    hwloc_topology_t topology = NULL;
    if (hwloc_topology_init(&topology)) return MF_FAIL(MF_ELIBRARY, "hwloc can't start");
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    hwloc_topology_set_flags(topology, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
    bool loaded = bound && hwloc_topology_load(topology) == 0;
    if (loaded) read_topology(topology, bound, out);
    hwloc_bitmap_free(bound);
    hwloc_topology_destroy(topology);
    return loaded ? MF_OK : MF_FAIL(MF_ELIBRARY, "hwloc can't read this machine's topology");
}

/* The first line of a file, without its end; false when there is none. */
static bool first_line(const char *path, char *line, int size) {
    FILE *file = fopen(path, "r");
    if (!file) return false;
    bool read = fgets(line, size, file) != NULL;
    fclose(file);
    line[read ? strcspn(line, "\n") : 0] = '\0';
    return read;
}

static double group_cpu_limit(const char *folder) {
    char path[700], line[64];
    double quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (first_line(path, line, sizeof line) && sscanf(line, "%lf %lf", &quota, &period) == 2)
        return quota / period;
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!first_line(path, line, sizeof line) || (quota = strtod(line, NULL)) <= 0) return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!first_line(path, line, sizeof line) || (period = strtod(line, NULL)) <= 0) return 0;
    return quota / period;
}

static double group_memory_limit(const char *folder) {
    static const char *const files[] = {"memory.max", "memory.limit_in_bytes"};
    for (int i = 0; i < 2; i++) {
        char path[700], line[64];
        snprintf(path, sizeof path, "%s/%s", folder, files[i]);
        if (first_line(path, line, sizeof line)) return strtod(line, NULL);
    }
    return 0;
}

static double smaller_limit(double a, double b) { return a > 0 && (b <= 0 || a < b) ? a : b; }

/* One control group and all that hold it: any of them may set the limit. */
static void climb(const char *mount, char *group, mf_machine *out) {
    char folder[640];
    for (;;) {
        snprintf(folder, sizeof folder, "%s%s", mount, group);
        out->cpu_limit = smaller_limit(group_cpu_limit(folder), out->cpu_limit);
        double bytes = group_memory_limit(folder);
        /* a group without a limit says a number near 2^63 */
        if (bytes > 0 && bytes < (double)out->memory_bytes)
            out->memory_limit_bytes = (int64_t)smaller_limit(bytes, (double)out->memory_limit_bytes);
        char *slash = strrchr(group, '/');
        if (!slash) return;
        *slash = '\0';
    }
}

/* Lines are "0::/group" (version 2) and "4:memory:/group" (version 1). Inside a container the group may be
 * named as the host sees it: climbing ends at the mount's root, which is then the container's own. */
static void look_at_limits(mf_machine *out) {
    FILE *file = fopen("/proc/self/cgroup", "r");
    char line[512];
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *group++ = '\0';
        char mount[640];
        snprintf(mount, sizeof mount, "/sys/fs/cgroup%s%s", names[1] ? "/" : "", names + 1);
        climb(mount, group, out);
    }
    if (file) fclose(file);
}

static void look_at_memory(mf_machine *out) {
    FILE *file = fopen("/proc/meminfo", "r");
    char line[256];
    long long kib = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "MemTotal: %lld", &kib) == 1) out->memory_bytes = kib * 1024;
        if (sscanf(line, "MemAvailable: %lld", &kib) == 1) out->available_bytes = kib * 1024;
    }
    if (file) fclose(file);
}

static bool has_word(const char *text, const char *word) {
    size_t length = strlen(word);
    for (const char *at = text; (at = strstr(at, word)); at += length)
        if (at > text && at[-1] == ' ' && strchr(" \n", at[length])) return true;
    return false;
}

static void look_at_processor(mf_machine *out) {
    FILE *file = fopen("/proc/cpuinfo", "r");
    char *line = NULL;
    size_t size = 0;
    bool flags = false;
    while (file && !flags && getline(&line, &size, file) > 0) {
        if (sscanf(line, "model name : %127[^\n]", out->processor) == 1) continue;
        flags = strncmp(line, "flags", 5) == 0;
        for (int i = 0; flags && i < MF_VECTOR_SETS; i++) out->vectors[i] = has_word(line, vector_names[i]);
    }
    free(line);
    if (file) fclose(file);
}

mf_status mf_machine_look(mf_machine *out) {
    *out = (mf_machine){0};
    MF_TRY(look_at_cores(out));
    look_at_memory(out);
    look_at_limits(out);
    look_at_processor(out);
    out->nvidia_gpu = access("/dev/nvidia0", F_OK) == 0;
    return MF_OK;
}

int mf_machine_workers(const mf_machine *machine) {
    double workers = machine->usable_cores;
    if (machine->cpu_limit > 0) workers = fmin(workers, ceil(machine->cpu_limit));
    return workers < 1 ? 1 : (int)workers;
}
