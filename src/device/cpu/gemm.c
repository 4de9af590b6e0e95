/* gemm.c: matrix products by oneDNN, one primitive a shape, kept for the next call of that shape. */
#include "device/cpu/cpu.h"
#include "device/slots.h"

#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

/* A training step has a few dozen shapes. When this many are held all are dropped, so that a workload of ever
 * new shapes stays bounded. */
enum { SLOTS = 1024, HELD_MAX = 512 };

typedef struct shape {
    int64_t m, n, k, a_ld, b_ld, c_ld;
    int32_t type, c_type, a_transposed, b_transposed, accumulate, unused;
} shape;

typedef struct product {
    shape key;
    bool used;
    dnnl_primitive_t primitive; /* NULL in a dry one */
    dnnl_memory_t a, b, c, scratch;
    size_t scratch_bytes;
} product;

struct mf_cpu_gemms {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    product slot[SLOTS];
    int held;
    bool dry;
    mf_buffer scratch;
    mf_memory *memory;
};

#define DNNL_GO(call)                                                                                        \
    do {                                                                                                     \
        dnnl_status_t dnnl_go_ = (call);                                                                     \
        if (dnnl_go_ != dnnl_success) {                                                                      \
            status = MF_FAIL(dnnl_go_ == dnnl_out_of_memory ? MF_ENOMEM : MF_ELIBRARY,                       \
                             "oneDNN: %s returned status %d", #call, (int)dnnl_go_);                         \
            goto fail;                                                                                       \
        }                                                                                                    \
    } while (0)

const char *mf_cpu_description(void) {
    static _Thread_local char text[96];
    static const struct {
        int isa;
        const char *name;
    } names[] = {{dnnl_cpu_isa_avx512_core_amx, "AMX"},
                 {dnnl_cpu_isa_avx512_core_bf16, "AVX-512 with bf16"},
                 {dnnl_cpu_isa_avx512_core, "AVX-512"},
                 {dnnl_cpu_isa_avx2, "AVX2"},
                 {dnnl_cpu_isa_sse41, "SSE4.1"}};
    const dnnl_version_t *version = dnnl_version();
    const char *name = "reference code";
    int isa = (int)dnnl_get_effective_cpu_isa();
    for (size_t i = sizeof names / sizeof *names; i-- > 0;)
        if ((isa & names[i].isa) == names[i].isa) name = names[i].name;
    snprintf(text, sizeof text, "oneDNN %d.%d.%d, %s", version->major, version->minor, version->patch, name);
    return text;
}

static void product_free(product *p) {
    if (p->primitive) dnnl_primitive_destroy(p->primitive);
    dnnl_memory_t memories[] = {p->a, p->b, p->c, p->scratch};
    for (int i = 0; i < 4; i++)
        if (memories[i]) dnnl_memory_destroy(memories[i]);
    *p = (product){0};
}

static void drop_all(mf_cpu_gemms *g) {
    for (int i = 0; i < SLOTS; i++) product_free(&g->slot[i]);
    g->held = 0;
}

mf_status mf_cpu_gemms_create(mf_device *device, bool dry, mf_cpu_gemms **out) {
    mf_status status = MF_OK;
    mf_cpu_gemms *g = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *g, &g));
    g->memory = device->memory;
    g->dry = dry;
    DNNL_GO(dnnl_engine_create(&g->engine, dnnl_cpu, 0));
    DNNL_GO(dnnl_stream_create(&g->stream, g->engine, dnnl_stream_default_flags));
    *out = g;
    return MF_OK;
fail:
    mf_cpu_gemms_destroy(g);
    return status;
}

void mf_cpu_gemms_destroy(mf_cpu_gemms *g) {
    if (!g) return;
    drop_all(g);
    if (g->stream) dnnl_stream_destroy(g->stream);
    if (g->engine) dnnl_engine_destroy(g->engine);
    mf_buffer_free(g->memory, &g->scratch);
    mf_host_free(g);
}

static dnnl_data_type_t type_of(int32_t type) { return type == MF_F32 ? dnnl_f32 : dnnl_bf16; }

static dnnl_status_t describe(dnnl_memory_desc_t *out, int64_t rows, int64_t cols, int64_t ld,
                              bool transposed, int32_t type) {
    dnnl_dims_t dims = {rows, cols}, strides = {transposed ? 1 : ld, transposed ? ld : 1};
    return dnnl_memory_desc_init_by_strides(out, 2, dims, type_of(type), strides);
}

static mf_status product_make(mf_cpu_gemms *g, const shape *s, product *p) {
    mf_status status = MF_OK;
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t description;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_post_ops_t after = NULL;
    dnnl_primitive_desc_t chosen = NULL;
    p->key = *s;
    p->used = true;
    DNNL_GO(describe(&a, s->m, s->k, s->a_ld, s->a_transposed, s->type));
    DNNL_GO(describe(&b, s->k, s->n, s->b_ld, s->b_transposed, s->type));
    DNNL_GO(describe(&c, s->m, s->n, s->c_ld, false, s->c_type));
    DNNL_GO(dnnl_matmul_desc_init(&description, &a, &b, NULL, &c));
    DNNL_GO(dnnl_primitive_attr_create(&attributes));
    DNNL_GO(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user));
    if (s->accumulate) {
        DNNL_GO(dnnl_post_ops_create(&after));
        DNNL_GO(dnnl_post_ops_append_sum(after, 1.0f));
        DNNL_GO(dnnl_primitive_attr_set_post_ops(attributes, after));
    }
    DNNL_GO(dnnl_primitive_desc_create(&chosen, &description, attributes, g->engine, NULL));
    const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(chosen, dnnl_query_scratchpad_md, 0);
    p->scratch_bytes = dnnl_memory_desc_get_size(scratch);
    if (g->dry) goto fail; /* all that is asked of it is known */
    DNNL_GO(dnnl_memory_create(&p->a, &a, g->engine, DNNL_MEMORY_NONE));
    DNNL_GO(dnnl_memory_create(&p->b, &b, g->engine, DNNL_MEMORY_NONE));
    DNNL_GO(dnnl_memory_create(&p->c, &c, g->engine, DNNL_MEMORY_NONE));
    DNNL_GO(dnnl_memory_create(&p->scratch, scratch, g->engine, DNNL_MEMORY_NONE));
    DNNL_GO(dnnl_primitive_create(&p->primitive, chosen));
