/* attention_product.c: products of tiles by oneDNN, a lane's primitives kept by shape; packing of tiles. */
#include "device/cpu/attention_tile.h"

#include <omp.h>
#include <string.h>

#define DNNL_TRY(call)                                                                                       \
    do {                                                                                                     \
        dnnl_status_t dnnl_try_ = (call);                                                                    \
        if (dnnl_try_) return dnnl_failed(dnnl_try_, #call);                                                 \
    } while (0)
#define DNNL_GO(call)                                                                                        \
    do {                                                                                                     \
        dnnl_status_t dnnl_go_ = (call);                                                                     \
        if (dnnl_go_) MF_GO(dnnl_failed(dnnl_go_, #call));                                                   \
    } while (0)

static mf_status dnnl_failed(dnnl_status_t status, const char *call) {
    return MF_FAIL(status == dnnl_out_of_memory ? MF_ENOMEM : MF_ELIBRARY,
                   "attention: oneDNN status %d from %s", (int)status, call);
}

mf_status mf_cpu_attention_lane_open(attention_lane *lane, dnnl_engine_t engine) {
    lane->engine = engine;
    DNNL_TRY(dnnl_stream_create(&lane->stream, engine, dnnl_stream_default_flags));
    return MF_OK;
}

static void product_close(attention_product *product) {
    if (product->primitive) dnnl_primitive_destroy(product->primitive);
    if (product->a) dnnl_memory_destroy(product->a);
    if (product->b) dnnl_memory_destroy(product->b);
    if (product->c) dnnl_memory_destroy(product->c);
    if (product->scratch) dnnl_memory_destroy(product->scratch);
    *product = (attention_product){0};
}

void mf_cpu_attention_lane_close(attention_lane *lane) {
    for (int i = 0; i < lane->product_count; i++) product_close(&lane->products[i]);
    if (lane->stream) dnnl_stream_destroy(lane->stream);
}

size_t mf_cpu_attention_scratch(const attention_shape *s) {
    int64_t k = (s->k + 63) / 64 * 64, m = (s->m + 63) / 64 * 64;
    int64_t elements = k * 64 + (s->a_transposed ? m * k : 0);
    return (size_t)elements * mf_dtype_bytes(s->type) + (32 << 10);
}

static mf_status describe(dnnl_memory_desc_t *out, int64_t rows, int64_t cols, mf_dtype type,
                          bool transposed) {
    dnnl_dims_t dims = {rows, cols}, strides = {transposed ? 1 : cols, transposed ? rows : 1};
    DNNL_TRY(dnnl_memory_desc_init_by_strides(out, 2, dims, type == MF_F32 ? dnnl_f32 : dnnl_bf16, strides));
    return MF_OK;
}

static mf_status attributes(bool accumulate, dnnl_scratchpad_mode_t mode, dnnl_primitive_attr_t *out) {
    mf_status status = MF_OK;
    dnnl_post_ops_t sum = NULL;
    DNNL_TRY(dnnl_primitive_attr_create(out));
    DNNL_GO(dnnl_primitive_attr_set_scratchpad_mode(*out, mode));
    if (accumulate) {
        DNNL_GO(dnnl_post_ops_create(&sum));
        DNNL_GO(dnnl_post_ops_append_sum(sum, 1.0f));
        DNNL_GO(dnnl_primitive_attr_set_post_ops(*out, sum));
    }
fail:
    if (sum) dnnl_post_ops_destroy(sum);
    return status;
}

static mf_status memory_for(attention_lane *lane, const dnnl_primitive_desc_t desc, dnnl_query_t what,
                            dnnl_memory_t *out) {
    const dnnl_memory_desc_t *memory = dnnl_primitive_desc_query_md(desc, what, 0);
    DNNL_TRY(dnnl_memory_create(out, memory, lane->engine, DNNL_MEMORY_NONE));
    return MF_OK;
}

static mf_status product_desc(attention_lane *lane, const attention_shape *s, dnnl_scratchpad_mode_t mode,
                              dnnl_primitive_desc_t *out) {
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr = NULL;
    mf_status status = MF_OK;
    MF_TRY(describe(&a, s->m, s->k, s->type, s->a_transposed));
    MF_TRY(describe(&b, s->k, s->n, s->type, s->b_transposed));
    MF_TRY(describe(&c, s->m, s->n, MF_F32, false));
    DNNL_TRY(dnnl_matmul_desc_init(&matmul, &a, &b, NULL, &c));
    MF_GO(attributes(s->accumulate, mode, &attr));
    DNNL_GO(dnnl_primitive_desc_create(out, &matmul, attr, lane->engine, NULL));
fail:
    if (attr) dnnl_primitive_attr_destroy(attr);
    return status;
}

static size_t scratch_wanted(const dnnl_primitive_desc_t desc) {
    return dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0));
}

/* A primitive that wants more scratch than the workspace has for its shape (another machine's, say) brings
 * its own. */
static mf_status product_open(attention_lane *lane, const attention_shape *s, attention_product *out) {
    mf_status status = MF_OK;
    dnnl_primitive_desc_t desc = NULL;
    *out = (attention_product){.shape = *s};
    MF_GO(product_desc(lane, s, dnnl_scratchpad_mode_user, &desc));
    if (scratch_wanted(desc) > mf_cpu_attention_scratch(s)) {
        dnnl_primitive_desc_destroy(desc);
        desc = NULL;
        MF_GO(product_desc(lane, s, dnnl_scratchpad_mode_library, &desc));
    }
    DNNL_GO(dnnl_primitive_create(&out->primitive, desc));
    MF_GO(memory_for(lane, desc, dnnl_query_src_md, &out->a));
    MF_GO(memory_for(lane, desc, dnnl_query_weights_md, &out->b));
    MF_GO(memory_for(lane, desc, dnnl_query_dst_md, &out->c));
    MF_GO(memory_for(lane, desc, dnnl_query_scratchpad_md, &out->scratch));
fail:
    if (desc) dnnl_primitive_desc_destroy(desc);
    if (status) product_close(out);
    return status;
}

static bool same_shape(const attention_shape *a, const attention_shape *b) {
    return a->m == b->m && a->n == b->n && a->k == b->k && a->type == b->type &&
           a->a_transposed == b->a_transposed && a->b_transposed == b->b_transposed &&
           a->accumulate == b->accumulate;
}

/* A place for a new product: an empty one, or that of the product unused for longest. */
static attention_product *place(attention_lane *lane) {
    if (lane->product_count < PRODUCTS) return &lane->products[lane->product_count++];
    attention_product *oldest = lane->products;
    for (int i = 1; i < PRODUCTS; i++)
        if (lane->products[i].used < oldest->used) oldest = &lane->products[i];
    product_close(oldest);
    return oldest;
}

static mf_status find(attention_lane *lane, const attention_shape *s, attention_product **out) {
    for (int i = 0; i < lane->product_count; i++) {
        *out = &lane->products[i];
        if ((*out)->primitive && same_shape(&(*out)->shape, s)) return MF_OK;
    }
    *out = place(lane);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    mf_status status = product_open(lane, s, *out);
    omp_set_num_threads(threads);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

mf_status mf_cpu_attention_multiply(attention_lane *lane, const attention_shape *s, const void *a,
                                    const void *b, float *c) {
    attention_product *p = NULL;
    union { /* oneDNN takes what it only reads as writable */
        const void *in;
        void *out;
    } a_data = {a}, b_data = {b};
    MF_TRY(find(lane, s, &p));
    p->used = ++lane->executions;
    DNNL_TRY(dnnl_memory_set_data_handle(p->a, a_data.out));
    DNNL_TRY(dnnl_memory_set_data_handle(p->b, b_data.out));
    DNNL_TRY(dnnl_memory_set_data_handle(p->c, c));
    DNNL_TRY(dnnl_memory_set_data_handle(p->scratch, attention_at(lane, lane->layout->scratch)));
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->a},
                                    {DNNL_ARG_WEIGHTS, p->b},
                                    {DNNL_ARG_DST, p->c},
                                    {DNNL_ARG_SCRATCHPAD, p->scratch}};
    DNNL_TRY(dnnl_primitive_execute(p->primitive, lane->stream, 4, args));
    return MF_OK;
}

