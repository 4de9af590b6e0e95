/* runtime.cpp: errors, settings, and the GPUs that there seem to be: as many as MESHFOLD_EMULATED_GPUS says.
 */
#include "emulated.h"

#include <csignal>
#include <cstdarg>
#include <cstring>
#include <string>

namespace emulated {

std::mutex lock;

namespace {
thread_local cudaError_t last_error;
thread_local int current;

long number_setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text && *text ? strtol(text, nullptr, 10) : otherwise;
}
} // namespace

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "emulated GPU: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    signal(SIGABRT, SIG_DFL); /* no test program may go on from here */
    abort();
}

cudaError_t failed(cudaError_t error) {
    if (error) last_error = error;
    return error;
}

bool setting(const char *name) { return number_setting(name, 0) != 0; }

/* Another number begins another count. */
bool injected() {
    static long armed, calls;
    long wanted = number_setting("MESHFOLD_EMULATED_FAIL", 0);
    if (!wanted) return false;
    std::lock_guard<std::mutex> held(lock);
    if (wanted != armed) armed = wanted, calls = 0;
    return ++calls == wanted;
}

int devices() { return (int)number_setting("MESHFOLD_EMULATED_GPUS", 1); }
int current_device() { return current; }

} // namespace emulated

using namespace emulated;

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorPeerAccessUnsupported, "cudaErrorPeerAccessUnsupported",
     "peer access is not supported between these two devices"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorPeerAccessAlreadyEnabled, "cudaErrorPeerAccessAlreadyEnabled",
     "peer access is already enabled"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const char *cudaGetErrorName(cudaError_t error) {
    for (const auto &e : errors)
        if (e.error == error) return e.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error) {
    for (const auto &e : errors)
        if (e.error == error) return e.text;
    return "unrecognized error code";
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }

static cudaError_t check_device(int device) {
    if (injected()) return failed(cudaErrorUnknown);
    if (devices() == 0) return failed(cudaErrorNoDevice);
    return device < 0 || device >= devices() ? failed(cudaErrorInvalidDevice) : cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    if (injected()) return failed(cudaErrorUnknown);
    if (devices() == 0) return failed(cudaErrorNoDevice);
    *count = devices();
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    cudaError_t error = check_device(device);
    if (!error) current = device;
    return error;
}

cudaError_t cudaGetDevice(int *device) {
    *device = current;
    return cudaSuccess;
}

/* Sizes of an H200. */
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device) {
    cudaError_t error = check_device(device);
    if (error) return error;
    *out = {};
    strcpy(out->name, "emulated");
    out->totalGlobalMem = bytes_most();
    out->sharedMemPerBlock = 48 << 10;
    out->sharedMemPerBlockOptin = 227 << 10;
    out->sharedMemPerMultiprocessor = 228 << 10;
    out->regsPerBlock = 65536;
    out->warpSize = 32;
    out->maxThreadsPerBlock = 1024;
    out->maxThreadsPerMultiProcessor = 2048;
    out->maxThreadsDim[0] = out->maxThreadsDim[1] = 1024;
    out->maxThreadsDim[2] = 64;
    out->maxGridSize[0] = 0x7fffffff;
    out->maxGridSize[1] = out->maxGridSize[2] = 65535;
    out->major = 9;
    out->multiProcessorCount = 132;
    out->l2CacheSize = 50 << 20;
    out->memoryBusWidth = 6144;
    out->managedMemory = out->concurrentManagedAccess = out->unifiedAddressing = 1;
    out->memoryPoolsSupported = 1;
    out->pciBusID = device + 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *out, enum cudaDeviceAttr attribute, int device) {
    cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error) return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        return *out = p.maxThreadsPerBlock, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        return *out = (int)p.sharedMemPerBlock, cudaSuccess;
    case cudaDevAttrWarpSize:
        return *out = p.warpSize, cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        return *out = p.multiProcessorCount, cudaSuccess;
    case cudaDevAttrL2CacheSize:
        return *out = p.l2CacheSize, cudaSuccess;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        return *out = p.maxThreadsPerMultiProcessor, cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        return *out = p.major, cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        return *out = p.minor, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return *out = (int)p.sharedMemPerMultiprocessor, cudaSuccess;
    case cudaDevAttrManagedMemory:
        return *out = p.managedMemory, cudaSuccess;
    case cudaDevAttrPageableMemoryAccess:
        return *out = p.pageableMemoryAccess, cudaSuccess;
    case cudaDevAttrConcurrentManagedAccess:
        return *out = p.concurrentManagedAccess, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return *out = (int)p.sharedMemPerBlockOptin, cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported:
        return *out = p.memoryPoolsSupported, cudaSuccess;
    }
    return failed(cudaErrorInvalidValue);
}

cudaError_t cudaDeviceGetPCIBusId(char *out, int size, int device) {
    cudaError_t error = check_device(device);
    if (!error) snprintf(out, (size_t)size, "0000:%02x:00.0", device + 1);
    return error;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    cudaError_t error = check_device(device);
    if (!error) error = check_device(peer);
    *can = !error && device != peer;
    return error;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
    cudaError_t error = check_device(peer);
    return !error && peer == current ? failed(cudaErrorInvalidDevice) : error;
}

cudaError_t cudaDriverGetVersion(int *out) { return *out = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *out) { return *out = CUDART_VERSION, cudaSuccess; }
