/* comm_place.c: see comm_place.h. */
#include "comm_place.h"

#include <string.h>

/* A buffer of the host's, from `begin` on, and what stands for it on the device. */
typedef struct mirror {
    char *host;
    size_t begin, bytes; /* bytes: from the buffer's beginning */
    mf_buffer buffer;    /* what is transferred */
    mf_buffer before, after;
    bool back; /* what it holds afterwards is wanted */
} mirror;

/* What belongs to a request until it is finished; NULL: none. */
typedef struct flight {
    const mf_request *request;
    mirror send, recv;
} flight;

enum { FLIGHTS = 64 };
static _Thread_local mf_device *device;
static _Thread_local mf_memory *memory;
static _Thread_local mf_buffer spoil;
static _Thread_local flight flights[FLIGHTS];

enum { SPOIL_BYTES = 1 << 20 };

mf_device *place_device(void) { return device; }

/* Bytes of the host's come into a device's memory; the host waits. */
static mf_status put(void *to, const void *from, size_t bytes) {
    return mf_copy(device, MF_QUEUE_COMPUTE, to, from, bytes);
}

static mf_status make_spoil(void) {
    char *bytes = NULL;
    MF_TRY(mf_buffer_alloc(memory, MF_WORKSPACE, SPOIL_BYTES, "what spoils", &spoil));
    MF_TRY(mf_host_alloc(SPOIL_BYTES, 1, &bytes));
    memset(bytes, 0xee, SPOIL_BYTES);
    mf_status status = put(spoil.data, bytes, SPOIL_BYTES);
    mf_host_free(bytes);
    return status;
}

mf_status place_open(mf_world *world, const char *name) {
    char own[MF_DEVICE_NAME];
    if (!name) return MF_OK;
    mf_device_name_of_rank(name, mf_world_rank(world), own);
    MF_TRY(mf_device_memory_create(own, &memory));
    MF_TRY(mf_device_create(own, memory, 1, &device));
    mf_world_use(world, device);
    if (mf_device_has_queues(device)) return make_spoil();
    place_close();
    return MF_OK;
}

static void drop(mirror *m) {
    mf_buffer_free(memory, &m->buffer);
    mf_buffer_free(memory, &m->before);
    mf_buffer_free(memory, &m->after);
    *m = (mirror){0};
}

void place_close(void) {
    for (int i = 0; memory && i < FLIGHTS; i++) {
        drop(&flights[i].send);
        drop(&flights[i].recv);
        flights[i].request = NULL;
    }
    if (memory) mf_buffer_free(memory, &spoil);
    mf_device_destroy(device);
    mf_memory_destroy(memory);
    device = NULL;
    memory = NULL;
}

mf_status place_memory(mf_memory **out) {
    return device ? mf_device_memory_create(mf_device_name(device), out) : mf_memory_create(NULL, out);
}

static mf_status set_up(mirror *m, const void *host, size_t begin, size_t bytes, bool back) {
    *m = (mirror){.host = (char *)(uintptr_t)host, .begin = begin, .bytes = bytes, .back = back};
    MF_TRY(mf_buffer_alloc(memory, MF_WORKSPACE, bytes, "a test's buffer", &m->buffer));
    MF_TRY(mf_buffer_alloc(memory, MF_WORKSPACE, bytes, "what comes in", &m->before));
    MF_TRY(mf_buffer_alloc(memory, MF_WORKSPACE, bytes, "what comes out", &m->after));
    if (begin == bytes) return MF_OK;
    MF_TRY(put((char *)m->before.data + begin, m->host + begin, bytes - begin));
    return mf_copy(device, MF_QUEUE_COMPUTE, (char *)m->buffer.data + begin, (char *)m->before.data + begin,
                   bytes - begin);
}

static mf_status spoil_buffer(const mirror *m) {
    for (size_t at = 0; at < m->bytes; at += SPOIL_BYTES) {
        size_t most = m->bytes - at, n = most < SPOIL_BYTES ? most : SPOIL_BYTES;
        MF_TRY(mf_copy(device, MF_QUEUE_COMPUTE, (char *)m->buffer.data + at, spoil.data, n));
    }
    return MF_OK;
}

static mf_status leave(const mirror *m) {
    if (m->back) MF_TRY(mf_copy(device, MF_QUEUE_COMPUTE, m->after.data, m->buffer.data, m->bytes));
    return spoil_buffer(m);
}

static mf_status bring_back(const mirror *m) {
    if (!m->back || m->begin == m->bytes) return MF_OK;
    return put(m->host + m->begin, (char *)m->after.data + m->begin, m->bytes - m->begin);
}

static mf_status end_flight(flight *f) {
    MF_TRY(leave(&f->send));
    MF_TRY(leave(&f->recv));
    MF_TRY(bring_back(&f->recv));
    drop(&f->send);
    drop(&f->recv);
    f->request = NULL;
    return MF_OK;
}

static flight *flight_of(const mf_request *request) {
    for (int i = 0; i < FLIGHTS; i++)
        if (flights[i].request == request) return &flights[i];
    return NULL;
}

static mf_status take_off(const mf_request *request, flight **out) {
    static const mf_request blocking;
    *out = flight_of(NULL);
    if (!*out) return MF_FAIL(MF_EINVAL, "more requests than the test has room for");
    (*out)->request = request ? request : &blocking;
    return MF_OK;
}

mf_status place_finish(mf_comm *comm, mf_request *request) {
    flight *f = device && request->ticket ? flight_of(request) : NULL;
    MF_TRY(mf_finish(comm, request));
    return f ? end_flight(f) : MF_OK;
}

/* What was not left to a request has ended; a group of one leaves nothing to it. */
static mf_status land(flight *f, const mf_request *request) {
    return request && request->ticket ? MF_OK : end_flight(f);
}

