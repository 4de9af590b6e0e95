/* vector.c: operations on runs of values: AdamW, sums, errors, casts, copies. */
#include "device/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 16384 };

static void adamw_block(const mf_adamw_args *a, int64_t begin, int64_t end) {
    const float *grad = a->grad;
    float *p = a->master, *m = a->moment1, *v = a->moment2;
    /* In double: beta2^step lies so near 1 that f32 would leave four digits of the difference. */
    float unbias1 = (float)(1.0 / (1.0 - pow((double)a->beta1, (double)a->step)));
    float unbias2 = (float)(1.0 / (1.0 - pow((double)a->beta2, (double)a->step)));
    float b1 = a->beta1, b2 = a->beta2, decay = a->weight_decay, lr = a->lr, eps = a->eps,
          scale = a->grad_scale;
#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        float g = grad[i] * scale;
        m[i] = b1 * m[i] + (1.0f - b1) * g;
        v[i] = b2 * v[i] + (1.0f - b2) * g * g;
        p[i] -= lr * (decay * p[i] + m[i] * unbias1 / (sqrtf(v[i] * unbias2) + eps));
    }
    if (a->type == MF_BF16) {
        uint16_t *w = a->weights;
        for (int64_t i = begin; i < end; i++) w[i] = mf_bf16_from_f32(p[i]);
    } else if (a->weights && a->weights != a->master) {
        memcpy((float *)a->weights + begin, p + begin, (size_t)(end - begin) * sizeof(float));
    }
}

mf_status mf_cpu_adamw(mf_device *device, const mf_adamw_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t begin = 0; begin < a->n; begin += BLOCK) adamw_block(a, begin, mf_min(begin + BLOCK, a->n));
    return MF_OK;
}

/* A sum over elements begin .. begin + n - 1 of `of`. Called by its address: inlined into the parallel loop,
 * gcc 12 would leave it scalar. */
typedef double block_sum(const void *of, int64_t begin, int64_t n);

/* Blocks are summed by themselves and then in order, so that the threads change nothing. */
static double sum_blocks(const mf_device *device, int64_t n, block_sum *sum, const void *of) {
    enum { AT_ONCE = 256 };
    double total = 0;
    for (int64_t base = 0; base < n; base += (int64_t)AT_ONCE * BLOCK) {
        double part[AT_ONCE];
        int64_t blocks = mf_min(mf_ceil_div(n - base, BLOCK), AT_ONCE);
#pragma omp parallel for num_threads(device->threads)
        for (int64_t b = 0; b < blocks; b++)
            part[b] = sum(of, base + b * BLOCK, mf_min(n - base - b * BLOCK, BLOCK));
        for (int64_t b = 0; b < blocks; b++) total += part[b];
    }
    return total;
}

/* Four streams from memory are faster than one. */
static double sum_of_squares(const void *of, int64_t begin, int64_t n) {
    const float *x = (const float *)of + begin;
    double a = 0, b = 0, c = 0, d = 0;
    int64_t quarter = n / 4;
#pragma omp simd reduction(+ : a, b, c, d)
    for (int64_t i = 0; i < quarter; i++) {
        a += (double)x[i] * (double)x[i];
        b += (double)x[quarter + i] * (double)x[quarter + i];
        c += (double)x[2 * quarter + i] * (double)x[2 * quarter + i];
        d += (double)x[3 * quarter + i] * (double)x[3 * quarter + i];
    }
    for (int64_t i = 4 * quarter; i < n; i++) a += (double)x[i] * (double)x[i];
    return a + b + c + d;
}

mf_status mf_cpu_sum_squares(mf_device *device, int64_t n, const float *x, double *sum) {
    *sum = sum_blocks(device, n, sum_of_squares, x);
    return MF_OK;
}

static double sum_of_errors(const void *of, int64_t begin, int64_t n) {
    const mf_squared_error_args *a = of;
    const float *pred = a->pred + begin, *target = a->target + begin;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        double error = (double)pred[i] - (double)target[i];
        sum += error * error;
    }
    if (!a->d_pred) return sum;
    float *d_pred = a->d_pred + begin, twice = 2.0f * a->scale;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) d_pred[i] = twice * (pred[i] - target[i]);
    return sum;
}

