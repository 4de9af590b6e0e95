/* local.c: the engine whose ranks are threads of this process. Data is copied from where the peer has it.
 *
 * A collective: each member posts what it was called with, all meet, each checks that all posted the same,
 * moves its part, and all meet again before buffers go back to their callers. A member may leave the first
 * meeting (an error, a timeout) only while it is incomplete, and then nobody completes it; once it is
 * complete all take part to the end. So nobody reads memory of a rank that has already returned. */
#include "comm/ops.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { COUNT_BITS = 16, MAX_RANKS = (1 << COUNT_BITS) - 1, BLOCK = 1024, SPIN = 64 };
static const double spin_s = 20e-6;

/* Where threads sleep until a word has grown. Wakers take the lock only when somebody sleeps. */
typedef struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_int sleepers;
} gate;

typedef struct post {
    const void *send;
    void *recv;
    void *shared;
} post;

typedef struct lane {
    gate gate;
    atomic_uint_least64_t meetings;  /* completed << COUNT_BITS | members in the one that is not */
    atomic_uint_least64_t *sequence; /* [size] the last operation each member came to, for errors */
    mf_header *headers; /* [2, size] of this operation and the one before: a fast member may post the */
    post *posts;        /* next barrier while a slow one still looks at this */
} lane;

typedef struct signals {
    _Alignas(64) atomic_uint_least64_t value[MF_SIGNALS];
} signals;

/* One group, shared by its members. */
typedef struct group {
    struct group *next;
    char *axis;
    int size, left;
    int *ranks;   /* [size] */
    bool *joined; /* [size] */
    lane lanes[MF_LANES];
    gate signal_gate;
    signals *signals; /* [size] */
} group;

/* All ranks of a launch. */
typedef struct party {
    mf_failure failure;
    pthread_mutex_t lock; /* guards groups; taken before a gate's lock, never after */
    group *groups;
    bool spin;
} party;

typedef struct shared_set {
    atomic_int holders;
    void *data[]; /* [size] */
} shared_set;

