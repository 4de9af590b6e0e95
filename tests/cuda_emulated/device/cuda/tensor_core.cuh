/* tensor_core.cuh: in place of the GPU's own (src/device/cuda), which says what each function does: the same
 * on the CPU, with PTX's fragments. */
#ifndef MF_DEVICE_CUDA_TENSOR_CORE_CUH
#define MF_DEVICE_CUDA_TENSOR_CORE_CUH

#include "device/cuda/launch.cuh"

namespace emulated {

void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file, int line);
void load_matrices(uint32_t (&words)[4], const void *row, bool transposed, const char *file, int line);

} // namespace emulated

static inline void mf_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMULATED_HERE) {
    const uint32_t b[2] = {b0, b1};
    emulated::mma_16x8x16(c, a, b, file, line);
}

static inline void mf_load_matrices(uint32_t (&words)[4], const void *row, EMULATED_HERE) {
    emulated::load_matrices(words, row, false, file, line);
}

static inline void mf_load_matrices_transposed(uint32_t (&words)[4], const void *row, EMULATED_HERE) {
    emulated::load_matrices(words, row, true, file, line);
}

static inline void mf_copy_begin(void *to, const void *from, bool exists) {
    emulated::copy_begin(to, from, 16, exists);
}
static inline void mf_copy_word_begin(void *to, const void *from, bool exists) {
    emulated::copy_begin(to, from, 4, exists);
}
static inline void mf_copy_group(void) { emulated::copy_group(); }
template <int later> static inline void mf_copy_wait(void) { emulated::copy_wait(later); }

static inline float mf_exp2(float x) {
    float y = exp2f(x);
    return y < FLT_MIN ? 0 : y;
}

#endif
