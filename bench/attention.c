/* attention.c: forward and backward attention in GFLOP/s of the pairs that are seen, beside oneDNN's rate on
 * a square product; and what documents of one length save. */
#include "meshfold/device.h"

#include <dnnl.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

enum { SEQUENCE = 4096, HEADS = 16, KV_HEADS = 4, SQUARE = 2048, REPEATS = 1 };

static void check(bool failed, const char *what) {
    if (!failed) return;
    fprintf(stderr, "%s failed: %s\n", what, mf_error_last()->message);
    exit(1);
}

static void *random_tensor(mf_memory *memory, const char *name, int64_t n, mf_dtype type, mf_buffer *out) {
    uint32_t state = (uint32_t)mf_random_key(name);
    check(mf_buffer_alloc(memory, MF_ACTIVATIONS, (size_t)n * mf_dtype_bytes(type), name, out), name);
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u; /* uniform in [-1, 1): quick, and good enough to time with */
        float x = (float)(int32_t)state * 0x1p-31f;
        if (type == MF_F32)
            ((float *)out->data)[i] = x;
        else
            ((uint16_t *)out->data)[i] = mf_bf16_from_f32(x);
    }
    return out->data;
}

/* oneDNN's rate on c: [n, n] f32 = a · b of `type`. */
static double square_rate(mf_memory *memory, mf_dtype type, int threads) {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_memory_desc_t in, out;
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    dnnl_memory_t memories[3];
    dnnl_dims_t dims = {SQUARE, SQUARE};
    mf_buffer data[3];
    double best = 0;
    omp_set_num_threads(threads);
    check(dnnl_engine_create(&engine, dnnl_cpu, 0) || dnnl_stream_create(&stream, engine, 0),
          "oneDNN engine");
    check(dnnl_memory_desc_init_by_tag(&in, 2, dims, type == MF_F32 ? dnnl_f32 : dnnl_bf16, dnnl_ab) ||
              dnnl_memory_desc_init_by_tag(&out, 2, dims, dnnl_f32, dnnl_ab) ||
              dnnl_matmul_desc_init(&matmul, &in, &in, NULL, &out) ||
              dnnl_primitive_desc_create(&desc, &matmul, NULL, engine, NULL) ||
              dnnl_primitive_create(&primitive, desc),
          "oneDNN matmul");
    for (int i = 0; i < 3; i++) {
        random_tensor(memory, "square", (int64_t)SQUARE * SQUARE, i < 2 ? type : MF_F32, &data[i]);
        check(dnnl_memory_create(&memories[i], i < 2 ? &in : &out, engine, data[i].data), "oneDNN memory");
    }
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, memories[0]}, {DNNL_ARG_WEIGHTS, memories[1]}, {DNNL_ARG_DST, memories[2]}};
    for (int i = 0; i <= 2 * REPEATS; i++) {
        double start = mf_now_s();
        check(dnnl_primitive_execute(primitive, stream, 3, args), "oneDNN matmul");
        best = fmax(best, 2e-9 * SQUARE * SQUARE * SQUARE / (mf_now_s() - start));
    }
    for (int i = 0; i < 3; i++) {
        dnnl_memory_destroy(memories[i]);
        mf_buffer_free(memory, &data[i]);
    }
    dnnl_primitive_destroy(primitive);
    dnnl_primitive_desc_destroy(desc);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    return best;
}

static double seconds(mf_device *device, const mf_attention_args *args,
                      mf_status (*call)(mf_device *, const mf_attention_args *)) {
    double best = INFINITY;
    for (int i = 0; i <= REPEATS; i++) {
        double start = mf_now_s();
        check(call(device, args), "attention");
        best = fmin(best, mf_now_s() - start);
    }
    return best;
}

