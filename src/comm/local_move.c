/* local_move.c: each member copies, or adds up, its part of an operation from where its peers have the data.
 */
#include "comm/local_move.h"

#include <string.h>

static void copy(void *to, const void *from, size_t bytes) {
    if (bytes && to != from) memcpy(to, from, bytes);
}

static void gather(const mf_comm *comm, const mf_transfer *t, const mf_post *posts) {
    for (int i = 0; i < comm->size; i++) {
        int r = (comm->rank + i) % comm->size; /* not all from the same peer at once */
        size_t bytes = mf_block(t->offsets, r);
        if (bytes) copy((char *)t->recv + t->offsets[r], posts[r].send, bytes);
    }
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

/* The sum over members, in their order, of elements begin .. end; a block at a time, since one of the places
 * that it goes to is also where a term comes from. */
static void sum(const mf_comm *comm, const mf_header *h, const mf_post *posts, int64_t begin, int64_t end) {
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

static void sum_share(const mf_comm *comm, const mf_header *h, const mf_post *posts) {
    sum(comm, h, posts, part_begin(comm, h->count, comm->rank), part_begin(comm, h->count, comm->rank + 1));
}

/* In place: parts don't overlap, and of a member's buffer each peer reads only the peer's part, so the part
 * that is written here nobody else reads. */
static void sum_own_part(const mf_comm *comm, const mf_transfer *t, const mf_post *posts) {
    sum(comm, &t->header, posts, (int64_t)t->offsets[comm->rank], (int64_t)t->offsets[comm->rank + 1]);
}

/* Each member looks at all pairs, so that all come to the same verdict. */
static mf_status agree_on_blocks(const mf_comm *comm, const mf_header *h, const mf_post *posts) {
    for (int from = 0; from < comm->size; from++)
        for (int to = 0; to < comm->size; to++)
            MF_TRY(mf_agree_on_block(comm, h->sequence, from, mf_block(posts[from].send_offsets, to), to,
                                     mf_block(posts[to].offsets, from)));
    return MF_OK;
}

static mf_status alltoall(const mf_comm *comm, const mf_transfer *t, const mf_post *posts) {
    MF_TRY(agree_on_blocks(comm, &t->header, posts));
    for (int i = 0; i < comm->size; i++) {
        int r = (comm->rank + i) % comm->size; /* not all from the same peer at once */
        size_t bytes = mf_block(t->offsets, r), at = posts[r].send_offsets[comm->rank];
        if (bytes) copy((char *)t->recv + t->offsets[r], (const char *)posts[r].send + at, bytes);
    }
    return MF_OK;
}

mf_status mf_local_move(const mf_comm *comm, const mf_transfer *t, const mf_post *posts) {
    const mf_header *h = &t->header;
    switch (h->op) {
    case MF_OP_BROADCAST:
        copy(t->recv, posts[h->root].send, (size_t)h->count);
        return MF_OK;
    case MF_OP_ALLGATHER:
        gather(comm, t, posts);
        return MF_OK;
    case MF_OP_REDUCE:
    case MF_OP_ALLREDUCE:
        sum_share(comm, h, posts);
        return MF_OK;
    case MF_OP_SHIFT:
        copy(t->recv, posts[(comm->rank + 1) % comm->size].send, h->recv_bytes);
        return MF_OK;
    case MF_OP_REDUCE_SCATTER:
        sum_own_part(comm, t, posts);
        return MF_OK;
    case MF_OP_ALLTOALL:
        return alltoall(comm, t, posts);
    default:
        return MF_OK;
    }
}
