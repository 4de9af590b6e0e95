/* element.h: elements in either compute type. Where the type is known loops over them become vector code: a
 * function that is given it must be MF_INLINED, since gcc keeps a plain inline one whole when it is large. */
#ifndef MF_DEVICE_CPU_ELEMENT_H
#define MF_DEVICE_CPU_ELEMENT_H

#include "meshfold/base.h"

#define MF_INLINED static inline __attribute__((always_inline))

static inline float mf_element(const void *data, mf_dtype type, int64_t i) {
    return type == MF_F32 ? ((const float *)data)[i] : mf_f32_from_bf16(((const uint16_t *)data)[i]);
}

static inline void mf_element_store(void *data, mf_dtype type, int64_t i, float x) {
    if (type == MF_F32)
        ((float *)data)[i] = x;
    else
        ((uint16_t *)data)[i] = mf_bf16_from_f32(x);
}

#endif
