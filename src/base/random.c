/* random.c: Philox 4x32 with 10 rounds, as a function of (seed, key, index). */
#include "meshfold/base.h"

#include <math.h>

typedef struct block {
    uint32_t word[4];
} block;

static void multiply(uint32_t a, uint32_t b, uint32_t *high, uint32_t *low) {
    uint64_t product = (uint64_t)a * b;
    *high = (uint32_t)(product >> 32);
    *low = (uint32_t)product;
}

static block philox(uint64_t key, uint64_t low_counter, uint64_t high_counter) {
    block c = {{(uint32_t)low_counter, (uint32_t)(low_counter >> 32), (uint32_t)high_counter,
                (uint32_t)(high_counter >> 32)}};
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
        uint32_t h0, l0, h1, l1;
        multiply(0xd2511f53u, c.word[0], &h0, &l0);
        multiply(0xcd9e8d57u, c.word[2], &h1, &l1);
        c = (block){{h1 ^ c.word[1] ^ k0, l1, h0 ^ c.word[3] ^ k1, l0}};
    }
    return c;
}

uint64_t mf_random_key(const char *name) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    return hash;
}

uint64_t mf_random_u64(uint64_t seed, uint64_t key, uint64_t index) {
    block b = philox(seed, index, key);
    return ((uint64_t)b.word[1] << 32) | b.word[0];
}

float mf_random_normal(uint64_t seed, uint64_t key, uint64_t index) {
    block b = philox(seed, index, key);
    const double unit = 1.0 / 4294967296.0, two_pi = 6.283185307179586;
    double radius = sqrt(-2.0 * log(((double)b.word[0] + 0.5) * unit));
    return (float)(radius * cos(two_pi * (double)b.word[1] * unit));
}