mf_status mf_cpu_squared_error(mf_device *device, const mf_squared_error_args *a, double *loss) {
    *loss = sum_blocks(device, a->n, sum_of_errors, a);
    return MF_OK;
}

static void cast_run(const mf_cast_args *a, int64_t in_at, int64_t out_at, int64_t n) {
    const char *in = (const char *)a->in + in_at * (int64_t)mf_dtype_bytes(a->in_type);
    char *out = (char *)a->out + out_at * (int64_t)mf_dtype_bytes(a->out_type);
    if (a->in_type == a->out_type) {
        memmove(out, in, (size_t)n * mf_dtype_bytes(a->in_type));
    } else if (a->in_type == MF_F32) {
        const float *from = (const float *)(const void *)in;
        uint16_t *to = (uint16_t *)(void *)out;
        for (int64_t i = 0; i < n; i++) to[i] = mf_bf16_from_f32(from[i]);
    } else {
        const uint16_t *from = (const uint16_t *)(const void *)in;
        float *to = (float *)(void *)out;
        for (int64_t i = 0; i < n; i++) to[i] = mf_f32_from_bf16(from[i]);
    }
}

mf_status mf_cpu_cast(mf_device *device, const mf_cast_args *a) {
    if (a->rows == 1) {
#pragma omp parallel for num_threads(device->threads)
        for (int64_t begin = 0; begin < a->width; begin += BLOCK)
            cast_run(a, begin, begin, mf_min(BLOCK, a->width - begin));
        return MF_OK;
    }
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->rows; row++) cast_run(a, row * a->in_ld, row * a->out_ld, a->width);
    return MF_OK;
}

static void add_block(mf_dtype type, const void *residual, const float *delta, void *out, int64_t begin,
                      int64_t end) {
    if (type == MF_F32) {
        const float *r = residual;
        float *o = out;
        for (int64_t i = begin; i < end; i++) o[i] = r[i] + delta[i];
    } else {
        const uint16_t *r = residual;
        uint16_t *o = out;
        for (int64_t i = begin; i < end; i++) o[i] = mf_bf16_from_f32(mf_f32_from_bf16(r[i]) + delta[i]);
    }
}

mf_status mf_cpu_add(mf_device *device, int64_t n, mf_dtype type, const void *residual, const float *delta,
                     void *out) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t begin = 0; begin < n; begin += BLOCK)
        add_block(type, residual, delta, out, begin, mf_min(begin + BLOCK, n));
    return MF_OK;
}

static void accumulate_run(int64_t n, const float *in, float *out) {
    for (int64_t i = 0; i < n; i++) out[i] += in[i];
}

mf_status mf_cpu_accumulate(mf_device *device, int64_t rows, int64_t width, const float *in, int64_t in_ld,
                            float *out, int64_t out_ld) {
    if (rows == 1) {
#pragma omp parallel for num_threads(device->threads)
        for (int64_t begin = 0; begin < width; begin += BLOCK)
            accumulate_run(mf_min(BLOCK, width - begin), in + begin, out + begin);
        return MF_OK;
    }
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < rows; row++) accumulate_run(width, in + row * in_ld, out + row * out_ld);
    return MF_OK;
}

mf_status mf_cpu_fill(mf_device *device, int64_t n, float value, float *out) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t i = 0; i < n; i++) out[i] = value;
    return MF_OK;
}

mf_status mf_cpu_fill_normal(mf_device *device, const mf_normal_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->rows; row++)
        for (int64_t col = 0; col < a->cols; col++)
            a->out[row * a->cols + col] =
                a->deviation *
                mf_random_normal(a->seed, a->key, (uint64_t)(a->first + row * a->index_ld + col));
    return MF_OK;
}

mf_status mf_cpu_zero(mf_device *device, void *data, size_t bytes) {
    const size_t block = (size_t)1 << 20;
#pragma omp parallel for num_threads(device->threads)
    for (size_t begin = 0; begin < bytes; begin += block)
        memset((char *)data + begin, 0, begin + block < bytes ? block : bytes - begin);
    return MF_OK;
}

mf_status mf_cpu_copy_rows(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                           const void *in, size_t in_ld) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t i = 0; i < rows; i++)
        memcpy((char *)out + (size_t)i * out_ld, (const char *)in + (size_t)i * in_ld, bytes);
    return MF_OK;
}
