/* tensor_core.cuh: what attention needs of the GPU's own instructions, sm_80 and later; no other file has
 * assembler. Fragments are those of PTX's mma.m16n8k16; lane = threadIdx.x % 32, row = lane / 4, pair = 2 *
 * (lane % 4); two bf16 in a word, the lower index in the lower half:
 *     a[0]: (row, pair)  a[1]: (row + 8, pair)  a[2]: (row, pair + 8)  a[3]: (row + 8, pair + 8)
 *     b[0]: k = pair, n = row                   b[1]: k = pair + 8, n = row
 *     c[0..1]: (row, pair), (row, pair + 1)     c[2..3]: (row + 8, pair), (row + 8, pair + 1) */
#ifndef MF_DEVICE_CUDA_TENSOR_CORE_CUH
#define MF_DEVICE_CUDA_TENSOR_CORE_CUH

#include "device/cuda/launch.cuh"

/* c: [16, 8] f32 += a: [16, 16] · b: [16, 8], both bf16. By the whole warp. */
static __device__ __forceinline__ void mf_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                              uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four 8x8 matrices of bf16 from shared memory by the whole warp: lane 8 i + j names row j of matrix i, 16
 * bytes. Word i of a lane: (row, pair) and (row, pair + 1) of matrix i. */
static __device__ __forceinline__ void mf_load_matrices(uint32_t (&words)[4], const void *row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

/* The same, each matrix transposed: (pair, row) and (pair + 1, row) of matrix i. */
static __device__ __forceinline__ void mf_load_matrices_transposed(uint32_t (&words)[4], const void *row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

/* Begins to copy 16 bytes, both ends on a multiple of 16, from global to shared memory; zeros where not
 * `exists`, and then `from` is not read. */
static __device__ __forceinline__ void mf_copy_begin(void *to, const void *from, bool exists) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
    int bytes = exists ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
                 :
                 : "r"(address), "l"(from), "r"(bytes)
                 : "memory");
}

/* The same for a word, on a multiple of 4. */
static __device__ __forceinline__ void mf_copy_word_begin(void *to, const void *from, bool exists) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
    int bytes = exists ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n"
                 :
                 : "r"(address), "l"(from), "r"(bytes)
                 : "memory");
}

/* What this thread has begun since the last call becomes one group. */
static __device__ __forceinline__ void mf_copy_group(void) {
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Waits until at most `later` of this thread's groups, the latest, are under way. */
template <int later> static __device__ __forceinline__ void mf_copy_wait(void) {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(later) : "memory");
}

/* 2^x, to 2 units in the last place; 0 of -infinity, NaN of NaN. Results below 2^-126 are 0. */
static __device__ __forceinline__ float mf_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

#endif
