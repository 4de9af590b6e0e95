/* device.c: finds a device by name; checks and counts once, for all of them, what the operations are given.
 */
#include "device/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const mf_device_ops mf_device_cpu, mf_device_dry, mf_device_dry_cuda;

static const mf_device_ops *const built_in[] = {&mf_device_cpu, &mf_device_dry, &mf_device_dry_cuda};

/* What a name says: "cuda:1+cudnn" is the device "cuda", number 1, with cuDNN's attention. */
typedef struct named {
    char device[MF_DEVICE_NAME];
    const char *with; /* within the name, from the plus on; "" */
    int number;
} named;

static mf_status no_such(const char *name) {
    return MF_FAIL(MF_EUNSUPPORTED,
                   "no device is called \"%s\"; there are: cpu, cuda, cuda+cudnn, dry, dry-cuda", name);
}

static bool read_number(const char *text, int *number) {
    char *end = NULL;
    long value = text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : -1;
    *number = (int)value;
    return value >= 0 && value <= INT16_MAX && *end == 0;
}

static bool read_name(const char *name, named *out) {
    *out = (named){.with = name + strcspn(name, "+")};
    size_t n = (size_t)(out->with - name);
    if (n >= sizeof out->device || (*out->with && strcmp(out->with, "+cudnn") != 0)) return false;
    memcpy(out->device, name, n);
    char *colon = strchr(out->device, ':');
    if (!colon) return true;
    *colon = 0;
    return strcmp(out->device, "cuda") == 0 && read_number(colon + 1, &out->number);
}

static mf_status find_gpu(const char *name, int number, const mf_device_ops **ops) {
    const mf_cuda_module *module = NULL;
    MF_TRY(mf_cuda_module_load(&module));
    *ops = module->device;
    int there = module->count();
    if (number < there) return MF_OK;
    if (there == 0 && module->look()) return mf_blame("no GPU", MF_EUNSUPPORTED);
    return MF_FAIL(MF_EUNSUPPORTED, "no device %s: this machine has %d GPU%s that CUDA can use", name, there,
                   there == 1 ? "" : "s");
}

static mf_status find(const char *name, const mf_device_ops **ops, named *out) {
    *ops = NULL;
    if (!read_name(name, out)) return no_such(name);
    for (size_t i = 0; i < sizeof built_in / sizeof *built_in; i++)
        if (strcmp(built_in[i]->name, out->device) == 0) *ops = built_in[i];
    if (!*ops && strcmp(out->device, "cuda") == 0) MF_TRY(find_gpu(name, out->number, ops));
    if (!*ops) return no_such(name);
    return !*out->with || (*ops)->has_cudnn ? MF_OK : MF_FAIL(MF_EUNSUPPORTED, "%s: cuDNN is for GPUs", name);
}

mf_status mf_device_check(const char *name) {
    const mf_device_ops *ops = NULL;
    named n;
    return find(name, &ops, &n);
}

bool mf_device_is_gpu(const char *name) {
    named n;
    return name && read_name(name, &n) &&
           (strcmp(n.device, "dry-cuda") == 0 || strcmp(n.device, "cuda") == 0);
}

void mf_device_name_of_rank(const char *name, int local_rank, char *out) {
    named n;
    bool any = read_name(name, &n) && strcmp(n.device, "cuda") == 0 && !strchr(name, ':');
    int count = any ? mf_cuda_count() : 0;
    if (count)
        snprintf(out, MF_DEVICE_NAME, "cuda:%d%s", local_rank % count, n.with);
    else
        snprintf(out, MF_DEVICE_NAME, "%s", name);
}

void mf_device_name_dry(const char *name, char *out) {
    named n;
    bool gpu = mf_device_is_gpu(name) && read_name(name, &n);
    snprintf(out, MF_DEVICE_NAME, "%s%s", gpu ? "dry-cuda" : "dry", gpu ? n.with : "");
}

