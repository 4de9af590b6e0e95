/* mpi.c: the engine where each process that mpiexec started is a rank.
 *
 * Before data moves all members send each other what they were called with: a few bytes to each, so that an
 * operation that differs, and a member that does not come, are known by name. */
#include "comm/mpi.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

mf_status mf_mpi_failed(const char *file, int line, int code, const char *call) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return mf_fail_at(file, line, MF_ECOMM, "%.*s: %s", (int)strcspn(call, "("), call, text);
}

/* MF_ETIMEOUT is left to the caller to put into words. */
static mf_status wait_all(mf_world *world, int n, MPI_Request *requests) {
    mf_wait wait = {0};
    int done = 0;
    for (;;) {
        MPI_TRY(MPI_Testall(n, requests, &done, MPI_STATUSES_IGNORE));
        if (done) return MF_OK;
        mf_status status = mf_patience(world, &wait);
        if (status) return status;
    }
}

mf_status mf_mpi_settle(mf_comm *comm, const mf_header *header, int n, MPI_Request *requests) {
    mf_status status = wait_all(comm->world, n, requests);
    return status == MF_ETIMEOUT ? mf_late(comm, header, NULL, NULL) : status;
}

static bool not_received(const void *context, int member) {
    MPI_Request request = ((const MPI_Request *)context)[member];
    int done = 1;
    if (request != MPI_REQUEST_NULL) MPI_Request_get_status(request, &done, MPI_STATUS_IGNORE);
    return !done;
}

/* Sends told[r] to member r; headers[r] is what member r has told this one. */
mf_status mf_mpi_tell(mf_comm *comm, mf_mpi_lane *l) {
    int own = comm->rank;
    const mf_header *header = &l->told[own];
    l->headers[own] = *header;
    for (int r = 0; r < comm->size; r++) {
        l->requests[r] = l->requests[comm->size + r] = MPI_REQUEST_NULL;
        if (r == own) continue;
        MPI_TRY(MPI_Irecv(&l->headers[r], sizeof *header, MPI_BYTE, r, MF_MPI_TAG_HEADER, l->comm,
                          &l->requests[r]));
        MPI_TRY(MPI_Isend(&l->told[r], sizeof *header, MPI_BYTE, r, MF_MPI_TAG_HEADER, l->comm,
                          &l->requests[comm->size + r]));
    }
    mf_status status = wait_all(comm->world, 2 * comm->size, l->requests);
    return status == MF_ETIMEOUT ? mf_late(comm, header, not_received, l->requests) : status;
}

mf_status mf_mpi_meet(mf_comm *comm, int lane, const mf_header *header) {
    mf_mpi_group *g = comm->state;
    mf_mpi_lane *l = &g->lanes[lane];
    for (int r = 0; r < comm->size; r++) l->told[r] = *header;
    return mf_mpi_tell(comm, l);
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
        MPI_TRY(MPI_Irecv(&keys[r], 1, MPI_UINT64_T, comm->ranks[r], MF_MPI_TAG_CREATE, MPI_COMM_WORLD,
                          &requests[r]));
    keys[0] = group_key(comm);
    if (!leads) {
        MPI_TRY(MPI_Irecv(verdict, 1, MPI_UINT64_T, comm->ranks[0], MF_MPI_TAG_VERDICT, MPI_COMM_WORLD,
                          &requests[0]));
        MPI_TRY(MPI_Isend(keys, 1, MPI_UINT64_T, comm->ranks[0], MF_MPI_TAG_CREATE, MPI_COMM_WORLD,
                          &requests[1]));
    }
    mf_status status = wait_all(comm->world, comm->size, requests);
    if (status == MF_ETIMEOUT) return mf_late(comm, &header, leads ? not_received : NULL, requests);
    if (status) return status;
    if (!leads) return *verdict == 0 ? MF_OK : refuse_group(comm, (int)*verdict);
    for (int r = comm->size - 1; r > 0; r--)
        if (keys[r] != keys[0]) *verdict = (uint64_t)r;
    for (int r = 1; r < comm->size; r++)
        MPI_TRY(MPI_Isend(verdict, 1, MPI_UINT64_T, comm->ranks[r], MF_MPI_TAG_VERDICT, MPI_COMM_WORLD,
                          &requests[r]));
    MF_TRY(mf_mpi_settle(comm, &header, comm->size, requests));
    return *verdict == 0 ? MF_OK : refuse_group(comm, (int)*verdict);
}

static mf_status lane_open(mf_comm *comm, mf_mpi_lane *l) {
    size_t n = (size_t)comm->size;
    MF_TRY(mf_mpi_keep(comm->world, &l->kept));
    MF_TRY(mf_host_alloc(n, sizeof *l->headers, &l->headers));
    MF_TRY(mf_host_alloc(n, sizeof *l->told, &l->told));
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
        MPI_TRY(MPI_Comm_create_group(MPI_COMM_WORLD, members, MF_MPI_TAG_CREATE, &l->comm));
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
    comm->borrows &= !comm->world->no_borrow && !comm->world->device; /* windows are the host's memory */
    if (comm->borrows) MF_TRY(mf_mpi_signals_open(comm));
    return MF_OK;
}

/* After an error MPI may still write into what was under way: it is left to the end of the process, which is
 * near. */
static void mpi_close(mf_comm *comm) {
    mf_mpi_group *g = comm->state;
    if (!g || mf_world_failed(comm->world)) return;
    for (int i = 0; i < MF_LANES; i++) {
        mf_pinned_give_back(comm->world->device, g->lanes[i].staged);
        mf_host_free(g->lanes[i].terms);
        mf_host_free(g->lanes[i].counts);
        mf_host_free(g->lanes[i].requests);
        mf_host_free(g->lanes[i].told);
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
    .transfer = mf_mpi_carry,
    .meet = mf_mpi_confer,
    .shared_alloc = mf_mpi_shared_alloc,
    .shared_free = mf_mpi_shared_free,
    .signal = mf_mpi_signal,
    .await = mf_mpi_await,
};
