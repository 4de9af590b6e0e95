/* safetensors.h: what the reader and the writer of safetensors files agree on. */
#ifndef MF_IO_SAFETENSORS_H
#define MF_IO_SAFETENSORS_H

#include "meshfold/base.h"

/* The reference implementation refuses larger headers. */
enum { MF_SAFETENSORS_HEADER_LIMIT = 100000000 };

/* MF_EINVAL names the tensor when [first, first + count) leaves its [rows, cols]. */
mf_status mf_slice_check(const char *name, int64_t tensor_rows, int64_t tensor_cols, int64_t first_row,
                         int64_t rows, int64_t first_col, int64_t cols);

#endif
