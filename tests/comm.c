/* comm.c: groups of ranks on the local engine: every operation's values, its counters, and how it fails. */
#include "support.h"
#include "comm_scenario.h"
#include "comm/ops.h"

#include <unistd.h>

static mf_status launch(int ranks, double timeout_s, mf_rank_body body, void *argument) {
    mf_launch_options options = {.engine = "local", .ranks = ranks, .timeout_s = timeout_s};
    return mf_launch(&options, body, argument);
}

static mf_status with_group(mf_world *world, mf_status (*check)(mf_comm *comm)) {
    mf_comm *comm = NULL;
    MF_TRY(everyone(world, &comm));
    mf_status status = check(comm);
    mf_comm_destroy(comm);
    return status;
}

static mf_status check_exactly(mf_comm *comm) { return check_all(comm, 0); }
static mf_status check_lanes(mf_comm *comm) { return check_both_lanes(comm, 0); }

static mf_status whole_scenario(mf_world *world, void *argument) {
    (void)argument;
    EXPECT(strcmp(mf_world_engine(world), "local") == 0);
    MF_TRY(with_group(world, check_exactly));
    MF_TRY(with_group(world, check_overlap));
    MF_TRY(with_group(world, check_lanes));
    MF_TRY(with_group(world, check_bytes_counted));
    MF_TRY(with_group(world, check_shared));
    return mf_world_size(world) > 1 ? check_grid(world) : MF_OK;
}

static void test_values(void **state) {
    (void)state;
    const int sizes[] = {1, 2, 3, 4, 5, 6, 8};
    for (int i = 0; i < 7; i++)
        for (int no_borrow = 0; no_borrow < 2; no_borrow++) {
            mf_launch_options options = {
                .engine = "local", .ranks = sizes[i], .timeout_s = 60, .no_borrow = no_borrow};
            ASSERT_OK(mf_launch(&options, whole_scenario, NULL));
        }
}

/* Groups of one list and axis, made twice and ended in another order, find their partners. */
static mf_status groups_alike(mf_world *world, void *argument) {
    (void)argument;
    mf_comm *first = NULL, *second = NULL;
    for (int turn = 0; turn < 20; turn++) {
        double one = 1, two = 2;
        MF_TRY(everyone(world, &first));
        if (mf_world_rank(world) == 0) mf_comm_destroy(first), first = NULL;
        MF_TRY(everyone(world, &second));
        MF_TRY(mf_allreduce_f64(second, &two, 1));
        EXPECT(two == 2 * mf_world_size(world) && one == 1);
        mf_comm_destroy(second);
        mf_comm_destroy(first);
        first = NULL;
    }
    return MF_OK;
}

static void test_groups_alike(void **state) {
    (void)state;
    ASSERT_OK(launch(3, 60, groups_alike, NULL));
}

static mf_status large_sums(mf_comm *comm) {
    int64_t n = 300007;
    float *data = NULL;
    MF_TRY(mf_host_alloc((size_t)n, sizeof *data, &data));
    for (int64_t i = 0; i < n; i++) data[i] = (float)(i % 1000) * (float)(mf_comm_rank(comm) + 1);
    mf_status status = mf_allreduce(comm, data, n, MF_F32, NULL);
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) wrong += data[i] != (float)(i % 1000) * 6;
    mf_host_free(data);
    MF_TRY(status);
    EXPECT(wrong == 0);
    return MF_OK;
}

static mf_status run_large_sums(mf_world *world, void *argument) {
    (void)argument;
    return with_group(world, large_sums);
}

static void test_large_sums(void **state) {
    (void)state;
    ASSERT_OK(launch(3, 60, run_large_sums, NULL));
}

