/* memory.cpp: memory of GPUs that the host can't touch. It lies in one range of addresses, closed but while
 * work is carried out; a fault then opens the block that was meant, and any other fault is an error that says
 * what was wrong. A block ends where a page begins that is never open; what rounding leaves free holds bytes
 * that are looked at when it is given back. With the address sanitizer blocks are its own, and only it
 * watches them. */
#include "emulated.h"

#include <atomic>
#include <csignal>
#include <cstring>
#include <deque>
#include <map>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

namespace emulated {

namespace {

constexpr size_t alignment = 256, arena_bytes = (size_t)1 << 40, remembered_most = 4096;
constexpr unsigned char unwritten = 0xff, untouched = 0xa5;

struct block {
    char *map; /* first page */
    size_t mapped;
    char *data;
    size_t bytes;
    kind of;
    int device;
    bool open, leaving, given_back;
    block *next_open;
};

std::map<char *, block> blocks; /* by the last address that is theirs, which lies in their closed page */
std::deque<char *> remembered;  /* of those that were given back, oldest first */
std::map<int, size_t> held_now, held_most; /* bytes of each device */
char *arena, *next_free;
block *first_open;
std::atomic<pthread_t> executor;
const char *operation = "";
struct sigaction earlier;

size_t page() {
    static const size_t bytes = (size_t)sysconf(_SC_PAGESIZE);
    return bytes;
}

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

block *holder(const void *at) {
    auto found = blocks.lower_bound((char *)at);
    return found != blocks.end() && (char *)at >= found->second.map ? &found->second : nullptr;
}

block *block_at(const void *data) {
    block *b = holder(data);
    return b && b->data == data && !b->given_back ? b : nullptr;
}

bool executes() { return executor.load() == pthread_self(); }

#if MF_EMULATED_ASAN

void lay_out(block &b) {
    void *data = nullptr;
    if (posix_memalign(&data, alignment, b.bytes)) die("no memory for a block of %zu bytes", b.bytes);
    b.map = b.data = (char *)data;
    b.mapped = b.bytes;
}
char *last_address(const block &b) { return b.data + b.bytes - 1; }
void watch_faults() {}
void close_all() {}
void remove(block *b) {
    char *data = b->data;
    blocks.erase(last_address(*b));
    free(data);
}

#else

char *last_address(const block &b) { return b.map + b.mapped + page() - 1; }

void protect(const block &b, bool open) {
    if (mprotect(b.map, b.mapped, open ? PROT_READ | PROT_WRITE : PROT_NONE))
        die("mprotect of %zu bytes failed, with %zu blocks", b.mapped, blocks.size());
}

void open(block &b) {
    protect(b, true);
    b.open = true;
    b.next_open = first_open;
    first_open = &b;
}

void close_all() {
    for (; first_open; first_open = first_open->next_open) {
        protect(*first_open, false);
        first_open->open = false;
    }
}

[[noreturn]] void explain(const char *at) {
    const block *b = holder(at);
    const char *who = !executes() ? "the host" : where()[0] ? where() : operation;
    if (!b) die("%s touched %p, which is in no block", who, (const void *)at);
    die("%s touched %p, at byte %td of a block of %zu bytes of GPU %d%s", who, (const void *)at, at - b->data,
        b->bytes, b->device, b->given_back ? " that was given back" : "");
}

void on_fault(int, siginfo_t *info, void *) {
    char *at = (char *)info->si_addr;
    bool inside = at >= arena && at < arena + arena_bytes;
    if (inside && executes()) {
        block *b = holder(at);
        if (b && !b->given_back && !b->open && at < b->map + b->mapped) return open(*b);
    }
    if (inside) explain(at);
    if (executes())
        die("%s touched %p, or what is not aligned", where()[0] ? where() : operation, (const void *)at);
    sigaction(SIGSEGV, &earlier, nullptr); /* it comes again, for who was there before */
}

void reserve() {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    arena = (char *)mmap(nullptr, arena_bytes, PROT_NONE, flags, -1, 0);
    if (arena == MAP_FAILED) die("no addresses for memory");
    next_free = arena;
}

/* Whenever there is need of it: a test program may have set its own meanwhile. */
void watch_faults() {
    struct sigaction own = {}, now = {};
    sigaction(SIGSEGV, nullptr, &now);
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_fault) return;
    earlier = now;
    own.sa_sigaction = on_fault;
    own.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &own, nullptr);
}

