/* bias.c: a vector added to every row, and the sums of columns that are its gradient. */
#include "device/cpu/cpu.h"

enum { COLUMNS = 256, ROWS = 256 };

mf_status mf_cpu_bias_forward(mf_device *device, const mf_bias_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->rows; row++) {
        if (a->type == MF_F32) {
            float *x = (float *)a->x + row * a->ld;
            for (int64_t i = 0; i < a->width; i++) x[i] += a->bias[i];
        } else {
            uint16_t *x = (uint16_t *)a->x + row * a->ld;
            for (int64_t i = 0; i < a->width; i++)
                x[i] = mf_bf16_from_f32(mf_f32_from_bf16(x[i]) + a->bias[i]);
        }
    }
    return MF_OK;
}

/* Sums of a run of rows and columns, added to what is there: many rows lose less to rounding than one by one.
 */
static void sum_block(const mf_bias_args *a, int64_t row, int64_t rows, int64_t begin, int64_t columns) {
    float sum[COLUMNS] = {0};
    for (int64_t t = row; t < row + rows; t++) {
        if (a->type == MF_F32) {
            const float *d = (const float *)a->d + t * a->ld + begin;
            for (int64_t i = 0; i < columns; i++) sum[i] += d[i];
        } else {
            const uint16_t *d = (const uint16_t *)a->d + t * a->ld + begin;
            for (int64_t i = 0; i < columns; i++) sum[i] += mf_f32_from_bf16(d[i]);
        }
    }
    for (int64_t i = 0; i < columns; i++) a->d_bias[begin + i] += sum[i];
}

/* One thread owns a run of columns, so that each sum has one order whatever the threads. */
mf_status mf_cpu_bias_backward(mf_device *device, const mf_bias_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t begin = 0; begin < a->width; begin += COLUMNS)
        for (int64_t row = 0; row < a->rows; row += ROWS)
            sum_block(a, row, mf_min(ROWS, a->rows - row), begin, mf_min(COLUMNS, a->width - begin));
    return MF_OK;
}
