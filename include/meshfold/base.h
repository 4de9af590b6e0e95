/* base.h: what every other layer stands on: status and errors, host memory, random numbers, bf16, a worker.
 *
 *     mf_status open_it(const char *path) {
 *         if (!path) return MF_FAIL(MF_EINVAL, "no path given");
 *         MF_TRY(read_header(path));           // passes an error up and adds this line to its trace
 *         return MF_OK;
 *     }
 *     if (open_it(NULL)) fprintf(stderr, "%s\n", mf_error_last()->message);
 *
 * The library never prints and never exits. An error lives in its thread until the next one replaces it. */
#ifndef MESHFOLD_BASE_H
#define MESHFOLD_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MESHFOLD_VERSION "0.1.0"

/* One list: code, text. Names are printed as they stand here. */
#define MF_STATUS_LIST(X)                                                                                    \
    X(MF_OK, "success")                                                                                      \
    X(MF_EINVAL, "invalid argument")                                                                         \
    X(MF_ENOMEM, "out of memory")                                                                            \
    X(MF_EIO, "input or output failed")                                                                      \
    X(MF_EFORMAT, "malformed file")                                                                          \
    X(MF_ECOMM, "communication failed")                                                                      \
    X(MF_ETIMEOUT, "a collective waited too long")                                                           \
    X(MF_EUNSUPPORTED, "not supported")                                                                      \
    X(MF_ENONFINITE, "values are no longer finite")                                                          \
    X(MF_ELIBRARY, "a library call failed")

typedef enum mf_status {
#define MF_STATUS_ENUM(name, text) name,
    MF_STATUS_LIST(MF_STATUS_ENUM)
#undef MF_STATUS_ENUM
} mf_status;

const char *mf_status_name(mf_status status);
const char *mf_status_text(mf_status status);

enum { MF_ERROR_TRACE = 12 };

typedef struct mf_error {
    mf_status status;
    int rank;          /* rank it arose on, -1 outside any rank */
    char message[512]; /* one line */
    struct {
        const char *file;
        int line;
    } trace[MF_ERROR_TRACE]; /* where it arose, then each MF_TRY it passed */
    int depth;
} mf_error;

/* This thread's last error. Points into the thread; do not free. */
const mf_error *mf_error_last(void);
/* Makes `error` this thread's last error (used to hand a failed rank's error to its peers). Returns its
 * status. */
mf_status mf_error_adopt(const mf_error *error);
/* Puts what is to blame (a flag, a file) before the last error's message. status: that error's, or MF_OK. */
mf_status mf_blame(const char *culprit, mf_status status);
/* Names the rank that this thread runs, for errors. -1: none. */
void mf_rank_set(int rank);
int mf_rank_get(void);

#if defined(__GNUC__)
#define MF_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define MF_PRINTF(text, first)
#endif

mf_status mf_fail_at(const char *file, int line, mf_status status, const char *format, ...) MF_PRINTF(4, 5);
mf_status mf_error_pass(const char *file, int line, mf_status status);

#define MF_FAIL(status, ...) mf_fail_at(__FILE__, __LINE__, (status), __VA_ARGS__)
/* Returns from the caller when `call` fails. */
#define MF_TRY(call)                                                                                         \
    do {                                                                                                     \
        mf_status mf_try_ = (call);                                                                          \
        if (mf_try_) return mf_error_pass(__FILE__, __LINE__, mf_try_);                                      \
    } while (0)
/* Jumps to the caller's `fail:` label when `call` fails; the caller's `status` holds the code. */
#define MF_GO(call)                                                                                          \
    do {                                                                                                     \
        if ((status = (call))) {                                                                             \
            mf_error_pass(__FILE__, __LINE__, status);                                                       \
            goto fail;                                                                                       \
        }                                                                                                    \
    } while (0)

/* Fault injection: the n-th event of a kind in this process (from 1) fails; 0 turns it off. Counting
 * restarts. */
typedef enum mf_fault { MF_FAULT_ALLOC, MF_FAULT_COMM, MF_FAULTS } mf_fault;
void mf_fault_arm(mf_fault fault, int64_t n);
/* True when this event is the one that must fail. */
bool mf_fault_hit(mf_fault fault);
/* True when the armed event has come. */
bool mf_fault_fired(mf_fault fault);

