/* comm.c: a group's operations: arguments checked, requests run beside the caller, bytes and times counted.
 */
#include "comm/ops.h"

#include <string.h>

enum { SLOTS = 16 };

struct mf_slot {
    mf_comm *comm;
    mf_transfer transfer;
    uint64_t ticket; /* 0: free */
    double elapsed_s;
};

/* Once the world has failed, requests end by themselves: wakes them and waits, so that whoever sees an error
 * may free the buffers of what was under way. */
static mf_status give_up(mf_world *world) {
    mf_world_fail(world);
    mf_error first = *mf_error_last();
    for (mf_comm *c = world->comms; c; c = c->next)
        for (int i = 0; c->slots && i < SLOTS; i++)
            if (c->slots[i].ticket) mf_worker_wait(c->worker, c->slots[i].ticket);
    return mf_error_adopt(&first);
}

/* Every operation opens with this: it fails when another rank has, or when a test wants it to. */
static mf_status enter(mf_world *world, int op, const char *axis) {
    if (mf_world_failed(world)) return mf_world_fail(world);
    if (mf_fault_hit(MF_FAULT_COMM))
        return MF_FAIL(MF_ECOMM, "injected failure of %s on axis %s", mf_op_name(op), axis);
    return MF_OK;
}

static mf_status check_ranks(const mf_world *world, const char *axis, const int *ranks, int size) {
    bool member = false;
    for (int i = 0; i < size; i++) {
        member |= ranks[i] == world->rank;
        if (ranks[i] < 0 || ranks[i] >= world->size)
            return MF_FAIL(MF_EINVAL, "axis %s: rank %d of a world of %d", axis, ranks[i], world->size);
        for (int j = 0; j < i; j++)
            if (ranks[i] == ranks[j])
                return MF_FAIL(MF_EINVAL, "axis %s names rank %d twice", axis, ranks[i]);
    }
    if (!member) return MF_FAIL(MF_EINVAL, "axis %s does not contain rank %d", axis, world->rank);
    return MF_OK;
}

static mf_status create(mf_world *world, const char *axis, const int *ranks, int size, mf_comm **out) {
    mf_status status;
    mf_comm *comm = NULL;
    MF_TRY(enter(world, MF_OP_CREATE, axis));
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
    MF_GO(world->engine->open(comm));
    *out = comm;
    return MF_OK;
fail:
    mf_comm_destroy(comm);
    return status;
}

mf_status mf_comm_create(mf_world *world, const char *axis, const int *ranks, int size, mf_comm **out) {
    *out = NULL;
    return create(world, axis, ranks, size, out) ? give_up(world) : MF_OK;
}

static int outstanding(const mf_comm *comm) {
    int n = 0;
    for (int i = 0; comm->slots && i < SLOTS; i++) n += comm->slots[i].ticket != 0;
    return n;
}

static void leave_world(mf_comm *comm) {
    mf_comm **link = &comm->world->comms;
    while (*link != comm) link = &(*link)->next;
    *link = comm->next;
}

