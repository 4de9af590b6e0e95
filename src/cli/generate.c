/* generate.c: `meshfold generate`: what a model says next. */
#include "cli/commands.h"
#include "cli/rank_json.h"
#include "cli/run_settings.h"
#include "cli/stop_signal.h"
#include "cli/text.h"
#include "meshfold/infer.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct settings {
    mf_run_settings run;
    const char *mesh, *tokenizer;
    mf_words prompts, files;
    int64_t most, portion, top_k, seed;
    double temperature, top_p;
    bool goes_on, json;
} settings;

/* Grows. */
typedef struct growing {
    char *data;
    size_t bytes, room;
} growing;

/* What one prompt has brought. */
typedef struct answer {
    mf_ids prompt, made;
    mf_voice *voice;
    growing said;
    size_t shown;
    mf_ending finish;
} answer;

typedef struct command {
    settings s;
    mf_flag_table table;
    mf_flags flags;
    mf_speech *speech;
    int prompts;
    answer *answer;    /* [prompts] */
    mf_prompt *prompt; /* [prompts] */
    int showing;       /* the prompt whose answer stands last on stdout */
    mf_generate_options options;
    mf_generation result;
    bool reports; /* rank 0 is in this process */
} command;

static mf_flag list(const char *name, mf_words *target, const char *value, const char *about) {
    return (mf_flag){
        .name = name, .kind = MF_FLAG_LIST, .target = target, .value_name = value, .about = about};
}

static void add_inputs(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Model and prompts");
    mf_flag model =
        MF_TEXT("model", &s->run.model, "DIR",
                "a Hugging Face model folder: config.json, safetensors, and tokenizer.json; without "
                "a tokenizer a token is a byte");
    model.required = true;
    mf_table_add(t, model);
    mf_table_add(t, MF_TEXT("tokenizer", &s->tokenizer, "PATH",
                            "a tokenizer.json, or a folder with one, instead of the model's own"));
    mf_table_add(t, list("prompt", &s->prompts, "TEXT", "what is gone on from; several go on together"));
    mf_table_add(t, list("prompt-file", &s->files, "PATH", "files, each of which is a prompt; - is stdin"));
    mf_run_settings_add_dtype(&s->run, t);
}

static void add_choices(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Text");
    mf_table_add(t, MF_INT("max-new", &s->most, "128", 0, 1 << 30, "new tokens of each prompt at most"));
    mf_table_add(t, MF_REAL("temperature", &s->temperature, "0", 0, 1e6,
                            "what scores are divided by before one is drawn; 0: the highest, always"));
    mf_table_add(
        t, MF_INT("top-k", &s->top_k, "0", 0, 1 << 30, "draw from so many tokens at most; 0: from all"));
    mf_table_add(t, MF_REAL("top-p", &s->top_p, "1", 1e-9, 1,
                            "draw from the fewest tokens that have so much of the probability"));
    mf_table_add(t, MF_INT("seed", &s->seed, "1", 0, INT64_MAX >> 10, "of what is drawn"));
    mf_table_add(t, MF_SWITCH("ignore-eos", &s->goes_on, "go on behind the token that ends a text"));
}

static void describe(command *c) {
    settings *s = &c->s;
    mf_flag_table *t = &c->table;
    add_inputs(s, t);
    add_choices(s, t);
    mf_run_settings_add_mesh(&s->run, t, &s->mesh, "single, or axes and their ranks, as in train");
    mf_table_add(t, MF_INT("prefill-chunk", &s->portion, "2048", 1, 1 << 28,
                           "tokens of a prompt that are read at once, over all ranks"));
    mf_table_group(t, "Engine");
    mf_run_settings_add_engine(&s->run, t);
    mf_table_group(t, "Output");
    mf_table_add(t, MF_SWITCH("json", &s->json, "print one JSON object"));
    c->flags = (mf_flags){.command = "meshfold generate",
                          .usage = "--model DIR --prompt TEXT... [flags]",
                          .about = "goes on with a text, on any layout",
                          .groups = t->group,
                          .group_count = t->groups};
    mf_run_settings_begin(&s->run);
}

