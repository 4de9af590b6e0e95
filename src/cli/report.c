/* report.c: an error, as the program's user sees it. */
#include "cli/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_trace(const mf_error *error) {
    for (int i = 0; i < error->depth; i++)
        fprintf(stderr, "    %s %s:%d\n", i == 0 ? "at" : "by", error->trace[i].file, error->trace[i].line);
}

int mf_report_error(mf_status status) {
    const mf_error *error = mf_error_last();
    const char *trace = getenv("MESHFOLD_TRACE");
    fflush(stdout);
    fputs("meshfold: error: ", stderr);
    if (error->rank >= 0) fprintf(stderr, "rank %d: ", error->rank);
    fprintf(stderr, "%s\n", error->message);
    if (trace && strcmp(trace, "1") == 0) print_trace(error);
    switch (status) {
    case MF_EINVAL:
    case MF_EFORMAT:
    case MF_EUNSUPPORTED:
    case MF_EIO:
        return 2;
    default:
        return 1;
    }
}
