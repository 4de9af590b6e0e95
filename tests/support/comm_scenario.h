/* comm_scenario.h: what every engine must do, as bodies that a rank runs. A wrong value is an error of that
 * rank. */
#ifndef MF_TEST_COMM_SCENARIO_H
#define MF_TEST_COMM_SCENARIO_H

#include "meshfold/comm.h"

#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                                                                    \
    do {                                                                                                     \
        if (!(condition)) return MF_FAIL(MF_EINVAL, "line %d: expected %s", __LINE__, #condition);           \
    } while (0)

enum { MOST_BYTES = 9000, MOST_RANKS = 8, PER_RANK = 1500 };
static const int payload_sizes[] = {0, 1, 7, 1000, 2100};
enum { PAYLOADS = sizeof payload_sizes / sizeof payload_sizes[0] };

static inline unsigned char byte_of(int rank, int i) { return (unsigned char)(17 * rank + 3 * i + 1); }
static inline float term_of(int rank, int i) { return 1.1f * (float)(rank + 1) + 0.37f * (float)i; }

static inline mf_status everyone(mf_world *world, mf_comm **out) {
    int ranks[64];
    for (int r = 0; r < mf_world_size(world); r++) ranks[r] = r;
    return mf_comm_create(world, "all", ranks, mf_world_size(world), out);
}

static inline void fill_bytes(unsigned char *data, int rank, int n) {
    for (int i = 0; i < n; i++) data[i] = byte_of(rank, i);
}

static inline mf_status expect_bytes(const unsigned char *data, int rank, int n) {
    for (int i = 0; i < n; i++) EXPECT(data[i] == byte_of(rank, i));
    return MF_OK;
}

static inline mf_status start_or_wait(mf_comm *comm, mf_request *request) {
    return request ? mf_finish(comm, request) : MF_OK;
}

static inline mf_status check_broadcast(mf_comm *comm, mf_request *request) {
    unsigned char data[MOST_BYTES];
    for (int root = 0; root < mf_comm_size(comm); root++)
        for (int i = 0; i < PAYLOADS; i++) {
            fill_bytes(data, mf_comm_rank(comm), payload_sizes[i] + 1);
            MF_TRY(mf_broadcast(comm, data, (size_t)payload_sizes[i], root, request));
            MF_TRY(start_or_wait(comm, request));
            MF_TRY(expect_bytes(data, root, payload_sizes[i]));
            EXPECT(data[payload_sizes[i]] == byte_of(mf_comm_rank(comm), payload_sizes[i]));
        }
    return MF_OK;
}

/* Rank r gives (r * scale) % PER_RANK bytes: rank 0, and others for some scales, none. */
static inline mf_status check_allgather(mf_comm *comm, bool in_place, mf_request *request) {
    unsigned char send[PER_RANK], recv[MOST_RANKS * PER_RANK];
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    for (int scale = 0; scale < 1600; scale += 375) {
        size_t offsets[MOST_RANKS + 1] = {5};
        for (int r = 0; r < size; r++) offsets[r + 1] = offsets[r] + (size_t)((r * scale) % PER_RANK);
        memset(recv, 0, sizeof recv);
        unsigned char *own = in_place ? recv + offsets[rank] : send;
        fill_bytes(own, rank, (rank * scale) % PER_RANK);
        MF_TRY(mf_allgather(comm, own, recv, offsets, request));
        memset(offsets, 0, request ? sizeof offsets : 0); /* they need not outlive the call */
        MF_TRY(start_or_wait(comm, request));
        size_t at = 5;
        for (int r = 0; r < size; at += (size_t)((r++ * scale) % PER_RANK))
            MF_TRY(expect_bytes(recv + at, r, (r * scale) % PER_RANK));
    }
    return MF_OK;
}

/* tolerance 0: the bits of the sum in rank order. */
static inline mf_status expect_sum(const float *data, int n, int size, float tolerance) {
    for (int i = 0; i < n; i++) {
        float sum = term_of(0, i);
        for (int r = 1; r < size; r++) sum += term_of(r, i);
        float error = data[i] - sum;
        EXPECT((error < 0 ? -error : error) <= tolerance * sum);
    }
    return MF_OK;
}

static inline mf_status check_reduce(mf_comm *comm, float tolerance, mf_request *request) {
    float data[MOST_BYTES];
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    for (int root = 0; root < size; root++)
        for (int i = 0; i < PAYLOADS; i++) {
            int n = payload_sizes[i];
            for (int j = 0; j < n; j++) data[j] = term_of(rank, j);
            MF_TRY(mf_reduce(comm, data, n, root, request));
            MF_TRY(start_or_wait(comm, request));
            if (rank == root) MF_TRY(expect_sum(data, n, size, tolerance));
            for (int j = 0; rank != root && j < n; j++) EXPECT(data[j] == term_of(rank, j));
        }
    return MF_OK;
}

static inline mf_status check_allreduce(mf_comm *comm, float tolerance) {
    float data[MOST_BYTES], first[MOST_BYTES];
    double wide[MOST_BYTES];
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    for (int i = 0; i < PAYLOADS; i++) {
        int n = payload_sizes[i];
        for (int j = 0; j < n; j++) data[j] = term_of(rank, j);
        for (int j = 0; j < n; j++) wide[j] = rank + 0.5 * j;
        MF_TRY(mf_allreduce_f32(comm, data, n));
        MF_TRY(expect_sum(data, n, size, tolerance));
        memcpy(first, data, (size_t)n * sizeof *data);
        MF_TRY(mf_broadcast(comm, first, (size_t)n * sizeof *data, 0, NULL));
        EXPECT(memcmp(first, data, (size_t)n * sizeof *data) == 0); /* the same bits on every rank */
        MF_TRY(mf_allreduce_f64(comm, wide, n));
        for (int j = 0; j < n; j++) EXPECT(wide[j] == size * (size - 1) / 2 + 0.5 * j * size);
    }
    return MF_OK;
}

/* Rank r sends (r * scale) % PER_RANK bytes. */
static inline mf_status check_shift(mf_comm *comm, mf_request *request) {
    unsigned char send[PER_RANK], recv[PER_RANK];
    int rank = mf_comm_rank(comm), from = (rank + 1) % mf_comm_size(comm);
    for (int scale = 0; scale < 1600; scale += 375) {
        int sends = (rank * scale) % PER_RANK, receives = (from * scale) % PER_RANK;
        fill_bytes(send, rank, sends);
        MF_TRY(mf_shift(comm, send, (size_t)sends, recv, (size_t)receives, request));
        MF_TRY(start_or_wait(comm, request));
        MF_TRY(expect_bytes(recv, from, receives));
    }
    return MF_OK;
}

static inline mf_status check_all(mf_comm *comm, float tolerance) {
    mf_request request = {0};
    for (int i = 0; i < 2; i++) {
        mf_request *later = i ? &request : NULL;
        MF_TRY(mf_barrier(comm));
        MF_TRY(check_broadcast(comm, later));
        MF_TRY(check_allgather(comm, false, later));
        MF_TRY(check_allgather(comm, true, later));
        MF_TRY(check_reduce(comm, tolerance, later));
        MF_TRY(check_shift(comm, later));
    }
    MF_TRY(check_allreduce(comm, tolerance));
    return mf_finish(comm, &request);
}

/* Several requests run beside blocking calls and end in any order. */
static inline mf_status check_overlap(mf_comm *comm) {
    enum { TURNS = 20, DEPTH = 4, N = 500 };
    static _Thread_local unsigned char data[DEPTH][N];
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    mf_request requests[DEPTH] = {0};
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < DEPTH; i++) {
            fill_bytes(data[i], rank + i, N);
            MF_TRY(mf_broadcast(comm, data[i], N, (turn + i) % size, &requests[i]));
        }
        double sum = rank;
        MF_TRY(mf_allreduce_f64(comm, &sum, 1));
        EXPECT(sum == size * (size - 1) / 2);
        for (int i = DEPTH - 1; i >= 0; i--) {
            MF_TRY(mf_finish(comm, &requests[i]));
            MF_TRY(expect_bytes(data[i], (turn + i) % size + i, N));
        }
    }
    return MF_OK;
}

