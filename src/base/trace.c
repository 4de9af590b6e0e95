/* trace.c: the spans that a thread collects. */
#include "meshfold/base.h"

#include <stdio.h>
#include <string.h>

static _Thread_local mf_trace *held;

void mf_trace_hold(mf_trace *trace) { held = trace; }
void mf_trace_release(void) { held = NULL; }
bool mf_trace_held(void) { return held != NULL; }

static bool grow(mf_trace *t) {
    mf_span *larger = NULL;
    int64_t room = t->room ? 2 * t->room : 1024;
    mf_error before = *mf_error_last();
    if (mf_host_alloc((size_t)room, sizeof *larger, &larger)) {
        mf_error_adopt(&before); /* a trace is not what a run fails for */
        return false;
    }
    if (t->count) memcpy(larger, t->span, (size_t)t->count * sizeof *larger);
    mf_host_free(t->span);
    t->span = larger;
    t->room = room;
    return true;
}

void mf_trace_add(const char *lane, const char *name, double begin_s, double end_s, double bytes) {
    mf_trace *t = held;
    if (!t) return;
    if (t->count == t->room && !grow(t)) {
        t->lost++;
        return;
    }
    mf_span *span = &t->span[t->count++];
    *span = (mf_span){.name = name, .begin_s = begin_s, .end_s = end_s, .bytes = bytes};
    snprintf(span->lane, sizeof span->lane, "%s", lane);
}

void mf_trace_free(mf_trace *trace) {
    mf_host_free(trace->span);
    *trace = (mf_trace){0};
}