/* Addresses come again only when all have been used, so that what was given back stays closed for long. */
char *find_room(size_t bytes) {
    if (!arena) reserve();
    for (;;) {
        if (next_free + bytes > arena + arena_bytes) next_free = arena;
        auto met = blocks.lower_bound(next_free);
        if (met == blocks.end() || met->second.map >= next_free + bytes) break;
        if (met->second.given_back)
            blocks.erase(met);
        else
            next_free = met->first + 1;
    }
    next_free += bytes;
    return next_free - bytes;
}

void lay_out(block &b) {
    watch_faults();
    size_t padded = round_up(b.bytes, alignment);
    b.mapped = round_up(padded, page());
    b.map = find_room(b.mapped + page());
    b.data = b.map + b.mapped - padded;
    protect(b, true);
    memset(b.map, untouched, b.mapped);
    b.open = b.of != kind::device || setting("MESHFOLD_EMULATED_OPEN");
}

void check_around(const block &b) {
    for (const char *at = b.map; at < b.map + b.mapped; at++) {
        if (at == b.data) at += b.bytes;
        if (at < b.map + b.mapped && (unsigned char)*at != untouched)
            die("somebody wrote at byte %td of a block of %zu bytes of GPU %d", at - b.data, b.bytes,
                b.device);
    }
}

void forget_oldest() {
    auto oldest = blocks.find(remembered.front());
    if (oldest != blocks.end() && oldest->second.given_back) blocks.erase(oldest);
    remembered.pop_front();
}

/* Stays known for a while, so that who touches it yet is told what it was. */
void remove(block *b) {
    for (block **link = &first_open; *link; link = &(*link)->next_open)
        if (*link == b) {
            *link = b->next_open;
            break;
        }
    protect(*b, true);
    check_around(*b);
    madvise(b->map, b->mapped, MADV_DONTNEED);
    protect(*b, false);
    b->given_back = true;
    remembered.push_back(last_address(*b));
    if (remembered.size() > remembered_most) forget_oldest();
}

#endif

} // namespace

void begin_execution() {
    watch_faults();
    executor = pthread_self();
}
void begin_operation(const char *what) { operation = what; }
void end_execution() {
    close_all();
    executor = pthread_t();
}

void *take(kind of, int device, size_t bytes) {
    block made = {};
    made.of = of;
    made.device = device;
    made.bytes = bytes;
    lay_out(made);
    memset(made.data, unwritten, bytes);
    block &kept = blocks[last_address(made)] = made;
#if !MF_EMULATED_ASAN
    if (!kept.open) protect(kept, false);
#endif
    if (of == kind::device) {
        held_now[device] += bytes;
        held_most[device] = std::max(held_most[device], held_now[device]);
    }
    return kept.data;
}

bool give_back(void *data) {
    block *b = block_at(data);
    if (!b) return false;
    if (b->of == kind::device) held_now[b->device] -= b->bytes;
    remove(b);
    return true;
}

bool in_one_block(const void *data, size_t bytes) {
    const block *b = holder(data);
    if (!b) return true;
    return !b->given_back && (const char *)data >= b->data &&
           (const char *)data + bytes <= b->data + b->bytes;
}

size_t bytes_most() {
    const char *text = getenv("MESHFOLD_EMULATED_BYTES");
    return text && *text ? (size_t)strtoull(text, nullptr, 10) : (size_t)141 << 30;
}

} // namespace emulated

using namespace emulated;

