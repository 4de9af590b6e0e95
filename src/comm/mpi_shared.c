/* mpi_shared.c: memory that the ranks of one node address in each other, and the signals in it. */
#include "comm/mpi.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGNMENT = 64 };

/* Windows are mapped at page boundaries, so that this moves every rank's view of a segment by as much. */
static void *align_up(void *pointer) {
    uintptr_t address = (uintptr_t)pointer;
    return (char *)pointer + ((ALIGNMENT - address % ALIGNMENT) % ALIGNMENT);
}

/* Collective. peer: [size] every member's segment. Each is its own mapping of pages, so that giving one back
 * is its owner's business alone. */
static mf_status window_open(mf_comm *comm, size_t bytes, mf_mpi_kept *kept, void **peer) {
    mf_mpi_group *g = comm->state;
    MPI_Comm on = g->lanes[MF_LANE_MAIN].comm;
    MPI_Info info;
    void *base = NULL;
    MPI_TRY(MPI_Info_create(&info));
    MPI_TRY(MPI_Info_set(info, "alloc_shared_noncontig", "true"));
    MPI_TRY(MPI_Win_allocate_shared((MPI_Aint)(bytes + ALIGNMENT), 1, info, on, &base, &kept->window));
    MPI_TRY(MPI_Info_free(&info));
    MPI_TRY(MPI_Win_set_errhandler(kept->window, MPI_ERRORS_RETURN));
    MPI_TRY(MPI_Win_lock_all(MPI_MODE_NOCHECK, kept->window));
    for (int r = 0; r < comm->size; r++) {
        MPI_Aint size;
        int unit;
        MPI_TRY(MPI_Win_shared_query(kept->window, r, &size, &unit, &base));
        peer[r] = align_up(base);
    }
    return MF_OK;
}

mf_status mf_mpi_signals_open(mf_comm *comm) {
    mf_mpi_group *g = comm->state;
    mf_mpi_kept *kept;
    MF_TRY(mf_mpi_keep(comm->world, &kept));
    MF_TRY(mf_host_alloc((size_t)comm->size, sizeof *g->signals, &g->signals));
    MF_TRY(window_open(comm, MF_SIGNALS * sizeof(atomic_uint_least64_t), kept, g->signals));
    atomic_uint_least64_t *own = g->signals[comm->rank];
    for (int i = 0; i < MF_SIGNALS; i++) atomic_init(&own[i], 0);
    MF_TRY(mf_mpi_meet(comm, MF_LANE_MAIN, &(mf_header){.op = MF_OP_CREATE}));
    return MF_OK;
}

/* The group learns in the meeting who could not account for its part, before anybody enters MPI's collective
 * call. */
mf_status mf_mpi_shared_alloc(mf_comm *comm, const mf_header *header, mf_status ready,
                              const mf_memory_source *source, mf_shared *out) {
    (void)source; /* a window's memory is MPI's */
    mf_mpi_group *g = comm->state;
    mf_mpi_kept *kept = NULL;
    const mf_header *headers = g->lanes[MF_LANE_MAIN].headers;
    if (!ready) ready = mf_mpi_keep(comm->world, &kept);
    mf_error own = *mf_error_last();
    mf_header told = *header;
    told.failed = ready != MF_OK;
    MF_TRY(mf_mpi_meet(comm, MF_LANE_MAIN, &told));
    if (ready) return mf_error_adopt(&own);
    MF_TRY(mf_agree(comm, headers));
    for (int r = 0; r < comm->size; r++)
        if (headers[r].failed)
            return MF_FAIL(MF_ECOMM, "axis %s: rank %d has no memory to share", comm->axis, comm->ranks[r]);
    MF_TRY(window_open(comm, out->bytes, kept, out->peer));
    out->own = out->peer[comm->rank];
    out->handle = kept;
    return MF_OK;
}

/* The window itself stays until the end (MPI frees it collectively), but its whole pages go back to the
 * system now; where the file system can't do that they stay too, and only the accounting has let go. */
void mf_mpi_shared_free(mf_comm *comm, mf_shared *shared) {
    (void)comm;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), own = (uintptr_t)shared->own;
    uintptr_t begin = (own + page - 1) / page * page, end = (own + shared->bytes) / page * page;
    if (begin < end) madvise((char *)shared->own + (begin - own), end - begin, MADV_REMOVE);
}

mf_status mf_mpi_signal(mf_comm *comm, int slot, uint64_t value) {
    mf_mpi_group *g = comm->state;
    atomic_uint_least64_t *word = (atomic_uint_least64_t *)g->signals[comm->rank] + slot;
    uint64_t now = atomic_load(word);
    if (value < now)
        return MF_FAIL(MF_EINVAL, "axis %s: signal %d falls from %llu to %llu", comm->axis, slot,
                       (unsigned long long)now, (unsigned long long)value);
    atomic_store(word, value);
    return MF_OK;
}

mf_status mf_mpi_await(mf_comm *comm, int peer, int slot, uint64_t value) {
    mf_mpi_group *g = comm->state;
    const atomic_uint_least64_t *word = (const atomic_uint_least64_t *)g->signals[peer] + slot;
    mf_wait wait = {0};
    while (atomic_load(word) < value) {
        mf_status status = mf_patience(comm->world, &wait);
        if (status == MF_ETIMEOUT) return mf_late_signal(comm, peer, slot, value, atomic_load(word));
        if (status) return status;
    }
    return MF_OK;
}
