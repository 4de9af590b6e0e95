/* comm_scenario.h: what every engine must do, as bodies that a rank runs. A wrong value is an error of that
 * rank. */
#ifndef MF_TEST_COMM_SCENARIO_H
#define MF_TEST_COMM_SCENARIO_H

#include "comm_place.h"

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
    return request ? place_finish(comm, request) : MF_OK;
}

static inline mf_status check_broadcast(mf_comm *comm, mf_request *request) {
    unsigned char data[MOST_BYTES];
    for (int root = 0; root < mf_comm_size(comm); root++)
        for (int i = 0; i < PAYLOADS; i++) {
            fill_bytes(data, mf_comm_rank(comm), payload_sizes[i] + 1);
            MF_TRY(place_broadcast(comm, data, (size_t)payload_sizes[i], root, request));
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
        MF_TRY(place_allgather(comm, own, recv, offsets, request));
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
            MF_TRY(place_reduce(comm, data, n, root, request));
            MF_TRY(start_or_wait(comm, request));
            if (rank == root) MF_TRY(expect_sum(data, n, size, tolerance));
            for (int j = 0; rank != root && j < n; j++) EXPECT(data[j] == term_of(rank, j));
        }
    return MF_OK;
}

/* Elements of either type. */
typedef union numbers {
    float f32[MOST_RANKS * PER_RANK];
    uint16_t bf16[MOST_RANKS * PER_RANK];
} numbers;

static inline float rounded(mf_dtype type, float value) {
    return type == MF_F32 ? value : mf_f32_from_bf16(mf_bf16_from_f32(value));
}

static inline float number(const numbers *x, mf_dtype type, int i) {
    return type == MF_F32 ? x->f32[i] : mf_f32_from_bf16(x->bf16[i]);
}

static inline void fill_terms(numbers *x, mf_dtype type, int rank, int n) {
    for (int i = 0; i < n; i++) {
        if (type == MF_F32)
            x->f32[i] = term_of(rank, i);
        else
            x->bf16[i] = mf_bf16_from_f32(term_of(rank, i));
    }
}

/* tolerance 0: the bits of the f32 sum in rank order, rounded once. */
static inline mf_status expect_sums(const numbers *x, mf_dtype type, int begin, int end, int size,
                                    float tolerance) {
    for (int i = begin; i < end; i++) {
        float sum = rounded(type, term_of(0, i));
        for (int r = 1; r < size; r++) sum += rounded(type, term_of(r, i));
        float error = number(x, type, i) - rounded(type, sum);
        EXPECT((error < 0 ? -error : error) <= tolerance * sum);
    }
    return MF_OK;
}

static inline mf_status expect_terms(const numbers *x, mf_dtype type, int begin, int end, int rank) {
    for (int i = begin; i < end; i++) EXPECT(number(x, type, i) == rounded(type, term_of(rank, i)));
    return MF_OK;
}

static inline mf_status check_allreduce(mf_comm *comm, mf_dtype type, float tolerance, mf_request *request) {
    static _Thread_local numbers data, first;
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    for (int i = 0; i < PAYLOADS; i++) {
        int n = payload_sizes[i];
        size_t bytes = (size_t)n * mf_dtype_bytes(type);
        fill_terms(&data, type, rank, n + 1);
        MF_TRY(place_allreduce(comm, &data, n, type, request));
        MF_TRY(start_or_wait(comm, request));
        MF_TRY(expect_sums(&data, type, 0, n, size, tolerance));
        MF_TRY(expect_terms(&data, type, n, n + 1, rank));
        memcpy(&first, &data, bytes);
        MF_TRY(place_broadcast(comm, &first, bytes, 0, NULL));
        EXPECT(memcmp(&first, &data, bytes) == 0); /* the same bits on every rank */
    }
    return MF_OK;
}

/* 256 + 1 is 256 in bf16: rounding after each term would lose the ones. */
static inline mf_status check_rounding(mf_comm *comm) {
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    uint16_t once = mf_bf16_from_f32((float)(256 + size - 1));
    uint16_t data[2] = {mf_bf16_from_f32(rank ? 1 : 256), mf_bf16_from_f32(rank ? 1 : 256)};
    int64_t offsets[MOST_RANKS + 1] = {0};
    for (int r = 0; r < size; r++) offsets[r + 1] = 1;
    MF_TRY(place_allreduce(comm, data, 1, MF_BF16, NULL));
    EXPECT(data[0] == once);
    MF_TRY(place_reduce_scatter(comm, data + 1, offsets, MF_BF16, NULL));
    EXPECT(rank != 0 || data[1] == once);
    return MF_OK;
}

