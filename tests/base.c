/* base.c: status and trace, injected faults, random numbers, bf16, the worker, the accounted allocator. */
#include "support.h"
#include "meshfold/memory.h"
#include "memory/spares.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Status and trace. */

static mf_status arise(const char *what) { return MF_FAIL(MF_EFORMAT, "%s is %d", what, 42); }

static mf_status pass_up(int levels) {
    if (levels == 0) return arise("answer");
    MF_TRY(pass_up(levels - 1));
    return MF_OK;
}

static mf_status jump_out(int *reached) {
    mf_status status = MF_OK;
    MF_GO(pass_up(0));
    *reached = 1;
fail:
    *reached += 2;
    return status;
}

static void test_trace(void **state) {
    (void)state;
    mf_rank_set(5);
    ASSERT_FAILS(pass_up(3), MF_EFORMAT, "answer is 42");
    mf_rank_set(-1);
    const mf_error *e = mf_error_last();
    assert_int_equal(e->status, MF_EFORMAT);
    assert_int_equal(e->rank, 5);
    assert_int_equal(e->depth, 4); /* where it arose, and three MF_TRY */
    for (int i = 0; i < e->depth; i++) assert_non_null(strstr(e->trace[i].file, "base.c"));
    assert_true(e->trace[0].line < e->trace[1].line);
    assert_int_equal(e->trace[1].line, e->trace[3].line);
}

static void test_trace_is_bounded(void **state) {
    (void)state;
    ASSERT_FAILS(pass_up(3 * MF_ERROR_TRACE), MF_EFORMAT, "answer");
    assert_int_equal(mf_error_last()->depth, MF_ERROR_TRACE);
    ASSERT_FAILS(pass_up(0), MF_EFORMAT, "answer");
    assert_int_equal(mf_error_last()->depth, 1);
}

static void test_go(void **state) {
    (void)state;
    int reached = 0;
    ASSERT_FAILS(jump_out(&reached), MF_EFORMAT, "answer");
    assert_int_equal(reached, 2);
    assert_int_equal(mf_error_last()->depth, 2);
}

static void test_long_message(void **state) {
    (void)state;
    char text[2000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    ASSERT_FAILS(MF_FAIL(MF_EIO, "%s", text), MF_EIO, "xxx");
    assert_int_equal(strlen(mf_error_last()->message), sizeof mf_error_last()->message - 1);
    ASSERT_FAILS(MF_FAIL(MF_EIO, "%s: %s: is broken", "here", text), MF_EIO, ": is broken");
    assert_non_null(strstr(mf_error_last()->message, "here: xxx"));
}

/* Names from files are in messages: with any characters, or cut within one. */
static void test_clean_message(void **state) {
    (void)state;
    ASSERT_FAILS(MF_FAIL(MF_EIO, "a\nb\x7f: \xc3\xa4%.2s is cut", "\xe2\x82\xac"), MF_EIO, "");
    assert_string_equal(mf_error_last()->message, "a b : \xc3\xa4 is cut");
    ASSERT_FAILS(MF_FAIL(MF_EIO, "outside: %s", mf_error_last()->message), MF_EIO, "");
    assert_string_equal(mf_error_last()->message, "outside: a b : \xc3\xa4 is cut");
    /* too long for what they say, half a pair, beyond Unicode */
    ASSERT_FAILS(MF_FAIL(MF_EIO, "a\xc0\x80\xe0\x9f\xbf\xf0\x8f\xbf\xbf\xed\xa0\x80\xf4\x90\x80\x80z"),
                 MF_EIO, "");
    assert_string_equal(mf_error_last()->message, "az");
    ASSERT_FAILS(MF_FAIL(MF_EIO, "\xe0\xa0\x80\xf0\x90\x80\x80\xed\x9f\xbf\xf4\x8f\xbf\xbf"), MF_EIO,
                 "\xe0\xa0\x80\xf0\x90\x80\x80\xed\x9f\xbf\xf4\x8f\xbf\xbf");
}

static void test_names(void **state) {
    (void)state;
    assert_string_equal(mf_status_name(MF_OK), "MF_OK");
    assert_string_equal(mf_status_name(MF_ELIBRARY), "MF_ELIBRARY");
    assert_string_equal(mf_status_text(MF_ETIMEOUT), "a collective waited too long");
    for (int s = MF_OK; s <= MF_ELIBRARY; s++) assert_true(strlen(mf_status_text((mf_status)s)) > 0);
    assert_int_equal(mf_dtype_bytes(MF_F32), 4);
    assert_int_equal(mf_dtype_bytes(MF_BF16), 2);
    assert_string_equal(mf_dtype_name(MF_BF16), "bf16");
}

static void *fail_elsewhere(void *out) {
    mf_rank_set(3);
    arise("elsewhere");
    *(mf_error *)out = *mf_error_last();
    return NULL;
}

/* An error and a rank are their thread's own; adopting one carries all of it over. */
static void test_threads_errors(void **state) {
    (void)state;
    mf_error theirs;
    pthread_t thread;
    ASSERT_FAILS(arise("here"), MF_EFORMAT, "here is");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &theirs), 0);
    pthread_join(thread, NULL);
    assert_non_null(strstr(mf_error_last()->message, "here is 42"));
    assert_null(strstr(mf_error_last()->message, "elsewhere"));
    assert_int_equal(mf_rank_get(), -1);
    ASSERT_FAILS(mf_error_adopt(&theirs), MF_EFORMAT, "elsewhere is 42");
    assert_int_equal(mf_error_last()->rank, 3);
    assert_int_equal(mf_error_adopt(mf_error_last()), MF_EFORMAT);
}