static mf_status counters(mf_world *world, void *argument) {
    bool borrows = !*(bool *)argument;
    mf_comm *comm = NULL;
    mf_comm_stat stats[MF_COMM_OPS];
    mf_request request = {0};
    char data[400] = {0}, other[400] = {0};
    float sums[10] = {0};
    size_t offsets[] = {0, 100, 100, 130};
    int rank = mf_world_rank(world);
    MF_TRY(everyone(world, &comm));
    MF_TRY(mf_barrier(comm));
    MF_TRY(mf_broadcast(comm, data, 400, 1, NULL));
    MF_TRY(mf_broadcast(comm, data, 40, 0, &request));
    MF_TRY(mf_finish(comm, &request));
    MF_TRY(mf_allgather(comm, data, other, offsets, NULL));
    MF_TRY(mf_reduce(comm, sums, 10, 2, NULL));
    MF_TRY(mf_allreduce(comm, sums, 10, MF_F32, NULL));
    MF_TRY(mf_shift(comm, data, 10, other, 10, NULL));
    mf_count_borrowed(comm, MF_OP_SHIFT, 77);
    if (borrows) MF_TRY(mf_signal(comm, 0, 1));
    mf_comm_stats(comm, stats);
    const int64_t calls[MF_COMM_OPS] = {1, 2, 1, 1, 1, 2, 0, 0, borrows};
    for (int i = 0; i < MF_COMM_OPS; i++) EXPECT(stats[i].calls == calls[i]);
    EXPECT(strcmp(stats[MF_OP_ALLGATHER].op, "allgather") == 0);
    EXPECT(stats[MF_OP_BARRIER].bytes == 0);
    EXPECT(stats[MF_OP_BROADCAST].bytes == (rank == 0 ? 0 : 400) + (rank == 2 ? 0 : 40));
    EXPECT(stats[MF_OP_ALLGATHER].bytes == 130 - (rank == 0 ? 0 : rank == 1 ? 30 : 100));
    int64_t reduced = rank == 2 ? 0 : 40;
    EXPECT(stats[MF_OP_REDUCE].bytes == (borrows ? 0 : reduced));
    EXPECT(stats[MF_OP_REDUCE].borrowed_bytes == (borrows ? reduced : 0));
    EXPECT(stats[MF_OP_ALLREDUCE].bytes == 2 * 40 * 2 / 3);
    EXPECT(stats[MF_OP_SHIFT].bytes == 10 && stats[MF_OP_SHIFT].borrowed_bytes == 77);
    EXPECT(stats[MF_OP_BROADCAST].total_s > 0 && stats[MF_OP_BROADCAST].exposed_s > 0);
    mf_comm_reset_stats(comm);
    mf_comm_stats(comm, stats);
    for (int i = 0; i < MF_COMM_OPS; i++)
        EXPECT(stats[i].calls == 0 && stats[i].bytes == 0 && stats[i].borrowed_bytes == 0 &&
               stats[i].total_s == 0);
    mf_comm_destroy(comm);
    return MF_OK;
}

static void test_counters(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        bool no_borrow = i;
        mf_launch_options options = {.engine = "local", .ranks = 3, .timeout_s = 60, .no_borrow = no_borrow};
        ASSERT_OK(mf_launch(&options, counters, &no_borrow));
    }
}

/* One way to be wrong: the rank `odd` of 3 does something else than the others. */
typedef struct fault_case {
    mf_status (*body)(mf_comm *comm, bool odd);
    mf_status status;
    const char *parts[4];
} fault_case;

static char scratch[MOST_RANKS][4096];

static char *own_scratch(const mf_comm *comm) { return scratch[mf_comm_rank(comm)]; }

static mf_status other_operation(mf_comm *comm, bool odd) {
    MF_TRY(mf_barrier(comm));
    if (odd) return mf_reduce(comm, (float *)(void *)own_scratch(comm), 16, 1, NULL);
    return mf_broadcast(comm, own_scratch(comm), 64, 0, NULL);
}

static mf_status other_count(mf_comm *comm, bool odd) {
    mf_request request = {0};
    mf_status status = mf_broadcast(comm, own_scratch(comm), odd ? 65 : 64, 0, &request);
    return status ? status : mf_finish(comm, &request);
}

