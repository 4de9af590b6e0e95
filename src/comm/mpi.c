/* mpi.c: the engine where each process that mpiexec started is a rank.
 *
 * Before data moves all members send each other what they were called with: a few bytes to each, so that an
 * operation that differs, and a member that does not come, are known by name. Then MPI's nonblocking calls,
 * polled, so that a clock and an error can end the wait. Sums are added in rank order, with the same bits as
 * the local engine's. */
#include "comm/mpi.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* MPI counts in int; larger payloads go in pieces. */
enum { PIECE = 1 << 30 };
/* Elements that a member adds up in one turn of a sum. */
enum { TERMS = 1 << 15 };
enum { TAG_HEADER = 1, TAG_SHIFT, TAG_TERM, TAG_TOTAL, TAG_CREATE, TAG_VERDICT };

mf_status mf_mpi_failed(const char *file, int line, int code, const char *call) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return mf_fail_at(file, line, MF_ECOMM, "%.*s: %s", (int)strcspn(call, "("), call, text);
}

/* Machines may have fewer cores than ranks: looks often at first, then lets others run, then sleeps. */
mf_status mf_mpi_patience(mf_world *world, mf_mpi_wait *wait) {
    if (mf_world_failed(world)) return mf_world_fail(world);
    if (wait->polls++ < 50) return MF_OK;
    double now = mf_now_s();
    if (wait->polls == 51) wait->start = now;
    double waited = now - wait->start;
    if (waited > world->timeout_s) return MF_ETIMEOUT;
    if (waited < 200e-6)
        sched_yield();
    else
        usleep(waited < 10e-3 ? 20 : 100);
    return MF_OK;
}

/* MF_ETIMEOUT is left to the caller to put into words. */
static mf_status wait_all(mf_world *world, int n, MPI_Request *requests) {
    mf_mpi_wait wait = {0};
    int done = 0;
    for (;;) {
        MPI_TRY(MPI_Testall(n, requests, &done, MPI_STATUSES_IGNORE));
        if (done) return MF_OK;
        mf_status status = mf_mpi_patience(world, &wait);
        if (status) return status;
    }
}

static mf_status settle(mf_comm *comm, const mf_header *header, int n, MPI_Request *requests) {
    mf_status status = wait_all(comm->world, n, requests);
    return status == MF_ETIMEOUT ? mf_late(comm, header, NULL, NULL) : status;
}

static bool not_received(const void *context, int member) {
    MPI_Request request = ((const MPI_Request *)context)[member];
    int done = 1;
    if (request != MPI_REQUEST_NULL) MPI_Request_get_status(request, &done, MPI_STATUS_IGNORE);
    return !done;
}

mf_status mf_mpi_meet(mf_comm *comm, int lane, const mf_header *header) {
    mf_mpi_group *g = comm->state;
    mf_mpi_lane *l = &g->lanes[lane];
    int own = comm->rank;
    l->headers[own] = *header;
    for (int r = 0; r < comm->size; r++) {
        l->requests[r] = l->requests[comm->size + r] = MPI_REQUEST_NULL;
        if (r == own) continue;
        MPI_TRY(MPI_Irecv(&l->headers[r], sizeof *header, MPI_BYTE, r, TAG_HEADER, l->comm, &l->requests[r]));
        MPI_TRY(MPI_Isend(&l->headers[own], sizeof *header, MPI_BYTE, r, TAG_HEADER, l->comm,
                          &l->requests[comm->size + r]));
    }
    mf_status status = wait_all(comm->world, 2 * comm->size, l->requests);
    return status == MF_ETIMEOUT ? mf_late(comm, header, not_received, l->requests) : status;
}

static int piece(size_t left, size_t most) { return (int)(left < most ? left : most); }

static mf_status broadcast(mf_comm *comm, MPI_Comm on, const mf_header *h, void *data, size_t bytes,
                           int root) {
    for (size_t at = 0; at < bytes; at += PIECE) {
        MPI_Request request;
        MPI_TRY(MPI_Ibcast((char *)data + at, piece(bytes - at, PIECE), MPI_BYTE, root, on, &request));
        MF_TRY(settle(comm, h, 1, &request));
    }
    return MF_OK;
}

/* One turn of a sum: span elements at data, of which member r adds up the r-th part. */
typedef struct turn {
    mf_mpi_lane *lane;
    const mf_header *header;
    char *data;
    int64_t span;
} turn;

static int64_t part_begin(const mf_comm *comm, const turn *t, int member) {
    return t->span * member / comm->size;
}

static int part_count(const mf_comm *comm, const turn *t, int member) {
    return (int)(part_begin(comm, t, member + 1) - part_begin(comm, t, member));
}

static char *part(const mf_comm *comm, const turn *t, int member) {
    return t->data + part_begin(comm, t, member) * t->header->element_bytes;
}

