/* local.c: the engine whose ranks are threads of this process. Data is copied from where the peer has it.
 *
 * A collective: each member posts what it was called with, all meet, each checks that all posted the same,
 * moves its part, and all meet again before buffers go back to their callers. A member may leave the first
 * meeting (an error, a timeout) only while it is incomplete, and then nobody completes it; once it is
 * complete all take part to the end. So nobody reads memory of a rank that has already returned. Where memory
 * is a device's the same is done to its queues, by the points in local_points.h: a member's queue begins its
 * part behind what its peers asked for before, and what is asked of the peers' behind is done after it. */
#include "comm/local_group.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* All ranks of a launch. */
typedef struct party {
    mf_failure failure;
    pthread_mutex_t lock; /* guards groups; taken before a gate's lock, never after */
    mf_local_group *groups;
    bool spin;
} party;

typedef struct absence {
    const mf_local_lane *lane;
    uint64_t sequence;
} absence;

static bool absent(const void *context, int member) {
    const absence *a = context;
    return atomic_load(&a->lane->sequence[member]) < a->sequence;
}

static mf_status meet_first(mf_comm *comm, mf_local_lane *l, const mf_header *header) {
    atomic_store(&l->sequence[comm->rank], header->sequence);
    mf_status status = mf_meeting_enter(&l->meeting, comm->world, comm->size);
    if (status == MF_ECOMM) return mf_world_fail(comm->world);
    return status ? mf_late(comm, header, absent, &(absence){l, header->sequence}) : MF_OK;
}

mf_status mf_local_exchange(mf_comm *comm, mf_local_lane *l, const mf_header *header, const mf_post *own,
                            const mf_post **peers, bool *met) {
    size_t row = (header->sequence & 1) * (size_t)comm->size;
    l->headers[row + (size_t)comm->rank] = *header;
    l->posts[row + (size_t)comm->rank] = *own;
    *peers = l->posts + row;
    *met = false;
    MF_TRY(meet_first(comm, l, header));
    *met = true;
    return mf_agree(comm, l->headers + row);
}

/* This member's part; where that is queued, behind what its peers were asked for before. */
static mf_status move(mf_comm *comm, int lane_index, const mf_transfer *t, const mf_post *peers) {
    mf_local_group *g = comm->state;
    if (!t->queued) return mf_local_move(comm, lane_index, t, peers);
    MF_TRY(mf_points_follow_ready(comm, lane_index, &t->header, peers));
    mf_status moved = mf_local_move(comm, lane_index, t, peers);
    mf_status done = mf_points_done(&g->points[comm->rank], lane_index);
    return moved ? moved : done;
}

static mf_post post_of(const mf_transfer *t) {
    return (mf_post){
        .send = t->send, .recv = t->recv, .offsets = t->offsets, .send_offsets = t->send_offsets};
}

static mf_status local_transfer(mf_comm *comm, int lane_index, const mf_transfer *t) {
    mf_local_group *g = comm->state;
    mf_local_lane *l = &g->lanes[lane_index];
    const mf_post *peers;
    bool met;
    mf_post own = post_of(t);
    MF_TRY(mf_points_ready(&g->points[comm->rank], t, &own.ready));
    mf_status status = mf_local_exchange(comm, l, &t->header, &own, &peers, &met);
    if (!met) return status;
    /* Nothing of a barrier is read after the first meeting; an error of all means that some other operation
     * was posted. */
    bool meets_again = status || t->header.op != MF_OP_BARRIER;
    if (!status) status = move(comm, lane_index, t, peers);
    if (!meets_again) return status;
    mf_meeting_complete(&l->meeting, comm->size);
    mf_status followed = t->queued ? mf_points_follow_done(comm, lane_index, &t->header, g->points) : MF_OK;
    return status ? status : followed;
}

