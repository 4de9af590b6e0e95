/* report.c: an error, as the program's user sees it. */
#include "cli/commands.h"

#include "meshfold/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void print_trace(const mf_error *error) {
    for (int i = 0; i < error->depth; i++)
        fprintf(stderr, "    %s %s:%d\n", i == 0 ? "at" : "by", error->trace[i].file, error->trace[i].line);
}

/* Under mpiexec each process finds the mistakes in flags and inputs, and the first says them for all. The
 * others wait for mpiexec to end them; one that it leaves alone has an error of its own, which must be said.
 */
static void let_first_speak(const mf_error *error) {
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    if (!rank) rank = getenv("PMI_RANK");
    if (rank && mf_launched_by_mpi() && error->rank < 0 && strcmp(rank, "0") != 0) sleep(2);
}

/* In one piece, between what other processes say. */
static void print_message(const mf_error *error) {
    char line[sizeof error->message + 64];
    int length = snprintf(line, sizeof line, "meshfold: error: ");
    if (error->rank >= 0)
        length += snprintf(line + length, sizeof line - (size_t)length, "rank %d: ", error->rank);
    snprintf(line + length, sizeof line - (size_t)length, "%s", error->message);
    fprintf(stderr, "%s\n", line);
}

int mf_report_error(mf_status status) {
    const mf_error *error = mf_error_last();
    const char *trace = getenv("MESHFOLD_TRACE");
    let_first_speak(error);
    fflush(stdout);
    print_message(error);
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