static mf_status gate_init(gate *g) {
    pthread_condattr_t monotonic;
    if (pthread_condattr_init(&monotonic)) return MF_FAIL(MF_ENOMEM, "no condition variable");
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    int error = pthread_cond_init(&g->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (error) return MF_FAIL(MF_ENOMEM, "no condition variable");
    pthread_mutex_init(&g->lock, NULL);
    return MF_OK;
}

static void gate_destroy(gate *g) {
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
}

static void gate_wake(gate *g) {
    pthread_mutex_lock(&g->lock);
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

/* The word was stored before sleepers is read, and sleepers is raised before the word is read again: both
 * sequentially consistent, so one of the two sides sees the other. */
static void gate_open(gate *g) {
    if (atomic_load(&g->sleepers)) gate_wake(g);
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static bool spin_until(const atomic_uint_least64_t *word, uint64_t target) {
    double end = mf_now_s() + spin_s;
    do {
        for (int i = 0; i < SPIN; i++) {
            if (atomic_load(word) >= target) return true;
            relax();
        }
    } while (mf_now_s() < end);
    return false;
}

static struct timespec deadline_after(double seconds) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    /* A year is as good as any longer time, and can't overflow. */
    double whole = seconds < 3e7 ? seconds : 3e7;
    t.tv_sec += (time_t)whole;
    t.tv_nsec += (long)((whole - (double)(time_t)whole) * 1e9);
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

/* MF_OK: the word reached target. MF_ECOMM: the world failed. MF_ETIMEOUT. None is set as the thread's error.
 */
static mf_status sleep_until(const mf_world *world, gate *g, const atomic_uint_least64_t *word,
                             uint64_t target) {
    struct timespec deadline = deadline_after(world->timeout_s);
    int late = 0;
    pthread_mutex_lock(&g->lock);
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(word) < target && !mf_world_failed(world) && late != ETIMEDOUT)
        late = pthread_cond_timedwait(&g->changed, &g->lock, &deadline);
    atomic_fetch_sub(&g->sleepers, 1);
    pthread_mutex_unlock(&g->lock);
    if (atomic_load(word) >= target) return MF_OK;
    return mf_world_failed(world) ? MF_ECOMM : MF_ETIMEOUT;
}

static mf_status wait_until(const mf_world *world, gate *g, const atomic_uint_least64_t *word,
                            uint64_t target) {
    const party *p = world->state;
    if (atomic_load(word) >= target || (p->spin && spin_until(word, target))) return MF_OK;
    return sleep_until(world, g, word, target);
}

/* For what is sure to come: no error and no clock ends it. */
static void wait_surely(const mf_world *world, gate *g, const atomic_uint_least64_t *word, uint64_t target) {
    const party *p = world->state;
    if (p->spin && spin_until(word, target)) return;
    pthread_mutex_lock(&g->lock);
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(word) < target) pthread_cond_wait(&g->changed, &g->lock);
    atomic_fetch_sub(&g->sleepers, 1);
    pthread_mutex_unlock(&g->lock);
}

/* Returns the value of l->meetings from which on the meeting that this member joined is complete. */
static uint64_t meeting_join(lane *l, int size) {
    uint64_t seen = atomic_load(&l->meetings), next;
    do {
        bool last = (seen & MAX_RANKS) + 1 == (uint64_t)size;
        next = last ? ((seen >> COUNT_BITS) + 1) << COUNT_BITS : seen + 1;
    } while (!atomic_compare_exchange_weak(&l->meetings, &seen, next));
    uint64_t complete = ((seen >> COUNT_BITS) + 1) << COUNT_BITS;
    if (next == complete) gate_open(&l->gate);
    return complete;
}

/* False when the meeting completed before this member could leave. */
static bool meeting_leave(lane *l, uint64_t complete) {
    uint64_t seen = atomic_load(&l->meetings);
    while (seen < complete)
        if (atomic_compare_exchange_weak(&l->meetings, &seen, seen - 1)) return true;
    return false;
}

typedef struct absence {
    const lane *lane;
    uint64_t sequence;
} absence;

static bool absent(const void *context, int member) {
    const absence *a = context;
    return atomic_load(&a->lane->sequence[member]) < a->sequence;
}

static mf_status meet_first(mf_comm *comm, lane *l, const mf_header *header) {
    atomic_store(&l->sequence[comm->rank], header->sequence);
    uint64_t complete = meeting_join(l, comm->size);
    mf_status status = wait_until(comm->world, &l->gate, &l->meetings, complete);
    if (!status || !meeting_leave(l, complete)) return MF_OK;
    if (status == MF_ECOMM) return mf_world_fail(comm->world);
    return mf_late(comm, header, absent, &(absence){l, header->sequence});
}

static void meet_again(mf_comm *comm, lane *l) {
    uint64_t complete = meeting_join(l, comm->size);
    wait_surely(comm->world, &l->gate, &l->meetings, complete);
}

static void copy(void *to, const void *from, size_t bytes) {
    if (bytes && to != from) memcpy(to, from, bytes);
}

static void gather(const mf_comm *comm, const mf_transfer *t, const post *posts) {
    for (int i = 0; i < comm->size; i++) {
        int r = (comm->rank + i) % comm->size; /* not all from the same peer at once */
        size_t bytes = t->offsets[r + 1] - t->offsets[r];
        if (bytes) copy((char *)t->recv + t->offsets[r], posts[r].send, bytes);
    }
}

/* This member's part of [0, count), cut at whole cache lines. */
static int64_t part_begin(const mf_comm *comm, int64_t count, int member) {
    int64_t lines = mf_ceil_div(count, 16);
    return mf_min(count, lines * member / comm->size * 16);
}

/* The sum over members, in their order, of this member's part of the elements; a block at a time, since one
 * of the places that it goes to is also where a term comes from. */
static void sum(const mf_comm *comm, const mf_header *h, const post *posts) {
    double total[BLOCK];
    size_t width = (size_t)h->element_bytes;
    int64_t end = part_begin(comm, h->count, comm->rank + 1);
    for (int64_t i = part_begin(comm, h->count, comm->rank); i < end; i += BLOCK) {
        int64_t n = mf_min(BLOCK, end - i);
        size_t at = (size_t)i * width, bytes = (size_t)n * width;
        memcpy(total, (const char *)posts[0].send + at, bytes);
        for (int r = 1; r < comm->size; r++)
            mf_sum_add(total, (const char *)posts[r].send + at, n, h->element_bytes);
        for (int r = 0; r < comm->size; r++)
            if (h->op == MF_OP_ALLREDUCE || r == h->root) memcpy((char *)posts[r].recv + at, total, bytes);
    }
}

static void move(const mf_comm *comm, const mf_transfer *t, const post *posts) {
    const mf_header *h = &t->header;
    switch (h->op) {
    case MF_OP_BROADCAST:
        copy(t->recv, posts[h->root].send, (size_t)h->count);
        break;
    case MF_OP_ALLGATHER:
        gather(comm, t, posts);
        break;
    case MF_OP_REDUCE:
    case MF_OP_ALLREDUCE:
        sum(comm, h, posts);
        break;
    case MF_OP_SHIFT:
        copy(t->recv, posts[(comm->rank + 1) % comm->size].send, h->recv_bytes);
        break;
    default:
        break;
    }
}

/* Posts, meets, compares. *peers: all members' posts, valid until meet_again. Unless *met the others are not
 * there. */
static mf_status exchange(mf_comm *comm, lane *l, const mf_header *header, const post *own,
                          const post **peers, bool *met) {
    size_t row = (header->sequence & 1) * (size_t)comm->size;
    l->headers[row + (size_t)comm->rank] = *header;
    l->posts[row + (size_t)comm->rank] = *own;
    *peers = l->posts + row;
    *met = false;
    MF_TRY(meet_first(comm, l, header));
    *met = true;
    return mf_agree(comm, l->headers + row);
}

static mf_status local_transfer(mf_comm *comm, int lane_index, const mf_transfer *t) {
    group *g = comm->state;
    lane *l = &g->lanes[lane_index];
    const post *peers;
    bool met;
    mf_status status = exchange(comm, l, &t->header, &(post){.send = t->send, .recv = t->recv}, &peers, &met);
    if (!met) return status;
    if (!status) move(comm, t, peers);
    /* Nothing of a barrier is read after the first meeting; an error means that some other operation was
     * posted. */
    if (status || t->header.op != MF_OP_BARRIER) meet_again(comm, l);
    return status;
}

static mf_status take(size_t bytes, void **out) {
    *out = NULL;
    if (!bytes) return MF_OK;
    *out = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    return *out ? MF_OK : MF_FAIL(MF_ENOMEM, "no memory for %zu shared bytes", bytes);
}

/* Member 0 makes the set, all put their memory into it; whoever frees last gives all of it back. A rank that
 * fails may free its part while peers still read it: the content then stays until they are done. */
static mf_status shared_exchange(mf_comm *comm, const mf_header *header, shared_set *set, void *own,
                                 mf_shared *out) {
    group *g = comm->state;
    lane *l = &g->lanes[MF_LANE_MAIN];
    const post *peers;
    bool met;
    mf_status status = exchange(comm, l, header, &(post){.shared = set, .recv = own}, &peers, &met);
    if (!met) return status;
    if (!status) {
        shared_set *common = peers[0].shared;
        common->data[comm->rank] = own;
        for (int r = 0; r < comm->size; r++) out->peer[r] = peers[r].recv;
        out->own = own;
        out->handle = common;
    }
    meet_again(comm, l);
    return status;
}

static mf_status local_shared_alloc(mf_comm *comm, const mf_header *header, mf_status ready, mf_shared *out) {
    mf_status status = ready;
    shared_set *set = NULL;
    void *own = NULL;
    if (status) return status;
    MF_TRY(take(out->bytes, &own));
    if (comm->rank == 0) {
        MF_GO(mf_host_alloc(1, sizeof *set + (size_t)comm->size * sizeof set->data[0], &set));
        atomic_init(&set->holders, comm->size);
    }
    MF_GO(shared_exchange(comm, header, set, own, out));
    return MF_OK;
fail:
    mf_host_free(set);
    free(own);
    return status;
}

static void local_shared_free(mf_comm *comm, mf_shared *shared) {
    shared_set *set = shared->handle;
    if (atomic_fetch_sub(&set->holders, 1) > 1) return;
    for (int r = 0; r < comm->size; r++) free(set->data[r]);
    mf_host_free(set);
}

static mf_status local_signal(mf_comm *comm, int slot, uint64_t value) {
    group *g = comm->state;
    atomic_uint_least64_t *word = &g->signals[comm->rank].value[slot];
    if (value < atomic_load(word))
        return MF_FAIL(MF_EINVAL, "axis %s: signal %d falls from %llu to %llu", comm->axis, slot,
                       (unsigned long long)atomic_load(word), (unsigned long long)value);
    atomic_store(word, value);
    gate_open(&g->signal_gate);
    return MF_OK;
}

static mf_status local_await(mf_comm *comm, int peer, int slot, uint64_t value) {
    group *g = comm->state;
    const atomic_uint_least64_t *word = &g->signals[peer].value[slot];
    mf_status status = wait_until(comm->world, &g->signal_gate, word, value);
    if (status == MF_ECOMM) return mf_world_fail(comm->world);
    return status ? mf_late_signal(comm, peer, slot, value, atomic_load(word)) : MF_OK;
}

static mf_status lane_init(lane *l, int size) {
    size_t n = (size_t)size;
    MF_TRY(mf_host_alloc(n, sizeof *l->sequence, &l->sequence));
    MF_TRY(mf_host_alloc(2 * n, sizeof *l->headers, &l->headers));
    MF_TRY(mf_host_alloc(2 * n, sizeof *l->posts, &l->posts));
    return MF_OK;
}

static void group_destroy(group *g) {
    if (!g) return;
    for (int i = 0; i < MF_LANES; i++) {
        lane *l = &g->lanes[i];
        gate_destroy(&l->gate);
        mf_host_free(l->posts);
        mf_host_free(l->headers);
        mf_host_free(l->sequence);
    }
    gate_destroy(&g->signal_gate);
    free(g->signals);
    mf_host_free(g->joined);
    mf_host_free(g->ranks);
    mf_host_free(g->axis);
    mf_host_free(g);
}

static mf_status group_gates(group *g) {
    gate *gates[] = {&g->signal_gate, &g->lanes[MF_LANE_MAIN].gate, &g->lanes[MF_LANE_REQUESTS].gate};
    for (int i = 0; i < 3; i++) {
        mf_status status = gate_init(gates[i]);
        if (!status) continue;
        while (i > 0) gate_destroy(gates[--i]);
        return status;
    }
    return MF_OK;
}

static mf_status group_create(const mf_comm *comm, group **out) {
    mf_status status;
    group *g = NULL;
    size_t n = (size_t)comm->size;
    void *values = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *g, &g));
    if ((status = group_gates(g))) {
        mf_host_free(g);
        return status;
    }
    g->size = comm->size;
    MF_GO(mf_host_strdup(comm->axis, &g->axis));
    MF_GO(mf_host_alloc(n, sizeof *g->ranks, &g->ranks));
    memcpy(g->ranks, comm->ranks, n * sizeof *g->ranks);
    MF_GO(mf_host_alloc(n, sizeof *g->joined, &g->joined));
    for (int i = 0; i < MF_LANES; i++) MF_GO(lane_init(&g->lanes[i], comm->size));
    MF_GO(take(n * sizeof *g->signals, &values));
    g->signals = values;
    memset(values, 0, n * sizeof *g->signals);
    *out = g;
    return MF_OK;
