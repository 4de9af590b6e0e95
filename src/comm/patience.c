/* patience.c: what a rank does between two looks at something that another rank has to bring about. */
#include "comm/ops.h"

#include <sched.h>
#include <unistd.h>

/* Machines may have fewer cores than ranks: looks often at first, then lets others run, then sleeps. */
mf_status mf_patience(mf_world *world, mf_wait *wait) {
    if (mf_world_failed(world)) return mf_world_fail(world);
    if (wait->polls++ < 50) return MF_OK;
    double now = mf_now_s();
    if (wait->polls == 51) wait->start = now;
    double waited = now - wait->start;
    if (waited > world->timeout_s) return MF_ETIMEOUT;
    if (waited < 200e-6)
        sched_yield();
    else
        usleep(waited < 10e-3 ? 20 : 100);
    return MF_OK;
}
