/* clock.c: the time, by the machine's clock or by one that its thread moves itself. */
#include "meshfold/base.h"

#include <time.h>

static _Thread_local struct {
    bool held;
    double now_s;
} own;

double mf_now_s(void) {
    struct timespec t;
    if (own.held) return own.now_s;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void mf_clock_hold(void) {
    own.held = true;
    own.now_s = 0;
}

void mf_clock_release(void) { own.held = false; }

void mf_clock_advance(double seconds) {
    if (own.held && seconds > 0) own.now_s += seconds;
}
