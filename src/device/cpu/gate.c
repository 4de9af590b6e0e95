/* gate.c: values times a vector of the sample that their row is of, and the gate's gradient. */
#include "device/cpu/cpu.h"
#include "device/cpu/element.h"

static const float *gate_of(const mf_gate_args *a, int64_t row) {
    return a->gate + (a->first_row + row) / a->sample_rows * a->mod_ld;
}

MF_INLINED void scale_row(const mf_gate_args *a, mf_dtype type, int64_t row) {
    const float *gate = gate_of(a, row);
    const void *in = a->in;
    void *out = a->out;
    int64_t h = a->h, at = row * h;
#pragma omp simd
    for (int64_t i = 0; i < h; i++)
        mf_element_store(out, type, at + i, gate[i] * mf_element(in, type, at + i));
}

mf_status mf_cpu_gate_scale(mf_device *device, const mf_gate_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->n; row++) {
        if (a->type == MF_F32)
            scale_row(a, MF_F32, row);
        else
            scale_row(a, MF_BF16, row);
    }
    return MF_OK;
}

MF_INLINED void gate_add_row(const mf_gate_args *a, mf_dtype type, int64_t row) {
    const float *gate = gate_of(a, row), *delta = a->delta + row * a->h;
    const void *in = a->in;
    void *out = a->out;
    int64_t h = a->h, at = row * h;
#pragma omp simd
    for (int64_t i = 0; i < h; i++)
        mf_element_store(out, type, at + i, mf_element(in, type, at + i) + gate[i] * delta[i]);
}

mf_status mf_cpu_gate_add(mf_device *device, const mf_gate_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->n; row++) {
        if (a->type == MF_F32)
            gate_add_row(a, MF_F32, row);
        else
            gate_add_row(a, MF_BF16, row);
    }
    return MF_OK;
}

MF_INLINED void grads_row(const mf_gate_grads_args *a, mf_dtype type, int64_t row) {
    const float *g = a->g + row * a->g_ld;
    const void *w = a->w;
    float *dw = a->dw + row * a->dw_ld, gate = a->gate[row], sum = 0;
    int64_t cols = a->cols, at = row * a->w_ld;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < cols; i++) {
        sum += mf_element(w, type, at + i) * g[i];
        dw[i] += gate * g[i];
    }
    a->dgate[row] += sum;
}

/* Not inlined: within a parallel region gcc 12 would leave the sum scalar. */
__attribute__((noinline)) static void grads_row_of_type(const mf_gate_grads_args *a, int64_t row) {
    if (a->type == MF_F32)
        grads_row(a, MF_F32, row);
    else
        grads_row(a, MF_BF16, row);
}

mf_status mf_cpu_gate_grads(mf_device *device, const mf_gate_grads_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->rows; row++) grads_row_of_type(a, row);
    return MF_OK;
}