mf_status mf_device_memory_create(const char *name, mf_memory **out) {
    const mf_device_ops *ops = NULL;
    named n;
    mf_memory_source source = {0};
    *out = NULL;
    MF_TRY(find(name, &ops, &n));
    MF_TRY(ops->source(n.number, &source));
    mf_status status = mf_memory_create(&source, out);
    if (status && source.close) source.close(source.context);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

mf_status mf_device_create(const char *name, mf_memory *memory, int threads, mf_device **out) {
    mf_device *device = NULL;
    const mf_device_ops *ops = NULL;
    named n;
    *out = NULL;
    if (threads < 1) return MF_FAIL(MF_EINVAL, "threads is %d; it must be at least 1", threads);
    MF_TRY(find(name, &ops, &n));
    MF_TRY(mf_host_alloc(1, sizeof *device, &device));
    *device = (mf_device){.ops = ops, .memory = memory, .threads = threads, .uses_cudnn = *n.with != 0};
    snprintf(device->name, sizeof device->name, "%s", name);
    mf_status status = device->ops->open(device);
    if (status) {
        mf_device_destroy(device);
        return mf_error_pass(__FILE__, __LINE__, status);
    }
    *out = device;
    return MF_OK;
}

void mf_device_destroy(mf_device *device) {
    if (!device) return;
    device->ops->close(device);
    mf_host_free(device);
}

mf_memory *mf_device_memory(mf_device *device) { return device->memory; }
const char *mf_device_name(const mf_device *device) { return device->name; }
double mf_device_flops(const mf_device *device) { return device->flops; }

/* Stands for every point of a queue that is always empty. */
static mf_event nothing_queued;

mf_status mf_event_create(mf_device *device, mf_event **out) {
    *out = &nothing_queued;
    return device->ops->event_create ? device->ops->event_create(device, out) : MF_OK;
}

void mf_event_destroy(mf_event *event) {
    if (event && event->ops) event->ops->event_destroy(event);
}

mf_status mf_event_record(mf_device *device, mf_queue queue, mf_event *event) {
    return event->ops ? device->ops->event_record(device, queue, event) : MF_OK;
}

mf_status mf_event_follow(mf_device *device, mf_queue queue, const mf_event *event) {
    return event->ops ? device->ops->event_follow(device, queue, event) : MF_OK;
}

mf_status mf_event_wait(const mf_event *event) { return event->ops ? event->ops->event_wait(event) : MF_OK; }

bool mf_device_has_queues(const mf_device *device) { return device->ops->event_create != NULL; }

mf_status mf_device_finish(mf_device *device, mf_queue queue) {
    return device->ops->finish ? device->ops->finish(device, queue) : MF_OK;
}

bool mf_device_holds(const mf_device *device, const void *data) {
    return device->ops->holds && data && device->ops->holds(data);
}

int64_t mf_device_pool_peak_bytes(const mf_device *device) {
    return device->ops->pool_peak_bytes ? device->ops->pool_peak_bytes(device) : 0;
}

mf_status mf_copy(mf_device *device, mf_queue queue, void *to, const void *from, size_t bytes) {
    if (bytes == 0 || to == from) return MF_OK;
    if (device->ops->copy) return device->ops->copy(device, queue, to, from, bytes);
    if (!device->ops->computes_nothing) memmove(to, from, bytes);
    return MF_OK;
}

mf_status mf_pinned_take(mf_device *device, size_t bytes, void **out) {
    *out = NULL;
    if (bytes == 0) return MF_OK;
    return device->ops->pinned_take ? device->ops->pinned_take(device, bytes, out)
                                    : mf_host_alloc(1, bytes, out);
}

void mf_pinned_give_back(mf_device *device, void *data) {
    if (!data) return;
    if (device->ops->pinned_give_back)
        device->ops->pinned_give_back(data);
    else
        mf_host_free(data);
}

bool mf_device_reaches(const mf_device *device, const mf_device *other) {
    if (!mf_device_has_queues(device) || device->ops != other->ops) return device->ops == other->ops;
    return device->ops->reaches(device, other);
}

mf_status mf_sum_terms(mf_device *device, mf_queue queue, const mf_sum_args *args) {
    if (!device->ops->sum) return MF_FAIL(MF_EINVAL, "%s has no queues to sum in", device->name);
    if (args->n < 0 || args->terms < 1 || args->terms > MF_SUM_TERMS || args->places < 0 ||
        args->places > MF_SUM_TERMS)
        return MF_FAIL(MF_EINVAL, "a sum of %d terms of %lld to %d places", args->terms, (long long)args->n,
                       args->places);
    if (args->n == 0 || args->places == 0) return MF_OK;
    MF_TRY(device->ops->sum(device, queue, args));
    return device->waits_for_each ? mf_device_finish(device, queue) : MF_OK;
}

static const char *const operation_names[MF_OPERATIONS] = {"gemm",
                                                           "attention_forward",
                                                           "attention_backward",
                                                           "attention_delta",
                                                           "attention_merge",
                                                           "rmsnorm_forward",
                                                           "rmsnorm_backward",
                                                           "rope",
                                                           "rope_table",
                                                           "headnorm_forward",
                                                           "headnorm_backward",
                                                           "bias_forward",
                                                           "bias_backward",
                                                           "modulate_forward",
                                                           "modulate_backward",
                                                           "gate_scale",
                                                           "gate_add",
                                                           "gate_grads",
                                                           "activation_forward",
                                                           "activation_backward",
                                                           "embed_forward",
                                                           "embed_backward",
                                                           "grid_embed",
                                                           "xent_begin",
                                                           "xent_update",
                                                           "xent_merge",
                                                           "xent_grad",
                                                           "xent_loss",
                                                           "adamw",
                                                           "sum_squares",
                                                           "squared_error",
                                                           "cast",
                                                           "add",
                                                           "accumulate",
                                                           "fill",
                                                           "fill_normal",
                                                           "zero",
                                                           "copy_rows"};

const char *mf_operation_name(mf_operation operation) { return operation_names[operation]; }

/* Returns what `call` returns; it is a span of the trace, where one is held. */
#define RUN(operation, call)                                                                                 \
    do {                                                                                                     \
        double begin_ = begins();                                                                            \
        return ran(device, operation, begin_, call);                                                         \
    } while (0)

static double begins(void) { return mf_trace_held() ? mf_now_s() : 0; }

/* A span ends when the operation does, which a queue tells only to those who wait. */
static mf_status ran(mf_device *device, mf_operation operation, double begin, mf_status status) {
    if (status || !(mf_trace_held() || device->waits_for_each)) return status;
    MF_TRY(mf_blame(operation_names[operation], mf_device_finish(device, MF_QUEUE_COMPUTE)));
    mf_trace_add("compute", operation_names[operation], begin, mf_now_s(), 0);
    return MF_OK;
}

static bool row_distance_ok(int64_t ld, int64_t row) { return ld >= row; }

/* rows x width elements, read at one row distance and written at another; of one row neither matters. */
static mf_status check_rows(const char *what, int64_t rows, int64_t width, int64_t in_ld, int64_t out_ld) {
    if (rows < 0 || width < 0)
        return MF_FAIL(MF_EINVAL, "%s of %lld x %lld", what, (long long)rows, (long long)width);
    if (rows > 1 && !(row_distance_ok(in_ld, width) && row_distance_ok(out_ld, width)))
        return MF_FAIL(MF_EINVAL, "%s: rows overlap", what);
    return MF_OK;
}

static mf_status check_dense(const char *what, int64_t rows, int64_t width) {
    return check_rows(what, rows, width, width, width);
}

mf_status mf_gemm(mf_device *device, const mf_gemm_args *a) {
    if (a->m < 0 || a->n < 0 || a->k < 0)
        return MF_FAIL(MF_EINVAL, "matrix product of %lld x %lld x %lld", (long long)a->m, (long long)a->n,
                       (long long)a->k);
    if (!row_distance_ok(a->a.ld, a->a.transposed ? a->m : a->k) ||
        !row_distance_ok(a->b.ld, a->b.transposed ? a->k : a->n) || !row_distance_ok(a->c_ld, a->n))
        return MF_FAIL(MF_EINVAL, "matrix product: rows overlap");
    if (a->a.type != a->b.type || (a->c_type != MF_F32 && a->c_type != a->a.type))
        return MF_FAIL(MF_EINVAL, "matrix product of mixed types");
    if (a->m == 0 || a->n == 0) return MF_OK;
    device->flops += 2.0 * (double)a->m * (double)a->n * (double)a->k;
    RUN(MF_DO_GEMM, device->ops->gemm(device, a));
}

/* Pairs of a query q0 .. q1 - 1 and a key k0 .. k1 - 1 that is not after it. */
static double causal_pairs(int64_t q0, int64_t q1, int64_t k0, int64_t k1) {
    int64_t first = mf_max(q0, k0), whole = mf_max(first, k1);
    double pairs = 0;
    if (first < mf_min(q1, k1)) { /* queries that see a part of the keys */
        int64_t last = mf_min(q1, k1) - 1;
        pairs += 0.5 * (double)(last - first + 1) * (double)((first - k0 + 1) + (last - k0 + 1));
    }
    return whole < q1 ? pairs + (double)(q1 - whole) * (double)(k1 - k0) : pairs;
}

/* Keys from `first` to the query's own, of those listed. */
static int64_t keys_seen(const mf_attention_args *a, int64_t first, int64_t position) {
    int64_t seen = 0;
    for (int j = 0; j < a->key_chunks; j++) {
        int64_t k0 = a->keys[j].position, end = mf_min(position + 1, k0 + a->keys[j].rows);
        seen += mf_max(0, end - mf_max(first, k0));
    }
    return seen;
}

static double pairs_row_by_row(const mf_attention_args *a) {
    const int32_t *first_key = a->first_key_host ? a->first_key_host : a->first_key;
    int64_t pairs = 0;
    for (int64_t b = 0; b < a->batch; b++)
        for (int i = 0; i < a->query_chunks; i++)
            for (int64_t r = 0; r < a->queries[i].rows; r++) {
                int64_t position = a->queries[i].position + r;
                int64_t first = first_key[b * a->tokens + a->queries[i].first_row + r];
                if (a->window) first = mf_max(first, position - a->window + 1);
                pairs += keys_seen(a, first, position);
            }
    return (double)pairs * (double)a->heads;
}

static double all_pairs(const mf_attention_args *a) {
    int64_t queries = 0, keys = 0;
    for (int i = 0; i < a->query_chunks; i++) queries += a->queries[i].rows;
    for (int i = 0; i < a->key_chunks; i++) keys += a->keys[i].rows;
    return (double)queries * (double)keys * (double)a->batch * (double)a->heads;
}

double mf_attention_pairs(const mf_attention_args *a) {
    double pairs = 0;
    int64_t w = a->window;
    if (a->all_keys) return all_pairs(a);
    if (a->first_key) return pairs_row_by_row(a);
    for (int i = 0; i < a->query_chunks; i++) {
        for (int j = 0; j < a->key_chunks; j++) {
            int64_t q0 = a->queries[i].position, q1 = q0 + a->queries[i].rows;
            int64_t k0 = a->keys[j].position, k1 = k0 + a->keys[j].rows;
            pairs += causal_pairs(q0, q1, k0, k1);
            if (w) pairs -= causal_pairs(q0, q1, k0 + w, k1 + w); /* those that the window has passed */
        }
    }
    return pairs * (double)a->batch * (double)a->heads;
}

/* Of tiles that end at q0 + rows, q0 + 2 rows, ..., `tiles` of them: the sum of the keys k0 .. k1 - 1 that
 * each meets. */
static double keys_met(int64_t q0, int64_t rows, int64_t tiles, int64_t k0, int64_t k1) {
    int64_t first = mf_max(1, (mf_max(k0 - q0, 0)) / rows + 1); /* that meets any */
    int64_t whole = mf_max(first, mf_ceil_div(mf_max(k1 - q0, 0), rows)), last = mf_min(tiles, whole - 1);
    double sum = 0;
    if (first <= last) {
        double low = (double)(q0 + first * rows - k0), high = (double)(q0 + last * rows - k0);
        sum += 0.5 * (double)(last - first + 1) * (low + high);
    }
    return sum + (double)mf_max(0, tiles - whole + 1) * (double)(k1 - k0);
}

/* The same with a window w: less the keys that even a tile's first row sees no more, its last row being the
 * end of a tile that begins rows - 1 before. */
static double keys_in_window(int64_t q0, int64_t rows, int64_t tiles, int64_t k0, int64_t k1, int64_t w) {
    double met = keys_met(q0, rows, tiles, k0, k1);
    return w ? met - keys_met(q0 - rows + 1, rows, tiles, k0 + w, k1 + w) : met;
}

double mf_attention_pairs_met(const mf_attention_args *a) {
    double pairs = 0;
    if (a->all_keys) return all_pairs(a);
    for (int i = 0; i < a->query_chunks; i++) {
        int64_t q0 = a->queries[i].position, rows = a->queries[i].rows;
        int64_t tiles = rows / MF_QUERY_TILE, rest = rows % MF_QUERY_TILE;
        for (int j = 0; j < a->key_chunks; j++) {
            int64_t k0 = a->keys[j].position, k1 = k0 + a->keys[j].rows;
            pairs += MF_QUERY_TILE * keys_in_window(q0, MF_QUERY_TILE, tiles, k0, k1, a->window);
            if (rest) pairs += (double)rest * keys_in_window(q0 + rows - rest, rest, 1, k0, k1, a->window);
        }
    }
    return pairs * (double)a->batch * (double)a->heads;
}

static mf_status check_attention(const mf_attention_args *a) {
    if (a->batch < 0 || a->heads < 0 || a->kv_heads < 0 || a->head_dim < 1 || a->group < 1 || a->tokens < 0 ||
        a->query_chunks < 0 || a->key_chunks < 0 || a->window < 0 || a->interleave < 0)
        return MF_FAIL(MF_EINVAL, "attention with impossible sizes");
    if (a->all_keys && (a->window || a->first_key))
        return MF_FAIL(MF_EINVAL, "attention over all keys has neither window nor first_key");
    if (a->interleave > 1 && a->batch % a->interleave)
        return MF_FAIL(MF_EINVAL, "attention's batch of %lld is no multiple of interleave %lld",
                       (long long)a->batch, (long long)a->interleave);
    if (a->heads > 0 && a->batch > 0) {
        int64_t low = a->first_head / a->group, high = (a->first_head + a->heads - 1) / a->group;
        if (low < a->first_kv_head || high >= a->first_kv_head + a->kv_heads)
            return MF_FAIL(MF_EINVAL, "attention lacks the keys of some query heads");
    }
    return MF_OK;
}

static bool no_queries(const mf_attention_args *a) {
    return a->batch == 0 || a->heads == 0 || a->tokens == 0 || a->query_chunks == 0;
}

mf_status mf_attention_forward(mf_device *device, const mf_attention_args *a) {
    MF_TRY(check_attention(a));
    if (no_queries(a) || (a->merge && a->key_chunks == 0)) return MF_OK;
    device->flops += 4.0 * (double)a->head_dim * mf_attention_pairs(a);
    RUN(MF_DO_ATTENTION_FORWARD, device->ops->attention_forward(device, a));
}

mf_status mf_attention_backward(mf_device *device, const mf_attention_args *a) {
    MF_TRY(check_attention(a));
    if (no_queries(a) || a->key_chunks == 0) return MF_OK;
    device->flops += 10.0 * (double)a->head_dim * mf_attention_pairs(a);
    RUN(MF_DO_ATTENTION_BACKWARD, device->ops->attention_backward(device, a));
}

mf_status mf_attention_delta(mf_device *device, const mf_attention_args *a, float *delta) {
    MF_TRY(check_attention(a));
    if (a->batch == 0 || a->heads == 0 || a->tokens == 0) return MF_OK;
    RUN(MF_DO_ATTENTION_DELTA, device->ops->attention_delta(device, a, delta));
}

mf_status mf_attention_merge(mf_device *device, const mf_attention_merge_args *a) {
    MF_TRY(check_rows("attention's merge", a->rows, a->heads * a->head_dim, a->o_ld, a->o_ld));
    if (a->heads < 0 || a->head_dim < 1 || a->parts < 0)
        return MF_FAIL(MF_EINVAL, "attention's merge with impossible sizes");
    if (a->rows == 0 || a->heads == 0) return MF_OK;
    RUN(MF_DO_ATTENTION_MERGE, device->ops->attention_merge(device, a));
}

mf_status mf_rmsnorm_forward(mf_device *device, int64_t n, int64_t h, float eps, mf_dtype type, const void *x,
                             const float *weight, void *y) {
    MF_TRY(check_dense("rmsnorm", n, h));
    if (n == 0) return MF_OK;
    RUN(MF_DO_RMSNORM_FORWARD, device->ops->rmsnorm_forward(device, n, h, eps, type, x, weight, y));
}

mf_status mf_rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *args) {
    MF_TRY(check_dense("rmsnorm", args->n, args->h));
    if (args->n == 0) return MF_OK;
    RUN(MF_DO_RMSNORM_BACKWARD, device->ops->rmsnorm_backward(device, args));
}