fail:
    if (chosen) dnnl_primitive_desc_destroy(chosen);
    if (after) dnnl_post_ops_destroy(after);
    if (attributes) dnnl_primitive_attr_destroy(attributes);
    if (status) product_free(p);
    return status;
}

static mf_status product_find(mf_cpu_gemms *g, const shape *s, product **out) {
    size_t i = mf_slot_of(s, sizeof *s, SLOTS);
    for (; g->slot[i].used; i = (i + 1) % SLOTS) {
        if (memcmp(&g->slot[i].key, s, sizeof *s) == 0) {
            *out = &g->slot[i];
            return MF_OK;
        }
    }
    if (g->held == HELD_MAX) {
        drop_all(g);
        i = mf_slot_of(s, sizeof *s, SLOTS);
    }
    MF_TRY(product_make(g, s, &g->slot[i]));
    g->held++;
    *out = &g->slot[i];
    return MF_OK;
}

static mf_status scratch_grow(mf_cpu_gemms *g, size_t bytes) {
    if (g->scratch.bytes >= bytes) return MF_OK;
    mf_buffer_free(g->memory, &g->scratch);
    return mf_buffer_alloc(g->memory, MF_WORKSPACE, bytes, "the matrix library's scratch", &g->scratch);
}

static mf_status product_run(mf_cpu_gemms *g, product *p, const mf_gemm_args *args) {
    mf_status status = MF_OK;
    union {
        const void *in;
        void *out;
    } a = {args->a.data}, b = {args->b.data}; /* oneDNN takes its sources without const */
    DNNL_GO(dnnl_memory_set_data_handle(p->a, a.out));
    DNNL_GO(dnnl_memory_set_data_handle(p->b, b.out));
    DNNL_GO(dnnl_memory_set_data_handle(p->c, args->c));
    DNNL_GO(dnnl_memory_set_data_handle(p->scratch, g->scratch.data));
    dnnl_exec_arg_t list[] = {{DNNL_ARG_SRC, p->a},
                              {DNNL_ARG_WEIGHTS, p->b},
                              {DNNL_ARG_DST, p->c},
                              {DNNL_ARG_SCRATCHPAD, p->scratch}};
    DNNL_GO(dnnl_primitive_execute(p->primitive, g->stream, 4, list));
fail:
    return status;
}

/* The shape's product, and room for its scratch. */
static mf_status prepare(mf_device *device, const mf_gemm_args *args, product **out) {
    mf_cpu_gemms *g = mf_cpu_of(device)->gemms;
    shape s = {.m = args->m,
               .n = args->n,
               .k = args->k,
               .a_ld = args->a.ld,
               .b_ld = args->b.ld,
               .c_ld = args->c_ld,
               .type = (int32_t)args->a.type,
               .c_type = (int32_t)args->c_type,
               .a_transposed = args->a.transposed,
               .b_transposed = args->b.transposed,
               .accumulate = args->accumulate};
    /* This rank's own setting; a primitive keeps the number that it was made with. */
    omp_set_num_threads(device->threads);
    MF_TRY(product_find(g, &s, out));
    return scratch_grow(g, (*out)->scratch_bytes);
}

mf_status mf_cpu_reserve_product(mf_device *device, const mf_gemm_args *args) {
    product *p = NULL;
    return prepare(device, args, &p);
}

mf_status mf_cpu_reserve_gemm(mf_device *device, const mf_gemm_args *args) {
    if (args->k == 0) return MF_OK;
    if (mf_cpu_is_thin(args)) return mf_cpu_reserve_thin(device, args);
    return mf_cpu_widens(args) ? mf_cpu_reserve_widened(device, args) : mf_cpu_reserve_product(device, args);
}

/* A product over no terms is zero. */
static void clear(const mf_gemm_args *args) {
    size_t element = mf_dtype_bytes(args->c_type);
    for (int64_t i = 0; i < args->m; i++)
        memset((char *)args->c + (size_t)(i * args->c_ld) * element, 0, (size_t)args->n * element);
}

mf_status mf_cpu_gemm(mf_device *device, const mf_gemm_args *args) {
    if (args->k == 0) {
        if (!args->accumulate) clear(args);
        return MF_OK;
    }
    if (mf_cpu_is_thin(args)) return mf_cpu_gemm_thin(device, args);
    return mf_cpu_widens(args) ? mf_cpu_gemm_widened(device, args) : mf_cpu_product(device, args);
}

mf_status mf_cpu_product(mf_device *device, const mf_gemm_args *args) {
    product *p = NULL;
    MF_TRY(prepare(device, args, &p));
    return product_run(mf_cpu_of(device)->gemms, p, args);
}