/* Zeroed host memory for small structures; tensors come from memory.h. *out is NULL on failure. MF_ENOMEM. */
mf_status mf_host_alloc(size_t count, size_t size, void *out);
void mf_host_free(void *pointer);
mf_status mf_host_strdup(const char *text, char **out);

/* Seconds on a monotonic clock. */
double mf_now_s(void);
/* For what runs dry: this thread's time stands at 0 and moves only by mf_clock_advance, until it is released.
 */
void mf_clock_hold(void);
void mf_clock_release(void);
/* Does nothing where the clock is not held. */
void mf_clock_advance(double seconds);

/* What this thread does, in spans of its time, from hold to release:
 *
 *     mf_trace trace = {0};
 *     mf_trace_hold(&trace);
 *     ... operations and transfers ...
 *     mf_trace_release();
 *     ... trace.span[0 .. trace.count - 1] ...
 *     mf_trace_free(&trace);
 */
enum { MF_LANE_NAME = 28 };
typedef struct mf_span {
    const char *name;        /* of the operation or the collective */
    char lane[MF_LANE_NAME]; /* "compute", or the axis of a transfer */
    double begin_s, end_s;   /* by mf_now_s */
    double bytes;            /* that a transfer sends */
} mf_span;
typedef struct mf_trace {
    mf_span *span;
    int64_t count, room;
    int64_t lost; /* spans for which there was no memory */
} mf_trace;
void mf_trace_hold(mf_trace *trace);
void mf_trace_release(void);
bool mf_trace_held(void);
/* name must outlive the trace; does nothing where none is held. */
void mf_trace_add(const char *lane, const char *name, double begin_s, double end_s, double bytes);
void mf_trace_free(mf_trace *trace);

/* Counter-based random numbers (Philox 4x32-10; Salmon et al., SC 2011): the value at `index` of the sequence
 * named by (seed, key) depends on nothing else, so any rank can make any slice. */
uint64_t mf_random_key(const char *name);                            /* 64-bit FNV-1a */
uint64_t mf_random_u64(uint64_t seed, uint64_t key, uint64_t index); /* uniform */
float mf_random_normal(uint64_t seed, uint64_t key, uint64_t index); /* mean 0, deviation 1 */

/* Of n > 0 values, which it sorts. */
double mf_median(double *values, int64_t n);

/* Element types of tensors. */
typedef enum mf_dtype { MF_F32, MF_BF16 } mf_dtype;
static inline size_t mf_dtype_bytes(mf_dtype type) { return type == MF_F32 ? 4 : 2; }
static inline const char *mf_dtype_name(mf_dtype type) { return type == MF_F32 ? "f32" : "bf16"; }

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t mf_bf16_from_f32(float value) {
    union {
        float f;
        uint32_t u;
    } bits = {value};
    uint32_t rounded = (bits.u + 0x7fffu + ((bits.u >> 16) & 1u)) >> 16;
    uint32_t nan = (bits.u >> 16) | 0x40u;
    return (uint16_t)((bits.u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
static inline float mf_f32_from_bf16(uint16_t value) {
    union {
        uint32_t u;
        float f;
    } bits = {(uint32_t)value << 16};
    return bits.f;
}

/* A thread that runs what is posted to it, in order. Its jobs' errors are handed to whoever waits for them.
 */
typedef struct mf_worker mf_worker;
typedef mf_status (*mf_job)(void *argument);
/* rank: the rank that its errors name. Owned by the caller; destroy runs what is still posted, then joins. */
mf_status mf_worker_create(int rank, mf_worker **out);
void mf_worker_destroy(mf_worker *worker);
/* Posts a job; `argument` must live until it has been waited for. *ticket names it. */
mf_status mf_worker_post(mf_worker *worker, mf_job job, void *argument, uint64_t *ticket);
/* Waits for the job behind `ticket` and all before it. Returns the first error any of them had. */
mf_status mf_worker_wait(mf_worker *worker, uint64_t ticket);

static inline int64_t mf_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t mf_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t mf_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

#endif
