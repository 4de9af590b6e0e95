/* attention.c: forward and backward against sums in double precision, for many cuts of queries and keys. */
#include "machine.h"
#include "support.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "device/cpu/attention.h"
#include "device/cpu/attention_rows.h"
#include "meshfold/device.h"

enum { CHUNKS = 64, PAD = 3, ALIGNED_PAD = 8, PIECES = 3 };

/* Threads that a device is tried with. The thread sanitizer does not see the barriers of GNU's OpenMP. */
#ifdef __SANITIZE_THREAD__
enum { DEVICES = 1 };
#else
enum { DEVICES = 3 };
#endif

typedef struct chunk {
    int64_t position, rows;
} chunk;

typedef struct shape {
    int64_t batch, heads, first_head, group, kv_heads, first_kv_head, head_dim, window;
    int64_t document; /* mean tokens of one; 0: there are none */
    bool all_keys;
    bool aligned;       /* rows lie so that vectors of 16 bytes do not straddle them */
    int64_t interleave; /* 0 counts as 1 */
    int query_chunks, key_chunks;
    chunk queries[CHUNKS], keys[CHUNKS];
} shape;

/* One problem: inputs as the device sees them, and the answers in double. */
typedef struct problem {
    shape s;
    mf_dtype type;
    int64_t tokens, q_ld, kv_ld, lse_ld; /* queries of a sequence; row distances */
    int64_t kv_offset[CHUNKS + 1];       /* elements of k, v, dk, dv before each chunk */
    float *q, *k, *v, *d_o;              /* rounded to the type */
    void *q_data, *k_data, *v_data, *d_o_data, *o_data;
    int32_t *first_key; /* [batch, tokens]; NULL without documents */
    double *o, *lse, *dq, *dk, *dv;
} problem;

typedef struct answer {
    float *o, *lse, *delta, *dq, *dk, *dv;
} answer;

static int64_t q_count(const problem *p) { return p->s.batch * p->tokens * p->q_ld; }
static int64_t kv_count(const problem *p) { return p->kv_offset[p->s.key_chunks]; }
static int64_t lse_count(const problem *p) { return p->s.batch * p->tokens * p->lse_ld; }

static void *take(int64_t count, size_t size) {
    size_t bytes = ((size_t)count + 1) * size;
    void *data = machine_take(bytes);
    assert_non_null(data);
    return memset(data, 0, bytes);
}

/* Values from a name, rounded to the type; *data holds them in it. */
static float *input(const char *name, int64_t n, mf_dtype type, void **data) {
    float *values = take(n, sizeof *values);
    fill_normal(name, 1, n, values);
    *data = take(n, mf_dtype_bytes(type));
    if (type == MF_F32) memcpy(*data, values, (size_t)n * sizeof *values);
    for (int64_t i = 0; i < n && type == MF_BF16; i++) {
        ((uint16_t *)*data)[i] = mf_bf16_from_f32(values[i]);
        values[i] = mf_f32_from_bf16(((uint16_t *)*data)[i]);
    }
    return values;
}

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

static float scale_of(const problem *p) { return 1 / sqrtf((float)p->s.head_dim); }

/* Of sequences of `rows` tokens, the row that a token is. */
static int64_t row_of(const shape *s, int64_t rows, int64_t batch, int64_t token) {
    int64_t turns = s->interleave ? s->interleave : 1;
    return batch / turns * turns * rows + token * turns + batch % turns;
}

/* Elements before a key's row of a head. */
static int64_t key_at(const problem *p, int64_t batch, int chunk_index, int64_t row, int64_t kv_head) {
    int64_t rows = p->s.keys[chunk_index].rows;
    return p->kv_offset[chunk_index] + row_of(&p->s, rows, batch, row) * p->kv_ld + kv_head * p->s.head_dim;
}

static bool sees(const problem *p, int64_t batch, int64_t token, int64_t position, int64_t key) {
    if (p->s.all_keys) return true;
    if (key > position || (p->s.window && key <= position - p->s.window)) return false;
    return !p->first_key || key >= p->first_key[batch * p->tokens + token];
}

/* One query row: its softmax over all keys it sees, then every gradient it has a part in. */
static void reference_row(problem *p, int64_t batch, int64_t token, int64_t position, int64_t head) {
    int64_t d = p->s.head_dim, count = 0,
            kv_head = (p->s.first_head + head) / p->s.group - p->s.first_kv_head;
    int64_t query = row_of(&p->s, p->tokens, batch, token), at = query * p->q_ld + head * d;
    int64_t *seen = take(kv_count(p) / d, sizeof *seen);
    double *weight = take(kv_count(p) / d, sizeof *weight), top = -INFINITY, sum = 0, delta = 0;
    for (int c = 0; c < p->s.key_chunks; c++)
        for (int64_t j = 0; j < p->s.keys[c].rows; j++) {
            if (!sees(p, batch, token, position, p->s.keys[c].position + j)) continue;
            seen[count] = key_at(p, batch, c, j, kv_head);
            weight[count] = dot(p->q + at, p->k + seen[count], d) * (double)scale_of(p);
            top = fmax(top, weight[count++]);
        }
    for (int64_t j = 0; j < count; j++) sum += weight[j] = exp(weight[j] - top);
    p->lse[query * p->lse_ld + head] = top + log(sum);
    for (int64_t j = 0; j < count; j++) {
        weight[j] /= sum;
        delta += weight[j] * dot(p->d_o + at, p->v + seen[j], d);
        for (int64_t i = 0; i < d; i++) p->o[at + i] += weight[j] * (double)p->v[seen[j] + i];
    }
    for (int64_t j = 0; j < count; j++) {
        double slope = weight[j] * (dot(p->d_o + at, p->v + seen[j], d) - delta) * (double)scale_of(p);
        for (int64_t i = 0; i < d; i++) {
            p->dq[at + i] += slope * (double)p->k[seen[j] + i];
            p->dk[seen[j] + i] += slope * (double)p->q[at + i];
            p->dv[seen[j] + i] += weight[j] * (double)p->d_o[at + i];
        }
    }
    machine_give_back(seen);
    machine_give_back(weight);
}

/* Where the document of each of a sequence's positions begins, lengths from 1 to twice the mean. */
static void draw_documents(int64_t mean, int64_t batch, int64_t count, int32_t *begins) {
    uint64_t key = mf_random_key("documents");
    for (int64_t i = 0, begin = 0, end = 0; i < count; i++) {
        if (i == end) {
            begin = i;
            end += 1 + (int64_t)(mf_random_u64((uint64_t)batch, key, (uint64_t)i) % (uint64_t)(2 * mean));
        }
        begins[i] = (int32_t)begin;
    }
}