/* Faults and host memory. */

static void test_faults(void **state) {
    (void)state;
    assert_false(mf_fault_fired(MF_FAULT_COMM));
    mf_fault_arm(MF_FAULT_COMM, 3);
    for (int event = 1; event <= 6; event++) {
        assert_int_equal(mf_fault_hit(MF_FAULT_COMM), event == 3);
        assert_int_equal(mf_fault_fired(MF_FAULT_COMM), event >= 3);
        assert_false(mf_fault_hit(MF_FAULT_ALLOC));
    }
    mf_fault_arm(MF_FAULT_COMM, 1);
    assert_false(mf_fault_fired(MF_FAULT_COMM));
    assert_true(mf_fault_hit(MF_FAULT_COMM));
    mf_fault_arm(MF_FAULT_COMM, 0);
    assert_false(mf_fault_hit(MF_FAULT_COMM));
    assert_false(mf_fault_fired(MF_FAULT_COMM));
}

static void test_host_memory(void **state) {
    (void)state;
    unsigned char *zeroed = NULL;
    char *text = NULL;
    ASSERT_OK(mf_host_alloc(1000, 3, &zeroed));
    for (int i = 0; i < 3000; i++) assert_int_equal(zeroed[i], 0);
    mf_host_free(zeroed);
    ASSERT_OK(mf_host_alloc(0, 0, &zeroed));
    assert_non_null(zeroed);
    mf_host_free(zeroed);
    ASSERT_OK(mf_host_strdup("", &text));
    assert_string_equal(text, "");
    mf_host_free(text);
    ASSERT_FAILS(mf_host_alloc(SIZE_MAX / 2, 4, &zeroed), MF_ENOMEM, "no host memory");
    assert_null(zeroed);
    mf_fault_arm(MF_FAULT_ALLOC, 2);
    ASSERT_OK(mf_host_strdup("first", &text));
    mf_host_free(text);
    ASSERT_FAILS(mf_host_strdup("second", &text), MF_ENOMEM, "no host memory");
    mf_fault_arm(MF_FAULT_ALLOC, 0);
    assert_null(text);
    mf_host_free(NULL);
}

static void test_clock(void **state) {
    (void)state;
    double before = mf_now_s();
    for (int i = 0; i < 1000; i++) {
        double now = mf_now_s();
        assert_true(now >= before);
        before = now;
    }
}

static void test_small_arithmetic(void **state) {
    (void)state;
    assert_int_equal(mf_ceil_div(0, 7), 0);
    assert_int_equal(mf_ceil_div(14, 7), 2);
    assert_int_equal(mf_ceil_div(15, 7), 3);
    assert_true(mf_min(-2, 3) == -2 && mf_max(-2, 3) == 3);
}

