/* local_meeting.h: where ranks that are threads wait for each other. */
#ifndef MF_COMM_LOCAL_MEETING_H
#define MF_COMM_LOCAL_MEETING_H

#include "comm/ops.h"

/* Where threads sleep until a word has grown. Wakers take the lock only when somebody sleeps. */
typedef struct mf_gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_int sleepers;
    bool spin; /* every rank has a core: look for a moment before sleeping */
} mf_gate;

mf_status mf_gate_init(mf_gate *gate, bool spin);
void mf_gate_destroy(mf_gate *gate);
/* Wakes all, so that they look whether the world has failed. */
void mf_gate_wake(mf_gate *gate);
/* Called after a word has grown, stored sequentially consistent. */
void mf_gate_notice(mf_gate *gate);
/* Until *word >= target: MF_OK. Else MF_ECOMM, the world has failed, or MF_ETIMEOUT; neither is put into
 * words. */
mf_status mf_gate_wait(mf_gate *gate, const mf_world *world, const atomic_uint_least64_t *word,
                       uint64_t target);

enum { MF_MEETING_BITS = 16, MF_MEETING_MOST = (1 << MF_MEETING_BITS) - 1 };

typedef struct mf_meeting {
    mf_gate gate;
    atomic_uint_least64_t state; /* meetings completed << MF_MEETING_BITS | members in the one that is not */
} mf_meeting;

/* Waits for all `size` members, or leaves with what mf_gate_wait returns; then nobody completes this meeting.
 */
mf_status mf_meeting_enter(mf_meeting *meeting, const mf_world *world, int size);
/* The same for members who are all sure to come: neither an error nor a clock ends it. */
void mf_meeting_complete(mf_meeting *meeting, int size);

#endif