static int32_t *first_keys(const shape *s, int64_t tokens) {
    int64_t count = 0, at = 0;
    for (int c = 0; c < s->query_chunks; c++)
        count = mf_max(count, s->queries[c].position + s->queries[c].rows);
    int32_t *begins = take(count, sizeof *begins), *out = take(s->batch * tokens, sizeof *out);
    for (int64_t b = 0; b < s->batch; b++) {
        draw_documents(s->document, b, count, begins);
        for (int c = 0; c < s->query_chunks; c++)
            for (int64_t i = 0; i < s->queries[c].rows; i++) out[at++] = begins[s->queries[c].position + i];
    }
    machine_give_back(begins);
    return out;
}

/* Inputs, and zeros for answers. */
static problem problem_pose(const shape *s, mf_dtype type) {
    problem p = {.s = *s, .type = type};
    int64_t pad = s->aligned ? ALIGNED_PAD : PAD;
    for (int c = 0; c < s->query_chunks; c++) p.tokens += s->queries[c].rows;
    p.q_ld = s->heads * s->head_dim + pad;
    p.kv_ld = s->kv_heads * s->head_dim + pad;
    p.lse_ld = s->heads + PAD;
    for (int c = 0; c < s->key_chunks; c++)
        p.kv_offset[c + 1] = p.kv_offset[c] + s->batch * s->keys[c].rows * p.kv_ld;
    p.q = input("q", q_count(&p), type, &p.q_data);
    p.d_o = input("d_o", q_count(&p), type, &p.d_o_data);
    p.k = input("k", kv_count(&p), type, &p.k_data);
    p.v = input("v", kv_count(&p), type, &p.v_data);
    p.o_data = take(q_count(&p), mf_dtype_bytes(type));
    p.o = take(q_count(&p), sizeof *p.o);
    p.dq = take(q_count(&p), sizeof *p.dq);
    p.lse = take(lse_count(&p), sizeof *p.lse);
    p.dk = take(kv_count(&p), sizeof *p.dk);
    p.dv = take(kv_count(&p), sizeof *p.dv);
    if (s->document) p.first_key = first_keys(s, p.tokens);
    return p;
}

static problem problem_open(const shape *s, mf_dtype type) {
    problem p = problem_pose(s, type);
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t c = 0, token = 0; c < s->query_chunks; c++)
            for (int64_t i = 0; i < s->queries[c].rows; i++, token++)
                for (int64_t h = 0; h < s->heads; h++)
                    reference_row(&p, b, token, s->queries[c].position + i, h);
    return p;
}

static void problem_close(problem *p) {
    void *owned[] = {p->q,      p->k, p->v,   p->d_o, p->q_data, p->k_data, p->v_data,   p->d_o_data,
                     p->o_data, p->o, p->lse, p->dq,  p->dk,     p->dv,     p->first_key};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) machine_give_back(owned[i]);
}

/* What is there before the call: gradients are added to it, padding keeps it. */
static float *before(const char *name, int64_t n) {
    float *values = take(n, sizeof *values);
    fill_normal(name, 1, n, values);
    return values;
}

static void answer_close(answer *a) {
    void *owned[] = {a->o, a->lse, a->delta, a->dq, a->dk, a->dv};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) machine_give_back(owned[i]);
}

static mf_attention_args arguments(const problem *p, answer *a, mf_query_chunk *queries, mf_key_chunk *keys) {
    const shape *s = &p->s;
    size_t size = mf_dtype_bytes(p->type);
    int64_t turns = mf_max(1, s->interleave);
    for (int64_t c = 0, row = 0; c < s->query_chunks; row += s->queries[c++].rows)
        queries[c] = (mf_query_chunk){s->queries[c].rows, s->queries[c].position, row};
    for (int c = 0; c < s->key_chunks; c++)
        keys[c] = (mf_key_chunk){.rows = s->keys[c].rows,
                                 .position = s->keys[c].position,
                                 .k = (char *)p->k_data + (size_t)p->kv_offset[c] * size,
                                 .v = (char *)p->v_data + (size_t)p->kv_offset[c] * size,
                                 .ld = p->kv_ld,
                                 .batch_ld = turns * s->keys[c].rows * p->kv_ld,
                                 .dk = a->dk + p->kv_offset[c],
                                 .dv = a->dv + p->kv_offset[c],
                                 .grad_ld = p->kv_ld,
                                 .grad_batch_ld = turns * s->keys[c].rows * p->kv_ld};
    return (mf_attention_args){.type = p->type,
                               .batch = s->batch,
                               .tokens = p->tokens,
                               .heads = s->heads,
                               .first_head = s->first_head,
                               .group = s->group,
                               .kv_heads = s->kv_heads,
                               .first_kv_head = s->first_kv_head,
                               .head_dim = s->head_dim,
                               .window = s->window,
                               .all_keys = s->all_keys,
                               .interleave = s->interleave,
                               .first_key = p->first_key,
                               .scale = scale_of(p),
                               .query_chunks = s->query_chunks,
                               .key_chunks = s->key_chunks,
                               .queries = queries,
                               .keys = keys,
                               .q = p->q_data,
                               .q_ld = p->q_ld,
                               .o = p->o_data,
                               .o_ld = p->q_ld,
                               .lse = a->lse,
                               .lse_ld = p->lse_ld,
                               .d_o = p->d_o_data,
                               .do_ld = p->q_ld,
                               .delta = a->delta,
                               .dq = a->dq,
                               .dq_ld = p->q_ld};
}

static void copy_o(const problem *p, float *o) {
    for (int64_t i = 0; i < q_count(p); i++)
        o[i] = p->type == MF_F32 ? ((float *)p->o_data)[i] : mf_f32_from_bf16(((uint16_t *)p->o_data)[i]);
}

/* Forward, delta and backward, the latter's key chunks in `calls` calls. */
static answer solve(mf_device *device, const problem *p, int calls) {
    mf_query_chunk queries[CHUNKS];
    mf_key_chunk keys[CHUNKS];
    answer a = {.o = take(q_count(p), sizeof(float)),
                .lse = before("lse", lse_count(p)),
                .delta = take(p->s.batch * p->tokens * p->s.heads, sizeof(float)),
                .dq = before("dq", q_count(p)),
                .dk = before("dk", kv_count(p)),
                .dv = before("dv", kv_count(p))};
    mf_attention_args args = arguments(p, &a, queries, keys);
    memset(p->o_data, 0, (size_t)q_count(p) * mf_dtype_bytes(p->type));
    ASSERT_OK(mf_attention_forward(device, &args));
    ASSERT_OK(mf_attention_delta(device, &args, a.delta));
    for (int i = 0; i < calls; i++) {
        int first = p->s.key_chunks * i / calls, end = p->s.key_chunks * (i + 1) / calls;
        args.keys = keys + first;
        args.key_chunks = end - first;
        ASSERT_OK(mf_attention_backward(device, &args));
    }
    copy_o(p, a.o);
    return a;
}

