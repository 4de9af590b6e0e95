/* attention.c: forward and backward attention in GFLOP/s of the pairs that are seen, beside the rate of a
 * square product, by oneDNN on the CPU and by the device itself elsewhere; and what documents of one length
 * save.
 *
 *     bench_attention [--device NAME]        default: cpu */
#include "meshfold/device.h"

#include <dnnl.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCE = 4096, HEADS = 16, KV_HEADS = 4, CPU_SQUARE = 2048, SQUARE = 8192, REPEATS = 1 };

static void check(bool failed, const char *what) {
    if (!failed) return;
    fprintf(stderr, "%s failed: %s\n", what, mf_error_last()->message);
    exit(1);
}

static void take(mf_memory *memory, const char *name, size_t bytes, mf_buffer *out) {
    check(mf_buffer_alloc(memory, MF_ACTIVATIONS, bytes, name, out), name);
}

/* Normal numbers of the type. */
static void *random_tensor(mf_device *device, const char *name, int64_t n, mf_dtype type, mf_buffer *out) {
    mf_memory *memory = mf_device_memory(device);
    mf_buffer exact = {0};
    take(memory, name, (size_t)n * mf_dtype_bytes(type), out);
    if (type != MF_F32) take(memory, name, (size_t)n * sizeof(float), &exact);
    mf_normal_args args = {.rows = 1,
                           .cols = n,
                           .index_ld = n,
                           .key = mf_random_key(name),
                           .deviation = 1,
                           .out = type == MF_F32 ? out->data : exact.data};
    check(mf_fill_normal(device, &args), name);
    if (type != MF_F32) check(mf_convert(device, n, exact.data, MF_F32, out->data, type), name);
    mf_buffer_free(memory, &exact);
    return out->data;
}

/* oneDNN's rate on c: [n, n] f32 = a · b of `type`. */
static double onednn_rate(mf_device *device, mf_dtype type, int threads) {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_memory_desc_t in, out;
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    dnnl_memory_t memories[3];
    dnnl_dims_t dims = {CPU_SQUARE, CPU_SQUARE};
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
        random_tensor(device, "square", (int64_t)CPU_SQUARE * CPU_SQUARE, i < 2 ? type : MF_F32, &data[i]);
        check(dnnl_memory_create(&memories[i], i < 2 ? &in : &out, engine, data[i].data), "oneDNN memory");
    }
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, memories[0]}, {DNNL_ARG_WEIGHTS, memories[1]}, {DNNL_ARG_DST, memories[2]}};
    for (int i = 0; i <= 2 * REPEATS; i++) {
        double start = mf_now_s();
        check(dnnl_primitive_execute(primitive, stream, 3, args), "oneDNN matmul");
        best = fmax(best, 2e-9 * CPU_SQUARE * CPU_SQUARE * CPU_SQUARE / (mf_now_s() - start));
    }
    for (int i = 0; i < 3; i++) {
        dnnl_memory_destroy(memories[i]);
        mf_buffer_free(mf_device_memory(device), &data[i]);
    }
    dnnl_primitive_destroy(primitive);
    dnnl_primitive_desc_destroy(desc);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    return best;
}

/* The same by the device's own product, done a few times over. */
static double product_rate(mf_device *device, mf_dtype type) {
    mf_buffer data[3];
    double best = 0;
    for (int i = 0; i < 3; i++)
        random_tensor(device, "square", (int64_t)SQUARE * SQUARE, i < 2 ? type : MF_F32, &data[i]);
    mf_gemm_args args = {.m = SQUARE,
                         .n = SQUARE,
                         .k = SQUARE,
                         .a = {data[0].data, SQUARE, type, false},
                         .b = {data[1].data, SQUARE, type, true},
                         .c = data[2].data,
                         .c_ld = SQUARE,
                         .c_type = MF_F32};
    for (int i = 0; i <= 2 * REPEATS; i++) {
        check(mf_device_finish(device, MF_QUEUE_COMPUTE), "a square product");
        double start = mf_now_s();
        check(mf_gemm(device, &args), "a square product");
        check(mf_device_finish(device, MF_QUEUE_COMPUTE), "a square product");
        best = fmax(best, 2e-9 * SQUARE * SQUARE * SQUARE / (mf_now_s() - start));
    }
    for (int i = 0; i < 3; i++) mf_buffer_free(mf_device_memory(device), &data[i]);
    return best;
}

static double seconds(mf_device *device, const mf_attention_args *args,
                      mf_status (*call)(mf_device *, const mf_attention_args *)) {
    double best = INFINITY;
    for (int i = 0; i <= REPEATS; i++) {
        check(mf_device_finish(device, MF_QUEUE_COMPUTE), "attention");
        double start = mf_now_s();
        check(call(device, args), "attention");
        check(mf_device_finish(device, MF_QUEUE_COMPUTE), "attention");
        best = fmin(best, mf_now_s() - start);
    }
    return best;
}

