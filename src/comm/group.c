/* group.c: a group of ranks: made, asked about, ended; and what every operation opens with and an error does
 * to all. */
#include "comm/ops.h"

#include <string.h>

mf_status mf_comm_give_up(mf_world *world) {
    mf_world_fail(world);
    mf_error first = *mf_error_last();
    for (mf_comm *c = world->comms; c; c = c->next)
        for (int i = 0; c->slots && i < MF_SLOTS; i++)
            if (c->slots[i].ticket && c->worker) mf_worker_wait(c->worker, c->slots[i].ticket);
    for (int i = 0; world->device && i < MF_QUEUES; i++) mf_device_finish(world->device, (mf_queue)i);
    return mf_error_adopt(&first);
}

mf_status mf_comm_enter(mf_world *world, int op, const char *axis) {
    if (mf_world_failed(world)) return mf_world_fail(world);
    if (mf_fault_hit(MF_FAULT_COMM))
        return MF_FAIL(MF_ECOMM, "injected failure of %s on axis %s", mf_op_name(op), axis);
    return MF_OK;
}

/* Lists that grow, as a mesh's do, can't: large worlds are not compared pair by pair. */
static bool names_twice(const int *ranks, int size, int *which) {
    bool ascending = true;
    for (int i = 1; i < size; i++) ascending &= ranks[i - 1] < ranks[i];
    for (int i = 0; i < size && !ascending; i++)
        for (int j = 0; j < i; j++)
            if (ranks[i] == ranks[j]) {
                *which = ranks[i];
                return true;
            }
    return false;
}

static mf_status check_ranks(const mf_world *world, const char *axis, const int *ranks, int size) {
    bool member = false;
    int twice = 0;
    for (int i = 0; i < size; i++) {
        member |= ranks[i] == world->rank;
        if (ranks[i] < 0 || ranks[i] >= world->size)
            return MF_FAIL(MF_EINVAL, "axis %s: rank %d of a world of %d", axis, ranks[i], world->size);
    }
    if (names_twice(ranks, size, &twice))
        return MF_FAIL(MF_EINVAL, "axis %s names rank %d twice", axis, twice);
    if (!member) return MF_FAIL(MF_EINVAL, "axis %s does not contain rank %d", axis, world->rank);
    return MF_OK;
}

static mf_status create(mf_world *world, const char *axis, const int *ranks, int size, mf_comm **out) {
    mf_status status;
    mf_comm *comm = NULL;
    MF_TRY(mf_comm_enter(world, MF_OP_CREATE, axis));
    MF_TRY(check_ranks(world, axis, ranks, size));
    MF_TRY(mf_host_alloc(1, sizeof *comm, &comm));
    comm->world = world;
    comm->size = size;
    comm->next = world->comms;
    world->comms = comm;
    mf_comm_reset_stats(comm);
    MF_GO(mf_host_strdup(axis, &comm->axis));
    MF_GO(mf_host_alloc((size_t)size, sizeof *ranks, &comm->ranks));
    memcpy(comm->ranks, ranks, (size_t)size * sizeof *ranks);
    while (ranks[comm->rank] != world->rank) comm->rank++;
    MF_GO(mf_nccl_check(world));
    MF_GO(mf_host_alloc((size_t)size + 1, sizeof *comm->parts, &comm->parts));
    MF_GO(world->engine->open(comm));
    *out = comm;
    return MF_OK;
fail:
    mf_comm_destroy(comm);
    return status;
}

mf_status mf_comm_create(mf_world *world, const char *axis, const int *ranks, int size, mf_comm **out) {
    *out = NULL;
    return create(world, axis, ranks, size, out) ? mf_comm_give_up(world) : MF_OK;
}

static int outstanding(const mf_comm *comm) {
    int n = 0;
    for (int i = 0; comm->slots && i < MF_SLOTS; i++) n += comm->slots[i].ticket != 0;
    return n;
}

static void leave_world(mf_comm *comm) {
    mf_comm **link = &comm->world->comms;
    while (*link != comm) link = &(*link)->next;
    *link = comm->next;
}

static void drop_events(mf_comm *comm) {
    for (int i = 0; comm->slots && i < MF_SLOTS; i++) {
        mf_event_destroy(comm->slots[i].ready);
        mf_event_destroy(comm->slots[i].done);
    }
}

void mf_comm_destroy(mf_comm *comm) {
    if (!comm) return;
    mf_error own = *mf_error_last();
    if (outstanding(comm)) {
        /* Peers may never start what this rank will not finish: without an error they would wait for each
         * other. */
        if (!own.status)
            MF_FAIL(MF_ECOMM, "axis %s ended with %d requests outstanding", comm->axis, outstanding(comm));
        mf_comm_give_up(comm->world);
        mf_error_adopt(&own);
    }
    leave_world(comm);
    mf_worker_destroy(comm->worker);
    drop_events(comm);
    mf_nccl_close(comm);
    comm->world->engine->close(comm);
    mf_host_free(comm->parts);
    mf_host_free(comm->slot_offsets);
    mf_host_free(comm->slots);
    mf_host_free(comm->ranks);
    mf_host_free(comm->axis);
    mf_host_free(comm);
}

int mf_comm_rank(const mf_comm *comm) { return comm->rank; }
int mf_comm_size(const mf_comm *comm) { return comm->size; }
const char *mf_comm_axis(const mf_comm *comm) { return comm->axis; }
bool mf_comm_borrows(const mf_comm *comm) { return comm->borrows; }

void mf_comm_stats(const mf_comm *comm, mf_comm_stat *stats) {
    memcpy(stats, comm->stats, sizeof comm->stats);
}

void mf_comm_reset_stats(mf_comm *comm) {
    for (int i = 0; i < MF_COMM_OPS; i++) comm->stats[i] = (mf_comm_stat){.op = mf_op_name(i)};
}

void mf_count_borrowed(mf_comm *comm, mf_comm_op op, int64_t bytes) {
    comm->stats[op].calls++;
    comm->stats[op].borrowed_bytes += bytes;
}
