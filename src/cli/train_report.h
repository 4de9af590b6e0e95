/* train_report.h: what a training run shows and writes: lines for people or JSON, the run's folder. */
#ifndef MF_CLI_TRAIN_REPORT_H
#define MF_CLI_TRAIN_REPORT_H

#include "meshfold/train.h"

#include <jansson.h>
#include <stdio.h>

typedef struct mf_train_report {
    bool json;          /* one JSON object a line instead of text */
    const char *folder; /* NULL: nothing is written */
    const char *recompute, *dtype;
    const mf_train_options *options;
    FILE *metrics; /* metrics.jsonl */
} mf_train_report;

/* Makes the run's folder, or with `force` takes an old one, and writes resolved.json. MF_EINVAL when it
 * exists. */
mf_status mf_report_open(mf_train_report *report, bool force, const json_t *resolved);
void mf_report_close(mf_train_report *report);
/* The observer that feeds `report`, which must outlive it. */
mf_train_observer mf_report_observer(mf_train_report *report);

#endif
