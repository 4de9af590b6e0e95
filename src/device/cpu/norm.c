/* norm.c: RMS norm, forward and backward. y = x r w with r = 1 / sqrt(mean(x^2) + eps). */
#include "device/cpu/cpu.h"

#include <math.h>

static const void *row_of(const void *data, mf_dtype type, int64_t row, int64_t width) {
    return (const char *)data + (size_t)(row * width) * mf_dtype_bytes(type);
}

static float inverse_rms(const void *x, mf_dtype type, int64_t h, float eps) {
    float sum = 0;
    if (type == MF_F32) {
        const float *v = x;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < h; i++) sum += v[i] * v[i];
    } else {
        const uint16_t *v = x;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < h; i++) sum += mf_f32_from_bf16(v[i]) * mf_f32_from_bf16(v[i]);
    }
    return 1.0f / sqrtf(sum / (float)h + eps);
}

mf_status mf_cpu_rmsnorm_forward(mf_device *device, int64_t n, int64_t h, float eps, mf_dtype type,
                                 const void *x, const float *weight, void *y) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t t = 0; t < n; t++) {
        const void *row = row_of(x, type, t, h);
        float r = inverse_rms(row, type, h, eps);
        if (type == MF_F32) {
            const float *in = row;
            float *out = (float *)y + t * h;
            for (int64_t i = 0; i < h; i++) out[i] = in[i] * r * weight[i];
        } else {
            const uint16_t *in = row;
            uint16_t *out = (uint16_t *)y + t * h;
            for (int64_t i = 0; i < h; i++)
                out[i] = mf_bf16_from_f32(mf_f32_from_bf16(in[i]) * r * weight[i]);
        }
    }
    return MF_OK;
}

/* dx += r (w dy - x r^2 mean(w dy x)) */
static void input_grad(const mf_rmsnorm_grad *a, int64_t t, float r) {
    const void *x = row_of(a->x, a->type, t, a->h);
    const float *dy = a->dy + t * a->h, *w = a->weight;
    float *dx = a->dx + t * a->h;
    float dot = 0;
    if (a->type == MF_F32) {
        const float *v = x;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < a->h; i++) dot += w[i] * dy[i] * v[i];
        float c = dot * r * r * r / (float)a->h;
        for (int64_t i = 0; i < a->h; i++) dx[i] += r * w[i] * dy[i] - c * v[i];
    } else {
        const uint16_t *v = x;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < a->h; i++) dot += w[i] * dy[i] * mf_f32_from_bf16(v[i]);
        float c = dot * r * r * r / (float)a->h;
        for (int64_t i = 0; i < a->h; i++) dx[i] += r * w[i] * dy[i] - c * mf_f32_from_bf16(v[i]);
    }
}

enum { COLUMNS = 256, ROWS = 256 };

/* Sums of a run of rows and columns, added to what is there: long sequences lose less to rounding than one by
 * one. */
static void weight_grad_block(const mf_rmsnorm_grad *a, const float *r, int64_t row, int64_t rows,
                              int64_t begin, int64_t columns) {
    float sum[COLUMNS] = {0};
    for (int64_t t = row; t < row + rows; t++) {
        const float *dy = a->dy + t * a->h + begin;
        if (a->type == MF_F32) {
            const float *x = (const float *)a->x + t * a->h + begin;
            for (int64_t i = 0; i < columns; i++) sum[i] += dy[i] * x[i] * r[t];
        } else {
            const uint16_t *x = (const uint16_t *)a->x + t * a->h + begin;
            for (int64_t i = 0; i < columns; i++) sum[i] += dy[i] * mf_f32_from_bf16(x[i]) * r[t];
        }
    }
    for (int64_t i = 0; i < columns; i++) a->dweight[begin + i] += sum[i];
}

static mf_status take_inverse(mf_device *device, const mf_rmsnorm_grad *a, mf_buffer *out) {
    return mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)a->n * sizeof(float), "norms of rows", out);
}

mf_status mf_cpu_reserve_rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *a) {
    mf_buffer inverse = {0};
    MF_TRY(take_inverse(device, a, &inverse));
    mf_buffer_free(device->memory, &inverse);
    return MF_OK;
}

mf_status mf_cpu_rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *a) {
    mf_buffer inverse = {0};
    MF_TRY(take_inverse(device, a, &inverse));
    float *r = inverse.data;
#pragma omp parallel for num_threads(device->threads)
    for (int64_t t = 0; t < a->n; t++) {
        r[t] = inverse_rms(row_of(a->x, a->type, t, a->h), a->type, a->h, a->eps);
        input_grad(a, t, r[t]);
    }
    /* One thread owns a run of columns, so that each sum has one order whatever the threads. */
#pragma omp parallel for num_threads(device->threads)
    for (int64_t begin = 0; begin < a->h; begin += COLUMNS)
        for (int64_t row = 0; row < a->n; row += ROWS)
            weight_grad_block(a, r, row, mf_min(ROWS, a->n - row), begin, mf_min(COLUMNS, a->h - begin));
    mf_buffer_free(device->memory, &inverse);
    return MF_OK;
}