fail:
    group_destroy(g);
    return status;
}

/* The n-th group that a rank makes of a list and axis is the n-th of every member: the first it is not yet
 * in. */
static bool group_awaits(const group *g, const mf_comm *comm) {
    return g->size == comm->size && !g->joined[comm->rank] && strcmp(g->axis, comm->axis) == 0 &&
           memcmp(g->ranks, comm->ranks, (size_t)g->size * sizeof *g->ranks) == 0;
}

static mf_status join_locked(party *p, mf_comm *comm) {
    group **link = &p->groups;
    while (*link && !group_awaits(*link, comm)) link = &(*link)->next;
    if (!*link) MF_TRY(group_create(comm, link));
    (*link)->joined[comm->rank] = true;
    comm->state = *link;
    return MF_OK;
}

static mf_status local_open(mf_comm *comm) {
    party *p = comm->world->state;
    comm->borrows = !comm->world->no_borrow;
    pthread_mutex_lock(&p->lock);
    mf_status status = join_locked(p, comm);
    pthread_mutex_unlock(&p->lock);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

static void local_close(mf_comm *comm) {
    party *p = comm->world->state;
    group *g = comm->state;
    if (!g) return;
    pthread_mutex_lock(&p->lock);
    bool last = ++g->left == g->size;
    group **link = &p->groups;
    while (last && *link != g) link = &(*link)->next;
    if (last) *link = g->next;
    pthread_mutex_unlock(&p->lock);
    if (last) group_destroy(g);
}

static void local_wake(mf_world *world) {
    party *p = world->state;
    pthread_mutex_lock(&p->lock);
    for (group *g = p->groups; g; g = g->next) {
        gate_wake(&g->signal_gate);
        for (int i = 0; i < MF_LANES; i++) gate_wake(&g->lanes[i].gate);
    }
    pthread_mutex_unlock(&p->lock);
}

typedef struct member {
    mf_world world;
    pthread_t thread;
    mf_rank_body body;
    void *argument;
} member;

static void *run_member(void *argument) {
    member *m = argument;
    mf_rank_set(m->world.rank);
    mf_world_end(&m->world, m->body(&m->world, m->argument));
    return NULL;
}

/* Spinning helps only where every rank has a core to itself. */
static bool cores_for(int ranks) {
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) >= ranks;
}

