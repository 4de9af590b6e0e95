/* bench_plot.c: data and a script for each figure, and gnuplot, which draws it. */
#include "cli/bench_plot.h"

#include "cli/bench_report.h"
#include "cli/colours.h"
#include "meshfold/io.h"

#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

typedef double figure(const mf_bench_figures *figures);

typedef struct plot {
    const char *name, *title;
    bool seconds;         /* else bytes */
    figure *value, *part; /* part: of the value, drawn dashed; NULL: none */
    const char *part_name;
} plot;

static double peak(const mf_bench_figures *f) { return (double)f->rank->memory.peak_total; }
static double in_flight(const mf_bench_figures *f) {
    return (double)(f->rank->memory.peak[MF_STREAM] + f->rank->memory.peak[MF_EXCHANGE]);
}
static double step_time(const mf_bench_figures *f) { return f->step_s; }
static double moved(const mf_bench_figures *f) { return f->moved_most; }

static const plot plots[] = {
    {"memory", "Peak memory of the rank that needs most", false, peak, in_flight,
     "in flight (stream, exchange)"},
    {"time", "Time of a step, median", true, step_time, NULL, NULL},
    {"bytes", "Bytes that a rank sends or reads in place in a step", false, moved, NULL, NULL}};
enum { PLOTS = sizeof plots / sizeof *plots };

/* NAN where nothing was measured. */
static double value_at(const mf_bench *b, int length, int mesh, figure *value) {
    const mf_bench_case *c = mf_bench_at(b, length, mesh);
    if (c->refused) return NAN;
    mf_bench_figures f = mf_bench_figures_of(b, c);
    return value(&f);
}

static int64_t length_at(const mf_bench *b, int length) {
    return mf_bench_at(b, length, 0)->options.model.tokens;
}

static void put_value(FILE *out, double value) {
    if (isnan(value))
        fprintf(out, " NaN");
    else
        fprintf(out, " %.9g", value);
}

static void write_data(const mf_bench *b, const plot *p, FILE *out) {
    fprintf(out, "# tokens");
    for (int i = 0; i < b->meshes; i++) fprintf(out, " \"%s\"", b->cases[i].mesh);
    for (int i = 0; p->part && i < b->meshes; i++)
        fprintf(out, " \"%s, %s\"", b->cases[i].mesh, p->part_name);
    fprintf(out, "\n");
    for (int i = 0; i < b->lengths; i++) {
        fprintf(out, "%lld", (long long)length_at(b, i));
        for (int k = 0; k < b->meshes; k++) put_value(out, value_at(b, i, k, p->value));
        for (int k = 0; p->part && k < b->meshes; k++) put_value(out, value_at(b, i, k, p->part));
        fprintf(out, "\n");
    }
}

static bool any_positive(const mf_bench *b, int mesh, figure *value) {
    for (int i = 0; i < b->lengths; i++)
        if (value_at(b, i, mesh, value) > 0) return true;
    return false;
}

/* Over all that is drawn; low is INFINITY where nothing is. */
typedef struct range {
    double low, high;
} range;

static void widen(range *r, double value) {
    if (!(value > 0)) return; /* a logarithmic axis has no place for zero */
    r->low = fmin(r->low, value);
    r->high = fmax(r->high, value);
}

static range range_of(const mf_bench *b, const plot *p) {
    range r = {INFINITY, 0};
    for (int i = 0; i < b->lengths; i++)
        for (int k = 0; k < b->meshes; k++) widen(&r, value_at(b, i, k, p->value));
    return r;
}

typedef struct unit {
    const char *name;
    double size;
} unit;

/* The largest of which the plot's highest value is at least one. */
static unit unit_of(const mf_bench *b, const plot *p) {
    static const unit units[] = {{"B", 1}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}};
    double most = range_of(b, p).high;
    int i = 3;
    if (p->seconds) return (unit){"s", 1};
    while (i > 0 && most < units[i].size) i--;
    return units[i];
}

/* A value and its part are seen best from zero up, unless values are far apart. */
enum { FAR_APART = 32 };

/* A logarithmic one wide enough for a power of two, which has a label. */
static void write_y_axis(const mf_bench *b, const plot *p, FILE *out) {
    range r = range_of(b, p);
    double size = unit_of(b, p).size;
    if (p->part && r.high > 0 && r.high < FAR_APART * r.low)
        fprintf(out, "set yrange [0:%g]\n", r.high / size * 1.05);
    else if (r.high > 0)
        fprintf(out, "set logscale y 2\nset yrange [%g:%g]\n", r.low / size / 1.5, r.high / size * 1.5);
    else
        fprintf(out, "set yrange [0:1]\n");
}

static void write_x_axis(const mf_bench *b, FILE *out) {
    range r = {INFINITY, 0};
    fprintf(out, "set logscale x 2\nset xtics (");
    for (int i = 0; i < b->lengths; i++) {
        widen(&r, (double)length_at(b, i));
        fprintf(out, "%s\"%lld\" %lld", i ? ", " : "", (long long)length_at(b, i),
                (long long)length_at(b, i));
    }
    fprintf(out, ")\nset xrange [%g:%g]\n", r.low / 1.2, r.high * 1.2);
}

static void write_line(const mf_bench *b, const plot *p, int column, const char *how, FILE *out) {
    const char *colour = mf_colours[(column - 2) % b->meshes % MF_COLOURS];
    fprintf(out, ", \\\n  \"%s.dat\" using 1:($%d > 0 ? $%d / %.0f : NaN) with %s lc rgb \"%s\"", p->name,
            column, column, unit_of(b, p).size, how, colour);
}

