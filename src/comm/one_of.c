/* one_of.c: the engine of one rank among peers that are not there. The rank computes all that is its own, in
 * real memory; where a peer's bytes would come in, others of the same number stand in: its own where it has
 * any, else small numbers. Counters and memory are those of ranks that are threads; values mean nothing. */
#include "comm/ops.h"

#include <string.h>

enum { NUMBERS = 1 << 16 }; /* bf16 each; every two of them are a small f32 too */

/* Memory that the allocator of the rank does not know: it is accounted elsewhere, or a real rank does not
 * have it. It may outlive the allocator, but not what that takes from. */
typedef struct block {
    mf_memory_source source;
    void *data;
    size_t bytes;
} block;

typedef struct stand_ins {
    block numbers; /* [NUMBERS], made when they are first asked for */
} stand_ins;

static mf_status block_take(const mf_memory_source *source, size_t bytes, const char *what, block *out) {
    if (!bytes) return MF_OK;
    *out = (block){.source = *source, .data = source->take(source->context, bytes), .bytes = bytes};
    return out->data ? MF_OK : MF_FAIL(MF_ENOMEM, "no memory for %s: %zu bytes", what, bytes);
}

static void block_give_back(const block *b) {
    if (b->data) b->source.give_back(b->source.context, b->data, b->bytes);
}

static mf_status copy(mf_world *world, void *to, const void *from, size_t bytes) {
    if (!bytes || to == from) return MF_OK;
    if (world->device) return mf_copy(world->device, MF_QUEUE_COMPUTE, to, from, bytes);
    memmove(to, from, bytes);
    return MF_OK;
}

static mf_status numbers_make(mf_world *world, stand_ins *s) {
    mf_status status = MF_OK;
    uint16_t *made = NULL;
    MF_GO(mf_host_alloc(NUMBERS, sizeof *made, &made));
    for (uint64_t i = 0; i < NUMBERS; i++) made[i] = mf_bf16_from_f32(0.02f * mf_random_normal(1, 2, i));
    const mf_memory_source *source =
        world->device ? mf_memory_source_of(mf_device_memory(world->device)) : &mf_memory_heap;
    MF_GO(block_take(source, NUMBERS * sizeof *made, "numbers that stand in for peers'", &s->numbers));
    MF_GO(copy(world, s->numbers.data, made, NUMBERS * sizeof *made));
fail:
    mf_host_free(made);
    return status;
}

/* What is there doubles until all is filled. */
static mf_status fill(mf_world *world, char *to, size_t bytes) {
    stand_ins *s = world->state;
    if (!bytes) return MF_OK;
    if (!s->numbers.data) MF_TRY(numbers_make(world, s));
    size_t done = (size_t)mf_min((int64_t)bytes, (int64_t)s->numbers.bytes);
    MF_TRY(copy(world, to, s->numbers.data, done));
    for (size_t more; done < bytes; done += more) {
        more = (size_t)mf_min((int64_t)done, (int64_t)(bytes - done));
        MF_TRY(copy(world, to + done, to, more));
    }
    return MF_OK;
}

/* to: [bytes]; from: [have]. Where a peer's block has another size than the own one, it has another layout,
 * and the own bytes might read as no numbers there. */
static mf_status deliver(mf_world *world, void *to, size_t bytes, const void *from, size_t have) {
    return bytes == have ? copy(world, to, from, bytes) : fill(world, to, bytes);
}

static mf_status gather(mf_comm *comm, const mf_transfer *t) {
    for (int r = 0; r < comm->size; r++)
        MF_TRY(deliver(comm->world, (char *)t->recv + t->offsets[r], mf_block(t->offsets, r), t->send,
                       (size_t)t->header.send_bytes));
    return MF_OK;
}

/* Each peer sends what it is sent. */
static mf_status alltoall(mf_comm *comm, const mf_transfer *t) {
    for (int r = 0; r < comm->size; r++)
        MF_TRY(deliver(comm->world, (char *)t->recv + t->offsets[r], mf_block(t->offsets, r),
                       (const char *)t->send + t->send_offsets[r], mf_block(t->send_offsets, r)));
    return MF_OK;
}