/* Random numbers. */

/* The published known answers of Philox 4x32-10 (Random123's kat_vectors): the seed is the generator's key,
 * index and key are the counter's low and high halves, and a value its first two words. */
static void test_philox(void **state) {
    (void)state;
    static const uint64_t known[][4] = {
        {0, 0, 0, 0xe169c58d6627e8d5u},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, 0x41c83b0e408f276du},
        {0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u, 0x94fdccebd16cfe09u}};
    for (int i = 0; i < 3; i++)
        assert_int_equal(mf_random_u64(known[i][0], known[i][1], known[i][2]), known[i][3]);
}

static void test_keys(void **state) {
    (void)state;
    assert_int_equal(mf_random_key(""), 0xcbf29ce484222325u); /* FNV-1a's published answers */
    assert_int_equal(mf_random_key("a"), 0xaf63dc4c8601ec8cu);
    assert_int_equal(mf_random_key("foobar"), 0x85944171f73967e8u);
}

/* Seed, key and index each matter, and every bit of a value is one half of the time. */
static void test_uniform(void **state) {
    (void)state;
    enum { N = 40000 };
    int ones[64] = {0};
    assert_true(mf_random_u64(1, 2, 3) != mf_random_u64(2, 1, 3));
    assert_true(mf_random_u64(1, 2, 3) != mf_random_u64(1, 3, 2));
    assert_true(mf_random_u64(0, 0, UINT64_C(1) << 40) != mf_random_u64(0, 0, 0));
    for (uint64_t i = 0; i < N; i++)
        for (int bit = 0; bit < 64; bit++) ones[bit] += (int)(mf_random_u64(9, 9, i) >> bit & 1);
    for (int bit = 0; bit < 64; bit++) assert_true(abs(ones[bit] - N / 2) < 5 * 100); /* 100: a deviation */
}

static void test_normal(void **state) {
    (void)state;
    enum { N = 100000 };
    int below = 0, beyond = 0;
    for (uint64_t i = 0; i < N; i++) {
        float x = mf_random_normal(5, 6, i);
        assert_true(isfinite(x) && fabsf(x) < 6.8f);
        below += x<-1, beyond += fabsf(x)> 2;
    }
    assert_true(fabs(below / (double)N - 0.158655) < 0.006);
    assert_true(fabs(beyond / (double)N - 0.045500) < 0.0035);
}

/* bf16. */

static uint16_t from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return mf_bf16_from_f32(value);
}

