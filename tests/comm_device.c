/* comm_device.c: groups of ranks on the memory of the device that MESHFOLD_TEST_DEVICE names: what
 * tests/comm.c claims of the host's memory, and what can only go wrong with queues. */
#include "support.h"
#include "comm_scenario.h"
#include "comm/ops.h"

#include <unistd.h>

static const char *device_name(void) {
    const char *name = getenv("MESHFOLD_TEST_DEVICE");
    return name ? name : "cpu";
}

static bool has_queues(void) { return strncmp(device_name(), "cuda", 4) == 0; }

typedef struct job {
    mf_status (*body)(mf_world *world);
} job;

/* place_close after all else, also where the body failed. */
static mf_status run_job(mf_world *world, void *argument) {
    mf_status status = place_open(world, device_name());
    if (!status) status = ((job *)argument)->body(world);
    mf_world_end(world, status);
    place_close();
    return status;
}

static mf_status launch_with(mf_launch_options options, mf_status (*body)(mf_world *world)) {
    if (options.timeout_s == 0) options.timeout_s = 60;
    return mf_launch(&options, run_job, &(job){body});
}

static mf_status launch(const char *engine, int ranks, mf_status (*body)(mf_world *world)) {
    return launch_with((mf_launch_options){.engine = engine, .ranks = ranks}, body);
}

static mf_status with_group(mf_world *world, mf_status (*check)(mf_comm *comm)) {
    mf_comm *comm = NULL;
    MF_TRY(everyone(world, &comm));
    mf_status status = check(comm);
    mf_comm_destroy(comm);
    return status;
}

/* What NCCL adds up in its own order: bf16's last bit may differ. */
static float tolerance_of(const mf_comm *comm) { return comm->world->nccl ? 1e-2f : 0; }

static mf_status check_values(mf_comm *comm) { return check_all(comm, tolerance_of(comm)); }
static mf_status check_lanes(mf_comm *comm) { return check_both_lanes(comm, tolerance_of(comm)); }

static mf_status whole_scenario(mf_world *world) {
    MF_TRY(with_group(world, check_values));
    MF_TRY(with_group(world, check_overlap));
    MF_TRY(with_group(world, check_lanes));
    MF_TRY(with_group(world, check_bytes_counted));
    MF_TRY(with_group(world, check_shared));
    return mf_world_size(world) > 1 ? check_grid(world) : MF_OK;
}

static void test_ranks_as_threads(void **state) {
    (void)state;
    const int sizes[] = {1, 2, 3, 4, 8};
    for (int i = 0; i < 5; i++)
        for (int no_borrow = 0; no_borrow < 2; no_borrow++)
            ASSERT_OK(
                launch_with((mf_launch_options){.engine = "local", .ranks = sizes[i], .no_borrow = no_borrow},
                            whole_scenario));
}

static void test_nccl(void **state) {
    (void)state;
    for (int ranks = 1; has_queues() && ranks <= mf_cuda_count() && ranks <= MOST_RANKS; ranks++)
        ASSERT_OK(launch("nccl", ranks, whole_scenario));
}

/* A rank's memory is still read when it has gone on, and written by what it asks for next. */
static mf_status run_ahead(mf_comm *comm) {
    enum { TURNS = 30, N = 4000 };
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm), from = (rank + 1) % size;
    mf_status status;
    mf_memory *memory = NULL;
    mf_shared shared = {0};
    unsigned char got[N];
    MF_GO(place_memory(&memory));
    MF_GO(mf_shared_alloc(comm, memory, MF_STREAM, N, "shared", &shared));
    for (int turn = 0; turn < TURNS; turn++) {
        MF_GO(place_fill(shared.own, rank + turn, N));
        MF_GO(mf_barrier(comm));
        if (mf_comm_borrows(comm)) {
            MF_GO(place_read(shared.peer[from], got, N));
            if (got[0] != from + turn || got[N - 1] != from + turn)
                MF_GO(MF_FAIL(MF_EINVAL, "turn %d", turn));
        }
        MF_GO(mf_barrier(comm));
    }
fail:
    if (memory) mf_shared_free(comm, memory, &shared);
    mf_memory_destroy(memory);
    return status;
}

static mf_status runs_ahead(mf_world *world) { return with_group(world, run_ahead); }

static void test_barriers_order_queues(void **state) {
    (void)state;
    ASSERT_OK(launch("local", 3, runs_ahead));
}

/* Whoever is last gives back the memory of all, on their GPUs, and goes on with its own. */
static mf_status operate_after_sharing(mf_comm *comm) {
    mf_device *device = comm->world->device;
    mf_memory *memory = mf_device_memory(device);
    mf_shared shared = {0};
    mf_buffer buffer = {0};
    mf_status status;
    MF_TRY(mf_shared_alloc(comm, memory, MF_STREAM, 64, "shared", &shared));
    mf_shared_free(comm, memory, &shared);
    MF_GO(mf_buffer_alloc(memory, MF_WORKSPACE, 64, "own", &buffer));
    MF_GO(mf_fill(device, 16, 1, buffer.data));
    MF_GO(mf_zero(device, buffer.data, 64));
    MF_GO(mf_device_finish(device, MF_QUEUE_COMPUTE));
    if (mf_device_pool_peak_bytes(device) < (int64_t)buffer.bytes)
        status = MF_FAIL(MF_EINVAL, "a pool that held less than a buffer of its own");
fail:
    mf_buffer_free(memory, &buffer);
    return status;
}

