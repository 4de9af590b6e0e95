/* streams.cpp: streams are lazy: what is asked of one is kept, and carried out when somebody waits for it,
 * and then no further than that. So a host that reads too early, or a stream that follows another without an
 * event between them, sees what was there before. */
#include "emulated.h"

#include <chrono>
#include <deque>
#include <map>
#include <set>
#include <vector>

namespace {

struct queued {
    const char *what;
    emulated::work call;
};

/* Where an event stands since its last record. */
struct record {
    emulated::point at;
    double ms = 0;
};

} // namespace

struct emulated_stream {
    int device = 0;
    bool carried_out_now = false, destroyed = false;
    uint64_t asked = 0, done = 0;
    std::deque<queued> waiting;
};

struct emulated_event {
    int device;
    bool timed;
    std::shared_ptr<record> last;
};

namespace emulated {

namespace {

/* What a stream holds at most before its host has to wait, as a GPU's does. */
constexpr size_t waiting_most = 1024;

std::condition_variable asked;
std::map<emulated_stream *, std::shared_ptr<emulated_stream>> streams;
std::map<int, std::shared_ptr<emulated_stream>> own; /* of each device: the stream NULL */
std::set<emulated_event *> events;

std::shared_ptr<emulated_stream> create(int device) {
    auto made = std::make_shared<emulated_stream>();
    made->device = device;
    streams[made.get()] = made;
    return made;
}

/* NULL: there is no such stream. */
std::shared_ptr<emulated_stream> find(cudaStream_t stream) {
    if (!stream) {
        auto &found = own[current_device()];
        return found ? found : found = create(current_device());
    }
    auto found = streams.find(stream);
    return found == streams.end() || found->second->destroyed ? nullptr : found->second;
}

point end_of(const std::shared_ptr<emulated_stream> &stream) { return {stream, stream->asked}; }

/* A destroyed stream goes when nothing is left to do in it. */
void drop_ended() {
    for (auto i = streams.begin(); i != streams.end();)
        i = i->second->destroyed && i->second->waiting.empty() ? streams.erase(i) : std::next(i);
}

void wait_for(const point &to, std::unique_lock<std::mutex> &held) {
    for (;;) {
        begin_execution();
        bool done = advance(to);
        end_execution();
        if (done) return;
        asked.wait(held);
    }
}

void add(emulated_stream *stream, const char *what, work call) {
    stream->waiting.push_back({what, std::move(call)});
    stream->asked++;
    asked.notify_all();
}

double now_ms() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

} // namespace

bool advance(const point &to) {
    emulated_stream &s = *to.stream;
    while (s.done < to.place) {
        if (s.carried_out_now) return false;
        s.carried_out_now = true;
        begin_operation(s.waiting.front().what);
        bool done = s.waiting.front().call();
        s.carried_out_now = false;
        if (!done) return false;
        s.waiting.pop_front();
        s.done++;
    }
    return true;
}

cudaError_t enqueue(cudaStream_t stream, const char *what, work call, point *at) {
    std::unique_lock<std::mutex> held(lock);
    auto found = find(stream);
    if (!found) return failed(cudaErrorInvalidResourceHandle);
    if (found->waiting.size() >= waiting_most) wait_for({found, found->done + 1}, held);
    add(found.get(), what, std::move(call));
    if (at) *at = end_of(found);
    return cudaSuccess;
}

void finish(const point &to) {
    std::unique_lock<std::mutex> held(lock);
    wait_for(to, held);
}

cudaError_t finish_device(int device) {
    std::unique_lock<std::mutex> held(lock);
    std::vector<point> ends;
    for (auto &s : streams)
        if (s.second->device == device) ends.push_back(end_of(s.second));
    for (auto &end : ends) wait_for(end, held);
    drop_ended();
    return cudaSuccess;
}

/* What nobody waits for any more ends with the process: memory that was given back in a stream is. */
static void finish_all() {
    std::unique_lock<std::mutex> held(lock, std::try_to_lock);
    if (!held.owns_lock()) return;
    begin_execution();
    for (auto &s : streams) advance(end_of(s.second));
    end_execution();
}

int device_of(cudaStream_t stream) {
    std::lock_guard<std::mutex> held(lock);
    auto found = find(stream);
    return found ? found->device : -1;
}

} // namespace emulated

