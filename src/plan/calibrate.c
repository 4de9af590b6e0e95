/* calibrate.c: times operations and transfers over their sizes, all ranks at work at one time. The whole list
 * is gone through several times, and of each point the median kept: what slows the machine for a while then
 * spoils no point by itself. */
#include "plan/calibrate.h"

#include <math.h>
#include <string.h>

/* Long enough for the clock, short enough that a list is done in a minute. */
static const double least_s = 0.002, pace_s = 0.03;

typedef struct session {
    mf_workbench *bench;
    mf_calibrate_options options;
    mf_timed table[MF_TIMED_MOST];
    int tables;
    int points;      /* of all tables */
    double *seconds; /* [passes][points] */
    double *pace;    /* [passes][tables] */
} session;

static mf_status agree_on_mean(const mf_workbench *bench, double *value) {
    MF_TRY(mf_allreduce_f64(bench->all, value, 1));
    *value /= mf_comm_size(bench->all);
    return MF_OK;
}

static mf_status multiply_square(mf_workbench *b, float *square) {
    int64_t side = b->sizes->pace_side, elements = side * side;
    MF_TRY(mf_gemm(b->device, &(mf_gemm_args){.m = side,
                                              .n = side,
                                              .k = side,
                                              .a = {square, side, MF_F32, false},
                                              .b = {square + elements, side, MF_F32, false},
                                              .c = square + 2 * elements,
                                              .c_ld = side,
                                              .c_type = MF_F32}));
    return mf_device_finish(b->device, MF_QUEUE_COMPUTE);
}

static mf_status measure_pace(mf_workbench *b, double seconds, double *flops) {
    mf_status status = MF_OK;
    mf_buffer squares = {0};
    int64_t side = b->sizes->pace_side, elements = 3 * side * side;
    double passed = 0, turns = 0;
    MF_GO(mf_buffer_alloc(b->memory, MF_WORKSPACE, (size_t)elements * 4, "the machine's pace", &squares));
    MF_GO(mf_fill(b->device, elements, 1.0f / 128, squares.data));
    MF_GO(multiply_square(b, squares.data));
    MF_GO(mf_barrier(b->all));
    for (double start = mf_now_s(); passed < seconds; passed = mf_now_s() - start, turns++)
        MF_GO(multiply_square(b, squares.data));
    *flops = turns * 2 * (double)(side * side) * (double)side / passed;
    MF_GO(agree_on_mean(b, flops));
fail:
    mf_buffer_free(b->memory, &squares);
    return status;
}

static mf_status run_turns(mf_workbench *bench, const mf_timed *table, const double *size, int turns,
                           double *seconds) {
    double start = mf_now_s();
    for (int i = 0; i < turns; i++) MF_TRY(table->run(bench, bench->device, table, size));
    MF_TRY(mf_device_finish(bench->device, MF_QUEUE_COMPUTE));
    *seconds = (mf_now_s() - start) / turns;
    return agree_on_mean(bench, seconds);
}

/* The mean time of a run, over as many as fill the least time, on all ranks. On a GPU they are asked for one
 * after another, as in a step: what is too small to keep it busy takes as long as asking. */
static mf_status time_point(mf_workbench *bench, const mf_timed *table, const double *size, double *seconds) {
    double once = 0;
    MF_TRY(run_turns(bench, table, size, 1, &once));
    int turns = (int)fmin(1000, ceil(least_s / fmax(once, 1e-9)));
    MF_TRY(mf_barrier(bench->all));
    return run_turns(bench, table, size, turns, seconds);
}

static int points_of(const mf_timed *t) {
    int points = 1;
    for (int i = 0; i < t->axes; i++) points *= t->axis[i].points;
    return points;
}

static void sizes_at(const mf_timed *t, int point, double size[MF_GRID_AXES]) {
    for (int i = t->axes - 1; i >= 0; i--) {
        size[i] = t->axis[i].at[point % t->axis[i].points];
        point /= t->axis[i].points;
    }
}