static char *term(const turn *t, int member) {
    return t->lane->terms + (int64_t)member * TERMS * t->header->element_bytes;
}

static MPI_Datatype type_of(const mf_header *h) { return h->element_bytes == 4 ? MPI_FLOAT : MPI_DOUBLE; }

static mf_status spread_terms(mf_comm *comm, const turn *t) {
    mf_mpi_lane *l = t->lane;
    MPI_Datatype type = type_of(t->header);
    int own = part_count(comm, t, comm->rank);
    for (int r = 0; r < comm->size; r++) {
        MPI_Request *received = &l->requests[r], *sent = &l->requests[comm->size + r];
        *received = *sent = MPI_REQUEST_NULL;
        if (r == comm->rank) continue;
        MPI_TRY(MPI_Irecv(term(t, r), own, type, r, TAG_TERM, l->comm, received));
        MPI_TRY(MPI_Isend(part(comm, t, r), part_count(comm, t, r), type, r, TAG_TERM, l->comm, sent));
    }
    return settle(comm, t->header, 2 * comm->size, l->requests);
}

/* The total stands behind the members' terms. */
static void add_terms(mf_comm *comm, const turn *t) {
    int n = part_count(comm, t, comm->rank), width = t->header->element_bytes;
    char *total = term(t, comm->size);
    for (int r = 0; r < comm->size; r++) {
        const char *from = r == comm->rank ? part(comm, t, r) : term(t, r);
        if (r == 0)
            memcpy(total, from, (size_t)n * (size_t)width);
        else
            mf_sum_add(total, from, n, width);
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
            MPI_TRY(
                MPI_Irecv(part(comm, t, r), part_count(comm, t, r), type, r, TAG_TOTAL, l->comm, received));
        if (to_all || r == h->root) MPI_TRY(MPI_Isend(total, own, type, r, TAG_TOTAL, l->comm, sent));
    }
    MF_TRY(settle(comm, h, 2 * comm->size, l->requests));
    if (takes) memcpy(part(comm, t, comm->rank), total, (size_t)own * (size_t)h->element_bytes);
    return MF_OK;
}

/* Not MPI_Ireduce: its order is its own, and its many small steps each wait for a poll (64 MiB over two ranks
 * took more than a second). */
