/* plan_table.h: what `meshfold plan` found, for all that show it: a row a layout, the best first. */
#ifndef MF_CLI_PLAN_TABLE_H
#define MF_CLI_PLAN_TABLE_H

#include "meshfold/plan.h"

#include <jansson.h>

typedef struct mf_plan_row {
    char mesh[160];             /* as --mesh takes it, with all words that the layout differs in */
    mf_measure_options options; /* recompute mode and everything else that was planned */
    mf_plan_result plan;
    mf_status refused; /* MF_OK: it was planned; else `why` says what stands against it */
    char why[sizeof((mf_error *)0)->message];
} mf_plan_row;

typedef struct mf_plan_table {
    const mf_cluster *cluster;
    const char *model, *dtype; /* as they were given */
    mf_model_options options;  /* what all rows have in common */
    mf_plan_row *row;          /* [count] what fits before what does not, the fastest first */
    int count;
    const mf_search_result *search; /* NULL: no search */
    int enough; /* ranks that something fits on, where a search found nothing that does; 0: not known */
    const mf_longest *longest; /* [longests] of the first rows */
    int longests;
} mf_plan_table;

/* Of so many tokens: as many, or of clips so many frames. */
int64_t mf_plan_length(const mf_plan_table *table, int64_t tokens);
/* "tokens", "frames" */
const char *mf_plan_length_name(const mf_plan_table *table);

/* To stdout: a table for people. */
void mf_plan_print(const mf_plan_table *table);
/* The same and more as one JSON object; owned by the caller. NULL: no memory. */
json_t *mf_plan_json(const mf_plan_table *table);
/* One self-contained page with the tables and plots. MF_EIO names the file. */
mf_status mf_plan_html(const mf_plan_table *table, const char *path);

/* In words, why the first of [count] rows is first, and what stands against the best of each other kind. To
 * stdout. */
void mf_plan_explain(const mf_plan_row *row, int count);
/* Better rows first; those that were refused last. */
int mf_plan_row_compare(const mf_plan_row *a, const mf_plan_row *b);

/* What of the peak is state (weights, gradients, the optimizer's), and what is in flight (weights and keys of
 * other ranks), in bytes. */
double mf_plan_state(const mf_memory_stats *memory);
double mf_plan_in_flight(const mf_memory_stats *memory);
/* Bytes that the rank sends in the step. */
double mf_plan_sent(const mf_rank_report *rank);
/* "none", "attention", "block" */
const char *mf_recompute_name(mf_recompute recompute);
/* What the rank did on group g in the step: bytes sent, and time it stood still for them. */
double mf_plan_group_sent(const mf_rank_report *rank, int g);
double mf_plan_group_waited(const mf_rank_report *rank, int g);

#endif
