/* self.cu: the emulator does what CUDA does, and sees what kernels and their callers do wrong. */
#include "device/cuda/tensor_core.cuh"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
}

enum { N = 200, WORDS = N };

template <typename... Parameters, typename... Arguments>
static cudaError_t launch(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                          size_t bytes, Arguments... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

static void wanted(cudaError_t error) {
    if (error) print_error("%s\n", cudaGetErrorName(error));
    assert_int_equal(error, cudaSuccess);
}

static int *words(size_t count) {
    int *data = NULL;
    wanted(cudaMallocManaged(&data, count * sizeof *data));
    return data;
}

static int *device_words(size_t count) {
    int *data = NULL;
    wanted(cudaMalloc(&data, count * sizeof *data));
    return data;
}

/* The body runs in a process of its own, which must end with this in what it says. With the address sanitizer
 * it is that one's words which count. */
static void dies(void (*body)(), const char *says, const char *sanitizer_says) {
    int ends[2];
    char text[8192] = "";
    size_t length = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* cmocka's would go on to the next test */
        dup2(ends[1], STDERR_FILENO);
        body();
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t n;
         length < sizeof text - 1 && (n = read(ends[0], text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)n;
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (MF_EMULATED_ASAN && sanitizer_says) says = sanitizer_says;
    if (status == 0 || !strstr(text, says)) {
        print_error("status %d, and said: %s\ninstead of: %s\n", status, text, says);
        fail();
    }
}

static const char *const orders[] = {"forward", "backward", "shuffled"};

/* Barriers and shared memory. */

__global__ static void turn_round(int *out, bool waits) {
    __shared__ int value[N];
    value[threadIdx.x] = (int)threadIdx.x;
    if (waits) __syncthreads();
    out[blockIdx.x * N + threadIdx.x] = value[N - 1 - threadIdx.x];
}

static bool turned_round(const char *order, bool waits) {
    int *out = words(2 * N), right = 0;
    setenv("MESHFOLD_EMULATED_ORDER", order, 1);
    wanted(launch(NULL, turn_round, 2, N, 0, out, waits));
    wanted(cudaDeviceSynchronize());
    unsetenv("MESHFOLD_EMULATED_ORDER");
    for (int i = 0; i < 2 * N; i++) right += out[i] == N - 1 - i % N;
    wanted(cudaFree(out));
    return right == 2 * N;
}

static void test_barrier(void **) {
    for (const char *order : orders) {
        assert_true(turned_round(order, true));
        assert_false(turned_round(order, false));
    }
}

__global__ static void votes(int *out) {
    int i = (int)threadIdx.x;
    int any = __syncthreads_or(i == 7), all = __syncthreads_and(i < N), count = __syncthreads_count(i % 2);
    int none = __syncthreads_or(i == N), few = __syncthreads_and(i != 7);
    out[i] = any * 10000 + all * 1000 + count + none * 100000 + few * 1000000;
}

static void test_barrier_votes(void **) {
    int *out = words(N);
    wanted(launch(NULL, votes, 1, N, 0, out));
    wanted(cudaDeviceSynchronize());
    for (int i = 0; i < N; i++) assert_int_equal(out[i], 11000 + N / 2);
    wanted(cudaFree(out));
}

__global__ static void parts_ways(int *out) {
    if (threadIdx.x % 2)
        __syncthreads();
    else
        __syncwarp(0x55555555);
    if (threadIdx.x % 2 == 0) __syncwarp();
    out[0] = 1;
}

__global__ static void two_places(int *out) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[0] = 1;
}

__global__ static void some_have_ended(int *out) {
    if (threadIdx.x >= 64) return;
    __syncthreads();
    out[threadIdx.x] = __syncthreads_count(1);
}

template <void (*kernel)(int *)> static void run_alone() {
    int *out = words(N);
    launch(NULL, kernel, 1, N, 0, out);
    cudaDeviceSynchronize();
}

static void test_barrier_missed(void **) {
    dies(run_alone<parts_ways>, "kernel parts_ways", NULL);
    dies(run_alone<two_places>, "kernel two_places", NULL);
    int *out = words(N);
    wanted(launch(NULL, some_have_ended, 1, N, 0, out));
    wanted(cudaDeviceSynchronize());
    for (int i = 0; i < 64; i++) assert_int_equal(out[i], 64);
    wanted(cudaFree(out));
}

__global__ static void look_at_shared(int *out, int size, int step) {
    extern __shared__ __align__(16) int dynamic[];
    __shared__ int fixed[4];
    if (threadIdx.x == 0) {
        out[0] = dynamic[0] == -1 && dynamic[size - 1] == -1 && fixed[3] == -1;
        dynamic[size - 1 + step] = fixed[3] = 5;
    }
}

static void look(int step) {
    int *out = words(1);
    for (int i = 0; i < 2; i++) {
        wanted(launch(NULL, look_at_shared, 2, 32, 100 * sizeof *out, out, 100, step));
        wanted(cudaDeviceSynchronize());
        assert_int_equal(*out, 1);
    }
    wanted(cudaFree(out));
}

static void step_over_shared() { look(1); }
static void step_far_over_shared() { look(300); }

static void test_shared(void **) {
    look(0);
    dies(step_over_shared, "kernel look_at_shared", "AddressSanitizer");
    dies(step_far_over_shared, "kernel look_at_shared", "AddressSanitizer");
}

/* Warps. */

__global__ static void shuffles(int *out) {
    int i = (int)threadIdx.x, *own = out + 8 * i;
    own[0] = __shfl_sync(~0u, i, 5);
    own[1] = __shfl_xor_sync(~0u, i, 3);
    own[2] = __shfl_up_sync(~0u, i, 2);
    own[3] = __shfl_down_sync(~0u, i, 2);
    own[4] = __shfl_sync(~0u, i, 1, 8);
    own[5] = (int)__ballot_sync(~0u, i % 3 == 0);
    own[6] = __any_sync(~0u, i == 3) * 2 + __all_sync(~0u, i == 3);
    if (i < 8) own[7] = __shfl_xor_sync(0xff, i, 1);
    if (i >= 8) own[7] = __shfl_down_sync(~0xffu, i, 1);
}

static void test_shuffles(void **) {
    int *out = words(8 * 32);
    unsigned thirds = 0;
    for (int i = 0; i < 32; i += 3) thirds |= 1u << i;
    for (const char *order : orders) {
        setenv("MESHFOLD_EMULATED_ORDER", order, 1);
        wanted(launch(NULL, shuffles, 1, 32, 0, out));
        wanted(cudaDeviceSynchronize());
        for (int i = 0; i < 32; i++) {
            const int want[] = {5,
                                i ^ 3,
                                i < 2 ? i : i - 2,
                                i > 29 ? i : i + 2,
                                i / 8 * 8 + 1,
                                (int)thirds,
                                2,
                                i < 8     ? i ^ 1
                                : i == 31 ? 31
                                          : i + 1};
            for (int k = 0; k < 8; k++) assert_int_equal(out[8 * i + k], want[k]);
        }
    }
    unsetenv("MESHFOLD_EMULATED_ORDER");
    wanted(cudaFree(out));
}

__global__ static void not_in_the_mask(int *out) { out[threadIdx.x] = __shfl_sync(0xff, 1, 0); }
__global__ static void not_all_of_the_mask(int *out) {
    if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_sync(~0u, 1, 0);
    __syncthreads();
}
__global__ static void different_calls(int *out) {
    out[0] = threadIdx.x % 2 ? __shfl_sync(~0u, 1, 0) : (int)__ballot_sync(~0u, 1);
}

static void test_shuffles_missed(void **) {
    dies(run_alone<not_in_the_mask>, "kernel not_in_the_mask", NULL);
    dies(run_alone<not_all_of_the_mask>, "kernel not_all_of_the_mask", NULL);
    dies(run_alone<different_calls>, "kernel different_calls", NULL);
}

/* a: [16, 16], b: [8, 16], c: [16, 8] of small whole numbers. */
__global__ static void product(const mf_bf16 *a, const mf_bf16 *b, float *c) {
    __shared__ __align__(16) mf_bf16 tile[16][16];
    int lane = (int)threadIdx.x, row = lane / 4, pair = lane % 4 * 2;
    uint32_t left[4], words_of_b[2];
    float sum[4] = {1, 1, 1, 1};
    mf_copy_begin(&tile[lane / 2][lane % 2 * 8], a + lane * 8, true);
    mf_copy_group();
    mf_copy_wait<0>();
    __syncwarp();
    mf_load_matrices(left, &tile[lane % 16][lane / 16 * 8]);
    for (int i = 0; i < 2; i++) memcpy(&words_of_b[i], b + row * 16 + pair + i * 8, 4);
    mf_mma(sum, left, words_of_b[0], words_of_b[1]);
    for (int i = 0; i < 4; i++) c[(row + i / 2 * 8) * 8 + pair + i % 2] = sum[i];
}

__global__ static void transpose(const mf_bf16 *from, mf_bf16 *to) {
    __shared__ __align__(16) mf_bf16 tile[32][8];
    uint32_t words_of[4];
    int lane = (int)threadIdx.x;
    for (int i = 0; i < 8; i++) tile[lane][i] = from[lane * 8 + i];
    __syncwarp();
    mf_load_matrices_transposed(words_of, tile[lane]);
    for (int i = 0; i < 4; i++) memcpy(to + i * 64 + lane / 4 * 8 + lane % 4 * 2, &words_of[i], 4);
}

static void test_tensor_core(void **) {
    mf_bf16 *a = (mf_bf16 *)words(16 * 16), *b = (mf_bf16 *)words(16 * 16);
    float *c = (float *)words(16 * 8);
    for (int i = 0; i < 256; i++) a[i] = (float)(i * 7 % 23 - 11), b[i] = (float)(i * 5 % 19 - 9);
    wanted(launch(NULL, product, 1, 32, 0, a, b, c));
    wanted(cudaDeviceSynchronize());
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float want = 1;
            for (int k = 0; k < 16; k++) want += (float)a[i * 16 + k] * (float)b[j * 16 + k];
            assert_true(c[i * 8 + j] == want);
        }
    wanted(launch(NULL, transpose, 1, 32, 0, a, b));
    wanted(cudaDeviceSynchronize());
    for (int i = 0; i < 256; i++) assert_true((float)b[i] == (float)a[i / 64 * 64 + i % 8 * 8 + i / 8 % 8]);
    for (void *data : {(void *)a, (void *)b, (void *)c}) wanted(cudaFree(data));
}