static mf_status check_head(int64_t head_dim) {
    if (head_dim >= 0 && head_dim % 2 == 0) return MF_OK;
    return MF_FAIL(MF_EINVAL, "rope needs an even head size, not %lld", (long long)head_dim);
}

mf_status mf_rope(mf_device *device, const mf_rope_args *args) {
    MF_TRY(check_head(args->head_dim));
    if (args->batch == 0 || args->tokens == 0 || args->heads == 0) return MF_OK;
    MF_TRY(check_dense("rope", args->batch, args->tokens));
    MF_TRY(check_rows("rope", args->batch * args->tokens, args->heads * args->head_dim, args->in_ld,
                      args->out_ld));
    RUN(MF_DO_ROPE, device->ops->rope(device, args));
}

mf_status mf_rope_table(mf_device *device, const mf_rope_table_args *args) {
    const mf_rope_scaling *s = &args->scaling;
    MF_TRY(check_head(args->head_dim));
    MF_TRY(check_dense("rope table", args->rows, args->head_dim));
    if (s->kind != MF_ROPE_PLAIN && !(s->factor > 0))
        return MF_FAIL(MF_EINVAL, "rope table scaled by %g", s->factor);
    if (s->kind == MF_ROPE_LLAMA3 && !(s->original > 0 && s->low_freq > 0 && s->high_freq > s->low_freq))
        return MF_FAIL(MF_EINVAL, "rope table scaled between %g and %g turns in %lld tokens", s->low_freq,
                       s->high_freq, (long long)s->original);
    if (args->rows == 0) return MF_OK;
    RUN(MF_DO_ROPE_TABLE, device->ops->rope_table(device, args));
}

