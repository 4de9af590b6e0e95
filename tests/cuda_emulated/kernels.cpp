/* kernels.cpp: kernels, block after block. Each thread of a block is a fiber that runs until it waits for
 * others or ends; who runs first is another from launch to launch, so that a wait that is missing shows. */
#include <cuda_runtime.h>

#include "fiber.h"

#include <map>
#include <sys/mman.h>
#include <vector>

#if MF_EMULATED_ASAN
#include <sanitizer/asan_interface.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulated {

namespace {

constexpr size_t shared_most = 227 << 10, shared_unasked = 48 << 10, shared_step = 1024;
constexpr size_t shared_room = shared_most + shared_step, guard_bytes = 1 << 16;
constexpr unsigned char unwritten = 0xff, untouched = 0xa5;
constexpr unsigned warp = 32;

enum class state { fresh, ready, at_barrier, at_meeting, ended };

struct deferred {
    char *to;
    const char *from;
    size_t bytes;
    bool exists;
};

struct place {
    const char *file;
    int line;
    bool operator==(const place &other) const {
        return line == other.line && (file == other.file || !strcmp(file, other.file));
    }
};

struct thread {
    state now;
    uint3 index;
    fiber *runs_on;
    place at;                                  /* where it waits */
    std::vector<std::vector<deferred>> groups; /* oldest first; the last is being gathered */
};

/* Lanes of a warp that wait for each other. */
struct meeting {
    unsigned mask, come;
    combine call;
    place at;
    void *brought[warp];
};

/* The block that runs. */
const launch *kernel;
std::vector<thread> threads;
std::vector<std::vector<meeting>> meetings; /* of each warp */
std::vector<unsigned> living_lanes;         /* of each warp */
int living, come_to_barrier, votes_for;
votes last_votes;
place barrier_place;
thread *running;

uint64_t launches, draws;
char *shared_end;
std::map<std::pair<const void *, int>, size_t> shared_asked;

uint64_t draw() { /* splitmix64 */
    uint64_t z = (draws += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

enum class order { forward, backward, shuffled };

order order_now() {
    const char *named = getenv("MESHFOLD_EMULATED_ORDER");
    if (!named || !*named) return (order)(launches % 3);
    if (!strcmp(named, "forward")) return order::forward;
    if (!strcmp(named, "backward")) return order::backward;
    if (!strcmp(named, "shuffled")) return order::shuffled;
    die("MESHFOLD_EMULATED_ORDER is \"%s\"; it can be forward, backward or shuffled", named);
}

/* numbers: 0 .. n - 1, in that order. */
void arrange(order by, size_t n, std::vector<unsigned> &numbers) {
    numbers.resize(n);
    for (size_t i = 0; i < n; i++) numbers[i] = (unsigned)(by == order::backward ? n - 1 - i : i);
    if (by == order::shuffled)
        for (size_t i = n; i > 1; i--) std::swap(numbers[i - 1], numbers[draw() % i]);
}

size_t number_of(const thread &t) { return (size_t)(&t - threads.data()); }

void wait(state how, const char *file, int line) {
    running->now = how;
    running->at = {file, line};
    fiber_yield();
}

void open_barrier() {
    last_votes = {votes_for, votes_for > 0, votes_for == come_to_barrier};
    for (thread &t : threads)
        if (t.now == state::at_barrier) t.now = state::ready;
    come_to_barrier = votes_for = 0;
}

/* When every lane of the mask that lives has come, they go on. */
bool conclude(size_t which_warp, size_t which) {
    std::vector<meeting> &all = meetings[which_warp];
    const meeting &m = all[which];
    if (m.come != (m.mask & living_lanes[which_warp])) return false;
    if (m.call) m.call(m.brought, m.come);
    for (size_t i = 0; i < warp; i++)
        if (m.come >> i & 1) threads[which_warp * warp + i].now = state::ready;
    all.erase(all.begin() + (long)which);
    return true;
}

/* Those who wait for a thread that has ended wait for one less. */
void end_thread() {
    size_t which_warp = number_of(*running) / warp;
    running->now = state::ended;
    living_lanes[which_warp] &= ~(1u << number_of(*running) % warp);
    living--;
    if (living > 0 && come_to_barrier == living) open_barrier();
    for (size_t i = 0; i < meetings[which_warp].size();)
        if (!conclude(which_warp, i)) i++;
}

void body() { kernel->thread(); }

void go_on(thread &t) {
    running = &t;
    threadIdx = t.index;
    if (t.now == state::fresh) t.runs_on = fiber_take(body);
    t.now = state::ready;
    if (!fiber_resume(t.runs_on)) end_thread();
    running = nullptr;
}

[[noreturn]] void stuck() {
    int waiting[2] = {0, 0};
    const thread *one[2] = {nullptr, nullptr};
    for (const thread &t : threads) {
        if (t.now == state::ended) continue;
        int how = t.now == state::at_meeting;
        waiting[how]++;
        one[how] = &t;
    }
    for (const thread *t : one)
        if (t)
            fprintf(stderr, "emulated GPU: thread (%u, %u, %u) waits at %s:%d\n", t->index.x, t->index.y,
                    t->index.z, t->at.file, t->at.line);
    die("kernel %s, block (%u, %u, %u): of %zu threads %d wait for the block, %d for their warp, and the "
        "others "
        "have ended",
        kernel->name, blockIdx.x, blockIdx.y, blockIdx.z, threads.size(), waiting[0], waiting[1]);
}

void set_threads() {
    unsigned x = kernel->block[0], y = kernel->block[1], z = kernel->block[2];
    threads.resize((size_t)x * y * z);
    meetings.resize((threads.size() + warp - 1) / warp);
    living_lanes.assign(meetings.size(), 0);
    for (thread &t : threads) {
        unsigned i = (unsigned)number_of(t);
        t.now = state::fresh;
        t.index = {i % x, i / x % y, i / x / y};
        t.groups.clear();
        living_lanes[i / warp] |= 1u << i % warp;
    }
    living = (int)threads.size();
    come_to_barrier = votes_for = 0;
}

char *shared_begin() {
    return shared_end - (kernel->shared_bytes + shared_step - 1) / shared_step * shared_step;
}

void lay_out_shared() {
    if (!shared_end) {
        void *map = mmap(nullptr, shared_room + guard_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        shared_end = (char *)map + shared_room / 4096 * 4096;
        if (map == MAP_FAILED || mprotect(shared_end, guard_bytes, PROT_NONE)) die("no shared memory");
    }
    char *begin = shared_begin(), *end = begin + kernel->shared_bytes;
#if MF_EMULATED_ASAN
    __asan_unpoison_memory_region(begin, (size_t)(shared_end - begin));
#endif
    memset(begin, unwritten, kernel->shared_bytes);
    memset(end, untouched, (size_t)(shared_end - end));
#if MF_EMULATED_ASAN
    __asan_poison_memory_region(end, (size_t)(shared_end - end) + guard_bytes);
#endif
    spoil_static_shared();
}

void check_shared() {
#if !MF_EMULATED_ASAN
    for (const char *at = shared_begin() + kernel->shared_bytes; at < shared_end; at++)
        if ((unsigned char)*at != untouched)
            die("kernel %s wrote past the %zu bytes of shared memory that its launch asked for", kernel->name,
                kernel->shared_bytes);
#endif
}

void run_block(order by) {
    static std::vector<unsigned> turns;
    set_threads();
    lay_out_shared();
    arrange(by, threads.size(), turns);
    while (living > 0) {
        bool any = false;
        for (unsigned i : turns) {
            if (threads[i].now > state::ready) continue;
            go_on(threads[i]);
            any = true;
        }
        if (!any) stuck();
    }
    check_shared();
}

} // namespace

void run(const launch &started) {
    std::vector<unsigned> blocks;
    launches++;
    order by = order_now();
    kernel = &started;
    blockDim = dim3(started.block[0], started.block[1], started.block[2]);
    gridDim = dim3(started.grid[0], started.grid[1], started.grid[2]);
    arrange(by, (size_t)gridDim.x * gridDim.y * gridDim.z, blocks);
    for (unsigned i : blocks) {
        blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / gridDim.x / gridDim.y};
        run_block(by);
    }
    kernel = nullptr;
}

const char *where() {
    static char text[512];
    if (!kernel) return "";
    snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u),", kernel->name,
             blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    return text;
}

void *dynamic_shared() { return shared_begin(); }
int lane() { return (int)(number_of(*running) % warp); }

votes barrier(bool vote, const char *file, int line) {
    if (come_to_barrier == 0) barrier_place = {file, line};
    if (!(barrier_place == place{file, line}))
        die("%s waits at %s:%d for a block of which others wait at %s:%d", where(), file, line,
            barrier_place.file, barrier_place.line);
    votes_for += vote;
    running->now = state::at_barrier;
    if (++come_to_barrier == living) open_barrier();
    wait(running->now, file, line);
    return last_votes;
}

void meet(unsigned mask, combine call, void *mine, const char *file, int line) {
    size_t which_warp = number_of(*running) / warp, own = (size_t)lane();
    std::vector<meeting> &all = meetings[which_warp];
    if (!(mask >> own & 1)) die("%s is not in the mask %08x at %s:%d", where(), mask, file, line);
    size_t i = 0;
    while (i < all.size() && all[i].mask != mask) i++;
    if (i == all.size()) all.push_back({mask, 0, call, {file, line}, {}});
    meeting &m = all[i];
    if (m.call != call || (call && !(m.at == place{file, line})))
        die("%s meets its warp at %s:%d, others are at %s:%d", where(), file, line, m.at.file, m.at.line);
    m.come |= 1u << own;
    m.brought[own] = mine;
    running->now = state::at_meeting;
    if (conclude(which_warp, i)) return;
    wait(state::at_meeting, file, line);
}

namespace {
struct ballot {
    bool vote;
    unsigned got;
};

void count_votes(void *const brought[warp], unsigned lanes) {
    unsigned all = 0;
    for (unsigned i = 0; i < warp; i++)
        if (lanes >> i & 1 && ((const ballot *)brought[i])->vote) all |= 1u << i;
    for (unsigned i = 0; i < warp; i++)
        if (lanes >> i & 1) ((ballot *)brought[i])->got = all;
}
} // namespace

unsigned vote(unsigned mask, bool own, const char *file, int line) {
    ballot mine = {own, 0};
    meet(mask, count_votes, &mine, file, line);
    return mine.got;
}

void copy_begin(void *to, const void *from, size_t bytes, bool exists) {
    if (running->groups.empty()) running->groups.emplace_back();
    if ((uintptr_t)to % bytes || (exists && (uintptr_t)from % bytes))
        die("%s copies %zu bytes that are not aligned", where(), bytes);
    running->groups.back().push_back({(char *)to, (const char *)from, bytes, exists});
}

void copy_group() {
    if (running->groups.empty()) running->groups.emplace_back();
    running->groups.emplace_back();
}

/* Only now do the bytes come. */
void copy_wait(int later) {
    auto &groups = running->groups;
    while ((int)groups.size() - 1 > later) {
        for (const deferred &d : groups.front()) {
            memset(d.to, 0, d.bytes);
            if (d.exists) memcpy(d.to, d.from, d.bytes);
        }
        groups.erase(groups.begin());
    }
}

cudaError_t check_launch(const launch &asked) {
    const unsigned grid_most[3] = {0x7fffffff, 65535, 65535}, block_most[3] = {1024, 1024, 64};
    for (int i = 0; i < 3; i++)
        if (asked.grid[i] < 1 || asked.grid[i] > grid_most[i] || asked.block[i] < 1 ||
            asked.block[i] > block_most[i])
            return cudaErrorInvalidConfiguration;
    if (asked.block[0] * asked.block[1] * asked.block[2] > 1024) return cudaErrorInvalidConfiguration;
    std::lock_guard<std::mutex> held(lock);
    auto found = shared_asked.find({asked.kernel, current_device()});
    size_t most = std::max(shared_unasked, found == shared_asked.end() ? 0 : found->second);
    return asked.shared_bytes > most ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t allow_shared(const void *function, size_t bytes) {
    if (bytes > shared_most) return failed(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> held(lock);
    shared_asked[{function, current_device()}] = bytes;
    return cudaSuccess;
}

cudaError_t queue_launch(const cudaLaunchConfig_t &c, const void *function, std::function<void()> thread) {
    if (injected()) return failed(cudaErrorUnknown);
    if (device_of(c.stream) != current_device()) return failed(cudaErrorInvalidResourceHandle);
    launch asked = {name_of(function),
                    function,
                    {c.gridDim.x, c.gridDim.y, c.gridDim.z},
                    {c.blockDim.x, c.blockDim.y, c.blockDim.z},
                    c.dynamicSmemBytes,
                    std::move(thread)};
    cudaError_t error = check_launch(asked);
    if (error) return failed(error);
    return enqueue(c.stream, asked.name, [asked] { return run(asked), true; });
}

} // namespace emulated