static mf_status time_tables(session *s, int pass) {
    double size[MF_GRID_AXES] = {0};
    int done = 0;
    for (int i = 0; i < s->tables; i++) {
        const mf_timed *t = &s->table[i];
        for (int p = 0; p < points_of(t); p++, done++) {
            sizes_at(t, p, size);
            MF_TRY(time_point(s->bench, t, size, &s->seconds[pass * s->points + done]));
        }
        MF_TRY(measure_pace(s->bench, pace_s, &s->pace[pass * s->tables + i]));
        if (s->options.progress && mf_comm_rank(s->bench->all) == 0)
            s->options.progress(s->options.context, pass * s->points + done, s->options.passes * s->points);
    }
    return MF_OK;
}

static double median_at(const session *s, int point) {
    double all[MF_CALIBRATE_PASSES];
    for (int i = 0; i < s->options.passes; i++) all[i] = s->seconds[i * s->points + point];
    return mf_median(all, s->options.passes);
}

static mf_status keep_table(const session *s, const mf_timed *t, int first, mf_rates *out) {
    double rate[MF_GRID_POINTS * MF_GRID_POINTS * MF_GRID_POINTS], size[MF_GRID_AXES] = {0};
    mf_grid_axis axis[MF_GRID_AXES];
    memcpy(axis, t->axis, sizeof axis);
    for (int p = 0; p < points_of(t); p++) {
        double amount = 0;
        sizes_at(t, p, size);
        MF_TRY(mf_timed_amount(s->bench, t, size, &amount));
        if (t->by_amount) axis[0].at[p] = amount;
        rate[p] = amount / fmax(median_at(s, first + p), 1e-9);
    }
    return mf_rates_add(out, t->grid, t->axes, axis, rate);
}

static mf_status keep_all(const session *s, mf_rates *out) {
    int first = 0;
    for (int i = 0; i < s->tables; i++) {
        MF_TRY(keep_table(s, &s->table[i], first, out));
        first += points_of(&s->table[i]);
    }
    return MF_OK;
}

mf_status mf_pace(mf_world *world, const char *device, int threads, double seconds, double *flops) {
    mf_status status = MF_OK;
    mf_workbench bench = {0};
    MF_GO(mf_workbench_open(world, device, threads, false, &bench));
    MF_GO(measure_pace(&bench, seconds, flops));
    MF_GO(mf_barrier(bench.all));
fail:
    mf_workbench_close(&bench);
    return status;
}

static void shorten(session *s) {
    enum { QUICK_POINTS = 3 };
    for (int i = 0; i < s->tables; i++)
        for (int axis = 0; axis < s->table[i].axes; axis++)
            s->table[i].axis[axis].points = (int)mf_min(s->table[i].axis[axis].points, QUICK_POINTS);
}

static mf_status measure(session *s, mf_rates *out) {
    mf_status status = MF_OK;
    s->tables = mf_timed_all(s->bench, out, s->table);
    if (s->options.quick) shorten(s);
    for (int i = 0; i < s->tables; i++) s->points += points_of(&s->table[i]);
    MF_GO(mf_host_alloc((size_t)(s->options.passes * s->points), sizeof *s->seconds, &s->seconds));
    MF_GO(mf_host_alloc((size_t)(s->options.passes * s->tables), sizeof *s->pace, &s->pace));
    for (int pass = 0; pass < s->options.passes; pass++) MF_GO(time_tables(s, pass));
    MF_GO(keep_all(s, out));
    out->pace = mf_median(s->pace, s->options.passes * s->tables);
fail:
    mf_host_free(s->pace);
    mf_host_free(s->seconds);
    return status;
}

mf_status mf_calibrate(mf_world *world, const mf_calibrate_options *options, mf_rates *out) {
    mf_status status = MF_OK;
    mf_workbench bench = {0};
    session s = {.bench = &bench, .options = *options};
    *out = (mf_rates){.ranks = mf_world_size(world), .threads = options->threads};
    if (options->passes < 1 || options->passes > MF_CALIBRATE_PASSES)
        return MF_FAIL(MF_EINVAL, "passes is %d; it must be from 1 to %d", options->passes,
                       MF_CALIBRATE_PASSES);
    MF_GO(mf_workbench_open(world, options->device, options->threads, true, &bench));
    MF_GO(measure(&s, out));
    MF_GO(mf_barrier(bench.all));
fail:
    mf_workbench_close(&bench);
    return status;
}
