/* nccl.cpp: NCCL on emulated GPUs whose ranks are threads of one process. A group of calls is one piece of
 * work in a rank's stream; each call in it waits until the streams of all ranks that take part have come to
 * theirs, and whoever sees that first carries it out for all. So streams whose calls cross wait for ever, as
 * they do on GPUs. Sums are added from the last rank down: whoever counts on rank order is found out. */
#include "emulated.h"

#include <nccl.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

enum class kind { broadcast, allgather, reduce, allreduce, reduce_scatter, send };

/* A rank's side of a call, once it has been made. */
struct side {
    bool asked = false;
    emulated::point at;
    const void *from = nullptr;
    void *to = nullptr;
};

struct call {
    kind what;
    size_t count, width;
    int root;
    bool done = false;
    std::vector<side> sides; /* of all ranks; of a send, the sender's and the receiver's */
};

/* All communicators of one id. */
struct clique {
    int ranks, here = 0, ended = 0;
    std::map<long, std::shared_ptr<call>> collectives;
    std::map<long, std::map<long, std::shared_ptr<call>>> sends; /* of each pair, by number */
};

std::map<std::string, std::shared_ptr<clique>> cliques;
thread_local std::string last_error;

ncclResult_t refuse(ncclResult_t result, const char *why) {
    last_error = why;
    return result;
}

size_t width_of(ncclDataType_t type) { return type == ncclInt8 ? 1 : type == ncclBfloat16 ? 2 : 4; }

} // namespace

struct emulated_communicator {
    std::shared_ptr<clique> all;
    int rank, device;
    bool aborted = false, ending = false;
    long collectives = 0;
    std::map<long, long> sends; /* numbers of the next, by pair */
};

namespace {

struct asked_call {
    std::shared_ptr<emulated_communicator> comm;
    std::shared_ptr<call> of;
    int side;
    cudaStream_t stream;
};

/* Kept until the last piece of work that names it is done. */
std::map<emulated_communicator *, std::shared_ptr<emulated_communicator>> communicators;
thread_local int depth;
thread_local std::vector<asked_call> grouped;

float widened(const void *data, size_t width, size_t i) {
    if (width == 4) return ((const float *)data)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)data)[i] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void store(void *data, size_t width, size_t i, float value) {
    if (width == 4) {
        ((float *)data)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)data)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Elements begin .. begin + count - 1 of all ranks' terms. */
std::vector<float> sum(const call &c, size_t begin, size_t count) {
    std::vector<float> total(count, 0.0f);
    for (size_t r = c.sides.size(); r-- > 0;)
        for (size_t i = 0; i < count; i++) total[i] += widened(c.sides[r].from, c.width, begin + i);
    return total;
}

void store_all(const call &c, void *to, const std::vector<float> &values) {
    for (size_t i = 0; i < values.size(); i++) store(to, c.width, i, values[i]);
}

void gather(const call &c) {
    size_t bytes = c.count * c.width;
    for (auto &to : c.sides)
        for (size_t r = 0; r < c.sides.size(); r++)
            memmove((char *)to.to + r * bytes, c.sides[r].from, bytes);
}

/* All parts before any is stored: each may lie where a term does. */
void reduce_scatter(const call &c) {
    std::vector<std::vector<float>> parts;
    for (size_t r = 0; r < c.sides.size(); r++) parts.push_back(sum(c, r * c.count, c.count));
    for (size_t r = 0; r < c.sides.size(); r++) store_all(c, c.sides[r].to, parts[r]);
}

void carry_out(const call &c) {
    switch (c.what) {
    case kind::send:
        memmove(c.sides[1].to, c.sides[0].from, c.count * c.width);
        break;
    case kind::broadcast:
        for (auto &s : c.sides) memmove(s.to, c.sides[c.root].from, c.count * c.width);
        break;
    case kind::allgather:
        gather(c);
        break;
    case kind::reduce:
        store_all(c, c.sides[c.root].to, sum(c, 0, c.count));
        break;
    case kind::allreduce: {
        auto total = sum(c, 0, c.count);
        for (auto &s : c.sides) store_all(c, s.to, total);
        break;
    }
    case kind::reduce_scatter:
        reduce_scatter(c);
    }
}

/* With the lock held: whether it is done, now. */
bool try_call(call &c) {
    if (c.done) return true;
    for (auto &s : c.sides)
        if (!s.asked) return false;
    for (auto &s : c.sides)
        if (!emulated::advance({s.at.stream, s.at.place - 1})) return false;
    if (!c.done) carry_out(c); /* a stream that was moved on may have done it */
    return c.done = true;
}

bool try_group(const std::vector<asked_call> &calls) {
    bool done = true;
    for (auto &a : calls)
        if (!a.comm->aborted && !try_call(*a.of)) done = false;
    return done;
}

/* Wakes whoever waits for a stream that can now be moved on. */
void stir(cudaStream_t stream) {
    emulated::enqueue(stream, "look again", [] { return true; });
}

ncclResult_t submit(const std::vector<asked_call> &calls) {
    if (calls.empty()) return ncclSuccess;
    emulated::point at;
    if (emulated::enqueue(
            calls[0].stream, "transfer of NCCL", [calls] { return try_group(calls); }, &at))
        return refuse(ncclUnhandledCudaError, "a stream that is none");
    {
        std::lock_guard<std::mutex> held(emulated::lock);
        for (auto &a : calls) {
            a.of->sides[a.side].at = at;
            a.of->sides[a.side].asked = true;
        }
    }
    stir(calls[0].stream);
    return ncclSuccess;
}

