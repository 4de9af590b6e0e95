/* bench_plot.h: what `meshfold bench` measured, drawn by gnuplot over the length of a sequence. */
#ifndef MF_CLI_BENCH_PLOT_H
#define MF_CLI_BENCH_PLOT_H

#include "cli/bench_result.h"

/* Makes the folder. MF_ELIBRARY names gnuplot where it is missing; MF_EINVAL a folder that can't be written.
 */
mf_status mf_bench_plot_check(const char *folder);
/* Writes memory, time and bytes: .svg, and the .dat and .gp that it was drawn from. MF_EIO, MF_ELIBRARY. */
mf_status mf_bench_plot(const mf_bench *bench, const char *folder);

#endif
