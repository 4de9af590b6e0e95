/* safetensors.h: what the reader and the writer of safetensors files agree on. */
#ifndef MF_IO_SAFETENSORS_H
#define MF_IO_SAFETENSORS_H

#include "meshfold/io.h"

#include <jansson.h>

/* The reference implementation refuses larger headers. */
enum { MF_SAFETENSORS_HEADER_LIMIT = 100000000 };

/* MF_EINVAL names the tensor when [first, first + count) leaves its [rows, cols]. */
mf_status mf_slice_check(const char *name, int64_t tensor_rows, int64_t tensor_cols, int64_t first_row,
                         int64_t rows, int64_t first_col, int64_t cols);

/* What a tensor of `spec` is in a file of this type; it has no data. MF_EINVAL names it. */
mf_status mf_tensor_describe(const mf_tensor_spec *spec, mf_dtype type, mf_tensor_info *out);
/* A file's header as it stands there, up to the first value: its length, then JSON. tensors: their names,
 * types' names, shapes and bytes are used. metadata: an object of texts beside the format's own, or NULL.
 * *header: owned by the caller (mf_host_free). *data_bytes: of all tensors together. MF_EINVAL names the
 * tensor. */
mf_status mf_tensor_header(const mf_tensor_info *tensors, int count, json_t *metadata, char **header,
                           size_t *header_bytes, int64_t *data_bytes);

#endif