static mf_status operates_after_sharing(mf_world *world) { return with_group(world, operate_after_sharing); }

static void test_ranks_return_to_their_gpus(void **state) {
    (void)state;
    if (has_queues()) ASSERT_OK(launch("local", 4, operates_after_sharing));
}

/* Traces are held: a transfer's span ends when it has been moved. */
static mf_status trace_transfers(mf_comm *comm) {
    mf_trace trace = {0};
    unsigned char data[100];
    mf_request request = {0};
    mf_trace_hold(&trace);
    mf_status status = place_broadcast(comm, data, sizeof data, 0, NULL);
    if (!status) status = place_broadcast(comm, data, sizeof data, 0, &request);
    if (!status) status = place_finish(comm, &request);
    mf_trace_release();
    int64_t spans = 0;
    for (int64_t i = 0; i < trace.count; i++)
        spans += strcmp(trace.span[i].name, "broadcast") == 0 && trace.span[i].end_s >= trace.span[i].begin_s;
    mf_trace_free(&trace);
    MF_TRY(status);
    EXPECT(spans == 2);
    return MF_OK;
}

static mf_status traces(mf_world *world) { return with_group(world, trace_transfers); }

static void test_traces(void **state) {
    (void)state;
    ASSERT_OK(launch("local", 2, traces));
}

/* A buffer of the device's and one of the host's. */
typedef mf_status (*mixture)(mf_comm *comm, void *on_device, void *on_host);

static mf_status with_buffers(mf_world *world, mixture body) {
    mf_comm *comm = NULL;
    mf_memory *memory = NULL;
    mf_buffer buffer = {0};
    char host[256] = {0};
    mf_status status;
    MF_GO(place_memory(&memory));
    MF_GO(mf_buffer_alloc(memory, MF_WORKSPACE, sizeof host, "buffer", &buffer));
    MF_GO(everyone(world, &comm));
    MF_GO(body(comm, buffer.data, host));
fail:
    if (status) mf_comm_give_up(world);
    mf_comm_destroy(comm);
    if (memory) mf_buffer_free(memory, &buffer);
    mf_memory_destroy(memory);
    return status;
}

static mf_status shift_between(mf_comm *comm, void *on_device, void *on_host) {
    return mf_shift(comm, on_device, 8, on_host, 8, NULL);
}
static mf_status broadcast_between(mf_comm *comm, void *on_device, void *on_host) {
    return mf_broadcast(comm, mf_comm_rank(comm) == 1 ? on_host : on_device, 8, 0, NULL);
}
static mf_status sum_f64(mf_comm *comm, void *on_device, void *on_host) {
    (void)on_host;
    return mf_allreduce_f64(comm, on_device, 4);
}

static mf_status one_transfer_between(mf_world *world) { return with_buffers(world, shift_between); }
static mf_status ranks_between(mf_world *world) { return with_buffers(world, broadcast_between); }
static mf_status f64_on_device(mf_world *world) { return with_buffers(world, sum_f64); }

static void test_places_are_not_mixed(void **state) {
    (void)state;
    if (!has_queues()) return;
    ASSERT_FAILS(launch("local", 2, one_transfer_between), MF_EINVAL,
                 "shift on axis all: one buffer is in the host's memory, the other in a GPU's");
    ASSERT_FAILS(launch("local", 2, ranks_between), MF_ECOMM,
                 "axis all, operation 1: broadcast in the host's memory on rank 1, in a GPU's on rank 0");
    ASSERT_FAILS(launch("local", 2, f64_on_device), MF_EINVAL, "f64 numbers in a GPU's memory");
}

static mf_status nothing(mf_world *world) {
    (void)world;
    return MF_OK;
}

static mf_status without_device(mf_world *world, void *argument) {
    (void)argument;
    mf_comm *comm = NULL;
    return everyone(world, &comm);
}

/* Rank 1 takes rank 0's GPU. */
static mf_status on_one_gpu(mf_world *world, void *argument) {
    (void)argument;
    unsigned char data[16] = {0};
    mf_comm *comm = NULL;
    mf_status status = place_open(world, "cuda:0");
    if (!status) status = everyone(world, &comm);
    if (!status) status = place_broadcast(comm, data, sizeof data, 0, NULL);
    mf_world_end(world, status);
    mf_comm_destroy(comm);
    place_close();
    return status;
}

static void test_nccl_refuses(void **state) {
    (void)state;
    if (!has_queues()) return;
    char text[64];
    snprintf(text, sizeof text, "need a GPU each, and this machine has %d", mf_cuda_count());
    ASSERT_FAILS(launch("nccl", mf_cuda_count() + 1, nothing), MF_EINVAL, text);
    mf_launch_options options = {.engine = "nccl", .ranks = mf_cuda_count()};
    ASSERT_FAILS(mf_launch(&options, without_device, NULL), MF_EINVAL, "computes on no GPU");
    if (mf_cuda_count() < 2) return;
    options.ranks = 2;
    ASSERT_FAILS(mf_launch(&options, on_one_gpu, NULL), MF_EINVAL, "ranks 0 and 1 are on one GPU");
}

