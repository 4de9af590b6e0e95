/* dry.c: the engine without peers. Each rank runs by itself, one after another; a transfer is counted and
 * timed (comm.c) and moves nothing; shared memory is an address that nobody reads. Counters and memory are
 * those of ranks that are threads. */
#include "comm/ops.h"

static _Alignas(64) char nowhere[64];

static mf_status dry_launch(const mf_launch_options *o, mf_rank_body body, void *argument) {
    mf_failure failure;
    mf_status status = MF_OK;
    int first = o->only ? o->only_rank : 0, end = o->only ? first + 1 : o->ranks, before = mf_rank_get();
    if (o->ranks < 1 || first < 0 || end > o->ranks)
        return MF_FAIL(MF_EINVAL, "ranks %d to %d of %d can't run dry", first, end - 1, o->ranks);
    MF_TRY(mf_failure_init(&failure));
    for (int rank = first; rank < end && !status; rank++) {
        mf_world world = {.engine = &mf_engine_dry,
                          .rank = rank,
                          .size = o->ranks,
                          .timeout_s = o->timeout_s,
                          .no_borrow = o->no_borrow,
                          .failure = &failure};
        mf_rank_set(rank);
        mf_costs_set(o->costs);
        if (o->costs) mf_clock_hold();
        status = body(&world, argument);
        mf_world_end(&world, status);
        mf_clock_release();
        mf_costs_set(NULL);
    }
    mf_rank_set(before);
    mf_failure_destroy(&failure);
    return status;
}

static mf_status dry_open(mf_comm *comm) {
    comm->borrows = !comm->world->no_borrow;
    return MF_OK;
}

static void dry_close(mf_comm *comm) { (void)comm; }

static mf_status dry_shared_alloc(mf_comm *comm, const mf_header *header, mf_status ready,
                                  const mf_memory_source *source, mf_shared *out) {
    (void)header, (void)source;
    if (ready) return ready;
    for (int r = 0; r < comm->size; r++) out->peer[r] = nowhere;
    out->own = out->handle = nowhere;
    return MF_OK;
}

static void dry_shared_free(mf_comm *comm, mf_shared *shared) { (void)comm, (void)shared; }

static mf_status dry_signal(mf_comm *comm, int slot, uint64_t value) {
    (void)comm, (void)slot, (void)value;
    return MF_OK;
}

static mf_status dry_await(mf_comm *comm, int peer, int slot, uint64_t value) {
    (void)comm, (void)peer, (void)slot, (void)value;
    return MF_OK;
}

const mf_engine mf_engine_dry = {
    .name = "dry",
    .moves_nothing = true,
    .reduces_in_place = true,
    .launch = dry_launch,
    .open = dry_open,
    .close = dry_close,
    .shared_alloc = dry_shared_alloc,
    .shared_free = dry_shared_free,
    .signal = dry_signal,
    .await = dry_await,
};