static mf_status sum(mf_comm *comm, mf_mpi_lane *l, const mf_transfer *t) {
    const mf_header *h = &t->header;
    int64_t most = (int64_t)TERMS * comm->size;
    for (int64_t at = 0; at < h->count; at += most) {
        turn next = {l, h, (char *)t->recv + at * h->element_bytes, mf_min(most, h->count - at)};
        MF_TRY(spread_terms(comm, &next));
        add_terms(comm, &next);
        MF_TRY(collect_totals(comm, &next));
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
    return settle(comm, &t->header, 1, &request);
}

static mf_status shift(mf_comm *comm, MPI_Comm on, const mf_transfer *t) {
    const mf_header *h = &t->header;
    int to = (comm->rank + comm->size - 1) % comm->size, from = (comm->rank + 1) % comm->size;
    for (size_t at = 0; at < h->send_bytes || at < h->recv_bytes; at += PIECE) {
        MPI_Request requests[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
        if (at < h->recv_bytes)
            MPI_TRY(MPI_Irecv((char *)t->recv + at, piece(h->recv_bytes - at, PIECE), MPI_BYTE, from,
                              TAG_SHIFT, on, &requests[0]));
        if (at < h->send_bytes)
            MPI_TRY(MPI_Isend((const char *)t->send + at, piece(h->send_bytes - at, PIECE), MPI_BYTE, to,
                              TAG_SHIFT, on, &requests[1]));
        MF_TRY(settle(comm, h, 2, requests));
    }
    return MF_OK;
}

static mf_status mpi_transfer(mf_comm *comm, int lane, const mf_transfer *t) {
    mf_mpi_group *g = comm->state;
    mf_mpi_lane *l = &g->lanes[lane];
    const mf_header *h = &t->header;
    if (h->op == MF_OP_REDUCE || h->op == MF_OP_ALLREDUCE) MF_TRY(reserve_terms(comm, l));
    MF_TRY(mf_mpi_meet(comm, lane, h));
    MF_TRY(mf_agree(comm, l->headers));
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
    default:
        return MF_OK; /* a barrier: all have heard from all */
    }
}

static uint64_t group_key(const mf_comm *comm) {
    uint64_t key = mf_random_key(comm->axis);
    for (int i = 0; i < comm->size; i++) key = (key ^ (uint64_t)comm->ranks[i]) * 1099511628211u;
    return key;
}

static mf_status refuse_group(const mf_comm *comm, int member) {
    return MF_FAIL(MF_ECOMM, "rank %d creates axis %s, rank %d another group", comm->ranks[0], comm->axis,
                   comm->ranks[member]);
}

/* MPI makes communicators in calls that no clock can end, so the members meet before: each tells the first
 * which group it means. `keys` and `requests`: [2 * size] of scratch that outlives an error. */
static mf_status assemble(mf_comm *comm, uint64_t *keys, MPI_Request *requests) {
    mf_header header = {.op = MF_OP_CREATE};
    bool leads = comm->rank == 0;
    uint64_t *verdict = keys + comm->size;
    for (int r = 0; r < comm->size; r++) requests[r] = MPI_REQUEST_NULL;
    for (int r = 1; leads && r < comm->size; r++)
        MPI_TRY(
            MPI_Irecv(&keys[r], 1, MPI_UINT64_T, comm->ranks[r], TAG_CREATE, MPI_COMM_WORLD, &requests[r]));
    keys[0] = group_key(comm);
    if (!leads) {
        MPI_TRY(
            MPI_Irecv(verdict, 1, MPI_UINT64_T, comm->ranks[0], TAG_VERDICT, MPI_COMM_WORLD, &requests[0]));
        MPI_TRY(MPI_Isend(keys, 1, MPI_UINT64_T, comm->ranks[0], TAG_CREATE, MPI_COMM_WORLD, &requests[1]));
    }
    mf_status status = wait_all(comm->world, comm->size, requests);
    if (status == MF_ETIMEOUT) return mf_late(comm, &header, leads ? not_received : NULL, requests);
    if (status) return status;
    if (!leads) return *verdict == 0 ? MF_OK : refuse_group(comm, (int)*verdict);
    for (int r = comm->size - 1; r > 0; r--)
        if (keys[r] != keys[0]) *verdict = (uint64_t)r;
    for (int r = 1; r < comm->size; r++)
        MPI_TRY(
            MPI_Isend(verdict, 1, MPI_UINT64_T, comm->ranks[r], TAG_VERDICT, MPI_COMM_WORLD, &requests[r]));
    MF_TRY(settle(comm, &header, comm->size, requests));
    return *verdict == 0 ? MF_OK : refuse_group(comm, (int)*verdict);
}

static mf_status lane_open(mf_comm *comm, mf_mpi_lane *l) {
    size_t n = (size_t)comm->size;
    MF_TRY(mf_mpi_keep(comm->world, &l->kept));
    MF_TRY(mf_host_alloc(n, sizeof *l->headers, &l->headers));
    MF_TRY(mf_host_alloc(2 * n, sizeof *l->requests, &l->requests));
    MF_TRY(mf_host_alloc(2 * n, sizeof *l->counts, &l->counts));
    return MF_OK;
}

static mf_status communicators(mf_comm *comm, mf_mpi_group *g) {
    MPI_Group world, members;
    MPI_TRY(MPI_Comm_group(MPI_COMM_WORLD, &world));
    MPI_TRY(MPI_Group_incl(world, comm->size, comm->ranks, &members));
    for (int i = 0; i < MF_LANES; i++) {
        mf_mpi_lane *l = &g->lanes[i];
        MPI_TRY(MPI_Comm_create_group(MPI_COMM_WORLD, members, TAG_CREATE, &l->comm));
        l->kept->comm = l->comm;
        MPI_TRY(MPI_Comm_set_errhandler(l->comm, MPI_ERRORS_RETURN));
    }
    MPI_TRY(MPI_Group_free(&members));
    MPI_TRY(MPI_Group_free(&world));
    return MF_OK;
}

static mf_status on_one_node(const mf_comm *comm, MPI_Comm on, bool *yes) {
    MPI_Comm node;
    int size = 0;
    MPI_TRY(MPI_Comm_split_type(on, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
    MPI_TRY(MPI_Comm_size(node, &size));
    MPI_TRY(MPI_Comm_free(&node));
    *yes = size == comm->size;
    return MF_OK;
}

static mf_status mpi_open(mf_comm *comm) {
    mf_mpi_group *g = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *g, &g));
    comm->state = g;
    for (int i = 0; i < MF_LANES; i++) MF_TRY(lane_open(comm, &g->lanes[i]));
    MF_TRY(mf_host_alloc(2 * (size_t)comm->size, sizeof *g->keys, &g->keys));
    MF_TRY(assemble(comm, g->keys, g->lanes[0].requests));
    MF_TRY(communicators(comm, g));
    MF_TRY(on_one_node(comm, g->lanes[0].comm, &comm->borrows));
    comm->borrows &= !comm->world->no_borrow;
    if (comm->borrows) MF_TRY(mf_mpi_signals_open(comm));
    return MF_OK;
}

/* After an error MPI may still write into what was under way: it is left to the end of the process, which is
 * near. */
static void mpi_close(mf_comm *comm) {
    mf_mpi_group *g = comm->state;
    if (!g || mf_world_failed(comm->world)) return;
    for (int i = 0; i < MF_LANES; i++) {
        mf_host_free(g->lanes[i].terms);
        mf_host_free(g->lanes[i].counts);
        mf_host_free(g->lanes[i].requests);
        mf_host_free(g->lanes[i].headers);
    }
    mf_host_free(g->signals);
    mf_host_free(g->keys);
    mf_host_free(g);
}

mf_status mf_mpi_keep(mf_world *world, mf_mpi_kept **out) {
    mf_mpi_process *process = world->state;
    MF_TRY(mf_host_alloc(1, sizeof **out, out));
    (*out)->comm = MPI_COMM_NULL;
    (*out)->window = MPI_WIN_NULL;
    *process->last = *out;
    process->last = &(*out)->next;
    return MF_OK;
}

static mf_status release_kept(mf_mpi_process *process) {
    while (process->first) {
        mf_mpi_kept *kept = process->first;
        process->first = kept->next;
        if (kept->window != MPI_WIN_NULL) {
            MPI_TRY(MPI_Win_unlock_all(kept->window));
            MPI_TRY(MPI_Win_free(&kept->window));
        }
        if (kept->comm != MPI_COMM_NULL) MPI_TRY(MPI_Comm_free(&kept->comm));
        mf_host_free(kept);
    }
    return MF_OK;
}

static mf_status refuse_ranks(int asked, int started) {
    return MF_FAIL(MF_EINVAL, "%d ranks asked for, but mpiexec started %d", asked, started);
}

static mf_status start_mpi(const mf_launch_options *o, mf_world *world) {
    int started_before = 0, granted = 0;
    MPI_TRY(MPI_Initialized(&started_before));
    if (started_before) return MF_FAIL(MF_EINVAL, "the mpi engine can be launched once in a process");
    if (o->ranks && mf_launched_by_mpi() && o->ranks != mf_mpi_ranks())
        return refuse_ranks(o->ranks, mf_mpi_ranks());
    MPI_TRY(MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &granted));
    MPI_TRY(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    MPI_TRY(MPI_Comm_rank(MPI_COMM_WORLD, &world->rank));
    MPI_TRY(MPI_Comm_size(MPI_COMM_WORLD, &world->size));
    mf_rank_set(world->rank);
    if (granted == MPI_THREAD_MULTIPLE && (!o->ranks || o->ranks == world->size)) return MF_OK;
    MPI_TRY(MPI_Finalize());
    if (granted == MPI_THREAD_MULTIPLE) return refuse_ranks(o->ranks, world->size);
    return MF_FAIL(MF_EUNSUPPORTED,
                   "this MPI library does not grant MPI_THREAD_MULTIPLE, which transfers need");
}

/* An error returns without MPI_Finalize, which would wait for the others; see mf_abort_peers. */
static mf_status mpi_launch(const mf_launch_options *o, mf_rank_body body, void *argument) {
    mf_failure failure;
    mf_mpi_process process = {.last = &process.first};
    mf_world world = {.engine = &mf_engine_mpi,
                      .timeout_s = o->timeout_s,
                      .no_borrow = o->no_borrow,
                      .failure = &failure,
                      .state = &process};
    MF_TRY(start_mpi(o, &world));
    MF_TRY(mf_failure_init(&failure));
    mf_status status = body(&world, argument);
    mf_world_end(&world, status);
    if (!status && mf_world_failed(&world)) status = mf_error_adopt(&failure.error);
    mf_failure_destroy(&failure);
    if (status) return status;
    MF_TRY(release_kept(&process));
    MPI_TRY(MPI_Finalize());
    return MF_OK;
}

static void mpi_abort_peers(int code) {
    int started = 0, ended = 0;
    MPI_Initialized(&started);
    MPI_Finalized(&ended);
    if (started && !ended) MPI_Abort(MPI_COMM_WORLD, code);
}

static char description[MPI_MAX_LIBRARY_VERSION_STRING];

static void describe_library(void) {
    int length = 0;
    MPI_Get_library_version(description, &length);
    description[strcspn(description, ",\n")] = 0;
}

const char *mf_mpi_description(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, describe_library);
    return description;
}

const mf_engine mf_engine_mpi = {
    .name = "mpi",
    .launch = mpi_launch,
    .abort_peers = mpi_abort_peers,
    .open = mpi_open,
    .close = mpi_close,
    .transfer = mpi_transfer,
    .shared_alloc = mf_mpi_shared_alloc,
    .shared_free = mf_mpi_shared_free,
    .signal = mf_mpi_signal,
    .await = mf_mpi_await,
};
