/* rope.cu: rotary positions: halves (a, b) of a head become (a cos - b sin, b cos + a sin); the inverse turns
 * back. */
#include "device/cuda/element.cuh"

/* See the CPU's: 1 where a frequency turns often, 1 / factor where it hardly turns, between them a mixture.
 */
static __device__ double stretch(const mf_rope_scaling &s, double frequency) {
    const double pi = 3.14159265358979323846;
    double turns = (double)s.original * frequency / (2 * pi);
    if (s.kind == MF_ROPE_PLAIN) return 1;
    if (s.kind == MF_ROPE_LINEAR || turns < s.low_freq) return 1 / s.factor;
    if (turns > s.high_freq) return 1;
    double share = (turns - s.low_freq) / (s.high_freq - s.low_freq);
    return share + (1 - share) / s.factor;
}

static __global__ void fill_table(mf_rope_table_args a) {
    int64_t pairs = a.head_dim / 2;
    MF_FOR_EACH(at, a.rows * pairs) {
        int64_t row = at / pairs, pair = at % pairs;
        double frequency = pow(a.theta, -2.0 * (double)pair / (double)a.head_dim);
        double angle = (double)(a.first + row) * (frequency * stretch(a.scaling, frequency));
        a.cos_sin[row * a.head_dim + pair] = (float)cos(angle);
        a.cos_sin[row * a.head_dim + pairs + pair] = (float)sin(angle);
    }
}

mf_status mf_cuda_rope_table(mf_device *device, const mf_rope_table_args *args) {
    if (args->head_dim == 0) return MF_OK;
    return mf_cuda_launch(device, "rope_table", fill_table, mf_cuda_grid(args->rows * (args->head_dim / 2)),
                          MF_BLOCK, 0, *args);
}

/* all: the pairs of a token's heads, which fit 32 bits. */
template <typename In, typename Out, int N>
static __global__ void turn_rows(mf_extent all, mf_rope_args args) {
    unsigned pairs = (unsigned)(args.head_dim / 2);
    float sign = args.inverse ? -1.0f : 1.0f;
    auto pair_of = [pairs](int64_t column) { return (unsigned)column % pairs; };
    auto first_of = [pairs](int64_t column) { return column + (int64_t)((unsigned)column / pairs) * pairs; };
    mf_by_share<N>(all, [&](auto share) {
        MF_FOR_ROWS(row, all) {
            const In *in = (const In *)args.in + row * args.in_ld;
            Out *out = (Out *)args.out + row * args.out_ld;
            const float *turn = args.cos_sin + (row < args.tokens ? row : row % args.tokens) * args.head_dim;
            float a[MF_SHARE * N], b[MF_SHARE * N], c[MF_SHARE * N], s[MF_SHARE * N];
            share.load_at([&](int64_t column) { return in + first_of(column); }, a);
            share.load_at([&](int64_t column) { return in + first_of(column) + pairs; }, b);
            share.load_at([&](int64_t column) { return turn + pair_of(column); }, c);
            share.load_at([&](int64_t column) { return turn + pairs + pair_of(column); }, s);
#pragma unroll
            for (int i = 0; i < MF_SHARE * N; i++) {
                float first = a[i] * c[i] - sign * b[i] * s[i];
                b[i] = b[i] * c[i] + sign * a[i] * s[i];
                a[i] = first;
            }
            share.store_at(a, [&](int64_t column) { return out + first_of(column); });
            share.store_at(b, [&](int64_t column) { return out + first_of(column) + pairs; });
        }
    });
}

template <typename In, typename Out> static mf_status turn(mf_device *device, const mf_rope_args *a) {
    constexpr int n = mf_pack_size<In, Out>;
    mf_extent all = {a->batch * a->tokens, a->heads * (a->head_dim / 2)};
    bool packs = a->head_dim % (2 * n) == 0 && mf_fits(all, n, (const In *)a->in, a->in_ld) &&
                 mf_fits(all, n, (const Out *)a->out, a->out_ld) && mf_holds_packs(n, a->cos_sin, 0);
    return mf_cuda_launch_shares(device, "rope", packs ? turn_rows<In, Out, n> : turn_rows<In, Out, 1>,
                                 packs ? n : 1, all, *a);
}

mf_status mf_cuda_rope(mf_device *device, const mf_rope_args *args) {
    if (args->head_dim == 0) return MF_OK;
    if (args->heads * (args->head_dim / 2) > UINT32_MAX)
        return MF_FAIL(MF_EINVAL, "rope of %lld heads of %lld", (long long)args->heads,
                       (long long)args->head_dim);
    if (args->type == MF_F32) return turn<float, float>(device, args);
    return args->in_f32 ? turn<float, mf_bf16>(device, args) : turn<mf_bf16, mf_bf16>(device, args);
}
