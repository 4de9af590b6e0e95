/* grid_embed.cu: a bias and a row's place in a grid, added to values. */
#include "device/cuda/element.cuh"

/* Where the tables' part of a row goes on from this column. index: [3] the row's places. */
static __device__ inline const float *place(const mf_grid_embed_args &a, const int32_t *index,
                                            int64_t column) {
    int64_t second = a.width[0], third = second + a.width[1];
    if (column < second) return a.table[0] + index[0] * a.width[0] + column;
    if (column < third) return a.table[1] + index[1] * a.width[1] + (column - second);
    return a.table[2] + index[2] * a.width[2] + (column - third);
}

/* A pack lies within one table. */
template <typename T, int N> static __global__ void embed(mf_extent all, mf_grid_embed_args a) {
    mf_by_share<N>(all, [&](auto share) {
        MF_FOR_ROWS(row, all) {
            const int32_t *index = a.index + (a.first_row + row) % a.sample_rows * 3;
            float y[MF_SHARE * N], bias[MF_SHARE * N], table[MF_SHARE * N];
            share.load(a.y + row * all.width, y);
            share.load(a.bias, bias);
            share.load_at([&](int64_t column) { return place(a, index, column); }, table);
#pragma unroll
            for (int i = 0; i < MF_SHARE * N; i++) y[i] = y[i] + bias[i] + table[i];
            share.store(y, (T *)a.out + row * all.width);
        }
    });
}

template <typename T> static mf_status launch(mf_device *device, const mf_grid_embed_args *a) {
    constexpr int n = mf_pack_size<T, float>;
    mf_extent all = {a->n, a->h};
    bool packs = mf_holds_packs(n, a->y, a->h) && mf_holds_packs(n, a->bias, 0) &&
                 mf_holds_packs(n, (const T *)a->out, a->h);
    for (int i = 0; i < 3; i++) packs = packs && mf_holds_packs(n, a->table[i], a->width[i]);
    return mf_cuda_launch_shares(device, "grid_embed", packs ? embed<T, n> : embed<T, 1>, packs ? n : 1, all,
                                 *a);
}

mf_status mf_cuda_grid_embed(mf_device *device, const mf_grid_embed_args *args) {
    return args->type == MF_F32 ? launch<float>(device, args) : launch<mf_bf16>(device, args);
}