static mf_status other_offsets(mf_comm *comm, bool odd) {
    size_t offsets[] = {0, 8, odd ? 9 : 10, 20};
    return mf_allgather(comm, own_scratch(comm), own_scratch(comm) + 100, offsets, NULL);
}

static mf_status other_root(mf_comm *comm, bool odd) {
    return mf_broadcast(comm, own_scratch(comm), 64, odd ? 2 : 1, NULL);
}

static mf_status barrier_for_broadcast(mf_comm *comm, bool odd) {
    return odd ? mf_barrier(comm) : mf_broadcast(comm, own_scratch(comm), 64, 1, NULL);
}

static mf_status other_hop(mf_comm *comm, bool odd) {
    return mf_shift(comm, own_scratch(comm), odd ? 12 : 10, own_scratch(comm) + 100, 10, NULL);
}

static mf_status other_type(mf_comm *comm, bool odd) {
    return mf_allreduce(comm, own_scratch(comm), 16, odd ? MF_BF16 : MF_F32, NULL);
}

static mf_status scatter_late(mf_comm *comm, const int64_t *offsets, mf_dtype type) {
    mf_request request = {0};
    mf_status status = mf_reduce_scatter(comm, own_scratch(comm), offsets, type, &request);
    return status ? status : mf_finish(comm, &request);
}

static mf_status other_parts(mf_comm *comm, bool odd) {
    return scatter_late(comm, (int64_t[]){0, 8, odd ? 9 : 10, 20}, MF_F32);
}

static mf_status other_part_type(mf_comm *comm, bool odd) {
    return scatter_late(comm, (int64_t[]){0, 8, 10, 20}, odd ? MF_BF16 : MF_F32);
}

/* Ten bytes for each member, but the first gets `first`. */
static mf_status send_blocks(mf_comm *comm, size_t first, mf_request *request) {
    size_t sends[] = {0, first, first + 10, first + 20}, receives[] = {0, 10, 20, 30};
    return mf_alltoall(comm, own_scratch(comm), sends, own_scratch(comm) + 100, receives, request);
}

static mf_status other_block(mf_comm *comm, bool odd) { return send_blocks(comm, odd ? 12 : 10, NULL); }

static mf_status other_block_in_request(mf_comm *comm, bool odd) {
    mf_request request = {0};
    mf_status status = send_blocks(comm, odd ? 12 : 10, &request);
    return status ? status : mf_finish(comm, &request);
}

static mf_status scatter_for_alltoall(mf_comm *comm, bool odd) {
    return odd ? mf_reduce_scatter(comm, own_scratch(comm), (int64_t[]){0, 4, 8, 12}, MF_BF16, NULL)
               : send_blocks(comm, 10, NULL);
}

static mf_status own_error(mf_comm *comm, bool odd) {
    if (odd) return MF_FAIL(MF_EIO, "no such data file");
    for (int i = 0; i < 100; i++) MF_TRY(mf_barrier(comm));
    return MF_OK;
}

static mf_status own_error_in_request(mf_comm *comm, bool odd) {
    mf_request request = {0};
    if (odd) return MF_FAIL(MF_EIO, "no such data file");
    MF_TRY(mf_broadcast(comm, own_scratch(comm), 64, 0, &request));
    return mf_finish(comm, &request);
}

static mf_status own_error_in_alltoall(mf_comm *comm, bool odd) {
    mf_request request = {0};
    if (odd) return MF_FAIL(MF_EIO, "no such data file");
    MF_TRY(send_blocks(comm, 10, &request));
    return mf_finish(comm, &request);
}

static mf_status own_error_in_await(mf_comm *comm, bool odd) {
    return odd ? MF_FAIL(MF_EIO, "no such data file") : mf_await(comm, 1, 0, 1);
}

/* Its peers never start the request: the one that has failed lets go of it and wakes them. */
static mf_status abandoned(mf_comm *comm, bool odd) {
    mf_request request = {0};
    if (!odd) return mf_barrier(comm);
    MF_TRY(mf_broadcast(comm, own_scratch(comm), 64, 0, &request));
    mf_status status = MF_FAIL(MF_ENOMEM, "no room for activations");
    mf_abandon(comm, &request);
    return request.ticket ? MF_OK : status;
}