/* What earlier frees, once carried out, leave room for is counted as free. */
static cudaError_t take_checked(void **out, kind of, size_t bytes) {
    *out = nullptr;
    if (injected()) return failed(cudaErrorMemoryAllocation);
    if (bytes == 0) return cudaSuccess;
    int device = current_device();
    for (int tries = 0; tries < 2; tries++) {
        std::unique_lock<std::mutex> held(lock);
        if (of != kind::device || (bytes <= bytes_most() && held_now[device] <= bytes_most() - bytes))
            return *out = take(of, device, bytes), cudaSuccess;
        held.unlock();
        finish_device(device);
    }
    return failed(cudaErrorMemoryAllocation);
}

cudaError_t cudaMalloc(void **out, size_t bytes) { return take_checked(out, kind::device, bytes); }
cudaError_t cudaMallocAsync(void **out, size_t bytes, cudaStream_t stream) {
    if (device_of(stream) != current_device()) return failed(cudaErrorInvalidResourceHandle);
    return take_checked(out, kind::device, bytes);
}
cudaError_t cudaMallocManaged(void **out, size_t bytes, unsigned) {
    return bytes ? take_checked(out, kind::managed, bytes) : failed(cudaErrorInvalidValue);
}
cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) { return take_checked(out, kind::host, bytes); }
cudaError_t cudaMallocHost(void **out, size_t bytes) { return take_checked(out, kind::host, bytes); }
cudaError_t cudaHostRegister(void *, size_t, unsigned) {
    return injected() ? failed(cudaErrorMemoryAllocation) : cudaSuccess;
}
cudaError_t cudaHostUnregister(void *) { return cudaSuccess; }

/* Whether the block may be given back now: once only, and where it is of this kind. */
static bool leaves(void *data, bool of_host) {
    std::lock_guard<std::mutex> held(lock);
    block *b = block_at(data);
    if (!b || b->leaving || (b->of == kind::host) != of_host) return false;
    b->leaving = true;
    return true;
}

static cudaError_t free_now(void *data, bool of_host) {
    if (!data) return cudaSuccess;
    if (!leaves(data, of_host)) return failed(cudaErrorInvalidValue);
    for (int device = 0; device < devices(); device++) finish_device(device);
    std::lock_guard<std::mutex> held(lock);
    give_back(data);
    return cudaSuccess;
}

cudaError_t cudaFree(void *data) { return free_now(data, false); }
cudaError_t cudaFreeHost(void *data) { return free_now(data, true); }
cudaError_t cudaFreeAsync(void *data, cudaStream_t stream) {
    if (!data) return cudaSuccess;
    if (!leaves(data, false)) return failed(cudaErrorInvalidValue);
    return enqueue(stream, "free", [data] { return give_back(data); });
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    if (injected()) return failed(cudaErrorUnknown);
    std::lock_guard<std::mutex> held(lock);
    *total = bytes_most();
    *available = *total - std::min(*total, held_now[current_device()]);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *data) {
    if (injected()) return failed(cudaErrorUnknown);
    std::lock_guard<std::mutex> held(lock);
    const block *b = holder(data);
    *out = {};
    out->device = -2;
    out->hostPointer = (void *)data;
    if (!b || b->leaving || (const char *)data < b->data || (const char *)data >= b->data + b->bytes)
        return cudaSuccess;
    out->type = b->of == kind::device    ? cudaMemoryTypeDevice
                : b->of == kind::managed ? cudaMemoryTypeManaged
                                         : cudaMemoryTypeHost;
    out->device = b->device;
    out->devicePointer = (void *)data;
    if (b->of == kind::device) out->hostPointer = nullptr;
    return cudaSuccess;
}

/* Of each device one. What is given back leaves it at once. */
struct emulated_pool {
    uint64_t threshold;
};
static emulated_pool pools[8];

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *out, int device) {
    if (injected()) return failed(cudaErrorUnknown);
    if (device < 0 || device >= devices()) return failed(cudaErrorInvalidDevice);
    *out = &pools[device];
    return cudaSuccess;
}