static inline mf_status check_allreduce_f64(mf_comm *comm) {
    double wide[MOST_BYTES];
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    for (int i = 0; i < PAYLOADS; i++) {
        int n = payload_sizes[i];
        for (int j = 0; j < n; j++) wide[j] = rank + 0.5 * j;
        MF_TRY(mf_allreduce_f64(comm, wide, n));
        for (int j = 0; j < n; j++) EXPECT(wide[j] == size * (size - 1) / 2 + 0.5 * j * size);
    }
    return MF_OK;
}

enum { MARGIN = 3 };

/* Rank r's part has (r * scale) % PER_RANK elements, less what the margins take: some have none. */
static inline void uneven_parts(int64_t *offsets, int size, int scale) {
    offsets[0] = MARGIN;
    for (int r = 0; r < size; r++) offsets[r + 1] = offsets[r] + (r * scale) % PER_RANK;
}

/* Starts, or runs, a reduce-scatter of terms with a margin on either side. */
static inline mf_status start_parts(mf_comm *comm, numbers *data, mf_dtype type, int scale,
                                    mf_request *request) {
    int64_t offsets[MOST_RANKS + 1];
    int size = mf_comm_size(comm);
    uneven_parts(offsets, size, scale);
    fill_terms(data, type, mf_comm_rank(comm), (int)offsets[size] + MARGIN);
    MF_TRY(place_reduce_scatter(comm, data, offsets, type, request));
    memset(offsets, 0, sizeof offsets); /* they need not outlive the call */
    return MF_OK;
}

static inline mf_status expect_parts(mf_comm *comm, const numbers *data, mf_dtype type, int scale,
                                     float tolerance) {
    int64_t offsets[MOST_RANKS + 1];
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    uneven_parts(offsets, size, scale);
    int begin = (int)offsets[rank], end = (int)offsets[rank + 1];
    MF_TRY(expect_terms(data, type, 0, begin, rank));
    MF_TRY(expect_sums(data, type, begin, end, size, tolerance));
    return expect_terms(data, type, end, (int)offsets[size] + MARGIN, rank);
}

static inline mf_status check_reduce_scatter(mf_comm *comm, mf_dtype type, float tolerance,
                                             mf_request *request) {
    static _Thread_local numbers data;
    for (int scale = 0; scale < 1600; scale += 375) {
        MF_TRY(start_parts(comm, &data, type, scale, request));
        MF_TRY(start_or_wait(comm, request));
        MF_TRY(expect_parts(comm, &data, type, scale, tolerance));
    }
    return MF_OK;
}

/* Parts of more elements than an engine moves at once, and an empty one. */
static inline mf_status check_long_parts(mf_comm *comm) {
    enum { LONG = 70001, SHORT = 33000 };
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    int64_t offsets[MOST_RANKS + 1] = {0}, wrong = 0;
    float *data = NULL;
    for (int r = 0; r < size; r++) offsets[r + 1] = offsets[r] + (r == 0 ? LONG : r == 1 ? 0 : SHORT);
    MF_TRY(mf_host_alloc((size_t)offsets[size], sizeof *data, &data));
    for (int64_t i = 0; i < offsets[size]; i++) data[i] = (float)(i % 1000) * (float)(rank + 1);
    mf_status status = place_reduce_scatter(comm, data, offsets, MF_F32, NULL);
    for (int64_t i = 0; i < offsets[size]; i++) {
        bool own = i >= offsets[rank] && i < offsets[rank + 1];
        int share = own ? size * (size + 1) / 2 : rank + 1;
        wrong += data[i] != (float)(i % 1000) * (float)share;
    }
    mf_host_free(data);
    MF_TRY(status);
    EXPECT(wrong == 0);
    return MF_OK;
}

typedef struct blocks {
    unsigned char send[MOST_RANKS * 300], recv[MOST_RANKS * 300];
} blocks;

static inline int block_bytes(int from, int to, int scale) { return (from * 7 + to * 13 + 5) * scale % 290; }