/* The call of this number, made by whoever comes first. */
std::shared_ptr<call> find(std::map<long, std::shared_ptr<call>> &calls, long number, const call &wanted) {
    auto &found = calls[number];
    if (!found) found = std::make_shared<call>(wanted);
    if (found->what != wanted.what || found->count != wanted.count || found->width != wanted.width ||
        found->root != wanted.root)
        emulated::die("NCCL: ranks call different things, or with other sizes");
    return found;
}

ncclResult_t ask(ncclComm_t comm, std::shared_ptr<call> of, int own, const void *from, void *to,
                 cudaStream_t stream) {
    of->sides[own].from = from;
    of->sides[own].to = to;
    grouped.push_back({communicators[comm], of, own, stream});
    return ncclSuccess;
}

/* pair: of ranks, for a send; -1: all. Numbers count the calls of each side of it. */
ncclResult_t ask_in_group(ncclComm_t comm, long pair, call wanted, int sides, int own, const void *from,
                          void *to, cudaStream_t stream) {
    wanted.sides.resize(sides);
    ncclGroupStart();
    {
        std::lock_guard<std::mutex> held(emulated::lock);
        clique &all = *comm->all;
        if (all.here < all.ranks) emulated::die("NCCL: used before all ranks were there");
        long number = pair < 0 ? comm->collectives++ : comm->sends[2 * pair + own]++;
        ask(comm, find(pair < 0 ? all.collectives : all.sends[pair], number, wanted), own, from, to, stream);
    }
    return ncclGroupEnd();
}

ncclResult_t collective(ncclComm_t comm, call wanted, const void *from, void *to, cudaStream_t stream) {
    return ask_in_group(comm, -1, wanted, comm->all->ranks, comm->rank, from, to, stream);
}

/* own: 0 the sender's side, 1 the receiver's. */
ncclResult_t point_to_point(ncclComm_t comm, int sender, int receiver, int own, size_t bytes,
                            const void *from, void *to, cudaStream_t stream) {
    long pair = (long)sender * comm->all->ranks + receiver;
    return ask_in_group(comm, pair, {kind::send, bytes, 1, 0, false, {}}, 2, own, from, to, stream);
}

} // namespace

const char *ncclGetErrorString(ncclResult_t result) {
    return result == ncclUnhandledCudaError ? "unhandled cuda error"
           : result == ncclInvalidUsage     ? "invalid usage"
           : result == ncclRemoteError      ? "remote process exited or there was a network error"
                                            : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t) { return last_error.c_str(); }

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static long made;
    if (emulated::injected()) return refuse(ncclSystemError, "injected");
    std::lock_guard<std::mutex> held(emulated::lock);
    *id = {};
    snprintf(id->internal, sizeof id->internal, "clique %ld", ++made);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    if (emulated::injected()) return refuse(ncclUnhandledCudaError, "injected");
    if (config->blocking) return refuse(ncclInvalidUsage, "only nonblocking communicators are emulated");
    std::lock_guard<std::mutex> held(emulated::lock);
    auto &all = cliques[id.internal];
    if (!all) all = std::make_shared<clique>(clique{ranks, 0, 0, {}, {}});
    all->here++;
    auto made = std::make_shared<emulated_communicator>();
    made->all = all;
    made->rank = rank;
    made->device = emulated::current_device();
    communicators[made.get()] = made;
    *out = made.get();
    return ncclInProgress;
}

/* Until all ranks have come, and again until all have ended. */
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state) {
    if (emulated::injected()) return refuse(ncclSystemError, "injected");
    std::lock_guard<std::mutex> held(emulated::lock);
    const clique &all = *comm->all;
    *state = all.here < all.ranks || (comm->ending && all.ended < all.ranks) ? ncclInProgress : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    if (emulated::injected()) return refuse(ncclUnhandledCudaError, "injected");
    std::lock_guard<std::mutex> held(emulated::lock);
    comm->ending = true;
    comm->all->ended++;
    return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    std::lock_guard<std::mutex> held(emulated::lock);
    if (!comm->ending || comm->all->ended < comm->all->ranks)
        emulated::die("NCCL: a communicator is destroyed that was not finalized everywhere");
    communicators.erase(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    {
        std::lock_guard<std::mutex> held(emulated::lock);
        comm->aborted = true;
        communicators.erase(comm);
    }
    stir(nullptr);
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) {
    depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
    if (--depth > 0) return ncclSuccess;
    std::vector<asked_call> calls;
    calls.swap(grouped);
    return submit(calls);
}

ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return point_to_point(comm, comm->rank, peer, 0, count * width_of(type), from, nullptr, stream);
}

ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return point_to_point(comm, peer, comm->rank, 1, count * width_of(type), nullptr, to, stream);
}

ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    if (emulated::injected()) return refuse(ncclUnhandledCudaError, "injected");
    return collective(comm, {kind::broadcast, count, width_of(type), root, false, {}}, from, to, stream);
}

ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
    return collective(comm, {kind::allgather, count, width_of(type), 0, false, {}}, from, to, stream);
}

ncclResult_t ncclReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t, int root,
                        ncclComm_t comm, cudaStream_t stream) {
    return collective(comm, {kind::reduce, count, width_of(type), root, false, {}}, from, to, stream);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t,
                           ncclComm_t comm, cudaStream_t stream) {
    return collective(comm, {kind::allreduce, count, width_of(type), 0, false, {}}, from, to, stream);
}

ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t,
                               ncclComm_t comm, cudaStream_t stream) {
    return collective(comm, {kind::reduce_scatter, count, width_of(type), 0, false, {}}, from, to, stream);
}
