/* nccl.c: engine nccl: ranks are launched, agree and fail through another engine (local, or mpi under
 * mpiexec); what lies in their GPUs' memory is moved by links between the GPUs, one for each lane of a group.
 */
#include "comm/ops.h"
#include "device/links.h"

#include <string.h>

/* A lane's link, with room for the moves of one operation. */
typedef struct mf_nccl_lane {
    mf_link *link;
    mf_link_move *moves; /* [2, size] */
} lane;

/* A link of a rank of this process. It outlives its group: links end together, with the rank. */
typedef struct held {
    struct held *next;
    const mf_world *owner;
    mf_link *link;
} held;

/* What the ranks of this process share. */
typedef struct mf_nccl {
    const mf_link_ops *ops;
    pthread_mutex_t lock; /* guards the list: any rank's failure ends the links of all */
    held *first;
} mf_nccl;

/* What a member shows the others before a link is opened. The id is the first member's. */
typedef struct card {
    char place[MF_LINK_PLACE];
    unsigned char id[MF_LINK_ID];
} card;

/* MF_ETIMEOUT is left to the caller to put into words. */
static mf_status settle(mf_world *world, mf_link *link) {
    mf_wait wait = {0};
    for (bool under_way = true;;) {
        if (mf_world_failed(world)) return mf_world_fail(world);
        MF_TRY(world->nccl->ops->look(link, &under_way));
        if (!under_way) return MF_OK;
        mf_status status = mf_patience(world, &wait);
        if (status) return status;
    }
}

static mf_status settle_in(mf_comm *comm, const mf_header *header, mf_link *link) {
    mf_status status = settle(comm->world, link);
    return status == MF_ETIMEOUT ? mf_late(comm, header, NULL, NULL) : status;
}

static mf_status hold(mf_world *world, mf_link *link) {
    mf_nccl *nccl = world->nccl;
    held *h = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *h, &h));
    h->owner = world;
    h->link = link;
    pthread_mutex_lock(&nccl->lock);
    h->next = nccl->first;
    nccl->first = h;
    pthread_mutex_unlock(&nccl->lock);
    return MF_OK;
}

/* Through the engine below, in the host's memory. cards: [size] */
static mf_status show_cards(mf_comm *comm, int lane_index, uint64_t sequence, const card *own, card *cards) {
    size_t *offsets = NULL;
    MF_TRY(mf_host_alloc((size_t)comm->size + 1, sizeof *offsets, &offsets));
    for (int r = 0; r < comm->size; r++) offsets[r + 1] = offsets[r] + sizeof *own;
    mf_header header = {.sequence = sequence,
                        .op = MF_OP_ALLGATHER,
                        .element_bytes = 1,
                        .count = (int64_t)offsets[comm->size],
                        .send_bytes = sizeof *own,
                        .recv_bytes = offsets[comm->size]};
    mf_transfer t = {.header = header, .send = own, .recv = cards, .offsets = offsets};
    mf_status status = comm->world->engine->transfer(comm, lane_index, &t);
    mf_host_free(offsets);
    return status;
}

static mf_status check_places(const mf_comm *comm, const card *cards) {
    for (int a = 0; a < comm->size; a++)
        for (int b = a + 1; b < comm->size; b++)
            if (strcmp(cards[a].place, cards[b].place) == 0)
                return MF_FAIL(MF_EINVAL, "engine nccl: ranks %d and %d are on one GPU; each needs its own",
                               comm->ranks[a], comm->ranks[b]);
    return MF_OK;
}

static mf_status gather_cards(mf_comm *comm, int lane_index, uint64_t sequence, card *cards) {
    const mf_link_ops *ops = comm->world->nccl->ops;
    card own = {0};
    MF_TRY(ops->place(comm->world->device, own.place));
    if (comm->rank == 0) MF_TRY(ops->make_id(own.id));
    MF_TRY(show_cards(comm, lane_index, sequence, &own, cards));
    return check_places(comm, cards);
}

static mf_status open_link(mf_comm *comm, int lane_index, const mf_header *header, const card *cards) {
    mf_world *world = comm->world;
    mf_link *link = NULL;
    MF_TRY(world->nccl->ops->open(world->device, lane_index != MF_LANE_MAIN, cards[0].id, comm->rank,
                                  comm->size, &link));
    mf_status status = hold(world, link);
    if (status) {
        world->nccl->ops->close(link);
        return status;
    }
    comm->nccl[lane_index]->link = link;
    return settle_in(comm, header, link);
}

