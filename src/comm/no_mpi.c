/* no_mpi.c: stands in for mpi.c where meshfold is built without MPI, so that a start under mpiexec is refused
 * by name and not run as many separate worlds. */
#include "comm/ops.h"

const char *mf_mpi_description(void) { return ""; }

static mf_status no_mpi_launch(const mf_launch_options *options, mf_rank_body body, void *argument) {
    (void)options, (void)body, (void)argument;
    if (mf_launched_by_mpi())
        return MF_FAIL(MF_EUNSUPPORTED,
                       "started by mpiexec as one of %d ranks, but meshfold was built without MPI",
                       mf_mpi_ranks());
    return MF_FAIL(MF_EUNSUPPORTED, "the mpi engine: meshfold was built without MPI");
}

/* Nothing but launch is ever called. */
const mf_engine mf_engine_mpi = {.name = "mpi", .launch = no_mpi_launch};
