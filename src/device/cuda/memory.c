/* memory.c: memory of a GPU, from CUDA's own pool of it: blocks are taken and given back in the order of the
 * compute queue, and the pool keeps what it once had, so that a steady step asks the driver for nothing. */
#include "device/cuda/cuda.h"

#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static mf_cuda_place *idle;

int mf_cuda_devices(void) {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

/* The pool's own unused blocks are free, too. */
static cudaError_t give_back_unused(int number) {
    cudaMemPool_t pool = NULL;
    cudaError_t error = cudaSetDevice(number);
    if (!error) error = cudaDeviceSynchronize();
    if (!error) error = cudaDeviceGetDefaultMemPool(&pool, number);
    return error ? error : cudaMemPoolTrimTo(pool, 0);
}

int64_t mf_cuda_free_bytes(int number) {
    size_t unused = 0, all = 0;
    bool known = !give_back_unused(number) && !cudaMemGetInfo(&unused, &all);
    if (!known) cudaGetLastError();
    return known ? (int64_t)unused : 0;
}

static mf_cuda_place *take_idle(int number) {
    pthread_mutex_lock(&lock);
    mf_cuda_place **link = &idle;
    while (*link && (*link)->number != number) link = &(*link)->next;
    mf_cuda_place *place = *link;
    if (place) *link = place->next;
    pthread_mutex_unlock(&lock);
    return place;
}

static void put_idle(mf_cuda_place *place) {
    pthread_mutex_lock(&lock);
    place->next = idle;
    idle = place;
    pthread_mutex_unlock(&lock);
}

/* Other GPUs read and write this one's memory where the hardware lets them. */
static mf_status let_peers_in(cudaMemPool_t pool, int number) {
    for (int peer = 0, count = mf_cuda_devices(); peer < count; peer++) {
        int can = 0;
        if (peer == number) continue;
        MF_TRY(MF_CUDA(cudaDeviceCanAccessPeer, &can, peer, number));
        if (!can) continue;
        struct cudaMemAccessDesc access = {.location = {.type = cudaMemLocationTypeDevice, .id = peer},
                                           .flags = cudaMemAccessFlagsProtReadWrite};
        MF_TRY(MF_CUDA(cudaMemPoolSetAccess, pool, &access, 1));
    }
    return MF_OK;
}

static mf_status keep_in_pool(int number) {
    cudaMemPool_t pool = NULL;
    uint64_t all = UINT64_MAX;
    MF_TRY(MF_CUDA(cudaDeviceGetDefaultMemPool, &pool, number));
    MF_TRY(MF_CUDA(cudaMemPoolSetAttribute, pool, cudaMemPoolAttrReleaseThreshold, &all));
    return let_peers_in(pool, number);
}

/* What an earlier run left unused goes back, so that the peak is this run's own. */
static mf_status restart_peak(int number) {
    cudaMemPool_t pool = NULL;
    uint64_t none = 0;
    MF_TRY(MF_CUDA(cudaDeviceGetDefaultMemPool, &pool, number));
    MF_TRY(MF_CUDA(cudaMemPoolTrimTo, pool, 0));
    return MF_CUDA(cudaMemPoolSetAttribute, pool, cudaMemPoolAttrReservedMemHigh, &none);
}

int64_t mf_cuda_pool_peak_bytes(const mf_device *device) {
    cudaMemPool_t pool = NULL;
    uint64_t now = 0, most = 0;
    bool known = !cudaDeviceGetDefaultMemPool(&pool, ((const mf_cuda *)device->state)->place->number) &&
                 !cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &now) &&
                 !cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemHigh, &most);
    if (!known) cudaGetLastError();
    return known ? mf_max((int64_t)now, (int64_t)most) : 0;
}

static mf_status place_create(int number, mf_cuda_place **out) {
    mf_status status = MF_OK;
    mf_cuda_place *place = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *place, &place));
    place->number = number;
    MF_GO(MF_CUDA(cudaSetDevice, number));
    MF_GO(keep_in_pool(number));
    for (int i = 0; i < MF_QUEUES; i++)
        MF_GO(MF_CUDA(cudaStreamCreateWithFlags, &place->queue[i], cudaStreamNonBlocking));
    *out = place;
    return MF_OK;
fail:
    for (int i = 0; i < MF_QUEUES; i++)
        if (place->queue[i]) cudaStreamDestroy(place->queue[i]);
    mf_host_free(place);
    return status;
}

static void *take(void *context, size_t bytes) {
    mf_cuda_place *place = context;
    void *data = NULL;
    if (cudaSetDevice(place->number) || cudaMallocAsync(&data, bytes, place->queue[MF_QUEUE_COMPUTE])) {
        cudaGetLastError(); /* the allocator says what was wanted; the next call begins anew */
        return NULL;
    }
    return data;
}

static void give_back(void *context, void *data, size_t bytes) {
    mf_cuda_place *place = context;
    (void)bytes;
    if (!data) return;
    cudaSetDevice(place->number);
    if (cudaFreeAsync(data, place->queue[MF_QUEUE_COMPUTE])) cudaFree(data);
}

static void close(void *context) { put_idle(context); }

mf_status mf_cuda_source(int number, mf_memory_source *out) {
    mf_cuda_place *place = take_idle(number);
    if (!place) MF_TRY(place_create(number, &place));
    mf_status status = restart_peak(number);
    if (status) {
        put_idle(place);
        return status;
    }
    *out = (mf_memory_source){.take = take, .give_back = give_back, .context = place, .close = close};
    return MF_OK;
}

void *mf_cuda_managed_take(size_t bytes) {
    void *data = NULL;
    return cudaMallocManaged(&data, bytes, cudaMemAttachGlobal) == cudaSuccess ? data : NULL;
}

void mf_cuda_managed_give_back(void *data) { cudaFree(data); }

mf_cuda_place *mf_cuda_place_of(const mf_memory *memory) {
    const mf_memory_source *source = mf_memory_source_of(memory);
    return source->take == take ? source->context : NULL;
}

mf_status mf_cuda_pinned_take(mf_device *device, size_t bytes, void **out) {
    MF_TRY(mf_cuda_enter(device));
    return MF_CUDA(cudaMallocHost, out, bytes);
}

void mf_cuda_pinned_give_back(void *data) { cudaFreeHost(data); }

bool mf_cuda_reaches(const mf_device *device, const mf_device *other) {
    int own = ((const mf_cuda *)device->state)->place->number;
    int peer = ((const mf_cuda *)other->state)->place->number, can = 0;
    return own == peer || (cudaDeviceCanAccessPeer(&can, own, peer) == cudaSuccess && can);
}
