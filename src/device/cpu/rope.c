/* rope.c: rotary positions: halves (a, b) of a head become (a cos - b sin, b cos + a sin); the inverse turns
 * back. */
#include "device/cpu/cpu.h"

#include <math.h>

/* What a frequency is multiplied with: 1 where it turns often enough within the original positions, 1 /
 * factor where it hardly turns, between them on a line over the number of turns. */
static double stretch(const mf_rope_scaling *s, double frequency) {
    const double pi = 3.14159265358979323846;
    double turns = (double)s->original * frequency / (2 * pi);
    if (s->kind == MF_ROPE_PLAIN) return 1;
    if (s->kind == MF_ROPE_LINEAR || turns < s->low_freq) return 1 / s->factor;
    if (turns > s->high_freq) return 1;
    double share = (turns - s->low_freq) / (s->high_freq - s->low_freq);
    return share + (1 - share) / s->factor;
}

static double frequency_of(const mf_rope_table_args *a, int64_t pair) {
    double frequency = pow(a->theta, -2.0 * (double)pair / (double)a->head_dim);
    return frequency * stretch(&a->scaling, frequency);
}

mf_status mf_cpu_rope_table(mf_device *device, const mf_rope_table_args *a) {
    int64_t half = a->head_dim / 2;
#pragma omp parallel for num_threads(device->threads)
    for (int64_t t = 0; t < a->rows; t++) {
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)(a->first + t) * frequency_of(a, i);
            a->cos_sin[t * a->head_dim + i] = (float)cos(angle);
            a->cos_sin[t * a->head_dim + half + i] = (float)sin(angle);
        }
    }
    return MF_OK;
}

static void turn_f32(const float *in, float *out, const float *c, const float *s, float sign, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        float a = in[i], b = in[half + i];
        out[i] = a * c[i] - sign * b * s[i];
        out[half + i] = b * c[i] + sign * a * s[i];
    }
}

static void turn_bf16(const uint16_t *in, uint16_t *out, const float *c, const float *s, float sign,
                      int64_t half) {
#pragma omp simd simdlen(16) /* not 32: small heads have no more */
    for (int64_t i = 0; i < half; i++) {
        float a = mf_f32_from_bf16(in[i]), b = mf_f32_from_bf16(in[half + i]);
        out[i] = mf_bf16_from_f32(a * c[i] - sign * b * s[i]);
        out[half + i] = mf_bf16_from_f32(b * c[i] + sign * a * s[i]);
    }
}

static void turn_f32_to_bf16(const float *in, uint16_t *out, const float *c, const float *s, float sign,
                             int64_t half) {
#pragma omp simd simdlen(16) /* not 32: small heads have no more */
    for (int64_t i = 0; i < half; i++) {
        float a = in[i], b = in[half + i];
        out[i] = mf_bf16_from_f32(a * c[i] - sign * b * s[i]);
        out[half + i] = mf_bf16_from_f32(b * c[i] + sign * a * s[i]);
    }
}

mf_status mf_cpu_rope(mf_device *device, const mf_rope_args *a) {
    int64_t half = a->head_dim / 2;
    float sign = a->inverse ? -1.0f : 1.0f;
    bool in_f32 = a->in_f32 || a->type == MF_F32;
#pragma omp parallel for num_threads(device->threads)
    for (int64_t row = 0; row < a->batch * a->tokens; row++) {
        const float *c = a->cos_sin + (row % a->tokens) * a->head_dim, *s = c + half;
        for (int64_t head = 0; head < a->heads; head++) {
            int64_t from = row * a->in_ld + head * a->head_dim, to = row * a->out_ld + head * a->head_dim;
            if (a->type == MF_F32)
                turn_f32((const float *)a->in + from, (float *)a->out + to, c, s, sign, half);
            else if (in_f32)
                turn_f32_to_bf16((const float *)a->in + from, (uint16_t *)a->out + to, c, s, sign, half);
            else
                turn_bf16((const uint16_t *)a->in + from, (uint16_t *)a->out + to, c, s, sign, half);
        }
    }
    return MF_OK;
}