static mf_status left_outstanding(mf_comm *comm, bool odd) {
    mf_request request = {0};
    if (!odd) return mf_barrier(comm);
    MF_TRY(mf_broadcast(comm, own_scratch(comm), 64, 0, &request));
    return MF_FAIL(MF_ENOMEM, "no room for activations"); /* the group is destroyed with its request */
}

static mf_status too_many_requests(mf_comm *comm, bool odd) {
    mf_request requests[65] = {{0}};
    for (int i = 0; odd && i < 65; i++) MF_TRY(mf_broadcast(comm, own_scratch(comm), 64, 0, &requests[i]));
    return mf_barrier(comm);
}

static mf_status bad_root(mf_comm *comm, bool odd) {
    return mf_broadcast(comm, own_scratch(comm), 4, odd ? 3 : 0, NULL);
}
static mf_status bad_offsets(mf_comm *comm, bool odd) {
    size_t offsets[] = {0, odd ? 9 : 0, 8, 8};
    return mf_allgather(comm, own_scratch(comm), own_scratch(comm) + 100, offsets, NULL);
}
static mf_status bad_count(mf_comm *comm, bool odd) {
    return mf_allreduce(comm, NULL, odd ? -1 : 0, MF_F32, NULL);
}
static mf_status bad_buffer(mf_comm *comm, bool odd) {
    return mf_broadcast(comm, odd ? NULL : own_scratch(comm), 4, 0, NULL);
}
static mf_status bad_parts(mf_comm *comm, bool odd) {
    int64_t offsets[] = {0, odd ? 9 : 0, 8, 8};
    return mf_reduce_scatter(comm, own_scratch(comm), offsets, MF_F32, NULL);
}
static mf_status negative_parts(mf_comm *comm, bool odd) {
    int64_t offsets[] = {odd ? -1 : 0, 8, 8, 8};
    return mf_reduce_scatter(comm, own_scratch(comm), offsets, MF_F32, NULL);
}
static mf_status no_parts(mf_comm *comm, bool odd) {
    int64_t offsets[] = {0, 8, 8, 8};
    return mf_reduce_scatter(comm, own_scratch(comm), odd ? NULL : offsets, MF_F32, NULL);
}
static mf_status bad_blocks(mf_comm *comm, bool odd) {
    size_t sends[] = {0, 10, 20, 30}, receives[] = {0, 10, odd ? 31 : 20, 30};
    return mf_alltoall(comm, own_scratch(comm), sends, own_scratch(comm) + 100, receives, NULL);
}
static mf_status no_blocks(mf_comm *comm, bool odd) {
    size_t offsets[] = {0, 10, 20, 30};
    return mf_alltoall(comm, own_scratch(comm), odd ? NULL : offsets, own_scratch(comm) + 100, offsets, NULL);
}
static mf_status no_block_buffer(mf_comm *comm, bool odd) {
    size_t offsets[] = {0, 10, 20, 30};
    return mf_alltoall(comm, own_scratch(comm), offsets, odd ? NULL : own_scratch(comm) + 100, offsets, NULL);
}
static mf_status falling_signal(mf_comm *comm, bool odd) {
    MF_TRY(mf_signal(comm, 2, 5));
    if (odd) MF_TRY(mf_signal(comm, 2, 4));
    return mf_barrier(comm);
}
static mf_status bad_slot(mf_comm *comm, bool odd) {
    if (odd) MF_TRY(mf_signal(comm, MF_SIGNALS, 4));
    return mf_barrier(comm);
}

static mf_status late(mf_comm *comm, bool odd) {
    MF_TRY(mf_barrier(comm));
    return odd ? MF_OK : mf_barrier(comm);
}