mf_status mf_headnorm_forward(mf_device *device, const mf_headnorm_args *args) {
    MF_TRY(check_dense("norm of heads", args->heads, args->head_dim));
    MF_TRY(check_rows("norm of heads", args->rows, args->heads * args->head_dim, args->ld, args->ld));
    if (args->rows == 0 || args->heads == 0 || args->head_dim == 0) return MF_OK;
    RUN(MF_DO_HEADNORM_FORWARD, device->ops->headnorm_forward(device, args));
}

mf_status mf_headnorm_backward(mf_device *device, const mf_headnorm_args *args) {
    MF_TRY(check_dense("norm of heads", args->heads, args->head_dim));
    MF_TRY(check_rows("norm of heads", args->rows, args->heads * args->head_dim, args->ld, args->d_ld));
    if (args->rows == 0 || args->heads == 0 || args->head_dim == 0) return MF_OK;
    RUN(MF_DO_HEADNORM_BACKWARD, device->ops->headnorm_backward(device, args));
}

mf_status mf_bias_forward(mf_device *device, const mf_bias_args *args) {
    MF_TRY(check_rows("bias", args->rows, args->width, args->ld, args->ld));
    if (args->rows == 0 || args->width == 0) return MF_OK;
    RUN(MF_DO_BIAS_FORWARD, device->ops->bias_forward(device, args));
}

