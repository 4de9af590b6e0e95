/* bench_report.h: what `meshfold bench` measured, for people, and for programs as JSON or CSV. */
#ifndef MF_CLI_BENCH_REPORT_H
#define MF_CLI_BENCH_REPORT_H

#include "cli/bench_result.h"

/* "61.2M parameters, f32, training step" */
void mf_bench_subject(const mf_bench *bench, char out[128]);
/* Tables on stdout, a block a length. */
void mf_bench_print(const mf_bench *bench);
/* `path`: a file, or "-" for stdout. MF_EIO, MF_ENOMEM. */
mf_status mf_bench_write_json(const mf_bench *bench, const char *path);
mf_status mf_bench_write_csv(const mf_bench *bench, const char *path);

#endif
