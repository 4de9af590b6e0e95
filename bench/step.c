/* step.c: a whole training step's model FLOP/s over oneDNN's bf16 rate on a square product, single and tsp=2
 * in turn.
 *
 *     bench_step [SEQ [ROUNDS [STEPS]]]        defaults: 4096 5 3
 *
 * Model of the preset "speed" (hidden 1024, 4 layers, 16 heads, 4 key heads, ffn 4096), one sequence, bf16,
 * nothing recomputed, two threads in all. A round runs each variant once: a step to warm up, then STEPS that
 * count. FLOPs of a step: 6 a weight in the products and token, and causal attention's 3 * 2 * 2 * head_dim *
 * heads * S(S+1)/2 a layer (forward twice a multiply-add, backward twice that). The rate is oneDNN's own on
 * 2048^3 with bf16 in and f32 out, two threads, measured before each variant. */
#include "meshfold/train.h"

#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 2048, VARIANTS = 3, ROUNDS_MAX = 64, STEPS_MAX = 64 };

static double square_rate(int threads) {
    static void *memory[3];
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_memory_desc_t a, c;
    dnnl_matmul_desc_t description;
    dnnl_primitive_desc_t chosen;
    dnnl_primitive_t product;
    dnnl_memory_t values[3];
    dnnl_dims_t dims = {SIDE, SIDE}, strides = {SIDE, 1};
    double best = 1e30;
    omp_set_num_threads(threads);
    dnnl_engine_create(&engine, dnnl_cpu, 0);
    dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
    dnnl_memory_desc_init_by_strides(&a, 2, dims, dnnl_bf16, strides);
    dnnl_memory_desc_init_by_strides(&c, 2, dims, dnnl_f32, strides);
    dnnl_matmul_desc_init(&description, &a, &a, NULL, &c);
    if (dnnl_primitive_desc_create(&chosen, &description, NULL, engine, NULL) != dnnl_success) exit(1);
    dnnl_primitive_create(&product, chosen);
    for (int i = 0; i < 3; i++) {
        if (!memory[i]) memory[i] = calloc(SIDE * SIDE, 4);
        dnnl_memory_create(&values[i], i < 2 ? &a : &c, engine, memory[i]);
    }
    dnnl_exec_arg_t list[] = {
        {DNNL_ARG_SRC, values[0]}, {DNNL_ARG_WEIGHTS, values[1]}, {DNNL_ARG_DST, values[2]}};
    for (int i = 0; i < 8; i++) {
        double start = mf_now_s();
        dnnl_primitive_execute(product, stream, 3, list);
        double took = mf_now_s() - start;
        if (took < best) best = took;
    }
    for (int i = 0; i < 3; i++) dnnl_memory_destroy(values[i]);
    dnnl_primitive_destroy(product);
    dnnl_primitive_desc_destroy(chosen);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    return 2.0 * SIDE * SIDE * SIDE / best;
}

typedef struct variant {
    const char *name, *mesh;
    int threads;
    bool no_borrow;
    double share[ROUNDS_MAX], tokens_per_s[ROUNDS_MAX], rate[ROUNDS_MAX];
} variant;

typedef struct timing {
    mf_train_options options;
    double step_s[STEPS_MAX];
} timing;

static mf_status stepped(void *context, const mf_step_metrics *m) {
    ((timing *)context)->step_s[m->step - 1] = m->step_s;
    return MF_OK;
}

static mf_status body(mf_world *world, void *argument) {
    timing *t = argument;
    mf_train_observer observer = {.context = t, .stepped = stepped};
    return mf_train(world, &t->options, &observer);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int n) {
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, (size_t)n * sizeof *values);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    return n % 2 ? sorted[n / 2] : 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]);
}

