/* tensor_header.c: what stands in a safetensors file before its values.
 * The format: https://github.com/huggingface/safetensors#format. */
#include "io/safetensors.h"
#include "io/values.h"

#include <stdlib.h>
#include <string.h>

mf_status mf_tensor_describe(const mf_tensor_spec *spec, mf_dtype type, mf_tensor_info *out) {
    int64_t values = 0, bytes = 0;
    *out = (mf_tensor_info){.name = spec->name,
                            .type = type == MF_F32 ? MF_FILE_F32 : MF_FILE_BF16,
                            .dims = spec->rows ? 2 : 1,
                            .shape = {spec->rows ? spec->rows : spec->cols, spec->rows ? spec->cols : 0}};
    strcpy(out->type_name, mf_file_type_name(out->type));
    if (spec->rows < 0 || spec->cols < 0)
        return MF_FAIL(MF_EINVAL, "tensor %s: %lld x %lld is no shape", spec->name, (long long)spec->rows,
                       (long long)spec->cols);
    if (__builtin_mul_overflow(mf_max(spec->rows, 1), spec->cols, &values) ||
        __builtin_mul_overflow(values, (int64_t)mf_dtype_bytes(type), &bytes))
        return MF_FAIL(MF_EINVAL, "tensor %s: %lld x %lld overflows", spec->name, (long long)spec->rows,
                       (long long)spec->cols);
    out->bytes = (size_t)bytes;
    return MF_OK;
}

static mf_status check_name(const json_t *header, const char *name) {
    json_t *text = json_string(name);
    json_decref(text);
    if (!text) return MF_FAIL(MF_EINVAL, "tensor %s: its name is not UTF-8", name);
    if (json_object_get(header, name)) return MF_FAIL(MF_EINVAL, "tensor %s: its name is taken", name);
    return MF_OK;
}

/* Adds a tensor whose data begin at *end, and moves *end past them. */
static mf_status add_tensor(json_t *header, const mf_tensor_info *tensor, int64_t *end) {
    int64_t begin = *end;
    MF_TRY(check_name(header, tensor->name));
    if (__builtin_add_overflow(begin, (int64_t)tensor->bytes, end) ||
        *end > INT64_MAX - MF_SAFETENSORS_HEADER_LIMIT - 8)
        return MF_FAIL(MF_EINVAL, "tensor %s: the file up to here has more bytes than can be counted",
                       tensor->name);
    json_t *shape = json_array();
    for (int i = 0; i < tensor->dims; i++) json_array_append_new(shape, json_integer(tensor->shape[i]));
    json_t *entry = json_pack("{s:s, s:o, s:[I,I]}", "dtype", tensor->type_name, "shape", shape,
                              "data_offsets", (json_int_t)begin, (json_int_t)*end);
    if (json_object_set_new(header, tensor->name, entry))
        return MF_FAIL(MF_ENOMEM, "no memory for the header of tensor %s", tensor->name);
    return MF_OK;
}

/* Padded so that the data are 8-byte aligned. */
static mf_status encode(const json_t *header, char **out, size_t *out_bytes) {
    mf_status status = MF_OK;
    char *text = json_dumps(header, JSON_COMPACT);
    if (!text) return MF_FAIL(MF_ENOMEM, "no memory for a file's header");
    size_t length = strlen(text);
    uint64_t padded = (length + 7) / 8 * 8;
    if (padded > MF_SAFETENSORS_HEADER_LIMIT)
        MF_GO(MF_FAIL(MF_EINVAL, "a header of %zu bytes is more than a reader accepts", length));
    MF_GO(mf_host_alloc(8 + padded, 1, out));
    memcpy(*out, &padded, 8);
    memset(*out + 8, ' ', padded);
    memcpy(*out + 8, text, length);
    *out_bytes = 8 + padded;
fail:
    free(text);
    return status;
}

mf_status mf_tensor_header(const mf_tensor_info *tensors, int count, json_t *metadata, char **header,
                           size_t *header_bytes, int64_t *data_bytes) {
    mf_status status = MF_OK;
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    *header = NULL;
    *data_bytes = 0;
    if (!root || (metadata && json_object_update(json_object_get(root, "__metadata__"), metadata)))
        MF_GO(MF_FAIL(MF_ENOMEM, "no memory for a file's header"));
    for (int i = 0; i < count; i++) MF_GO(add_tensor(root, &tensors[i], data_bytes));
    MF_GO(encode(root, header, header_bytes));
fail:
    json_decref(root);
    return status;
}