/* Cuts each chunk of keys in PIECES, empty ones where it is short. Returns how many there are. */
static int cut_keys(const problem *p, const mf_key_chunk *keys, mf_key_chunk *pieces) {
    int count = 0;
    for (int c = 0; c < p->s.key_chunks; c++)
        for (int i = 0; i < PIECES; i++, count++) {
            int64_t first = keys[c].rows * i / PIECES, end = keys[c].rows * (i + 1) / PIECES;
            size_t offset = (size_t)(first * mf_max(1, p->s.interleave) * p->kv_ld) * mf_dtype_bytes(p->type);
            pieces[count] = keys[c];
            pieces[count].rows = end - first;
            pieces[count].position += first;
            pieces[count].k = (const char *)keys[c].k + offset;
            pieces[count].v = (const char *)keys[c].v + offset;
        }
    return count;
}

/* How pieces of keys come over several calls. */
typedef enum dealing { IN_ORDER, BACKWARDS, ONE_BY_ONE, DEALINGS } dealing;

static int call_of(dealing how, int piece, int count, int calls) {
    if (how == ONE_BY_ONE) return piece % calls;
    return how == IN_ORDER ? piece * calls / count : calls - 1 - piece * calls / count;
}

/* lse of -infinity, and NaN where a result is to come: none of it may be read. */
static void forget(const problem *p, float *lse) {
    size_t size = mf_dtype_bytes(p->type), row = (size_t)p->s.head_dim * size;
    for (int64_t i = 0; i < p->s.batch * p->tokens; i++)
        for (int64_t h = 0; h < p->s.heads; h++) {
            lse[i * p->lse_ld + h] = -INFINITY;
            if (isfinite(p->lse[i * p->lse_ld + h]))
                memset((char *)p->o_data + (size_t)(i * p->q_ld) * size + (size_t)h * row, 0xff, row);
        }
}

/* Forward alone, its keys over several calls: a first call that overwrites, or merging into nothing. */
static answer solve_merged(mf_device *device, const problem *p, int calls, dealing how) {
    mf_query_chunk queries[CHUNKS];
    mf_key_chunk keys[CHUNKS], pieces[CHUNKS * PIECES], list[CHUNKS * PIECES];
    answer a = {.o = take(q_count(p), sizeof(float)),
                .lse = before("lse", lse_count(p)),
                .dk = take(kv_count(p), sizeof(float)),
                .dv = take(kv_count(p), sizeof(float))};
    mf_attention_args args = arguments(p, &a, queries, keys);
    int count = cut_keys(p, keys, pieces);
    memset(p->o_data, 0, (size_t)q_count(p) * mf_dtype_bytes(p->type));
    if (how != IN_ORDER) forget(p, a.lse);
    args.keys = list;
    for (int call = 0; call < calls; call++) {
        args.key_chunks = 0;
        for (int i = 0; i < count; i++)
            if (call_of(how, i, count, calls) == call) list[args.key_chunks++] = pieces[i];
        args.merge = how != IN_ORDER || call > 0;
        ASSERT_OK(mf_attention_forward(device, &args));
    }
    copy_o(p, a.o);
    return a;
}

static void expect_near(const char *what, double error, mf_dtype type) {
    if (error <= mf_tolerance(type)) return;
    print_error("%s: relative error %g in %s\n", what, error, mf_dtype_name(type));
    fail();
}

/* got: n values that began as before(name) and had `expected` added. */
static void expect_added(const char *name, const float *got, const double *expected, int64_t n,
                         mf_dtype type) {
    float *added = before(name, n);
    for (int64_t i = 0; i < n; i++) added[i] = got[i] - added[i];
    expect_near(name, relative_error(n, added, expected), type);
    machine_give_back(added);
}

/* Padding of lse, which nothing may touch, counts as right; so does -infinity where it should be. */
static void expect_lse(const problem *p, const float *lse) {
    double *expected = take(lse_count(p), sizeof *expected);
    float *untouched = before("lse", lse_count(p)), *got = take(lse_count(p), sizeof *got);
    for (int64_t i = 0; i < lse_count(p); i++) {
        bool blind = i % p->lse_ld < p->s.heads && p->lse[i] == -INFINITY && lse[i] == -INFINITY;
        expected[i] = blind ? 0 : i % p->lse_ld < p->s.heads ? p->lse[i] : (double)untouched[i];
        got[i] = blind ? 0 : lse[i];
    }
    expect_near("lse", relative_error(lse_count(p), got, expected), p->type);
    machine_give_back(expected);
    machine_give_back(untouched);
    machine_give_back(got);
}

static void expect_right(const problem *p, const answer *a) {
    expect_near("o", relative_error(q_count(p), a->o, p->o), p->type);
    expect_lse(p, a->lse);
    expect_added("dq", a->dq, p->dq, q_count(p), p->type);
    expect_added("dk", a->dk, p->dk, kv_count(p), p->type);
    expect_added("dv", a->dv, p->dv, kv_count(p), p->type);
}

static void expect_same_bits(const problem *p, const answer *a, const answer *b) {
    assert_memory_equal(a->o, b->o, (size_t)q_count(p) * sizeof(float));
    assert_memory_equal(a->lse, b->lse, (size_t)lse_count(p) * sizeof(float));
    assert_memory_equal(a->dq, b->dq, (size_t)q_count(p) * sizeof(float));
    assert_memory_equal(a->dk, b->dk, (size_t)kv_count(p) * sizeof(float));
    assert_memory_equal(a->dv, b->dv, (size_t)kv_count(p) * sizeof(float));
}

static void expect_close_o(const problem *p, const answer *a, const answer *b) {
    double *expected = take(q_count(p), sizeof *expected);
    for (int64_t i = 0; i < q_count(p); i++) expected[i] = (double)b->o[i];
    expect_near("o of several calls", relative_error(q_count(p), a->o, expected), p->type);
    machine_give_back(expected);
}

static void expect_merged(const problem *p, const answer *a, const answer *again, const answer *at_once) {
    expect_near("o", relative_error(q_count(p), a->o, p->o), p->type);
    expect_lse(p, a->lse);
    expect_close_o(p, a, at_once);
    assert_memory_equal(a->o, again->o, (size_t)q_count(p) * sizeof(float));
    assert_memory_equal(a->lse, again->lse, (size_t)lse_count(p) * sizeof(float));
}

