/* memory.c: counts what is taken and given back; the source does the rest. */
#include "meshfold/memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* More than any machine has, and far from where sums would overflow. */
#define BYTES_MAX ((size_t)1 << 56)

/* Large blocks given back are kept for the next of their size, for a fresh one costs page faults; but never
 * so many that with what is held they exceed the peak. */
enum { SPARES = 64 };

typedef struct spare {
    void *data;
    size_t bytes;
} spare;

struct mf_memory {
    mf_memory_source source;
    mf_memory_stats stats;
    spare spares[SPARES]; /* oldest first */
    int spare_count;
    int64_t spare_bytes;
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

/* Large blocks are mapped, and unmapped when given back: in the C library's heap they would leave holes, and
 * the process's resident size would drift from what is accounted. */
static void *heap_take(size_t bytes) {
    size_t rounded = (bytes + 63) & ~(size_t)63;
    if (!is_large(rounded)) return aligned_alloc(64, rounded);
    void *data = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return NULL;
    madvise(data, rounded, MADV_HUGEPAGE); /* fewer page faults; no matter if refused */
    return data;
}

static void heap_give_back(void *data, size_t bytes) {
    size_t rounded = (bytes + 63) & ~(size_t)63;
    if (data && is_large(rounded))
        munmap(data, rounded);
    else
        free(data);
}

const mf_memory_source mf_memory_heap = {heap_take, heap_give_back};

static void *dry_take(size_t bytes) {
    static _Alignas(64) char nowhere[64];
    (void)bytes;
    return nowhere;
}

static void dry_give_back(void *data, size_t bytes) { (void)data, (void)bytes; }

const mf_memory_source mf_memory_dry = {dry_take, dry_give_back};

mf_status mf_memory_create(const mf_memory_source *source, mf_memory **out) {
    MF_TRY(mf_host_alloc(1, sizeof **out, out));
    (*out)->source = source ? *source : mf_memory_heap;
    return MF_OK;
}

static void drop_oldest(mf_memory *memory) {
    spare oldest = memory->spares[0];
    memory->spare_count--;
    memory->spare_bytes -= (int64_t)oldest.bytes;
    memmove(memory->spares, memory->spares + 1, (size_t)memory->spare_count * sizeof oldest);
    memory->source.give_back(oldest.data, oldest.bytes);
}

static void drop_all(mf_memory *memory) {
    while (memory->spare_count > 0) drop_oldest(memory);
}

/* Drops spares until, with `more` bytes to come, what is held and spare stays within the peak. */
static void trim(mf_memory *memory, int64_t more) {
    const mf_memory_stats *s = &memory->stats;
    int64_t room = mf_max(s->peak_total - s->now_total - more, 0);
    while (memory->spare_bytes > room) drop_oldest(memory);
}

static void *take_spare(mf_memory *memory, size_t bytes) {
    for (int i = memory->spare_count - 1; i >= 0; i--) {
        if (memory->spares[i].bytes != bytes) continue;
        void *data = memory->spares[i].data;
        memory->spare_count--;
        memory->spare_bytes -= (int64_t)bytes;
        memmove(memory->spares + i, memory->spares + i + 1,
                (size_t)(memory->spare_count - i) * sizeof *memory->spares);
        return data;
    }
    return NULL;
}

static void *take(mf_memory *memory, size_t bytes) {
    void *data = take_spare(memory, bytes);
    if (data) return data;
    trim(memory, (int64_t)bytes);
    data = memory->source.take(bytes);
    if (data || memory->spare_count == 0) return data;
    drop_all(memory);
    return memory->source.take(bytes);
}

static void give_back(mf_memory *memory, void *data, size_t bytes) {
    if (!is_large(bytes)) {
        memory->source.give_back(data, bytes);
        return;
    }
    if (memory->spare_count == SPARES) drop_oldest(memory);
    memory->spares[memory->spare_count++] = (spare){data, bytes};
    memory->spare_bytes += (int64_t)bytes;
    trim(memory, 0);
}

void mf_memory_destroy(mf_memory *memory) {
    if (!memory) return;
    drop_all(memory);
    mf_host_free(memory);
}

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
    size_t rounded = (bytes + 63) & ~(size_t)63;
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
