/* mpi_stage.c: device memory goes between processes through the host's: copied into pinned memory, sent from
 * there and received into it, copied back. */
#include "comm/mpi.h"

/* Bytes of a buffer, from where it begins. */
typedef struct span {
    size_t at, bytes;
} span;

static span elements(const mf_header *h, size_t begin, size_t end) {
    size_t width = (size_t)h->element_bytes;
    return (span){begin * width, (end - begin) * width};
}

/* What this member sends of its buffer. */
static span sent(const mf_comm *comm, const mf_transfer *t) {
    const mf_header *h = &t->header;
    switch (h->op) {
    case MF_OP_BROADCAST:
        return (span){0, comm->rank == h->root ? h->send_bytes : 0};
    case MF_OP_REDUCE_SCATTER:
        return elements(h, t->offsets[0], t->offsets[comm->size]);
    case MF_OP_ALLTOALL:
        return (span){t->send_offsets[0], h->send_bytes};
    default:
        return (span){0, h->send_bytes};
    }
}

/* What it receives in its buffer. */
static span received(const mf_comm *comm, const mf_transfer *t) {
    const mf_header *h = &t->header;
    bool root = comm->rank == h->root;
    switch (h->op) {
    case MF_OP_BROADCAST:
        return (span){0, root ? 0 : h->recv_bytes};
    case MF_OP_REDUCE:
        return (span){0, root ? h->recv_bytes : 0};
    case MF_OP_REDUCE_SCATTER:
        return elements(h, t->offsets[comm->rank], t->offsets[comm->rank + 1]);
    case MF_OP_ALLGATHER:
    case MF_OP_ALLTOALL:
        return (span){t->offsets[0], h->recv_bytes};
    default:
        return (span){0, h->recv_bytes};
    }
}

static mf_status reserve(mf_device *device, mf_mpi_lane *l, size_t bytes) {
    if (bytes <= l->staged_bytes) return MF_OK;
    mf_pinned_give_back(device, l->staged);
    l->staged = NULL;
    l->staged_bytes = 0;
    MF_TRY(mf_pinned_take(device, bytes, &l->staged));
    l->staged_bytes = bytes;
    return MF_OK;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static mf_status stage(mf_comm *comm, int lane, const mf_transfer *t) {
    mf_mpi_lane *l = &((mf_mpi_group *)comm->state)->lanes[lane];
    mf_device *device = comm->world->device;
    mf_queue queue = mf_lane_queue(lane);
    span out = sent(comm, t), in = received(comm, t);
    /* In place is one buffer, which both sides see whole. */
    bool in_place = t->send == t->recv;
    size_t whole = larger(out.at + out.bytes, t->header.recv_bytes), sends = (whole + 63) & ~(size_t)63;
    MF_TRY(reserve(device, l, in_place ? larger(whole, in.at + in.bytes) : sends + in.at + in.bytes));
    mf_transfer host = *t;
    char *send = l->staged, *recv = in_place ? send : send + sends;
    host.send = send;
    host.recv = recv;
    MF_TRY(mf_copy(device, queue, send + out.at, (const char *)t->send + out.at, out.bytes));
    MF_TRY(mf_mpi_transfer(comm, lane, &host));
    return mf_copy(device, queue, (char *)t->recv + in.at, recv + in.at, in.bytes);
}

mf_status mf_mpi_carry(mf_comm *comm, int lane, const mf_transfer *t) {
    return t->header.place == MF_PLACE_DEVICE ? stage(comm, lane, t) : mf_mpi_transfer(comm, lane, t);
}
