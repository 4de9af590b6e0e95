/* grid_embed.c: a bias and a row's place in a grid, added to values. */
#include "device/cpu/cpu.h"
#include "device/cpu/element.h"

/* Columns begin .. begin + width - 1, whose places are `table`. */
MF_INLINED void add_run(const mf_grid_embed_args *a, mf_dtype type, int64_t row, int64_t begin, int64_t width,
                        const float *table) {
    const float *y = a->y + row * a->h + begin, *bias = a->bias + begin;
    void *out = a->out;
    int64_t at = row * a->h + begin;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) mf_element_store(out, type, at + i, y[i] + bias[i] + table[i]);
}

static void embed_row(const mf_grid_embed_args *a, int64_t row) {
    const int32_t *index = a->index + (a->first_row + row) % a->sample_rows * 3;
    for (int64_t t = 0, begin = 0; t < 3; begin += a->width[t], t++) {
        const float *table = a->table[t] + index[t] * a->width[t];
        if (a->type == MF_F32)
            add_run(a, MF_F32, row, begin, a->width[t], table);
        else
            add_run(a, MF_BF16, row, begin, a->width[t], table);
    }
}

mf_status mf_cpu_grid_embed(mf_device *device, const mf_grid_embed_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->n; row++) embed_row(a, row);
    return MF_OK;
}