static mf_status party_init(party *p, int ranks) {
    MF_TRY(mf_failure_init(&p->failure));
    p->spin = cores_for(ranks);
    if (pthread_mutex_init(&p->lock, NULL)) {
        mf_failure_destroy(&p->failure);
        return MF_FAIL(MF_ENOMEM, "no lock for the ranks' groups");
    }
    return MF_OK;
}

/* Groups that not every member left (some never came to join) end here. */
static void party_destroy(party *p) {
    while (p->groups) {
        group *g = p->groups;
        p->groups = g->next;
        group_destroy(g);
    }
    pthread_mutex_destroy(&p->lock);
    mf_failure_destroy(&p->failure);
}

static void start_and_join(member *members, int ranks) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, (size_t)8 << 20);
    int started = 0;
    while (started < ranks &&
           !pthread_create(&members[started].thread, &attributes, run_member, &members[started]))
        started++;
    pthread_attr_destroy(&attributes);
    if (started < ranks)
        mf_world_end(&members[started].world,
                     MF_FAIL(MF_ENOMEM, "no thread for rank %d of %d", started, ranks));
    while (started > 0) pthread_join(members[--started].thread, NULL);
}

static mf_status local_launch(const mf_launch_options *o, mf_rank_body body, void *argument) {
    party p = {0};
    member *members = NULL;
    if (o->ranks < 1 || o->ranks > MAX_RANKS)
        return MF_FAIL(MF_EINVAL, "%d ranks: the local engine takes 1 to %d", o->ranks, (int)MAX_RANKS);
    MF_TRY(mf_host_alloc((size_t)o->ranks, sizeof *members, &members));
    mf_status status = party_init(&p, o->ranks);
    if (status) {
        mf_host_free(members);
        return status;
    }
    for (int r = 0; r < o->ranks; r++) {
        mf_world world = {.engine = &mf_engine_local,
                          .rank = r,
                          .size = o->ranks,
                          .timeout_s = o->timeout_s,
                          .no_borrow = o->no_borrow,
                          .failure = &p.failure,
                          .state = &p};
        members[r] = (member){.world = world, .body = body, .argument = argument};
    }
    start_and_join(members, o->ranks);
    if (atomic_load(&p.failure.set)) status = mf_error_adopt(&p.failure.error);
    party_destroy(&p);
    mf_host_free(members);
    return status;
}

const mf_engine mf_engine_local = {
    .name = "local",
    .reduces_in_place = true,
    .launch = local_launch,
    .wake = local_wake,
    .open = local_open,
    .close = local_close,
    .transfer = local_transfer,
    .shared_alloc = local_shared_alloc,
    .shared_free = local_shared_free,
    .signal = local_signal,
    .await = local_await,
};