static mf_status late_request(mf_comm *comm, bool odd) {
    mf_request request = {0};
    if (odd) return MF_OK;
    MF_TRY(mf_broadcast(comm, own_scratch(comm), 64, 0, &request));
    return mf_finish(comm, &request);
}

static mf_status late_scatter(mf_comm *comm, bool odd) {
    return odd ? MF_OK : mf_reduce_scatter(comm, own_scratch(comm), (int64_t[]){0, 4, 8, 12}, MF_BF16, NULL);
}

static mf_status late_alltoall(mf_comm *comm, bool odd) {
    mf_request request = {0};
    if (odd) return MF_OK;
    MF_TRY(send_blocks(comm, 10, &request));
    return mf_finish(comm, &request);
}

static mf_status late_signal(mf_comm *comm, bool odd) {
    if (odd) return mf_signal(comm, 4, 6);
    return mf_await(comm, 1, 4, 7);
}

static const fault_case mistakes[] = {
    {other_operation,
     MF_ECOMM,
     {"axis all, operation 2", "broadcast of 64 bytes with root 0", "rank 1 called reduce of 16 f32"}},
    {other_count,
     MF_ECOMM,
     {"axis all, operation 1", "rank 0 called broadcast of 64", "rank 1 called broadcast of 65"}},
    {other_offsets, MF_ECOMM, {"rank 1 called allgather of 20 bytes with other offsets"}},
    {other_root, MF_ECOMM, {"rank 0 called broadcast of 64 bytes with root 1", "rank 1", "root 2"}},
    {barrier_for_broadcast, MF_ECOMM, {"rank 0 called broadcast", "rank 1 called barrier"}},
    {other_hop, MF_ECOMM, {"rank 1 sends 12 bytes, rank 0 expects 10"}},
    {other_type, MF_ECOMM, {"rank 0 called allreduce of 16 f32", "rank 1 called allreduce of 16 bf16"}},
    {other_parts, MF_ECOMM, {"rank 1 called reduce_scatter of 20 f32 with other offsets"}},
    {other_part_type,
     MF_ECOMM,
     {"rank 0 called reduce_scatter of 20 f32", "rank 1 called reduce_scatter of 20 bf16"}},
    {other_block,
     MF_ECOMM,
     {"axis all, operation 1: alltoall: rank 1 sends 12 bytes to rank 0, which expects 10"}},
    {other_block_in_request, MF_ECOMM, {"rank 1 sends 12 bytes to rank 0, which expects 10"}},
    {scatter_for_alltoall, MF_ECOMM, {"rank 0 called alltoall", "rank 1 called reduce_scatter of 12 bf16"}},
    {own_error, MF_EIO, {"no such data file"}},
    {own_error_in_request, MF_EIO, {"no such data file"}},
    {own_error_in_alltoall, MF_EIO, {"no such data file"}},
    {own_error_in_await, MF_EIO, {"no such data file"}},
    {abandoned, MF_ENOMEM, {"no room for activations"}},
    {left_outstanding, MF_ENOMEM, {"no room for activations"}},
    {too_many_requests, MF_ECOMM, {"axis all", "more than 64 requests"}},
    {bad_root, MF_EINVAL, {"root 3 of 3 ranks"}},
    {bad_offsets, MF_EINVAL, {"the offsets of rank 1 fall from 9 to 8"}},
    {bad_parts, MF_EINVAL, {"reduce_scatter on axis all: the offsets of rank 1 fall from 9 to 8"}},
    {negative_parts, MF_EINVAL, {"reduce_scatter on axis all: the offsets begin at -1"}},
    {no_parts, MF_EINVAL, {"reduce_scatter on axis all without offsets"}},
    {bad_blocks, MF_EINVAL, {"alltoall on axis all: the recv offsets of rank 2 fall from 31 to 30"}},
    {no_blocks, MF_EINVAL, {"alltoall on axis all without send offsets"}},
    {no_block_buffer, MF_EINVAL, {"alltoall on axis all: no buffer given"}},
    {bad_count, MF_EINVAL, {"allreduce on axis all: -1 elements"}},
    {bad_buffer, MF_EINVAL, {"no buffer"}},
    {falling_signal, MF_EINVAL, {"signal 2 falls from 5 to 4"}},
    {bad_slot, MF_EINVAL, {"slot 8 of 8"}},
};
static const fault_case lateness[] = {
    {late, MF_ETIMEOUT, {"axis all, operation 2", "waited 0.2 s for rank 1 in barrier"}},
    {late_request, MF_ETIMEOUT, {"axis all, operation 1", "for rank 1 in broadcast of 64 bytes"}},
    {late_scatter, MF_ETIMEOUT, {"for rank 1 in reduce_scatter of 12 bf16"}},
    {late_alltoall, MF_ETIMEOUT, {"axis all, operation 1", "for rank 1 in alltoall"}},
    {late_signal, MF_ETIMEOUT, {"for rank 1 to signal 7 in slot 4; it stands at 6"}},
};

