/* local_move.c: each member copies, or adds up, its part of an operation from where its peers have the data.
 */
#include "comm/local_move.h"

#include <string.h>

/* Where this member's part is done: at once, or in a queue of its device. */
typedef struct mover {
    const mf_comm *comm;
    mf_device *device; /* NULL: at once, in the host's memory */
    mf_queue queue;
} mover;

static mf_status copy(const mover *m, void *to, const void *from, size_t bytes) {
    if (m->device) return mf_copy(m->device, m->queue, to, from, bytes);
    if (bytes && to != from) memcpy(to, from, bytes);
    return MF_OK;
}

static mf_status gather(const mover *m, const mf_transfer *t, const mf_post *posts) {
    const mf_comm *comm = m->comm;
    for (int i = 0; i < comm->size; i++) {
        int r = (comm->rank + i) % comm->size; /* not all from the same peer at once */
        size_t bytes = mf_block(t->offsets, r);
        if (bytes) MF_TRY(copy(m, (char *)t->recv + t->offsets[r], posts[r].send, bytes));
    }
    return MF_OK;
}

/* This member's part of [0, count), cut at whole cache lines. */
static int64_t part_begin(const mf_comm *comm, int64_t count, int member) {
    int64_t lines = mf_ceil_div(count, 16);
    return mf_min(count, lines * member / comm->size * 16);
}

static bool takes_sum(const mf_comm *comm, const mf_header *h, int member) {
    if (h->op == MF_OP_REDUCE_SCATTER) return member == comm->rank;
    return h->op == MF_OP_ALLREDUCE || member == h->root;
}

/* A block at a time, since one of the places that a sum goes to is also where a term comes from. */
static void sum_now(const mf_comm *comm, const mf_header *h, const mf_post *posts, int64_t begin,
                    int64_t end) {
    mf_sum block;
    for (int64_t i = begin; i < end; i += MF_SUM_BLOCK) {
        size_t at = (size_t)i * (size_t)h->element_bytes;
        mf_sum_begin(&block, h->element_bytes, (const char *)posts[0].send + at,
                     mf_min(MF_SUM_BLOCK, end - i));
        for (int r = 1; r < comm->size; r++) mf_sum_add(&block, (const char *)posts[r].send + at);
        for (int r = 0; r < comm->size; r++)
            if (takes_sum(comm, h, r)) mf_sum_store(&block, (char *)posts[r].recv + at);
    }
}

static mf_status sum_queued(const mover *m, const mf_header *h, const mf_post *posts, int64_t begin,
                            int64_t end) {
    const mf_comm *comm = m->comm;
    const void *term[MF_SUM_TERMS];
    void *to[MF_SUM_TERMS];
    size_t at = (size_t)begin * (size_t)h->element_bytes;
    mf_sum_args args = {
        .n = end - begin, .type = h->element_bytes == 4 ? MF_F32 : MF_BF16, .term = term, .to = to};
    if (comm->size > MF_SUM_TERMS)
        return MF_FAIL(MF_EUNSUPPORTED,
                       "axis %s: %s of %d ranks' GPU memory in one process; it is for %d at most", comm->axis,
                       mf_op_name(h->op), comm->size, (int)MF_SUM_TERMS);
    for (int r = 0; r < comm->size; r++) {
        term[args.terms++] = (const char *)posts[r].send + at;
        if (takes_sum(comm, h, r)) to[args.places++] = (char *)posts[r].recv + at;
    }
    return mf_sum_terms(m->device, m->queue, &args);
}

/* The sum over members, in their order, of elements begin .. end - 1. */
static mf_status sum(const mover *m, const mf_header *h, const mf_post *posts, int64_t begin, int64_t end) {
    if (begin == end) return MF_OK;
    if (m->device) return sum_queued(m, h, posts, begin, end);
    sum_now(m->comm, h, posts, begin, end);
    return MF_OK;
}

static mf_status sum_share(const mover *m, const mf_header *h, const mf_post *posts) {
    const mf_comm *comm = m->comm;
    return sum(m, h, posts, part_begin(comm, h->count, comm->rank),
               part_begin(comm, h->count, comm->rank + 1));
}

/* In place: parts don't overlap, and of a member's buffer each peer reads only the peer's part, so the part
 * that is written here nobody else reads. */
static mf_status sum_own_part(const mover *m, const mf_transfer *t, const mf_post *posts) {
    int own = m->comm->rank;
    return sum(m, &t->header, posts, (int64_t)t->offsets[own], (int64_t)t->offsets[own + 1]);
}

bool mf_local_uses(const mf_comm *comm, const mf_header *h, int who, int whose) {
    if (h->op == MF_OP_BROADCAST) return whose == h->root;
    return h->op != MF_OP_SHIFT || whose == (who + 1) % comm->size;
}

/* Each member looks at all pairs, so that all come to the same verdict. */
static mf_status agree_on_blocks(const mf_comm *comm, const mf_header *h, const mf_post *posts) {
    for (int from = 0; from < comm->size; from++)
        for (int to = 0; to < comm->size; to++)
            MF_TRY(mf_agree_on_block(comm, h->sequence, from, mf_block(posts[from].send_offsets, to), to,
                                     mf_block(posts[to].offsets, from)));
    return MF_OK;
}

mf_status mf_local_agree(const mf_comm *comm, const mf_header *h, const mf_post *posts) {
    return h->op == MF_OP_ALLTOALL ? agree_on_blocks(comm, h, posts) : MF_OK;
}

static mf_status alltoall(const mover *m, const mf_transfer *t, const mf_post *posts) {
    const mf_comm *comm = m->comm;
    for (int i = 0; i < comm->size; i++) {
        int r = (comm->rank + i) % comm->size; /* not all from the same peer at once */
        size_t bytes = mf_block(t->offsets, r), at = posts[r].send_offsets[comm->rank];
        if (bytes) MF_TRY(copy(m, (char *)t->recv + t->offsets[r], (const char *)posts[r].send + at, bytes));
    }
    return MF_OK;
}

static mf_status move(const mover *m, const mf_transfer *t, const mf_post *posts) {
    const mf_header *h = &t->header;
    switch (h->op) {
    case MF_OP_BROADCAST:
        return copy(m, t->recv, posts[h->root].send, (size_t)h->count);
    case MF_OP_ALLGATHER:
        return gather(m, t, posts);
    case MF_OP_REDUCE:
    case MF_OP_ALLREDUCE:
        return sum_share(m, h, posts);
    case MF_OP_SHIFT:
        return copy(m, t->recv, posts[(m->comm->rank + 1) % m->comm->size].send, h->recv_bytes);
    case MF_OP_REDUCE_SCATTER:
        return sum_own_part(m, t, posts);
    case MF_OP_ALLTOALL:
        return alltoall(m, t, posts);
    default:
        return MF_OK;
    }
}

mf_status mf_local_move(const mf_comm *comm, int lane, const mf_transfer *t, const mf_post *posts) {
    mover m = {comm, t->queued ? comm->world->device : NULL, mf_lane_queue(lane)};
    MF_TRY(mf_local_agree(comm, &t->header, posts));
    return move(&m, t, posts);
}