/* A token goes round the ring through shared memory, ordered by signals alone. Sizes differ; rank 1 shares
 * nothing. */
static inline mf_status use_shared(mf_comm *comm, mf_shared *shared, mf_shared *uneven) {
    enum { TURNS = 20 };
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm), previous = (rank + size - 1) % size;
    EXPECT(shared->peer[rank] == shared->own && (uintptr_t)shared->own % 64 == 0);
    EXPECT((uintptr_t)uneven->own % 64 == 0);
    if (uneven->bytes) memset(uneven->own, rank + 1, uneven->bytes);
    if (!mf_comm_borrows(comm)) {
        for (int r = 0; r < size; r++) EXPECT(r == rank || (!shared->peer[r] && !uneven->peer[r]));
        return MF_OK;
    }
    MF_TRY(mf_barrier(comm));
    for (int r = 0; r < size; r++)
        if (r != 1) EXPECT(((unsigned char *)uneven->peer[r])[100 * (r + 1) - 1] == r + 1);
    int *own = shared->own;
    const int *before = shared->peer[previous];
    for (int turn = 1; turn <= TURNS; turn++) {
        if (rank > 0) MF_TRY(mf_await(comm, previous, 3, (uint64_t)turn));
        own[turn] = rank > 0 ? before[turn] + rank : 1;
        MF_TRY(mf_signal(comm, 3, (uint64_t)turn));
        EXPECT(own[turn] == 1 + rank * (rank + 1) / 2);
    }
    MF_TRY(mf_await(comm, size - 1, 3, TURNS));
    EXPECT(((int *)shared->peer[size - 1])[TURNS] == 1 + size * (size - 1) / 2);
    return mf_barrier(comm);
}