void mf_comm_destroy(mf_comm *comm) {
    if (!comm) return;
    mf_error own = *mf_error_last();
    if (outstanding(comm)) {
        /* Peers may never start what this rank will not finish: without an error they would wait for each
         * other. */
        if (!own.status)
            MF_FAIL(MF_ECOMM, "axis %s ended with %d requests outstanding", comm->axis, outstanding(comm));
        give_up(comm->world);
        mf_error_adopt(&own);
    }
    leave_world(comm);
    mf_worker_destroy(comm->worker);
    comm->world->engine->close(comm);
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

/* What this rank sends when the payload goes round the ring. A broadcast is a chain that ends just before its
 * root, a reduce one that ends at it. */
static int64_t ring_bytes(const mf_comm *comm, const mf_transfer *t) {
    const mf_header *h = &t->header;
    int64_t payload = h->count * h->element_bytes;
    int next = (comm->rank + 1) % comm->size;
    switch (h->op) {
    case MF_OP_BROADCAST:
        return next == h->root ? 0 : payload;
    case MF_OP_REDUCE:
        return comm->rank == h->root ? 0 : payload;
    case MF_OP_ALLGATHER:
        return payload - (int64_t)(t->offsets[next + 1] - t->offsets[next]);
    case MF_OP_ALLREDUCE:
        return 2 * payload * (comm->size - 1) / comm->size;
    case MF_OP_SHIFT:
        return (int64_t)h->send_bytes;
    default:
        return 0;
    }
}

static void count_call(mf_comm *comm, const mf_transfer *t) {
    mf_comm_stat *stat = &comm->stats[t->header.op];
    bool in_place = t->header.op == MF_OP_REDUCE && comm->borrows && comm->world->engine->reduces_in_place;
    int64_t bytes = comm->size > 1 ? ring_bytes(comm, t) : 0;
    stat->calls++;
    *(in_place ? &stat->borrowed_bytes : &stat->bytes) += bytes;
}

static mf_status check_offsets(const mf_comm *comm, const size_t *offsets) {
    if (!offsets) return MF_FAIL(MF_EINVAL, "allgather on axis %s without offsets", comm->axis);
    for (int r = 0; r < comm->size; r++)
        if (offsets[r] > offsets[r + 1])
            return MF_FAIL(MF_EINVAL, "allgather on axis %s: the offsets of rank %d fall from %zu to %zu",
                           comm->axis, comm->ranks[r], offsets[r], offsets[r + 1]);
    return MF_OK;
}

static mf_status check(const mf_comm *comm, const mf_transfer *t) {
    const mf_header *h = &t->header;
    const char *name = mf_op_name(h->op);
    if (h->root < 0 || h->root >= comm->size)
        return MF_FAIL(MF_EINVAL, "%s on axis %s: root %d of %d ranks", name, comm->axis, (int)h->root,
                       comm->size);
    if (h->count < 0)
        return MF_FAIL(MF_EINVAL, "%s on axis %s: %lld elements", name, comm->axis, (long long)h->count);
    if ((h->send_bytes && !t->send) || (h->recv_bytes && !t->recv))
        return MF_FAIL(MF_EINVAL, "%s on axis %s: no buffer given", name, comm->axis);
    return MF_OK;
}

/* A group of one moves nothing between ranks; its own part still goes where the caller expects it. */
static mf_status transfer_alone(mf_comm *comm, const mf_transfer *t) {
    MF_TRY(mf_agree(comm, &t->header));
    char *to = t->recv;
    if (t->header.op == MF_OP_ALLGATHER && t->header.send_bytes) to += t->offsets[0];
    if (t->header.send_bytes && to != t->send) memmove(to, t->send, t->header.send_bytes);
    return MF_OK;
}

static mf_status transfer_now(mf_comm *comm, mf_transfer *t) {
    mf_comm_stat *stat = &comm->stats[t->header.op];
    double start = mf_now_s();
    t->header.sequence = ++comm->sequence[MF_LANE_MAIN];
    MF_TRY(comm->size == 1 ? transfer_alone(comm, t) : comm->world->engine->transfer(comm, MF_LANE_MAIN, t));
    double elapsed = mf_now_s() - start;
    stat->total_s += elapsed;
    stat->exposed_s += elapsed;
    return MF_OK;
}

static mf_status run_slot(void *argument) {
    mf_slot *slot = argument;
    mf_comm *comm = slot->comm;
    double start = mf_now_s();
    if (comm->world->engine->transfer(comm, MF_LANE_REQUESTS, &slot->transfer))
        return mf_world_fail(comm->world);
    slot->elapsed_s = mf_now_s() - start;
    return MF_OK;
}

static mf_status open_request_lane(mf_comm *comm) {
    if (comm->worker) return MF_OK;
    size_t offsets = (size_t)comm->size + 1;
    if (!comm->slots) MF_TRY(mf_host_alloc(SLOTS, sizeof *comm->slots, &comm->slots));
    if (!comm->slot_offsets)
        MF_TRY(mf_host_alloc(SLOTS * offsets, sizeof *comm->slot_offsets, &comm->slot_offsets));
    MF_TRY(mf_worker_create(comm->world->rank, &comm->worker));
    return MF_OK;
}

static mf_slot *slot_find(mf_comm *comm, uint64_t ticket) {
    for (int i = 0; comm->slots && i < SLOTS; i++)
        if (comm->slots[i].ticket == ticket) return &comm->slots[i];
    return NULL;
}

static mf_status transfer_later(mf_comm *comm, const mf_transfer *t, mf_request *request) {
    MF_TRY(open_request_lane(comm));
    mf_slot *slot = slot_find(comm, 0);
    if (!slot) return MF_FAIL(MF_ECOMM, "axis %s: more than %d requests outstanding", comm->axis, SLOTS);
    slot->comm = comm;
    slot->transfer = *t;
    slot->transfer.header.sequence = ++comm->sequence[MF_LANE_REQUESTS];
    if (t->offsets) {
        /* The caller's array need not outlive the call. */
        size_t n = (size_t)comm->size + 1;
        size_t *copy = comm->slot_offsets + (size_t)(slot - comm->slots) * n;
        memcpy(copy, t->offsets, n * sizeof *copy);
        slot->transfer.offsets = copy;
    }
    MF_TRY(mf_worker_post(comm->worker, run_slot, slot, &slot->ticket));
    *request = (mf_request){.ticket = slot->ticket, .op = t->header.op};
    return MF_OK;
}

static mf_status transfer_try(mf_comm *comm, mf_transfer *t, mf_request *request) {
    MF_TRY(enter(comm->world, t->header.op, comm->axis));
    MF_TRY(check(comm, t));
    count_call(comm, t);
    /* Alone there is nobody to wait for: the request is done before it is returned. */
    if (request && comm->size > 1)
        MF_TRY(transfer_later(comm, t, request));
    else
        MF_TRY(transfer_now(comm, t));
    return MF_OK;
}

static mf_status transfer(mf_comm *comm, mf_transfer *t, mf_request *request) {
    if (request) *request = (mf_request){0};
    return transfer_try(comm, t, request) ? give_up(comm->world) : MF_OK;
}

mf_status mf_barrier(mf_comm *comm) {
    return transfer(comm, &(mf_transfer){.header = {.op = MF_OP_BARRIER, .element_bytes = 1}}, NULL);
}

mf_status mf_broadcast(mf_comm *comm, void *buffer, size_t bytes, int root, mf_request *request) {
    mf_header header = {.op = MF_OP_BROADCAST,
                        .root = root,
                        .element_bytes = 1,
                        .count = (int64_t)bytes,
                        .send_bytes = comm->size > 1 ? bytes : 0,
                        .recv_bytes = bytes};
    return transfer(comm, &(mf_transfer){.header = header, .send = buffer, .recv = buffer}, request);
}

mf_status mf_allgather(mf_comm *comm, const void *send, void *recv, const size_t *offsets,
                       mf_request *request) {
    if (check_offsets(comm, offsets)) return give_up(comm->world);
    mf_header header = {.op = MF_OP_ALLGATHER,
                        .element_bytes = 1,
                        .count = (int64_t)(offsets[comm->size] - offsets[0]),
                        .send_bytes = offsets[comm->rank + 1] - offsets[comm->rank],
                        .recv_bytes = offsets[comm->size] - offsets[0],
                        .layout = 14695981039346656037u};
    for (int r = 0; r <= comm->size; r++)
        header.layout = (header.layout ^ offsets[r]) * 1099511628211u; /* FNV-1a */
    return transfer(comm, &(mf_transfer){.header = header, .send = send, .recv = recv, .offsets = offsets},
                    request);
}

/* Sums are made in place: buffer is both sent and received. */
static mf_status sum(mf_comm *comm, int op, void *buffer, int64_t count, int element_bytes, int root,
                     mf_request *request) {
    uint64_t bytes = comm->size > 1 && count > 0 ? (uint64_t)count * (uint64_t)element_bytes : 0;
    mf_header header = {.op = op,
                        .root = root,
                        .element_bytes = element_bytes,
                        .count = count,
                        .send_bytes = bytes,
                        .recv_bytes = bytes};
    return transfer(comm, &(mf_transfer){.header = header, .send = buffer, .recv = buffer}, request);
}

mf_status mf_reduce(mf_comm *comm, float *buffer, int64_t count, int root, mf_request *request) {
    return sum(comm, MF_OP_REDUCE, buffer, count, 4, root, request);
}

mf_status mf_allreduce_f32(mf_comm *comm, float *buffer, int64_t count) {
    return sum(comm, MF_OP_ALLREDUCE, buffer, count, 4, 0, NULL);
}

mf_status mf_allreduce_f64(mf_comm *comm, double *buffer, int64_t count) {
    return sum(comm, MF_OP_ALLREDUCE, buffer, count, 8, 0, NULL);
}

mf_status mf_shift(mf_comm *comm, const void *send, size_t send_bytes, void *recv, size_t recv_bytes,
                   mf_request *request) {
    mf_header header = {
        .op = MF_OP_SHIFT, .element_bytes = 1, .send_bytes = send_bytes, .recv_bytes = recv_bytes};
    return transfer(comm, &(mf_transfer){.header = header, .send = send, .recv = recv}, request);
}

mf_status mf_finish(mf_comm *comm, mf_request *request) {
    if (!request->ticket) return MF_OK;
    mf_slot *slot = slot_find(comm, request->ticket);
    *request = (mf_request){.op = request->op};
    if (!slot) {
        MF_FAIL(MF_EINVAL, "axis %s: mf_finish of a request that it did not start", comm->axis);
        return give_up(comm->world);
    }
    mf_comm_stat *stat = &comm->stats[slot->transfer.header.op];
    double start = mf_now_s();
    mf_status status = mf_worker_wait(comm->worker, slot->ticket);
    stat->exposed_s += mf_now_s() - start;
    stat->total_s += slot->elapsed_s;
    slot->ticket = 0;
    return status ? give_up(comm->world) : MF_OK;
}

void mf_abandon(mf_comm *comm, mf_request *request) {
    if (!request->ticket) return;
    mf_error own = *mf_error_last();
    mf_slot *slot = slot_find(comm, request->ticket);
    if (!own.status) MF_FAIL(MF_ECOMM, "axis %s: a %s was given up", comm->axis, mf_op_name(request->op));
    give_up(comm->world);
    mf_error_adopt(&own);
    if (slot) slot->ticket = 0;
    *request = (mf_request){0};
}

/* What mf_buffer_alloc accounts for as many bytes: plans and measurements compare to the byte. */
static size_t accounted(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

static mf_status shared_own(mf_comm *comm, mf_memory *memory, const char *what, mf_shared *out) {
    mf_buffer buffer = {0};
    MF_TRY(mf_buffer_alloc(memory, out->category, out->bytes, what, &buffer));
    out->own = out->peer[comm->rank] = buffer.data;
    return MF_OK;
}

static mf_status shared_peers(mf_comm *comm, mf_memory *memory, const char *what, mf_shared *out) {
    mf_header header = {.op = MF_OP_SHARED, .element_bytes = 1, .sequence = ++comm->sequence[MF_LANE_MAIN]};
    size_t bytes = accounted(out->bytes);
    mf_status ready = mf_memory_account(memory, out->category, bytes, what);
    mf_status status = comm->world->engine->shared_alloc(comm, &header, ready, out);
    if (status && !ready) mf_memory_release(memory, out->category, bytes);
    return status;
}

static mf_status shared_alloc(mf_comm *comm, mf_memory *memory, const char *what, mf_shared *out) {
    MF_TRY(enter(comm->world, MF_OP_SHARED, comm->axis));
    if (out->bytes > SIZE_MAX / 4) return MF_FAIL(MF_ENOMEM, "%zu shared bytes for %s", out->bytes, what);
    MF_TRY(mf_host_alloc((size_t)comm->size, sizeof *out->peer, &out->peer));
    mf_status status = comm->borrows && comm->size > 1 ? shared_peers(comm, memory, what, out)
                                                       : shared_own(comm, memory, what, out);
    if (status) mf_host_free(out->peer);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

mf_status mf_shared_alloc(mf_comm *comm, mf_memory *memory, mf_category category, size_t bytes,
                          const char *what, mf_shared *out) {
    *out = (mf_shared){.bytes = bytes, .category = category};
    if (!shared_alloc(comm, memory, what, out)) return MF_OK;
    *out = (mf_shared){0};
    return give_up(comm->world);
}

void mf_shared_free(mf_comm *comm, mf_memory *memory, mf_shared *shared) {
    if (!shared || !shared->peer) return;
    size_t bytes = accounted(shared->bytes);
    if (shared->handle) {
        comm->world->engine->shared_free(comm, shared);
        mf_memory_release(memory, shared->category, bytes);
    } else {
        mf_buffer_free(memory,
                       &(mf_buffer){.data = shared->own, .bytes = bytes, .category = shared->category});
    }
    mf_host_free(shared->peer);
    *shared = (mf_shared){0};
}

static mf_status check_signal(const mf_comm *comm, int peer, int slot) {
    MF_TRY(enter(comm->world, MF_OP_SIGNAL, comm->axis));
    if (!comm->borrows) return MF_FAIL(MF_EINVAL, "signals on axis %s, which does not borrow", comm->axis);
    if (peer < 0 || peer >= comm->size)
        return MF_FAIL(MF_EINVAL, "signal on axis %s: member %d of %d", comm->axis, peer, comm->size);
    if (slot < 0 || slot >= MF_SIGNALS)
        return MF_FAIL(MF_EINVAL, "signal on axis %s: slot %d of %d", comm->axis, slot, (int)MF_SIGNALS);
    return MF_OK;
}

static mf_status signal_try(mf_comm *comm, int slot, uint64_t value) {
    MF_TRY(check_signal(comm, comm->rank, slot));
    MF_TRY(comm->world->engine->signal(comm, slot, value));
    comm->stats[MF_OP_SIGNAL].calls++;
    return MF_OK;
}

mf_status mf_signal(mf_comm *comm, int slot, uint64_t value) {
    return signal_try(comm, slot, value) ? give_up(comm->world) : MF_OK;
}

static mf_status await_try(mf_comm *comm, int peer, int slot, uint64_t value) {
    MF_TRY(check_signal(comm, peer, slot));
    mf_comm_stat *stat = &comm->stats[MF_OP_SIGNAL];
    double start = mf_now_s();
    MF_TRY(comm->world->engine->await(comm, peer, slot, value));
    double elapsed = mf_now_s() - start;
    stat->calls++;
    stat->exposed_s += elapsed;
    stat->total_s += elapsed;
    return MF_OK;
}

mf_status mf_await(mf_comm *comm, int peer, int slot, uint64_t value) {
    return await_try(comm, peer, slot, value) ? give_up(comm->world) : MF_OK;
}
