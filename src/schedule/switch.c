/* switch.c: a cut that moves from one dimension to another. The tensor is seen as five dimensions,
 *
 *     [outer, first, between, second, inner]
 *
 * of which `first` and `second` are those that are cut before and after, in the order in which they stand.
 * The block from rank r to rank s is r's share of the one by s's share of the other. A gather is a switch to
 * a dimension that every rank has whole. */
#include "meshfold/cut.h"
#include "schedule/kinds.h"

typedef struct view {
    int64_t outer, first, between, second, inner; /* inner: bytes */
    bool falls; /* from is `second`: the cut moves to an earlier dimension */
} view;

/* Some of a dimension. */
typedef struct part {
    int64_t begin, count;
} part;

static int ranks_of(const mf_cut *c) { return mf_comm_size(c->comm); }

static part share_of(const mf_cut *c, int dim, int rank) {
    int64_t begin = mf_share_begin(c->size[dim], ranks_of(c), rank);
    return (part){begin, mf_share_begin(c->size[dim], ranks_of(c), rank + 1) - begin};
}

/* Elements of dimensions first .. end - 1 together. */
static int64_t span(const mf_cut *c, int first, int end) {
    int64_t n = 1;
    for (int i = first; i < end; i++) n *= c->size[i];
    return n;
}

size_t mf_cut_bytes(const mf_cut *c, int dim, int rank) {
    int64_t n = span(c, 0, c->dims);
    if (dim >= 0) n = span(c, 0, dim) * share_of(c, dim, rank).count * span(c, dim + 1, c->dims);
    return (size_t)n * c->element;
}

mf_status mf_cut_check(const mf_cut *c, int dim) {
    bool wrong = c->dims < 1 || c->dims > MF_CUT_DIMS || c->element == 0;
    for (int i = 0; i < c->dims && !wrong; i++) wrong = c->size[i] < 0;
    if (wrong) return MF_FAIL(MF_EINVAL, "a cut of a tensor of %d dimensions with impossible sizes", c->dims);
    if (dim >= 0 && dim < c->dims) return MF_OK;
    return MF_FAIL(MF_EINVAL, "dimension %d of a tensor that has %d", dim, c->dims);
}

/* `to` -1: beside `from` a dimension of one, which nobody cuts. */
static view view_of(const mf_cut *c, int from, int to) {
    int low = from < to ? from : to, high = from < to ? to : from;
    if (to < 0)
        return (view){.outer = span(c, 0, from),
                      .first = c->size[from],
                      .between = 1,
                      .second = 1,
                      .inner = span(c, from + 1, c->dims) * (int64_t)c->element};
    return (view){.outer = span(c, 0, low),
                  .first = c->size[low],
                  .between = span(c, low + 1, high),
                  .second = c->size[high],
                  .inner = span(c, high + 1, c->dims) * (int64_t)c->element,
                  .falls = to < from};
}

/* A block's place in a tensor: which of first and second there are in it, and which of these are the block's.
 */
typedef struct place {
    char *data;
    int64_t first, second; /* that the tensor has */
    part of_first, of_second;
} place;

static char *at(const view *v, const place *p, int64_t outer, int64_t first) {
    int64_t row =
        (outer * p->first + p->of_first.begin + first) * v->between * p->second + p->of_second.begin;
    return p->data ? p->data + row * v->inner : NULL;
}

/* Equal blocks. Where all of `second` is meant on both sides rows are whole stretches of `first`. */
static mf_status copy(const mf_cut *c, const view *v, const place *to, const place *from) {
    int64_t rows = from->of_first.count * v->between, width = from->of_second.count * v->inner;
    if (rows == 0 || width == 0) return MF_OK;
    for (int64_t o = 0; o < v->outer; o++)
        MF_TRY(mf_copy_rows(c->device, rows, (size_t)width, at(v, to, o, 0), (size_t)(to->second * v->inner),
                            at(v, from, o, 0), (size_t)(from->second * v->inner)));
    return MF_OK;
}

static part all_of(int64_t n) { return (part){0, n}; }