static void help(const command *c) {
    mf_flags_help(&c->flags, stdout);
    printf(
        "\nPrompts are read by the layout's schedule, a portion at a time. New tokens come by tensor "
        "parallelism "
        "over\n"
        "the same shards; each rank keeps the keys and values of its share of the tokens. The text goes to "
        "stdout,\n"
        "figures to stderr. What is not UTF-8 in a prompt or an answer becomes U+FFFD.\n"
        "\nExamples\n"
        "  meshfold generate --model runs/demo/model --prompt \"ROMEO:\" --max-new 200 --temperature 0.8\n"
        "  meshfold generate --model models/qwen --prompt-file book.txt --mesh tsp=2 --dtype bf16\n");
}

static mf_status add_text(growing *t, const char *more, size_t bytes) {
    if (t->bytes + bytes > t->room) {
        char *data = NULL;
        t->room = 2 * (t->bytes + bytes);
        MF_TRY(mf_host_alloc(t->room, 1, &data));
        if (t->bytes) memcpy(data, t->data, t->bytes);
        mf_host_free(t->data);
        t->data = data;
    }
    if (bytes) memcpy(t->data + t->bytes, more, bytes);
    t->bytes += bytes;
    return MF_OK;
}

static mf_status add_prompt(command *c, const char *text, size_t bytes) {
    answer *a = &c->answer[c->prompts++];
    MF_TRY(mf_speech_read(c->speech, text, (int64_t)bytes, &a->prompt));
    return mf_voice_create(c->speech, &a->voice);
}

static mf_status add_file(command *c, const char *path) {
    char *content = NULL;
    size_t bytes = 0;
    MF_TRY(mf_file_read(path, &content, &bytes));
    mf_status status = mf_blame(path, add_prompt(c, content, bytes));
    mf_host_free(content);
    return status;
}

/* What can be read to its end, which a pipe can once, and of several processes the first alone. */
static mf_status add_stdin(command *c) {
    enum { AT_ONCE = 1 << 16 };
    mf_status status = MF_OK;
    growing all = {0};
    char *some = NULL;
    size_t got = 0;
    if (mf_run_settings_mpi(&c->s.run) && mf_mesh_ranks(&c->options.mesh) > 1)
        return MF_FAIL(MF_EINVAL, "-: under mpiexec stdin is rank 0's alone; name a file");
    MF_TRY(mf_host_alloc(AT_ONCE, 1, &some));
    while ((got = fread(some, 1, AT_ONCE, stdin)) > 0) MF_GO(add_text(&all, some, got));
    if (ferror(stdin)) MF_GO(MF_FAIL(MF_EIO, "stdin can't be read: %s", strerror(errno)));
    MF_GO(mf_blame("-", add_prompt(c, all.data, all.bytes)));
fail:
    mf_host_free(some);
    mf_host_free(all.data);
    return status;
}

static mf_status read_prompts(command *c) {
    settings *s = &c->s;
    size_t count = (size_t)(s->prompts.count + s->files.count);
    if (!count) return MF_FAIL(MF_EINVAL, "meshfold generate needs --prompt or --prompt-file");
    MF_TRY(mf_host_alloc(count, sizeof *c->answer, &c->answer));
    MF_TRY(mf_host_alloc(count, sizeof *c->prompt, &c->prompt));
    for (int i = 0; i < s->prompts.count; i++)
        MF_TRY(mf_blame("--prompt", add_prompt(c, s->prompts.items[i], strlen(s->prompts.items[i]))));
    for (int i = 0; i < s->files.count; i++)
        MF_TRY(mf_blame("--prompt-file",
                        strcmp(s->files.items[i], "-") ? add_file(c, s->files.items[i]) : add_stdin(c)));
    for (int i = 0; i < c->prompts; i++)
        c->prompt[i] = (mf_prompt){c->answer[i].prompt.id, c->answer[i].prompt.count};
    return MF_OK;
}

static void show(answer *a) {
    size_t bytes = a->said.bytes - a->shown;
    if (bytes) fwrite(a->said.data + a->shown, 1, bytes, stdout);
    a->shown = a->said.bytes;
}

/* Answers stand one behind the other: the first that is not finished is shown as it comes. all: so are those
 * that will not be finished. */
static mf_status show_answers(command *c, bool all) {
    for (; c->showing < c->prompts; c->showing++) {
        answer *a = &c->answer[c->showing];
        if (c->prompts > 1 && !a->shown && (a->said.bytes || a->finish || all))
            printf("--- %d\n", c->showing + 1);
        show(a);
        if (!a->finish && !all) break;
        printf("\n");
    }
    if (fflush(stdout) != 0 || ferror(stdout)) return MF_FAIL(MF_EIO, "standard output: %s", strerror(errno));
    return MF_OK;
}

