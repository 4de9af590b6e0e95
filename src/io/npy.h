/* npy.h: what stands before the values of NumPy's .npy (numpy.lib.format, versions 1.0 to 3.0). */
#ifndef MF_IO_NPY_H
#define MF_IO_NPY_H

#include "meshfold/base.h"

enum { MF_NPY_DIMS = 5, MF_NPY_TEXT = 160 };
typedef struct mf_npy {
    char type[16]; /* as NumPy spells it: |u1, <f4 */
    int dims;      /* those beyond MF_NPY_DIMS are counted only */
    int64_t size[MF_NPY_DIMS];
    size_t data_begin; /* where values begin, in C's order */
} mf_npy;

/* file: all its bytes; path is for the error. MF_EFORMAT, MF_EUNSUPPORTED. */
mf_status mf_npy_read(const char *path, const uint8_t *file, size_t bytes, mf_npy *out);
/* Values of so many bytes are there, as many as the shape says, of at most MF_NPY_DIMS dimensions; MF_EFORMAT
 * also when there are none. */
mf_status mf_npy_check(const char *path, const mf_npy *npy, size_t file_bytes, int64_t value_bytes);
/* (2, 3), as Python has it, of two dimensions or more. */
void mf_npy_shape_text(const mf_npy *npy, char out[MF_NPY_TEXT]);
/* Version 1.0, as NumPy writes it: padded so that values begin at a multiple of 64. The caller frees *out
 * with mf_host_free. */
mf_status mf_npy_write(const mf_npy *npy, char **out, size_t *out_bytes);

#endif