static mf_status local_meet(mf_comm *comm, int lane_index, const mf_transfer *t, bool *device) {
    mf_local_group *g = comm->state;
    mf_local_lane *l = &g->lanes[lane_index];
    const mf_header *headers = l->headers + (t->header.sequence & 1) * (size_t)comm->size;
    const mf_post *peers;
    bool met;
    mf_post own = post_of(t);
    mf_status status = mf_local_exchange(comm, l, &t->header, &own, &peers, &met);
    if (!met) return status;
    if (!status) status = mf_local_agree(comm, &t->header, peers);
    for (int r = 0; r < comm->size; r++) *device |= headers[r].place == MF_PLACE_DEVICE;
    mf_meeting_complete(&l->meeting, comm->size);
    return status;
}

static mf_status local_signal(mf_comm *comm, int slot, uint64_t value) {
    mf_local_group *g = comm->state;
    atomic_uint_least64_t *word = &g->signals[comm->rank].value[slot];
    if (value < atomic_load(word))
        return MF_FAIL(MF_EINVAL, "axis %s: signal %d falls from %llu to %llu", comm->axis, slot,
                       (unsigned long long)atomic_load(word), (unsigned long long)value);
    MF_TRY(mf_points_signal(&g->points[comm->rank], slot, value));
    atomic_store(word, value);
    mf_gate_notice(&g->signal_gate);
    return MF_OK;
}

static mf_status local_await(mf_comm *comm, int peer, int slot, uint64_t value) {
    mf_local_group *g = comm->state;
    const atomic_uint_least64_t *word = &g->signals[peer].value[slot];
    mf_status status = mf_gate_wait(&g->signal_gate, comm->world, word, value);
    if (status == MF_ECOMM) return mf_world_fail(comm->world);
    if (status) return mf_late_signal(comm, peer, slot, value, atomic_load(word));
    return mf_points_await(&g->points[comm->rank], &g->points[peer], slot, value);
}

static mf_status lane_init(mf_local_lane *l, int size) {
    size_t n = (size_t)size;
    MF_TRY(mf_host_alloc(n, sizeof *l->sequence, &l->sequence));
    MF_TRY(mf_host_alloc(2 * n, sizeof *l->headers, &l->headers));
    MF_TRY(mf_host_alloc(2 * n, sizeof *l->posts, &l->posts));
    return MF_OK;
}

static void group_destroy(mf_local_group *g) {
    if (!g) return;
    for (int i = 0; i < MF_LANES; i++) {
        mf_local_lane *l = &g->lanes[i];
        mf_gate_destroy(&l->meeting.gate);
        mf_host_free(l->posts);
        mf_host_free(l->headers);
        mf_host_free(l->sequence);
    }
    for (int r = 0; g->points && r < g->size; r++) mf_points_close(&g->points[r]);
    mf_host_free(g->points);
    mf_gate_destroy(&g->signal_gate);
    mf_memory_heap.give_back(NULL, g->signals, (size_t)g->size * sizeof *g->signals);
    mf_host_free(g->joined);
    mf_host_free(g->ranks);
    mf_host_free(g->axis);
    mf_host_free(g);
}

static mf_status group_gates(mf_local_group *g, bool spin) {
    mf_gate *gates[] = {&g->signal_gate, &g->lanes[MF_LANE_MAIN].meeting.gate,
                        &g->lanes[MF_LANE_REQUESTS].meeting.gate};
    for (int i = 0; i < 3; i++) {
        mf_status status = mf_gate_init(gates[i], spin);
        if (!status) continue;
        while (i > 0) mf_gate_destroy(gates[--i]);
        return status;
    }
    return MF_OK;
}