typedef struct fault_run {
    const fault_case *what;
    mf_status status[3];
    char message[3][512];
} fault_run;

static mf_status run_fault(mf_world *world, void *argument) {
    fault_run *run = argument;
    int rank = mf_world_rank(world);
    mf_comm *comm = NULL;
    mf_status status = everyone(world, &comm);
    if (!status) status = run->what->body(comm, rank == 1);
    run->status[rank] = status;
    if (status) snprintf(run->message[rank], sizeof run->message[rank], "%s", mf_error_last()->message);
    mf_comm_destroy(comm);
    return status;
}

/* Every rank that failed has the same error, and so has the launch. */
static void fails_everywhere(const fault_case *what, double timeout_s) {
    fault_run run = {.what = what};
    mf_status status = launch(3, timeout_s, run_fault, &run);
    for (int i = 0; i < 4 && what->parts[i]; i++)
        assert_failure(status, what->status, what->parts[i], __FILE__, __LINE__);
    assert_in_range(mf_error_last()->rank, 0, 2);
    assert_true(run.status[0] && run.status[2]);
    for (int r = 0; r < 3; r++)
        if (run.status[r]) assert_string_equal(run.message[r], mf_error_last()->message);
}

static void test_mistakes_are_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) fails_everywhere(&mistakes[i], 60);
}

static void test_timeouts_name_who_is_missing(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof lateness / sizeof *lateness; i++) fails_everywhere(&lateness[i], 0.2);
}

static mf_status unequal_alone(mf_comm *comm) {
    size_t sends[] = {0, 4}, receives[] = {0, 5};
    return mf_alltoall(comm, own_scratch(comm), sends, own_scratch(comm) + 100, receives, NULL);
}

static mf_status run_unequal_alone(mf_world *world, void *argument) {
    (void)argument;
    return with_group(world, unequal_alone);
}

static void test_group_of_one_refuses_too(void **state) {
    (void)state;
    ASSERT_FAILS(launch(1, 60, run_unequal_alone, NULL), MF_ECOMM,
                 "rank 0 sends 4 bytes to rank 0, which expects 5");
}

static mf_status deep_error(mf_world *world) {
    return mf_world_rank(world) == 2 ? MF_FAIL(MF_EFORMAT, "bad header") : MF_OK;
}

static mf_status pass_up(mf_world *world, void *argument) {
    (void)argument;
    mf_comm *comm = NULL;
    MF_TRY(deep_error(world));
    MF_TRY(everyone(world, &comm));
    mf_status status = mf_barrier(comm);
    mf_comm_destroy(comm);
    return status;
}

static void test_error_keeps_rank_and_trace(void **state) {
    (void)state;
    ASSERT_FAILS(launch(4, 60, pass_up, NULL), MF_EFORMAT, "bad header");
    assert_int_equal(mf_error_last()->rank, 2);
    assert_true(mf_error_last()->depth >= 2);
}

static mf_status bare_status(mf_world *world, void *argument) {
    (void)argument;
    return mf_world_rank(world) == 1 ? MF_EIO : MF_OK;
}