static mf_memory *memory;
static mf_device *devices[DEVICES]; /* of 1, 2, ... threads */
static int device_count = DEVICES;  /* that a problem is tried on */

/* Kernels that the CPU runs thread by thread take their time: products of a score, at most. */
enum { EMULATED_WORK = 1500000, EMULATED_HEAD = 32 };
static bool emulated(void) {
    const char *module = getenv("MESHFOLD_CUDA_MODULE");
    return strncmp(machine_name(), "cuda", 4) == 0 && module && strstr(module, "emulated");
}

static bool on_cpu(void) { return strcmp(machine_name(), "cpu") == 0; }

static int open_devices(void **state) {
    (void)state;
    ASSERT_OK(mf_device_memory_create(machine_name(), &memory));
    for (int i = 0; i < DEVICES; i++) ASSERT_OK(mf_device_create(machine_name(), memory, i + 1, &devices[i]));
    if (!on_cpu()) device_count = 1; /* threads are nothing to it */
    return 0;
}

static int close_devices(void **state) {
    (void)state;
    for (int i = 0; i < DEVICES; i++) mf_device_destroy(devices[i]);
    assert_int_equal(mf_memory_stats_get(memory).now_total, 0);
    mf_memory_destroy(memory);
    return 0;
}

/* Keys over 2 to 5 calls: what one call with all of them finds. */
static void check_merged(mf_device *device, const problem *p) {
    answer at_once = solve(device, p, 1);
    for (int i = 0; i < 4 * DEALINGS; i += emulated() ? 5 : 1) {
        answer a = solve_merged(device, p, 2 + i % 4, (dealing)(i / 4));
        answer again = solve_merged(device, p, 2 + i % 4, (dealing)(i / 4));
        expect_merged(p, &a, &again, &at_once);
        answer_close(&a);
        answer_close(&again);
    }
    answer_close(&at_once);
}

/* Right on every number of threads, with the keys' gradients in one call or in several; the same bits when
 * repeated. */
static void check_type(const shape *s, mf_dtype type) {
    problem p = problem_open(s, type);
    for (int i = 0; i < device_count; i++)
        for (int calls = 1; calls <= s->key_chunks && calls <= 3; calls += 2) {
            answer a = solve(devices[i], &p, calls), again = solve(devices[i], &p, calls);
            expect_right(&p, &a);
            expect_same_bits(&p, &a, &again);
            answer_close(&a);
            answer_close(&again);
        }
    for (int i = 0; i < device_count; i += 2) check_merged(devices[i], &p);
    problem_close(&p);
}

static bool too_large(const shape *s) {
    int64_t queries = 0, keys = 0;
    for (int i = 0; i < s->query_chunks; i++) queries += s->queries[i].rows;
    for (int i = 0; i < s->key_chunks; i++) keys += s->keys[i].rows;
    int64_t work = s->batch * s->heads * queries * keys * mf_max(s->head_dim, EMULATED_HEAD);
    if (!emulated() || work <= EMULATED_WORK) return false;
    print_message("left out: %lld queries of %lld keys are too many for emulated kernels\n",
                  (long long)queries, (long long)keys);
    return true;
}

static void check(const shape *s) {
    if (too_large(s)) return;
    check_type(s, MF_F32);
    check_type(s, MF_BF16);
}

static shape whole(int64_t batch, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim) {
    return (shape){.batch = batch,
                   .heads = heads,
                   .group = heads / kv_heads,
                   .kv_heads = kv_heads,
                   .head_dim = head_dim,
                   .query_chunks = 1,
                   .key_chunks = 1,
                   .queries = {{0, tokens}},
                   .keys = {{0, tokens}}};
}

static void one_token(void **state) {
    (void)state;
    shape s = whole(1, 1, 2, 1, 8);
    check(&s);
}

static void lengths_that_no_tile_divides(void **state) {
    (void)state;
    shape long_one = whole(1, 700, 2, 2, 20), middle = whole(2, 129, 4, 2, 64),
          wide = whole(1, 45, 3, 1, 128);
    check(&long_one);
    check(&middle);
    check(&wide);
}

static void one_query_of_many_heads(void **state) {
    (void)state;
    shape s = whole(2, 600, 8, 2, 16);
    s.queries[0] = (chunk){599, 1};
    check(&s);
}

/* One query a sequence over keys in several chunks, some of them after it; head sizes that no vector divides.
 */
static void one_query_of_many_chunks(void **state) {
    (void)state;
    static const int64_t lengths[] = {0, 1, 33, 100, 400};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int64_t batch = 1; batch < 3; batch++) {
            shape s = {.batch = batch,
                       .heads = 5,
                       .first_head = 1,
                       .group = 2,
                       .kv_heads = 3,
                       .head_dim = 20,
                       .window = lengths[i],
                       .query_chunks = 1,
                       .key_chunks = 4,
                       .queries = {{301, 1}},
                       .keys = {{0, 70}, {100, 3}, {103, 190}, {290, 40}}};
            check(&s);
            s.document = 150;
            check(&s);
        }
}

/* The call's heads 3 .. 8 of groups of 4 read key heads 0 (one of them), 1 (all) and 2 (one). */
static void heads_that_straddle_groups(void **state) {
    (void)state;
    shape s = whole(2, 150, 6, 1, 8);
    s.first_head = 7;
    s.group = 4;
    s.kv_heads = 3;
    s.first_kv_head = 1;
    check(&s);
    s.queries[0].rows = s.keys[0].rows = 9;
    check(&s);
}

/* More heads to a key head than share a unit, and than share a tile. */
static void large_groups(void **state) {
    (void)state;
    shape s = whole(1, 140, 11, 1, 8), few = whole(1, 20, 40, 1, 8);
    check(&s);
    check(&few);
}

/* A sequence cut in 2 * ranks pieces; rank r has pieces r and 2 * ranks - 1 - r, keys come in the order of
 * ranks. */
static void check_zigzag(int ranks, const int64_t *rows) {
    int64_t position[CHUNKS + 1] = {0};
    for (int i = 0; i < 2 * ranks; i++) position[i + 1] = position[i] + rows[i];
    shape s = whole(1, 0, 4, 2, 8);
    s.key_chunks = 2 * ranks;
    s.query_chunks = 2;
    for (int r = 0; r < ranks; r++) {
        int late = 2 * ranks - 1 - r;
        s.keys[2 * r] = (chunk){position[r], rows[r]};
        s.keys[2 * r + 1] = (chunk){position[late], rows[late]};
    }
    for (int r = 0; r < ranks; r++) {
        s.queries[0] = s.keys[2 * r];
        s.queries[1] = s.keys[2 * r + 1];
        check(&s);
    }
}

