/* values.c: see values.h. */
#include "io/values.h"

#include <math.h>
#include <string.h>

size_t mf_file_type_bytes(mf_file_type type) {
    static const size_t bytes[] = {[MF_FILE_F32] = 4, [MF_FILE_BF16] = 2, [MF_FILE_F16] = 2};
    return type == MF_FILE_OTHER ? 0 : bytes[type];
}

const char *mf_file_type_name(mf_file_type type) {
    static const char *const names[] = {
        [MF_FILE_F32] = "F32", [MF_FILE_BF16] = "BF16", [MF_FILE_F16] = "F16", [MF_FILE_OTHER] = "other"};
    return names[type];
}

typedef union bits {
    float f;
    uint32_t u;
} bits;

static float f32_from_f16(uint16_t half) {
    bits out;
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
    if (exponent == 0) { /* zero and subnormals: whole steps of 2^-24 */
        out.f = (float)fraction * 0x1p-24f;
        out.u |= sign;
    } else {
        out.u = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    }
    return out.f;
}

static uint16_t f16_from_f32(float value) {
    bits in = {value};
    uint32_t sign = (in.u >> 16) & 0x8000u, size = in.u & 0x7fffffffu;
    if (size > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((size >> 13) & 0x3ffu)); /* NaN */
    if (size >= 0x47800000u) return (uint16_t)(sign | 0x7c00u);                          /* from 2^16 on */
    if (size >= 0x38800000u) /* from 2^-14 on; may carry into the exponent */
        return (uint16_t)(sign | ((size + 0xfffu + ((size >> 13) & 1u) - 0x38000000u) >> 13));
    bits steps = {.u = size};
    steps.f +=
        0.5f; /* floats from 0.5 on are 2^-24 apart, as are f16's subnormals: the sum is rounded to them */
    return (uint16_t)(sign | (steps.u - 0x3f000000u));
}

void mf_values_widen(mf_file_type type, const void *in, int64_t n, float *out) {
    if (type == MF_FILE_F32) {
        if (n > 0) memcpy(out, in, (size_t)n * sizeof *out);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t value;
        memcpy(&value, (const uint8_t *)in + 2 * i, sizeof value);
        out[i] = type == MF_FILE_BF16 ? mf_f32_from_bf16(value) : f32_from_f16(value);
    }
}

int64_t mf_values_narrow(mf_file_type type, const float *in, int64_t n, void *out) {
    if (type == MF_FILE_F32) {
        if (n > 0) memcpy(out, in, (size_t)n * sizeof *in);
        return n;
    }
    uint16_t *to = out, infinity = type == MF_FILE_BF16 ? 0x7f80 : 0x7c00;
    for (int64_t i = 0; i < n; i++) {
        to[i] = type == MF_FILE_BF16 ? mf_bf16_from_f32(in[i]) : f16_from_f32(in[i]);
        if ((to[i] & 0x7fffu) == infinity && isfinite(in[i])) return i;
    }
    return n;
}
