/* shortage.h: what to do where a GPU's memory is not enough. */
#ifndef MF_CLI_SHORTAGE_H
#define MF_CLI_SHORTAGE_H

#include "cli/run_settings.h"

/* What ran out of memory. */
typedef struct mf_shortage {
    const mf_run_settings *settings;
    const char *mesh; /* as it was given; `spec` is what it means */
    const mf_model_options *model;
    const mf_mesh_spec *spec;
    const mf_layout *layout;
    int64_t accumulate;
    bool inference; /* forward alone */
} mf_shortage;
/* Where a run on a GPU ended with MF_ENOMEM: says to stderr which command finds what fits elsewhere and,
 * where ranks are threads, so that all have given back what they held, how long a sequence, or clip, fits
 * here. */
void mf_shortage_report(const mf_shortage *shortage, mf_status status);

#endif
