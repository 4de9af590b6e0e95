/* swiglu.c: the gated activation silu(g) u, forward and backward; silu(g) = g s with s = 1 / (1 + exp(-g)).
 */
#include "device/cpu/cpu.h"
#include "device/cpu/exp.h"

static inline float sigmoid(float g) { return 1.0f / (1.0f + mf_cpu_exp(-g)); }

mf_status mf_cpu_swiglu_forward(mf_device *device, const mf_swiglu_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t t = 0; t < a->n; t++) {
        int64_t in = t * a->in_ld, out = t * a->width;
        if (a->type == MF_F32) {
            const float *g = (const float *)a->gate + in, *u = (const float *)a->up + in;
            float *o = (float *)a->out + out;
            for (int64_t i = 0; i < a->width; i++) o[i] = g[i] * sigmoid(g[i]) * u[i];
        } else {
            const uint16_t *g = (const uint16_t *)a->gate + in, *u = (const uint16_t *)a->up + in;
            uint16_t *o = (uint16_t *)a->out + out;
            for (int64_t i = 0; i < a->width; i++) {
                float x = mf_f32_from_bf16(g[i]);
                o[i] = mf_bf16_from_f32(x * sigmoid(x) * mf_f32_from_bf16(u[i]));
            }
        }
    }
    return MF_OK;
}

typedef struct gated {
    float out, d_gate, d_up;
} gated;

static inline gated differentiate(float g, float u, float d) {
    float s = sigmoid(g);
    return (gated){g * s * u, d * u * s * (1.0f + g * (1.0f - s)), d * g * s};
}

/* The pragmas spare the compiler its comparison of six addresses, for which it would give up on vectors. */
static void row_f32(int64_t width, const float *g, const float *u, const float *d, float *out, float *dg,
                    float *du) {
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        gated r = differentiate(g[i], u[i], d[i]);
        out[i] = r.out;
        dg[i] = r.d_gate;
        du[i] = r.d_up;
    }
}

static void row_bf16(int64_t width, const uint16_t *g, const uint16_t *u, const uint16_t *d, uint16_t *out,
                     uint16_t *dg, uint16_t *du) {
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        gated r = differentiate(mf_f32_from_bf16(g[i]), mf_f32_from_bf16(u[i]), mf_f32_from_bf16(d[i]));
        out[i] = mf_bf16_from_f32(r.out);
        dg[i] = mf_bf16_from_f32(r.d_gate);
        du[i] = mf_bf16_from_f32(r.d_up);
    }
}

mf_status mf_cpu_swiglu_backward(mf_device *device, const mf_swiglu_args *a) {
#pragma omp parallel for num_threads(device->threads)
    for (int64_t t = 0; t < a->n; t++) {
        int64_t in = t * a->in_ld, at = t * a->width;
        if (a->type == MF_F32)
            row_f32(a->width, (const float *)a->gate + in, (const float *)a->up + in,
                    (const float *)a->d_out + at, (float *)a->out + at, (float *)a->d_gate + at,
                    (float *)a->d_up + at);
        else
            row_bf16(a->width, (const uint16_t *)a->gate + in, (const uint16_t *)a->up + in,
                     (const uint16_t *)a->d_out + at, (uint16_t *)a->out + at, (uint16_t *)a->d_gate + at,
                     (uint16_t *)a->d_up + at);
    }
    return MF_OK;
}