using namespace emulated;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned) {
    static const int registered = std::atexit(finish_all); /* before any static object goes */
    if (registered || injected()) return failed(cudaErrorMemoryAllocation);
    std::lock_guard<std::mutex> held(lock);
    *out = create(current_device()).get();
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *out) { return cudaStreamCreateWithFlags(out, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int) {
    return cudaStreamCreateWithFlags(out, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0, *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    std::lock_guard<std::mutex> held(lock);
    auto found = find(stream);
    if (!stream || !found) return failed(cudaErrorInvalidResourceHandle);
    found->destroyed = true;
    drop_ended();
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (injected()) return failed(cudaErrorUnknown);
    std::unique_lock<std::mutex> held(lock);
    auto found = find(stream);
    if (!found) return failed(cudaErrorInvalidResourceHandle);
    wait_for(end_of(found), held);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    return injected() ? failed(cudaErrorUnknown) : finish_device(current_device());
}

/* Who asks again and again moves it on, by one piece each time. */
static cudaError_t ready(const point &to) {
    if (to.stream->done >= to.place) return cudaSuccess;
    begin_execution();
    advance({to.stream, to.stream->done + 1});
    end_execution();
    return cudaErrorNotReady;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    if (injected()) return failed(cudaErrorUnknown);
    std::lock_guard<std::mutex> held(lock);
    auto found = find(stream);
    return found ? ready(end_of(found)) : failed(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *context) {
    if (injected()) return failed(cudaErrorUnknown);
    return enqueue(stream, "host function", [=] { return function(context), true; });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    if (injected()) return failed(cudaErrorMemoryAllocation);
    std::lock_guard<std::mutex> held(lock);
    *out = new emulated_event{current_device(), !(flags & cudaEventDisableTiming), nullptr};
    events.insert(*out);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) { return cudaEventCreateWithFlags(out, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    std::lock_guard<std::mutex> held(lock);
    if (!events.erase(event)) return failed(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (injected()) return failed(cudaErrorUnknown);
    std::lock_guard<std::mutex> held(lock);
    auto found = find(stream);
    if (!found || !events.count(event) || event->device != found->device)
        return failed(cudaErrorInvalidResourceHandle);
    auto made = std::make_shared<record>();
    add(found.get(), "event", [made] { return made->ms = now_ms(), true; });
    made->at = end_of(found);
    event->last = made;
    return cudaSuccess;
}

/* Of the event's last record, as it stands now. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (injected()) return failed(cudaErrorUnknown);
    std::lock_guard<std::mutex> held(lock);
    auto found = find(stream);
    if (!found || !events.count(event)) return failed(cudaErrorInvalidResourceHandle);
    if (!event->last) return cudaSuccess;
    point at = event->last->at;
    add(found.get(), "wait for an event", [at] { return advance(at); });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (injected()) return failed(cudaErrorUnknown);
    std::unique_lock<std::mutex> held(lock);
    if (!events.count(event)) return failed(cudaErrorInvalidResourceHandle);
    if (!event->last) return cudaSuccess;
    point at = event->last->at;
    wait_for(at, held);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (injected()) return failed(cudaErrorUnknown);
    std::lock_guard<std::mutex> held(lock);
    if (!events.count(event)) return failed(cudaErrorInvalidResourceHandle);
    return event->last ? ready(event->last->at) : cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
    std::lock_guard<std::mutex> held(lock);
    if (!events.count(begin) || !events.count(end) || !begin->timed || !end->timed || !begin->last ||
        !end->last)
        return failed(cudaErrorInvalidResourceHandle);
    for (const record *r : {begin->last.get(), end->last.get()})
        if (r->at.stream->done < r->at.place) return cudaErrorNotReady;
    *ms = (float)(end->last->ms - begin->last->ms);
    return cudaSuccess;
}
