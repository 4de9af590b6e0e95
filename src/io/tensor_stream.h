/* tensor_stream.h: a safetensors file written by one writer from its beginning to its end, with a checksum of
 * all its bytes on the way.
 *
 *     MF_TRY(mf_tensor_stream_open(path, tensors, count, metadata, &stream));
 *     for (int i = 0; i < count; i++) MF_GO(mf_tensor_stream_write(stream, values[i], tensors[i].bytes));
 *     MF_GO(mf_tensor_stream_finish(stream, &digest));
 * fail:
 *     mf_tensor_stream_close(stream);
 */
#ifndef MF_IO_TENSOR_STREAM_H
#define MF_IO_TENSOR_STREAM_H

#include "io/digest.h"
#include "meshfold/io.h"

#include <jansson.h>

typedef struct mf_tensor_stream mf_tensor_stream;
/* tensors, metadata: as mf_tensor_header has them. An older file of this name is gone. */
mf_status mf_tensor_stream_open(const char *path, const mf_tensor_info *tensors, int count, json_t *metadata,
                                mf_tensor_stream **out);
/* The next bytes of values, in the tensors' order. Nothing is copied. MF_EIO names the file. */
mf_status mf_tensor_stream_write(mf_tensor_stream *stream, const void *data, size_t bytes);
/* The file is on the disk. MF_EINVAL when values are missing. */
mf_status mf_tensor_stream_finish(mf_tensor_stream *stream, mf_digest *out);
/* Accepts NULL. A file that was not finished is removed. */
void mf_tensor_stream_close(mf_tensor_stream *stream);

#endif