static mf_status take_token(void *context, int prompt, int32_t id, mf_ending finish) {
    command *c = context;
    answer *a = &c->answer[prompt];
    const char *said = NULL;
    size_t bytes = 0;
    a->finish = finish;
    if (finish) {
        MF_TRY(mf_voice_end(a->voice, &said, &bytes));
    } else {
        MF_TRY(mf_ids_add(&a->made, id));
        MF_TRY(mf_voice_say(a->voice, id, &said, &bytes));
    }
    MF_TRY(add_text(&a->said, said, bytes));
    return c->s.json ? MF_OK : show_answers(c, false);
}

static mf_status tell_read(void *context, int64_t done, int64_t of) {
    (void)context;
    if (!isatty(STDERR_FILENO)) return MF_OK;
    fprintf(stderr, "\rprompts: %lld of %lld tokens%s", (long long)done, (long long)of,
            done == of ? "\r\033[K" : "");
    return MF_OK;
}

static mf_status prepare(command *c) {
    settings *s = &c->s;
    mf_generate_options *o = &c->options;
    MF_TRY(mf_run_settings_layout(&s->run, s->mesh, true, &o->mesh, &o->layout));
    MF_TRY(mf_run_settings_model(&s->run, "meshfold generate", &o->model));
    MF_TRY(mf_run_settings_threads(&s->run, mf_mesh_ranks(&o->mesh), &o->threads));
    MF_TRY(mf_blame(s->tokenizer ? "--tokenizer" : "--model",
                    mf_speech_open(s->run.model, s->tokenizer, o->model.config.vocab, &c->speech)));
    MF_TRY(read_prompts(c));
    o->model.batch = 1;
    o->model.tokens = s->portion;
    o->model.forward_only = o->model.cache = true;
    o->init_from = s->run.model;
    o->prompts = c->prompts;
    o->prompt = c->prompt;
    o->most = s->most;
    o->sampling = (mf_sampling){
        .temperature = s->temperature, .top_k = s->top_k, .top_p = s->top_p, .seed = (uint64_t)s->seed};
    if (!s->goes_on) o->stops = mf_speech_stops(c->speech, o->stop);
    o->context = c;
    o->token = take_token;
    o->read = tell_read;
    return mf_model_check(&o->model, &o->layout, &o->mesh);
}

static mf_status body(mf_world *world, void *argument) {
    command *c = argument;
    mf_generation own = {0};
    bool first = mf_world_rank(world) == 0;
    if (first) c->reports = true;
    return mf_generate(world, &c->options, first ? &c->result : &own);
}

static double per_second(int64_t count, double seconds) { return seconds > 0 ? (double)count / seconds : 0; }

static double step_rate(const mf_generation *g) {
    return g->made_s > 0 ? g->step_bytes * (double)g->steps / g->made_s : 0;
}

/* Beyond what the model was made for it gets worse, not wrong. */
static void print_lengths(const command *c) {
    int64_t most = c->options.model.config.positions;
    for (int i = 0; i < c->prompts && most; i++) {
        int64_t tokens = c->answer[i].prompt.count + c->answer[i].made.count;
        if (tokens <= most) continue;
        fprintf(stderr, "note     prompt %d and its answer have %lld tokens; the model was made for %lld\n",
                i + 1, (long long)tokens, (long long)most);
        return;
    }
}

static void print_figures(const command *c) {
    const mf_generation *g = &c->result;
    char a[32], b[32];
    int64_t weights = 0, peak = 0;
    for (int i = 0; i < g->ranks; i++) {
        weights = mf_max(weights, g->rank[i].memory.now[MF_WEIGHTS]);
        peak = mf_max(peak, g->rank[i].memory.peak_total);
    }
    fprintf(stderr, "\n");
    if (g->read)
        fprintf(stderr, "prefill  %lld tokens in %s: %s tokens/s, %.0f%% of peak\n", (long long)g->read,
                mf_seconds_text(g->read_s, a), mf_rate_text(per_second(g->read, g->read_s), b),
                100 * g->read_flops / g->read_s / g->peak_flops);
    if (g->made)
        fprintf(stderr,
                "decode   %lld tokens in %s: %s tokens/s; weights and cache at %.1f GB/s, %.0f%% of the %.1f "
                "that memory gives\n",
                (long long)g->made, mf_seconds_text(g->made_s, a),
                mf_rate_text(per_second(g->made, g->made_s), b), step_rate(g) / 1e9,
                100 * step_rate(g) / g->bandwidth, g->bandwidth / 1e9);
    fprintf(stderr, "memory   of a rank: weights %s, ", mf_bytes_text((double)weights, a));
    fprintf(stderr, "cache %s, ", mf_bytes_text((double)g->cache_bytes, a));
    fprintf(stderr, "peak %s; %d rank%s, %s\n", mf_bytes_text((double)peak, a), g->ranks, mf_plural(g->ranks),
            c->s.mesh);
    print_lengths(c);
}

