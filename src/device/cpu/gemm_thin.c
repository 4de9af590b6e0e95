/* gemm_thin.c: products of a few rows with a matrix that is stored row by output: as fast as the matrix can
 * be read. Four of its rows at a time, which keeps four streams from memory busy, meet every input row;
 * meanwhile the next four are sent for, a span at a time, since rows are too short for the processor to
 * foresee them. */
#include "device/cpu/cpu.h"
#include "device/cpu/lanes.h"

enum { MOST_ROWS = 4, AT_ONCE = 4, SPAN = 8 * 2 * MF_LANES, LINE = 64 };

struct mf_cpu_thin {
    mf_memory *memory;
    mf_buffer inputs; /* [m, k] f32, paired (lanes.h), where they are bf16 */
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

static const char *at(const mf_gemm_args *g, int64_t row, int64_t col) {
    return (const char *)g->b.data + (row * g->b.ld + col) * (int64_t)mf_dtype_bytes(g->b.type);
}

static void send_for(const mf_gemm_args *g, int64_t row, int64_t col, int64_t cols) {
    int64_t bytes = cols * (int64_t)mf_dtype_bytes(g->b.type);
    for (int64_t i = 0; i < bytes; i += LINE)
        for (int64_t r = row; r < row + AT_ONCE; r++) __builtin_prefetch(at(g, r, col) + i);
}

/* out += of columns col .. col + cols - 1, rows at distance ld. */
static void add_span(const mf_gemm_args *g, const float *x, int64_t row, int64_t ld, int64_t col,
                     int64_t cols, float out[AT_ONCE]) {
    float some[AT_ONCE];
    const void *w = at(g, row, col);
    if (g->b.type == MF_F32)
        mf_lanes_dots(1, x + col, 0, w, ld, cols, some, 0);
    else
        mf_lanes_dots_bf16(x + col, w, ld, cols, some);
    for (int i = 0; i < AT_ONCE; i++) out[i] += some[i];
}

/* The rows' products with one input row; ahead: the next rows are sent for. */
static void dots(const mf_gemm_args *g, const float *x, int64_t row, int64_t ld, bool ahead,
                 float out[AT_ONCE]) {
    for (int i = 0; i < AT_ONCE; i++) out[i] = 0;
    for (int64_t col = 0; col < g->k; col += SPAN) {
        int64_t cols = mf_min(SPAN, g->k - col);
        if (ahead) send_for(g, row + AT_ONCE, col, cols);
        add_span(g, x, row, ld, col, cols, out);
    }
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
    bool ahead = row + 2 * AT_ONCE <= g->n;
    for (int64_t i = 0; i < g->m; i++) {
        const float *x = inputs + i * ld;
        if (rows == AT_ONCE) dots(g, x, row, g->b.ld, ahead && i == 0, out);
        for (int64_t j = 0; j < rows; j++) {
            if (rows < AT_ONCE) dots(g, x, row + j, 0, false, out);
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
        for (int64_t i = 0; i < g->m; i++) mf_lanes_pair((float *)widen.out + i * g->k, g->k);
        inputs = widen.out;
        ld = g->k;
    }
#pragma omp parallel for num_threads(device->threads) schedule(static)
    for (int64_t row = 0; row < g->n; row += AT_ONCE) block(g, inputs, ld, row);
    return MF_OK;
}
