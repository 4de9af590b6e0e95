/* shortage.c: see shortage.h. */
#include "cli/shortage.h"

#include "cli/device_choice.h"
#include "cli/text.h"
#include "meshfold/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void say_shape(const mf_shortage *s) {
    const mf_model_options *m = s->model;
    const mf_clip_grid *g = &m->grid;
    if (m->config.family != MF_STDIT)
        fprintf(stderr, " --seq %lld", (long long)m->tokens);
    else
        fprintf(stderr, " --frames %lld --grid %lldx%lld", (long long)g->frames, (long long)g->rows,
                (long long)g->columns);
    fprintf(stderr, " --batch %lld", (long long)m->batch);
}

static void say_word(const char *flag, const char *word) {
    if (word) fprintf(stderr, " --%s %s", flag, word);
}

static void say_number(const char *flag, int64_t number) {
    if (number >= 0) fprintf(stderr, " --%s %lld", flag, (long long)number);
}

static void say_layout(const mf_run_settings *s) {
    say_word("stream", s->stream);
    say_word("attention-stream", s->attention_stream);
    say_word("mlp-stream", s->mlp_stream);
    say_word("exchange", s->exchange);
    say_word("reduction", s->reduction);
    say_number("kv-bucket", s->kv_bucket);
    say_number("zero", s->zero);
}

/* Of those that are described. */
static const char *cluster_of(const char *device) {
    char words[MF_DEVICE_WORDS];
    mf_device_words(device, words);
    return strstr(words, "H100") ? "h100" : "h200";
}

/* Ranks take turns with the GPUs, unless one is named. */
static double memory_of_rank(const mf_shortage *s) {
    const char *device = s->settings->device, *colon = strchr(device, ':');
    int ranks = mf_run_settings_one_of(s->settings) ? 1 : mf_mesh_ranks(s->spec);
    int gpus = colon ? 1 : mf_cuda_count();
    if (gpus == 0) return 0;
    return (double)mf_cuda_memory_bytes(colon ? atoi(colon + 1) : 0) / (double)mf_ceil_div(ranks, gpus);
}

static mf_measure_options options_of(const mf_shortage *s) {
    mf_measure_options o = {.model = *s->model,
                            .mesh = *s->spec,
                            .layout = *s->layout,
                            .threads = 1,
                            .device = s->settings->device,
                            .accumulate = s->accumulate,
                            .steps = 1};
    o.model.forward_only = s->inference;
    return o;
}

/* Times are of no interest: any rates will do. */
static void say_longest(const mf_shortage *s) {
    const mf_cluster gpu = {.memory_bytes = memory_of_rank(s),
                            .memory_bytes_per_s = 1,
                            .flops = {1, 1},
                            .levels = 1,
                            .level = {{.bytes_per_s = 1}}};
    const mf_measure_options options = options_of(s);
    mf_longest longest;
    char memory[32];
    if (gpu.memory_bytes <= 0 || mf_plan_longest(&gpu, &options, !s->settings->no_borrow, &longest)) return;
    bool none = longest.tokens == 0, clip = s->model->config.family == MF_STDIT;
    int64_t tokens = none ? longest.step : longest.tokens, each = clip ? mf_clip_places(&s->model->grid) : 1;
    fprintf(stderr, "what fits here: %s%lld %s, the rest as it is, in the %s that a rank finds free\n",
            none ? "not even " : "", (long long)(tokens / each), clip ? "frames" : "tokens a sequence",
            mf_bytes_text(gpu.memory_bytes, memory));
}

static void say_command(const mf_shortage *s) {
    const mf_run_settings *run = s->settings;
    fprintf(
        stderr,
        "what fits elsewhere: meshfold plan --device cuda --cluster clusters/%s.json --model %s --dtype %s",
        cluster_of(run->device), run->model ? run->model : run->init, run->dtype);
    say_word("recompute", run->recompute);
    say_shape(s);
    fprintf(stderr, " --mesh %s", s->mesh);
    say_layout(run);
    fprintf(stderr, "%s%s --longest\n", s->inference ? " --forward" : "", run->no_borrow ? "" : " --borrow");
}

void mf_shortage_report(const mf_shortage *s, mf_status status) {
    const mf_run_settings *run = s->settings;
    if (status != MF_ENOMEM || !run->launched || !mf_device_is_gpu(run->device)) return;
    if (!mf_run_settings_mpi(run)) say_longest(s);
    say_command(s);
}
