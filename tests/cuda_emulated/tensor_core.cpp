/* tensor_core.cpp: what a warp does together on its tensor core: the last lane to come does it for all.
 * Fragments are those of PTX's manual: of mma.m16n8k16 and of ldmatrix. */
#include <cuda_runtime.h>

namespace emulated {

namespace {

float bf16_of(uint32_t word, int half) { return __uint_as_float(half ? word & 0xffff0000u : word << 16); }

struct product {
    float *c;
    const uint32_t *a, *b;
};

/* a: [16, 16], b: [16, 8], c: [16, 8]. Sums in the order of k; a GPU keeps an order
 * of its own. */
void multiply(void *const brought[32], unsigned lanes) {
    float a[16][16], b[16][8];
    if (lanes != 0xffffffffu) die("%s: a matrix product of lanes %08x", where(), lanes);
    for (int lane = 0; lane < 32; lane++) {
        const product *p = (const product *)brought[lane];
        int row = lane / 4, pair = lane % 4 * 2;
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 4; i++) a[row + i % 2 * 8][pair + i / 2 * 8 + half] = bf16_of(p->a[i], half);
            for (int i = 0; i < 2; i++) b[pair + i * 8 + half][row] = bf16_of(p->b[i], half);
        }
    }
    for (int row = 0; row < 16; row++) {
        float sum[8] = {0};
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++) sum[column] += a[row][k] * b[k][column];
        for (int column = 0; column < 8; column++) {
            const product *p = (const product *)brought[row % 8 * 4 + column / 2];
            p->c[row / 8 * 2 + column % 2] += sum[column];
        }
    }
}

struct fragments {
    const char *row; /* of matrix lane / 8, row lane % 8 */
    uint32_t *words;
    bool transposed;
};

void spread(void *const brought[32], unsigned lanes) {
    if (lanes != 0xffffffffu) die("%s: matrices loaded by lanes %08x", where(), lanes);
    for (int lane = 0; lane < 32; lane++) {
        const fragments *own = (const fragments *)brought[lane];
        for (int matrix = 0; matrix < 4; matrix++)
            for (int half = 0; half < 2; half++) {
                int row = lane / 4, column = lane % 4 * 2 + half;
                if (own->transposed) std::swap(row, column);
                const char *from = ((const fragments *)brought[matrix * 8 + row])->row;
                memcpy((char *)&own->words[matrix] + half * 2, from + column * 2, 2);
            }
    }
}

} // namespace

void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char *file, int line) {
    product mine = {c, a, b};
    meet(0xffffffffu, multiply, &mine, file, line);
}

void load_matrices(uint32_t (&words)[4], const void *row, bool transposed, const char *file, int line) {
    fragments mine = {(const char *)row, words, transposed};
    if ((uintptr_t)row % 16) die("%s: a row of a matrix is not on a multiple of 16 bytes", where());
    meet(0xffffffffu, spread, &mine, file, line);
}

} // namespace emulated