/* Rank 1 fails while the others wait: on the host, and on their GPUs for what came before. */
static mf_status fail_between(mf_comm *comm) {
    unsigned char data[64] = {0};
    mf_request request = {0};
    MF_TRY(place_broadcast(comm, data, sizeof data, 0, NULL));
    MF_TRY(place_broadcast(comm, data, sizeof data, 0, &request));
    if (mf_comm_rank(comm) == 1) {
        mf_status status = MF_FAIL(MF_EIO, "no such data file");
        mf_abandon(comm, &request);
        return status;
    }
    MF_TRY(place_finish(comm, &request));
    return place_broadcast(comm, data, sizeof data, 0, NULL);
}

static mf_status fails_between(mf_world *world) { return with_group(world, fail_between); }

static mf_status mismatch(mf_comm *comm) {
    unsigned char data[64] = {0};
    return place_broadcast(comm, data, mf_comm_rank(comm) == 1 ? 63 : 64, 0, NULL);
}
static mf_status mismatches(mf_world *world) { return with_group(world, mismatch); }

static mf_status late(mf_comm *comm) {
    unsigned char data[64] = {0};
    return mf_comm_rank(comm) == 1 ? MF_OK : place_broadcast(comm, data, sizeof data, 0, NULL);
}
static mf_status is_late(mf_world *world) { return with_group(world, late); }

static void fail_on(const char *engine, int ranks) {
    ASSERT_FAILS(launch(engine, ranks, fails_between), MF_EIO, "no such data file");
    ASSERT_FAILS(launch(engine, ranks, mismatches), MF_ECOMM, "rank 1 called broadcast of 63 bytes");
    ASSERT_FAILS(
        launch_with((mf_launch_options){.engine = engine, .ranks = ranks, .timeout_s = 0.5}, is_late),
        MF_ETIMEOUT, "for rank 1 in broadcast of 64 bytes");
}

static void test_failures_reach_all(void **state) {
    (void)state;
    fail_on("local", 3);
    if (has_queues() && mf_cuda_count() >= 3) fail_on("nccl", 3);
}

/* A little of everything, for faults. */
static mf_status some_of_all(mf_comm *comm) {
    unsigned char data[64] = {0};
    float terms[8] = {0};
    mf_request request = {0};
    mf_status status;
    MF_TRY(place_broadcast(comm, data, sizeof data, 0, &request));
    MF_GO(place_reduce(comm, terms, 8, 0, NULL));
    MF_GO(place_shift(comm, data, 0, data, 0, NULL));
    MF_GO(place_finish(comm, &request));
    return check_shared(comm);
fail:
    mf_abandon(comm, &request);
    return status;
}
static mf_status a_little(mf_world *world) { return with_group(world, some_of_all); }

static void fail_each(const char *engine, mf_fault fault) {
    bool fired = true;
    for (int n = 1; fired; n += 1 + n / 10) {
        mf_fault_arm(fault, n);
        mf_status status = launch(engine, 2, a_little);
        fired = mf_fault_fired(fault);
        mf_fault_arm(fault, 0);
        assert_int_equal(status != MF_OK, fired);
    }
}

/* Each call of CUDA or NCCL fails once, where the GPUs are emulated: an error, or memory that is not given
 * back. */
static void fail_each_call(const char *engine) {
    int passed = 0;
    for (int n = 1; passed < 3; n += 1 + n / 10) {
        char text[16];
        snprintf(text, sizeof text, "%d", n);
        setenv("MESHFOLD_EMULATED_FAIL", text, 1);
        mf_status status = launch(engine, 2, a_little);
        unsetenv("MESHFOLD_EMULATED_FAIL");
        passed = status ? 0 : passed + 1;
    }
}

static void test_every_call_can_fail(void **state) {
    (void)state;
    for (mf_fault fault = MF_FAULT_ALLOC; fault < MF_FAULTS; fault++) fail_each("local", fault);
    if (!has_queues() || !getenv("MESHFOLD_EMULATED_GPUS")) return;
    fail_each_call("local");
    if (mf_cuda_count() < 2) return;
    for (mf_fault fault = MF_FAULT_ALLOC; fault < MF_FAULTS; fault++) fail_each("nccl", fault);
    fail_each_call("nccl");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_as_threads),      cmocka_unit_test(test_nccl),
        cmocka_unit_test(test_barriers_order_queues), cmocka_unit_test(test_traces),
        cmocka_unit_test(test_places_are_not_mixed),  cmocka_unit_test(test_nccl_refuses),
        cmocka_unit_test(test_failures_reach_all),    cmocka_unit_test(test_ranks_return_to_their_gpus),
        cmocka_unit_test(test_every_call_can_fail),
    };
    alarm(300); /* a hang is a failure, and must end */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
