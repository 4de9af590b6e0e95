/* modulate.c: layer norm without weights, scaled and shifted by vectors of the sample that a row is of, and
 * its backward. y = v (1 + scale) + shift, v = (x - mean) r, r = 1 / sqrt(variance + eps). */
#include "device/cpu/cpu.h"
#include "device/cpu/element.h"

#include <math.h>

typedef struct moments {
    float mean, r;
} moments;

/* In two passes: the difference of mean square and squared mean would lose what a large mean hides. */
MF_INLINED moments moments_of(const mf_modulate_args *a, mf_dtype type, int64_t at) {
    const void *x = a->x;
    int64_t h = a->h;
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < h; i++) sum += mf_element(x, type, at + i);
    float mean = sum / (float)h;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < h; i++) {
        float d = mf_element(x, type, at + i) - mean;
        squares += d * d;
    }
    return (moments){mean, 1.0f / sqrtf(squares / (float)h + a->eps)};
}

static inline int64_t sample_of(const mf_modulate_args *a, int64_t row) {
    return (a->first_row + row) / a->sample_rows;
}

MF_INLINED void forward_row(const mf_modulate_args *a, mf_dtype type, int64_t row) {
    const float *shift = a->shift + sample_of(a, row) * a->mod_ld,
                *scale = a->scale + sample_of(a, row) * a->mod_ld;
    const void *x = a->x;
    void *y = a->y;
    int64_t h = a->h, at = row * h;
    moments m = moments_of(a, type, at);
#pragma omp simd
    for (int64_t i = 0; i < h; i++)
        mf_element_store(y, type, at + i,
                         (mf_element(x, type, at + i) - m.mean) * m.r * (1.0f + scale[i]) + shift[i]);
}

/* Not inlined, as the block below: within a parallel region gcc 12 would leave the sums scalar. */
__attribute__((noinline)) static void forward_row_of_type(const mf_modulate_args *a, int64_t row) {
    if (a->type == MF_F32)
        forward_row(a, MF_F32, row);
    else
        forward_row(a, MF_BF16, row);
}

mf_status mf_cpu_modulate_forward(mf_device *device, const mf_modulate_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->n; row++) forward_row_of_type(a, row);
    return MF_OK;
}

/* dx += r (e - mean(e) - v mean(e v)) with e = dy (1 + scale); dscale += dy v, dshift += dy: [h] each, unless
 * NULL. */
MF_INLINED void backward_row(const mf_modulate_args *a, mf_dtype type, int64_t row, float *dshift,
                             float *dscale) {
    const float *scale = a->scale + sample_of(a, row) * a->mod_ld, *dy = a->dy + row * a->h;
    const void *x = a->x;
    float *dx = a->dx + row * a->h, sum = 0, dot = 0;
    int64_t h = a->h, at = row * h;
    moments m = moments_of(a, type, at);
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t i = 0; i < h; i++) {
        float e = dy[i] * (1.0f + scale[i]);
        sum += e;
        dot += e * ((mf_element(x, type, at + i) - m.mean) * m.r);
    }
    float mean = sum / (float)h, along = dot / (float)h;
#pragma omp simd
    for (int64_t i = 0; i < h; i++) {
        float v = (mf_element(x, type, at + i) - m.mean) * m.r;
        dx[i] += m.r * (dy[i] * (1.0f + scale[i]) - mean - v * along);
    }
    if (!dshift) return;
#pragma omp simd
    for (int64_t i = 0; i < h; i++) {
        dscale[i] += dy[i] * ((mf_element(x, type, at + i) - m.mean) * m.r);
        dshift[i] += dy[i];
    }
}

/* A sample's rows are cut into blocks of so many; blocks count on from sample to sample. The sums of a block
 * are its own, and blocks are added in order: so each sum has one order, whatever the threads. */
enum { ROWS = 64, COLUMNS = 256 };

static int64_t sample_blocks(const mf_modulate_args *a) { return mf_ceil_div(a->sample_rows, ROWS); }

static int64_t block_of(const mf_modulate_args *a, int64_t row) {
    int64_t within = (a->first_row + row) % a->sample_rows;
    return sample_of(a, row) * sample_blocks(a) + within / ROWS;
}

/* The call's first row of a block, or of those after it. */
static int64_t row_of(const mf_modulate_args *a, int64_t block) {
    int64_t sample = block / sample_blocks(a), within = block % sample_blocks(a) * ROWS;
    int64_t row = sample * a->sample_rows + within - a->first_row;
    return mf_max(0, mf_min(row, a->n));
}

static int64_t blocks_of(const mf_modulate_args *a) { return block_of(a, a->n - 1) - block_of(a, 0) + 1; }

/* [blocks][2][h]: each block's shares of dshift and dscale. */
static mf_status take_sums(mf_device *device, const mf_modulate_args *a, mf_buffer *out) {
    if (!a->dshift) return MF_OK;
    return mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)(blocks_of(a) * 2 * a->h) * sizeof(float),
                           "sums of a modulation's gradient", out);
}

mf_status mf_cpu_reserve_modulate_backward(mf_device *device, const mf_modulate_args *a) {
    mf_buffer sums = {0};
    MF_TRY(take_sums(device, a, &sums));
    mf_buffer_free(device->memory, &sums);
    return MF_OK;
}

/* sums: [2][h], overwritten; or NULL. */
__attribute__((noinline)) static void backward_block(const mf_modulate_args *a, int64_t block, float *sums) {
    float *dscale = sums ? sums + a->h : NULL;
    for (int64_t i = 0; sums && i < 2 * a->h; i++) sums[i] = 0;
    for (int64_t row = row_of(a, block); row < row_of(a, block + 1); row++) {
        if (a->type == MF_F32)
            backward_row(a, MF_F32, row, sums, dscale);
        else
            backward_row(a, MF_BF16, row, sums, dscale);
    }
}

static void add_columns(const mf_modulate_args *a, const float *sums, int64_t begin, int64_t end) {
    int64_t first = block_of(a, 0);
    for (int64_t b = 0; b < blocks_of(a); b++) {
        int64_t to = (first + b) / sample_blocks(a) * a->mod_ld;
        const float *shift = sums + b * 2 * a->h, *scale = shift + a->h;
        for (int64_t i = begin; i < end; i++) a->dshift[to + i] += shift[i];
        for (int64_t i = begin; i < end; i++) a->dscale[to + i] += scale[i];
    }
}

mf_status mf_cpu_modulate_backward(mf_device *device, const mf_modulate_args *a) {
    int64_t first = block_of(a, 0), blocks = blocks_of(a);
    mf_buffer taken = {0};
    MF_TRY(take_sums(device, a, &taken));
    float *sums = taken.data;
#pragma omp parallel for num_threads(device->threads)
    for (int64_t b = 0; b < blocks; b++) backward_block(a, first + b, sums ? sums + b * 2 * a->h : NULL);
    if (sums) {
#pragma omp parallel for num_threads(device->threads)
        for (int64_t begin = 0; begin < a->h; begin += COLUMNS)
            add_columns(a, sums, begin, mf_min(begin + COLUMNS, a->h));
    }
    mf_buffer_free(device->memory, &taken);
    return MF_OK;
}