static bool any_measured(const mf_bench *b, int mesh) {
    for (int i = 0; i < b->lengths; i++)
        if (!mf_bench_at(b, i, mesh)->refused) return true;
    return false;
}

/* A mesh that has nothing to draw is in the legend only. */
static void write_mesh(const mf_bench *b, const plot *p, int mesh, FILE *out) {
    const char *name = b->cases[mesh].mesh;
    if (!any_positive(b, mesh, p->value)) {
        fprintf(out, ", \\\n  keyentry with points pt 0 title \"%s: %s\"", name,
                any_measured(b, mesh) ? "none" : "not measured");
        return;
    }
    write_line(b, p, 2 + mesh, "linespoints lw 2 pt 7 ps 0.6", out);
    fprintf(out, " title \"%s\"", name);
    if (!p->part || !any_positive(b, mesh, p->part)) return;
    write_line(b, p, 2 + b->meshes + mesh, "lines lw 1 dt 2", out);
    fprintf(out, " notitle");
}

static void write_script(const mf_bench *b, const plot *p, FILE *out) {
    char subject[128];
    mf_bench_subject(b, subject);
    fprintf(out,
            "# gnuplot %s.gp, in this folder, draws %s.svg\n"
            "set terminal svg size 900,480 font \"sans,13\" background \"#ffffff\" noenhanced\n"
            "set output \"%s.svg\"\n"
            "set title \"%s\\n%s\"\n"
            "set xlabel \"tokens of a sequence\" offset 0,0.4\n"
            "set ylabel \"%s\"\n"
            "set format y \"%%.3g\"\n"
            "set key below Left reverse\n"
            "set grid lt 1 lw 1 lc rgb \"#dddddd\"\n"
            "set border 3 lc rgb \"#808080\"\n"
            "set tics nomirror\n",
            p->name, p->name, p->name, p->title, subject, unit_of(b, p).name);
    write_x_axis(b, out);
    write_y_axis(b, p, out);
    fprintf(out, "plot NaN notitle");
    for (int i = 0; i < b->meshes; i++) write_mesh(b, p, i, out);
    if (p->part)
        fprintf(out, ", \\\n  keyentry with lines lw 1 dt 2 lc rgb \"#404040\" title \"%s\"", p->part_name);
    fprintf(out, "\n");
}

static mf_status write_file(const mf_bench *b, const plot *p, const char *folder, const char *ending,
                            void (*write)(const mf_bench *bench, const plot *p, FILE *out)) {
    mf_status status = MF_OK;
    char *path = NULL;
    MF_TRY(mf_format(&path, "%s/%s.%s", folder, p->name, ending));
    FILE *out = fopen(path, "w");
    if (!out) MF_GO(MF_FAIL(MF_EIO, "%s: cannot be written: %s", path, strerror(errno)));
    write(b, p, out);
    bool lost = ferror(out) != 0;
    if (fclose(out) != 0 || lost) MF_GO(MF_FAIL(MF_EIO, "%s: cannot be written: %s", path, strerror(errno)));
fail:
    mf_host_free(path);
    return status;
}

/* In the folder, where the script finds its data by name. No shell: nothing in a name is a command. */
static mf_status draw(const plot *p, const char *folder) {
    char script[32];
    snprintf(script, sizeof script, "%s.gp", p->name);
    char program[] = "gnuplot", *words[] = {program, script, NULL};
    posix_spawn_file_actions_t actions;
    pid_t child = 0;
    int failed = posix_spawn_file_actions_init(&actions), ended = 0;
    if (failed) return MF_FAIL(MF_ELIBRARY, "gnuplot cannot be started: %s", strerror(failed));
    failed = posix_spawn_file_actions_addchdir_np(&actions, folder);
    if (!failed) failed = posix_spawnp(&child, program, &actions, NULL, words, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed) return MF_FAIL(MF_ELIBRARY, "gnuplot cannot be started: %s", strerror(failed));
    while (waitpid(child, &ended, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(ended) && WEXITSTATUS(ended) == 0) return MF_OK;
    return MF_FAIL(MF_ELIBRARY, "gnuplot failed on %s/%s; data and scripts are there", folder, script);
}

mf_status mf_bench_plot(const mf_bench *b, const char *folder) {
    for (int i = 0; i < PLOTS; i++) {
        MF_TRY(write_file(b, &plots[i], folder, "dat", write_data));
        MF_TRY(write_file(b, &plots[i], folder, "gp", write_script));
    }
    for (int i = 0; i < PLOTS; i++) MF_TRY(draw(&plots[i], folder));
    return MF_OK;
}

/* As posix_spawnp will look for it. */
static bool on_path(const char *program) {
    const char *path = getenv("PATH");
    bool found = false;
    for (const char *at = path ? path : ""; *at && !found;) {
        size_t length = strcspn(at, ":");
        char file[4096];
        snprintf(file, sizeof file, "%.*s/%s", (int)length, at, program);
        found = length > 0 && access(file, X_OK) == 0;
        at += length + (at[length] == ':');
    }
    return found;
}

mf_status mf_bench_plot_check(const char *folder) {
    if (!on_path("gnuplot"))
        return MF_FAIL(MF_ELIBRARY,
                       "--plot needs the program gnuplot, which is not on PATH (Debian: gnuplot-nox)");
    if (mf_folder_make(folder) || access(folder, W_OK | X_OK) != 0)
        return MF_FAIL(MF_EINVAL, "--plot %s: not a folder that can be written", folder);
    return MF_OK;
}