static void zigzag_cuts(void **state) {
    (void)state;
    check_zigzag(1, (int64_t[]){130, 131});
    check_zigzag(2, (int64_t[]){70, 70, 69, 69});
    check_zigzag(2, (int64_t[]){1, 0, 150, 2});
    check_zigzag(3, (int64_t[]){40, 33, 0, 64, 0, 17});
    check_zigzag(3, (int64_t[]){1, 1, 1, 1, 1, 0});
}

/* bf16 tiles multiplied as bf16 and as f32, whichever this machine would choose. */
static void both_types_of_products(void **state) {
    (void)state;
    if (!on_cpu()) skip();
    shape s = whole(1, 300, 4, 2, 64);
    problem p = problem_open(&s, MF_BF16);
    for (int type = MF_F32; type <= MF_BF16; type++) {
        mf_device *device = NULL;
        ASSERT_OK(mf_device_create("cpu", memory, DEVICES, &device));
        mf_status status = mf_cpu_attention_set_products(mf_cpu_of(device)->attention, (mf_dtype)type);
        if (status != MF_EUNSUPPORTED) {
            ASSERT_OK(status);
            answer a = solve(device, &p, 1);
            expect_right(&p, &a);
            answer_close(&a);
        }
        mf_device_destroy(device);
    }
    problem_close(&p);
}

/* Rows that are read in vectors, of every size of tile that a GPU has, and of heads that are none. */
static void rows_that_align(void **state) {
    (void)state;
    static const int64_t sizes[] = {32, 64, 72, 128, 200, 256, 264};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t rows = sizes[i] > 128 ? 100 : 130; /* more than a tile has */
        shape small = whole(1, 50, 2, 1, sizes[i]), middle = whole(1, rows, 1, 1, sizes[i]);
        small.aligned = middle.aligned = true;
        check(&small);
        check(&middle);
    }
}

/* More chunks of queries and of keys than a kernel is given as they are. */
static void many_chunks(void **state) {
    (void)state;
    shape s = whole(1, 0, 1, 1, 8);
    s.query_chunks = 26;
    s.key_chunks = 42;
    for (int i = 0; i < 42; i++) s.keys[i] = (chunk){2 * i, 2};
    for (int i = 0; i < 26; i++) s.queries[i] = s.keys[(i * 5 + 3) % 42];
    check(&s);
    s.document = 20;
    check(&s);
}

/* Every size of head, and so more shapes of products than a lane keeps. */
static void sizes_of_heads(void **state) {
    (void)state;
    for (int64_t d = 1; d <= 70; d++) {
        shape s = whole(1, 3, 2, 1, d);
        check_type(&s, MF_F32);
    }
}

static void nothing_to_do(void **state) {
    (void)state;
    shape no_tokens = whole(1, 0, 2, 1, 8), no_batch = whole(0, 5, 2, 1, 8);
    check(&no_tokens);
    check(&no_batch);
}

/* Windows of one token, shorter than a tile, than a chunk, as long, and longer than all. */
static void windows(void **state) {
    (void)state;
    static const int64_t lengths[] = {1, 2, 31, 40, 130, 512, 700};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        shape one = whole(1, 600, 2, 1, 8), few = whole(2, 33, 4, 2, 6);
        shape cut = {.batch = 1,
                     .heads = 3,
                     .group = 2,
                     .kv_heads = 2,
                     .head_dim = 4,
                     .query_chunks = 2,
                     .key_chunks = 4,
                     .queries = {{40, 40}, {240, 40}},
                     .keys = {{0, 40}, {280, 33}, {40, 40}, {200, 80}}};
        one.window = few.window = cut.window = lengths[i];
        check(&one);
        check(&few);
        check(&cut);
    }
}

/* Documents of a token or two, shorter than a tile, than a chunk, as long, and longer than all; in windows
 * too. */
static void documents(void **state) {
    (void)state;
    static const int64_t lengths[] = {1, 9, 40, 128, 300, 2000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int64_t window = 0; window <= 45; window += 45) {
            shape one = whole(1, 600, 2, 1, 8), few = whole(3, 33, 4, 2, 6);
            shape cut = {.batch = 2,
                         .heads = 3,
                         .group = 2,
                         .kv_heads = 2,
                         .head_dim = 4,
                         .query_chunks = 2,
                         .key_chunks = 4,
                         .queries = {{40, 40}, {240, 40}},
                         .keys = {{0, 40}, {280, 33}, {40, 40}, {200, 80}}};
            one.document = few.document = cut.document = lengths[i];
            one.window = few.window = cut.window = window;
            check(&one);
            check(&few);
            check(&cut);
        }
}

/* What a spatial-temporal model asks for: all places of a frame, and all frames of a place where its tokens
 * lie; keys in one chunk and in several anywhere. */
static void all_keys_and_turns(void **state) {
    (void)state;
    static const int64_t lengths[] = {1, 2, 17, 33, 130};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (int64_t turns = 0; turns <= 3; turns++) {
            int64_t tokens = lengths[i], batch = mf_max(1, tokens < 100 ? 2 * turns : turns);
            shape s = whole(batch, tokens, 4, 2, 5 + turns);
            s.all_keys = true;
            s.interleave = turns;
            check(&s);
            s.key_chunks = 3;
            s.keys[0] = (chunk){900, 5}, s.keys[1] = (chunk){0, tokens / 2}, s.keys[2] = (chunk){3, 1};
            check(&s);
        }
    shape several_tiles = whole(2, 600, 2, 1, 8);
    several_tiles.all_keys = true;
    several_tiles.interleave = 2;
    check(&several_tiles);
}

/* Chunks of queries too, and heads that straddle groups. */
static void all_keys_of_chunks(void **state) {
    (void)state;
    for (int64_t turns = 1; turns <= 2; turns++) {
        shape s = {.batch = 4,
                   .heads = 6,
                   .first_head = 7,
                   .group = 4,
                   .kv_heads = 3,
                   .first_kv_head = 1,
                   .head_dim = 20,
                   .all_keys = true,
                   .interleave = turns,
                   .query_chunks = 3,
                   .key_chunks = 2,
                   .queries = {{40, 9}, {0, 0}, {240, 20}},
                   .keys = {{10, 11}, {10, 23}}};
        check(&s);
        s.queries[1].rows = 140;
        check(&s);
    }
}

