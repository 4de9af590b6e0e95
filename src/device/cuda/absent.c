/* absent.c: operations that are being written. */
#include "device/cuda/cuda.h"
#pragma GCC diagnostic ignored "-Wunused-parameter"
__attribute__((weak)) mf_status mf_cuda_attention_forward(mf_device *device, const mf_attention_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_attention_forward");
}
__attribute__((weak)) mf_status mf_cuda_attention_backward(mf_device *device, const mf_attention_args *args) {
    (void)device;
    return MF_FAIL(MF_EUNSUPPORTED, "mf_cuda_attention_backward");
}
