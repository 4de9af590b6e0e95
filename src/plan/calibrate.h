/* calibrate.h: what calibrate.c times, as calibrate_runs.c lists it. */
#ifndef MF_PLAN_CALIBRATE_H
#define MF_PLAN_CALIBRATE_H

#include "meshfold/rates.h"

/* Memory that runs take turns in, so that none finds in a cache what the one before it left there. */
typedef struct mf_arena {
    mf_buffer buffer;
    size_t at;
} mf_arena;

typedef struct mf_bench_sizes {
    int64_t arena_bytes; /* of each of two */
    int pace_side;       /* of the product that tells the machine's pace */
    int width;           /* of a row */
    int head, heads;     /* of attention */
    double thin[3];      /* m, n, k of a product whose result takes most of the time */
    mf_grid_axis sides, queries, rows, payloads;
} mf_bench_sizes;

typedef struct mf_workbench {
    const mf_bench_sizes *sizes;
    mf_memory *memory, *dry_memory;
    mf_device *device, *dry; /* dry: tells what a run amounts to */
    mf_comm *all;
    mf_arena in, out; /* in is never written: its content reads as small numbers in f32 and bf16 */
} mf_workbench;

typedef struct mf_timed mf_timed;
/* One run at these sizes, on the workbench's device or its dry one. */
typedef mf_status mf_timed_run(mf_workbench *bench, mf_device *device, const mf_timed *timed,
                               const double *size);

/* A grid that is to be measured. */
struct mf_timed {
    mf_grid *grid;
    mf_timed_run *run;
    int what; /* the operation, the form or the collective, as `run` takes it */
    mf_dtype type;
    double amount;  /* of a run; 0: what the dry device says; below 0: the first size */
    bool by_amount; /* the grid's only axis is the amounts, not the sizes that they come of */
    int axes;
    mf_grid_axis axis[MF_GRID_AXES];
};
enum { MF_TIMED_MOST = 96 };

/* Collective. */
mf_status mf_workbench_open(mf_world *world, const char *device, int threads, bool arenas, mf_workbench *out);
/* Accepts one that open left unfinished. */
void mf_workbench_close(mf_workbench *bench);
/* Grids of *rates; returns their number. */
int mf_timed_all(const mf_workbench *bench, mf_rates *rates, mf_timed out[MF_TIMED_MOST]);
/* FLOPs or bytes of a run. */
mf_status mf_timed_amount(mf_workbench *bench, const mf_timed *timed, const double *size, double *amount);

#endif