static const char *finish_name(mf_ending finish) {
    return finish == MF_END_STOP ? "stop" : finish == MF_END_LENGTH ? "length" : "interrupted";
}

static json_t *answer_json(const answer *a) {
    json_t *ids = json_array();
    for (int64_t i = 0; i < a->made.count; i++) json_array_append_new(ids, json_integer(a->made.id[i]));
    return json_pack("{s:I, s:s%, s:o, s:s}", "prompt_tokens", (json_int_t)a->prompt.count, "text",
                     a->said.data ? a->said.data : "", a->said.bytes, "tokens", ids, "finish",
                     finish_name(a->finish));
}

static mf_status print_json(const command *c) {
    const mf_generation *g = &c->result;
    json_t *answers = json_array(), *ranks = json_array();
    for (int i = 0; i < c->prompts; i++) json_array_append_new(answers, answer_json(&c->answer[i]));
    for (int i = 0; i < g->ranks; i++)
        json_array_append_new(ranks, mf_rank_json(&c->options.mesh, &g->rank[i]));
    json_t *out = json_pack("{s:o, s:{s:I, s:f, s:f, s:f}, s:{s:I, s:I, s:f, s:f, s:f, s:f}, s:I, s:o, s:o}",
                            "answers", answers, "prefill", "tokens", (json_int_t)g->read, "seconds",
                            g->read_s, "tokens_per_s", per_second(g->read, g->read_s), "flops_share_of_peak",
                            g->read ? g->read_flops / g->read_s / g->peak_flops : 0, "decode", "tokens",
                            (json_int_t)g->made, "steps", (json_int_t)g->steps, "seconds", g->made_s,
                            "tokens_per_s", per_second(g->made, g->made_s), "bytes_per_s", step_rate(g),
                            "memory_bytes_per_s", g->bandwidth, "cache_bytes", (json_int_t)g->cache_bytes,
                            "mesh", mf_mesh_json(&c->options.mesh), "ranks", ranks);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(out);
    return MF_OK;
}

static mf_status run(command *c) {
    MF_TRY(prepare(c));
    int ranks = mf_mesh_ranks(&c->options.mesh);
    MF_TRY(mf_run_settings_check_started(&c->s.run, c->s.mesh, ranks));
    c->options.enough = mf_stop_signals_catch();
    MF_TRY(mf_run_settings_launch(&c->s.run, ranks, body, c));
    if (!c->reports) return MF_OK;
    if (c->s.json) return print_json(c);
    MF_TRY(show_answers(c, true));
    print_figures(c);
    return MF_OK;
}

static void drop(command *c) {
    for (int i = 0; i < c->prompts; i++) {
        answer *a = &c->answer[i];
        mf_ids_free(&a->prompt);
        mf_ids_free(&a->made);
        mf_voice_destroy(a->voice);
        mf_host_free(a->said.data);
    }
    mf_host_free(c->answer);
    mf_host_free(c->prompt);
    mf_speech_close(c->speech);
    mf_generation_free(&c->result);
    mf_flags_free(&c->flags);
}

int mf_command_generate(int argc, char **argv) {
    command c = {0};
    describe(&c);
    mf_status status = mf_flags_parse(&c.flags, argc, argv);
    if (!status && c.flags.help)
        help(&c);
    else if (!status)
        status = run(&c);
    int code = status ? mf_report_error(status) : 0;
    if (status == MF_EIO && ferror(stdout)) code = 1; /* what failed was an output */
    if (c.s.run.launched && status) mf_abort_peers(code);
    drop(&c);
    return code;
}