__global__ static void copies(const int4 *from, int *out) {
    __shared__ int4 to[3];
    mf_copy_begin(&to[0], from, true);
    mf_copy_group();
    mf_copy_begin(&to[1], from + 1, true);
    mf_copy_begin(&to[2], from + 2, false);
    mf_copy_group();
    out[0] = to[0].x;
    mf_copy_wait<1>();
    out[1] = to[0].x;
    out[2] = to[1].x;
    mf_copy_wait<0>();
    out[3] = to[1].w;
    out[4] = to[2].x;
}

static void test_copies_in_groups(void **) {
    int *from = words(8), *out = words(5);
    for (int i = 0; i < 8; i++) from[i] = i;
    wanted(launch(NULL, copies, 1, 1, 0, (const int4 *)from, out));
    wanted(cudaDeviceSynchronize());
    const int want[] = {-1, 0, -1, 7, 0};
    for (int i = 0; i < 5; i++) assert_int_equal(out[i], want[i]);
    for (int *data : {from, out}) wanted(cudaFree(data));
}

/* Streams. */

__global__ static void set(int *at, int value) { *at = value; }
__global__ static void copy_word(int *to, const int *from) { *to = *from; }

static void make(cudaStream_t *a, cudaStream_t *b, cudaEvent_t *event) {
    wanted(cudaStreamCreateWithFlags(a, cudaStreamNonBlocking));
    wanted(cudaStreamCreateWithFlags(b, cudaStreamNonBlocking));
    wanted(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
}

static void end(cudaStream_t a, cudaStream_t b, cudaEvent_t event) {
    wanted(cudaDeviceSynchronize());
    wanted(cudaStreamDestroy(a));
    wanted(cudaStreamDestroy(b));
    wanted(cudaEventDestroy(event));
}

static void test_streams_are_lazy(void **) {
    cudaStream_t a, b;
    cudaEvent_t event;
    int *word = words(2), host = 0;
    make(&a, &b, &event);
    word[0] = word[1] = 0;
    wanted(launch(a, set, 1, 1, 0, word, 7));
    wanted(cudaMemcpyAsync(&host, word, sizeof host, cudaMemcpyDefault, a));
    assert_int_equal(cudaStreamQuery(a), cudaErrorNotReady);
    assert_int_equal(host, 0);
    wanted(launch(b, copy_word, 1, 1, 0, word + 1, word));
    wanted(cudaStreamSynchronize(b));
    wanted(cudaStreamSynchronize(a));
    assert_int_equal(host, 7);
    end(a, b, event);
    wanted(cudaFree(word));
}

static void test_events_order(void **) {
    cudaStream_t a, b;
    cudaEvent_t event;
    int *word = words(2);
    make(&a, &b, &event);
    for (int follows = 0; follows < 2; follows++) {
        word[0] = word[1] = 0;
        wanted(cudaStreamWaitEvent(b, event, 0));
        wanted(launch(a, set, 1, 1, 0, word, 1));
        wanted(cudaEventRecord(event, a));
        if (follows) wanted(cudaStreamWaitEvent(b, event, 0));
        wanted(launch(a, set, 1, 1, 0, word, 2));
        wanted(cudaEventRecord(event, a));
        wanted(launch(b, copy_word, 1, 1, 0, word + 1, word));
        wanted(cudaStreamSynchronize(b));
        assert_int_equal(word[1], follows);
        assert_int_equal(word[0], follows);
        wanted(cudaEventSynchronize(event));
        assert_int_equal(word[0], 2);
    }
    end(a, b, event);
    wanted(cudaFree(word));
}

static void test_times(void **) {
    cudaEvent_t begin, stop, untimed;
    float ms = -1;
    wanted(cudaEventCreate(&begin));
    wanted(cudaEventCreate(&stop));
    wanted(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    wanted(cudaEventRecord(begin, NULL));
    wanted(cudaEventRecord(stop, NULL));
    wanted(cudaEventRecord(untimed, NULL));
    assert_int_equal(cudaEventElapsedTime(&ms, begin, stop), cudaErrorNotReady);
    wanted(cudaDeviceSynchronize());
    wanted(cudaEventElapsedTime(&ms, begin, stop));
    assert_true(ms >= 0);
    assert_int_equal(cudaEventElapsedTime(&ms, begin, untimed), cudaErrorInvalidResourceHandle);
    for (cudaEvent_t event : {begin, stop, untimed}) wanted(cudaEventDestroy(event));
    assert_int_equal(cudaEventRecord(begin, NULL), cudaErrorInvalidResourceHandle);
}

/* Memory. */

static void host_reads() {
    int *data = device_words(WORDS);
    if (data[3]) fprintf(stderr, "read it\n");
}

static void host_writes() {
    int *data = device_words(WORDS);
    wanted(launch(NULL, set, 1, 1, 0, data, 1));
    wanted(cudaDeviceSynchronize());
    data[WORDS - 1] = 0;
}

static void kernel_steps_over() {
    int *data = device_words(64);
    launch(NULL, set, 1, 1, 0, data + 64, 1);
    cudaDeviceSynchronize();
}

static void kernel_steps_a_little_over() {
    int *data = device_words(65);
    wanted(launch(NULL, set, 1, 1, 0, data + 65, 1));
    cudaFree(data);
}

static void kernel_is_late() {
    int *data = device_words(WORDS);
    wanted(cudaFreeAsync(data, NULL));
    wanted(launch(NULL, set, 1, 1, 0, data, 1));
    cudaDeviceSynchronize();
}

static void test_memory_is_watched(void **) {
    if (!MF_EMULATED_ASAN) dies(host_reads, "the host touched", NULL);
    if (!MF_EMULATED_ASAN) dies(host_writes, "the host touched", NULL);
    dies(kernel_steps_over, "kernel set", "AddressSanitizer");
    dies(kernel_steps_a_little_over, "somebody wrote at byte 260 of a block of 260 bytes",
         "AddressSanitizer");
    dies(kernel_is_late, "given back", "AddressSanitizer");
}

static void test_memory_is_known(void **) {
    int *data = device_words(WORDS), *managed = words(WORDS), host[WORDS] = {0};
    cudaPointerAttributes at;
    wanted(cudaPointerGetAttributes(&at, data + 5));
    assert_int_equal(at.type, cudaMemoryTypeDevice);
    wanted(cudaPointerGetAttributes(&at, managed));
    assert_int_equal(at.type, cudaMemoryTypeManaged);
    wanted(cudaPointerGetAttributes(&at, host));
    assert_int_equal(at.type, cudaMemoryTypeUnregistered);
    wanted(cudaMemcpy(host, data, sizeof host, cudaMemcpyDefault));
    for (int i = 0; i < WORDS; i++) assert_int_equal(host[i], -1);
    assert_int_equal(cudaMemcpy(host, data + 1, sizeof host, cudaMemcpyDefault), cudaErrorInvalidValue);
    wanted(cudaMemset(data, 1, WORDS * sizeof *data));
    wanted(cudaMemcpy(host, data, sizeof host, cudaMemcpyDefault));
    assert_int_equal(host[WORDS - 1], 0x01010101);
    wanted(cudaFree(data));
    assert_int_equal(cudaFree(data), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    wanted(cudaFree(managed));
}

static void test_memory_ends(void **) {
    void *one = NULL, *two = NULL;
    setenv("MESHFOLD_EMULATED_BYTES", "1000", 1);
    wanted(cudaMallocAsync(&one, 600, NULL));
    assert_int_equal(cudaMallocAsync(&two, 600, NULL), cudaErrorMemoryAllocation);
    wanted(cudaFreeAsync(one, NULL));
    wanted(cudaMallocAsync(&two, 600, NULL));
    unsetenv("MESHFOLD_EMULATED_BYTES");
    wanted(cudaFree(two));
    cudaGetLastError();
}

static void test_injected(void **) {
    int *data = words(1);
    setenv("MESHFOLD_EMULATED_FAIL", "2", 1);
    wanted(launch(NULL, set, 1, 1, 0, data, 1));
    assert_int_equal(launch(NULL, set, 1, 1, 0, data, 1), cudaErrorUnknown);
    wanted(launch(NULL, set, 1, 1, 0, data, 1));
    unsetenv("MESHFOLD_EMULATED_FAIL");
    wanted(cudaFree(data));
    cudaGetLastError();
}

static void test_launches_refused(void **) {
    int *data = words(1), *shared = words(1);
    const struct {
        dim3 grid, block;
        size_t bytes;
        cudaError_t error;
    } cases[] = {{{1, 65536}, 1, 0, cudaErrorInvalidConfiguration},
                 {0, 1, 0, cudaErrorInvalidConfiguration},
                 {1, {32, 33}, 0, cudaErrorInvalidConfiguration},
                 {1, 0, 0, cudaErrorInvalidConfiguration},
                 {1, 1, 48 << 10, cudaSuccess},
                 {1, 1, (48 << 10) + 1, cudaErrorInvalidValue}};
    for (const auto &c : cases)
        assert_int_equal(launch(NULL, set, c.grid, c.block, c.bytes, data, 1), c.error);
    assert_int_equal(cudaFuncSetAttribute(set, cudaFuncAttributeMaxDynamicSharedMemorySize, (227 << 10) + 1),
                     cudaErrorInvalidValue);
    wanted(cudaFuncSetAttribute(set, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10));
    wanted(launch(NULL, set, 1, 1, 227 << 10, shared, 1));
    wanted(cudaDeviceSynchronize());
    for (int *taken : {data, shared}) wanted(cudaFree(taken));
    cudaGetLastError();
}

static void test_devices(void **) {
    int count = -1, *data = words(1);
    cudaStream_t first = NULL;
    wanted(cudaStreamCreate(&first));
    setenv("MESHFOLD_EMULATED_GPUS", "2", 1);
    wanted(cudaGetDeviceCount(&count));
    assert_int_equal(count, 2);
    wanted(cudaSetDevice(1));
    assert_int_equal(launch(first, set, 1, 1, 0, data, 1), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaSetDevice(2), cudaErrorInvalidDevice);
    wanted(cudaSetDevice(0));
    setenv("MESHFOLD_EMULATED_GPUS", "0", 1);
    assert_int_equal(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    unsetenv("MESHFOLD_EMULATED_GPUS");
    wanted(cudaStreamDestroy(first));
    wanted(cudaFree(data));
    cudaGetLastError();
}

static void test_bf16(void **) {
    const struct {
        uint32_t value;
        uint16_t want;
    } cases[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81},
                 {0x7f7fffff, 0x7f80}, {0xff800000, 0xff80}, {0xffc00001, 0x7fff}};
    for (const auto &c : cases)
        assert_int_equal(__bfloat16_as_ushort(__float2bfloat16_rn(__uint_as_float(c.value))), c.want);
}

int main() {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_barrier),
                                       cmocka_unit_test(test_barrier_votes),
                                       cmocka_unit_test(test_barrier_missed),
                                       cmocka_unit_test(test_shared),
                                       cmocka_unit_test(test_shuffles),
                                       cmocka_unit_test(test_shuffles_missed),
                                       cmocka_unit_test(test_tensor_core),
                                       cmocka_unit_test(test_copies_in_groups),
                                       cmocka_unit_test(test_streams_are_lazy),
                                       cmocka_unit_test(test_events_order),
                                       cmocka_unit_test(test_times),
                                       cmocka_unit_test(test_memory_is_watched),
                                       cmocka_unit_test(test_memory_is_known),
                                       cmocka_unit_test(test_memory_ends),
                                       cmocka_unit_test(test_injected),
                                       cmocka_unit_test(test_launches_refused),
                                       cmocka_unit_test(test_devices),
                                       cmocka_unit_test(test_bf16)};
    return cmocka_run_group_tests_name("emulated GPUs", tests, NULL, NULL);
}