/* Of a sum its own term stays. */
static mf_status one_of_transfer(mf_comm *comm, int lane, const mf_transfer *t) {
    const mf_header *h = &t->header;
    (void)lane;
    switch (h->op) {
    case MF_OP_BROADCAST:
        return h->root == comm->rank ? MF_OK : fill(comm->world, t->recv, (size_t)h->recv_bytes);
    case MF_OP_ALLGATHER:
        return gather(comm, t);
    case MF_OP_SHIFT:
        return deliver(comm->world, t->recv, (size_t)h->recv_bytes, t->send, (size_t)h->send_bytes);
    case MF_OP_ALLTOALL:
        return alltoall(comm, t);
    default:
        return MF_OK;
    }
}

static mf_status one_of_launch(const mf_launch_options *o, mf_rank_body body, void *argument) {
    mf_failure failure;
    stand_ins s = {0};
    int before = mf_rank_get();
    if (o->ranks < 1 || o->only_rank < 0 || o->only_rank >= o->ranks)
        return MF_FAIL(MF_EINVAL, "rank %d of %d can't run alone", o->only_rank, o->ranks);
    MF_TRY(mf_failure_init(&failure));
    mf_world world = {.engine = &mf_engine_one_of,
                      .rank = o->only_rank,
                      .size = o->ranks,
                      .timeout_s = o->timeout_s,
                      .no_borrow = o->no_borrow,
                      .failure = &failure,
                      .state = &s};
    mf_rank_set(o->only_rank);
    mf_status status = body(&world, argument);
    mf_world_end(&world, status);
    block_give_back(&s.numbers);
    mf_rank_set(before);
    mf_failure_destroy(&failure);
    return status;
}

static mf_status one_of_open(mf_comm *comm) {
    comm->borrows = !comm->world->no_borrow;
    return MF_OK;
}

static void one_of_close(mf_comm *comm) { (void)comm; }

/* Own memory stands in for peers' where it is as large. */
typedef struct members {
    block own, peers;
} members;

static void members_end(members *s) {
    block_give_back(&s->own);
    block_give_back(&s->peers);
    mf_host_free(s);
}

static mf_status shared_take(mf_world *world, const mf_memory_source *source, const mf_shared *wanted,
                             members *s) {
    bool larger = wanted->most_bytes > wanted->bytes;
    MF_TRY(block_take(source, mf_shared_accounted(wanted->bytes), "shared memory", &s->own));
    if (!larger) return MF_OK;
    MF_TRY(block_take(source, wanted->most_bytes, "what stands in for peers' memory", &s->peers));
    return fill(world, s->peers.data, s->peers.bytes);
}

static mf_status one_of_shared_alloc(mf_comm *comm, const mf_header *header, mf_status ready,
                                     const mf_memory_source *source, mf_shared *out) {
    mf_status status = MF_OK;
    members *s = NULL;
    (void)header;
    if (ready) return ready;
    MF_TRY(mf_host_alloc(1, sizeof *s, &s));
    MF_GO(shared_take(comm->world, source, out, s));
    for (int r = 0; r < comm->size; r++)
        out->peer[r] = r != comm->rank && s->peers.data ? s->peers.data : s->own.data;
    out->own = s->own.data;
    out->handle = s;
    return MF_OK;
fail:
    members_end(s);
    return status;
}

static void one_of_shared_free(mf_comm *comm, mf_shared *shared) {
    (void)comm;
    members_end(shared->handle);
}

static mf_status one_of_signal(mf_comm *comm, int slot, uint64_t value) {
    (void)comm, (void)slot, (void)value;
    return MF_OK;
}

static mf_status one_of_await(mf_comm *comm, int peer, int slot, uint64_t value) {
    (void)comm, (void)peer, (void)slot, (void)value;
    return MF_OK;
}

const mf_engine mf_engine_one_of = {
    .name = "one-of",
    .at_once = true,
    .reduces_in_place = true,
    .launch = one_of_launch,
    .open = one_of_open,
    .close = one_of_close,
    .transfer = one_of_transfer,
    .shared_alloc = one_of_shared_alloc,
    .shared_free = one_of_shared_free,
    .signal = one_of_signal,
    .await = one_of_await,
};
