/* local_points.h: the points in its members' queues by which a group of threads orders the use of device
 * memory.
 *
 * Why no queue waits for ever: a queue is only ever made to follow a point that has been recorded already,
 * and a point stands for what was asked of its queue before. So whatever a queue waits for was asked for
 * earlier than the wait itself, and no circle closes, however far the threads have run ahead. An event that
 * is recorded anew before somebody followed it makes that one wait for more than it needs, which is still
 * earlier; it costs time only.
 *
 * That does not happen in transfers. `ready` is recorded before the meeting that opens an operation and
 * followed before the member comes to the next one, so that two of them, for odd and even operations,
 * suffice, as they do for headers; a request brings its own, which is its slot's, and the slot is free only
 * after the meeting that ends it. `done` is recorded after an operation's first meeting, where all members
 * have left the operation before. */
#ifndef MF_COMM_LOCAL_POINTS_H
#define MF_COMM_LOCAL_POINTS_H

#include "comm/local_move.h"

/* Of a counter's values, those that can still be followed without waiting for later ones. */
enum { MF_POINTS_KEPT = 4 };

typedef struct mf_signal_point {
    mf_event *event;
    atomic_uint_least64_t value; /* that it stands for; 0: none */
} mf_signal_point;

/* One member's. Its peers follow its events as long as the group lives. */
typedef struct mf_points {
    mf_device *device; /* NULL: all memory is the host's, and nothing here does anything */
    bool gone;         /* the member has left, and its device may have ended */
    mf_event *ready[2];
    mf_event *done[MF_LANES];
    mf_signal_point signal[MF_SIGNALS][MF_POINTS_KEPT];
    unsigned signals[MF_SIGNALS]; /* so far */
} mf_points;

/* device: NULL is allowed. */
mf_status mf_points_open(mf_points *points, mf_device *device);
void mf_points_close(mf_points *points);

/* Before the first meeting. *out: what this member posts, NULL where nothing is queued. */
mf_status mf_points_ready(mf_points *own, const mf_transfer *transfer, const mf_event **out);
/* After it: the lane's queue follows the peers whose memory this member uses; all of them in a barrier. */
mf_status mf_points_follow_ready(const mf_comm *comm, int lane, const mf_header *header,
                                 const mf_post *posts);
/* Before the second meeting: as much of this member's part as will be has been asked for. When it returns an
 * error that has been done too. */
mf_status mf_points_done(mf_points *own, int lane);
/* After it: the lane's queue follows the peers that use this member's memory. When it returns an error the
 * host has waited for them. points: [size] */
mf_status mf_points_follow_done(const mf_comm *comm, int lane, const mf_header *header,
                                const mf_points *points);

/* Before the value is published, and after it was seen. */
mf_status mf_points_signal(mf_points *own, int slot, uint64_t value);
mf_status mf_points_await(const mf_points *own, const mf_points *peer, int slot, uint64_t value);

#endif
