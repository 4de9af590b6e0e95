/* gate.cu: values times a vector of the sample that their row is of, and the gate's gradient. */
#include "device/cuda/rows.cuh"

static __device__ inline const float *gate_of(const mf_gate_args &a, int64_t row) {
    return a.gate + (a.first_row + row) / a.sample_rows * a.mod_ld;
}

/* An element is read and written by one thread: out may be in. */
template <typename T, int V> MF_ROW_KERNEL scale_rows(mf_gate_args a) {
    MF_FOR_BLOCK_ROWS(row, a.n) {
        const float *gate = gate_of(a, row);
        const T *in = (const T *)a.in + row * a.h;
        T *out = (T *)a.out + row * a.h;
        mf_each_pack<V>(row < a.n ? a.h : 0, [&](int64_t at, int) {
            float v[V], g[V];
            mf_load<V>(in + at, v);
            mf_load<V>(gate + at, g);
#pragma unroll
            for (int j = 0; j < V; j++) v[j] *= g[j];
            mf_store<V>(v, out + at);
        });
    }
}

template <typename T, int V> MF_ROW_KERNEL add_rows(mf_gate_args a) {
    MF_FOR_BLOCK_ROWS(row, a.n) {
        const float *gate = gate_of(a, row), *delta = a.delta + row * a.h;
        const T *in = (const T *)a.in + row * a.h;
        T *out = (T *)a.out + row * a.h;
        mf_each_pack<V>(row < a.n ? a.h : 0, [&](int64_t at, int) {
            float v[V], g[V], d[V];
            mf_load<V>(in + at, v);
            mf_load<V>(gate + at, g);
            mf_load<V>(delta + at, d);
#pragma unroll
            for (int j = 0; j < V; j++) v[j] += g[j] * d[j];
            mf_store<V>(v, out + at);
        });
    }
}

template <typename T, int V> MF_ROW_KERNEL grads_of_rows(mf_gate_grads_args a) {
    MF_FOR_BLOCK_ROWS(row, a.rows) {
        const float *g = a.g + row * a.g_ld;
        const T *w = (const T *)a.w + row * a.w_ld;
        float *dw = a.dw + row * a.dw_ld, gate = row < a.rows ? a.gate[row] : 0, sum = 0;
        mf_each_pack<V>(row < a.rows ? a.cols : 0, [&](int64_t at, int) {
            float x[V], y[V], d[V];
            mf_load<V>(g + at, x);
            mf_load<V>(w + at, y);
            mf_load<V>(dw + at, d);
#pragma unroll
            for (int j = 0; j < V; j++) {
                sum += y[j] * x[j];
                d[j] += gate * x[j];
            }
            mf_store<V>(d, dw + at);
        });
        sum = mf_row_sum(sum);
        if (threadIdx.x == 0 && row < a.rows) a.dgate[row] += sum;
    }
}

template <typename T, int V> static mf_status launch_scale(mf_device *device, const mf_gate_args *a) {
    dim3 block = mf_row_block(a->h);
    return mf_cuda_launch(device, "gate_scale", scale_rows<T, V>, mf_row_grid(a->n, block), block, 0, *a);
}

template <typename T, int V> static mf_status launch_add(mf_device *device, const mf_gate_args *a) {
    dim3 block = mf_row_block(a->h);
    return mf_cuda_launch(device, "gate_add", add_rows<T, V>, mf_row_grid(a->n, block), block, 0, *a);
}

template <typename T, int V> static mf_status launch_grads(mf_device *device, const mf_gate_grads_args *a) {
    dim3 block = mf_row_block(a->cols);
    return mf_cuda_launch(device, "gate_grads", grads_of_rows<T, V>, mf_row_grid(a->rows, block), block, 0,
                          *a);
}

mf_status mf_cuda_gate_scale(mf_device *device, const mf_gate_args *a) {
    bool packed = mf_packed(a->type, a->h, a->in, a->out, a->gate, a->mod_ld * 4);
    return MF_OF_TYPE(launch_scale, a->type, packed, device, a);
}

mf_status mf_cuda_gate_add(mf_device *device, const mf_gate_args *a) {
    bool packed = mf_packed(a->type, a->h, a->in, a->out, a->delta, a->gate, a->mod_ld * 4);
    return MF_OF_TYPE(launch_add, a->type, packed, device, a);
}

mf_status mf_cuda_gate_grads(mf_device *device, const mf_gate_grads_args *a) {
    int64_t w_bytes = a->w_ld * (int64_t)mf_dtype_bytes(a->type);
    bool packed = mf_packed(a->type, a->cols, a->g, a->w, a->dw, a->g_ld * 4, w_bytes, a->dw_ld * 4);
    return MF_OF_TYPE(launch_grads, a->type, packed, device, a);
}