static mf_status open_lane(mf_comm *comm, int lane_index, const mf_header *header) {
    size_t n = (size_t)comm->size;
    card *cards = NULL;
    lane **l = &comm->nccl[lane_index];
    if (!*l) MF_TRY(mf_host_alloc(1, sizeof **l, l));
    if (!(*l)->moves) MF_TRY(mf_host_alloc(2 * n, sizeof *(*l)->moves, &(*l)->moves));
    if ((*l)->link) return MF_OK;
    MF_TRY(mf_host_alloc(n, sizeof *cards, &cards));
    mf_status status = gather_cards(comm, lane_index, header->sequence, cards);
    if (!status) status = open_link(comm, lane_index, header, cards);
    mf_host_free(cards);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

static int list_sends(mf_link_move *m, int peer, const void *data, size_t bytes) {
    if (bytes) *m = (mf_link_move){.kind = MF_LINK_SEND, .peer = peer, .count = bytes, .from = data};
    return bytes != 0;
}

static int list_receives(mf_link_move *m, int peer, void *data, size_t bytes) {
    if (bytes) *m = (mf_link_move){.kind = MF_LINK_RECV, .peer = peer, .count = bytes, .to = data};
    return bytes != 0;
}

static bool equal_parts(const mf_comm *comm, const mf_transfer *t) {
    for (int r = 1; r < comm->size; r++)
        if (mf_block(t->offsets, r) != mf_block(t->offsets, 0)) return false;
    return true;
}

/* Parts of several lengths are a broadcast each. */
static int list_allgather(const mf_comm *comm, const mf_transfer *t, mf_link_move *m) {
    char *recv = t->recv;
    int n = 0;
    if (equal_parts(comm, t)) {
        *m = (mf_link_move){.kind = MF_LINK_ALLGATHER,
                            .count = mf_block(t->offsets, 0),
                            .from = t->send,
                            .to = recv + t->offsets[0]};
        return 1;
    }
    for (int r = 0; r < comm->size; r++) {
        char *to = recv + t->offsets[r];
        if (mf_block(t->offsets, r) == 0) continue;
        m[n++] = (mf_link_move){.kind = MF_LINK_BROADCAST,
                                .peer = r,
                                .count = mf_block(t->offsets, r),
                                .from = r == comm->rank ? t->send : to,
                                .to = to};
    }
    return n;
}

/* Parts of several lengths are a reduce each. */
static int list_reduce_scatter(const mf_comm *comm, const mf_transfer *t, mf_dtype type, mf_link_move *m) {
    size_t width = mf_dtype_bytes(type);
    char *data = t->recv;
    int n = 0;
    if (equal_parts(comm, t)) {
        *m = (mf_link_move){.kind = MF_LINK_REDUCE_SCATTER,
                            .type = type,
                            .count = mf_block(t->offsets, 0),
                            .from = data + t->offsets[0] * width,
                            .to = data + t->offsets[comm->rank] * width};
        return 1;
    }
    for (int r = 0; r < comm->size; r++) {
        char *part = data + t->offsets[r] * width;
        if (mf_block(t->offsets, r) == 0) continue;
        m[n++] = (mf_link_move){.kind = MF_LINK_REDUCE,
                                .type = type,
                                .peer = r,
                                .count = mf_block(t->offsets, r),
                                .from = part,
                                .to = part};
    }
    return n;
}

static int list_alltoall(const mf_comm *comm, const mf_transfer *t, mf_link_move *m) {
    int n = 0;
    for (int i = 0; i < comm->size; i++) {
        int r = (comm->rank + i) % comm->size;
        n += list_sends(m + n, r, (const char *)t->send + t->send_offsets[r], mf_block(t->send_offsets, r));
        n += list_receives(m + n, r, (char *)t->recv + t->offsets[r], mf_block(t->offsets, r));
    }
    return n;
}

static int list_shift(const mf_comm *comm, const mf_transfer *t, mf_link_move *m) {
    const mf_header *h = &t->header;
    int n = list_sends(m, (comm->rank + comm->size - 1) % comm->size, t->send, h->send_bytes);
    return n + list_receives(m + n, (comm->rank + 1) % comm->size, t->recv, h->recv_bytes);
}

/* What an operation is to a link. moves: room for [2, size] */
static int list_moves(const mf_comm *comm, const mf_transfer *t, mf_link_move *moves) {
    const mf_header *h = &t->header;
    mf_dtype type = h->element_bytes == 2 ? MF_BF16 : MF_F32;
    mf_link_move whole = {
        .peer = h->root, .type = type, .count = (size_t)h->count, .from = t->send, .to = t->recv};
    switch (h->op) {
    case MF_OP_ALLGATHER:
        return list_allgather(comm, t, moves);
    case MF_OP_REDUCE_SCATTER:
        return list_reduce_scatter(comm, t, type, moves);
    case MF_OP_ALLTOALL:
        return list_alltoall(comm, t, moves);
    case MF_OP_SHIFT:
        return list_shift(comm, t, moves);
    case MF_OP_BROADCAST:
        whole.kind = MF_LINK_BROADCAST;
        break;
    case MF_OP_REDUCE:
        whole.kind = MF_LINK_REDUCE;
        break;
    default:
        whole.kind = MF_LINK_ALLREDUCE;
    }
    *moves = whole;
    return 1;
}

mf_status mf_nccl_transfer(mf_comm *comm, int lane_index, const mf_transfer *t) {
    const mf_link_ops *ops = comm->world->nccl->ops;
    bool device = false;
    MF_TRY(comm->world->engine->meet(comm, lane_index, t, &device));
    if (!device) return MF_OK; /* no member has anything to move */
    MF_TRY(open_lane(comm, lane_index, &t->header));
    lane *l = comm->nccl[lane_index];
    if (t->ready) MF_TRY(ops->follow(l->link, t->ready));
    MF_TRY(ops->move(l->link, l->moves, list_moves(comm, t, l->moves)));
    MF_TRY(settle_in(comm, &t->header, l->link));
    return t->done ? ops->record(l->link, t->done) : MF_OK;
}

mf_status mf_nccl_check(const mf_world *world) {
    if (!world->nccl || world->device) return MF_OK;
    return MF_FAIL(MF_EINVAL, "engine nccl moves what is in GPUs' memory, and rank %d computes on no GPU",
                   world->rank);
}

void mf_nccl_close(mf_comm *comm) {
    for (int i = 0; i < MF_LANES; i++) {
        if (comm->nccl[i]) mf_host_free(comm->nccl[i]->moves);
        mf_host_free(comm->nccl[i]);
    }
}

void mf_nccl_wake(mf_world *world) {
    mf_nccl *nccl = world->nccl;
    pthread_mutex_lock(&nccl->lock);
    for (held *h = nccl->first; h; h = h->next) nccl->ops->abort(h->link);
    pthread_mutex_unlock(&nccl->lock);
}

/* A rank's links, one after another: `after` NULL gives the first. */
static held *next_of(mf_nccl *nccl, const mf_world *owner, held *after) {
    pthread_mutex_lock(&nccl->lock);
    held *h = after ? after->next : nccl->first;
    while (h && h->owner != owner) h = h->next;
    pthread_mutex_unlock(&nccl->lock);
    return h;
}

static void let_go(mf_nccl *nccl, held *h) {
    pthread_mutex_lock(&nccl->lock);
    held **link = &nccl->first;
    while (*link != h) link = &(*link)->next;
    *link = h->next;
    pthread_mutex_unlock(&nccl->lock);
    nccl->ops->close(h->link);
    mf_host_free(h);
}

/* Members made their links in different orders; so all are asked to end before any is waited for. */
static mf_status finish_links(mf_world *world) {
    mf_nccl *nccl = world->nccl;
    for (held *h = next_of(nccl, world, NULL); h; h = next_of(nccl, world, h))
        MF_TRY(nccl->ops->finish(h->link));
    for (held *h = next_of(nccl, world, NULL); h; h = next_of(nccl, world, h)) {
        mf_status status = settle(world, h->link);
        if (status == MF_ETIMEOUT)
            return MF_FAIL(MF_ETIMEOUT, "engine nccl: rank %d waited %g s for its peers to end their links",
                           world->rank, world->timeout_s);
        if (status) return status;
    }
    return MF_OK;
}

typedef struct run {
    mf_nccl nccl;
    mf_rank_body body;
    void *argument;
} run;

/* An error is handed round before links are closed: peers may wait for this rank on their GPUs. */
static mf_status run_rank(mf_world *world, void *argument) {
    run *r = argument;
    world->nccl = &r->nccl;
    mf_status status = r->body(world, r->argument);
    if (!status) status = finish_links(world);
    mf_world_end(world, status);
    for (held *h; (h = next_of(&r->nccl, world, NULL));) let_go(&r->nccl, h);
    return status;
}

mf_status mf_nccl_launch(const mf_engine *base, const mf_launch_options *options, mf_rank_body body,
                         void *argument) {
    const mf_cuda_module *module = NULL;
    run r = {.body = body, .argument = argument};
    MF_TRY(mf_cuda_module_load(&module));
    if (base == &mf_engine_local && options->ranks > module->count())
        return MF_FAIL(MF_EINVAL, "engine nccl: %d ranks need a GPU each, and this machine has %d",
                       options->ranks, module->count());
    r.nccl.ops = module->links;
    if (pthread_mutex_init(&r.nccl.lock, NULL)) return MF_FAIL(MF_ENOMEM, "no lock for links between GPUs");
    mf_status status = base->launch(options, run_rank, &r);
    pthread_mutex_destroy(&r.nccl.lock);
    return status;
}
