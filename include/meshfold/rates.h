/* rates.h: how fast operations and transfers were found to run on a machine, by their sizes.
 *
 *     mf_rates rates = {.ranks = 2, .threads = 1};
 *     MF_TRY(mf_rates_add(&rates, &rates.transfer[MF_OP_SHIFT], 1, &axis, bytes_per_s));
 *     double seconds = mf_rates_s(&rates, &rates.transfer[MF_OP_SHIFT], (double[]){1 << 20}, 1 << 20);
 */
#ifndef MESHFOLD_RATES_H
#define MESHFOLD_RATES_H

#include "meshfold/comm.h"

enum { MF_GRID_AXES = 3, MF_GRID_POINTS = 8, MF_RATE_VALUES = 6144 };

/* Sizes of one kind, ascending. */
typedef struct mf_grid_axis {
    int points; /* 0: the axis is not used */
    double at[MF_GRID_POINTS];
} mf_grid_axis;

/* Rates at every combination of up to three sizes; between them, and of everything in logarithms, lines.
 * Beyond the largest size the rate stays; below the smallest the time does. */
typedef struct mf_grid {
    int axes; /* 0: nothing was measured */
    mf_grid_axis axis[MF_GRID_AXES];
    int first; /* of its values in mf_rates, the last axis fastest */
} mf_grid;

/* Matrix products by which operand is stored transposed. */
enum { MF_FORM_NN, MF_FORM_NT, MF_FORM_TN, MF_FORM_TT, MF_FORMS };

typedef struct mf_rates {
    int ranks, threads;              /* that worked at one time; each rank with so many threads */
    mf_grid gemm[2][MF_FORMS];       /* by mf_dtype: FLOP/s by m, n, k */
    mf_grid gemm_result[2];          /* by mf_dtype: elements a second of a thin product that is 1: stored as
   f32, 2: added to what is there, 3: stored as bf16 */
    mf_grid attention[2][2];         /* by mf_dtype, backward: FLOP/s by head size, queries */
    mf_grid touch[MF_OPERATIONS][2]; /* by mf_dtype: bytes a second by bytes */
    mf_grid transfer[MF_COMM_OPS];   /* bytes a second by bytes, both as mf_transfer_cost's payload */
    double pace;                     /* FLOP/s of a rank's product of one fixed size, measured all along */
    int values;
    double value[MF_RATE_VALUES];
} mf_rates;

/* Puts a grid into the rates; value: as many as the axes' points multiply to, all above zero. MF_EINVAL when
 * there is no room. */
mf_status mf_rates_add(mf_rates *rates, mf_grid *grid, int axes, const mf_grid_axis *axis,
                       const double *value);
/* Time of `amount` (FLOPs or bytes) at these sizes; the grid must have been measured. */
double mf_rates_s(const mf_rates *rates, const mf_grid *grid, const double *size, double amount);
/* "nn", "nt", "tn", "tt" */
const char *mf_form_name(int form);

/* What the machine at hand does, by measuring:
 *
 *     mf_calibrate_options options = {.device = "cpu", .threads = 1, .passes = 3};
 *     MF_TRY(mf_calibrate(world, &options, &rates));         // from the body of mf_launch
 */
enum { MF_CALIBRATE_PASSES = 9, MF_CALIBRATE_RANKS = 64 };
typedef struct mf_calibrate_options {
    const char *device;
    int threads;   /* per rank */
    int passes;    /* over everything; the median is kept */
    bool quick;    /* small sizes alone: seconds instead of minutes, and rough */
    void *context; /* progress's; may be NULL, as progress may */
    void (*progress)(void *context, int done, int all);
} mf_calibrate_options;
/* All ranks measure at one time; *out is the same on each. Collective over the world. */
mf_status mf_calibrate(mf_world *world, const mf_calibrate_options *options, mf_rates *out);
/* FLOP/s of a rank in products of one fixed size, over about so many seconds: how fast the machine is now, to
 * be held against mf_rates.pace. Collective over the world. */
mf_status mf_pace(mf_world *world, const char *device, int threads, double seconds, double *flops);

#endif