mf_status mf_bias_backward(mf_device *device, const mf_bias_args *args) {
    MF_TRY(check_rows("bias", args->rows, args->width, args->ld, args->ld));
    if (args->rows == 0 || args->width == 0) return MF_OK;
    RUN(MF_DO_BIAS_BACKWARD, device->ops->bias_backward(device, args));
}

/* n dense rows of h, each of a sample whose vectors lie mod_ld apart. */
static mf_status check_samples(const char *what, int64_t n, int64_t h, int64_t first_row, int64_t sample_rows,
                               int64_t mod_ld) {
    MF_TRY(check_dense(what, n, h));
    if (first_row < 0 || sample_rows < 1)
        return MF_FAIL(MF_EINVAL, "%s from row %lld of samples of %lld rows", what, (long long)first_row,
                       (long long)sample_rows);
    if (!row_distance_ok(mod_ld, h)) return MF_FAIL(MF_EINVAL, "%s: samples' vectors overlap", what);
    return MF_OK;
}

static mf_status check_modulate(const mf_modulate_args *a) {
    return check_samples("modulation", a->n, a->h, a->first_row, a->sample_rows, a->mod_ld);
}

mf_status mf_modulate_forward(mf_device *device, const mf_modulate_args *args) {
    MF_TRY(check_modulate(args));
    if (args->n == 0 || args->h == 0) return MF_OK;
    RUN(MF_DO_MODULATE_FORWARD, device->ops->modulate_forward(device, args));
}

