/* queue.c: a GPU's two queues are CUDA streams; what orders them, and what passes between their memory and
 * the host's. Each call may come from another thread than the last. */
#include "device/cuda/cuda.h"

typedef struct event {
    mf_event base;
    cudaEvent_t cuda;
} event;

mf_status mf_cuda_check(const char *call, cudaError_t error) {
    if (error == cudaSuccess) return MF_OK;
    cudaGetLastError(); /* what can be recovered from is not seen again by the next call */
    return MF_FAIL(error == cudaErrorMemoryAllocation ? MF_ENOMEM : MF_ELIBRARY, "%s: %s (%s)", call,
                   cudaGetErrorString(error), cudaGetErrorName(error));
}

mf_status mf_cuda_event_create(mf_device *device, mf_event **out) {
    event *made = NULL;
    MF_TRY(mf_cuda_enter(device));
    MF_TRY(mf_host_alloc(1, sizeof *made, &made));
    made->base.ops = device->ops;
    mf_status status = MF_CUDA(cudaEventCreateWithFlags, &made->cuda, cudaEventDisableTiming);
    if (status) {
        mf_host_free(made);
        return status;
    }
    *out = &made->base;
    return MF_OK;
}

void mf_cuda_event_destroy(mf_event *base) {
    event *e = (event *)base;
    cudaEventDestroy(e->cuda);
    mf_host_free(e);
}

mf_status mf_cuda_event_record(mf_device *device, mf_queue queue, mf_event *base) {
    MF_TRY(mf_cuda_enter(device));
    return MF_CUDA(cudaEventRecord, ((event *)base)->cuda, mf_cuda_of(device)->place->queue[queue]);
}

mf_status mf_cuda_event_follow(mf_device *device, mf_queue queue, const mf_event *base) {
    MF_TRY(mf_cuda_enter(device));
    return MF_CUDA(cudaStreamWaitEvent, mf_cuda_of(device)->place->queue[queue], ((const event *)base)->cuda,
                   0);
}

mf_status mf_cuda_event_wait(const mf_event *base) {
    return MF_CUDA(cudaEventSynchronize, mf_cuda_event_of(base));
}

cudaEvent_t mf_cuda_event_of(const mf_event *base) { return ((const event *)base)->cuda; }

mf_status mf_cuda_finish(mf_device *device, mf_queue queue) {
    MF_TRY(mf_cuda_enter(device));
    return MF_CUDA(cudaStreamSynchronize, mf_cuda_of(device)->place->queue[queue]);
}

static bool on_gpu(const void *data, bool in_doubt) {
    struct cudaPointerAttributes attributes;
    if (cudaPointerGetAttributes(&attributes, data)) {
        cudaGetLastError();
        return in_doubt;
    }
    return attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
}

/* In doubt the host must not touch it: CUDA's next call will say what is wrong. */
bool mf_cuda_holds(const void *data) { return on_gpu(data, true); }

mf_status mf_cuda_copy(mf_device *device, mf_queue queue, void *to, const void *from, size_t bytes) {
    MF_TRY(mf_cuda_enter(device));
    cudaStream_t stream = mf_cuda_of(device)->place->queue[queue];
    MF_TRY(MF_CUDA(cudaMemcpyAsync, to, from, bytes, cudaMemcpyDefault, stream));
    if (on_gpu(to, false) && on_gpu(from, false)) return MF_OK;
    mf_status status = mf_cuda_finish(device, queue);
    if (status) cudaStreamSynchronize(stream); /* whatever failed, the host's side is its owner's again */
    return status;
}
