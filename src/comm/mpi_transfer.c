/* mpi_transfer.c: how data moves between processes: MPI's nonblocking calls, polled, so that a clock and an
 * error can end the wait. Sums are added in rank order, with the same bits as the local engine's. */
#include "comm/mpi.h"

#include <string.h>

/* MPI counts in int; larger payloads go in pieces. */
enum { PIECE = 1 << 30 };
/* Elements that a member adds up in one turn of a sum. */
enum { TERMS = 1 << 15 };

/* Each pair tells the other what it sends and what it expects, so that both know when the two differ. */
static mf_status meet_in_pairs(mf_comm *comm, mf_mpi_lane *l, const mf_transfer *t) {
    for (int r = 0; r < comm->size; r++) {
        l->told[r] = t->header;
        l->told[r].send_bytes = mf_block(t->send_offsets, r);
        l->told[r].recv_bytes = mf_block(t->offsets, r);
    }
    return mf_mpi_tell(comm, l);
}

static mf_status agree_on_blocks(const mf_comm *comm, const mf_mpi_lane *l) {
    int own = comm->rank;
    uint64_t sequence = l->told[own].sequence;
    for (int r = 0; r < comm->size; r++) {
        MF_TRY(mf_agree_on_block(comm, sequence, r, l->headers[r].send_bytes, own, l->told[r].recv_bytes));
        MF_TRY(mf_agree_on_block(comm, sequence, own, l->told[r].send_bytes, r, l->headers[r].recv_bytes));
    }
    return MF_OK;
}

static int piece(size_t left, size_t most) { return (int)(left < most ? left : most); }

static mf_status broadcast(mf_comm *comm, MPI_Comm on, const mf_header *h, void *data, size_t bytes,
                           int root) {
    for (size_t at = 0; at < bytes; at += PIECE) {
        MPI_Request request;
        MPI_TRY(MPI_Ibcast((char *)data + at, piece(bytes - at, PIECE), MPI_BYTE, root, on, &request));
        MF_TRY(mf_mpi_settle(comm, h, 1, &request));
    }
    return MF_OK;
}

/* One turn of a sum. Without offsets it covers `span` elements from `at`, of which member r adds up the r-th
 * part; with offsets, of each member's part the TERMS elements from `at` within it. */
typedef struct turn {
    mf_mpi_lane *lane;
    const mf_header *header;
    const size_t *offsets;
    char *data;
    int64_t at, span;
} turn;

static int64_t part_begin(const mf_comm *comm, const turn *t, int member) {
    if (!t->offsets) return t->at + t->span * member / comm->size;
    return mf_min((int64_t)t->offsets[member] + t->at, (int64_t)t->offsets[member + 1]);
}

static int part_count(const mf_comm *comm, const turn *t, int member) {
    int64_t begin = part_begin(comm, t, member);
    if (!t->offsets) return (int)(part_begin(comm, t, member + 1) - begin);
    return (int)mf_min(TERMS, (int64_t)t->offsets[member + 1] - begin);
}

static char *part(const mf_comm *comm, const turn *t, int member) {
    return t->data + part_begin(comm, t, member) * t->header->element_bytes;
}

static char *term(const turn *t, int member) {
    return t->lane->terms + (int64_t)member * TERMS * t->header->element_bytes;
}

static MPI_Datatype type_of(const mf_header *h) {
    if (h->element_bytes == 2) return MPI_UINT16_T; /* bf16, which MPI only carries */
    return h->element_bytes == 4 ? MPI_FLOAT : MPI_DOUBLE;
}

static mf_status spread_terms(mf_comm *comm, const turn *t) {
    mf_mpi_lane *l = t->lane;
    MPI_Datatype type = type_of(t->header);
    int own = part_count(comm, t, comm->rank);
    for (int r = 0; r < comm->size; r++) {
        MPI_Request *received = &l->requests[r], *sent = &l->requests[comm->size + r];
        *received = *sent = MPI_REQUEST_NULL;
        if (r == comm->rank) continue;
        MPI_TRY(MPI_Irecv(term(t, r), own, type, r, MF_MPI_TAG_TERM, l->comm, received));
        MPI_TRY(MPI_Isend(part(comm, t, r), part_count(comm, t, r), type, r, MF_MPI_TAG_TERM, l->comm, sent));
    }
    return mf_mpi_settle(comm, t->header, 2 * comm->size, l->requests);
}

static const char *term_at(const mf_comm *comm, const turn *t, int member, int64_t at) {
    const char *from = member == comm->rank ? part(comm, t, member) : term(t, member);
    return from + at * t->header->element_bytes;
}

