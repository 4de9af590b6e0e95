/* comm.c: a group's operations: arguments checked, requests run beside the caller, bytes and times counted.
 */
#include "comm/ops.h"

#include <string.h>

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
        return payload - (int64_t)mf_block(t->offsets, next);
    case MF_OP_ALLREDUCE:
        return 2 * payload * (comm->size - 1) / comm->size;
    case MF_OP_SHIFT:
        return (int64_t)h->send_bytes;
    case MF_OP_REDUCE_SCATTER:
        return payload - (int64_t)mf_block(t->offsets, comm->rank) * h->element_bytes;
    case MF_OP_ALLTOALL:
        return (int64_t)(h->send_bytes - mf_block(t->send_offsets, comm->rank));
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

/* what: "offsets", and whose where an operation has two. */
static mf_status check_offsets(const mf_comm *comm, int op, const char *what, const size_t *offsets) {
    const char *name = mf_op_name(op);
    if (!offsets) return MF_FAIL(MF_EINVAL, "%s on axis %s without %s", name, comm->axis, what);
    for (int r = 0; r < comm->size; r++)
        if (offsets[r] > offsets[r + 1])
            return MF_FAIL(MF_EINVAL, "%s on axis %s: the %s of rank %d fall from %zu to %zu", name,
                           comm->axis, what, comm->ranks[r], offsets[r], offsets[r + 1]);
    return MF_OK;
}

