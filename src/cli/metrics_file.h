/* metrics_file.h: metrics.jsonl of a run that goes on. */
#ifndef MF_CLI_METRICS_FILE_H
#define MF_CLI_METRICS_FILE_H

#include "meshfold/base.h"

/* Keeps the whole lines of steps up to this one; nothing is changed until that is on the disk. A file that is
 * not there is fine. MF_EIO names it. */
mf_status mf_metrics_cut(const char *folder, int64_t step);

#endif
