/* nccl.c: links between GPUs are NCCL's communicators, in its nonblocking mode. A link's lock is held for
 * calls that return at once, so that another thread can abort it between two of them. */
#include "device/cuda/cuda.h"
#include "device/links.h"

#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct mf_link {
    pthread_mutex_t lock;
    ncclComm_t comm; /* NULL: aborted, or ended */
    cudaStream_t queue;
    bool owns_queue, finished;
    int number; /* of the GPU */
};

static mf_status check(const char *call, ncclResult_t result) {
    if (result == ncclSuccess || result == ncclInProgress) return MF_OK;
    const char *more = ncclGetLastError(NULL);
    return MF_FAIL(result == ncclSystemError || result == ncclRemoteError ? MF_ECOMM : MF_ELIBRARY,
                   "%s: %s%s%s", call, ncclGetErrorString(result), more && *more ? ": " : "",
                   more ? more : "");
}
#define NCCL(function, ...) check(#function, function(__VA_ARGS__))

static mf_status make_id(void *id) {
    ncclUniqueId unique;
    MF_TRY(NCCL(ncclGetUniqueId, &unique));
    _Static_assert(sizeof unique == MF_LINK_ID, "an id as long as NCCL's");
    memcpy(id, &unique, sizeof unique);
    return MF_OK;
}

/* One kernel runs on a machine, whatever its containers are called. */
static mf_status machine_name(char *name, int room) {
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    bool read = file && fgets(name, room, file);
    if (file) fclose(file);
    if (!read) return MF_FAIL(MF_EIO, "/proc/sys/kernel/random/boot_id can't be read");
    name[strcspn(name, "\n")] = 0;
    return MF_OK;
}

static mf_status place(mf_device *device, char *out) {
    char machine[48], bus[32];
    MF_TRY(machine_name(machine, sizeof machine));
    MF_TRY(MF_CUDA(cudaDeviceGetPCIBusId, bus, sizeof bus, mf_cuda_of(device)->place->number));
    snprintf(out, MF_LINK_PLACE, "%s %s", machine, bus);
    return MF_OK;
}

static void nccl_close(mf_link *link);

static mf_status begin(mf_link *link, const void *id, int member, int members) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId unique;
    config.blocking = 0;
    memcpy(&unique, id, sizeof unique);
    MF_TRY(MF_CUDA(cudaSetDevice, link->number));
    if (link->owns_queue) MF_TRY(MF_CUDA(cudaStreamCreateWithFlags, &link->queue, cudaStreamNonBlocking));
    return NCCL(ncclCommInitRankConfig, &link->comm, members, unique, member, &config);
}

static mf_status nccl_open(mf_device *device, bool own_queue, const void *id, int member, int members,
                           mf_link **out) {
    mf_link *link = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *link, &link));
    if (pthread_mutex_init(&link->lock, NULL)) {
        mf_host_free(link);
        return MF_FAIL(MF_ENOMEM, "no lock for a link between GPUs");
    }
    link->number = mf_cuda_of(device)->place->number;
    link->owns_queue = own_queue;
    if (!own_queue) link->queue = mf_cuda_stream(device);
    mf_status status = begin(link, id, member, members);
    if (status) {
        nccl_close(link);
        return mf_error_pass(__FILE__, __LINE__, status);
    }
    *out = link;
    return MF_OK;
}

/* With the lock held from then on, unless it fails. */
static mf_status enter(mf_link *link) {
    MF_TRY(MF_CUDA(cudaSetDevice, link->number));
    pthread_mutex_lock(&link->lock);
    if (link->comm) return MF_OK;
    pthread_mutex_unlock(&link->lock);
    return MF_FAIL(MF_ECOMM, "a link between GPUs was given up");
}

static mf_status leave(mf_link *link, mf_status status) {
    pthread_mutex_unlock(&link->lock);
    return status;
}

static mf_status nccl_look(mf_link *link, bool *under_way) {
    ncclResult_t state = ncclSuccess;
    MF_TRY(enter(link));
    mf_status status = NCCL(ncclCommGetAsyncError, link->comm, &state);
    if (!status) status = check("NCCL", state);
    *under_way = state == ncclInProgress;
    return leave(link, status);
}