/* total: [this member's part]; may be the part itself. */
static void add_terms(mf_comm *comm, const turn *t, char *total) {
    mf_sum sum;
    int width = t->header->element_bytes;
    int64_t n = part_count(comm, t, comm->rank);
    for (int64_t at = 0; at < n; at += MF_SUM_BLOCK) {
        mf_sum_begin(&sum, width, term_at(comm, t, 0, at), mf_min(MF_SUM_BLOCK, n - at));
        for (int r = 1; r < comm->size; r++) mf_sum_add(&sum, term_at(comm, t, r, at));
        mf_sum_store(&sum, total + at * width);
    }
}

static mf_status collect_totals(mf_comm *comm, const turn *t) {
    mf_mpi_lane *l = t->lane;
    const mf_header *h = t->header;
    MPI_Datatype type = type_of(h);
    const char *total = term(t, comm->size);
    bool to_all = h->op == MF_OP_ALLREDUCE, takes = to_all || comm->rank == h->root;
    int own = part_count(comm, t, comm->rank);
    for (int r = 0; r < comm->size; r++) {
        MPI_Request *received = &l->requests[r], *sent = &l->requests[comm->size + r];
        *received = *sent = MPI_REQUEST_NULL;
        if (r == comm->rank) continue;
        if (takes)
            MPI_TRY(MPI_Irecv(part(comm, t, r), part_count(comm, t, r), type, r, MF_MPI_TAG_TOTAL, l->comm,
                              received));
        if (to_all || r == h->root) MPI_TRY(MPI_Isend(total, own, type, r, MF_MPI_TAG_TOTAL, l->comm, sent));
    }
    MF_TRY(mf_mpi_settle(comm, h, 2 * comm->size, l->requests));
    if (takes) memcpy(part(comm, t, comm->rank), total, (size_t)own * (size_t)h->element_bytes);
    return MF_OK;
}

/* Not MPI_Ireduce: its order is its own, and its many small steps each wait for a poll (64 MiB over two ranks
 * took more than a second). */
static mf_status sum(mf_comm *comm, mf_mpi_lane *l, const mf_transfer *t) {
    const mf_header *h = &t->header;
    int64_t most = (int64_t)TERMS * comm->size;
    for (int64_t at = 0; at < h->count; at += most) {
        turn next = {l, h, NULL, t->recv, at, mf_min(most, h->count - at)};
        MF_TRY(spread_terms(comm, &next));
        add_terms(comm, &next, term(&next, comm->size));
        MF_TRY(collect_totals(comm, &next));
    }
    return MF_OK;
}

static mf_status reduce_scatter(mf_comm *comm, mf_mpi_lane *l, const mf_transfer *t) {
    int64_t longest = 0;
    for (int r = 0; r < comm->size; r++) longest = mf_max(longest, (int64_t)mf_block(t->offsets, r));
    for (int64_t at = 0; at < longest; at += TERMS) {
        turn next = {.lane = l, .header = &t->header, .offsets = t->offsets, .data = t->recv, .at = at};
        MF_TRY(spread_terms(comm, &next));
        add_terms(comm, &next, part(comm, &next, comm->rank));
    }
    return MF_OK;
}

static mf_status reserve_terms(const mf_comm *comm, mf_mpi_lane *l) {
    if (l->terms) return MF_OK;
    MF_TRY(mf_host_alloc(((size_t)comm->size + 1) * TERMS, sizeof(double), &l->terms));
    return MF_OK;
}

/* Offsets past what an int holds: each part is a broadcast. */
static mf_status allgather_large(mf_comm *comm, MPI_Comm on, const mf_transfer *t) {
    char *recv = t->recv, *own = recv + t->offsets[comm->rank];
    if (t->header.send_bytes && own != t->send) memcpy(own, t->send, t->header.send_bytes);
    for (int r = 0; r < comm->size; r++) {
        size_t at = t->offsets[r];
        MF_TRY(broadcast(comm, on, &t->header, recv + at, t->offsets[r + 1] - at, r));
    }
    return MF_OK;
}

static mf_status allgather(mf_comm *comm, mf_mpi_lane *l, const mf_transfer *t) {
    size_t first = t->offsets[0];
    if (t->header.count == 0) return MF_OK;
    if (t->header.count > PIECE) return allgather_large(comm, l->comm, t);
    int *counts = l->counts, *places = l->counts + comm->size;
    for (int r = 0; r < comm->size; r++) {
        counts[r] = (int)(t->offsets[r + 1] - t->offsets[r]);
        places[r] = (int)(t->offsets[r] - first);
    }
    MPI_Request request;
    char *base = (char *)t->recv + first;
    bool in_place = t->send == base + places[comm->rank];
    MPI_TRY(MPI_Iallgatherv(in_place ? MPI_IN_PLACE : t->send, counts[comm->rank], MPI_BYTE, base, counts,
                            places, MPI_BYTE, l->comm, &request));
    return mf_mpi_settle(comm, &t->header, 1, &request);
}