static mf_status group_create(const mf_comm *comm, bool spin, mf_local_group **out) {
    mf_status status;
    mf_local_group *g = NULL;
    size_t n = (size_t)comm->size;
    MF_TRY(mf_host_alloc(1, sizeof *g, &g));
    if ((status = group_gates(g, spin))) {
        mf_host_free(g);
        return status;
    }
    g->size = comm->size;
    MF_GO(mf_host_strdup(comm->axis, &g->axis));
    MF_GO(mf_host_alloc(n, sizeof *g->ranks, &g->ranks));
    memcpy(g->ranks, comm->ranks, n * sizeof *g->ranks);
    MF_GO(mf_host_alloc(n, sizeof *g->joined, &g->joined));
    for (int i = 0; i < MF_LANES; i++) MF_GO(lane_init(&g->lanes[i], comm->size));
    MF_GO(mf_host_alloc(n, sizeof *g->points, &g->points));
    g->signals = mf_memory_heap.take(NULL, n * sizeof *g->signals);
    if (!g->signals) MF_GO(MF_FAIL(MF_ENOMEM, "no memory for the signals of axis %s", comm->axis));
    memset(g->signals, 0, n * sizeof *g->signals);
    *out = g;
    return MF_OK;
fail:
    group_destroy(g);
    return status;
}

/* The n-th group that a rank makes of a list and axis is the n-th of every member: the first it is not yet
 * in. */
static bool group_awaits(const mf_local_group *g, const mf_comm *comm) {
    return g->size == comm->size && !g->joined[comm->rank] && strcmp(g->axis, comm->axis) == 0 &&
           memcmp(g->ranks, comm->ranks, (size_t)g->size * sizeof *g->ranks) == 0;
}

/* Members copy and add up in each other's memory. */
static mf_status check_reach(const mf_comm *comm, const mf_local_group *g) {
    const mf_device *own = comm->world->device;
    for (int r = 0; own && !comm->world->nccl && r < g->size; r++) {
        const mf_device *peer = g->points[r].device;
        if (!peer || g->points[r].gone || (mf_device_reaches(own, peer) && mf_device_reaches(peer, own)))
            continue;
        return MF_FAIL(MF_EUNSUPPORTED,
                       "axis %s: %s and %s can't address each other's memory: engine nccl sends it",
                       comm->axis, mf_device_name(own), mf_device_name(peer));
    }
    return MF_OK;
}

static mf_status join_locked(party *p, mf_comm *comm) {
    mf_local_group **link = &p->groups;
    while (*link && !group_awaits(*link, comm)) link = &(*link)->next;
    if (!*link) MF_TRY(group_create(comm, p->spin, link));
    (*link)->joined[comm->rank] = true;
    comm->state = *link;
    MF_TRY(check_reach(comm, *link));
    return comm->world->nccl ? MF_OK : mf_points_open(&(*link)->points[comm->rank], comm->world->device);
}

static mf_status local_open(mf_comm *comm) {
    party *p = comm->world->state;
    comm->borrows = !comm->world->no_borrow && !comm->world->nccl;
    pthread_mutex_lock(&p->lock);
    mf_status status = join_locked(p, comm);
    pthread_mutex_unlock(&p->lock);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

static void local_close(mf_comm *comm) {
    party *p = comm->world->state;
    mf_local_group *g = comm->state;
    if (!g) return;
    pthread_mutex_lock(&p->lock);
    bool last = ++g->left == g->size;
    g->points[comm->rank].gone = true;
    mf_local_group **link = &p->groups;
    while (last && *link != g) link = &(*link)->next;
    if (last) *link = g->next;
    pthread_mutex_unlock(&p->lock);
    if (last) group_destroy(g);
}

static void local_wake(mf_world *world) {
    party *p = world->state;
    pthread_mutex_lock(&p->lock);
    for (mf_local_group *g = p->groups; g; g = g->next) {
        mf_gate_wake(&g->signal_gate);
        for (int i = 0; i < MF_LANES; i++) mf_gate_wake(&g->lanes[i].meeting.gate);
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
        mf_local_group *g = p->groups;
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
    if (o->ranks < 1 || o->ranks > MF_MEETING_MOST)
        return MF_FAIL(MF_EINVAL, "%d ranks: the local engine takes 1 to %d", o->ranks, (int)MF_MEETING_MOST);
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
    .meet = local_meet,
    .shared_alloc = mf_local_shared_alloc,
    .shared_free = mf_local_shared_free,
    .signal = local_signal,
    .await = local_await,
};
