/* generate_report.h: the answers of a generation, and what it took. */
#ifndef MF_CLI_GENERATE_REPORT_H
#define MF_CLI_GENERATE_REPORT_H

#include "io/bytes.h"
#include "meshfold/infer.h"

/* What one prompt has brought. */
typedef struct mf_answer {
    mf_ids prompt, made;
    mf_voice *voice;
    mf_bytes said;
    size_t shown; /* of what was said, bytes that stand on stdout */
    mf_ending finish;
} mf_answer;

typedef struct mf_generate_report {
    const mf_generation *result;
    const mf_mesh_spec *mesh;
    const char *mesh_text, *device;
    int64_t positions; /* that the model was made for; 0: not said */
    int prompts;
    const mf_answer *answer; /* [prompts] */
} mf_generate_report;

/* To stderr: the answers stand on stdout. */
void mf_generate_print(const mf_generate_report *report);
/* One object to stdout. */
mf_status mf_generate_print_json(const mf_generate_report *report);

#endif