static mf_status shift(mf_comm *comm, MPI_Comm on, const mf_transfer *t) {
    const mf_header *h = &t->header;
    int to = (comm->rank + comm->size - 1) % comm->size, from = (comm->rank + 1) % comm->size;
    for (size_t at = 0; at < h->send_bytes || at < h->recv_bytes; at += PIECE) {
        MPI_Request requests[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
        if (at < h->recv_bytes)
            MPI_TRY(MPI_Irecv((char *)t->recv + at, piece(h->recv_bytes - at, PIECE), MPI_BYTE, from,
                              MF_MPI_TAG_SHIFT, on, &requests[0]));
        if (at < h->send_bytes)
            MPI_TRY(MPI_Isend((const char *)t->send + at, piece(h->send_bytes - at, PIECE), MPI_BYTE, to,
                              MF_MPI_TAG_SHIFT, on, &requests[1]));
        MF_TRY(mf_mpi_settle(comm, h, 2, requests));
    }
    return MF_OK;
}

/* One piece, from `at`, of the blocks that this member and r have for each other. */
static mf_status swap_piece(mf_comm *comm, mf_mpi_lane *l, const mf_transfer *t, int r, size_t at) {
    size_t receives = mf_block(t->offsets, r), sends = mf_block(t->send_offsets, r);
    if (at < receives)
        MPI_TRY(MPI_Irecv((char *)t->recv + t->offsets[r] + at, piece(receives - at, PIECE), MPI_BYTE, r,
                          MF_MPI_TAG_BLOCK, l->comm, &l->requests[r]));
    if (at < sends)
        MPI_TRY(MPI_Isend((const char *)t->send + t->send_offsets[r] + at, piece(sends - at, PIECE), MPI_BYTE,
                          r, MF_MPI_TAG_BLOCK, l->comm, &l->requests[comm->size + r]));
    return MF_OK;
}

static size_t longest_block(const mf_comm *comm, const mf_transfer *t) {
    size_t longest = 0;
    for (int r = 0; r < comm->size; r++) {
        if (r == comm->rank) continue;
        size_t receives = mf_block(t->offsets, r), sends = mf_block(t->send_offsets, r);
        if (longest < receives) longest = receives;
        if (longest < sends) longest = sends;
    }
    return longest;
}

static mf_status alltoall(mf_comm *comm, mf_mpi_lane *l, const mf_transfer *t) {
    int own = comm->rank;
    size_t kept = mf_block(t->offsets, own), longest = longest_block(comm, t);
    if (kept) memcpy((char *)t->recv + t->offsets[own], (const char *)t->send + t->send_offsets[own], kept);
    for (size_t at = 0; at < longest; at += PIECE) {
        for (int i = 0; i < 2 * comm->size; i++) l->requests[i] = MPI_REQUEST_NULL;
        for (int i = 1; i < comm->size; i++)
            MF_TRY(swap_piece(comm, l, t, (own + i) % comm->size, at)); /* not all to the same peer at once */
        MF_TRY(mf_mpi_settle(comm, &t->header, 2 * comm->size, l->requests));
    }
    return MF_OK;
}

/* All operations in which terms are added up at their owners. */
static bool sums(int op) { return op == MF_OP_REDUCE || op == MF_OP_ALLREDUCE || op == MF_OP_REDUCE_SCATTER; }

mf_status mf_mpi_confer(mf_comm *comm, int lane, const mf_transfer *t, bool *device) {
    mf_mpi_group *g = comm->state;
    mf_mpi_lane *l = &g->lanes[lane];
    bool pairs = t->header.op == MF_OP_ALLTOALL;
    MF_TRY(pairs ? meet_in_pairs(comm, l, t) : mf_mpi_meet(comm, lane, &t->header));
    MF_TRY(mf_agree(comm, l->headers));
    for (int r = 0; r < comm->size; r++) *device |= l->headers[r].place == MF_PLACE_DEVICE;
    return pairs ? agree_on_blocks(comm, l) : MF_OK;
}

mf_status mf_mpi_transfer(mf_comm *comm, int lane, const mf_transfer *t) {
    mf_mpi_group *g = comm->state;
    mf_mpi_lane *l = &g->lanes[lane];
    const mf_header *h = &t->header;
    bool device = false;
    if (sums(h->op)) MF_TRY(reserve_terms(comm, l));
    MF_TRY(mf_mpi_confer(comm, lane, t, &device));
    switch (h->op) {
    case MF_OP_BROADCAST:
        return broadcast(comm, l->comm, h, t->recv, (size_t)h->count, h->root);
    case MF_OP_ALLGATHER:
        return allgather(comm, l, t);
    case MF_OP_REDUCE:
    case MF_OP_ALLREDUCE:
        return sum(comm, l, t);
    case MF_OP_SHIFT:
        return shift(comm, l->comm, t);
    case MF_OP_REDUCE_SCATTER:
        return reduce_scatter(comm, l, t);
    case MF_OP_ALLTOALL:
        return alltoall(comm, l, t);
    default:
        return MF_OK; /* a barrier: all have heard from all */
    }
}
