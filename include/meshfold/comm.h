/* comm.h: groups of ranks that move data together.
 *
 *     static mf_status body(mf_world *world, void *argument) {      // one call a rank
 *         mf_comm *comm = NULL;
 *         int everyone[] = {0, 1, 2, 3};
 *         MF_TRY(mf_comm_create(world, "tsp", everyone, 4, &comm));
 *         MF_TRY(mf_broadcast(comm, buffer, bytes, 0, NULL));
 *         mf_comm_destroy(comm);
 *         return MF_OK;
 *     }
 *     MF_TRY(mf_launch(&(mf_launch_options){.engine = "local", .ranks = 4}, body, argument));
 *
 * Every operation is collective over its group: all members call it, in one order, with matching sizes; what
 * differs is found and refused by name. With a request the call returns at once and the transfer runs beside
 * the computation; its buffers belong to it until mf_finish. Requests of a group run in the order they were
 * started. When a rank fails, all others return its error instead of waiting. Errors: MF_ECOMM, MF_ETIMEOUT,
 * MF_ENOMEM. */
#ifndef MESHFOLD_COMM_H
#define MESHFOLD_COMM_H

#include "meshfold/device.h"

typedef struct mf_world mf_world; /* all ranks, as one rank sees them */
typedef struct mf_comm mf_comm;   /* the ranks of one axis, as one of them sees them */

typedef struct mf_launch_options {
    const char
        *engine; /* "local": ranks are threads of this process; "mpi": this process is one rank; "nccl": one
                    or the other (mpi under mpiexec), and GPUs' memory moves by NCCL, one GPU a rank; "dry":
                    each rank runs alone, one after another, and transfers are counted but move nothing;
                    "one-of": only_rank alone is computed, its peers' bytes are stand-ins */
    int ranks;   /* mpi: 0 takes as many as were started; any other number must be that one */
    double timeout_s;      /* a collective that waits longer fails; 0: 300 s */
    bool no_borrow;        /* send even where peers' memory can be addressed */
    bool only;             /* dry: run only_rank alone */
    int only_rank;         /* one-of too */
    const mf_costs *costs; /* dry: how long things take; NULL: nothing takes time */
} mf_launch_options;

typedef mf_status (*mf_rank_body)(mf_world *world, void *argument);

/* Runs body on every rank (mpi: on this one) and returns the first error. local: waits for all ranks. */
mf_status mf_launch(const mf_launch_options *options, mf_rank_body body, void *argument);
/* True where this process was started by mpiexec. */
bool mf_launched_by_mpi(void);
/* Ranks that mpiexec started; 1 outside it. Known without starting MPI. */
int mf_mpi_ranks(void);
/* Those of them on this machine, where mpiexec says it; else all. */
int mf_mpi_local_ranks(void);
/* This process's number among them, from 0. */
int mf_mpi_local_rank(void);
/* Ends the other ranks' processes, so that a rank whose mf_launch failed can print its error first. Under mpi
 * it ends this process too, with exit status `code`; elsewhere it does nothing. */
void mf_abort_peers(int code);
/* Text about the MPI library, or "" when built without. Static. */
const char *mf_mpi_description(void);

int mf_world_rank(const mf_world *world);
int mf_world_size(const mf_world *world);
/* "local", "mpi", "nccl", "dry" or "one-of". */
const char *mf_world_engine(const mf_world *world);
/* Of many ranks this one alone is computed: what came from others means nothing. */
bool mf_world_is_one_of(const mf_world *world);
/* This rank reports for all: the first, or the only one. */
bool mf_world_speaks(const mf_world *world);
/* This rank's number among those on this machine, from 0. */
int mf_world_local_rank(const mf_world *world);
/* From now on buffers may also be in this device's memory: all of a transfer's on all members, or none. Such
 * a transfer is a part of the device's queues: it begins when what was asked of the compute queue before it
 * is done, and what is asked of the compute queue after it (with a request: after mf_finish) begins when it
 * is done; the host does not wait. So are, to all members, mf_barrier, and mf_signal to those who await it.
 * Called before groups are made; the device outlives them. Does nothing on a device without queues. */
void mf_world_use(mf_world *world, mf_device *device);

/* The group of `ranks` (world ranks, the same list on each member, which calls this). Owned by the caller. */
mf_status mf_comm_create(mf_world *world, const char *axis, const int *ranks, int size, mf_comm **out);
/* Not collective. Accepts NULL. Outstanding requests must have been finished unless an error came. */
void mf_comm_destroy(mf_comm *comm);
int mf_comm_rank(const mf_comm *comm);
int mf_comm_size(const mf_comm *comm);
const char *mf_comm_axis(const mf_comm *comm);
/* True when members can read and write each other's mf_shared memory and --no-borrow was not given. */
bool mf_comm_borrows(const mf_comm *comm);

typedef struct mf_request {
    uint64_t ticket; /* 0: nothing outstanding */
    int op;
} mf_request;

mf_status mf_barrier(mf_comm *comm);
/* buffer: root's bytes arrive in everyone's. */
mf_status mf_broadcast(mf_comm *comm, void *buffer, size_t bytes, int root, mf_request *request);
/* recv holds rank r's bytes at offsets[r] .. offsets[r + 1] (size + 1 offsets, the same everywhere). send:
 * this rank's. */