/* Positions, windows and documents mean what they do elsewhere where tokens take turns. */
static void turns_of_causal_sequences(void **state) {
    (void)state;
    for (int64_t window = 0; window <= 40; window += 40)
        for (int64_t document = 0; document <= 30; document += 30) {
            shape one = whole(3, 150, 2, 1, 8), single = whole(4, 90, 4, 2, 16);
            shape cut = {.batch = 4,
                         .heads = 3,
                         .group = 2,
                         .kv_heads = 2,
                         .head_dim = 4,
                         .query_chunks = 2,
                         .key_chunks = 4,
                         .queries = {{40, 40}, {240, 40}},
                         .keys = {{0, 40}, {280, 33}, {40, 40}, {200, 80}}};
            single.queries[0] = (chunk){89, 1};
            one.interleave = 3, single.interleave = cut.interleave = 2;
            one.window = single.window = cut.window = window;
            one.document = single.document = cut.document = document;
            check(&one);
            check(&single);
            check(&cut);
        }
}

static void expect_refused(const mf_attention_args *args) {
    float delta = 0;
    assert_int_equal(mf_attention_forward(devices[0], args), MF_EINVAL);
    assert_int_equal(mf_attention_backward(devices[0], args), MF_EINVAL);
    assert_int_equal(mf_attention_delta(devices[0], args, &delta), MF_EINVAL);
}

static void contradictions_are_refused(void **state) {
    (void)state;
    const int32_t first_key[6] = {0};
    mf_attention_args sizes = {.batch = 6, .tokens = 1, .heads = 1, .group = 1, .kv_heads = 1, .head_dim = 4};
    mf_attention_args window = sizes, document = sizes, remainder = sizes, negative = sizes;
    window.all_keys = document.all_keys = true;
    window.window = 1;
    document.first_key = first_key;
    remainder.interleave = 4;
    negative.interleave = -1;
    expect_refused(&window);
    expect_refused(&document);
    expect_refused(&remainder);
    expect_refused(&negative);
}

/* Queries that see no key at all: some rows of a tile, whole tiles, a whole chunk. */
static void queries_that_see_no_key(void **state) {
    (void)state;
    shape s = whole(2, 500, 4, 2, 8), chunks = whole(1, 0, 3, 1, 16), no_keys = whole(1, 20, 2, 1, 8);
    s.keys[0] = (chunk){300, 200};
    check(&s);
    chunks.query_chunks = 3, chunks.key_chunks = 2;
    chunks.queries[0] = (chunk){0, 40}, chunks.queries[1] = (chunk){40, 40},
    chunks.queries[2] = (chunk){90, 9};
    chunks.keys[0] = (chunk){200, 30}, chunks.keys[1] = (chunk){60, 20};
    check(&chunks);
    no_keys.key_chunks = 0;
    check(&no_keys);
}

/* Keys later than every query, or before its document, and no keys, and no queries: nothing is read or
 * written, in any call. */
static void calls_that_see_nothing(void **state) {
    (void)state;
    shape s = whole(2, 150, 4, 2, 8);
    s.keys[0].position = 150;
    problem p = problem_pose(&s, MF_F32);
    mf_query_chunk queries[CHUNKS];
    mf_key_chunk keys[CHUNKS];
    answer a = {.lse = before("lse", lse_count(&p)),
                .dq = before("dq", q_count(&p)),
                .dk = before("dk", kv_count(&p)),
                .dv = before("dv", kv_count(&p))};
    mf_attention_args later = arguments(&p, &a, queries, keys), no_keys = later, no_queries = later;
    mf_key_chunk before_all = keys[0];
    int32_t *first_key = take(2 * 150, sizeof *first_key);
    for (int i = 0; i < 2 * 150; i++) first_key[i] = 150;
    before_all.position = 0;
    float *o = before("o", q_count(&p)), *lse = before("lse", lse_count(&p)),
          *dk = before("dk", kv_count(&p));
    float *dq = before("dq", q_count(&p)), *dv = before("dv", kv_count(&p));
    memcpy(p.o_data, o, (size_t)q_count(&p) * sizeof *o);
    keys[0].k = keys[0].v = before_all.k = before_all.v = later.q = later.d_o = NULL;
    mf_attention_args earlier = later;
    earlier.keys = &before_all;
    earlier.first_key = first_key;
    no_keys.key_chunks = 0, no_keys.keys = NULL;
    no_queries.query_chunks = 0, no_queries.queries = NULL;
    mf_attention_args calls[] = {later, earlier, no_keys, no_queries};
    for (int i = 0; i < 4 * DEVICES; i++) {
        double flops = mf_device_flops(devices[i / 4]);
        calls[i % 4].merge = true;
        ASSERT_OK(mf_attention_forward(devices[i / 4], &calls[i % 4]));
        ASSERT_OK(mf_attention_backward(devices[i / 4], &calls[i % 4]));
        assert_true(mf_device_flops(devices[i / 4]) == flops);
    }
    assert_memory_equal(p.o_data, o, (size_t)q_count(&p) * sizeof *o);
    assert_memory_equal(a.lse, lse, (size_t)lse_count(&p) * sizeof *lse);
    assert_memory_equal(a.dq, dq, (size_t)q_count(&p) * sizeof *dq);
    assert_memory_equal(a.dk, dk, (size_t)kv_count(&p) * sizeof *dk);
    assert_memory_equal(a.dv, dv, (size_t)kv_count(&p) * sizeof *dv);
    float *owned[] = {o, lse, dq, dk, dv};
    for (int i = 0; i < 5; i++) machine_give_back(owned[i]);
    machine_give_back(first_key);
    answer_close(&a);
    problem_close(&p);
}

/* Of a tile whose later rows see this call's keys, the earlier rows keep o and lse to the bit. */
static void rows_before_the_keys_stay(void **state) {
    (void)state;
    shape s = whole(1, 100, 2, 1, 8);
    s.keys[0] = (chunk){60, 40};
    problem p = problem_pose(&s, MF_F32);
    mf_query_chunk queries[CHUNKS];
    mf_key_chunk keys[CHUNKS];
    answer a = {.lse = before("lse", lse_count(&p)), .dk = take(0, 1), .dv = take(0, 1)};
    mf_attention_args args = arguments(&p, &a, queries, keys);
    float *o = before("o", q_count(&p)), *lse = before("lse", lse_count(&p));
    memcpy(p.o_data, o, (size_t)q_count(&p) * sizeof *o);
    lse[3 * p.lse_ld] = a.lse[3 * p.lse_ld] = -INFINITY;
    args.merge = true;
    ASSERT_OK(mf_attention_forward(devices[0], &args));
    for (int64_t i = 0; i < 100; i++) {
        assert_int_equal(((float *)p.o_data)[i * p.q_ld] != o[i * p.q_ld], i >= 60);
        assert_int_equal(a.lse[i * p.lse_ld] != lse[i * p.lse_ld], i >= 60);
    }
    assert_memory_equal(p.o_data, o, (size_t)(60 * p.q_ld) * sizeof *o);
    assert_memory_equal(a.lse, lse, (size_t)(60 * p.lse_ld) * sizeof *lse);
    machine_give_back(o);
    machine_give_back(lse);
    answer_close(&a);
    problem_close(&p);
}

