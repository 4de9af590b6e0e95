/* memory.c: counts what is taken and given back; the source does the rest. */
#include "meshfold/memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* More than any machine has, and far from where sums would overflow. */
#define BYTES_MAX ((size_t)1 << 56)

struct mf_memory {
    mf_memory_source source;
    mf_memory_stats stats;
};

static const char *const category_names[MF_CATEGORIES] = {"weights", "grads",    "optimizer", "activations",
                                                          "stream",  "exchange", "workspace"};

const char *mf_category_name(mf_category category) { return category_names[category]; }

/* Large blocks are mapped, and unmapped when given back: in the C library's heap they would leave holes, and
 * the process's resident size would drift from what is accounted. Address sanitizing sees its own heap only.
 */
#if defined(__SANITIZE_ADDRESS__)
static bool is_mapped(size_t bytes) { return bytes == SIZE_MAX; }
#else
static bool is_mapped(size_t bytes) { return bytes >= (size_t)256 << 10; }
#endif

static void *heap_take(size_t bytes) {
    size_t rounded = (bytes + 63) & ~(size_t)63;
    if (!is_mapped(rounded)) return aligned_alloc(64, rounded);
    void *data = mmap(NULL, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return NULL;
    madvise(data, rounded, MADV_HUGEPAGE); /* fewer page faults; no matter if refused */
    return data;
}

static void heap_give_back(void *data, size_t bytes) {
    size_t rounded = (bytes + 63) & ~(size_t)63;
    if (data && is_mapped(rounded))
        munmap(data, rounded);
    else
        free(data);
}

const mf_memory_source mf_memory_heap = {heap_take, heap_give_back};

mf_status mf_memory_create(const mf_memory_source *source, mf_memory **out) {
    MF_TRY(mf_host_alloc(1, sizeof **out, out));
    (*out)->source = source ? *source : mf_memory_heap;
    return MF_OK;
}

void mf_memory_destroy(mf_memory *memory) { mf_host_free(memory); }

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
    void *data = refused ? NULL : memory->source.take(rounded);
    if (!data) return no_memory(memory, category, bytes, what);
    count(memory, category, (int64_t)rounded);
    *out = (mf_buffer){.data = data, .bytes = rounded, .category = category};
    return MF_OK;
}

void mf_buffer_free(mf_memory *memory, mf_buffer *buffer) {
    if (!buffer || !buffer->data) return;
    memory->source.give_back(buffer->data, buffer->bytes);
    mf_memory_release(memory, buffer->category, buffer->bytes);
    *buffer = (mf_buffer){0};
}

mf_memory_stats mf_memory_stats_get(const mf_memory *memory) { return memory->stats; }

void mf_memory_reset_peaks(mf_memory *memory) {
    mf_memory_stats *s = &memory->stats;
    memcpy(s->peak, s->now, sizeof s->peak);
    memcpy(s->at_peak, s->now, sizeof s->at_peak);
    s->peak_total = s->now_total;
}