static inline mf_status check_shared(mf_comm *comm) {
    mf_status status;
    mf_memory *memory = NULL;
    mf_shared shared = {0}, uneven = {0};
    size_t bytes = mf_comm_rank(comm) == 1 ? 0 : (size_t)(100 * (mf_comm_rank(comm) + 1));
    MF_GO(mf_memory_create(NULL, &memory));
    MF_GO(mf_shared_alloc(comm, memory, MF_STREAM, 20000, "shared", &shared));
    MF_GO(mf_shared_alloc(comm, memory, MF_WEIGHTS, bytes, "uneven", &uneven));
    mf_memory_stats stats = mf_memory_stats_get(memory);
    if (stats.now[MF_STREAM] != 20032 || stats.now[MF_WEIGHTS] != ((int64_t)bytes + 63) / 64 * 64)
        MF_GO(MF_FAIL(MF_EINVAL, "%lld and %lld bytes accounted", (long long)stats.now[MF_STREAM],
                      (long long)stats.now[MF_WEIGHTS]));
    MF_GO(use_shared(comm, &shared, &uneven));
fail:
    if (memory) {
        mf_shared_free(comm, memory, &uneven);
        mf_shared_free(comm, memory, &shared);
        if (!status && mf_memory_stats_get(memory).now_total != 0)
            status = MF_FAIL(MF_EINVAL, "bytes still accounted");
    }
    mf_memory_destroy(memory);
    return status;
}

/* Every rank in a row group and in a column group of a grid two wide. */
static inline mf_status check_grid(mf_world *world) {
    mf_status status;
    mf_comm *row = NULL, *column = NULL;
    int rank = mf_world_rank(world), rows = mf_world_size(world) / 2, members[MOST_RANKS];
    double across = rank, down = rank;
    if (rank >= 2 * rows) return MF_OK;
    for (int i = 0; i < rows; i++) members[i] = 2 * i + rank % 2;
    MF_GO(mf_comm_create(world, "column", members, rows, &column));
    for (int i = 0; i < 2; i++) members[i] = rank / 2 * 2 + i;
    MF_GO(mf_comm_create(world, "row", members, 2, &row));
    MF_GO(check_overlap(row));
    MF_GO(mf_allreduce_f64(column, &down, 1));
    MF_GO(mf_allreduce_f64(row, &across, 1));
    if (across != rank / 2 * 4 + 1 || down != rows * (rows - 1) + rank % 2 * rows)
        MF_GO(MF_FAIL(MF_EINVAL, "rank %d: %g across, %g down", rank, across, down));
    MF_GO(check_shared(column));
fail:
    mf_comm_destroy(row);
    mf_comm_destroy(column);
    return status;
}

#endif
