/* ops.h: the table that an engine fills in. comm.c checks the arguments, counts and runs requests, then calls
 * through it; shared.c does so for memory that members share; world.c launches and keeps the first error;
 * agree.c compares what the members of a group called. */
#ifndef MF_COMM_OPS_H
#define MF_COMM_OPS_H

#include "meshfold/comm.h"

#include <pthread.h>
#include <stdatomic.h>

/* Blocking operations and requests have a lane each, so that neither waits for the other. */
enum { MF_LANE_MAIN, MF_LANE_REQUESTS, MF_LANES };
/* Of device memory a lane's transfers go in a queue each, too. */
static inline mf_queue mf_lane_queue(int lane) {
    return lane == MF_LANE_MAIN ? MF_QUEUE_COMPUTE : MF_QUEUE_TRANSFER;
}
/* Collective calls that have no counters of their own. */
enum { MF_OP_SHARED = MF_COMM_OPS, MF_OP_CREATE, MF_OP_KINDS };

/* Where a member's buffers are; NONE: it has none, or nobody asks because all memory is the host's. */
typedef enum mf_place { MF_PLACE_NONE, MF_PLACE_HOST, MF_PLACE_DEVICE } mf_place;

/* What members compare before data moves. Plain values: it travels as bytes. */
typedef struct mf_header {
    uint64_t sequence; /* how many operations this lane of the group has had, this one included */
    int32_t op, root;
    int32_t element_bytes; /* 1: bytes, 2: bf16, 4: f32, 8: f64 */
    int32_t failed;        /* this member could not do its part (shared memory) */
    int32_t place;         /* mf_place */
    int64_t count;         /* elements, the same everywhere */
    uint64_t layout;       /* allgather, reduce_scatter: a hash of the offsets */
    uint64_t send_bytes, recv_bytes;
} mf_header;

typedef struct mf_transfer {
    mf_header header;
    const void *send; /* [header.send_bytes] */
    void *recv;       /* [header.recv_bytes] */
    /* [size + 1] elements. allgather, alltoall: of recv; reduce_scatter: of the buffer */
    const size_t *offsets;
    const size_t *send_offsets; /* [size + 1] bytes of send; alltoall */
    bool queued;                /* not of the host's memory: the transfer is asked of the lane's queue */
    mf_event *ready, *done; /* requests that are queued: when the buffers are the transfer's, and the caller's
                               again */
} mf_transfer;

static inline size_t mf_block(const size_t *offsets, int member) {
    return offsets[member + 1] - offsets[member];
}

/* The first error among the ranks of this process. Once it is set every operation returns it. */
typedef struct mf_failure {
    pthread_mutex_t lock;
    atomic_bool set;
    mf_error error;
} mf_failure;

/* Every member is needed unless it says otherwise. None sees a group of one: comm.c serves that itself. An
 * engine that moves nothing has no transfer. */
typedef struct mf_engine {
    const char *name;
    bool at_once;          /* transfers wait for nobody: each is done when it was asked for */
    bool moves_nothing;    /* transfers take time by mf_costs alone; buffers may be addresses that nobody can
                              read */
    bool reduces_in_place; /* where the group borrows, a reduce reads its terms where they lie */
    mf_status (*launch)(const mf_launch_options *options, mf_rank_body body, void *argument);
    void (*wake)(mf_world *world);    /* optional: an error was set; wake whoever waits */
    void (*abort_peers)(int code);    /* optional: see mf_abort_peers */
    mf_status (*open)(mf_comm *comm); /* makes comm->state and sets comm->borrows */
    void (*close)(mf_comm *comm);     /* accepts a state that open left unfinished */
    /* Where it is queued: asks the lane's queue for it, and leaves the queue so that what comes behind may
     * use the buffers, whoever else reads them. */
    mf_status (*transfer)(mf_comm *comm, int lane, const mf_transfer *transfer);
    /* The same up to where data would move: all members have come, and agree. *device: a member's buffers are
     * a device's. */
    mf_status (*meet)(mf_comm *comm, int lane, const mf_transfer *transfer, bool *device);
    /* Fills out->own, out->peer (size entries, made by the caller) and out->handle. ready is MF_OK or the
     * error that this member already has; then it only tells the others. source: where this rank's memory
     * comes from. Called where comm->borrows. */
    mf_status (*shared_alloc)(mf_comm *comm, const mf_header *header, mf_status ready,
                              const mf_memory_source *source, mf_shared *out);
    void (*shared_free)(mf_comm *comm, mf_shared *shared);
    mf_status (*signal)(mf_comm *comm, int slot, uint64_t value);
    mf_status (*await)(mf_comm *comm, int peer, int slot, uint64_t value);
} mf_engine;

extern const mf_engine mf_engine_local, mf_engine_mpi, mf_engine_dry, mf_engine_one_of;

struct mf_world {
    const mf_engine *engine;
    int rank, size;
    double timeout_s;
    bool no_borrow;
    mf_failure *failure;
    mf_comm *comms;       /* this rank's groups: when it fails, their requests must end before it returns */
    void *state;          /* the engine's */
    mf_device *device;    /* whose memory buffers may be; NULL: all are the host's */
    struct mf_nccl *nccl; /* moves what is in devices' memory; NULL: the engine does */
    double link_free_s;   /* moves_nothing: when what was asked for last has been sent */
};

