/* comm_ranks.c: one rank of the MPI engine's test; comm_mpi.sh starts it under mpiexec, once for each way to
 * end. Prints its error and ends the job, as a program should. */
#include "comm_scenario.h"
#include "comm/ops.h"
#include "cut_scenario.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static mf_status many_windows(mf_comm *comm) {
    mf_memory *memory = NULL;
    mf_shared shared = {0};
    MF_TRY(mf_memory_create(NULL, &memory));
    for (int i = 0; i < 40; i++) {
        MF_TRY(mf_shared_alloc(comm, memory, MF_WEIGHTS, 1 << 20, "shard", &shared));
        memset(shared.own, i, 1 << 20);
        MF_TRY(mf_barrier(comm));
        int next = (mf_comm_rank(comm) + 1) % mf_comm_size(comm);
        if (mf_comm_borrows(comm)) EXPECT(((unsigned char *)shared.peer[next])[(1 << 20) - 1] == i);
        MF_TRY(mf_barrier(comm));
        mf_shared_free(comm, memory, &shared);
    }
    EXPECT(mf_memory_stats_get(memory).peak_total == 1 << 20);
    mf_memory_destroy(memory);
    return MF_OK;
}

static mf_status values(mf_world *world, bool borrows) {
    mf_comm *comm = NULL;
    EXPECT(strcmp(mf_world_engine(world), "mpi") == 0 && mf_launched_by_mpi());
    EXPECT(mf_mpi_ranks() == mf_world_size(world));
    MF_TRY(everyone(world, &comm));
    EXPECT(mf_comm_borrows(comm) == borrows);
    MF_TRY(check_all(comm, 0));
    MF_TRY(check_overlap(comm));
    MF_TRY(check_both_lanes(comm, 0));
    MF_TRY(check_shared(comm));
    MF_TRY(many_windows(comm));
    MF_TRY(check_grid(world));
    for (int i = 0; i < 30; i++) {
        cut_trial trial = cut_trial_at(i);
        MF_TRY(cut_trial_run(world, &trial));
    }
    mf_comm_stat stats[MF_COMM_OPS];
    mf_comm_stats(comm, stats);
    EXPECT((stats[MF_OP_REDUCE].bytes > 0) == (mf_world_size(world) > 1));
    EXPECT(stats[MF_OP_REDUCE].borrowed_bytes == 0);
    MF_TRY(check_bytes_counted(comm));
    mf_comm_destroy(comm);
    return MF_OK;
}

static mf_status borrowing(mf_world *world) { return values(world, true); }
static mf_status sending(mf_world *world) { return values(world, false); }

static mf_status transfers_of_device(mf_comm *comm) {
    EXPECT(!mf_comm_borrows(comm));
    MF_TRY(check_all(comm, 0));
    MF_TRY(check_overlap(comm));
    MF_TRY(check_both_lanes(comm, 0));
    MF_TRY(check_bytes_counted(comm));
    return check_shared(comm);
}

/* What lies in a GPU's memory goes through the host's. */
static mf_status on_device(mf_world *world) {
    mf_comm *comm = NULL;
    mf_status status;
    MF_GO(place_open(world, getenv("MESHFOLD_TEST_DEVICE")));
    MF_GO(everyone(world, &comm));
    MF_GO(transfers_of_device(comm));
fail:
    mf_comm_destroy(comm);
    place_close();
    return status;
}

static mf_status mismatch(mf_world *world) {
    mf_comm *comm = NULL;
    char data[64] = {0};
    MF_TRY(everyone(world, &comm));
    MF_TRY(mf_barrier(comm));
    return mf_broadcast(comm, data, mf_world_rank(world) == 1 ? 63 : 64, 0, NULL);
}

static mf_status other_parts(mf_world *world) {
    mf_comm *comm = NULL;
    float data[12] = {0};
    int64_t offsets[] = {0, 4, mf_world_rank(world) == 1 ? 7 : 8, 12};
    MF_TRY(everyone(world, &comm));
    return mf_reduce_scatter(comm, data, offsets, MF_F32, NULL);
}

static mf_status start_blocks_of_ten(mf_comm *comm, size_t first, mf_request *request) {
    static char send[64], recv[64];
    size_t sends[] = {0, first, first + 10, first + 20}, receives[] = {0, 10, 20, 30};
    return mf_alltoall(comm, send, sends, recv, receives, request);
}