/* document: its tokens, which divide the sequence. */
static void attention_rates(mf_memory *memory, mf_dtype type, int64_t d, int threads, int document,
                            double square) {
    int32_t begins[SEQUENCE];
    mf_device *device = NULL;
    mf_buffer buffer[10];
    for (int i = 0; i < SEQUENCE; i++) begins[i] = i / document * document;
    int64_t q = SEQUENCE * HEADS * d, kv = SEQUENCE * KV_HEADS * d, rows = SEQUENCE * HEADS;
    check(mf_device_create("cpu", memory, threads, &device), "device");
    mf_query_chunk queries = {SEQUENCE, 0, 0};
    mf_key_chunk keys = {.rows = SEQUENCE,
                         .k = random_tensor(memory, "k", kv, type, &buffer[0]),
                         .v = random_tensor(memory, "v", kv, type, &buffer[1]),
                         .ld = KV_HEADS * d,
                         .dk = random_tensor(memory, "dk", kv, MF_F32, &buffer[2]),
                         .dv = random_tensor(memory, "dv", kv, MF_F32, &buffer[3]),
                         .grad_ld = KV_HEADS * d};
    mf_attention_args args = {.type = type,
                              .batch = 1,
                              .tokens = SEQUENCE,
                              .heads = HEADS,
                              .group = HEADS / KV_HEADS,
                              .kv_heads = KV_HEADS,
                              .head_dim = d,
                              .first_key = document < SEQUENCE ? begins : NULL,
                              .scale = 1 / sqrtf((float)d),
                              .query_chunks = 1,
                              .key_chunks = 1,
                              .queries = &queries,
                              .keys = &keys,
                              .q = random_tensor(memory, "q", q, type, &buffer[4]),
                              .q_ld = HEADS * d,
                              .o = random_tensor(memory, "o", q, type, &buffer[5]),
                              .o_ld = HEADS * d,
                              .lse = random_tensor(memory, "lse", rows, MF_F32, &buffer[6]),
                              .lse_ld = HEADS,
                              .d_o = random_tensor(memory, "d_o", q, type, &buffer[7]),
                              .do_ld = HEADS * d,
                              .delta = random_tensor(memory, "delta", rows, MF_F32, &buffer[8]),
                              .dq = random_tensor(memory, "dq", q, MF_F32, &buffer[9]),
                              .dq_ld = HEADS * d};
    double pairs = 0.5 * SEQUENCE * (document + 1) * HEADS * (double)d * 1e-9;
    double forward_s = seconds(device, &args, mf_attention_forward), forward = 4 * pairs / forward_s;
    double backward_s = seconds(device, &args, mf_attention_backward), backward = 10 * pairs / backward_s;
    printf("%-4s  %3lld  %7d  %8d  %11.1f  %7.1f  %5.2f  %7.2f  %8.1f  %5.2f  %7.2f\n", mf_dtype_name(type),
           (long long)d, threads, document, square, forward, forward / square, 1e3 * forward_s, backward,
           backward / square, 1e3 * backward_s);
    for (int i = 0; i < 10; i++) mf_buffer_free(memory, &buffer[i]);
    mf_device_destroy(device);
}

int main(void) {
    mf_memory *memory = NULL;
    check(mf_memory_create(NULL, &memory), "memory");
    printf("%d tokens, %d heads, %d key heads; GFLOP/s, and shares of the square product's\n", SEQUENCE,
           HEADS, KV_HEADS);
    printf("type    d  threads  document  %d^3 oneDNN  forward  share       ms  backward  share       ms\n",
           SQUARE);
    for (int type = MF_F32; type <= MF_BF16; type++)
        for (int threads = 1; threads <= 2; threads++) {
            double square = square_rate(memory, (mf_dtype)type, threads);
            attention_rates(memory, (mf_dtype)type, 64, threads, SEQUENCE, square);
            attention_rates(memory, (mf_dtype)type, 128, threads, SEQUENCE, square);
            for (int document = SEQUENCE / 4; document >= 64; document /= 4)
                attention_rates(memory, (mf_dtype)type, 64, threads, document, square);
        }
    mf_memory_destroy(memory);
    return 0;
}