/* Tokens that see a NaN have NaN; those before it do not know of it. */
static void nan_stays_nan(void **state) {
    (void)state;
    shape s = whole(1, 40, 1, 1, 8);
    problem p = problem_open(&s, MF_F32);
    ((float *)p.k_data)[39 * p.kv_ld] = NAN;
    for (int how = IN_ORDER; how <= DEALINGS; how++) {
        answer a = how < DEALINGS ? solve_merged(devices[0], &p, 3, (dealing)how) : solve(devices[0], &p, 1);
        for (int64_t i = 0; i < 40; i++) {
            assert_int_equal(isnan(a.o[i * p.q_ld]) != 0, i == 39);
            assert_int_equal(isnan(a.lse[i * p.lse_ld]) != 0, i == 39);
        }
        answer_close(&a);
    }
    problem_close(&p);
}

/* Scores of thousands neither overflow nor vanish: the largest takes all. */
static void large_scores(void **state) {
    (void)state;
    shape s = whole(1, 70, 2, 1, 8);
    problem p = problem_open(&s, MF_F32);
    for (int64_t i = 0; i < q_count(&p); i++) ((float *)p.q_data)[i] = p.q[i] *= 3000;
    memset(p.o, 0, (size_t)q_count(&p) * sizeof *p.o);
    for (int64_t i = 0; i < 70; i++)
        for (int64_t h = 0; h < 2; h++) reference_row(&p, 0, i, i, h);
    for (int calls = 1; calls <= 5; calls++) {
        answer a = calls == 1 ? solve(devices[0], &p, 1) : solve_merged(devices[0], &p, calls, BACKWARDS);
        expect_near("o", relative_error(q_count(&p), a.o, p.o) * 0.01,
                    MF_F32); /* rounding of scores, times scores */
        expect_lse(&p, a.lse);
        answer_close(&a);
    }
    problem_close(&p);
}

static void exponentials(void **state) {
    (void)state;
    if (!on_cpu()) skip();
    float row[64];
    for (int i = 0; i < 4000; i++) {
        for (int j = 0; j < 64; j++) row[j] = -125.0f * (float)(i * 64 + j) / 256000.0f;
        float first = row[0], sum = mf_cpu_row_exponentials(row, 64, 1, 0);
        double expected = 0;
        for (int j = 0; j < 64; j++) {
            double exact = exp2((double)(-125.0f * (float)(i * 64 + j) / 256000.0f));
            assert_true(fabs((double)row[j] - exact) <= 2e-7 * exact);
            expected += exact;
        }
        assert_true(fabs((double)sum - expected) <= 1e-6 * expected);
        assert_true(mf_cpu_row_exp2(first) == row[0]);
    }
    assert_true(mf_cpu_row_exp2(0) == 1.0f);
    assert_true(mf_cpu_row_exp2(-INFINITY) == 0.0f);
    assert_true(mf_cpu_row_exp2(-200) == 0.0f);
    assert_true(isinf(mf_cpu_row_exp2(INFINITY)));
    assert_true(isnan(mf_cpu_row_exp2(NAN)));
}

/* What is asked of the allocator is what the sizes alone say, it stays, and it does not grow with the
 * sequence. */
static int64_t workspace_of_backward(int64_t tokens) {
    shape s = whole(1, tokens, 4, 1, 16);
    problem p = problem_pose(&s, MF_BF16);
    mf_query_chunk queries[CHUNKS];
    mf_key_chunk keys[CHUNKS];
    mf_device *device = NULL;
    mf_memory *own = NULL;
    answer a = {.lse = before("lse", lse_count(&p)),
                .delta = before("delta", p.tokens * s.heads),
                .dq = before("dq", q_count(&p)),
                .dk = before("dk", kv_count(&p)),
                .dv = before("dv", kv_count(&p))};
    mf_attention_args args = arguments(&p, &a, queries, keys);
    ASSERT_OK(mf_memory_create(NULL, &own));
    ASSERT_OK(mf_device_create("cpu", own, DEVICES, &device));
    int64_t held = mf_memory_stats_get(own).now_total;
    int64_t bytes = (int64_t)mf_cpu_attention_workspace(&args, DEVICES, true);
    for (int i = 0; i < 2; i++) {
        ASSERT_OK(mf_attention_backward(device, &args));
        assert_int_equal(mf_memory_stats_get(own).now[MF_WORKSPACE] - held, bytes);
    }
    mf_device_destroy(device);
    assert_int_equal(mf_memory_stats_get(own).now_total, 0);
    mf_memory_destroy(own);
    answer_close(&a);
    problem_close(&p);
    return bytes;
}

static void workspace_is_as_predicted(void **state) {
    (void)state;
    if (!on_cpu()) skip();
    assert_int_equal(workspace_of_backward(700), workspace_of_backward(1400));
}

typedef struct workspace {
    int64_t forward, both;
} workspace;

static workspace workspace_on(const char *name, int threads, const mf_attention_args *args) {
    mf_device *device = NULL;
    mf_memory *own = NULL;
    workspace taken;
    ASSERT_OK(mf_memory_create(NULL, &own));
    ASSERT_OK(mf_device_create(name, own, threads, &device));
    ASSERT_OK(mf_attention_forward(device, args));
    taken.forward = mf_memory_stats_get(own).now[MF_WORKSPACE];
    ASSERT_OK(mf_attention_backward(device, args));
    taken.both = mf_memory_stats_get(own).now[MF_WORKSPACE];
    mf_device_destroy(device);
    mf_memory_destroy(own);
    return taken;
}

static void expect_dry_workspace(int64_t tokens, mf_dtype type) {
    shape s = whole(6, tokens, 4, 2, 20);
    s.all_keys = true, s.interleave = 3;
    problem p = problem_pose(&s, type);
    mf_query_chunk queries[CHUNKS];
    mf_key_chunk keys[CHUNKS];
    answer a = {.lse = before("lse", lse_count(&p)),
                .delta = before("delta", s.batch * p.tokens * s.heads),
                .dq = before("dq", q_count(&p)),
                .dk = before("dk", kv_count(&p)),
                .dv = before("dv", kv_count(&p))};
    mf_attention_args args = arguments(&p, &a, queries, keys);
    for (int threads = 1; threads <= DEVICES; threads++) {
        workspace cpu = workspace_on("cpu", threads, &args), dry = workspace_on("dry", threads, &args);
        assert_true(cpu.both > 0);
        assert_int_equal(cpu.forward, dry.forward);
        assert_int_equal(cpu.both, dry.both);
    }
    answer_close(&a);
    problem_close(&p);
}