mf_status mf_modulate_backward(mf_device *device, const mf_modulate_args *args) {
    MF_TRY(check_modulate(args));
    if (!args->dshift != !args->dscale)
        return MF_FAIL(MF_EINVAL, "modulation's gradient of one of shift and scale");
    if (args->n == 0 || args->h == 0) return MF_OK;
    RUN(MF_DO_MODULATE_BACKWARD, device->ops->modulate_backward(device, args));
}

static mf_status check_gate(const mf_gate_args *a) {
    return check_samples("gate", a->n, a->h, a->first_row, a->sample_rows, a->mod_ld);
}

mf_status mf_gate_scale(mf_device *device, const mf_gate_args *args) {
    MF_TRY(check_gate(args));
    if (args->n == 0 || args->h == 0) return MF_OK;
    RUN(MF_DO_GATE_SCALE, device->ops->gate_scale(device, args));
}

mf_status mf_gate_add(mf_device *device, const mf_gate_args *args) {
    MF_TRY(check_gate(args));
    if (args->n == 0 || args->h == 0) return MF_OK;
    RUN(MF_DO_GATE_ADD, device->ops->gate_add(device, args));
}

mf_status mf_gate_grads(mf_device *device, const mf_gate_grads_args *args) {
    MF_TRY(
        check_rows("gate's gradients", args->rows, args->cols, mf_min(args->g_ld, args->w_ld), args->dw_ld));
    if (args->rows == 0 || args->cols == 0) return MF_OK;
    RUN(MF_DO_GATE_GRADS, device->ops->gate_grads(device, args));
}