/* What moves from rank `sender` to rank `receiver`. */
typedef struct move {
    const mf_cut *cut;
    view v;
    int from, to;
} move;

static part receiver_part(const move *m, int receiver) {
    return m->to < 0 ? all_of(1) : share_of(m->cut, m->to, receiver);
}

static part of_first(const move *m, int sender, int receiver) {
    return m->v.falls ? receiver_part(m, receiver) : share_of(m->cut, m->from, sender);
}

static part of_second(const move *m, int sender, int receiver) {
    return m->v.falls ? share_of(m->cut, m->from, sender) : receiver_part(m, receiver);
}

/* Where the block lies in the sender's tensor: its own dimension has the sender's share alone. */
static place at_sender(const move *m, const void *data, int sender, int receiver) {
    union {
        const void *in;
        char *out;
    } d = {data}; /* only read */
    place p = {d.out, m->v.first, m->v.second, of_first(m, sender, receiver), of_second(m, sender, receiver)};
    part *own = m->v.falls ? &p.of_second : &p.of_first;
    *(m->v.falls ? &p.second : &p.first) = own->count;
    own->begin = 0;
    return p;
}

static place at_receiver(const move *m, void *data, int sender, int receiver) {
    place p = {data, m->v.first, m->v.second, of_first(m, sender, receiver), of_second(m, sender, receiver)};
    part *own = m->v.falls ? &p.of_first : &p.of_second;
    *(m->v.falls ? &p.first : &p.second) = own->count;
    own->begin = 0;
    return p;
}

/* The block by itself. */
static place packed(const move *m, void *data, int sender, int receiver) {
    part first = of_first(m, sender, receiver), second = of_second(m, sender, receiver);
    return (place){data, first.count, second.count, all_of(first.count), all_of(second.count)};
}

static size_t block_bytes(const move *m, int sender, int receiver) {
    return (size_t)(m->v.outer * of_first(m, sender, receiver).count * m->v.between *
                    of_second(m, sender, receiver).count * m->v.inner);
}

static mf_comm_op op_of(const move *m) { return m->to < 0 ? MF_OP_ALLGATHER : MF_OP_ALLTOALL; }

/* Borrowed: each rank's block is read where it lies, once its owner says that it is written. */
static mf_status fetch(const move *m, const mf_shared *in, void *out) {
    mf_comm *comm = m->cut->comm;
    int own = mf_comm_rank(comm);
    uint64_t turn = mf_signalled(comm, MF_SIGNAL_CUT_READY) + 1;
    MF_TRY(mf_signal(comm, MF_SIGNAL_CUT_READY, turn));
    for (int i = 0; i < ranks_of(m->cut); i++) {
        int sender = (own + i) % ranks_of(m->cut);
        if (sender != own) MF_TRY(mf_await(comm, sender, MF_SIGNAL_CUT_READY, turn));
        place to = at_receiver(m, out, sender, own), from = at_sender(m, in->peer[sender], sender, own);
        MF_TRY(copy(m->cut, &m->v, &to, &from));
        if (sender != own) mf_count_borrowed(comm, op_of(m), (int64_t)block_bytes(m, sender, own));
    }
    return mf_signal(comm, MF_SIGNAL_CUT_READ, turn);
}

/* Sent: blocks by rank, each packed. */
typedef struct parcel {
    mf_buffer out, in;
    size_t *out_at, *in_at; /* [ranks + 1] */
} parcel;

static mf_status parcel_open(const move *m, parcel *p) {
    mf_memory *memory = mf_device_memory(m->cut->device);
    int ranks = ranks_of(m->cut), own = mf_comm_rank(m->cut->comm);
    MF_TRY(mf_host_alloc((size_t)ranks + 1, sizeof *p->out_at, &p->out_at));
    MF_TRY(mf_host_alloc((size_t)ranks + 1, sizeof *p->in_at, &p->in_at));
    for (int r = 0; r < ranks; r++) {
        p->out_at[r + 1] = p->out_at[r] + block_bytes(m, own, r);
        p->in_at[r + 1] = p->in_at[r] + block_bytes(m, r, own);
    }
    /* Everyone gets the same of a gather: it is sent as it lies. */
    if (m->to >= 0)
        MF_TRY(mf_buffer_alloc(memory, MF_EXCHANGE, p->out_at[ranks], "blocks of a tensor to send", &p->out));
    return mf_buffer_alloc(memory, MF_EXCHANGE, p->in_at[ranks], "blocks of a tensor", &p->in);
}