/* These can be set to 0 alone, and begin anew then. */
static bool is_peak(enum cudaMemPoolAttr attribute) {
    return attribute == cudaMemPoolAttrReservedMemHigh || attribute == cudaMemPoolAttrUsedMemHigh;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value) {
    if (injected()) return failed(cudaErrorUnknown);
    std::lock_guard<std::mutex> held(lock);
    uint64_t given;
    memcpy(&given, value, sizeof given);
    if (attribute == cudaMemPoolAttrReleaseThreshold) pool->threshold = given;
    if (!is_peak(attribute)) return cudaSuccess;
    if (given) return failed(cudaErrorInvalidValue);
    held_most[(int)(pool - pools)] = held_now[(int)(pool - pools)];
    return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value) {
    if (injected()) return failed(cudaErrorUnknown);
    std::lock_guard<std::mutex> held(lock);
    int device = (int)(pool - pools);
    uint64_t found = attribute == cudaMemPoolAttrReleaseThreshold ? pool->threshold
                     : is_peak(attribute)                         ? held_most[device]
                                                                  : held_now[device];
    memcpy(value, &found, sizeof found);
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const struct cudaMemAccessDesc *, size_t) {
    return injected() ? failed(cudaErrorUnknown) : cudaSuccess;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

/* Rows of a copy; refused where a GPU's block holds only a part of them. */
static cudaError_t copy(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                        size_t height, cudaStream_t stream) {
    if (injected()) return failed(cudaErrorUnknown);
    if (width == 0 || height == 0) return cudaSuccess;
    if (to_pitch < width || from_pitch < width) return failed(cudaErrorInvalidPitchValue);
    {
        std::lock_guard<std::mutex> held(lock);
        if (!in_one_block(to, (height - 1) * to_pitch + width) ||
            !in_one_block(from, (height - 1) * from_pitch + width))
            return failed(cudaErrorInvalidValue);
    }
    return enqueue(stream, "copy", [=] {
        for (size_t y = 0; y < height; y++)
            memmove((char *)to + y * to_pitch, (const char *)from + y * from_pitch, width);
        return true;
    });
}

static cudaError_t set(void *data, size_t pitch, int value, size_t width, size_t height,
                       cudaStream_t stream) {
    if (injected()) return failed(cudaErrorUnknown);
    if (width == 0 || height == 0) return cudaSuccess;
    if (pitch < width) return failed(cudaErrorInvalidPitchValue);
    {
        std::lock_guard<std::mutex> held(lock);
        if (!holder(data) || !in_one_block(data, (height - 1) * pitch + width))
            return failed(cudaErrorInvalidValue);
    }
    return enqueue(stream, "fill", [=] {
        for (size_t y = 0; y < height; y++) memset((char *)data + y * pitch, value, width);
        return true;
    });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    return copy(to, bytes, from, bytes, bytes, 1, stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind) {
    cudaError_t error = copy(to, bytes, from, bytes, bytes, 1, nullptr);
    return error ? error : cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
    return copy(to, to_pitch, from, from_pitch, width, height, stream);
}

cudaError_t cudaMemcpyPeerAsync(void *to, int, const void *from, int, size_t bytes, cudaStream_t stream) {
    return copy(to, bytes, from, bytes, bytes, 1, stream);
}

cudaError_t cudaMemsetAsync(void *data, int value, size_t bytes, cudaStream_t stream) {
    return set(data, bytes, value, bytes, 1, stream);
}

cudaError_t cudaMemset(void *data, int value, size_t bytes) {
    return set(data, bytes, value, bytes, 1, nullptr);
}

cudaError_t cudaMemset2DAsync(void *data, size_t pitch, int value, size_t width, size_t height,
                              cudaStream_t stream) {
    return set(data, pitch, value, width, height, stream);
}
