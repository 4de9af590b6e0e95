/* bench_result.h: what `meshfold bench` measured: every mesh at every length, over rounds, and the figures
 * that follow.
 */
#ifndef MF_CLI_BENCH_RESULT_H
#define MF_CLI_BENCH_RESULT_H

#include "cli/predict.h"

enum { MF_BENCH_ROUNDS = 64, MF_BENCH_STEPS = 64, MF_BENCH_LENGTHS = 64 };

/* One mesh at one length. */
typedef struct mf_bench_case {
    const char *mesh; /* as the user wrote it */
    mf_measure_options options;
    mf_status refused; /* MF_OK: it was measured */
    char why[sizeof((mf_error *)0)->message];
    int rounds;
    double *step_s;                     /* [rounds][steps] */
    double exposed[MF_BENCH_ROUNDS];    /* share of the last step that a rank stood still, mean over ranks */
    double peak_flops[MF_BENCH_ROUNDS]; /* as probed before each */
    mf_measure_result first;            /* round; memory and bytes are the same in all */
    mf_volume predicted;
    mf_prediction dry; /* of the rank with the largest peak */
} mf_bench_case;

typedef struct mf_bench {
    const char *model, *engine, *device, *recompute;
    bool forward;
    int meshes, lengths, rounds, steps;
    mf_bench_case *cases; /* [lengths][meshes] */
} mf_bench;

static inline mf_bench_case *mf_bench_at(const mf_bench *b, int length, int mesh) {
    return &b->cases[length * b->meshes + mesh];
}
/* Takes a round's result, which is empty then. MF_ELIBRARY where memory or bytes are not those of the first.
 */
mf_status mf_bench_add(const mf_bench *bench, mf_bench_case *to, mf_measure_result *result);
/* This thread's last error is why the case has no figures. */
void mf_bench_refuse(mf_bench_case *c);
/* Runs every measured case dry. machine: the one at hand, or NULL. */
mf_status mf_bench_predict(mf_bench *bench, const mf_cluster *machine, bool borrows);
void mf_bench_free(mf_bench *bench);

typedef struct mf_bench_figures {
    const mf_rank_report *rank;            /* the one with the largest peak; points into the case */
    double moved_most, moved, predicted;   /* bytes of a step: the largest rank's, and means over ranks */
    double step_s, step_s_min, step_s_max; /* step_s: the median */
    double tokens_per_s, peak_flops, flops_share, exposed; /* peak: the median of all probes of this mesh */
} mf_bench_figures;
/* The case must have been measured. */
mf_bench_figures mf_bench_figures_of(const mf_bench *bench, const mf_bench_case *c);

/* What one operation moved on an axis, in a step, mean over ranks. */
typedef struct mf_bench_transfer {
    const char *axis, *op; /* of the case */
    double calls, bytes, borrowed_bytes, predicted;
} mf_bench_transfer;
/* From index 0; false at the end. Barriers, signals and the few numbers that all ranks add up are left out:
 * the formulas are about tensors. */
bool mf_bench_transfer_at(const mf_bench_case *c, int index, mf_bench_transfer *out);

#endif