static ncclDataType_t type_of(const mf_link_move *m) {
    return m->type == MF_BF16 ? ncclBfloat16 : ncclFloat32;
}

static mf_status move_one(const mf_link *link, const mf_link_move *m) {
    ncclComm_t c = link->comm;
    switch (m->kind) {
    case MF_LINK_SEND:
        return NCCL(ncclSend, m->from, m->count, ncclInt8, m->peer, c, link->queue);
    case MF_LINK_RECV:
        return NCCL(ncclRecv, m->to, m->count, ncclInt8, m->peer, c, link->queue);
    case MF_LINK_BROADCAST:
        return NCCL(ncclBroadcast, m->from, m->to, m->count, ncclInt8, m->peer, c, link->queue);
    case MF_LINK_ALLGATHER:
        return NCCL(ncclAllGather, m->from, m->to, m->count, ncclInt8, c, link->queue);
    case MF_LINK_REDUCE:
        return NCCL(ncclReduce, m->from, m->to, m->count, type_of(m), ncclSum, m->peer, c, link->queue);
    case MF_LINK_ALLREDUCE:
        return NCCL(ncclAllReduce, m->from, m->to, m->count, type_of(m), ncclSum, c, link->queue);
    case MF_LINK_REDUCE_SCATTER:
        return NCCL(ncclReduceScatter, m->from, m->to, m->count, type_of(m), ncclSum, c, link->queue);
    }
    return MF_FAIL(MF_EINVAL, "a link has no move of kind %d", (int)m->kind);
}

static mf_status move_all(const mf_link *link, const mf_link_move *moves, int count) {
    mf_status status = MF_OK;
    MF_TRY(check("ncclGroupStart", ncclGroupStart()));
    for (int i = 0; i < count && !status; i++) status = move_one(link, &moves[i]);
    mf_error first = *mf_error_last();
    mf_status ended = check(
        "ncclGroupEnd", ncclGroupEnd()); /* whatever came before, or the thread would stay within the group */
    return status ? mf_error_adopt(&first) : ended;
}

static mf_status nccl_move(mf_link *link, const mf_link_move *moves, int count) {
    MF_TRY(enter(link));
    return leave(link, move_all(link, moves, count));
}

static mf_status nccl_follow(mf_link *link, const mf_event *event) {
    MF_TRY(MF_CUDA(cudaSetDevice, link->number));
    return MF_CUDA(cudaStreamWaitEvent, link->queue, mf_cuda_event_of(event), 0);
}

static mf_status nccl_record(mf_link *link, mf_event *event) {
    MF_TRY(MF_CUDA(cudaSetDevice, link->number));
    return MF_CUDA(cudaEventRecord, mf_cuda_event_of(event), link->queue);
}

static mf_status nccl_finish(mf_link *link) {
    MF_TRY(enter(link));
    link->finished = true;
    return leave(link, NCCL(ncclCommFinalize, link->comm));
}

static void nccl_abort(mf_link *link) {
    pthread_mutex_lock(&link->lock);
    if (link->comm) ncclCommAbort(link->comm);
    link->comm = NULL;
    pthread_mutex_unlock(&link->lock);
}

/* Only a communicator that has come to rest can be destroyed without waiting for others. */
static void end(mf_link *link) {
    ncclResult_t state = ncclInternalError;
    ncclCommGetAsyncError(link->comm, &state);
    if (link->finished && state == ncclSuccess)
        ncclCommDestroy(link->comm);
    else
        ncclCommAbort(link->comm);
}

static void nccl_close(mf_link *link) {
    if (!link) return;
    cudaSetDevice(link->number);
    if (link->comm) end(link);
    if (link->owns_queue && link->queue) cudaStreamDestroy(link->queue);
    pthread_mutex_destroy(&link->lock);
    mf_host_free(link);
}

const mf_link_ops mf_cuda_links = {
    .make_id = make_id,
    .place = place,
    .open = nccl_open,
    .look = nccl_look,
    .move = nccl_move,
    .follow = nccl_follow,
    .record = nccl_record,
    .abort = nccl_abort,
    .finish = nccl_finish,
    .close = nccl_close,
};