static void test_bf16(void **state) {
    (void)state;
    static const uint32_t cases[][2] = {
        {0x3f800000, 0x3f80}, /* 1 */
        {0x3f808000, 0x3f80}, /* a tie goes to the even one, down */
        {0x3f818000, 0x3f82}, /* and up */
        {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80}, {0x7f7fffff, 0x7f80}, /* the largest overflows */
        {0x7f7f7fff, 0x7f7f}, {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, /* infinities */
        {0x80000000, 0x8000}, {0x00000001, 0x0000}, {0x00008001, 0x0001}, /* subnormals */
        {0x007fffff, 0x0080}, {0x807f8000, 0x8080}, {0x00018000, 0x0002}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(from_bits(cases[i][0]), cases[i][1]);
    for (uint32_t tail = 1; tail < 0x800000; tail += 0x7fff) {
        assert_true(isnan(mf_f32_from_bf16(from_bits(0x7f800000 | tail))));
        assert_true(isnan(mf_f32_from_bf16(from_bits(0xff800000 | tail))));
    }
    for (uint32_t all = 0; all < 65536; all++) {
        float value = mf_f32_from_bf16((uint16_t)all);
        assert_true(isnan(value) || mf_bf16_from_f32(value) == all);
    }
}

/* The worker. */

enum { JOBS = 300 }; /* more than a worker holds at once */

typedef struct record {
    int order[JOBS], count;
    int fail_at; /* this job fails; 0: none */
    atomic_int released;
} record;

typedef struct entry {
    record *record;
    int number;
} entry;

static mf_status note(void *argument) {
    entry *e = argument;
    e->record->order[e->record->count++] = e->number;
    if (e->number == e->record->fail_at) return MF_FAIL(MF_EIO, "job %d broke", e->number);
    return MF_OK;
}

static void post_all(mf_worker *worker, record *r, entry *entries, uint64_t *tickets) {
    for (int i = 0; i < JOBS; i++) {
        entries[i] = (entry){r, i + 1};
        ASSERT_OK(mf_worker_post(worker, note, &entries[i], &tickets[i]));
        assert_true(tickets[i] != 0 && (i == 0 || tickets[i] > tickets[i - 1]));
    }
}

static void test_worker_order(void **state) {
    (void)state;
    record r = {.count = 0};
    entry entries[JOBS];
    uint64_t tickets[JOBS];
    mf_worker *worker = NULL;
    ASSERT_OK(mf_worker_create(2, &worker));
    post_all(worker, &r, entries, tickets);
    ASSERT_OK(mf_worker_wait(worker, tickets[JOBS - 1]));
    ASSERT_OK(mf_worker_wait(worker, tickets[0]));
    mf_worker_destroy(worker);
    assert_int_equal(r.count, JOBS);
    for (int i = 0; i < JOBS; i++) assert_int_equal(r.order[i], i + 1);
}

/* Who waits for a job gets the first error of that job and those before it; jobs after an error don't run. */
static void test_worker_error(void **state) {
    (void)state;
    record r = {.fail_at = 100};
    entry entries[JOBS];
    uint64_t tickets[JOBS];
    mf_worker *worker = NULL;
    ASSERT_OK(mf_worker_create(4, &worker));
    post_all(worker, &r, entries, tickets);
    ASSERT_FAILS(mf_worker_wait(worker, tickets[JOBS - 1]), MF_EIO, "job 100 broke");
    assert_int_equal(mf_error_last()->rank, 4);
    ASSERT_OK(mf_worker_wait(worker, tickets[98]));
    ASSERT_FAILS(mf_worker_wait(worker, tickets[99]), MF_EIO, "job 100 broke");
    mf_worker_destroy(worker);
    assert_int_equal(r.count, 100);
}

static mf_status hold(void *argument) {
    record *r = argument;
    while (!atomic_load(&r->released)) {
    }
    return MF_OK;
}

/* A full ring makes the one who posts wait, and nothing is lost; what is posted when the end comes is run. */
static void *release_soon(void *argument) {
    record *r = argument;
    for (double until = mf_now_s() + 0.02; mf_now_s() < until;) {
    }
    atomic_store(&r->released, 1);
    return NULL;
}

static void test_worker_destroy_runs_all(void **state) {
    (void)state;
    record r = {.count = 0};
    entry entries[JOBS];
    uint64_t tickets[JOBS], first;
    mf_worker *worker = NULL;
    pthread_t thread;
    ASSERT_OK(mf_worker_create(0, &worker));
    ASSERT_OK(mf_worker_post(worker, hold, &r, &first));
    assert_int_equal(pthread_create(&thread, NULL, release_soon, &r), 0);
    post_all(worker, &r, entries, tickets);
    mf_worker_destroy(worker);
    pthread_join(thread, NULL);
    assert_int_equal(r.count, JOBS);
    mf_worker_destroy(NULL);
}

static void test_worker_without_memory(void **state) {
    (void)state;
    mf_worker *worker = NULL;
    mf_fault_arm(MF_FAULT_ALLOC, 1);
    ASSERT_FAILS(mf_worker_create(0, &worker), MF_ENOMEM, "no host memory");
    mf_fault_arm(MF_FAULT_ALLOC, 0);
    assert_null(worker);
}

/* The accounted allocator. */

static struct {
    int64_t taken, given, limit;
    int open;
} counted;

static void *take_counted(void *context, size_t bytes) {
    (void)context;
    if (counted.limit && counted.taken - counted.given + (int64_t)bytes > counted.limit) return NULL;
    counted.taken += (int64_t)bytes;
    counted.open++;
    return aligned_alloc(64, bytes);
}

static void give_counted(void *context, void *data, size_t bytes) {
    (void)context;
    counted.given += (int64_t)bytes;
    counted.open--;
    free(data);
}

static mf_memory *memory_make(int64_t limit) {
    static const mf_memory_source source = {take_counted, give_counted, NULL, NULL, NULL};
    mf_memory *memory = NULL;
    memset(&counted, 0, sizeof counted);
    counted.limit = limit;
    ASSERT_OK(mf_memory_create(&source, &memory));
    return memory;
}

static mf_buffer buffer_make(mf_memory *memory, mf_category category, size_t bytes) {
    mf_buffer b = {0};
    ASSERT_OK(mf_buffer_alloc(memory, category, bytes, "it", &b));
    assert_true(b.data && (uintptr_t)b.data % 64 == 0);
    assert_true(b.bytes >= bytes && b.bytes < bytes + 64 && b.category == category);
    memset(b.data, 1, b.bytes);
    return b;
}

static void test_memory_counts(void **state) {
    (void)state;
    mf_memory *memory = memory_make(0);
    mf_buffer w = buffer_make(memory, MF_WEIGHTS, 640), g = buffer_make(memory, MF_GRADS, 1280),
              s = buffer_make(memory, MF_STREAM, 64);
    mf_buffer_free(memory, &g);
    assert_true(!g.data && g.bytes == 0);
    mf_buffer_free(memory, &g);
    mf_buffer a =
        buffer_make(memory, MF_ACTIVATIONS, 1000); /* 1024 with its alignment: total below the peak */
    mf_memory_stats stats = mf_memory_stats_get(memory);
    assert_int_equal(stats.now_total, 640 + 64 + 1024);
    assert_int_equal(stats.peak_total, 640 + 1280 + 64);
    assert_int_equal(stats.now[MF_GRADS], 0);
    assert_int_equal(stats.peak[MF_GRADS], 1280);
    assert_int_equal(stats.at_peak[MF_GRADS], 1280);
    assert_int_equal(stats.peak[MF_ACTIVATIONS], 1024);
    assert_int_equal(stats.at_peak[MF_ACTIVATIONS], 0);
    assert_int_equal(stats.now_total, counted.taken - counted.given);
    mf_buffer_free(memory, &w);
    mf_buffer_free(memory, &s);
    mf_buffer_free(memory, &a);
    assert_int_equal(mf_memory_stats_get(memory).now_total, 0);
    assert_true(counted.open == 0 && counted.taken == counted.given);
    mf_memory_destroy(memory);
    mf_memory_destroy(NULL);
}

/* Pages that spares took, by page: held, spare, or given back. */
enum { SPARE_PAGES = 256, PAGE_BYTES = 4096 };
static struct {
    char *base;
    char state[SPARE_PAGES];
} pages;

static void set_pages(void *data, size_t bytes, char from, char to) {
    size_t first = (size_t)((char *)data - pages.base) / PAGE_BYTES;
    for (size_t i = first; i < first + bytes / PAGE_BYTES; i++) {
        assert_int_equal(pages.state[i], from);
        pages.state[i] = to;
    }
}

static void drop_pages(void *data, size_t bytes) { set_pages(data, bytes, 's', 'd'); }

static int64_t count_pages(char state) {
    int64_t n = 0;
    for (int i = 0; i < SPARE_PAGES; i++) n += pages.state[i] == state;
    return n;
}

/* Blocks come and go in random sizes: no page is ever in two places, and what is kept is counted. */
static void test_spares(void **state) {
    (void)state;
    enum { BLOCKS = 32 };
    static char memory[SPARE_PAGES * PAGE_BYTES];
    mf_spares spares = {.drop = drop_pages};
    mf_spare held[BLOCKS] = {{0}};
    pages.base = memory;
    memset(pages.state, 'h', sizeof pages.state);
    mf_spares_add(&spares, memory, sizeof memory);
    memset(pages.state, 's', sizeof pages.state);
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t random = mf_random_u64(2, 1, i);
        mf_spare *b = &held[random % BLOCKS];
        size_t bytes = (1 + random / BLOCKS % 24) * PAGE_BYTES;
        if (b->data) {
            set_pages(b->data, b->bytes, 'h', 's');
            mf_spares_add(&spares, b->data, b->bytes);
            b->data = NULL;
        } else if ((b->data = mf_spares_take(&spares, bytes))) {
            b->bytes = bytes;
            set_pages(b->data, bytes, 's', 'h');
        }
        assert_true(spares.bytes == count_pages('s') * PAGE_BYTES && spares.count <= MF_SPARES);
    }
    assert_int_equal(count_pages('d'), 0);
    for (int i = 0; i < BLOCKS; i++) {
        if (!held[i].data) continue;
        set_pages(held[i].data, held[i].bytes, 'h', 's');
        mf_spares_add(&spares, held[i].data, held[i].bytes);
    }
    assert_int_equal(spares.count, 1); /* all joined again */
    mf_spares_drop(&spares, 100 * PAGE_BYTES);
    assert_int_equal(count_pages('s'), 100);
    mf_spares_drop(&spares, 0);
    assert_true(count_pages('d') == SPARE_PAGES && spares.count == 0 && spares.bytes == 0);
    assert_null(mf_spares_take(&spares, PAGE_BYTES));
}

/* At every step: totals are the sums of the categories, and the peaks are the largest ever seen. */
static void test_memory_against_a_model(void **state) {
    (void)state;
    enum { HELD = 16 };
    mf_memory *memory = memory_make(0);
    mf_buffer buffer[HELD] = {{0}};
    int64_t now[MF_CATEGORIES] = {0}, peak[MF_CATEGORIES] = {0}, most = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        uint64_t random = mf_random_u64(1, 1, i);
        mf_buffer *b = &buffer[random % HELD];
        now[b->category] -= (int64_t)b->bytes;
        mf_buffer_free(memory, b);
        mf_category category = (mf_category)((random >> 8) % MF_CATEGORIES);
        ASSERT_OK(mf_buffer_alloc(memory, category, (random >> 16) % 5000, "some", b));
        now[category] += (int64_t)b->bytes;
        int64_t total = 0, at_peak = 0;
        mf_memory_stats stats = mf_memory_stats_get(memory);
        for (int c = 0; c < MF_CATEGORIES; c++) {
            peak[c] = mf_max(peak[c], now[c]);
            total += now[c];
            at_peak += stats.at_peak[c];
            assert_true(stats.now[c] == now[c] && stats.peak[c] == peak[c]);
        }
        most = mf_max(most, total);
        assert_true(stats.now_total == total && stats.peak_total == most && at_peak == most);
    }
    for (int i = 0; i < HELD; i++) mf_buffer_free(memory, &buffer[i]);
    mf_memory_destroy(memory);
    assert_int_equal(counted.open, 0);
}

