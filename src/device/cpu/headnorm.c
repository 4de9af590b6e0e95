/* headnorm.c: RMS norm of each head of q or k, in place, and its backward. y = x r w with r = 1 /
 * sqrt(mean(x^2)
 * + eps). */
#include "device/cpu/cpu.h"
#include "device/cpu/element.h"

#include <math.h>

/* Rows whose share of the weight's gradient is summed by itself: the sum over rows then has one order,
 * whatever the threads. */
enum { ROWS = 64 };

static inline float inverse_rms(const mf_headnorm_args *a, mf_dtype type, int64_t at) {
    const void *x = a->x;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = at; i < at + a->head_dim; i++) sum += mf_element(x, type, i) * mf_element(x, type, i);
    return 1.0f / sqrtf(sum / (float)a->head_dim + a->eps);
}

static inline void head_forward(const mf_headnorm_args *a, mf_dtype type, int64_t at) {
    const float *w = a->weight;
    void *x = a->x;
    float r = inverse_rms(a, type, at);
#pragma omp simd
    for (int64_t i = 0; i < a->head_dim; i++)
        mf_element_store(x, type, at + i, mf_element(x, type, at + i) * r * w[i]);
}

mf_status mf_cpu_headnorm_forward(mf_device *device, const mf_headnorm_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->rows; row++)
        for (int64_t head = 0; head < a->heads; head++) {
            if (a->type == MF_F32)
                head_forward(a, MF_F32, row * a->ld + head * a->head_dim);
            else
                head_forward(a, MF_BF16, row * a->ld + head * a->head_dim);
        }
    return MF_OK;
}

/* dx = r (w dy - x r^2 mean(w dy x)), in dy's place; dw += dy x r. */
static inline void head_backward(const mf_headnorm_args *a, mf_dtype type, int64_t at, int64_t d_at,
                                 float *dw) {
    const float *w = a->weight;
    const void *x = a->x;
    void *d = a->d;
    float r = inverse_rms(a, type, at), dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < a->head_dim; i++) {
        float product = mf_element(d, type, d_at + i) * mf_element(x, type, at + i);
        dot += w[i] * product;
        dw[i] += product * r;
    }
    float c = dot * r * r * r / (float)a->head_dim;
#pragma omp simd
    for (int64_t i = 0; i < a->head_dim; i++)
        mf_element_store(d, type, d_at + i,
                         r * w[i] * mf_element(d, type, d_at + i) - c * mf_element(x, type, at + i));
}

static int64_t blocks_of(const mf_headnorm_args *a) { return mf_ceil_div(a->rows, ROWS); }

static mf_status take_sums(mf_device *device, const mf_headnorm_args *a, mf_buffer *out) {
    return mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)(blocks_of(a) * a->head_dim) * sizeof(float),
                           "sums of a norm's gradient", out);
}

mf_status mf_cpu_reserve_headnorm_backward(mf_device *device, const mf_headnorm_args *a) {
    mf_buffer sums = {0};
    MF_TRY(take_sums(device, a, &sums));
    mf_buffer_free(device->memory, &sums);
    return MF_OK;
}

static void row_backward(const mf_headnorm_args *a, int64_t row, float *dw) {
    for (int64_t head = 0; head < a->heads; head++) {
        int64_t at = row * a->ld + head * a->head_dim, d_at = row * a->d_ld + head * a->head_dim;
        if (a->type == MF_F32)
            head_backward(a, MF_F32, at, d_at, dw);
        else
            head_backward(a, MF_BF16, at, d_at, dw);
    }
}

mf_status mf_cpu_headnorm_backward(mf_device *device, const mf_headnorm_args *a) {
    mf_buffer sums = {0};
    MF_TRY(take_sums(device, a, &sums));
#pragma omp parallel for num_threads(device->threads)
    for (int64_t block = 0; block < blocks_of(a); block++) {
        float *dw = (float *)sums.data + block * a->head_dim;
        for (int64_t i = 0; i < a->head_dim; i++) dw[i] = 0;
        for (int64_t row = block * ROWS; row < mf_min((block + 1) * ROWS, a->rows); row++)
            row_backward(a, row, dw);
    }
    for (int64_t block = 0; block < blocks_of(a); block++)
        for (int64_t i = 0; i < a->head_dim; i++)
            a->dweight[i] += ((float *)sums.data)[block * a->head_dim + i];
    mf_buffer_free(device->memory, &sums);
    return MF_OK;
}
