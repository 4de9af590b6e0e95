/* attention_merge.c: results over parts of the keys, weighted by what each part's softmax sums to. */
#include "device/cpu/attention_rows.h"
#include "device/cpu/cpu.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* One head of one row: its place among a part's values, in o and in lse. */
typedef struct place {
    int64_t value, lse, o, held_lse;
} place;

static int64_t part_elements(const mf_attention_merge_args *a) {
    return a->rows * a->heads * (a->head_dim + 1);
}

static float part_lse(const mf_attention_merge_args *a, const place *p, int part) {
    return a->part[part * part_elements(a) + p->lse];
}

static float largest(const mf_attention_merge_args *a, const place *p) {
    float top = a->lse ? a->lse[p->held_lse] : -INFINITY;
    for (int i = 0; i < a->parts; i++) top = fmaxf(top, part_lse(a, p, i));
    return top;
}

/* o, where it holds nothing, may be anything: not even times 0 is it read. */
static void mix(const mf_attention_merge_args *a, const place *p, float *sum) {
    float top = largest(a, p), weights = 0;
    float held = a->lse ? expf(a->lse[p->held_lse] - top) : 0;
    memset(sum, 0, (size_t)a->head_dim * sizeof *sum);
    if (top == -INFINITY) return;
    if (held > 0 && a->type == MF_F32)
        mf_cpu_row_mix_f32(sum, 0, (const float *)a->o + p->o, held, a->head_dim);
    if (held > 0 && a->type != MF_F32)
        mf_cpu_row_mix_bf16(sum, 0, (const uint16_t *)a->o + p->o, held, a->head_dim);
    weights = held;
    for (int i = 0; i < a->parts; i++) {
        float weight = expf(part_lse(a, p, i) - top);
        weights += weight;
        if (weight > 0)
            mf_cpu_row_mix_f32(sum, 1, a->part + i * part_elements(a) + p->value, weight, a->head_dim);
    }
    mf_cpu_row_scale(sum, a->head_dim, 1 / weights);
}

static void write(const mf_attention_merge_args *a, const place *p, const float *sum) {
    if (a->type == MF_F32)
        memcpy((float *)a->o + p->o, sum, (size_t)a->head_dim * sizeof *sum);
    else
        mf_cpu_row_narrow((uint16_t *)a->o + p->o, sum, a->head_dim);
}

static mf_status take_sums(mf_device *device, const mf_attention_merge_args *a, mf_buffer *out) {
    return mf_buffer_alloc(device->memory, MF_WORKSPACE,
                           (size_t)(device->threads * a->head_dim) * sizeof(float), "merged heads", out);
}

mf_status mf_cpu_reserve_attention_merge(mf_device *device, const mf_attention_merge_args *a) {
    mf_buffer sums = {0};
    MF_TRY(take_sums(device, a, &sums));
    mf_buffer_free(device->memory, &sums);
    return MF_OK;
}

mf_status mf_cpu_attention_merge(mf_device *device, const mf_attention_merge_args *a) {
    mf_buffer sums = {0};
    MF_TRY(take_sums(device, a, &sums));
#pragma omp parallel for num_threads(device->threads)
    for (int64_t i = 0; i < a->rows * a->heads; i++) {
        int64_t row = i / a->heads, head = i % a->heads, width = a->heads * a->head_dim;
        float *sum = (float *)sums.data + omp_get_thread_num() * a->head_dim;
        place p = {.value = row * (width + a->heads) + head * a->head_dim,
                   .lse = row * (width + a->heads) + width + head,
                   .o = row * a->o_ld + head * a->head_dim,
                   .held_lse = row * a->lse_ld + head};
        mix(a, &p, sum);
        write(a, &p, sum);
    }
    mf_buffer_free(device->memory, &sums);
    return MF_OK;
}