mf_status mf_allgather(mf_comm *comm, const void *send, void *recv, const size_t *offsets,
                       mf_request *request);
/* buffer: [count] f32 on every rank; root's becomes the sum, added in rank order; the others' keep their
 * content. */
mf_status mf_reduce(mf_comm *comm, float *buffer, int64_t count, int root, mf_request *request);
/* buffer: [count] becomes the sum over ranks, added in rank order, on every rank. bf16 terms are added in f32
 * and rounded once, at the end. With engine nccl the order and the rounding of sums in GPUs' memory, here and
 * in mf_reduce and mf_reduce_scatter, are NCCL's. */
mf_status mf_allreduce(mf_comm *comm, void *buffer, int64_t count, mf_dtype type, mf_request *request);
/* The same for a few f64 numbers in the host's memory. */
mf_status mf_allreduce_f64(mf_comm *comm, double *buffer, int64_t count);
/* buffer: rank r's part is elements offsets[r] .. offsets[r + 1] (size + 1 offsets, the same everywhere;
 * parts may be empty). This rank's becomes the sum over ranks, added as mf_allreduce adds; the rest of buffer
 * keeps its content. */
mf_status mf_reduce_scatter(mf_comm *comm, void *buffer, const int64_t *offsets, mf_dtype type,
                            mf_request *request);
/* Rank r gets bytes send_offsets[r] .. send_offsets[r + 1] of send; what it sent to this rank arrives at
 * recv_offsets[r] .. recv_offsets[r + 1] of recv. This rank's own block is copied. Sizes may differ from pair
 * to pair; send and recv don't overlap. */
mf_status mf_alltoall(mf_comm *comm, const void *send, const size_t *send_offsets, void *recv,
                      const size_t *recv_offsets, mf_request *request);
/* One hop round the ring: send goes to rank - 1, recv comes from rank + 1. Sizes may differ from rank to
 * rank. */
mf_status mf_shift(mf_comm *comm, const void *send, size_t send_bytes, void *recv, size_t recv_bytes,
                   mf_request *request);
/* Waits for a started transfer. A request that is not outstanding returns MF_OK. */
mf_status mf_finish(mf_comm *comm, mf_request *request);

/* Gives a request up because this rank has failed: hands the thread's last error to all ranks and waits until
 * the transfer has let go of its buffers. For `fail:` labels; accepts a request that is not outstanding. */
void mf_abandon(mf_comm *comm, mf_request *request);

/* Memory that the group's members can address in each other, where mf_comm_borrows; else peers are NULL but
 * one's own. */
typedef struct mf_shared {
    void *own;
    void **peer; /* [size]; peer[rank] == own */
    size_t bytes;
    size_t most_bytes; /* set before where bytes differ from rank to rank: the most of any; else 0 */
    mf_category category;
    void *handle; /* the engine's */
} mf_shared;
/* Collective; bytes may differ from rank to rank: then *out is empty but for most_bytes. Accounted in
 * `memory`. Content is undefined. */
mf_status mf_shared_alloc(mf_comm *comm, mf_memory *memory, mf_category category, size_t bytes,
                          const char *what, mf_shared *out);
/* Not collective, but peers must be done reading: call it after a barrier, or after an error. Accepts an
 * empty one. */
void mf_shared_free(mf_comm *comm, mf_memory *memory, mf_shared *shared);

/* Signals order the reading and writing of shared memory: each member has a few counters that only grow. What
 * a rank wrote before mf_signal is seen by whoever has awaited that value. Where mf_comm_borrows only. */
enum { MF_SIGNALS = 8 };
mf_status mf_signal(mf_comm *comm, int slot, uint64_t value);
mf_status mf_await(mf_comm *comm, int peer, int slot, uint64_t value);
/* What this rank has signalled last; 0 at first. Members that signal in one order can count by it. */
uint64_t mf_signalled(const mf_comm *comm, int slot);

/* What a rank's group has moved, by operation. bytes: sent, by the ring convention; borrowed_bytes: read in
 * place. */
typedef struct mf_comm_stat {
    const char *op;
    int64_t calls, bytes, borrowed_bytes;
    double exposed_s, total_s; /* the rank stood still; the transfers took */
} mf_comm_stat;
enum { MF_COMM_OPS = 9 };
/* Fills stats[MF_COMM_OPS], one an operation (calls may be 0). */
void mf_comm_stats(const mf_comm *comm, mf_comm_stat *stats);
void mf_comm_reset_stats(mf_comm *comm);
typedef enum mf_comm_op {
    MF_OP_BARRIER,
    MF_OP_BROADCAST,
    MF_OP_ALLGATHER,
    MF_OP_REDUCE,
    MF_OP_ALLREDUCE,
    MF_OP_SHIFT,
    MF_OP_REDUCE_SCATTER,
    MF_OP_ALLTOALL,
    MF_OP_SIGNAL
} mf_comm_op;
/* "allgather", ... */
const char *mf_op_name(int op);
/* Counts bytes read in place under the operation that they replace. */
void mf_count_borrowed(mf_comm *comm, mf_comm_op op, int64_t bytes);

#endif
