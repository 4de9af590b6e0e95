/* emulated.h: CUDA on the CPU, for tests: what its files share, and what the stand-ins of CUDA's libraries
 * queue their work with. One lock holds everything; work is carried out under it, by the thread that waits
 * for it.
 *
 *     emulated::enqueue(stream, "product", [=] { ...; return true; });
 */
#ifndef MF_EMULATED_H
#define MF_EMULATED_H

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>

#if defined(__SANITIZE_ADDRESS__)
#define MF_EMULATED_ASAN 1
#else
#define MF_EMULATED_ASAN 0
#endif

namespace emulated {

/* runtime.cpp */
extern std::mutex lock;
/* What goes wrong in a kernel or in its caller's bookkeeping ends the process. */
[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Becomes the thread's last error, and comes back. */
cudaError_t failed(cudaError_t error);
/* Counts a call that may fail: true when it is the one that MESHFOLD_EMULATED_FAIL names. */
bool injected();
int devices();
int current_device();
bool setting(const char *name);

/* streams.cpp. Work returns false when it can't be done yet, for it waits for what other threads have still
 * to queue; it is tried again. */
using work = std::function<bool()>;
/* A point in a stream: what was queued up to it. */
struct point {
    std::shared_ptr<emulated_stream> stream;
    uint64_t place = 0;
};
/* NULL: the current device's own stream. cudaSuccess, or why not (a stream that is none). The last says where
 * the work stands. */
cudaError_t enqueue(cudaStream_t stream, const char *what, work call, point *at = nullptr);
/* With the lock held: carries the stream out up to the point; false: something in its way can't be done yet.
 */
bool advance(const point &to);
/* Takes the lock and waits. */
void finish(const point &to);
cudaError_t finish_device(int device);
int device_of(cudaStream_t stream);

/* memory.cpp. All with the lock held. */
enum class kind { device, managed, host };
void *take(kind of, int device, size_t bytes);
bool give_back(void *data);
/* Whether the bytes lie in one block of a GPU, or in no block of any. */
bool in_one_block(const void *data, size_t bytes);
/* Between them this thread may touch the GPUs' memory. what: for errors outside kernels. */
void begin_execution();
void begin_operation(const char *what);
void end_execution();
size_t bytes_most();

/* kernels.cpp */
struct launch {
    const char *name;
    const void *kernel;
    unsigned grid[3], block[3];
    size_t shared_bytes;
    std::function<void()> thread; /* calls the kernel with its arguments */
};
void run(const launch &kernel);
cudaError_t check_launch(const launch &kernel);
cudaError_t allow_shared(const void *kernel, size_t bytes);
/* "kernel NAME, block (x, y, z), thread (x, y, z)"; empty outside kernels. */
const char *where();

/* symbols.cpp: from the table in the file that this code was loaded from. */
const char *name_of(const void *function);
/* Fills the kernels' static shared arrays with bytes that are NaN. */
void spoil_static_shared();

} // namespace emulated

#endif