static mf_status check_activation(const mf_activation_args *args) {
    if (args->kind != MF_SILU && args->kind != MF_GELU)
        return MF_FAIL(MF_EINVAL, "activation of kind %d", (int)args->kind);
    return check_rows("activation", args->n, args->width, args->in_ld, args->width);
}

mf_status mf_activation_forward(mf_device *device, const mf_activation_args *args) {
    MF_TRY(check_activation(args));
    if (args->n == 0 || args->width == 0) return MF_OK;
    RUN(MF_DO_ACTIVATION_FORWARD, device->ops->activation_forward(device, args));
}

mf_status mf_activation_backward(mf_device *device, const mf_activation_args *args) {
    MF_TRY(check_activation(args));
    if (args->n == 0 || args->width == 0) return MF_OK;
    RUN(MF_DO_ACTIVATION_BACKWARD, device->ops->activation_backward(device, args));
}

static mf_status check_embed(const mf_embed_args *args) {
    MF_TRY(check_dense("embedding", args->n, args->h));
    return check_dense("embedding table", args->rows, args->h);
}

mf_status mf_embed_forward(mf_device *device, const mf_embed_args *args) {
    MF_TRY(check_embed(args));
    if (args->n == 0 || args->rows == 0) return MF_OK;
    RUN(MF_DO_EMBED_FORWARD, device->ops->embed_forward(device, args));
}

mf_status mf_embed_backward(mf_device *device, const mf_embed_args *args) {
    MF_TRY(check_embed(args));
    if (args->d_out_type != MF_F32 && args->d_out_type != args->type)
        return MF_FAIL(MF_EINVAL, "embedding's gradient of mixed types");
    if (args->n == 0 || args->rows == 0) return MF_OK;
    RUN(MF_DO_EMBED_BACKWARD, device->ops->embed_backward(device, args));
}

mf_status mf_grid_embed(mf_device *device, const mf_grid_embed_args *args) {
    const int64_t *w = args->width;
    MF_TRY(check_samples("grid embedding", args->n, args->h, args->first_row, args->sample_rows, args->h));
    if (w[0] < 0 || w[1] < 0 || w[2] < 0 || w[0] + w[1] + w[2] != args->h)
        return MF_FAIL(MF_EINVAL, "grid embedding: tables of %lld, %lld and %lld make no row of %lld",
                       (long long)w[0], (long long)w[1], (long long)w[2], (long long)args->h);
    if (args->n == 0 || args->h == 0) return MF_OK;
    RUN(MF_DO_GRID_EMBED, device->ops->grid_embed(device, args));
}

mf_status mf_xent_begin(mf_device *device, const mf_xent_args *args) {
    MF_TRY(check_dense("cross-entropy", args->n, args->width));
    if (args->n == 0) return MF_OK;
    RUN(MF_DO_XENT_BEGIN, device->ops->xent_begin(device, args));
}

mf_status mf_xent_update(mf_device *device, const mf_xent_args *args) {
    MF_TRY(check_dense("cross-entropy", args->n, args->width));
    if (args->n == 0 || args->width == 0) return MF_OK;
    RUN(MF_DO_XENT_UPDATE, device->ops->xent_update(device, args));
}

mf_status mf_xent_merge(mf_device *device, const mf_xent_args *args, int parts, const float *states) {
    MF_TRY(check_dense("cross-entropy", args->n, args->width));
    if (parts < 1) return MF_FAIL(MF_EINVAL, "cross-entropy merged of %d parts", parts);
    if (args->n == 0) return MF_OK;
    RUN(MF_DO_XENT_MERGE, device->ops->xent_merge(device, args, parts, states));
}