void mf_cpu_attention_pack(void *out, mf_dtype product, const void *in, mf_dtype type, int64_t ld,
                           int64_t rows, int64_t cols, int64_t padded) {
    size_t in_size = mf_dtype_bytes(type), out_row = mf_dtype_bytes(product) * (size_t)cols;
    char *to = out;
    const char *from = in;
    for (int64_t i = 0; i < rows; i++, to += out_row, from += in_size * (size_t)ld) {
        if (product == type)
            memcpy(to, from, out_row);
        else
            mf_cpu_row_widen((float *)(void *)to, (const uint16_t *)(const void *)from, cols);
    }
    memset(to, 0, (size_t)(padded - rows) * out_row);
}

void mf_cpu_attention_pack_queries(const attention_job *job, const attention_tile *tile, const void *in,
                                   int64_t ld, void *out) {
    const mf_attention_args *a = job->args;
    int64_t rows = tile->run->rows, d = a->head_dim, total = tile->heads * rows;
    int64_t first = attention_row(a, tile->batch, tile->run->row) * ld;
    char *to = out;
    for (int64_t h = 0; h < tile->heads; h++) {
        int64_t padded = h + 1 < tile->heads ? rows : rows + attention_pad(total) - total;
        const char *from =
            (const char *)in + (size_t)(first + (tile->head + h) * d) * mf_dtype_bytes(a->type);
        mf_cpu_attention_pack(to, job->product, from, a->type, ld * attention_stride(a), rows, d, padded);
        to += (size_t)(rows * d) * mf_dtype_bytes(job->product);
    }
}
