/* eval.c: `meshfold eval`: a model's loss and perplexity on a text. */
#include "cli/commands.h"
#include "cli/device_choice.h"
#include "cli/rank_json.h"
#include "cli/run_settings.h"
#include "cli/shortage.h"
#include "cli/text.h"
#include "meshfold/io.h"
#include "meshfold/train.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

typedef struct settings {
    mf_run_settings run;
    const char *mesh;
    mf_words data;
    int64_t seq, batch, windows;
    bool json;
} settings;

typedef struct command {
    settings s;
    mf_flag_table table;
    mf_flags flags;
    mf_text text;
    mf_evaluate_options options;
    mf_evaluation result;
    bool reports; /* rank 0 is in this process */
} command;

static void add_inputs(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Model and data");
    mf_run_settings_add_model(&s->run, t, true);
    mf_run_settings_add_data(&s->run, t, &s->data, true,
                             "text files and folders, a byte a token, or a NAME.bin that meshfold tokenize "
                             "made; all of it is read");
    mf_table_add(t, MF_INT("seq", &s->seq, "1024", 1, 1 << 28,
                           "tokens of a window: how much of the text a token can see at most"));
    mf_table_add(
        t, MF_INT("batch", &s->batch, "1", 1, 1 << 20, "windows that each dp replica computes at once"));
    mf_table_add(t, MF_INT("windows", &s->windows, "0", 0, 1 << 30, "windows to read at most; 0: all"));
    mf_run_settings_add_dtype(&s->run, t);
}

static void describe(command *c) {
    settings *s = &c->s;
    mf_flag_table *t = &c->table;
    add_inputs(s, t);
    mf_run_settings_add_mesh(&s->run, t, &s->mesh, "single, or axes and their ranks, as in train");
    mf_table_group(t, "Engine");
    mf_run_settings_add_engine(&s->run, t);
    mf_table_group(t, "Output");
    mf_table_add(t, MF_SWITCH("json", &s->json, "print one JSON object"));
    c->flags = (mf_flags){.command = "meshfold eval",
                          .usage = "--init DIR --data PATH... [flags]",
                          .about = "finds a model's loss and perplexity on a text, at any context and layout",
                          .groups = t->group,
                          .group_count = t->groups};
    mf_run_settings_begin(&s->run);
}

static void help(const command *c) {
    mf_flags_help(&c->flags, stdout);
    printf(
        "\nThe text is cut into windows that follow each other; a token sees those before it in its window.\n"
        "\nExamples\n"
        "  meshfold eval --init runs/demo/model --data book.txt --seq 8192 --mesh tsp=2\n"
        "  meshfold eval --init runs/demo/model --data book.txt --json\n");
}

static mf_status progress(void *context, int64_t done, int64_t windows) {
    (void)context;
    if (!isatty(STDERR_FILENO)) return MF_OK;
    fprintf(stderr, "\rwindow %lld of %lld%s", (long long)done, (long long)windows,
            done == windows ? "\r" : "");
    return MF_OK;
}

static mf_status prepare(command *c) {
    settings *s = &c->s;
    mf_evaluate_options *o = &c->options;
    if (!s->run.init) return MF_FAIL(MF_EINVAL, "meshfold eval needs --init: the folder of a model");
    MF_TRY(mf_run_settings_layout(&s->run, s->mesh, true, &o->mesh, &o->layout));
    MF_TRY(mf_run_settings_model(&s->run, "meshfold eval", &o->model));
    if (o->model.config.family == MF_STDIT)
        return MF_FAIL(MF_EINVAL, "--init %s: is a model of videos; meshfold eval reads texts", s->run.init);
    MF_TRY(mf_run_settings_threads(&s->run, mf_mesh_ranks(&o->mesh), &o->threads));
    MF_TRY(mf_device_choose("device", &s->run.device));
    o->device = s->run.device;
    o->model.tokens = s->seq;
    o->model.batch = s->batch;
    o->init_from = s->run.init;
    o->windows = s->windows;
    o->progress = progress;
    MF_TRY(mf_model_check(&o->model, &o->layout, &o->mesh));
    o->text = &c->text;
    return mf_run_settings_text(&s->run, &s->data, o->model.config.vocab, &c->text);
}

