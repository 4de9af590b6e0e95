/* cut_scenario.c: every element where it belongs. */
#include "cut_scenario.h"

#include <string.h>

cut_trial cut_trial_at(int number) {
    static const size_t elements[] = {1, 2, 4, 12};
    uint64_t key = mf_random_key("cuts"), next = 16 * (uint64_t)number;
    cut_trial t = {.dims = 1 + (int)(mf_random_u64(1, key, next++) % 5)};
    for (int d = 0; d < t.dims; d++) t.size[d] = (int64_t)(mf_random_u64(1, key, next++) % 8);
    t.from = (int)(mf_random_u64(1, key, next++) % (uint64_t)t.dims);
    t.to = (int)(mf_random_u64(1, key, next++) % (uint64_t)t.dims);
    t.element = elements[mf_random_u64(1, key, next++) % 4];
    return t;
}

/* One rank's tensors. */
typedef struct member {
    mf_memory *memory;
    mf_device *device;
    mf_comm *comm;
    mf_cut cut;
    mf_shared first, second; /* cut along from; along to */
    unsigned char *whole, *again;
    size_t bytes;
} member;

static unsigned char value(size_t i) { return (unsigned char)(i * 2654435761u >> 13); }

static mf_status open_member(mf_world *world, const cut_trial *t, member *m) {
    int everyone[8], ranks = mf_world_size(world), own = mf_world_rank(world);
    for (int r = 0; r < ranks; r++) everyone[r] = r;
    MF_TRY(mf_memory_create(NULL, &m->memory));
    MF_TRY(mf_device_create("cpu", m->memory, 1, &m->device));
    MF_TRY(mf_comm_create(world, "dsp", everyone, ranks, &m->comm));
    m->cut = (mf_cut){.comm = m->comm, .device = m->device, .element = t->element, .dims = t->dims};
    memcpy(m->cut.size, t->size, sizeof t->size);
    MF_TRY(mf_cut_check(&m->cut, t->from));
    m->bytes = mf_cut_bytes(&m->cut, -1, 0);
    MF_TRY(mf_shared_alloc(m->comm, m->memory, MF_ACTIVATIONS, mf_cut_bytes(&m->cut, t->from, own), "first",
                           &m->first));
    MF_TRY(mf_shared_alloc(m->comm, m->memory, MF_ACTIVATIONS, mf_cut_bytes(&m->cut, t->to, own), "second",
                           &m->second));
    MF_TRY(mf_host_alloc(m->bytes + 1, 1, &m->whole));
    MF_TRY(mf_host_alloc(m->bytes + 1, 1, &m->again));
    for (size_t i = 0; i < m->bytes; i++) m->whole[i] = value(i);
    return MF_OK;
}

static void close_member(member *m) {
    mf_shared_free(m->comm, m->memory, &m->first);
    mf_shared_free(m->comm, m->memory, &m->second);
    mf_host_free(m->whole);
    mf_host_free(m->again);
    mf_comm_destroy(m->comm);
    mf_device_destroy(m->device);
    mf_memory_destroy(m->memory);
}

/* Whether a rank's share along a dimension holds the whole tensor's bytes that belong there. */
static bool is_share(const mf_cut *c, int dim, const unsigned char *share) {
    int64_t begin = mf_share_begin(c->size[dim], mf_comm_size(c->comm), mf_comm_rank(c->comm)), outer = 1,
            inner = (int64_t)c->element, count = 0;
    for (int i = 0; i < dim; i++) outer *= c->size[i];
    for (int i = dim + 1; i < c->dims; i++) inner *= c->size[i];
    count = mf_share_begin(c->size[dim], mf_comm_size(c->comm), mf_comm_rank(c->comm) + 1) - begin;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < count * inner; i++)
            if (share[o * count * inner + i] != value((size_t)((o * c->size[dim] + begin) * inner + i)))
                return false;
    return true;
}

static int64_t moved_by(const mf_comm *comm) {
    mf_comm_stat stat[MF_COMM_OPS];
    mf_comm_stats(comm, stat);
    return stat[MF_OP_ALLTOALL].bytes + stat[MF_OP_ALLTOALL].borrowed_bytes;
}

/* There, back, and whole again; forward and backward are the same calls. */
static mf_status travel(const cut_trial *t, member *m) {
    const mf_cut *c = &m->cut;
    MF_TRY(mf_cut_split(c, t->from, m->whole, m->first.own));
    if (!is_share(c, t->from, m->first.own)) return MF_FAIL(MF_ELIBRARY, "split");
    MF_TRY(mf_cut_switch(c, t->from, t->to, &m->first, m->second.own));
    if (!is_share(c, t->to, m->second.own)) return MF_FAIL(MF_ELIBRARY, "switch");
    MF_TRY(mf_cut_settle(c));
    memset(m->first.own ? m->first.own : m->again, 0xee,
           m->first.own ? mf_cut_bytes(c, t->from, mf_comm_rank(m->comm)) : 0);
    MF_TRY(mf_cut_switch(c, t->to, t->from, &m->second, m->first.own));
    if (!is_share(c, t->from, m->first.own)) return MF_FAIL(MF_ELIBRARY, "switch back");
    MF_TRY(mf_cut_gather(c, t->from, &m->first, m->again));
    if (memcmp(m->again, m->whole, m->bytes) != 0) return MF_FAIL(MF_ELIBRARY, "gather");
    return mf_cut_settle(c);
}

mf_status cut_trial_run(mf_world *world, void *argument) {
    cut_trial *t = argument;
    mf_status status = MF_OK;
    member m = {0};
    double moved = 0;
    MF_GO(open_member(world, t, &m));
    MF_GO(travel(t, &m));
    moved = (double)moved_by(m.comm);
    MF_GO(mf_allreduce_f64(m.comm, &moved, 1));
    if (mf_world_rank(world) == 0) t->moved = (int64_t)moved;
    MF_GO(mf_barrier(m.comm));
fail:
    close_member(&m);
    return status;
}
