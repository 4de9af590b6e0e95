/* shared.c: memory that a group's members address in each other, accounted, and the signals that order its
 * use. */
#include "comm/ops.h"

static mf_status shared_own(mf_comm *comm, mf_memory *memory, const char *what, mf_shared *out) {
    mf_buffer buffer = {0};
    MF_TRY(mf_buffer_alloc(memory, out->category, out->bytes, what, &buffer));
    out->own = out->peer[comm->rank] = buffer.data;
    return MF_OK;
}

static mf_status shared_peers(mf_comm *comm, mf_memory *memory, const char *what, mf_shared *out) {
    mf_header header = {.op = MF_OP_SHARED, .element_bytes = 1, .sequence = ++comm->sequence[MF_LANE_MAIN]};
    size_t bytes = mf_shared_accounted(out->bytes);
    mf_status ready = mf_memory_account(memory, out->category, bytes, what);
    const mf_memory_source *source = mf_memory_source_of(memory);
    mf_status status = comm->world->engine->shared_alloc(comm, &header, ready, source, out);
    if (status && !ready) mf_memory_release(memory, out->category, bytes);
    return status;
}

static mf_status shared_alloc(mf_comm *comm, mf_memory *memory, const char *what, mf_shared *out) {
    MF_TRY(mf_comm_enter(comm->world, MF_OP_SHARED, comm->axis));
    if (out->bytes > SIZE_MAX / 4) return MF_FAIL(MF_ENOMEM, "%zu shared bytes for %s", out->bytes, what);
    MF_TRY(mf_host_alloc((size_t)comm->size, sizeof *out->peer, &out->peer));
    mf_status status = comm->borrows && comm->size > 1 ? shared_peers(comm, memory, what, out)
                                                       : shared_own(comm, memory, what, out);
    if (status) mf_host_free(out->peer);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

mf_status mf_shared_alloc(mf_comm *comm, mf_memory *memory, mf_category category, size_t bytes,
                          const char *what, mf_shared *out) {
    *out = (mf_shared){.bytes = bytes, .most_bytes = out->most_bytes, .category = category};
    if (!shared_alloc(comm, memory, what, out)) return MF_OK;
    *out = (mf_shared){0};
    return mf_comm_give_up(comm->world);
}

void mf_shared_free(mf_comm *comm, mf_memory *memory, mf_shared *shared) {
    if (!shared || !shared->peer) return;
    size_t bytes = mf_shared_accounted(shared->bytes);
    if (shared->handle) {
        comm->world->engine->shared_free(comm, shared);
        mf_memory_release(memory, shared->category, bytes);
    } else {
        mf_buffer_free(memory,
                       &(mf_buffer){.data = shared->own, .bytes = bytes, .category = shared->category});
    }
    mf_host_free(shared->peer);
    *shared = (mf_shared){0};
}

static mf_status check_signal(const mf_comm *comm, int peer, int slot) {
    MF_TRY(mf_comm_enter(comm->world, MF_OP_SIGNAL, comm->axis));
    if (!comm->borrows) return MF_FAIL(MF_EINVAL, "signals on axis %s, which does not borrow", comm->axis);
    if (peer < 0 || peer >= comm->size)
        return MF_FAIL(MF_EINVAL, "signal on axis %s: member %d of %d", comm->axis, peer, comm->size);
    if (slot < 0 || slot >= MF_SIGNALS)
        return MF_FAIL(MF_EINVAL, "signal on axis %s: slot %d of %d", comm->axis, slot, (int)MF_SIGNALS);
    return MF_OK;
}

static mf_status signal_try(mf_comm *comm, int slot, uint64_t value) {
    MF_TRY(check_signal(comm, comm->rank, slot));
    MF_TRY(comm->world->engine->signal(comm, slot, value));
    comm->signalled[slot] = value;
    comm->stats[MF_OP_SIGNAL].calls++;
    return MF_OK;
}

uint64_t mf_signalled(const mf_comm *comm, int slot) { return comm->signalled[slot]; }

mf_status mf_signal(mf_comm *comm, int slot, uint64_t value) {
    return signal_try(comm, slot, value) ? mf_comm_give_up(comm->world) : MF_OK;
}

static mf_status await_try(mf_comm *comm, int peer, int slot, uint64_t value) {
    MF_TRY(check_signal(comm, peer, slot));
    mf_comm_stat *stat = &comm->stats[MF_OP_SIGNAL];
    double start = mf_now_s();
    MF_TRY(comm->world->engine->await(comm, peer, slot, value));
    double elapsed = mf_now_s() - start;
    stat->calls++;
    stat->exposed_s += elapsed;
    stat->total_s += elapsed;
    mf_trace_add(comm->axis, "await", start, start + elapsed, 0);
    return MF_OK;
}

mf_status mf_await(mf_comm *comm, int peer, int slot, uint64_t value) {
    return await_try(comm, peer, slot, value) ? mf_comm_give_up(comm->world) : MF_OK;
}