static mf_status body(mf_world *world, void *argument) {
    command *c = argument;
    mf_evaluation own = {0};
    bool first = mf_world_rank(world) == 0;
    if (first) c->reports = true;
    return mf_evaluate(world, &c->options, first ? &c->result : &own);
}

static int64_t largest_peak(const mf_evaluation *e) {
    int64_t peak = 0;
    for (int i = 0; i < e->ranks; i++) peak = mf_max(peak, e->rank[i].memory.peak_total);
    return peak;
}

static void print(const command *c) {
    const mf_evaluation *e = &c->result;
    char rate[32], peak[32];
    printf("loss %.6f nats a token, perplexity %.4f", e->loss, exp(e->loss));
    if (c->text.width)
        printf("\n");
    else
        printf(", %.4f bits a byte\n", e->loss / log(2));
    printf("%lld tokens in %lld window%s of %lld; %s tokens/s, %.0f%% of peak; peak memory of a rank %s\n",
           (long long)e->tokens, (long long)e->windows, mf_plural(e->windows), (long long)c->s.seq,
           mf_rate_text((double)e->tokens / e->seconds, rate), 100 * e->flops / e->seconds / e->peak_flops,
           mf_bytes_text((double)largest_peak(e), peak));
}

static mf_status print_json(const command *c) {
    const mf_evaluation *e = &c->result;
    json_t *ranks = json_array();
    for (int i = 0; i < e->ranks; i++)
        json_array_append_new(ranks, mf_rank_json(&c->options.mesh, &e->rank[i]));
    json_t *out = json_pack(
        "{s:s, s:f, s:f, s:I, s:I, s:I, s:f, s:f, s:o, s:o}", "device", c->s.run.device, "loss", e->loss,
        "perplexity", exp(e->loss), "tokens", (json_int_t)e->tokens, "windows", (json_int_t)e->windows, "seq",
        (json_int_t)c->s.seq, "tokens_per_s", (double)e->tokens / e->seconds, "flops_share_of_peak",
        e->flops / e->seconds / e->peak_flops, "mesh", mf_mesh_json(&c->options.mesh), "ranks", ranks);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(out);
    return MF_OK;
}

static mf_status run(command *c) {
    int ranks = 0;
    MF_TRY(prepare(c));
    ranks = mf_mesh_ranks(&c->options.mesh);
    MF_TRY(mf_run_settings_check_started(&c->s.run, c->s.mesh, ranks));
    MF_TRY(mf_run_settings_launch(&c->s.run, ranks, body, c));
    if (!c->reports) return MF_OK;
    if (c->s.json) return print_json(c);
    print(c);
    return MF_OK;
}

static void report_shortage(const command *c, mf_status status) {
    const mf_evaluate_options *o = &c->options;
    mf_shortage_report(&(mf_shortage){.settings = &c->s.run,
                                      .mesh = c->s.mesh,
                                      .model = &o->model,
                                      .spec = &o->mesh,
                                      .layout = &o->layout,
                                      .inference = true},
                       status);
}

int mf_command_eval(int argc, char **argv) {
    command c = {0};
    describe(&c);
    mf_status status = mf_flags_parse(&c.flags, argc, argv);
    if (!status && c.flags.help)
        help(&c);
    else if (!status)
        status = run(&c);
    int code = status ? mf_report_error(status) : 0;
    report_shortage(&c, status);
    if (c.s.run.launched && status) mf_abort_peers(code);
    mf_evaluation_free(&c.result);
    mf_text_free(&c.text);
    mf_flags_free(&c.flags);
    return code;
}