mf_status mf_xent_grad(mf_device *device, const mf_xent_args *args) {
    MF_TRY(check_dense("cross-entropy", args->n, args->width));
    if (args->n == 0 || args->width == 0) return MF_OK;
    RUN(MF_DO_XENT_GRAD, device->ops->xent_grad(device, args));
}

mf_status mf_xent_loss(mf_device *device, const mf_xent_args *args, double *loss) {
    MF_TRY(check_dense("cross-entropy", args->n, args->width));
    RUN(MF_DO_XENT_LOSS, device->ops->xent_loss(device, args, loss));
}

mf_status mf_adamw(mf_device *device, const mf_adamw_args *args) {
    MF_TRY(check_dense("adamw", 1, args->n));
    if (args->step < 1)
        return MF_FAIL(MF_EINVAL, "adamw at step %lld; it counts from 1", (long long)args->step);
    if (args->n == 0) return MF_OK;
    RUN(MF_DO_ADAMW, device->ops->adamw(device, args));
}

mf_status mf_sum_squares(mf_device *device, int64_t n, const float *x, double *sum) {
    MF_TRY(check_dense("sum of squares", 1, n));
    RUN(MF_DO_SUM_SQUARES, device->ops->sum_squares(device, n, x, sum));
}

mf_status mf_squared_error(mf_device *device, const mf_squared_error_args *args, double *loss) {
    MF_TRY(check_dense("squared error", 1, args->n));
    RUN(MF_DO_SQUARED_ERROR, device->ops->squared_error(device, args, loss));
}

mf_status mf_cast(mf_device *device, const mf_cast_args *args) {
    MF_TRY(check_rows("cast", args->rows, args->width, args->in_ld, args->out_ld));
    if (args->rows == 0 || args->width == 0) return MF_OK;
    RUN(MF_DO_CAST, device->ops->cast(device, args));
}

mf_status mf_convert(mf_device *device, int64_t n, const void *in, mf_dtype in_type, void *out,
                     mf_dtype out_type) {
    return mf_cast(device, &(mf_cast_args){.rows = 1,
                                           .width = n,
                                           .in = in,
                                           .in_ld = n,
                                           .in_type = in_type,
                                           .out = out,
                                           .out_ld = n,
                                           .out_type = out_type});
}

mf_status mf_add(mf_device *device, int64_t n, mf_dtype type, const void *residual, const float *delta,
                 void *out) {
    MF_TRY(check_dense("add", 1, n));
    if (n == 0) return MF_OK;
    RUN(MF_DO_ADD, device->ops->add(device, n, type, residual, delta, out));
}

mf_status mf_accumulate(mf_device *device, int64_t rows, int64_t width, const float *in, int64_t in_ld,
                        float *out, int64_t out_ld) {
    MF_TRY(check_rows("accumulate", rows, width, in_ld, out_ld));
    if (rows == 0 || width == 0) return MF_OK;
    RUN(MF_DO_ACCUMULATE, device->ops->accumulate(device, rows, width, in, in_ld, out, out_ld));
}

mf_status mf_fill(mf_device *device, int64_t n, float value, float *out) {
    MF_TRY(check_dense("a fill", 1, n));
    if (n == 0) return MF_OK;
    RUN(MF_DO_FILL, device->ops->fill(device, n, value, out));
}

mf_status mf_fill_normal(mf_device *device, const mf_normal_args *args) {
    MF_TRY(check_dense("random numbers", args->rows, args->cols));
    if (args->rows == 0 || args->cols == 0) return MF_OK;
    RUN(MF_DO_FILL_NORMAL, device->ops->fill_normal(device, args));
}

mf_status mf_zero(mf_device *device, void *data, size_t bytes) {
    if (bytes == 0) return MF_OK;
    RUN(MF_DO_ZERO, device->ops->zero(device, data, bytes));
}

mf_status mf_copy_rows(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                       const void *in, size_t in_ld) {
    MF_TRY(check_rows("copy", rows, (int64_t)bytes, (int64_t)in_ld, (int64_t)out_ld));
    if (rows == 0 || bytes == 0) return MF_OK;
    RUN(MF_DO_COPY_ROWS, device->ops->copy_rows(device, rows, bytes, out, out_ld, in, in_ld));
}
