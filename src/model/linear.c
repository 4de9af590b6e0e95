/* linear.c: the three products of a linear map. */
#include "model/model.h"

mf_status mf_linear_forward(const mf_linear *l, const void *x, int64_t x_ld, const void *weight, void *y,
                            int64_t y_ld, mf_dtype y_type, bool accumulate) {
    return mf_gemm(l->device, &(mf_gemm_args){.m = l->n,
                                              .n = l->out,
                                              .k = l->in,
                                              .a = {x, x_ld, l->type, false},
                                              .b = {weight, l->in, l->type, true},
                                              .c = y,
                                              .c_ld = y_ld,
                                              .c_type = y_type,
                                              .accumulate = accumulate});
}

mf_status mf_linear_input_grad(const mf_linear *l, const void *dy, int64_t dy_ld, const void *weight,
                               void *dx, int64_t dx_ld, mf_dtype dx_type, bool accumulate) {
    return mf_gemm(l->device, &(mf_gemm_args){.m = l->n,
                                              .n = l->in,
                                              .k = l->out,
                                              .a = {dy, dy_ld, l->type, false},
                                              .b = {weight, l->in, l->type, false},
                                              .c = dx,
                                              .c_ld = dx_ld,
                                              .c_type = dx_type,
                                              .accumulate = accumulate});
}

static mf_status weight_product(const mf_linear *l, const void *dy, int64_t dy_ld, const void *x,
                                int64_t x_ld, float *out, bool accumulate) {
    return mf_gemm(l->device, &(mf_gemm_args){.m = l->out,
                                              .n = l->in,
                                              .k = l->n,
                                              .a = {dy, dy_ld, l->type, true},
                                              .b = {x, x_ld, l->type, false},
                                              .c = out,
                                              .c_ld = l->in,
                                              .c_type = MF_F32,
                                              .accumulate = accumulate});
}

mf_status mf_linear_weight_grad(const mf_linear *l, const void *dy, int64_t dy_ld, const void *x,
                                int64_t x_ld, float *dweight) {
    return weight_product(l, dy, dy_ld, x, x_ld, dweight, true);
}

mf_status mf_linear_product(const mf_linear *l, const void *dy, int64_t dy_ld, const void *x, int64_t x_ld,
                            float *out) {
    return weight_product(l, dy, dy_ld, x, x_ld, out, false);
}
