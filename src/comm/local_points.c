/* local_points.c: events recorded by members and followed by their peers; see local_points.h. */
#include "comm/local_points.h"

static mf_status create(mf_device *device, mf_event **event) {
    return *event ? MF_OK : mf_event_create(device, event);
}

mf_status mf_points_open(mf_points *p, mf_device *device) {
    if (!device) return MF_OK;
    for (int i = 0; i < 2; i++) MF_TRY(create(device, &p->ready[i]));
    for (int i = 0; i < MF_LANES; i++) MF_TRY(create(device, &p->done[i]));
    p->device = device;
    return MF_OK;
}

void mf_points_close(mf_points *p) {
    for (int i = 0; i < 2; i++) mf_event_destroy(p->ready[i]);
    for (int i = 0; i < MF_LANES; i++) mf_event_destroy(p->done[i]);
    for (int slot = 0; slot < MF_SIGNALS; slot++)
        for (int i = 0; i < MF_POINTS_KEPT; i++) mf_event_destroy(p->signal[slot][i].event);
}

mf_status mf_points_ready(mf_points *own, const mf_transfer *t, const mf_event **out) {
    *out = NULL;
    if (!own->device || !t->queued) return MF_OK;
    mf_event *ready = t->ready ? t->ready : own->ready[t->header.sequence & 1];
    if (!t->ready) MF_TRY(mf_event_record(own->device, MF_QUEUE_COMPUTE, ready));
    *out = ready;
    return MF_OK;
}

mf_status mf_points_follow_ready(const mf_comm *comm, int lane, const mf_header *h, const mf_post *posts) {
    for (int r = 0; r < comm->size; r++) {
        if (r == comm->rank || !posts[r].ready || !mf_local_uses(comm, h, comm->rank, r)) continue;
        MF_TRY(mf_event_follow(comm->world->device, mf_lane_queue(lane), posts[r].ready));
    }
    return MF_OK;
}

static mf_status after_waiting(mf_device *device, int lane, mf_status status) {
    mf_error first = *mf_error_last();
    mf_device_finish(device, mf_lane_queue(lane));
    mf_error_adopt(&first);
    return status;
}

mf_status mf_points_done(mf_points *own, int lane) {
    if (!own->device) return MF_OK;
    mf_status status = mf_event_record(own->device, mf_lane_queue(lane), own->done[lane]);
    return status ? after_waiting(own->device, lane, status) : MF_OK;
}

/* An error is returned, and the event waited for. */
static mf_status follow_or_wait(mf_device *device, int lane, const mf_event *event) {
    mf_status status = mf_event_follow(device, mf_lane_queue(lane), event);
    if (!status) return MF_OK;
    mf_error first = *mf_error_last();
    mf_event_wait(event);
    return mf_error_adopt(&first);
}

mf_status mf_points_follow_done(const mf_comm *comm, int lane, const mf_header *h, const mf_points *points) {
    mf_status status = MF_OK;
    for (int r = 0; r < comm->size; r++) {
        if (r == comm->rank || !points[r].device || !mf_local_uses(comm, h, r, comm->rank)) continue;
        mf_status next = follow_or_wait(comm->world->device, lane, points[r].done[lane]);
        if (!status) status = next;
    }
    return status;
}

mf_status mf_points_signal(mf_points *own, int slot, uint64_t value) {
    if (!own->device) return MF_OK;
    mf_signal_point *point = &own->signal[slot][own->signals[slot]++ % MF_POINTS_KEPT];
    MF_TRY(create(own->device, &point->event));
    MF_TRY(mf_event_record(own->device, MF_QUEUE_COMPUTE, point->event));
    atomic_store(&point->value, value);
    return MF_OK;
}

/* The first that stands for the value: the peer may have come further. */
static const mf_event *point_for(const mf_points *peer, int slot, uint64_t value) {
    const mf_event *first = NULL;
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < MF_POINTS_KEPT; i++) {
        uint64_t stands_for = atomic_load(&peer->signal[slot][i].value);
        if (stands_for < value || stands_for >= least) continue;
        least = stands_for;
        first = peer->signal[slot][i].event;
    }
    return first;
}

mf_status mf_points_await(const mf_points *own, const mf_points *peer, int slot, uint64_t value) {
    if (own == peer || !own->device || !peer->device || value == 0) return MF_OK;
    const mf_event *event = point_for(peer, slot, value);
    return event ? mf_event_follow(own->device, MF_QUEUE_COMPUTE, event) : MF_OK;
}
