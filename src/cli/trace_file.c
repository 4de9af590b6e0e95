/* trace_file.c: the trace event format,
 * https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU: metadata that names the
 * lanes, then a complete event ("X") for each span, in microseconds. */
#include "cli/trace_file.h"

#include "io/json_file.h"

#include <jansson.h>
#include <string.h>

enum { LANES = 32 };

typedef struct lanes {
    const char *name[LANES];
    int count;
} lanes;

/* More lanes than there is room for share the last. */
static int lane_of(lanes *l, const char *name) {
    for (int i = 0; i < l->count; i++)
        if (strcmp(l->name[i], name) == 0) return i;
    if (l->count < LANES) l->name[l->count++] = name;
    return l->count - 1;
}

static json_t *metadata(const char *what, int lane, const char *name) {
    return json_pack("{s:s, s:s, s:i, s:i, s:{s:s}}", "name", what, "ph", "M", "pid", 0, "tid", lane, "args",
                     "name", name);
}

static json_t *event(const mf_span *span, int lane, double start_s) {
    json_t *out =
        json_pack("{s:s, s:s, s:i, s:i, s:f, s:f}", "name", span->name, "ph", "X", "pid", 0, "tid", lane,
                  "ts", 1e6 * (span->begin_s - start_s), "dur", 1e6 * (span->end_s - span->begin_s));
    if (span->bytes > 0) json_object_set_new(out, "args", json_pack("{s:f}", "bytes", span->bytes));
    return out;
}

static double start_of(const mf_trace *trace) {
    double start = trace->count ? trace->span[0].begin_s : 0;
    for (int64_t i = 1; i < trace->count; i++)
        if (trace->span[i].begin_s < start) start = trace->span[i].begin_s;
    return start;
}

mf_status mf_trace_write(const mf_trace *trace, const char *name, const char *path) {
    lanes known = {.name = {"compute"}, .count = 1};
    double start = start_of(trace);
    json_t *events = json_array();
    json_array_append_new(events, metadata("process_name", 0, name));
    for (int64_t i = 0; i < trace->count; i++)
        json_array_append_new(events, event(&trace->span[i], lane_of(&known, trace->span[i].lane), start));
    for (int i = 0; i < known.count; i++)
        json_array_append_new(events, metadata("thread_name", i, known.name[i]));
    json_t *all = json_pack("{s:o, s:s}", "traceEvents", events, "displayTimeUnit", "ms");
    mf_status status = trace->lost ? MF_FAIL(MF_ENOMEM, "%s: no memory for the trace", path)
                                   : mf_json_write(path, all, JSON_COMPACT | JSON_REAL_PRECISION(12));
    json_decref(all);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}
