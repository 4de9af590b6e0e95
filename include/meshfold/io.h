/* io.h: text in, tensors in and out.
 *
 *     mf_safetensors *file = NULL;
 *     MF_TRY(mf_safetensors_open("model/model.safetensors", &file));
 *     const mf_tensor_info *t = mf_safetensors_find(file, "model.norm.weight");   // NULL when absent
 *     ... t->data points into the map; do not free ...
 *     mf_safetensors_close(file);
 */
#ifndef MESHFOLD_IO_H
#define MESHFOLD_IO_H

#include "meshfold/base.h"

/* Types that a file may hold. */
typedef enum mf_file_type { MF_FILE_F32, MF_FILE_BF16, MF_FILE_F16, MF_FILE_OTHER } mf_file_type;

enum { MF_TENSOR_DIMS = 4 };
typedef struct mf_tensor_info {
    const char *name; /* the file's; do not free */
    mf_file_type type;
    char type_name[8]; /* as the file spells it */
    int dims;
    int64_t shape[MF_TENSOR_DIMS];
    const void *data; /* points into the map; not necessarily aligned */
    size_t bytes;
} mf_tensor_info;

typedef struct mf_safetensors mf_safetensors;
/* Maps and checks the whole header: offsets inside the file, in order, no overlap, no holes, sizes that match
 * shapes. MF_EIO, MF_EFORMAT name the file and the tensor. */
mf_status mf_safetensors_open(const char *path, mf_safetensors **out);
void mf_safetensors_close(mf_safetensors *file);
/* A text of the file's __metadata__; the file's; NULL when absent. */
const char *mf_safetensors_metadata(const mf_safetensors *file, const char *name);
int mf_safetensors_count(const mf_safetensors *file);
const mf_tensor_info *mf_safetensors_at(const mf_safetensors *file, int index);
const mf_tensor_info *mf_safetensors_find(const mf_safetensors *file, const char *name);
/* The tensors of a model's folder: those of model.safetensors, or of the files that
 * model.safetensors.index.json names. All files are mapped and checked; MF_EFORMAT names a tensor that the
 * index has where it is not, that is in two files, or that the index does not have. */
typedef struct mf_tensor_set mf_tensor_set;
mf_status mf_tensor_set_open(const char *folder, mf_tensor_set **out);
void mf_tensor_set_close(mf_tensor_set *set);
/* The one file, or the index; the set's. */
const char *mf_tensor_set_path(const mf_tensor_set *set);
/* By number from 0, in the order of the files' names and of their data; NULL past the last. */
const mf_tensor_info *mf_tensor_set_at(const mf_tensor_set *set, int index);
const mf_tensor_info *mf_tensor_set_find(const mf_tensor_set *set, const char *name);

/* out: [rows, cols] f32, a slice of a 1-D ([1, n]) or 2-D tensor of any of the float types. MF_EINVAL out of
 * range. */
mf_status mf_tensor_read(const mf_tensor_info *tensor, int64_t first_row, int64_t rows, int64_t first_col,
                         int64_t cols, float *out);

/* Writing: one caller makes the file whole, then any number of writers (threads, processes) fill in slices.
 */
typedef struct mf_tensor_spec {
    const char *name;
    int64_t rows, cols; /* rows 0: a 1-D tensor of cols */
} mf_tensor_spec;
typedef struct mf_tensor_writer mf_tensor_writer;
/* Creates path with its header and full size (one type for all tensors). */
mf_status mf_tensors_create(const char *path, const mf_tensor_spec *specs, int count, mf_dtype type);
/* Opens what mf_tensors_create made. */
mf_status mf_tensors_open_writer(const char *path, const mf_tensor_spec *specs, int count, mf_dtype type,
                                 mf_tensor_writer **out);
/* in: [rows, cols] f32 dense, written at (first_row, first_col) of tensor `index`, converted to the file's
 * type. */
mf_status mf_tensors_write(mf_tensor_writer *writer, int index, int64_t first_row, int64_t rows,
                           int64_t first_col, int64_t cols, const float *in);
/* Flushes to disk and closes. Accepts NULL. */
mf_status mf_tensors_close_writer(mf_tensor_writer *writer);

/* Tokens: all bytes of files, and of the files in folders (recursively, in the order of their names), one
 * after another; or the ids of one file that `meshfold tokenize` made, mapped. */
typedef struct mf_text {
    uint8_t *bytes;
    int64_t count; /* tokens */
    int files;
    int width;     /* bytes of an id, little-endian; 0: bytes are the ids themselves */
    int64_t vocab; /* ids are below it, where they are not bytes */
    bool separated;
    int32_t separator; /* separated: the id that stands behind every document */
} mf_text;
static inline int32_t mf_text_at(const mf_text *text, int64_t index) {
    const uint8_t *at = text->bytes + index * (text->width ? text->width : 1);
    if (text->width == 2) return at[0] | at[1] << 8;
    return text->width ? (int32_t)((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 |
                                   (uint32_t)at[3] << 24)
                       : at[0];
}
/* A path NAME.bin beside which NAME.json tells of ids is such a file; it must stand alone. MF_EIO names the
 * path that is missing or unreadable; MF_EINVAL when nothing but empty files is there; MF_EFORMAT when ids
 * and description differ. */
mf_status mf_text_load(const char *const *paths, int count, mf_text *out);
void mf_text_free(mf_text *text);

/* Whole small files, and folders. Content is NUL-terminated; the caller frees it with mf_host_free. */
mf_status mf_file_read(const char *path, char **content, size_t *bytes);
/* Written beside and renamed into place, so that a reader sees the old or the new. */
mf_status mf_file_write(const char *path, const char *content, size_t bytes);
/* Makes a folder and its parents; an existing one is fine. */
mf_status mf_folder_make(const char *path);
/* printf into a newly allocated string that the caller frees with mf_host_free. */
mf_status mf_format(char **out, const char *format, ...) MF_PRINTF(2, 3);

#endif