static void test_memory_peaks_anew(void **state) {
    (void)state;
    mf_memory *memory = memory_make(0);
    mf_buffer a = buffer_make(memory, MF_EXCHANGE, 256), b = buffer_make(memory, MF_WORKSPACE, 512);
    mf_buffer_free(memory, &b);
    mf_memory_reset_peaks(memory);
    mf_memory_stats stats = mf_memory_stats_get(memory);
    assert_true(stats.peak_total == 256 && stats.peak[MF_WORKSPACE] == 0 &&
                stats.at_peak[MF_EXCHANGE] == 256);
    b = buffer_make(memory, MF_WORKSPACE, 128);
    stats = mf_memory_stats_get(memory);
    assert_true(stats.peak_total == 384 && stats.at_peak[MF_WORKSPACE] == 128);
    mf_buffer_free(memory, &a);
    mf_buffer_free(memory, &b);
    mf_memory_destroy(memory);
}

static void test_memory_of_others(void **state) {
    (void)state;
    mf_memory *memory = memory_make(0);
    ASSERT_OK(mf_memory_account(memory, MF_WEIGHTS, 1000, "window"));
    mf_memory_stats stats = mf_memory_stats_get(memory);
    assert_true(stats.now[MF_WEIGHTS] == 1000 && stats.peak_total == 1000 && counted.open == 0);
    mf_memory_release(memory, MF_WEIGHTS, 1000);
    stats = mf_memory_stats_get(memory);
    assert_true(stats.now_total == 0 && stats.peak_total == 1000);
    mf_memory_destroy(memory);
}