/* A device that computes nothing takes the same. */
static void workspace_is_the_dry_devices(void **state) {
    (void)state;
    if (!on_cpu()) skip();
    static const int64_t lengths[] = {1, 16, 33, 129, 700};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        expect_dry_workspace(lengths[i], MF_F32);
        expect_dry_workspace(lengths[i], MF_BF16);
    }
}

/* Every allocation of a first call fails once: an error, and the next call is right. */
static void failed_allocations(void **state) {
    (void)state;
    shape s = whole(1, 40, 2, 1, 8);
    problem p = problem_open(&s, MF_F32);
    for (int64_t n = 1, failed = 1; failed; n++) {
        mf_device *device = NULL;
        mf_query_chunk queries[CHUNKS];
        mf_key_chunk keys[CHUNKS];
        answer a = {.lse = take(lse_count(&p), sizeof(float)), .dk = take(0, 1), .dv = take(0, 1)};
        mf_attention_args args = arguments(&p, &a, queries, keys);
        ASSERT_OK(mf_device_create(machine_name(), memory, DEVICES, &device));
        mf_fault_arm(MF_FAULT_ALLOC, n);
        mf_status status = mf_attention_forward(device, &args);
        failed = mf_fault_fired(MF_FAULT_ALLOC);
        mf_fault_arm(MF_FAULT_ALLOC, 0);
        assert_int_equal(status, failed ? MF_ENOMEM : MF_OK);
        answer_close(&a);
        a = solve(device, &p, 1);
        expect_right(&p, &a);
        answer_close(&a);
        mf_device_destroy(device);
    }
    problem_close(&p);
}

static double pairs_seen(const problem *p) {
    const shape *s = &p->s;
    double pairs = 0;
    for (int64_t b = 0; b < s->batch; b++)
        for (int64_t i = 0, token = 0; i < s->query_chunks; i++)
            for (int64_t q = 0; q < s->queries[i].rows; q++, token++)
                for (int j = 0; j < s->key_chunks; j++)
                    for (int64_t k = 0; k < s->keys[j].rows; k++)
                        pairs += sees(p, b, token, s->queries[i].position + q, s->keys[j].position + k);
    return pairs * (double)s->heads;
}

/* Rank `rank` of `ranks` in a zigzag of chunks of unlike sizes, its queries over all the keys. */
static void count_operations(int ranks, int rank, int64_t unit, int64_t document, bool all_keys) {
    shape s = whole(2, 0, 3, 3, 8);
    s.document = document;
    s.window = document % 2 ? 10 : 0;
    s.all_keys = all_keys;
    s.query_chunks = 2;
    s.key_chunks = 2 * ranks;
    for (int64_t i = 0, position = 0; i < s.key_chunks; position += s.keys[i++].rows)
        s.keys[i] = (chunk){position, unit + i % 3};
    s.queries[0] = s.keys[rank];
    s.queries[1] = s.keys[s.key_chunks - 1 - rank];
    problem p = problem_pose(&s, MF_F32);
    double start = mf_device_flops(devices[0]);
    answer a = solve(devices[0], &p, 1);
    assert_true(mf_device_flops(devices[0]) - start == (4.0 + 10.0) * 8 * pairs_seen(&p));
    answer_close(&a);
    problem_close(&p);
}

static void operations_are_counted(void **state) {
    (void)state;
    for (int ranks = 1; ranks <= (emulated() ? 2 : 4); ranks++)
        for (int rank = 0; rank < ranks; rank++)
            for (int64_t unit = 1; unit < 40; unit += 19)
                for (int64_t document = 0; document < 12; document += 5) {
                    count_operations(ranks, rank, unit, document, false);
                    if (document == 0) count_operations(ranks, rank, unit, document, true);
                }
}

typedef struct rank_run {
    pthread_t thread;
    problem own; /* its outputs; inputs are shared */
    answer a;
} rank_run;

static void *run_rank(void *argument) {
    rank_run *run = argument;
    mf_memory *own_memory = NULL;
    mf_device *device = NULL;
    ASSERT_OK(mf_device_memory_create(machine_name(), &own_memory));
    ASSERT_OK(mf_device_create(machine_name(), own_memory, 1, &device));
    run->a = solve(device, &run->own, 1);
    mf_device_destroy(device);
    mf_memory_destroy(own_memory);
    return NULL;
}

/* Ranks are threads that share nothing but what they read. */
static void ranks_as_threads(void **state) {
    (void)state;
    shape s = whole(1, 150, 4, 2, 8);
    problem p = problem_open(&s, MF_BF16);
    rank_run runs[3];
    for (int i = 0; i < 3; i++) {
        runs[i] = (rank_run){.own = p};
        runs[i].own.o_data = take(q_count(&p), mf_dtype_bytes(p.type));
        assert_int_equal(pthread_create(&runs[i].thread, NULL, run_rank, &runs[i]), 0);
    }
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_join(runs[i].thread, NULL), 0);
    for (int i = 0; i < 3; i++) {
        expect_right(&p, &runs[i].a);
        expect_same_bits(&p, &runs[i].a, &runs[0].a);
    }
    for (int i = 0; i < 3; i++) {
        answer_close(&runs[i].a);
        machine_give_back(runs[i].own.o_data);
    }
    problem_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_token),
        cmocka_unit_test(lengths_that_no_tile_divides),
        cmocka_unit_test(one_query_of_many_heads),
        cmocka_unit_test(one_query_of_many_chunks),
        cmocka_unit_test(heads_that_straddle_groups),
        cmocka_unit_test(large_groups),
        cmocka_unit_test(zigzag_cuts),
        cmocka_unit_test(both_types_of_products),
        cmocka_unit_test(rows_that_align),
        cmocka_unit_test(many_chunks),
        cmocka_unit_test(sizes_of_heads),
        cmocka_unit_test(nothing_to_do),
        cmocka_unit_test(windows),
        cmocka_unit_test(documents),
        cmocka_unit_test(all_keys_and_turns),
        cmocka_unit_test(all_keys_of_chunks),
        cmocka_unit_test(turns_of_causal_sequences),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(queries_that_see_no_key),
        cmocka_unit_test(calls_that_see_nothing),
        cmocka_unit_test(rows_before_the_keys_stay),
        cmocka_unit_test(nan_stays_nan),
        cmocka_unit_test(large_scores),
        cmocka_unit_test(exponentials),
        cmocka_unit_test(workspace_is_as_predicted),
        cmocka_unit_test(workspace_is_the_dry_devices),
        cmocka_unit_test(failed_allocations),
        cmocka_unit_test(operations_are_counted),
        cmocka_unit_test(ranks_as_threads),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
