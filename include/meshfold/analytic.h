/* analytic.h: the TSP paper's table (arXiv 2604.26294) for any model: what each scheme keeps and sends, by
 * formula.
 *
 *     mf_analytic table;
 *     MF_TRY(mf_analytic_make(&model, 8, &table));
 *     printf("%.0f\n", table.row[0].sent);               // tp: 4 BSh
 */
#ifndef MESHFOLD_ANALYTIC_H
#define MESHFOLD_ANALYTIC_H

#include "meshfold/model.h"

typedef enum mf_scheme {
    MF_SCHEME_TP,
    MF_SCHEME_TP_SCATTER,
    MF_SCHEME_SP,
    MF_SCHEME_TP_SP,    /* one row for each tensor * sequence = degree */
    MF_SCHEME_ZERO3_SP, /* weights gathered on the axis of the sequence */
    MF_SCHEME_TSP
} mf_scheme;

/* Of one rank. Elements of the compute type, with the factor (D-1)/D of what is sent left out. */
typedef struct mf_analytic_row {
    mf_scheme scheme;
    int tensor, sequence, stream; /* ranks: matrices used in place; tokens; matrices that are streamed */
    double state_bytes;           /* weights, gradients and optimizer's, of all matrices */
    double kept;                  /* activations, of all layers */
    double fixed, per_token;      /* a layer's forward sends fixed + per_token * BS, */
    double sent;                  /* which is this */
    double in_flight;             /* weights and keys of other ranks, the most at once in a layer's forward */
    double tsp_less_beyond;       /* tokens BS from which tsp sends less than this; INFINITY: never */
} mf_analytic_row;

/* At most, and the rows of the degree that has most divisors. */
enum { MF_ANALYTIC_DEGREE = 65536, MF_ANALYTIC_ROWS = 123 };
typedef struct mf_analytic {
    int degree;
    double key_share, ffn_ratio;    /* g = n_kv / n_h, F = ffn / hidden */
    double tokens;                  /* BS */
    double attention, mlp, weights; /* matrix elements: of a layer's halves; of the model */
    double state_bytes_each;        /* of a matrix element */
    double between, inside;         /* h-vectors kept a token and layer: that tp does not cut, that it does */
    int rows;
    mf_analytic_row row[MF_ANALYTIC_ROWS]; /* by scheme; tsp is the last */
} mf_analytic;
/* MF_EINVAL when the degree is below 2 or above MF_ANALYTIC_DEGREE. */
mf_status mf_analytic_make(const mf_model_options *model, int degree, mf_analytic *out);

#endif