static mf_status wrong_group(mf_world *world, void *argument) {
    mf_comm *comm = NULL;
    MF_TRY(mf_comm_create(world, "odd", argument, 2, &comm));
    mf_comm_destroy(comm);
    return MF_OK;
}

static void test_launch_refuses(void **state) {
    (void)state;
    ASSERT_FAILS(mf_launch(&(mf_launch_options){.engine = "shmem", .ranks = 2}, bare_status, NULL), MF_EINVAL,
                 "shmem");
    ASSERT_FAILS(mf_launch(&(mf_launch_options){.ranks = 2}, bare_status, NULL), MF_EINVAL, "(none)");
    ASSERT_FAILS(launch(0, 0, bare_status, NULL), MF_EINVAL, "0 ranks");
    ASSERT_FAILS(launch(2, -1, bare_status, NULL), MF_EINVAL, "timeout of -1 s");
    ASSERT_FAILS(launch(2, 0, bare_status, NULL), MF_EIO, "rank 1 ended");
    ASSERT_FAILS(launch(2, 0, wrong_group, (int[]){0, 2}), MF_EINVAL, "rank 2 of a world of 2");
    ASSERT_FAILS(launch(2, 0, wrong_group, (int[]){1, 1}), MF_EINVAL, "names rank 1 twice");
    ASSERT_FAILS(launch(3, 0, wrong_group, (int[]){1, 2}), MF_EINVAL, "does not contain rank 0");
}

/* One rank frees while another still reads: the content stays, as it must when a failing rank cleans up. */
static mf_status free_early(mf_world *world, void *argument) {
    (void)argument;
    mf_comm *comm = NULL;
    mf_memory *memory = NULL;
    mf_shared shared = {0};
    MF_TRY(mf_memory_create(NULL, &memory));
    MF_TRY(everyone(world, &comm));
    MF_TRY(mf_shared_alloc(comm, memory, MF_WEIGHTS, 4096, "weights", &shared));
    memset(shared.own, 7, 4096);
    MF_TRY(mf_barrier(comm));
    unsigned char *theirs = shared.peer[0];
    if (mf_world_rank(world) == 0) mf_shared_free(comm, memory, &shared);
    MF_TRY(mf_barrier(comm));
    EXPECT(theirs[4095] == 7 || mf_world_rank(world) == 0);
    MF_TRY(mf_barrier(comm));
    mf_shared_free(comm, memory, &shared);
    mf_comm_destroy(comm);
    mf_memory_destroy(memory);
    return MF_OK;
}

static void test_shared_memory_outlives_a_rank(void **state) {
    (void)state;
    ASSERT_OK(launch(2, 60, free_early, NULL));
}

/* A little of everything, with all of its own memory given back on every path. */
static mf_status some_of_all(mf_comm *comm, mf_memory *memory, mf_buffer *buffer, mf_shared *shared) {
    enum { BROADCAST, SCATTER, ALLTOALL, REQUESTS };
    mf_request requests[REQUESTS] = {0};
    mf_status status = MF_OK;
    size_t offsets[] = {0, 64, 128, 192};
    int64_t parts[] = {0, 10, 10, 30};
    char *data = NULL;
    MF_TRY(mf_buffer_alloc(memory, MF_WORKSPACE, 4096, "buffer", buffer));
    memset(buffer->data, 0, 4096);
    data = buffer->data;
    MF_TRY(mf_shared_alloc(comm, memory, MF_WEIGHTS, 64, "shared", shared));
    MF_GO(mf_broadcast(comm, data, 1024, 1, &requests[BROADCAST]));
    MF_GO(mf_reduce_scatter(comm, data + 1024, parts, MF_BF16, &requests[SCATTER]));
    MF_GO(mf_alltoall(comm, data + 2560, offsets, data + 2816, offsets, &requests[ALLTOALL]));
    MF_GO(mf_allgather(comm, data + 2048, data + 2112, offsets, NULL));
    MF_GO(mf_reduce(comm, shared->own, 16, 0, NULL));
    MF_GO(mf_signal(comm, 0, 1));
    MF_GO(mf_await(comm, 1, 0, 1));
    for (int i = 0; i < REQUESTS; i++) MF_GO(mf_finish(comm, &requests[i]));
    MF_GO(mf_allreduce(comm, data, 16, MF_BF16, NULL));
    MF_TRY(mf_barrier(comm));
    return MF_OK;
fail:
    for (int i = 0; i < REQUESTS; i++) mf_abandon(comm, &requests[i]);
    return status;
}

