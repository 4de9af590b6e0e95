/* gemm_thin.c: products of a few rows with a matrix that is stored row by output: as fast as the matrix can
 * be read. Four of its rows at a time, which keeps four streams from memory busy, meet every input row before
 * the next four come. */
#include "device/cpu/cpu.h"

enum { MOST_ROWS = 4, AT_ONCE = 4 };

struct mf_cpu_thin {
    mf_memory *memory;
    mf_buffer inputs; /* [m, k] f32, where they are bf16 */
};

mf_status mf_cpu_thin_create(mf_device *device, mf_cpu_thin **out) {
    MF_TRY(mf_host_alloc(1, sizeof **out, out));
    (*out)->memory = device->memory;
    return MF_OK;
}

void mf_cpu_thin_destroy(mf_cpu_thin *thin) {
    if (!thin) return;
    mf_buffer_free(thin->memory, &thin->inputs);
    mf_host_free(thin);
}

bool mf_cpu_is_thin(const mf_gemm_args *g) {
    return g->m <= MOST_ROWS && !g->a.transposed && g->b.transposed && g->k > 0;
}

mf_status mf_cpu_reserve_thin(mf_device *device, const mf_gemm_args *g) {
    mf_cpu_thin *thin = mf_cpu_of(device)->thin;
    size_t bytes = (size_t)(g->m * g->k) * sizeof(float);
    if (g->a.type == MF_F32 || thin->inputs.bytes >= bytes) return MF_OK;
    mf_buffer_free(thin->memory, &thin->inputs);
    return mf_buffer_alloc(thin->memory, MF_WORKSPACE, bytes, "inputs of a thin product", &thin->inputs);
}

/* Not inlined: gcc 12 would leave them scalar. */
__attribute__((noinline)) static void dots_f32(const float *restrict x, const float *restrict w, int64_t ld,
                                               int64_t k, float out[AT_ONCE]) {
    float a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
    for (int64_t i = 0; i < k; i++) {
        a += x[i] * w[i];
        b += x[i] * w[ld + i];
        c += x[i] * w[2 * ld + i];
        d += x[i] * w[3 * ld + i];
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

__attribute__((noinline)) static void dots_bf16(const float *restrict x, const uint16_t *restrict w,
                                                int64_t ld, int64_t k, float out[AT_ONCE]) {
    float a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d) simdlen(16)
    for (int64_t i = 0; i < k; i++) {
        a += x[i] * mf_f32_from_bf16(w[i]);
        b += x[i] * mf_f32_from_bf16(w[ld + i]);
        c += x[i] * mf_f32_from_bf16(w[2 * ld + i]);
        d += x[i] * mf_f32_from_bf16(w[3 * ld + i]);
    }
    out[0] = a, out[1] = b, out[2] = c, out[3] = d;
}

static void dots(const mf_gemm_args *g, const float *x, int64_t row, int64_t ld, float out[AT_ONCE]) {
    int64_t at = row * g->b.ld;
    if (g->b.type == MF_F32)
        dots_f32(x, (const float *)g->b.data + at, ld, g->k, out);
    else
        dots_bf16(x, (const uint16_t *)g->b.data + at, ld, g->k, out);
}

static void write(const mf_gemm_args *g, int64_t at, float value) {
    float *wide = g->c;
    uint16_t *narrow = g->c;
    if (g->c_type == MF_F32)
        wide[at] = g->accumulate ? wide[at] + value : value;
    else
        narrow[at] = mf_bf16_from_f32(g->accumulate ? mf_f32_from_bf16(narrow[at]) + value : value);
}

/* Outputs row .. row + AT_ONCE - 1, fewer at the end: then one by one, so that nothing beyond is read. */
static void block(const mf_gemm_args *g, const float *inputs, int64_t ld, int64_t row) {
    int64_t rows = mf_min(AT_ONCE, g->n - row);
    float out[AT_ONCE];
    for (int64_t i = 0; i < g->m; i++) {
        const float *x = inputs + i * ld;
        if (rows == AT_ONCE) dots(g, x, row, g->b.ld, out);
        for (int64_t j = 0; j < rows; j++) {
            if (rows < AT_ONCE) dots(g, x, row + j, 0, out);
            write(g, i * g->c_ld + row + j, rows < AT_ONCE ? out[0] : out[j]);
        }
    }
}

mf_status mf_cpu_gemm_thin(mf_device *device, const mf_gemm_args *g) {
    const float *inputs = g->a.data;
    int64_t ld = g->a.ld;
    MF_TRY(mf_cpu_reserve_thin(device, g));
    if (g->a.type == MF_BF16) {
        mf_cast_args widen = {.rows = g->m,
                              .width = g->k,
                              .in = g->a.data,
                              .in_ld = g->a.ld,
                              .in_type = MF_BF16,
                              .out = mf_cpu_of(device)->thin->inputs.data,
                              .out_ld = g->k,
                              .out_type = MF_F32};
        MF_TRY(mf_cpu_cast(device, &widen));
        inputs = widen.out;
        ld = g->k;
    }
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t row = 0; row < g->n; row += AT_ONCE) block(g, inputs, ld, row);
    return MF_OK;
}
