/* ops.c: see ops.h. */
#include "ops.h"

#include "machine.h"

#include <math.h>
#include <string.h>

enum { HELD_MAX = 1 << 16 };

mf_memory *memory;
mf_device *machine[MACHINES];
int held_count;
static void *held[HELD_MAX];

const int64_t sizes[SIZES][2] = {{0, 7}, {7, 0}, {1, 1}, {7, 31}, {31, 257}, {5, 1000}, {257, 7}, {1, 257}};
const mf_dtype types[2] = {MF_F32, MF_BF16};

void *take(size_t bytes) {
    void *data = machine_take(bytes);
    assert_non_null(data);
    assert_true(held_count < HELD_MAX);
    memset(data, 0xff, bytes);
    return held[held_count++] = data;
}

void drop_to(int count) {
    while (held_count > count) machine_give_back(held[--held_count]);
}

int ops_begin(void **state) {
    (void)state;
    held_count = 0;
    if (mf_device_memory_create(machine_name(), &memory)) return -1;
    for (int i = 0; i < MACHINES; i++)
        if (mf_device_create(machine_name(), memory, i + 1, &machine[i])) return -1;
    return 0;
}

int ops_end(void **state) {
    (void)state;
    for (int i = 0; i < MACHINES; i++) mf_device_destroy(machine[i]);
    int64_t left = mf_memory_stats_get(memory).now_total;
    mf_memory_destroy(memory);
    drop_to(0);
    return left ? -1 : 0;
}

static double magnitude(uint32_t high) {
    union {
        uint32_t u;
        float f;
    } bits = {high << 16};
    return high == 0x7f80 ? ldexp(1, 128) : (double)bits.f;
}

uint16_t nearest(float value) {
    union {
        float f;
        uint32_t u;
    } bits = {value};
    uint32_t low = (bits.u & 0x7fffffffu) >> 16, sign = bits.u >> 31 << 15;
    if (low == 0x7f80) return (uint16_t)(sign | low);
    double below = fabs((double)value) - magnitude(low), above = magnitude(low + 1) - fabs((double)value);
    bool up = above < below || (above == below && low % 2 == 1);
    return (uint16_t)(sign | (low + up));
}

double at(const void *data, mf_dtype type, int64_t i) {
    return type == MF_F32 ? (double)((const float *)data)[i]
                          : (double)mf_f32_from_bf16(((const uint16_t *)data)[i]);
}

size_t bytes_of(int64_t n, mf_dtype type) { return (size_t)n * mf_dtype_bytes(type); }

void *blank(int64_t n, mf_dtype type) { return take(bytes_of(n, type)); }

float *normals(const char *name, int64_t n) {
    float *out = blank(n, MF_F32);
    fill_normal(name, 1.0f, n, out);
    return out;
}

void *values(const char *name, int64_t n, mf_dtype type) {
    float *exact = normals(name, n);
    if (type == MF_F32) return exact;
    uint16_t *out = blank(n, type);
    for (int64_t i = 0; i < n; i++) out[i] = nearest(exact[i]);
    return out;
}

void *copy_of(const void *data, int64_t n, mf_dtype type) {
    void *out = blank(n, type);
    memcpy(out, data, bytes_of(n, type));
    return out;
}

double *doubles(const void *data, int64_t n, mf_dtype type) {
    double *out = take((size_t)n * sizeof *out);
    for (int64_t i = 0; i < n; i++) out[i] = at(data, type, i);
    return out;
}

void check_close(const char *what, int64_t n, const void *got, mf_dtype type, const double *want) {
    float *all = blank(n, MF_F32);
    for (int64_t i = 0; i < n; i++) all[i] = (float)at(got, type, i);
    double error = relative_error(n, all, want);
    if (error < mf_tolerance(type)) return;
    print_error("%s: n = %lld, %s: relative error %g\n", what, (long long)n, mf_dtype_name(type), error);
    fail();
}

void check_same(const char *what, const void *got, const void *want, size_t bytes) {
    const unsigned char *a = got, *b = want;
    for (size_t i = 0; i < bytes; i++) {
        if (a[i] == b[i]) continue;
        print_error("%s: byte %zu of %zu is %02x, not %02x\n", what, i, bytes, a[i], b[i]);
        fail();
    }
}

void check_gaps(const char *what, const void *data, int64_t rows, size_t row, size_t ld) {
    const unsigned char *all = data;
    for (int64_t i = 0; i + 1 < rows; i++)
        for (size_t b = row; b < ld; b++)
            if (all[(size_t)i * ld + b] != 0xff) {
                print_error("%s: wrote past row %lld\n", what, (long long)i);
                fail();
            }
}

int64_t span(int64_t rows, int64_t width, int64_t ld) { return rows > 0 ? (rows - 1) * ld + width : 0; }

void *packed(const void *data, mf_dtype type, int64_t rows, int64_t width, int64_t ld) {
    unsigned char *out = blank(rows * width, type);
    for (int64_t r = 0; r < rows; r++)
        memcpy(out + bytes_of(r * width, type), (const unsigned char *)data + bytes_of(r * ld, type),
               bytes_of(width, type));
    return out;
}
