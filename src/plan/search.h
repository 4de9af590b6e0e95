/* search.h: layouts on their way through a search, for the files of this room. */
#ifndef MF_PLAN_SEARCH_H
#define MF_PLAN_SEARCH_H

#include "meshfold/plan.h"

/* A layout, and what is known of it so far: by a formula, then by runs with a few layers. */
typedef struct mf_lead {
    char mesh[MF_LAYOUT_TEXT];
    mf_measure_options options;
    unsigned family;
    bool screened;
    double tokens_per_s, peak_bytes, short_by_bytes;
} mf_lead;

typedef struct mf_leads {
    mf_lead *lead; /* [count], owned */
    int count, room;
    mf_left_out left_out[MF_LEFT_OUT];
} mf_leads;

/* leads.c. All layouts of the options' ranks, in every mode. */
mf_status mf_leads_find(const mf_search_options *options, mf_leads *out);
void mf_leads_free(mf_leads *leads);

/* sketch.c. Fills in the lead's figures by formula: roughly, and memory rather too low than too high. */
void mf_sketch(const mf_cluster *cluster, mf_lead *lead);

/* few_layers.c. A step by runs of one step with two and three layers, of a video's model four and six: nearly
 * mf_plan's, in a fraction of the time. */
mf_status mf_plan_few_layers(const mf_cluster *cluster, const mf_measure_options *options, bool borrows,
                             double *tokens_per_s, double *peak_bytes);
/* parallel.c. Calls job(context, 0 .. count - 1) on so many threads; the first error ends it. */
typedef mf_status (*mf_indexed_job)(void *context, int index);
mf_status mf_parallel(int threads, int count, mf_indexed_job job, void *context);

#endif
