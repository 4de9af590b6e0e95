/* memory.c: counts what is taken and given back; the source does the rest. */
#include "memory/spares.h"
#include "meshfold/memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* More than any machine has, and far from where sums would overflow. */
#define BYTES_MAX ((size_t)1 << 56)

struct mf_memory {
    mf_memory_source source;
    mf_memory_stats stats;
    mf_spares spares;
};

static const char *const category_names[MF_CATEGORIES] = {"weights", "grads",    "optimizer", "activations",
                                                          "stream",  "exchange", "workspace"};

const char *mf_category_name(mf_category category) { return category_names[category]; }

/* Address sanitizing watches its own heap, and must see every block come and go. */
#if defined(__SANITIZE_ADDRESS__)
static bool is_large(size_t bytes) { return bytes == SIZE_MAX; }
#else
static bool is_large(size_t bytes) { return bytes >= (size_t)256 << 10; }
#endif

static size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }
static size_t in_pages(size_t bytes) { return round_up(bytes, MF_PAGE); }

/* Large blocks are mapped, and unmapped when given back: in the C library's heap they would leave holes, and
 * the process's resident size would drift from what is accounted. */
static void *heap_take(void *context, size_t bytes) {
    (void)context;
    if (!is_large(bytes)) return aligned_alloc(64, round_up(bytes, 64));
    void *data = mmap(NULL, in_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return NULL;
    madvise(data, in_pages(bytes), MADV_HUGEPAGE); /* fewer page faults; no matter if refused */
    return data;
}

static void heap_unmap(void *data, size_t bytes) { munmap(data, bytes); }

static void heap_give_back(void *context, void *data, size_t bytes) {
    (void)context;
    if (data && is_large(bytes))
        heap_unmap(data, in_pages(bytes));
    else
        free(data);
}

const mf_memory_source mf_memory_heap = {heap_take, heap_give_back, heap_unmap, NULL, NULL};

static void *dry_take(void *context, size_t bytes) {
    static _Alignas(64) char nowhere[64];
    (void)context, (void)bytes;
    return nowhere;
}

static void dry_give_back(void *context, void *data, size_t bytes) { (void)context, (void)data, (void)bytes; }

const mf_memory_source mf_memory_dry = {dry_take, dry_give_back, NULL, NULL, NULL};

mf_status mf_memory_create(const mf_memory_source *source, mf_memory **out) {
    MF_TRY(mf_host_alloc(1, sizeof **out, out));
    (*out)->source = source ? *source : mf_memory_heap;
    (*out)->spares.drop = (*out)->source.give_back_pages;
    return MF_OK;
}

/* Drops spares until, with `more` bytes to come, what is held and spare stays within the peak. */
static void trim(mf_memory *memory, int64_t more) {
    const mf_memory_stats *s = &memory->stats;
    mf_spares_drop(&memory->spares, mf_max(s->peak_total - s->now_total - more, 0));
}

static void *take(mf_memory *memory, size_t bytes) {
    void *data = is_large(bytes) ? mf_spares_take(&memory->spares, in_pages(bytes)) : NULL;
    if (data) return data;
    trim(memory, (int64_t)bytes);
    data = memory->source.take(memory->source.context, bytes);
    if (data || memory->spares.bytes == 0) return data;
    mf_spares_drop(&memory->spares, 0);
    return memory->source.take(memory->source.context, bytes);
}

static void give_back(mf_memory *memory, void *data, size_t bytes) {
    if (!is_large(bytes) || !memory->spares.drop) {
        memory->source.give_back(memory->source.context, data, bytes);
        return;
    }
    mf_spares_add(&memory->spares, data, in_pages(bytes));
    trim(memory, 0);
}

void mf_memory_destroy(mf_memory *memory) {
    if (!memory) return;
    mf_spares_drop(&memory->spares, 0);
    if (memory->source.close) memory->source.close(memory->source.context);
    mf_host_free(memory);
}

const mf_memory_source *mf_memory_source_of(const mf_memory *memory) { return &memory->source; }

static mf_status no_memory(const mf_memory *memory, mf_category category, size_t bytes, const char *what) {
    return MF_FAIL(MF_ENOMEM, "no memory for %s: %zu bytes of %s; %lld bytes held, %lld at the peak", what,
                   bytes, mf_category_name(category), (long long)memory->stats.now_total,
                   (long long)memory->stats.peak_total);
}

static void count(mf_memory *memory, mf_category category, int64_t bytes) {
    mf_memory_stats *s = &memory->stats;
    s->now[category] += bytes;
    s->now_total += bytes;
    s->peak[category] = mf_max(s->peak[category], s->now[category]);
    if (s->now_total > s->peak_total) {
        s->peak_total = s->now_total;
        memcpy(s->at_peak, s->now, sizeof s->at_peak);
    }
}

mf_status mf_memory_account(mf_memory *memory, mf_category category, size_t bytes, const char *what) {
    if (bytes > BYTES_MAX || mf_fault_hit(MF_FAULT_ALLOC)) return no_memory(memory, category, bytes, what);
    count(memory, category, (int64_t)bytes);
    trim(memory, 0);
    return MF_OK;
}

void mf_memory_release(mf_memory *memory, mf_category category, size_t bytes) {
    count(memory, category, -(int64_t)bytes);
}

mf_status mf_buffer_alloc(mf_memory *memory, mf_category category, size_t bytes, const char *what,
                          mf_buffer *out) {
    *out = (mf_buffer){.category = category};
    if (bytes == 0) return MF_OK;
    size_t rounded = round_up(bytes, 64);
    bool refused = bytes > BYTES_MAX || mf_fault_hit(MF_FAULT_ALLOC);
    void *data = refused ? NULL : take(memory, rounded);
    if (!data) return no_memory(memory, category, bytes, what);
    count(memory, category, (int64_t)rounded);
    *out = (mf_buffer){.data = data, .bytes = rounded, .category = category};
    return MF_OK;
}

void mf_buffer_free(mf_memory *memory, mf_buffer *buffer) {
    if (!buffer || !buffer->data) return;
    mf_memory_release(memory, buffer->category, buffer->bytes);
    give_back(memory, buffer->data, buffer->bytes);
    *buffer = (mf_buffer){0};
}

mf_memory_stats mf_memory_stats_get(const mf_memory *memory) { return memory->stats; }

void mf_memory_reset_peaks(mf_memory *memory) {
    mf_memory_stats *s = &memory->stats;
    memcpy(s->peak, s->now, sizeof s->peak);
    memcpy(s->at_peak, s->now, sizeof s->at_peak);
    s->peak_total = s->now_total;
    trim(memory, 0);
}