/* Starts, or runs, an alltoall whose blocks differ from pair to pair, behind margins. */
static inline mf_status start_blocks(mf_comm *comm, blocks *b, int scale, mf_request *request) {
    size_t sends[MOST_RANKS + 1] = {1}, receives[MOST_RANKS + 1] = {MARGIN};
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    memset(b->recv, 0, sizeof b->recv);
    for (int r = 0; r < size; r++) {
        int n = block_bytes(rank, r, scale);
        fill_bytes(b->send + sends[r], 10 * rank + r, n);
        sends[r + 1] = sends[r] + (size_t)n;
        receives[r + 1] = receives[r] + (size_t)block_bytes(r, rank, scale);
    }
    MF_TRY(place_alltoall(comm, b->send, sends, b->recv, receives, request));
    memset(sends, 0, sizeof sends); /* they need not outlive the call */
    memset(receives, 0, sizeof receives);
    return MF_OK;
}

static inline mf_status expect_blocks(mf_comm *comm, const blocks *b, int scale) {
    int rank = mf_comm_rank(comm), at = MARGIN;
    for (int r = 0; r < mf_comm_size(comm); r++) {
        MF_TRY(expect_bytes(b->recv + at, 10 * r + rank, block_bytes(r, rank, scale)));
        at += block_bytes(r, rank, scale);
    }
    EXPECT(b->recv[MARGIN - 1] == 0 && b->recv[at] == 0);
    return MF_OK;
}

/* scale 0: nothing; 29: multiples of 29, some of which are none. */
static inline mf_status check_alltoall(mf_comm *comm, mf_request *request) {
    static _Thread_local blocks b;
    const int scales[] = {0, 1, 29, 57};
    for (int i = 0; i < 4; i++) {
        MF_TRY(start_blocks(comm, &b, scales[i], request));
        MF_TRY(start_or_wait(comm, request));
        MF_TRY(expect_blocks(comm, &b, scales[i]));
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
        MF_TRY(place_shift(comm, send, (size_t)sends, recv, (size_t)receives, request));
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
        MF_TRY(check_alltoall(comm, later));
        for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
            MF_TRY(check_allreduce(comm, type, tolerance, later));
            MF_TRY(check_reduce_scatter(comm, type, tolerance, later));
        }
    }
    MF_TRY(check_allreduce_f64(comm));
    if (tolerance == 0) MF_TRY(check_rounding(comm));
    MF_TRY(check_long_parts(comm));
    return place_finish(comm, &request);
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
            MF_TRY(place_broadcast(comm, data[i], N, (turn + i) % size, &requests[i]));
        }
        double sum = rank;
        MF_TRY(mf_allreduce_f64(comm, &sum, 1));
        EXPECT(sum == size * (size - 1) / 2);
        for (int i = DEPTH - 1; i >= 0; i--) {
            MF_TRY(place_finish(comm, &requests[i]));
            MF_TRY(expect_bytes(data[i], (turn + i) % size + i, N));
        }
    }
    return MF_OK;
}

/* Requests of three kinds run beside blocking calls of the same kinds. */
static inline mf_status check_both_lanes(mf_comm *comm, float tolerance) {
    enum { TURNS = 8, SUMS = 0, PARTS, BLOCKS, KINDS, SCALE = 375, N = 2000 };
    static _Thread_local numbers sums, parts, own_parts;
    static _Thread_local blocks moving, own_blocks;
    int size = mf_comm_size(comm);
    for (int turn = 0; turn < TURNS; turn++) {
        mf_request requests[KINDS] = {0};
        fill_terms(&sums, MF_BF16, mf_comm_rank(comm), N);
        MF_TRY(place_allreduce(comm, &sums, N, MF_BF16, &requests[SUMS]));
        MF_TRY(start_parts(comm, &parts, MF_F32, SCALE, &requests[PARTS]));
        MF_TRY(start_blocks(comm, &moving, 57, &requests[BLOCKS]));
        MF_TRY(start_blocks(comm, &own_blocks, turn, NULL));
        MF_TRY(start_parts(comm, &own_parts, MF_BF16, SCALE * turn, NULL));
        MF_TRY(expect_blocks(comm, &own_blocks, turn));
        MF_TRY(expect_parts(comm, &own_parts, MF_BF16, SCALE * turn, tolerance));
        for (int i = KINDS - 1; i >= 0; i--) MF_TRY(place_finish(comm, &requests[i]));
        MF_TRY(expect_sums(&sums, MF_BF16, 0, N, size, tolerance));
        MF_TRY(expect_parts(comm, &parts, MF_F32, SCALE, tolerance));
        MF_TRY(expect_blocks(comm, &moving, 57));
    }
    return MF_OK;
}

