/* random.cu: normal numbers by Philox 4x32 with 10 rounds, as src/base/random.c makes them: the same words,
 * and the same formulas in double, so that a GPU's weights differ from a CPU's by rounding alone. */
#include "device/cuda/element.cuh"

static __device__ inline uint32_t high_of(uint64_t x) { return (uint32_t)(x >> 32); }
static __device__ inline uint32_t low_of(uint64_t x) { return (uint32_t)x; }

static __device__ uint4 philox(uint64_t key, uint64_t low_counter, uint64_t high_counter) {
    uint4 c =
        make_uint4(low_of(low_counter), high_of(low_counter), low_of(high_counter), high_of(high_counter));
    uint32_t k0 = low_of(key), k1 = high_of(key);
    for (int round = 0; round < 10; round++, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
        uint64_t even = (uint64_t)0xd2511f53u * c.x, odd = (uint64_t)0xcd9e8d57u * c.z;
        c = make_uint4(high_of(odd) ^ c.y ^ k0, low_of(odd), high_of(even) ^ c.w ^ k1, low_of(even));
    }
    return c;
}

static __device__ float normal(uint64_t seed, uint64_t key, uint64_t index) {
    uint4 words = philox(seed, index, key);
    const double unit = 1.0 / 4294967296.0, two_pi = 6.283185307179586;
    double radius = sqrt(-2.0 * log(((double)words.x + 0.5) * unit));
    return (float)(radius * cos(two_pi * (double)words.y * unit));
}

static __global__ void fill_normal(mf_extent all, mf_normal_args a) {
    MF_FOR_ROWS(row, all) {
        uint64_t first = (uint64_t)(a.first + row * a.index_ld);
        for (int i = 0; i < MF_SHARE; i++) {
            int64_t column = mf_share<1, false>::column(i);
            if (column < all.width)
                a.out[row * all.width + column] =
                    a.deviation * normal(a.seed, a.key, first + (uint64_t)column);
        }
    }
}

mf_status mf_cuda_fill_normal(mf_device *device, const mf_normal_args *args) {
    return mf_cuda_launch_shares(device, "fill_normal", fill_normal, 1,
                                 mf_extent_of(args->rows, args->cols, args->index_ld == args->cols), *args);
}
