/* values.h: what lies in a file as f32, and f32 as it lies in a file. */
#ifndef MF_IO_VALUES_H
#define MF_IO_VALUES_H

#include "meshfold/io.h"

/* Bytes of a value; 0 for MF_FILE_OTHER. */
size_t mf_file_type_bytes(mf_file_type type);
/* As safetensors spells it: "BF16". */
const char *mf_file_type_name(mf_file_type type);

/* n values that lie one after another, of any type but MF_FILE_OTHER; `in` may be unaligned. */
void mf_values_widen(mf_file_type type, const void *in, int64_t n, float *out);
/* The reverse, rounded to nearest even; NaN stays NaN. Returns the first finite value that only an infinity
 * could stand for, or n where there is none. `out` must be aligned. */
int64_t mf_values_narrow(mf_file_type type, const float *in, int64_t n, void *out);

#endif
