/* local_shared.c: memory of ranks that are threads, which they address in each other. */
#include "comm/local_group.h"

typedef struct shared_set {
    atomic_int holders;
    struct {
        void *data;
        size_t bytes;
        mf_memory_source source;
        mf_event *left; /* what its owner asked for has come to an end; NULL: nothing is queued */
    } part[];           /* [size] */
} shared_set;

static mf_status take(const mf_memory_source *source, size_t bytes, void **out) {
    *out = NULL;
    if (!bytes) return MF_OK;
    *out = source->take(source->context, bytes);
    return *out ? MF_OK : MF_FAIL(MF_ENOMEM, "no memory for %zu shared bytes", bytes);
}

/* Member 0 makes the set, all put their memory into it; whoever frees last gives all of it back. A rank that
 * fails may free its part while peers still read it: the content then stays until they are done. Once all
 * have agreed, out->handle is the set, and this member holds it even if an error comes back. */
static mf_status shared_exchange(mf_comm *comm, const mf_header *header, shared_set *set, void *own,
                                 const mf_memory_source *source, mf_event *left, mf_shared *out) {
    mf_local_group *g = comm->state;
    mf_local_lane *l = &g->lanes[MF_LANE_MAIN];
    const mf_post *peers;
    bool met;
    mf_post post = {.shared = set, .recv = own};
    MF_TRY(mf_points_ready(&g->points[comm->rank], &(mf_transfer){.header = *header, .queued = true},
                           &post.ready));
    mf_status status = mf_local_exchange(comm, l, header, &post, &peers, &met);
    if (!met) return status;
    if (!status) {
        shared_set *common = peers[0].shared;
        common->part[comm->rank].data = own;
        common->part[comm->rank].bytes = out->bytes;
        common->part[comm->rank].source = *source;
        common->part[comm->rank].left = left;
        for (int r = 0; r < comm->size; r++) out->peer[r] = peers[r].recv;
        out->own = own;
        out->handle = common;
        status = mf_points_follow_ready(comm, MF_LANE_MAIN, header, peers);
    }
    mf_meeting_complete(&l->meeting, comm->size);
    return status;
}

/* A device's queue may still read what others share: from here on that can be waited for. */
static void leave_set(const mf_comm *comm, const shared_set *set) {
    mf_event *left = set->part[comm->rank].left;
    mf_device *device = comm->world->device;
    if (left && mf_event_record(device, MF_QUEUE_COMPUTE, left)) mf_device_finish(device, MF_QUEUE_COMPUTE);
}

void mf_local_shared_free(mf_comm *comm, mf_shared *shared) {
    shared_set *set = shared->handle;
    leave_set(comm, set);
    if (atomic_fetch_sub(&set->holders, 1) > 1) return;
    for (int r = 0; r < comm->size; r++)
        if (set->part[r].left) mf_event_wait(set->part[r].left);
    for (int r = 0; r < comm->size; r++) {
        const mf_memory_source *source = &set->part[r].source;
        source->give_back(source->context, set->part[r].data, set->part[r].bytes);
        mf_event_destroy(set->part[r].left);
    }
    mf_host_free(set);
}

static mf_status leave_failing(mf_comm *comm, mf_shared *shared) {
    mf_error first = *mf_error_last();
    mf_local_shared_free(comm, shared);
    return mf_error_adopt(&first);
}

mf_status mf_local_shared_alloc(mf_comm *comm, const mf_header *header, mf_status ready,
                                const mf_memory_source *source, mf_shared *out) {
    mf_status status = ready;
    shared_set *set = NULL;
    void *own = NULL;
    mf_event *left = NULL;
    if (status) return status;
    MF_TRY(take(source, out->bytes, &own));
    if (comm->rank == 0) {
        MF_GO(mf_host_alloc(1, sizeof *set + (size_t)comm->size * sizeof set->part[0], &set));
        atomic_init(&set->holders, comm->size);
    }
    if (comm->world->device) MF_GO(mf_event_create(comm->world->device, &left));
    status = shared_exchange(comm, header, set, own, source, left, out);
    if (out->handle) return status ? leave_failing(comm, out) : MF_OK;
fail:
    mf_event_destroy(left);
    mf_host_free(set);
    source->give_back(source->context, own, out->bytes);
    return status;
}
