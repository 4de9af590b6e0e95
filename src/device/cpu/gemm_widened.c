/* gemm_widened.c: bf16 matrix products as f32 ones, a block at a time, where the machine multiplies f32
 * faster. */
#include "device/cpu/cpu.h"

/* Blocks: large enough for the library's full speed, small enough for the second-level cache's neighbourhood;
 * with the widened copies and a block of the result they bound the workspace to 8 MiB. */
enum { BLOCK_M = 512, BLOCK_N = 1024, BLOCK_K = 1024, LEAST = 32 };

struct mf_cpu_widened {
    mf_memory *memory;
    mf_buffer a, b, c;
};

mf_status mf_cpu_widened_create(mf_device *device, mf_cpu_widened **out) {
    MF_TRY(mf_host_alloc(1, sizeof **out, out));
    (*out)->memory = device->memory;
    return MF_OK;
}

void mf_cpu_widened_destroy(mf_cpu_widened *w) {
    if (!w) return;
    mf_buffer_free(w->memory, &w->a);
    mf_buffer_free(w->memory, &w->b);
    mf_buffer_free(w->memory, &w->c);
    mf_host_free(w);
}

bool mf_cpu_widens(const mf_gemm_args *g) {
    return g->a.type == MF_BF16 && mf_min(mf_min(g->m, g->n), g->k) >= LEAST &&
           mf_cpu_bf16_products() == MF_F32;
}

static mf_status grow(mf_cpu_widened *w, mf_buffer *buffer, int64_t elements, const char *what) {
    size_t bytes = (size_t)elements * sizeof(float);
    if (buffer->bytes >= bytes) return MF_OK;
    mf_buffer_free(w->memory, buffer);
    return mf_buffer_alloc(w->memory, MF_WORKSPACE, bytes, what, buffer);
}

static mf_status reserve(mf_cpu_widened *w, const mf_gemm_args *g) {
    int64_t m = mf_min(g->m, BLOCK_M), n = mf_min(g->n, BLOCK_N), k = mf_min(g->k, BLOCK_K);
    MF_TRY(grow(w, &w->a, m * k, "a widened block"));
    MF_TRY(grow(w, &w->b, k * n, "a widened block"));
    return g->c_type == MF_F32 ? MF_OK : grow(w, &w->c, m * n, "a block of a product");
}

/* The block of rows x cols of what the product uses, as it is stored: dense f32. */
static mf_status widen(mf_device *device, const mf_matrix *from, int64_t row, int64_t rows, int64_t col,
                       int64_t cols, float *to, mf_matrix *out) {
    int64_t first = from->transposed ? col * from->ld + row : row * from->ld + col;
    int64_t lines = from->transposed ? cols : rows, width = from->transposed ? rows : cols;
    *out = (mf_matrix){.data = to, .ld = width, .type = MF_F32, .transposed = from->transposed};
    return mf_cpu_cast(device, &(mf_cast_args){.rows = lines,
                                               .width = width,
                                               .in = (const uint16_t *)from->data + first,
                                               .in_ld = from->ld,
                                               .in_type = MF_BF16,
                                               .out = to,
                                               .out_ld = width,
                                               .out_type = MF_F32});
}

/* The result's block to or from its f32 copy. */
static mf_status convert(mf_device *device, const mf_gemm_args *g, const mf_gemm_args *block, uint16_t *c,
                         bool back) {
    return mf_cpu_cast(device, &(mf_cast_args){.rows = block->m,
                                               .width = block->n,
                                               .in = back ? block->c : c,
                                               .in_ld = back ? block->n : g->c_ld,
                                               .in_type = back ? MF_F32 : MF_BF16,
                                               .out = back ? c : block->c,
                                               .out_ld = back ? g->c_ld : block->n,
                                               .out_type = back ? MF_BF16 : MF_F32});
}

/* One block of the result: m0, n0, and its sizes in `block`. b_held: w->b still has the block of an earlier
 * call. */
static mf_status result_block(mf_device *device, const mf_gemm_args *g, int64_t m0, int64_t n0,
                              mf_gemm_args block, bool b_held) {
    mf_cpu_widened *w = mf_cpu_of(device)->widened;
    int64_t at = m0 * g->c_ld + n0;
    bool copy = g->c_type == MF_BF16;
    block.c = copy ? w->c.data : (float *)g->c + at;
    block.c_ld = copy ? block.n : g->c_ld;
    if (copy && g->accumulate) MF_TRY(convert(device, g, &block, (uint16_t *)g->c + at, false));
    for (int64_t k0 = 0; k0 < g->k; k0 += BLOCK_K) {
        block.k = mf_min(BLOCK_K, g->k - k0);
        block.accumulate = g->accumulate || k0 > 0;
        MF_TRY(widen(device, &g->a, m0, block.m, k0, block.k, w->a.data, &block.a));
        if (!b_held) MF_TRY(widen(device, &g->b, k0, block.k, n0, block.n, w->b.data, &block.b));
        MF_TRY(mf_cpu_product(device, &block));
    }
    return copy ? convert(device, g, &block, (uint16_t *)g->c + at, true) : MF_OK;
}

/* The products of whole blocks and of those at the edges. */
static mf_status reserve_products(mf_device *device, const mf_gemm_args *g) {
    const int64_t m[] = {mf_min(g->m, BLOCK_M), g->m % BLOCK_M},
                  n[] = {mf_min(g->n, BLOCK_N), g->n % BLOCK_N};
    const int64_t k[] = {mf_min(g->k, BLOCK_K), g->k % BLOCK_K};
    for (int i = 0; i < 8; i++) {
        mf_gemm_args block = {.m = m[i & 1], .n = n[i >> 1 & 1], .k = k[i >> 2], .c_type = MF_F32};
        if (block.m == 0 || block.n == 0 || block.k == 0) continue;
        block.a = (mf_matrix){.ld = g->a.transposed ? block.m : block.k, .transposed = g->a.transposed};
        block.b = (mf_matrix){.ld = g->b.transposed ? block.k : block.n, .transposed = g->b.transposed};
        block.c_ld = g->c_type == MF_F32 ? g->c_ld : block.n;
        for (int more = 0; more <= (g->k > BLOCK_K); more++) {
            block.accumulate = g->accumulate || more;
            MF_TRY(mf_cpu_reserve_product(device, &block));
        }
    }
    return MF_OK;
}

mf_status mf_cpu_reserve_widened(mf_device *device, const mf_gemm_args *g) {
    MF_TRY(reserve(mf_cpu_of(device)->widened, g));
    return reserve_products(device, g);
}

mf_status mf_cpu_gemm_widened(mf_device *device, const mf_gemm_args *g) {
    mf_cpu_widened *w = mf_cpu_of(device)->widened;
    MF_TRY(reserve(w, g));
    for (int64_t n0 = 0; n0 < g->n; n0 += BLOCK_N) {
        mf_gemm_args block = {.n = mf_min(BLOCK_N, g->n - n0), .c_type = MF_F32};
        int64_t b_ld = g->b.transposed ? mf_min(g->k, BLOCK_K) : block.n;
        block.b = (mf_matrix){.data = w->b.data, .ld = b_ld, .type = MF_F32, .transposed = g->b.transposed};
        for (int64_t m0 = 0; m0 < g->m; m0 += BLOCK_M) {
            block.m = mf_min(BLOCK_M, g->m - m0);
            MF_TRY(result_block(device, g, m0, n0, block, m0 > 0 && g->k <= BLOCK_K));
        }
    }
    return MF_OK;
}
