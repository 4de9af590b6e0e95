/* cuda_runtime.h: CUDA's C++ on the CPU: what kernels are written in, and how they are launched. Each thread
 * of a block is a fiber (kernels.cpp) that runs until it has to wait for others. */
#ifndef MF_EMULATED_CUDA_RUNTIME_H
#define MF_EMULATED_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"
#include "emulated.h"

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstring>
#include <math.h>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __managed__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __grid_constant__
#define __cluster_dims__(...)
/* Blocks run one at a time, each in one thread of the host, whose arrays can be told from other static ones.
 * Those of a size that the launch gives are put in place by shared.sed. */
#define __shared__ static thread_local
#define EMULATED_DYNAMIC_SHARED(type, name) type *name = (type *)emulated::dynamic_shared()

#define EMULATED_VECTORS(type, name, align2, align4)                                                         \
    struct name##1 {                                                                                         \
        type x;                                                                                              \
    };                                                                                                       \
    struct alignas(align2) name##2 {                                                                         \
        type x, y;                                                                                           \
    };                                                                                                       \
    struct name##3 {                                                                                         \
        type x, y, z;                                                                                        \
    };                                                                                                       \
    struct alignas(align4) name##4 {                                                                         \
        type x, y, z, w;                                                                                     \
    };                                                                                                       \
    static inline name##1 make_##name##1(type x) { return {x}; }                                             \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                  \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                       \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

EMULATED_VECTORS(signed char, char, 2, 4)
EMULATED_VECTORS(unsigned char, uchar, 2, 4)
EMULATED_VECTORS(short, short, 4, 8)
EMULATED_VECTORS(unsigned short, ushort, 4, 8)
EMULATED_VECTORS(int, int, 8, 16)
EMULATED_VECTORS(unsigned, uint, 8, 16)
EMULATED_VECTORS(long long, longlong, 16, 16)
EMULATED_VECTORS(unsigned long long, ulonglong, 16, 16)
EMULATED_VECTORS(float, float, 8, 16)
EMULATED_VECTORS(double, double, 16, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};

/* The thread that runs. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulated {

void *dynamic_shared();
int lane();

/* Of all threads of the block, at their last barrier. */
struct votes {
    int count;
    bool any, all;
};
votes barrier(bool vote, const char *file, int line);

/* Waits for the lanes of the mask; the last to come calls combine with what each brought. */
using combine = void (*)(void *const brought[32], unsigned lanes);
void meet(unsigned mask, combine call, void *mine, const char *file, int line);

/* Deferred copies into shared memory, by groups, as cp.async has them. */
void copy_begin(void *to, const void *from, size_t bytes, bool exists);
void copy_group();
void copy_wait(int later);

template <typename T> struct shuffled {
    T value, got;
    int source;
};

template <typename T> void shuffle_lanes(void *const brought[32], unsigned lanes) {
    for (int i = 0; i < 32; i++) {
        if (!(lanes >> i & 1)) continue;
        shuffled<T> *own = (shuffled<T> *)brought[i];
        if (lanes >> own->source & 1)
            own->got = ((const shuffled<T> *)brought[own->source])->value;
        else
            memset((void *)&own->got, 0xff, sizeof own->got);
    }
}

template <typename T> T shuffle(unsigned mask, T value, int source, const char *file, int line) {
    shuffled<T> own = {value, value, source};
    meet(mask, shuffle_lanes<T>, &own, file, line);
    return own.got;
}

unsigned vote(unsigned mask, bool own, const char *file, int line);

} // namespace emulated

/* Where a thread waits: so that those who wait at different places are told apart. */
#define EMULATED_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(EMULATED_HERE) { emulated::barrier(false, file, line); }
static inline int __syncthreads_or(int vote, EMULATED_HERE) {
    return emulated::barrier(vote != 0, file, line).any;
}
static inline int __syncthreads_and(int vote, EMULATED_HERE) {
    return emulated::barrier(vote != 0, file, line).all;
}
static inline int __syncthreads_count(int vote, EMULATED_HERE) {
    return emulated::barrier(vote != 0, file, line).count;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATED_HERE) {
    emulated::meet(mask, nullptr, nullptr, file, line);
}