enum { MF_SLOTS = 64 };

/* One outstanding request. */
typedef struct mf_slot {
    struct mf_comm *comm;
    mf_transfer transfer;
    mf_event *ready, *done;   /* transfer's, made when first wanted */
    bool traced;              /* its times are wanted, which queues tell only to those who wait */
    uint64_t ticket;          /* 0: free */
    int64_t bytes;            /* that this rank sends */
    double done_s, elapsed_s; /* by the clock; where nothing moves, when it would have */
} mf_slot;

/* Used by its rank's thread only; requests read what does not change. */
struct mf_comm {
    mf_world *world;
    mf_comm *next; /* in world->comms */
    char *axis;
    int rank, size;
    int *ranks; /* [size] world ranks */
    bool borrows;
    uint64_t sequence[MF_LANES];
    mf_comm_stat stats[MF_COMM_OPS];
    uint64_t signalled[MF_SIGNALS];
    mf_worker *worker; /* made at the first request, like the two below */
    mf_slot *slots;
    size_t *slot_offsets; /* [slots, 2, size + 1] */
    size_t *parts;        /* [size + 1] the offsets of the reduce-scatter that is being called */
    struct mf_nccl_lane *nccl[MF_LANES]; /* made at a lane's first transfer by NCCL */
    void *state;                         /* the engine's */
};

/* What is accounted for so many bytes of shared memory, as mf_buffer_alloc does it: plans and measurements
 * compare to the byte. */
static inline size_t mf_shared_accounted(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

/* Every operation opens with this: it fails when another rank has, or when a test wants it to. */
mf_status mf_comm_enter(mf_world *world, int op, const char *axis);
/* Once the world has failed, requests end by themselves: wakes them and waits, also for what is queued, so
 * that whoever sees an error may free the buffers of what was under way. Returns the world's error. */
mf_status mf_comm_give_up(mf_world *world);

mf_status mf_failure_init(mf_failure *failure);
void mf_failure_destroy(mf_failure *failure);
static inline bool mf_world_failed(const mf_world *world) { return atomic_load(&world->failure->set); }
/* Sets the calling thread's last error as the world's, unless there is one; adopts the world's; returns its
 * status. */
mf_status mf_world_fail(mf_world *world);
/* A rank's body ended with `status`: an error is handed to the others, its whole trace kept. */
void mf_world_end(mf_world *world, mf_status status);

/* nccl.c: what engine nccl is beside the engine that launches its ranks. */
mf_status mf_nccl_launch(const mf_engine *base, const mf_launch_options *options, mf_rank_body body,
                         void *argument);
/* MF_OK when a group of this world can be made. */
mf_status mf_nccl_check(const mf_world *world);
mf_status mf_nccl_transfer(mf_comm *comm, int lane, const mf_transfer *transfer);
/* The group has ended; its links stay until the rank has. */
void mf_nccl_close(mf_comm *comm);
/* Ends what the ranks of this process have under way on their GPUs. */
void mf_nccl_wake(mf_world *world);

/* patience.c: polls so far and when the clock started; zero-initialised. */
typedef struct mf_wait {
    int polls;
    double start;
} mf_wait;
/* Between two looks at what is waited for. MF_OK: look again; MF_ETIMEOUT (not yet put into words), or the
 * world's error. */
mf_status mf_patience(mf_world *world, mf_wait *wait);

/* MF_OK when headers (one a member) name the same operation; else MF_ECOMM names two members that differ. */
mf_status mf_agree(const mf_comm *comm, const mf_header *headers);
/* MF_ECOMM unless what member `from` of an alltoall sends to member `to` is what that one expects. */
mf_status mf_agree_on_block(const mf_comm *comm, uint64_t sequence, int from, uint64_t sent, int to,
                            uint64_t expected);
/* MF_ETIMEOUT: this rank waited in vain for the members that `missing` (or NULL) returns true for. */
mf_status mf_late(const mf_comm *comm, const mf_header *header,
                  bool (*missing)(const void *context, int member), const void *context);
mf_status mf_late_signal(const mf_comm *comm, int peer, int slot, uint64_t value, uint64_t reached);

enum { MF_SUM_BLOCK = 1024 };
/* A block of elements while it is summed: terms are added in the order of the calls. */
typedef struct mf_sum {
    int64_t n;         /* at most MF_SUM_BLOCK */
    int element_bytes; /* of the terms and of what is stored; bf16 is added in f32 */
    union {
        float f32[MF_SUM_BLOCK];
        double f64[MF_SUM_BLOCK];
    } total;
} mf_sum;
/* term: [n] elements, the first of the sum. */
void mf_sum_begin(mf_sum *sum, int element_bytes, const void *term, int64_t n);
/* term: [sum->n] */
void mf_sum_add(mf_sum *sum, const void *term);
/* to: [sum->n], overwritten; may be where a term came from. */
void mf_sum_store(const mf_sum *sum, void *to);

#endif
