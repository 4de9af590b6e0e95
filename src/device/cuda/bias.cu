/* bias.cu: a vector added to every row, and the sums of columns that are its gradient. */
#include "device/cuda/rows.cuh"

template <typename T, int V> MF_ROW_KERNEL add_bias(mf_bias_args a) {
    MF_FOR_BLOCK_ROWS(row, a.rows) {
        T *x = (T *)a.x + row * a.ld;
        mf_each_pack<V>(row < a.rows ? a.width : 0, [&](int64_t at, int) {
            float v[V], b[V];
            mf_load<V>(x + at, v);
            mf_load<V>(a.bias + at, b);
#pragma unroll
            for (int j = 0; j < V; j++) v[j] += b[j];
            mf_store<V>(v, x + at);
        });
    }
}

template <typename T, int V> MF_ROW_KERNEL sum_columns(mf_bias_args a, float *parts) {
    mf_sums<V> sums = mf_sums_begin<V>(parts + blockIdx.x * a.width, a.width);
    MF_FOR_BLOCK_ROWS(row, a.rows) {
        const T *d = (const T *)a.d + row * a.ld;
        mf_each_pack<V>(row < a.rows ? a.width : 0, [&](int64_t at, int k) {
            float v[V];
            mf_load<V>(d + at, v);
            mf_sums_add(sums, at, k, v);
        });
    }
    mf_sums_end(sums, a.width);
}

template <typename T, int V> static mf_status launch_forward(mf_device *device, const mf_bias_args *a) {
    dim3 block = mf_row_block(a->width);
    return mf_cuda_launch(device, "bias_forward", add_bias<T, V>, mf_row_grid(a->rows, block), block, 0, *a);
}

template <typename T, int V>
static mf_status launch_backward(mf_device *device, const mf_bias_args *a, float *parts) {
    return mf_cuda_launch(device, "bias_backward", sum_columns<T, V>, dim3((unsigned)mf_cuda_parts(a->rows)),
                          mf_row_block(a->width), 0, *a, parts);
}

static int64_t row_bytes(const mf_bias_args *a) { return a->ld * (int64_t)mf_dtype_bytes(a->type); }

mf_status mf_cuda_bias_forward(mf_device *device, const mf_bias_args *a) {
    bool packed = mf_packed(a->type, a->width, a->x, a->bias, row_bytes(a));
    return MF_OF_TYPE(launch_forward, a->type, packed, device, a);
}

static mf_status grads(mf_device *device, const mf_bias_args *a, float *parts) {
    bool packed = mf_packed(a->type, a->width, a->d, row_bytes(a));
    MF_TRY(MF_OF_TYPE(launch_backward, a->type, packed, device, a, parts));
    return mf_cuda_add_all_parts(device, mf_cuda_parts(a->rows), a->width, parts, a->d_bias);
}

mf_status mf_cuda_bias_backward(mf_device *device, const mf_bias_args *a) {
    mf_buffer parts = {};
    MF_TRY(mf_buffer_alloc(device->memory, MF_WORKSPACE, (size_t)mf_cuda_bias_backward_workspace(a),
                           "sums of a bias's gradient", &parts));
    mf_status status = grads(device, a, (float *)parts.data);
    mf_buffer_free(device->memory, &parts);
    return status;
}
