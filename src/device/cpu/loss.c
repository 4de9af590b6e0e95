/* loss.c: embedding rows, and cross-entropy over a vocabulary that comes in slices. */
#include "device/cpu/cpu.h"
#include "device/cpu/exp.h"

#include <math.h>
#include <string.h>

mf_status mf_cpu_embed_forward(mf_device *device, const mf_embed_args *a) {
    size_t bytes = (size_t)a->h * mf_dtype_bytes(a->type);
#pragma omp parallel for num_threads(device->threads)
    for (int64_t i = 0; i < a->n; i++) {
        int64_t row = a->ids[i] - a->first;
        if (row < 0 || row >= a->rows) continue;
        memcpy((char *)a->out + (size_t)i * bytes, (const char *)a->table + (size_t)row * bytes, bytes);
    }
    return MF_OK;
}

/* out: [n] += d_out's n values from `at`. */
static void add_run(const mf_embed_args *a, int64_t at, float *out, int64_t n) {
    if (a->d_out_type == MF_F32) {
        const float *in = (const float *)a->d_out + at;
        for (int64_t c = 0; c < n; c++) out[c] += in[c];
    } else {
        const uint16_t *in = (const uint16_t *)a->d_out + at;
        for (int64_t c = 0; c < n; c++) out[c] += mf_f32_from_bf16(in[c]);
    }
}

mf_status mf_cpu_embed_backward(mf_device *device, const mf_embed_args *a) {
    const int64_t columns =
        128; /* one thread owns a run of columns: the order of sums is that of the tokens */
#pragma omp parallel for num_threads(device->threads)
    for (int64_t begin = 0; begin < a->h; begin += columns) {
        int64_t end = mf_min(begin + columns, a->h);
        for (int64_t i = 0; i < a->n; i++) {
            int64_t row = a->ids[i] - a->first;
            if (row < 0 || row >= a->rows) continue;
            add_run(a, i * a->h + begin, a->d_table + row * a->h + begin, end - begin);
        }
    }
    return MF_OK;
}

mf_status mf_cpu_xent_begin(mf_device *device, const mf_xent_args *a) {
    (void)device;
    for (int64_t t = 0; t < a->n; t++) {
        a->maximum[t] = -INFINITY;
        a->sum[t] = 0;
        a->label_logit[t] = 0;
    }
    return MF_OK;
}

static float row_maximum(const float *x, int64_t n, float start) {
    float maximum = start;
#pragma omp simd reduction(max : maximum)
    for (int64_t i = 0; i < n; i++) maximum = x[i] > maximum ? x[i] : maximum;
    return maximum;
}

static float row_sum_exp(const float *x, int64_t n, float maximum) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += mf_cpu_exp(x[i] - maximum);
    return sum;
}

mf_status mf_cpu_xent_update(mf_device *device, const mf_xent_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t t = 0; t < a->n; t++) {
        const float *row = a->logits + t * a->width;
        float before = a->maximum[t], now = row_maximum(row, a->width, before);
        float kept = before == now ? a->sum[t] : a->sum[t] * mf_cpu_exp(before - now);
        a->sum[t] = kept + row_sum_exp(row, a->width, now);
        a->maximum[t] = now;
        int64_t label = a->labels[t] - a->first;
        if (a->labels[t] >= 0 && label >= 0 && label < a->width) a->label_logit[t] = row[label];
    }
    return MF_OK;
}

static void merge_row(const mf_xent_args *a, int64_t t, int parts, const float *states) {
    float maximum = -INFINITY, sum = 0, label_logit = 0;
    for (int i = 0; i < parts; i++) {
        float part = states[3 * i * a->n + t];
        maximum = part > maximum ? part : maximum;
    }
    for (int i = 0; i < parts; i++) {
        const float *part = states + 3 * i * a->n + t;
        label_logit += part[2 * a->n];
        /* No column: where no part has one, the difference of the maxima would be NaN. */
        if (part[0] == -INFINITY && part[a->n] == 0) continue;
        sum += part[a->n] * mf_cpu_exp(part[0] - maximum);
    }
    a->maximum[t] = maximum;
    a->sum[t] = sum;
    a->label_logit[t] = label_logit;
}

mf_status mf_cpu_xent_merge(mf_device *device, const mf_xent_args *a, int parts, const float *states) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t t = 0; t < a->n; t++) merge_row(a, t, parts, states);
    return MF_OK;
}

static void grad_row(const mf_xent_args *a, int64_t t) {
    float *row = a->logits + t * a->width;
    if (a->labels[t] < 0) {
        memset(row, 0, (size_t)a->width * sizeof *row); /* not times 0: a masked row may hold anything */
        return;
    }
    float each = a->scale / a->sum[t], maximum = a->maximum[t];
    int64_t label = a->labels[t] - a->first;
    for (int64_t i = 0; i < a->width; i++) row[i] = mf_cpu_exp(row[i] - maximum) * each;
    if (label >= 0 && label < a->width) row[label] -= a->scale;
}

mf_status mf_cpu_xent_grad(mf_device *device, const mf_xent_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t t = 0; t < a->n; t++) {
        const float *row = a->logits + t * a->width;
        grad_row(a, t);
        if (a->type == MF_F32) {
            float *out = (float *)a->d_logits + t * a->width;
            if (out != row) memcpy(out, row, (size_t)a->width * sizeof(float));
        } else {
            uint16_t *out = (uint16_t *)a->d_logits + t * a->width;
            for (int64_t i = 0; i < a->width; i++) out[i] = mf_bf16_from_f32(row[i]);
        }
    }
    return MF_OK;
}

mf_status mf_cpu_xent_loss(mf_device *device, const mf_xent_args *a, double *loss) {
    (void)device;
    double sum = 0;
    for (int64_t t = 0; t < a->n; t++)
        if (a->labels[t] >= 0)
            sum += log((double)a->sum[t]) + (double)a->maximum[t] - (double)a->label_logit[t];
    *loss = sum;
    return MF_OK;
}