static mf_status measure(variant *v, timing *t, int round, int steps) {
    MF_TRY(mf_layout_parse(v->mesh, &mf_layout_words_none, &t->options.mesh, &t->options.layout));
    t->options.threads = v->threads;
    t->options.adam.steps = steps + 1;
    v->rate[round] = square_rate(2);
    mf_launch_options launch = {
        .engine = "local", .ranks = mf_mesh_ranks(&t->options.mesh), .no_borrow = v->no_borrow};
    MF_TRY(mf_launch(&launch, body, t));
    double step = median(t->step_s + 1, steps);
    v->tokens_per_s[round] = (double)t->options.model.tokens / step;
    v->share[round] =
        mf_config_step_flops(&t->options.model.config, 1, t->options.model.tokens) / step / v->rate[round];
    printf("round %d  %-16s %7.1f tokens/s  step %.2f s  %.2f of oneDNN's %.1f GFLOP/s\n", round + 1, v->name,
           v->tokens_per_s[round], step, v->share[round], v->rate[round] / 1e9);
    fflush(stdout);
    return MF_OK;
}

/* The rate over all rounds and variants: one that was measured while the machine was slow must not flatter.
 */
static double median_rate(const variant *variants, int rounds) {
    double rates[VARIANTS];
    for (int i = 0; i < VARIANTS; i++) rates[i] = median(variants[i].rate, rounds);
    return median(rates, VARIANTS);
}

static void report(const variant *v, const variant *base, int rounds, double flops_per_token, double rate) {
    double ratio[ROUNDS_MAX], tokens_per_s = median(v->tokens_per_s, rounds);
    for (int i = 0; i < rounds; i++) ratio[i] = v->tokens_per_s[i] / base->tokens_per_s[i];
    printf("%-16s %8.1f %10.2f %14.2f\n", v->name, tokens_per_s, tokens_per_s * flops_per_token / rate,
           median(ratio, rounds));
}

static int number(int argc, char **argv, int index, int fallback, int most) {
    int value = argc > index ? atoi(argv[index]) : fallback;
    return value < 1 ? 1 : value > most ? most : value;
}

int main(int argc, char **argv) {
    static variant variants[VARIANTS] = {
        {.name = "single", .mesh = "single", .threads = 2},
        {.name = "tsp=2 borrowed", .mesh = "tsp=2", .threads = 1},
        {.name = "tsp=2 sent", .mesh = "tsp=2", .threads = 1, .no_borrow = true}};
    static timing t;
    int seq = number(argc, argv, 1, 4096, 1 << 20), rounds = number(argc, argv, 2, 5, ROUNDS_MAX);
    int steps = number(argc, argv, 3, 3, STEPS_MAX - 1);
    mf_text text = {.count = 24 * (int64_t)seq, .bytes = malloc(24 * (size_t)seq)};
    for (int64_t i = 0; i < text.count; i++) text.bytes[i] = (uint8_t)mf_random_u64(1, 1, (uint64_t)i);
    t.options = (mf_train_options){
        .model = {.type = MF_BF16, .batch = 1, .tokens = seq, .seed = 1},
        .adam = {.lr = 1e-4f, .min_lr = 1e-5f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f},
        .accumulate = 1,
        .eval_batches = 1};
    mf_status status = mf_config_preset("speed", &t.options.model.config);
    if (!status) status = mf_dataset_make(&text, seq, &t.options.data);
    for (int round = 0; !status && round < rounds; round++)
        for (int i = 0; !status && i < VARIANTS; i++) status = measure(&variants[i], &t, round, steps);
    free(text.bytes);
    if (status) return fprintf(stderr, "bench_step: %s\n", mf_error_last()->message), 1;
    double rate = median_rate(variants, rounds);
    double flops_per_token = mf_config_step_flops(&t.options.model.config, 1, seq) / seq;
    printf("\nmedians of %d rounds; oneDNN's bf16 rate %.1f GFLOP/s\n", rounds, rate / 1e9);
    printf("%-16s tokens/s  of oneDNN  over single (paired)\n", "");
    for (int i = 0; i < VARIANTS; i++) report(&variants[i], &variants[0], rounds, flops_per_token, rate);
    return 0;
}