/* Where the documents of a sequence begin, for each of its tokens. */
static void put_begins(mf_device *device, int document, mf_buffer *out) {
    int32_t begins[SEQUENCE];
    for (int i = 0; i < SEQUENCE; i++) begins[i] = i / document * document;
    take(mf_device_memory(device), "begins", sizeof begins, out);
    check(mf_copy(device, MF_QUEUE_COMPUTE, out->data, begins, sizeof begins), "begins");
}

/* document: its tokens, which divide the sequence. */
static void attention_rates(mf_device *device, mf_dtype type, int64_t d, int threads, int document,
                            double square) {
    mf_memory *memory = mf_device_memory(device);
    mf_buffer buffer[10], begins;
    put_begins(device, document, &begins);
    int64_t q = SEQUENCE * HEADS * d, kv = SEQUENCE * KV_HEADS * d, rows = SEQUENCE * HEADS;
    mf_query_chunk queries = {SEQUENCE, 0, 0};
    mf_key_chunk keys = {.rows = SEQUENCE,
                         .k = random_tensor(device, "k", kv, type, &buffer[0]),
                         .v = random_tensor(device, "v", kv, type, &buffer[1]),
                         .ld = KV_HEADS * d,
                         .dk = random_tensor(device, "dk", kv, MF_F32, &buffer[2]),
                         .dv = random_tensor(device, "dv", kv, MF_F32, &buffer[3]),
                         .grad_ld = KV_HEADS * d};
    mf_attention_args args = {.type = type,
                              .batch = 1,
                              .tokens = SEQUENCE,
                              .heads = HEADS,
                              .group = HEADS / KV_HEADS,
                              .kv_heads = KV_HEADS,
                              .head_dim = d,
                              .first_key = document < SEQUENCE ? begins.data : NULL,
                              .scale = 1 / sqrtf((float)d),
                              .query_chunks = 1,
                              .key_chunks = 1,
                              .queries = &queries,
                              .keys = &keys,
                              .q = random_tensor(device, "q", q, type, &buffer[4]),
                              .q_ld = HEADS * d,
                              .o = random_tensor(device, "o", q, type, &buffer[5]),
                              .o_ld = HEADS * d,
                              .lse = random_tensor(device, "lse", rows, MF_F32, &buffer[6]),
                              .lse_ld = HEADS,
                              .d_o = random_tensor(device, "d_o", q, type, &buffer[7]),
                              .do_ld = HEADS * d,
                              .delta = random_tensor(device, "delta", rows, MF_F32, &buffer[8]),
                              .dq = random_tensor(device, "dq", q, MF_F32, &buffer[9]),
                              .dq_ld = HEADS * d};
    double pairs = 0.5 * SEQUENCE * (document + 1) * HEADS * (double)d * 1e-9;
    double forward_s = seconds(device, &args, mf_attention_forward), forward = 4 * pairs / forward_s;
    double backward_s = seconds(device, &args, mf_attention_backward), backward = 10 * pairs / backward_s;
    printf("%-4s  %3lld  %7d  %8d  %13.1f  %7.1f  %5.2f  %7.2f  %8.1f  %5.2f  %7.2f\n", mf_dtype_name(type),
           (long long)d, threads, document, square, forward, forward / square, 1e3 * forward_s, backward,
           backward / square, 1e3 * backward_s);
    for (int i = 0; i < 10; i++) mf_buffer_free(memory, &buffer[i]);
    mf_buffer_free(memory, &begins);
}

static void all_rates(const char *name, mf_memory *memory, mf_dtype type, int threads) {
    mf_device *device = NULL;
    check(mf_device_create(name, memory, threads, &device), name);
    double square =
        strcmp(name, "cpu") == 0 ? onednn_rate(device, type, threads) : product_rate(device, type);
    attention_rates(device, type, 64, threads, SEQUENCE, square);
    attention_rates(device, type, 128, threads, SEQUENCE, square);
    for (int document = SEQUENCE / 4; document >= 64; document /= 4)
        attention_rates(device, type, 64, threads, document, square);
    mf_device_destroy(device);
}

int main(int argc, char **argv) {
    const char *name = argc == 3 && strcmp(argv[1], "--device") == 0 ? argv[2] : "cpu";
    bool cpu = strcmp(name, "cpu") == 0;
    mf_memory *memory = NULL;
    if (argc != 1 && argc != 3) return fputs("bench_attention [--device NAME]\n", stderr), 2;
    check(mf_device_memory_create(name, &memory), name);
    printf("%s, %d tokens, %d heads, %d key heads; GFLOP/s, and shares of the square product's\n", name,
           SEQUENCE, HEADS, KV_HEADS);
    printf("type    d  threads  document  %s  forward  share       ms  backward  share       ms\n",
           cpu ? "2048^3 oneDNN" : "  8192^3 gemm");
    for (int type = MF_F32; type <= MF_BF16; type++)
        for (int threads = 1; threads <= (cpu ? 2 : 1); threads++)
            all_rates(name, memory, (mf_dtype)type, threads);
    mf_memory_destroy(memory);
    return 0;
}
