/* local_meeting.c: gates and meetings of threads; see local_meeting.h. */
#include "comm/local_meeting.h"

#include <errno.h>
#include <time.h>

enum { LOOKS = 64 };
static const double spin_s = 20e-6;

mf_status mf_gate_init(mf_gate *g, bool spin) {
    pthread_condattr_t monotonic;
    g->spin = spin;
    if (pthread_condattr_init(&monotonic)) return MF_FAIL(MF_ENOMEM, "no condition variable");
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    int error = pthread_cond_init(&g->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (error) return MF_FAIL(MF_ENOMEM, "no condition variable");
    pthread_mutex_init(&g->lock, NULL);
    return MF_OK;
}

void mf_gate_destroy(mf_gate *g) {
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
}

void mf_gate_wake(mf_gate *g) {
    pthread_mutex_lock(&g->lock);
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

/* The word was stored before sleepers is read, and sleepers is raised before the word is read again: both
 * sequentially consistent, so one of the two sides sees the other. */
void mf_gate_notice(mf_gate *g) {
    if (atomic_load(&g->sleepers)) mf_gate_wake(g);
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static bool spin_until(const atomic_uint_least64_t *word, uint64_t target) {
    double end = mf_now_s() + spin_s;
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (atomic_load(word) >= target) return true;
            relax();
        }
    } while (mf_now_s() < end);
    return false;
}

static struct timespec deadline_after(double seconds) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    /* A year is as good as any longer time, and can't overflow. */
    double bounded = seconds < 3e7 ? seconds : 3e7;
    t.tv_sec += (time_t)bounded;
    t.tv_nsec += (long)((bounded - (double)(time_t)bounded) * 1e9);
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

mf_status mf_gate_wait(mf_gate *g, const mf_world *world, const atomic_uint_least64_t *word,
                       uint64_t target) {
    if (atomic_load(word) >= target || (g->spin && spin_until(word, target))) return MF_OK;
    struct timespec deadline = deadline_after(world->timeout_s);
    int late = 0;
    pthread_mutex_lock(&g->lock);
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(word) < target && !mf_world_failed(world) && late != ETIMEDOUT)
        late = pthread_cond_timedwait(&g->changed, &g->lock, &deadline);
    atomic_fetch_sub(&g->sleepers, 1);
    pthread_mutex_unlock(&g->lock);
    if (atomic_load(word) >= target) return MF_OK;
    return mf_world_failed(world) ? MF_ECOMM : MF_ETIMEOUT;
}

/* Returns the state from which on the meeting that this member joined is complete. */
static uint64_t join(mf_meeting *m, int size) {
    uint64_t seen = atomic_load(&m->state), complete, next;
    do {
        bool last = (seen & MF_MEETING_MOST) + 1 == (uint64_t)size;
        complete = ((seen >> MF_MEETING_BITS) + 1) << MF_MEETING_BITS;
        next = last ? complete : seen + 1;
    } while (!atomic_compare_exchange_weak(&m->state, &seen, next));
    if (next == complete) mf_gate_notice(&m->gate);
    return complete;
}

/* False when the meeting completed before this member could leave. */
static bool leave(mf_meeting *m, uint64_t complete) {
    uint64_t seen = atomic_load(&m->state);
    while (seen < complete)
        if (atomic_compare_exchange_weak(&m->state, &seen, seen - 1)) return true;
    return false;
}

mf_status mf_meeting_enter(mf_meeting *m, const mf_world *world, int size) {
    uint64_t complete = join(m, size);
    mf_status status = mf_gate_wait(&m->gate, world, &m->state, complete);
    return status && leave(m, complete) ? status : MF_OK;
}

void mf_meeting_complete(mf_meeting *m, int size) {
    mf_gate *g = &m->gate;
    uint64_t complete = join(m, size);
    if (g->spin && spin_until(&m->state, complete)) return;
    pthread_mutex_lock(&g->lock);
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&m->state) < complete) pthread_cond_wait(&g->changed, &g->lock);
    atomic_fetch_sub(&g->sleepers, 1);
    pthread_mutex_unlock(&g->lock);
}