static void parcel_close(const move *m, parcel *p) {
    mf_memory *memory = mf_device_memory(m->cut->device);
    mf_buffer_free(memory, &p->out);
    mf_buffer_free(memory, &p->in);
    mf_host_free(p->out_at);
    mf_host_free(p->in_at);
}

static mf_status exchange(const move *m, parcel *p, const mf_shared *in) {
    int own = mf_comm_rank(m->cut->comm);
    if (m->to < 0) return mf_allgather(m->cut->comm, in->own, p->in.data, p->in_at, NULL);
    for (int r = 0; r < ranks_of(m->cut); r++) {
        place to = packed(m, p->out.data, own, r), from = at_sender(m, in->own, own, r);
        if (to.data) to.data += p->out_at[r];
        MF_TRY(copy(m->cut, &m->v, &to, &from));
    }
    return mf_alltoall(m->cut->comm, p->out.data, p->out_at, p->in.data, p->in_at, NULL);
}

static mf_status send(const move *m, const mf_shared *in, void *out) {
    mf_status status = MF_OK;
    int own = mf_comm_rank(m->cut->comm);
    parcel p = {0};
    MF_GO(parcel_open(m, &p));
    MF_GO(exchange(m, &p, in));
    for (int r = 0; r < ranks_of(m->cut); r++) {
        place to = at_receiver(m, out, r, own), from = packed(m, p.in.data, r, own);
        if (from.data) from.data += p.in_at[r];
        MF_GO(copy(m->cut, &m->v, &to, &from));
    }
fail:
    parcel_close(m, &p);
    return status;
}

static mf_status whole_copy(const mf_cut *c, int dim, const void *in, void *out) {
    size_t bytes = mf_cut_bytes(c, dim, mf_comm_rank(c->comm));
    return bytes ? mf_copy_rows(c->device, 1, bytes, out, bytes, in, bytes) : MF_OK;
}

static mf_status go(const mf_cut *c, int from, int to, const mf_shared *in, void *out) {
    move m = {.cut = c, .v = view_of(c, from, to), .from = from, .to = to};
    if (ranks_of(c) == 1 || from == to) return whole_copy(c, from, in->own, out);
    return mf_comm_borrows(c->comm) ? fetch(&m, in, out) : send(&m, in, out);
}

mf_status mf_cut_split(const mf_cut *c, int dim, const void *whole, void *own) {
    MF_TRY(mf_cut_check(c, dim));
    int rank = mf_comm_rank(c->comm);
    move m = {.cut = c, .v = view_of(c, dim, -1), .from = dim, .to = -1};
    union {
        const void *in;
        char *out;
    } w = {whole}; /* only read */
    place from = at_receiver(&m, w.out, rank, rank), to = at_sender(&m, own, rank, rank);
    return copy(c, &m.v, &to, &from);
}

mf_status mf_cut_gather(const mf_cut *c, int dim, const mf_shared *own, void *whole) {
    MF_TRY(mf_cut_check(c, dim));
    return go(c, dim, -1, own, whole);
}

mf_status mf_cut_switch(const mf_cut *c, int from, int to, const mf_shared *in, void *out) {
    MF_TRY(mf_cut_check(c, from));
    MF_TRY(mf_cut_check(c, to));
    return go(c, from, to, in, out);
}

mf_status mf_cut_settle(const mf_cut *c) {
    if (ranks_of(c) == 1 || !mf_comm_borrows(c->comm)) return MF_OK;
    for (int r = 0; r < ranks_of(c); r++)
        if (r != mf_comm_rank(c->comm))
            MF_TRY(mf_await(c->comm, r, MF_SIGNAL_CUT_READ, mf_signalled(c->comm, MF_SIGNAL_CUT_READY)));
    return MF_OK;
}