static mf_status small_scenario(mf_world *world, void *argument) {
    (void)argument;
    mf_status status;
    mf_comm *comm = NULL;
    mf_memory *memory = NULL;
    mf_buffer buffer = {0};
    mf_shared shared = {0};
    MF_GO(mf_memory_create(NULL, &memory));
    MF_GO(everyone(world, &comm));
    MF_GO(some_of_all(comm, memory, &buffer, &shared));
fail:
    mf_shared_free(comm, memory, &shared);
    mf_buffer_free(memory, &buffer);
    mf_comm_destroy(comm);
    mf_memory_destroy(memory);
    return status;
}

static int fault_each(mf_fault fault, mf_status expected, const char *part) {
    for (int n = 1;; n++) {
        mf_fault_arm(fault, n);
        mf_status status = launch(3, 60, small_scenario, NULL);
        bool fired = mf_fault_fired(fault);
        mf_fault_arm(fault, 0);
        if (!fired) {
            assert_int_equal(status, MF_OK);
            return n - 1;
        }
        ASSERT_FAILS(status, expected, part);
    }
}

static void test_every_operation_can_fail(void **state) {
    (void)state;
    /* creation, shared allocation, broadcast, reduce_scatter, alltoall, allgather, reduce, signal, await,
     * allreduce, barrier on each of three ranks */
    assert_int_equal(fault_each(MF_FAULT_COMM, MF_ECOMM, "injected failure of"), 3 * 11);
}

static void test_every_allocation_can_fail(void **state) {
    (void)state;
    assert_true(fault_each(MF_FAULT_ALLOC, MF_ENOMEM, "no ") > 30);
}

static void test_mpi_is_known_from_the_environment(void **state) {
    (void)state;
    unsetenv("OMPI_COMM_WORLD_SIZE");
    unsetenv("PMI_SIZE");
    assert_false(mf_launched_by_mpi());
    assert_int_equal(mf_mpi_ranks(), 1);
    setenv("PMI_SIZE", "6", 1);
    assert_true(mf_launched_by_mpi());
    assert_int_equal(mf_mpi_ranks(), 6);
    setenv("OMPI_COMM_WORLD_SIZE", "3", 1);
    assert_int_equal(mf_mpi_ranks(), 3);
    bool built_with_mpi = mf_mpi_description()[0] != 0;
    mf_status status = mf_launch(&(mf_launch_options){.engine = "mpi", .ranks = 2}, bare_status, NULL);
    assert_failure(status, built_with_mpi ? MF_EINVAL : MF_EUNSUPPORTED,
                   built_with_mpi ? "2 ranks asked for, but mpiexec started 3" : "built without MPI",
                   __FILE__, __LINE__);
    unsetenv("OMPI_COMM_WORLD_SIZE");
    unsetenv("PMI_SIZE");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_groups_alike),
        cmocka_unit_test(test_large_sums),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_mistakes_are_named),
        cmocka_unit_test(test_timeouts_name_who_is_missing),
        cmocka_unit_test(test_group_of_one_refuses_too),
        cmocka_unit_test(test_error_keeps_rank_and_trace),
        cmocka_unit_test(test_launch_refuses),
        cmocka_unit_test(test_shared_memory_outlives_a_rank),
        cmocka_unit_test(test_every_operation_can_fail),
        cmocka_unit_test(test_every_allocation_can_fail),
        cmocka_unit_test(test_mpi_is_known_from_the_environment),
    };
    alarm(300); /* a hang is a failure, and must end */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