/* Checks the signed offsets of a reduce-scatter and keeps them in comm->parts. */
static mf_status take_parts(mf_comm *comm, const int64_t *offsets) {
    if (!offsets) return MF_FAIL(MF_EINVAL, "reduce_scatter on axis %s without offsets", comm->axis);
    if (offsets[0] < 0)
        return MF_FAIL(MF_EINVAL, "reduce_scatter on axis %s: the offsets begin at %lld", comm->axis,
                       (long long)offsets[0]);
    for (int r = 0; r < comm->size; r++)
        if (offsets[r] > offsets[r + 1])
            return MF_FAIL(MF_EINVAL,
                           "reduce_scatter on axis %s: the offsets of rank %d fall from %lld to %lld",
                           comm->axis, comm->ranks[r], (long long)offsets[r], (long long)offsets[r + 1]);
    for (int r = 0; r <= comm->size; r++) comm->parts[r] = (size_t)offsets[r];
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

static mf_place place_of(const mf_device *device, const void *data, uint64_t bytes) {
    if (!bytes) return MF_PLACE_NONE;
    return mf_device_holds(device, data) ? MF_PLACE_DEVICE : MF_PLACE_HOST;
}

static mf_status find_place(const mf_comm *comm, mf_transfer *t) {
    const mf_device *device = comm->world->device;
    mf_header *h = &t->header;
    if (!device) return MF_OK;
    mf_place from = place_of(device, t->send, h->send_bytes);
    mf_place to = t->recv == t->send && from ? from : place_of(device, t->recv, h->recv_bytes);
    if (from && to && from != to)
        return MF_FAIL(MF_EINVAL, "%s on axis %s: one buffer is in the host's memory, the other in a GPU's",
                       mf_op_name(h->op), comm->axis);
    h->place = (int32_t)(from ? from : to);
    if (h->place == MF_PLACE_DEVICE && h->element_bytes == 8)
        return MF_FAIL(MF_EINVAL, "%s on axis %s: f64 numbers in a GPU's memory, where none are summed",
                       mf_op_name(h->op), comm->axis);
    t->queued = h->place != MF_PLACE_HOST;
    return MF_OK;
}

/* A group of one moves nothing between ranks; its own part still goes where the caller expects it. */
static mf_status transfer_alone(mf_comm *comm, const mf_transfer *t) {
    const mf_header *h = &t->header;
    MF_TRY(mf_agree(comm, h));
    if (h->op == MF_OP_ALLTOALL)
        MF_TRY(mf_agree_on_block(comm, h->sequence, 0, h->send_bytes, 0, h->recv_bytes));
    if (!h->send_bytes) return MF_OK;
    char *to = t->recv;
    const char *from = t->send;
    if (t->offsets) to += t->offsets[0];
    if (t->send_offsets) from += t->send_offsets[0];
    if (t->queued) return mf_copy(comm->world->device, MF_QUEUE_COMPUTE, to, from, h->send_bytes);
    if (to != from) memmove(to, from, h->send_bytes);
    return MF_OK;
}

static double takes_s(const mf_comm *comm, const mf_transfer *t) {
    const mf_costs *costs = mf_costs_get();
    if (!costs || comm->size == 1) return 0;
    mf_transfer_cost cost = {.op = t->header.op,
                             .bytes = (double)ring_bytes(comm, t),
                             .payload = (double)t->header.count * (double)t->header.element_bytes,
                             .ranks = comm->ranks,
                             .size = comm->size};
    return costs->transfer_s(costs, &cost);
}

/* The rank's transfers go one after another, whatever their groups: they share its link. */
static double send_dry(const mf_comm *comm, const mf_transfer *t, double *took_s) {
    mf_world *world = comm->world;
    double now = mf_now_s(), begin = now > world->link_free_s ? now : world->link_free_s;
    *took_s = takes_s(comm, t);
    return world->link_free_s = begin + *took_s;
}

static mf_status move(mf_comm *comm, int lane, const mf_transfer *t) {
    const mf_world *world = comm->world;
    if (world->nccl && t->queued && t->header.op != MF_OP_BARRIER) return mf_nccl_transfer(comm, lane, t);
    if (t->ready) MF_TRY(mf_event_follow(world->device, mf_lane_queue(lane), t->ready));
    MF_TRY(world->engine->transfer(comm, lane, t));
    return t->done ? mf_event_record(world->device, mf_lane_queue(lane), t->done) : MF_OK;
}

static mf_status carry_out(mf_comm *comm, const mf_transfer *t) {
    double took_s = 0;
    if (comm->world->engine->moves_nothing)
        mf_clock_advance(send_dry(comm, t, &took_s) - mf_now_s());
    else if (comm->size > 1)
        return move(comm, MF_LANE_MAIN, t);
    else
        return transfer_alone(comm, t);
    return MF_OK;
}

/* Where a trace is held: what this rank sent, and until when. */
static void trace_transfer(const mf_comm *comm, int op, int64_t bytes, double done_s, double took_s) {
    if (comm->size > 1) mf_trace_add(comm->axis, mf_op_name(op), done_s - took_s, done_s, (double)bytes);
}

/* A queue tells when a transfer has begun and ended only to those who wait, which traces are worth. */
static mf_status settle_for_trace(const mf_comm *comm, const mf_transfer *t) {
    return t->queued && mf_trace_held() ? mf_device_finish(comm->world->device, MF_QUEUE_COMPUTE) : MF_OK;
}

static mf_status transfer_now(mf_comm *comm, mf_transfer *t) {
    mf_comm_stat *stat = &comm->stats[t->header.op];
    MF_TRY(settle_for_trace(comm, t));
    double start = mf_now_s();
    t->header.sequence = ++comm->sequence[MF_LANE_MAIN];
    MF_TRY(carry_out(comm, t));
    MF_TRY(settle_for_trace(comm, t));
    double elapsed = mf_now_s() - start;
    stat->total_s += elapsed;
    stat->exposed_s += elapsed;
    if (mf_trace_held()) trace_transfer(comm, t->header.op, ring_bytes(comm, t), start + elapsed, elapsed);
    return MF_OK;
}

static mf_status run_slot(void *argument) {
    mf_slot *slot = argument;
    mf_comm *comm = slot->comm;
    double start = mf_now_s();
    if (move(comm, MF_LANE_REQUESTS, &slot->transfer)) return mf_world_fail(comm->world);
    if (slot->traced && mf_event_wait(slot->done)) return mf_world_fail(comm->world);
    slot->done_s = mf_now_s();
    slot->elapsed_s = slot->done_s - start;
    return MF_OK;
}

static mf_status reserve_slots(mf_comm *comm) {
    return comm->slots ? MF_OK : mf_host_alloc(MF_SLOTS, sizeof *comm->slots, &comm->slots);
}

static mf_status open_request_lane(mf_comm *comm) {
    if (comm->worker) return MF_OK;
    size_t offsets = 2 * ((size_t)comm->size + 1);
    MF_TRY(reserve_slots(comm));
    if (!comm->slot_offsets)
        MF_TRY(mf_host_alloc(MF_SLOTS * offsets, sizeof *comm->slot_offsets, &comm->slot_offsets));
    MF_TRY(mf_worker_create(comm->world->rank, &comm->worker));
    return MF_OK;
}

static mf_slot *slot_find(mf_comm *comm, uint64_t ticket) {
    for (int i = 0; comm->slots && i < MF_SLOTS; i++)
        if (comm->slots[i].ticket == ticket) return &comm->slots[i];
    return NULL;
}

/* The caller's arrays need not outlive the call. */
static void keep_offsets(const mf_comm *comm, mf_slot *slot) {
    size_t n = (size_t)comm->size + 1;
    size_t *own = comm->slot_offsets + (size_t)(slot - comm->slots) * 2 * n;
    mf_transfer *t = &slot->transfer;
    if (t->offsets) t->offsets = memcpy(own, t->offsets, n * sizeof *own);
    if (t->send_offsets) t->send_offsets = memcpy(own + n, t->send_offsets, n * sizeof *own);
}

static void wait_dry(mf_comm *comm, const mf_slot *slot) {
    double now = mf_now_s();
    mf_clock_advance(slot->done_s - now);
    comm->stats[slot->transfer.header.op].exposed_s += mf_now_s() - now;
}

/* A request that nothing carries out: only when it would be done is known. */
static mf_status transfer_dry(mf_comm *comm, const mf_transfer *t, mf_request *request) {
    MF_TRY(reserve_slots(comm));
    mf_slot *slot = slot_find(comm, 0);
    if (!slot) return MF_FAIL(MF_ECOMM, "axis %s: more than %d requests outstanding", comm->axis, MF_SLOTS);
    slot->transfer = *t;
    slot->bytes = ring_bytes(comm, t);
    slot->done_s = send_dry(comm, t, &slot->elapsed_s);
    if (mf_costs_get() && !mf_costs_get()->overlaps) wait_dry(comm, slot);
    slot->ticket = ++comm->sequence[MF_LANE_REQUESTS];
    *request = (mf_request){.ticket = slot->ticket, .op = t->header.op};
    return MF_OK;
}

/* The buffers are the request's from this point of the compute queue on. */
static mf_status mark_ready(const mf_comm *comm, mf_slot *slot) {
    mf_device *device = comm->world->device;
    mf_transfer *t = &slot->transfer;
    slot->traced = t->queued && mf_trace_held();
    if (!t->queued) return MF_OK;
    if (!slot->ready) MF_TRY(mf_event_create(device, &slot->ready));
    if (!slot->done) MF_TRY(mf_event_create(device, &slot->done));
    t->ready = slot->ready;
    t->done = slot->done;
    return mf_event_record(device, MF_QUEUE_COMPUTE, slot->ready);
}

static mf_status transfer_later(mf_comm *comm, const mf_transfer *t, mf_request *request) {
    MF_TRY(open_request_lane(comm));
    mf_slot *slot = slot_find(comm, 0);
    if (!slot) return MF_FAIL(MF_ECOMM, "axis %s: more than %d requests outstanding", comm->axis, MF_SLOTS);
    slot->comm = comm;
    slot->transfer = *t;
    slot->transfer.header.sequence = ++comm->sequence[MF_LANE_REQUESTS];
    slot->bytes = ring_bytes(comm, t);
    keep_offsets(comm, slot);
    MF_TRY(mark_ready(comm, slot));
    MF_TRY(mf_worker_post(comm->worker, run_slot, slot, &slot->ticket));
    *request = (mf_request){.ticket = slot->ticket, .op = t->header.op};
    return MF_OK;
}

static mf_status transfer_try(mf_comm *comm, mf_transfer *t, mf_request *request) {
    MF_TRY(mf_comm_enter(comm->world, t->header.op, comm->axis));
    MF_TRY(check(comm, t));
    MF_TRY(find_place(comm, t));
    count_call(comm, t);
    /* Alone there is nobody to wait for: the request is done before it is returned. */
    if (!request || comm->size == 1 || comm->world->engine->at_once) return transfer_now(comm, t);
    return comm->world->engine->moves_nothing ? transfer_dry(comm, t, request)
                                              : transfer_later(comm, t, request);
}

static mf_status transfer(mf_comm *comm, mf_transfer *t, mf_request *request) {
    if (request) *request = (mf_request){0};
    return transfer_try(comm, t, request) ? mf_comm_give_up(comm->world) : MF_OK;
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

/* FNV-1a */
static uint64_t layout_of(const mf_comm *comm, const size_t *offsets) {
    uint64_t hash = 14695981039346656037u;
    for (int r = 0; r <= comm->size; r++) hash = (hash ^ offsets[r]) * 1099511628211u;
    return hash;
}

mf_status mf_allgather(mf_comm *comm, const void *send, void *recv, const size_t *offsets,
                       mf_request *request) {
    if (check_offsets(comm, MF_OP_ALLGATHER, "offsets", offsets)) return mf_comm_give_up(comm->world);
    mf_header header = {.op = MF_OP_ALLGATHER,
                        .element_bytes = 1,
                        .count = (int64_t)(offsets[comm->size] - offsets[0]),
                        .send_bytes = mf_block(offsets, comm->rank),
                        .recv_bytes = offsets[comm->size] - offsets[0],
                        .layout = layout_of(comm, offsets)};
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

mf_status mf_allreduce(mf_comm *comm, void *buffer, int64_t count, mf_dtype type, mf_request *request) {
    return sum(comm, MF_OP_ALLREDUCE, buffer, count, (int)mf_dtype_bytes(type), 0, request);
}

mf_status mf_allreduce_f64(mf_comm *comm, double *buffer, int64_t count) {
    return sum(comm, MF_OP_ALLREDUCE, buffer, count, 8, 0, NULL);
}

mf_status mf_reduce_scatter(mf_comm *comm, void *buffer, const int64_t *offsets, mf_dtype type,
                            mf_request *request) {
    if (take_parts(comm, offsets)) return mf_comm_give_up(comm->world);
    const size_t *parts = comm->parts;
    size_t count = parts[comm->size] - parts[0];
    uint64_t bytes = comm->size > 1 ? count * mf_dtype_bytes(type) : 0;
    mf_header header = {.op = MF_OP_REDUCE_SCATTER,
                        .element_bytes = (int)mf_dtype_bytes(type),
                        .count = (int64_t)count,
                        .send_bytes = bytes,
                        .recv_bytes = bytes,
                        .layout = layout_of(comm, parts)};
    return transfer(comm, &(mf_transfer){.header = header, .send = buffer, .recv = buffer, .offsets = parts},
                    request);
}

mf_status mf_alltoall(mf_comm *comm, const void *send, const size_t *send_offsets, void *recv,
                      const size_t *recv_offsets, mf_request *request) {
    if (check_offsets(comm, MF_OP_ALLTOALL, "send offsets", send_offsets) ||
        check_offsets(comm, MF_OP_ALLTOALL, "recv offsets", recv_offsets))
        return mf_comm_give_up(comm->world);
    mf_header header = {.op = MF_OP_ALLTOALL,
                        .element_bytes = 1,
                        .send_bytes = send_offsets[comm->size] - send_offsets[0],
                        .recv_bytes = recv_offsets[comm->size] - recv_offsets[0]};
    return transfer(comm,
                    &(mf_transfer){.header = header,
                                   .send = send,
                                   .recv = recv,
                                   .offsets = recv_offsets,
                                   .send_offsets = send_offsets},
                    request);
}

mf_status mf_shift(mf_comm *comm, const void *send, size_t send_bytes, void *recv, size_t recv_bytes,
                   mf_request *request) {
    mf_header header = {
        .op = MF_OP_SHIFT, .element_bytes = 1, .send_bytes = send_bytes, .recv_bytes = recv_bytes};
    return transfer(comm, &(mf_transfer){.header = header, .send = send, .recv = recv}, request);
}

static mf_status wait_for(mf_comm *comm, const mf_slot *slot) {
    double start = mf_now_s();
    mf_status status = mf_worker_wait(comm->worker, slot->ticket);
    comm->stats[slot->transfer.header.op].exposed_s += mf_now_s() - start;
    if (status || !slot->transfer.queued) return status;
    return mf_event_follow(comm->world->device, MF_QUEUE_COMPUTE, slot->done);
}

mf_status mf_finish(mf_comm *comm, mf_request *request) {
    if (!request->ticket) return MF_OK;
    mf_slot *slot = slot_find(comm, request->ticket);
    *request = (mf_request){.op = request->op};
    if (!slot) {
        MF_FAIL(MF_EINVAL, "axis %s: mf_finish of a request that it did not start", comm->axis);
        return mf_comm_give_up(comm->world);
    }
    mf_status status = MF_OK;
    if (comm->world->engine->moves_nothing)
        wait_dry(comm, slot);
    else
        status = wait_for(comm, slot);
    comm->stats[slot->transfer.header.op].total_s += slot->elapsed_s;
    trace_transfer(comm, slot->transfer.header.op, slot->bytes, slot->done_s, slot->elapsed_s);
    slot->ticket = 0;
    return status ? mf_comm_give_up(comm->world) : MF_OK;
}

void mf_abandon(mf_comm *comm, mf_request *request) {
    if (!request->ticket) return;
    mf_error own = *mf_error_last();
    mf_slot *slot = slot_find(comm, request->ticket);
    if (!own.status) MF_FAIL(MF_ECOMM, "axis %s: a %s was given up", comm->axis, mf_op_name(request->op));
    mf_comm_give_up(comm->world);
    mf_error_adopt(&own);
    if (slot) slot->ticket = 0;
    *request = (mf_request){0};
}