template <typename T> T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATED_HERE) {
    int first = emulated::lane() & ~(width - 1);
    return emulated::shuffle(mask, value, first + (source & (width - 1)), file, line);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATED_HERE) {
    int own = emulated::lane(), first = own & ~(width - 1), source = own - (int)by;
    return emulated::shuffle(mask, value, source < first ? own : source, file, line);
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATED_HERE) {
    int own = emulated::lane(), first = own & ~(width - 1), source = own + (int)by;
    return emulated::shuffle(mask, value, source >= first + width ? own : source, file, line);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, EMULATED_HERE) {
    int own = emulated::lane(), first = own & ~(width - 1), source = own ^ with;
    return emulated::shuffle(mask, value, source >= first + width ? own : source, file, line);
}
static inline unsigned __ballot_sync(unsigned mask, int vote, EMULATED_HERE) {
    return emulated::vote(mask, vote != 0, file, line);
}
static inline int __any_sync(unsigned mask, int vote, EMULATED_HERE) {
    return emulated::vote(mask, vote != 0, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int vote, EMULATED_HERE) {
    return emulated::vote(mask, vote == 0, file, line) == 0;
}

static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
static inline void __nanosleep(unsigned) {}
#define __trap() emulated::die("%s: __trap", emulated::where())

/* Threads are never interrupted between two waits, so these need no lock. */
template <typename T, typename U> static T emulated_replace(T *at, U value) {
    T before = *at;
    *at = (T)value;
    return before;
}
template <typename T> T atomicAdd(T *at, std::common_type_t<T> by) { return emulated_replace(at, *at + by); }
template <typename T> T atomicSub(T *at, std::common_type_t<T> by) { return emulated_replace(at, *at - by); }
template <typename T> T atomicMax(T *at, std::common_type_t<T> v) {
    return emulated_replace(at, *at < v ? v : *at);
}
template <typename T> T atomicMin(T *at, std::common_type_t<T> v) {
    return emulated_replace(at, v < *at ? v : *at);
}
template <typename T> T atomicExch(T *at, std::common_type_t<T> v) { return emulated_replace(at, v); }
template <typename T> T atomicOr(T *at, std::common_type_t<T> v) { return emulated_replace(at, *at | v); }
template <typename T> T atomicAnd(T *at, std::common_type_t<T> v) { return emulated_replace(at, *at & v); }
template <typename T> T atomicCAS(T *at, std::common_type_t<T> want, std::common_type_t<T> v) {
    return emulated_replace(at, *at == want ? v : *at);
}
static inline unsigned atomicInc(unsigned *at, unsigned most) {
    return emulated_replace(at, *at >= most ? 0 : *at + 1);
}

template <typename T> T __ldg(const T *at) { return *at; }
template <typename T> T __ldcg(const T *at) { return *at; }
template <typename T> T __ldca(const T *at) { return *at; }
template <typename T> T __ldcs(const T *at) { return *at; }
template <typename T> T __ldlu(const T *at) { return *at; }
template <typename T> T __ldcv(const T *at) { return *at; }
template <typename T> void __stcg(T *at, T value) { *at = value; }
template <typename T> void __stcs(T *at, T value) { *at = value; }
template <typename T> void __stwb(T *at, T value) { *at = value; }
template <typename T> void __stwt(T *at, T value) { *at = value; }

template <typename To, typename From> static inline To emulated_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline float __int_as_float(int v) { return emulated_bits<float>(v); }
static inline int __float_as_int(float v) { return emulated_bits<int>(v); }
static inline float __uint_as_float(unsigned v) { return emulated_bits<float>(v); }
static inline unsigned __float_as_uint(float v) { return emulated_bits<unsigned>(v); }
static inline double __longlong_as_double(long long v) { return emulated_bits<double>(v); }
static inline long long __double_as_longlong(double v) { return emulated_bits<long long>(v); }

static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

/* The quick ones are made as the hardware makes them, of 2^x and log2 x, and so are less exact. The host's
 * own library has these names too. */
#define __exp10f emulated_exp10f
#define __expf emulated_expf
#define __log2f emulated_log2f
#define __logf emulated_logf
#define __log10f emulated_log10f
#define __powf emulated_powf
#define __sinf emulated_sinf
#define __cosf emulated_cosf
#define __sincosf emulated_sincosf
#define __tanhf emulated_tanhf
static inline float emulated_exp10f(float x) { return exp2f(x * 3.321928094887362f); }
static inline float emulated_expf(float x) { return exp2f(x * 1.4426950408889634f); }
static inline float emulated_log2f(float x) { return log2f(x); }
static inline float emulated_logf(float x) { return log2f(x) * 0.6931471805599453f; }
static inline float emulated_log10f(float x) { return log2f(x) * 0.3010299956639812f; }
static inline float emulated_powf(float x, float y) { return exp2f(y * log2f(x)); }
static inline float emulated_sinf(float x) { return sinf(x); }
static inline float emulated_cosf(float x) { return cosf(x); }
static inline void emulated_sincosf(float x, float *s, float *c) { *s = sinf(x), *c = cosf(x); }
static inline float emulated_tanhf(float x) { return tanhf(x); }
static inline float __fdividef(float x, float y) { return fabsf(y) > 0x1p126f ? 0 * x : x * (1 / y); }
static inline float fdividef(float x, float y) { return x / y; }
static inline float __saturatef(float x) { return x >= 0 ? (x <= 1 ? x : 1) : 0; }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float __frsqrt_rn(float x) { return (float)(1 / sqrt((double)x)); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1 / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline int __float2int_rn(float x) { return (int)rintf(x); }
static inline int __float2int_rz(float x) { return (int)x; }
static inline int __float2int_rd(float x) { return (int)floorf(x); }
static inline int __float2int_ru(float x) { return (int)ceilf(x); }
static inline unsigned __float2uint_rn(float x) { return (unsigned)rintf(x); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }
static inline double __int2double_rn(int x) { return x; }

#define EMULATED_EXTREMES(type)                                                                              \
    static inline type max(type a, type b) { return a < b ? b : a; }                                         \
    static inline type min(type a, type b) { return b < a ? b : a; }
EMULATED_EXTREMES(int)
EMULATED_EXTREMES(unsigned)
EMULATED_EXTREMES(long)
EMULATED_EXTREMES(unsigned long)
EMULATED_EXTREMES(long long)
EMULATED_EXTREMES(unsigned long long)
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }

enum cudaLaunchAttributeID {
    cudaLaunchAttributeIgnore,
    cudaLaunchAttributeCooperative = 2,
    cudaLaunchAttributeClusterDimension = 4,
    cudaLaunchAttributeProgrammaticStreamSerialization = 6
};
union cudaLaunchAttributeValue {
    char pad[64];
    int cooperative, programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

namespace emulated {

cudaError_t queue_launch(const cudaLaunchConfig_t &config, const void *kernel, std::function<void()> thread);

} // namespace emulated

/* The arguments are copied now, as CUDA does. */
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments) {
    static_assert((std::is_trivially_copyable_v<Parameters> && ...),
                  "a kernel's arguments are copied as bytes");
    std::tuple<Parameters...> held(std::forward<Arguments>(arguments)...);
    return emulated::queue_launch(*config, (const void *)kernel,
                                  [kernel, held] { std::apply(kernel, held); });
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel *kernel, cudaFuncAttribute attribute, int value) {
    if (emulated::injected()) return emulated::failed(cudaErrorUnknown);
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    return emulated::allow_shared((const void *)kernel, (size_t)value);
}
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Kernel *, int threads, size_t) {
    *blocks = std::max(1, 2048 / threads);
    return cudaSuccess;
}

template <typename T> cudaError_t cudaMalloc(T **out, size_t bytes) {
    return cudaMalloc((void **)out, bytes);
}
template <typename T> cudaError_t cudaMallocAsync(T **out, size_t bytes, cudaStream_t stream) {
    return cudaMallocAsync((void **)out, bytes, stream);
}
template <typename T>
cudaError_t cudaMallocManaged(T **out, size_t bytes, unsigned flags = cudaMemAttachGlobal) {
    return cudaMallocManaged((void **)out, bytes, flags);
}
template <typename T> cudaError_t cudaMallocHost(T **out, size_t bytes) {
    return cudaMallocHost((void **)out, bytes);
}
template <typename T> cudaError_t cudaHostAlloc(T **out, size_t bytes, unsigned flags) {
    return cudaHostAlloc((void **)out, bytes, flags);
}

#endif
