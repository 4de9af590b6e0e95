/* train_report.h: what a training run shows and writes: lines for people or JSON, the run's folder. */
#ifndef MF_CLI_TRAIN_REPORT_H
#define MF_CLI_TRAIN_REPORT_H

#include "meshfold/plan.h"

#include <jansson.h>
#include <stdio.h>

typedef struct mf_train_report {
    bool json;              /* one JSON object a line instead of text */
    const char *folder;     /* NULL: nothing is written */
    const json_t *resolved; /* what resolved.json is to hold; borrowed */
    const char *recompute, *dtype;
    const mf_train_options *options;
    const mf_cluster *machine; /* the one at hand, where it was calibrated; NULL: it was not */
    bool borrows;              /* ranks read each other's memory in place */
    bool one_of;               /* one rank alone: its values mean nothing */
    bool elsewhere;            /* a resumed run writes to another folder than it did */
    bool resumed;              /* it goes on from step first_step */
    int64_t first_step;
    bool started;  /* all inputs were read on all ranks; the folder is there */
    FILE *metrics; /* metrics.jsonl */
} mf_train_report;

/* The observer that feeds `report`, which must outlive it. It makes the run's folder once the run has
 * started: a mistake in the inputs leaves nothing behind. */
mf_train_observer mf_report_observer(mf_train_report *report);
void mf_report_close(mf_train_report *report);

#endif
