/* agree.c: what the members of a group must agree on, and how it is said when they differ or do not come. */
#include "comm/ops.h"

#include <stdio.h>
#include <string.h>

enum { TEXT = 128 };

static const char *const op_names[MF_OP_KINDS] = {
    "barrier",  "broadcast", "allgather",         "reduce",  "allreduce", "shift", "reduce_scatter",
    "alltoall", "signal",    "shared allocation", "creation"};

const char *mf_op_name(int op) { return op >= 0 && op < MF_OP_KINDS ? op_names[op] : "unknown operation"; }

static const char *unit_of(const mf_header *h) {
    switch (h->element_bytes) {
    case 1:
        return "bytes";
    case 2:
        return "bf16";
    case 4:
        return "f32";
    default:
        return "f64";
    }
}

static const char *describe(const mf_header *h, char text[TEXT]) {
    const char *name = mf_op_name(h->op), *unit = unit_of(h);
    if (h->op == MF_OP_BROADCAST || h->op == MF_OP_REDUCE)
        snprintf(text, TEXT, "%s of %lld %s with root %d", name, (long long)h->count, unit, (int)h->root);
    else if (h->op == MF_OP_ALLGATHER || h->op == MF_OP_ALLREDUCE || h->op == MF_OP_REDUCE_SCATTER)
        snprintf(text, TEXT, "%s of %lld %s", name, (long long)h->count, unit);
    else
        snprintf(text, TEXT, "%s", name);
    return text;
}

static bool same(const mf_header *a, const mf_header *b) {
    return a->sequence == b->sequence && a->op == b->op && a->root == b->root &&
           a->element_bytes == b->element_bytes && a->count == b->count && a->layout == b->layout;
}

static mf_status refuse(const mf_comm *comm, const mf_header *headers, int a, int b) {
    char first[TEXT], second[TEXT];
    const mf_header *x = &headers[a], *y = &headers[b];
    bool only_offsets = x->op == y->op && x->element_bytes == y->element_bytes && x->count == y->count &&
                        x->layout != y->layout;
    return MF_FAIL(MF_ECOMM, "axis %s, operation %llu: rank %d called %s, rank %d called %s%s", comm->axis,
                   (unsigned long long)x->sequence, comm->ranks[a], describe(x, first), comm->ranks[b],
                   describe(y, second), only_offsets ? " with other offsets" : "");
}

static mf_status agree_on_hops(const mf_comm *comm, const mf_header *headers) {
    for (int r = 0; r < comm->size; r++) {
        int from = (r + 1) % comm->size;
        if (headers[r].recv_bytes != headers[from].send_bytes)
            return MF_FAIL(MF_ECOMM,
                           "axis %s, operation %llu: shift: rank %d sends %llu bytes, rank %d expects %llu",
                           comm->axis, (unsigned long long)headers[r].sequence, comm->ranks[from],
                           (unsigned long long)headers[from].send_bytes, comm->ranks[r],
                           (unsigned long long)headers[r].recv_bytes);
    }
    return MF_OK;
}

static mf_status refuse_places(const mf_comm *comm, const mf_header *headers, int host, int device) {
    return MF_FAIL(MF_ECOMM,
                   "axis %s, operation %llu: %s in the host's memory on rank %d, in a GPU's on rank %d",
                   comm->axis, (unsigned long long)headers[0].sequence, mf_op_name(headers[0].op),
                   comm->ranks[host], comm->ranks[device]);
}

static mf_status agree_on_place(const mf_comm *comm, const mf_header *headers) {
    int last[] = {[MF_PLACE_NONE] = -1, [MF_PLACE_HOST] = -1, [MF_PLACE_DEVICE] = -1};
    for (int r = 0; r < comm->size; r++) last[headers[r].place] = r;
    if (last[MF_PLACE_HOST] < 0 || last[MF_PLACE_DEVICE] < 0) return MF_OK;
    return refuse_places(comm, headers, last[MF_PLACE_HOST], last[MF_PLACE_DEVICE]);
}

/* Every member sees the same headers and so comes to the same verdict. */
mf_status mf_agree(const mf_comm *comm, const mf_header *headers) {
    for (int r = 1; r < comm->size; r++)
        if (!same(&headers[0], &headers[r])) return refuse(comm, headers, 0, r);
    MF_TRY(agree_on_place(comm, headers));
    return headers[0].op == MF_OP_SHIFT ? agree_on_hops(comm, headers) : MF_OK;
}

mf_status mf_agree_on_block(const mf_comm *comm, uint64_t sequence, int from, uint64_t sent, int to,
                            uint64_t expected) {
    if (sent == expected) return MF_OK;
    return MF_FAIL(
        MF_ECOMM,
        "axis %s, operation %llu: alltoall: rank %d sends %llu bytes to rank %d, which expects %llu",
        comm->axis, (unsigned long long)sequence, comm->ranks[from], (unsigned long long)sent,
        comm->ranks[to], (unsigned long long)expected);
}

mf_status mf_late(const mf_comm *comm, const mf_header *header,
                  bool (*missing)(const void *context, int member), const void *context) {
    char names[TEXT] = "", what[TEXT];
    size_t used = 0;
    for (int r = 0; missing && r < comm->size && used < sizeof names - 16; r++) {
        if (r == comm->rank || !missing(context, r)) continue;
        used +=
            (size_t)snprintf(names + used, sizeof names - used, used ? ", %d" : "rank %d", comm->ranks[r]);
    }
    return MF_FAIL(MF_ETIMEOUT, "axis %s, operation %llu: rank %d waited %g s for %s in %s", comm->axis,
                   (unsigned long long)header->sequence, comm->ranks[comm->rank], comm->world->timeout_s,
                   used ? names : "its peers", describe(header, what));
}

mf_status mf_late_signal(const mf_comm *comm, int peer, int slot, uint64_t value, uint64_t reached) {
    return MF_FAIL(MF_ETIMEOUT,
                   "axis %s: rank %d waited %g s for rank %d to signal %llu in slot %d; it stands at %llu",
                   comm->axis, comm->ranks[comm->rank], comm->world->timeout_s, comm->ranks[peer],
                   (unsigned long long)value, slot, (unsigned long long)reached);
}
