/* verify_report.h: what `meshfold verify` was asked and found (verify.c), and the telling of it
 * (verify_report.c). */
#ifndef MF_CLI_VERIFY_REPORT_H
#define MF_CLI_VERIFY_REPORT_H

#include "cli/run_settings.h"
#include "meshfold/train.h"

typedef struct mf_verify_settings {
    mf_run_settings run;
    mf_words mesh, data;
    int64_t seq, batch;
    const char *reference_device; /* NULL: --device */
    double tolerance;
    bool all, json;
} mf_verify_settings;

/* A mesh to be compared. */
typedef struct mf_verify_candidate {
    const char *text;
    mf_verify_options options;
    mf_verify_errors errors; /* empty in the first: it is the reference */
} mf_verify_candidate;

typedef struct mf_verify_command {
    mf_verify_settings s;
    mf_flag_table table;
    mf_flags flags;
    mf_model_options model;
    int64_t sequences;
    mf_text text;
    int32_t *ids, *labels;          /* [sequences][seq] */
    int32_t *documents;             /* the same, of mf_model_set_documents; NULL: not packed */
    mf_verify_candidate *candidate; /* [count] */
    int count;
    int at; /* the candidate that runs */
    mf_verify_reference reference;
    bool speaks; /* this process has the results */
} mf_verify_command;

/* Layouts whose errors are all within the tolerance, of those compared. */
int mf_verify_agreeing(const mf_verify_command *command);
/* Prints the result, in words or as JSON. */
mf_status mf_verify_report(const mf_verify_command *command);

#endif
