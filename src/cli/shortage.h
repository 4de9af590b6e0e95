/* shortage.h: what to do where a GPU's memory is not enough. */
#ifndef MF_CLI_SHORTAGE_H
#define MF_CLI_SHORTAGE_H

#include "cli/run_settings.h"

/* What ran out of memory. */
typedef struct mf_shortage {
    const mf_run_settings *settings;
    const char *mesh;
    mf_measure_options options; /* as much of them as its memory depends on */
} mf_shortage;
/* Where a run on a GPU ended with MF_ENOMEM: says to stderr how long a sequence, or clip, fits there, and
 * which command finds what fits elsewhere. */
void mf_shortage_report(const mf_shortage *shortage, mf_status status);

#endif