static void test_memory_empty(void **state) {
    (void)state;
    mf_memory *memory = memory_make(0);
    mf_buffer b = {.data = memory, .bytes = 9};
    mf_fault_arm(MF_FAULT_ALLOC, 1);
    ASSERT_OK(mf_buffer_alloc(memory, MF_STREAM, 0, "nothing", &b));
    assert_false(mf_fault_fired(MF_FAULT_ALLOC)); /* what allocates nothing can't fail */
    mf_fault_arm(MF_FAULT_ALLOC, 0);
    assert_true(!b.data && b.bytes == 0 && counted.open == 0);
    mf_buffer_free(memory, &b);
    mf_buffer_free(memory, NULL);
    mf_memory_destroy(memory);
}

static void test_memory_limits(void **state) {
    (void)state;
    mf_memory *memory = memory_make(1024);
    mf_buffer a = buffer_make(memory, MF_GRADS, 960), b = {.data = &a};
    ASSERT_FAILS(mf_buffer_alloc(memory, MF_STREAM, 65, "shards", &b), MF_ENOMEM,
                 "no memory for shards: 65 bytes of stream; 960 bytes held");
    assert_null(b.data);
    assert_int_equal(mf_memory_stats_get(memory).now_total, 960);
    ASSERT_FAILS(mf_buffer_alloc(memory, MF_STREAM, SIZE_MAX, "all", &b), MF_ENOMEM, "no memory for all");
    ASSERT_FAILS(mf_buffer_alloc(memory, MF_STREAM, SIZE_MAX - 62, "all", &b), MF_ENOMEM,
                 "no memory for all");
    b = buffer_make(memory, MF_STREAM, 64);
    mf_buffer_free(memory, &b);
    mf_buffer_free(memory, &a);
    mf_memory_destroy(memory);
    assert_int_equal(counted.open, 0);
}

