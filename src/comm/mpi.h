/* mpi.h: what the files of the MPI engine share: mpi.c (start, groups, meetings), mpi_transfer.c,
 * mpi_stage.c (of device memory), mpi_shared.c (memory). */
#ifndef MF_COMM_MPI_H
#define MF_COMM_MPI_H

#include "comm/ops.h"

#include <mpi.h>

/* MPI frees communicators and windows collectively, but groups and shared memory end on each rank by itself.
 * So each is kept, in the order in which it was made (the same for all members of its group), and freed
 * before MPI_Finalize. */
typedef struct mf_mpi_kept {
    struct mf_mpi_kept *next;
    MPI_Comm comm;
    MPI_Win window;
} mf_mpi_kept;

typedef struct mf_mpi_process {
    mf_mpi_kept *first, **last;
} mf_mpi_process;

typedef struct mf_mpi_lane {
    MPI_Comm comm;
    mf_mpi_kept *kept;
    mf_header *headers;    /* [size] as the members sent them */
    mf_header *told;       /* [size] what this member sent to each */
    MPI_Request *requests; /* [2, size] received, sent */
    int *counts;           /* [2, size] for MPI_Iallgatherv */
    char *terms;           /* [size + 1, elements of a turn] for sums, made at the first */
    void *staged;          /* [staged_bytes] the host's side of device memory that is sent or received */
    size_t staged_bytes;
} mf_mpi_lane;

typedef struct mf_mpi_group {
    mf_mpi_lane lanes[MF_LANES];
    uint64_t *keys; /* [2, size] */
    void *
        *signals; /* [size] each an atomic_uint_least64_t[MF_SIGNALS]; NULL where the group does not borrow */
} mf_mpi_group;

mf_status mf_mpi_failed(const char *file, int line, int code, const char *call);
#define MPI_TRY(call)                                                                                        \
    do {                                                                                                     \
        int mpi_try_ = (call);                                                                               \
        if (mpi_try_ != MPI_SUCCESS) return mf_mpi_failed(__FILE__, __LINE__, mpi_try_, #call);              \
    } while (0)

enum {
    MF_MPI_TAG_HEADER = 1,
    MF_MPI_TAG_SHIFT,
    MF_MPI_TAG_BLOCK,
    MF_MPI_TAG_TERM,
    MF_MPI_TAG_TOTAL,
    MF_MPI_TAG_CREATE,
    MF_MPI_TAG_VERDICT
};
/* Waits for requests; MF_ETIMEOUT says what of. */
mf_status mf_mpi_settle(mf_comm *comm, const mf_header *header, int n, MPI_Request *requests);
/* Sends told[r] to member r; headers[r] is what member r has told this one. */
mf_status mf_mpi_tell(mf_comm *comm, mf_mpi_lane *lane);
/* Of the host's memory. */
mf_status mf_mpi_transfer(mf_comm *comm, int lane, const mf_transfer *transfer);
mf_status mf_mpi_confer(mf_comm *comm, int lane, const mf_transfer *transfer, bool *device);
/* Of any. */
mf_status mf_mpi_carry(mf_comm *comm, int lane, const mf_transfer *transfer);
/* Exchanges headers: lane's `headers` hold everyone's. */
mf_status mf_mpi_meet(mf_comm *comm, int lane, const mf_header *header);
mf_status mf_mpi_keep(mf_world *world, mf_mpi_kept **out);

mf_status mf_mpi_signals_open(mf_comm *comm);
mf_status mf_mpi_shared_alloc(mf_comm *comm, const mf_header *header, mf_status ready,
                              const mf_memory_source *source, mf_shared *out);
void mf_mpi_shared_free(mf_comm *comm, mf_shared *shared);
mf_status mf_mpi_signal(mf_comm *comm, int slot, uint64_t value);
mf_status mf_mpi_await(mf_comm *comm, int peer, int slot, uint64_t value);

#endif