static mf_status other_block(mf_world *world) {
    mf_comm *comm = NULL;
    MF_TRY(everyone(world, &comm));
    return start_blocks_of_ten(comm, mf_world_rank(world) == 1 ? 12 : 10, NULL);
}

static mf_status late_alltoall(mf_world *world) {
    mf_comm *comm = NULL;
    mf_request request = {0};
    MF_TRY(everyone(world, &comm));
    if (mf_world_rank(world) == 1) sleep(30);
    MF_TRY(start_blocks_of_ten(comm, 10, &request));
    return mf_finish(comm, &request);
}

static mf_status other_group(mf_world *world) {
    mf_comm *comm = NULL;
    return mf_comm_create(world, mf_world_rank(world) == 1 ? "rows" : "columns", (int[]){0, 1}, 2, &comm);
}

static mf_status late(mf_world *world) {
    mf_comm *comm = NULL;
    MF_TRY(everyone(world, &comm));
    if (mf_world_rank(world) != 1) return mf_barrier(comm);
    sleep(30);
    return MF_OK;
}

static mf_status late_request(mf_world *world) {
    mf_comm *comm = NULL;
    char data[64] = {0};
    mf_request request = {0};
    MF_TRY(everyone(world, &comm));
    if (mf_world_rank(world) == 1) sleep(30);
    MF_TRY(mf_broadcast(comm, data, 64, 0, &request));
    return mf_finish(comm, &request);
}

static mf_status late_signal(mf_world *world) {
    mf_comm *comm = NULL;
    MF_TRY(everyone(world, &comm));
    if (mf_world_rank(world) != 1) return mf_await(comm, 1, 2, 9);
    sleep(30);
    return MF_OK;
}

static mf_status own_error(mf_world *world) {
    mf_comm *comm = NULL;
    MF_TRY(everyone(world, &comm));
    if (mf_world_rank(world) == 1) return MF_FAIL(MF_EIO, "no such data file");
    return mf_barrier(comm);
}

static mf_status killed(mf_world *world) {
    mf_comm *comm = NULL;
    MF_TRY(everyone(world, &comm));
    if (mf_world_rank(world) == 1) raise(SIGKILL);
    return mf_barrier(comm);
}

/* Rank 0 can't account for its part. Each says so before any of them ends the job. */
static mf_status no_memory(mf_world *world) {
    mf_comm *comm = NULL;
    mf_memory *memory = NULL;
    mf_shared shared = {0};
    MF_TRY(everyone(world, &comm));
    MF_TRY(mf_memory_create(NULL, &memory));
    if (mf_world_rank(world) == 0) mf_fault_arm(MF_FAULT_ALLOC, 2);
    mf_status status = mf_shared_alloc(comm, memory, MF_WEIGHTS, 64, "weights", &shared);
    EXPECT(mf_memory_stats_get(memory).now_total == 0 && !shared.peer);
    if (status) fprintf(stderr, "rank %d: %s\n", mf_world_rank(world), mf_error_last()->message);
    sleep(1);
    return status;
}

static const struct {
    const char *name;
    mf_status (*body)(mf_world *world);
} ways[] = {
    {"borrowing", borrowing},       {"sending", sending},
    {"on_device", on_device},       {"mismatch", mismatch},
    {"other_group", other_group},   {"late", late},
    {"late_request", late_request}, {"late_signal", late_signal},
    {"own_error", own_error},       {"killed", killed},
    {"no_memory", no_memory},       {"other_parts", other_parts},
    {"other_block", other_block},   {"late_alltoall", late_alltoall},
};

static mf_status run_way(mf_world *world, void *argument) {
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (strcmp(ways[i].name, argument) == 0) return ways[i].body(world);
    return MF_FAIL(MF_EINVAL, "no way named %s", (char *)argument);
}

/* comm_ranks WAY [timeout_s [ranks]] */
int main(int argc, char **argv) {
    char *way = argc > 1 ? argv[1] : "";
    mf_launch_options options = {.engine = "mpi",
                                 .timeout_s = argc > 2 ? atof(argv[2]) : 60,
                                 .ranks = argc > 3 ? atoi(argv[3]) : 0,
                                 .no_borrow = strcmp(way, "sending") == 0};
    if (!mf_launch(&options, run_way, way)) {
        mf_status again = mf_launch(&options, run_way, way);
        return again == MF_EINVAL && strstr(mf_error_last()->message, "once in a process") ? 0 : 2;
    }
    fprintf(stderr, "rank %d: %s\n", mf_rank_get(), mf_error_last()->message);
    mf_abort_peers(1);
    return 1;
}