mf_status place_broadcast(mf_comm *comm, void *buffer, size_t bytes, int root, mf_request *request) {
    flight *f = NULL;
    if (!device) return mf_broadcast(comm, buffer, bytes, root, request);
    MF_TRY(take_off(request, &f));
    MF_TRY(set_up(&f->recv, buffer, 0, bytes, true));
    MF_TRY(mf_broadcast(comm, f->recv.buffer.data, bytes, root, request));
    return land(f, request);
}

mf_status place_allgather(mf_comm *comm, const void *send, void *recv, const size_t *offsets,
                          mf_request *request) {
    flight *f = NULL;
    int rank = mf_comm_rank(comm);
    size_t end = offsets[mf_comm_size(comm)], bytes = offsets[rank + 1] - offsets[rank];
    if (!device) return mf_allgather(comm, send, recv, offsets, request);
    MF_TRY(take_off(request, &f));
    MF_TRY(set_up(&f->recv, recv, offsets[0], end, true));
    const void *own = (char *)f->recv.buffer.data + offsets[rank];
    if (send != (char *)recv + offsets[rank]) {
        MF_TRY(set_up(&f->send, send, 0, bytes, false));
        own = f->send.buffer.data;
    }
    MF_TRY(mf_allgather(comm, own, f->recv.buffer.data, offsets, request));
    return land(f, request);
}

mf_status place_reduce(mf_comm *comm, float *buffer, int64_t count, int root, mf_request *request) {
    flight *f = NULL;
    if (!device) return mf_reduce(comm, buffer, count, root, request);
    MF_TRY(take_off(request, &f));
    MF_TRY(set_up(&f->recv, buffer, 0, (size_t)count * sizeof *buffer, true));
    MF_TRY(mf_reduce(comm, f->recv.buffer.data, count, root, request));
    return land(f, request);
}

mf_status place_allreduce(mf_comm *comm, void *buffer, int64_t count, mf_dtype type, mf_request *request) {
    flight *f = NULL;
    if (!device) return mf_allreduce(comm, buffer, count, type, request);
    MF_TRY(take_off(request, &f));
    MF_TRY(set_up(&f->recv, buffer, 0, (size_t)count * mf_dtype_bytes(type), true));
    MF_TRY(mf_allreduce(comm, f->recv.buffer.data, count, type, request));
    return land(f, request);
}

mf_status place_reduce_scatter(mf_comm *comm, void *buffer, const int64_t *offsets, mf_dtype type,
                               mf_request *request) {
    flight *f = NULL;
    size_t width = mf_dtype_bytes(type);
    if (!device) return mf_reduce_scatter(comm, buffer, offsets, type, request);
    MF_TRY(take_off(request, &f));
    MF_TRY(set_up(&f->recv, buffer, (size_t)offsets[0] * width, (size_t)offsets[mf_comm_size(comm)] * width,
                  true));
    MF_TRY(mf_reduce_scatter(comm, f->recv.buffer.data, offsets, type, request));
    return land(f, request);
}

mf_status place_alltoall(mf_comm *comm, const void *send, const size_t *send_offsets, void *recv,
                         const size_t *recv_offsets, mf_request *request) {
    flight *f = NULL;
    int size = mf_comm_size(comm);
    if (!device) return mf_alltoall(comm, send, send_offsets, recv, recv_offsets, request);
    MF_TRY(take_off(request, &f));
    MF_TRY(set_up(&f->send, send, send_offsets[0], send_offsets[size], false));
    MF_TRY(set_up(&f->recv, recv, recv_offsets[0], recv_offsets[size], true));
    MF_TRY(mf_alltoall(comm, f->send.buffer.data, send_offsets, f->recv.buffer.data, recv_offsets, request));
    return land(f, request);
}

mf_status place_shift(mf_comm *comm, const void *send, size_t send_bytes, void *recv, size_t recv_bytes,
                      mf_request *request) {
    flight *f = NULL;
    if (!device) return mf_shift(comm, send, send_bytes, recv, recv_bytes, request);
    MF_TRY(take_off(request, &f));
    MF_TRY(set_up(&f->send, send, 0, send_bytes, false));
    MF_TRY(set_up(&f->recv, recv, 0, recv_bytes, true));
    MF_TRY(mf_shift(comm, f->send.buffer.data, send_bytes, f->recv.buffer.data, recv_bytes, request));
    return land(f, request);
}

mf_status place_add(float *to, const float *a, float b) {
    mf_buffer addend = {0};
    if (!device) return *to = *a + b, MF_OK;
    MF_TRY(mf_buffer_alloc(memory, MF_WORKSPACE, sizeof b, "a number", &addend));
    mf_status status = put(addend.data, &b, sizeof b);
    mf_sum_args args = {.n = 1,
                        .type = MF_F32,
                        .terms = 2,
                        .places = 1,
                        .term = (const void *[]){a, addend.data},
                        .to = (void *[]){to}};
    if (!status) status = mf_sum_terms(device, MF_QUEUE_COMPUTE, &args);
    mf_buffer_free(memory, &addend);
    return status;
}

mf_status place_read(const void *from, void *to, size_t bytes) {
    if (device) return put(to, from, bytes);
    memcpy(to, from, bytes);
    return MF_OK;
}

mf_status place_fill(void *to, int byte, size_t bytes) {
    char *values = NULL;
    MF_TRY(mf_host_alloc(bytes, 1, &values));
    memset(values, byte, bytes);
    mf_status status = MF_OK;
    if (device)
        status = put(to, values, bytes);
    else
        memcpy(to, values, bytes);
    mf_host_free(values);
    return status;
}
