/* exp.h: an exponential that loops over it vectorise. */
#ifndef MF_DEVICE_CPU_EXP_H
#define MF_DEVICE_CPU_EXP_H

#include <stdint.h>

/* e^x to about 2 units in the last place; below -87.3 it is 0, above 88.3 infinity; NaN stays NaN. x = n ln 2
 * + r with the whole number n found by adding a constant that leaves no fraction bits; e^r by its Taylor
 * series to r^7. */
static inline float mf_cpu_exp(float x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23 */
    union {
        float f;
        uint32_t u;
    } whole, scale;
    float clamped = x < -87.3f ? -87.3f : x;
    clamped = clamped > 88.3f ? 88.3f : clamped;
    whole.f = clamped * 1.44269504f + shift;
    float n = whole.f - shift;
    float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    scale.u = (whole.u + 127u) << 23;
    float y = p * scale.f;
    y = x < -87.3f ? 0.0f : y;
    return x > 88.3f ? __builtin_inff() : y;
}

#endif