/* Once blocking and once as a request; by the ring convention, and nothing is sent to oneself. */
static inline mf_status check_bytes_counted(mf_comm *comm) {
    static _Thread_local numbers data;
    static _Thread_local blocks b;
    mf_comm_stat stats[MF_COMM_OPS];
    mf_request request = {0};
    int64_t offsets[MOST_RANKS + 1], sent = 0;
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm);
    uneven_parts(offsets, size, 375);
    for (int r = 0; r < size; r++) sent += r == rank ? 0 : block_bytes(rank, r, 57);
    mf_comm_reset_stats(comm);
    for (int i = 0; i < 2; i++) {
        MF_TRY(start_parts(comm, &data, MF_BF16, 375, i ? &request : NULL));
        MF_TRY(place_finish(comm, &request));
        MF_TRY(start_blocks(comm, &b, 57, i ? &request : NULL));
        MF_TRY(place_finish(comm, &request));
    }
    mf_comm_stats(comm, stats);
    const mf_comm_stat *parts = &stats[MF_OP_REDUCE_SCATTER], *moved = &stats[MF_OP_ALLTOALL];
    int64_t others = offsets[size] - offsets[0] - (offsets[rank + 1] - offsets[rank]);
    EXPECT(strcmp(parts->op, "reduce_scatter") == 0 && strcmp(moved->op, "alltoall") == 0);
    EXPECT(parts->calls == 2 && parts->bytes == 2 * 2 * others && parts->borrowed_bytes == 0);
    EXPECT(moved->calls == 2 && moved->bytes == 2 * sent && moved->borrowed_bytes == 0);
    return MF_OK;
}

/* A token goes round the ring through shared memory, ordered by signals alone. Sizes differ; rank 1 shares
 * nothing. */
static inline mf_status use_shared(mf_comm *comm, mf_shared *shared, mf_shared *uneven) {
    enum { TURNS = 20 };
    int rank = mf_comm_rank(comm), size = mf_comm_size(comm), previous = (rank + size - 1) % size;
    float token[TURNS + 1];
    EXPECT(shared->peer[rank] == shared->own && (uintptr_t)shared->own % 64 == 0);
    EXPECT((uintptr_t)uneven->own % 64 == 0);
    if (uneven->bytes) MF_TRY(place_fill(uneven->own, rank + 1, uneven->bytes));
    if (!mf_comm_borrows(comm)) {
        for (int r = 0; r < size; r++) EXPECT(r == rank || (!shared->peer[r] && !uneven->peer[r]));
        return MF_OK;
    }
    MF_TRY(place_fill(shared->own, 0, sizeof token));
    MF_TRY(mf_barrier(comm));
    for (int r = 0; r < size; r++) {
        unsigned char last = 0;
        if (r != 1) MF_TRY(place_read((char *)uneven->peer[r] + 100 * (r + 1) - 1, &last, 1));
        EXPECT(r == 1 || last == r + 1);
    }
    float *own = shared->own;
    const float *before = shared->peer[previous];
    for (int turn = 1; turn <= TURNS; turn++) {
        if (rank > 0) MF_TRY(mf_await(comm, previous, 3, (uint64_t)turn));
        MF_TRY(rank > 0 ? place_add(&own[turn], &before[turn], (float)rank)
                        : place_add(&own[turn], &own[0], 1));
        MF_TRY(mf_signal(comm, 3, (uint64_t)turn));
    }
    MF_TRY(mf_await(comm, size - 1, 3, TURNS));
    MF_TRY(place_read((float *)shared->peer[size - 1] + TURNS, token, sizeof *token));
    EXPECT(token[0] == (float)(1 + size * (size - 1) / 2));
    MF_TRY(place_read(own, token, sizeof token));
    for (int turn = 1; turn <= TURNS; turn++) EXPECT(token[turn] == (float)(1 + rank * (rank + 1) / 2));
    return mf_barrier(comm);
}

static inline mf_status check_shared(mf_comm *comm) {
    mf_status status;
    mf_memory *memory = NULL;
    mf_shared shared = {0}, uneven = {0};
    size_t bytes = mf_comm_rank(comm) == 1 ? 0 : (size_t)(100 * (mf_comm_rank(comm) + 1));
    MF_GO(place_memory(&memory));
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