static void test_memory_faults(void **state) {
    (void)state;
    mf_memory *memory = memory_make(0);
    mf_buffer b = {0};
    mf_fault_arm(MF_FAULT_ALLOC, 2);
    mf_buffer a = buffer_make(memory, MF_GRADS, 64);
    ASSERT_FAILS(mf_buffer_alloc(memory, MF_WEIGHTS, 64, "second", &b), MF_ENOMEM,
                 "second: 64 bytes of weights");
    assert_true(!b.data && counted.open == 1 && mf_memory_stats_get(memory).now_total == 64);
    mf_fault_arm(MF_FAULT_ALLOC, 1);
    ASSERT_FAILS(mf_memory_account(memory, MF_EXCHANGE, 64, "window"), MF_ENOMEM, "window");
    mf_fault_arm(MF_FAULT_ALLOC, 1);
    mf_memory *none = memory;
    ASSERT_FAILS(mf_memory_create(NULL, &none), MF_ENOMEM, "no host memory");
    assert_null(none);
    mf_fault_arm(MF_FAULT_ALLOC, 0);
    assert_int_equal(mf_memory_stats_get(memory).now_total, 64);
    mf_buffer_free(memory, &a);
    mf_memory_destroy(memory);
}

static void test_categories(void **state) {
    (void)state;
    static const char *const names[] = {"weights", "grads",    "optimizer", "activations",
                                        "stream",  "exchange", "workspace"};
    for (int c = 0; c < MF_CATEGORIES; c++) assert_string_equal(mf_category_name((mf_category)c), names[c]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace),
        cmocka_unit_test(test_trace_is_bounded),
        cmocka_unit_test(test_go),
        cmocka_unit_test(test_long_message),
        cmocka_unit_test(test_clean_message),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_threads_errors),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_host_memory),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_small_arithmetic),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_worker_order),
        cmocka_unit_test(test_worker_error),
        cmocka_unit_test(test_worker_destroy_runs_all),
        cmocka_unit_test(test_worker_without_memory),
        cmocka_unit_test(test_memory_counts),
        cmocka_unit_test(test_spares),
        cmocka_unit_test(test_memory_against_a_model),
        cmocka_unit_test(test_memory_peaks_anew),
        cmocka_unit_test(test_memory_of_others),
        cmocka_unit_test(test_memory_empty),
        cmocka_unit_test(test_memory_limits),
        cmocka_unit_test(test_memory_faults),
        cmocka_unit_test(test_categories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
