/* generate.c: `meshfold generate`: what a model says next, or shows. */
#include "cli/commands.h"
#include "cli/device_choice.h"
#include "cli/generate_clips.h"
#include "cli/generate_report.h"
#include "cli/run_settings.h"
#include "cli/stop_signal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct settings {
    mf_run_settings run;
    const char *mesh, *tokenizer;
    mf_words prompts, files;
    mf_clips_settings clips;
    int64_t most, portion, top_k, seed;
    double temperature, top_p;
    bool goes_on, json;
} settings;

typedef struct command {
    settings s;
    mf_flag_table table;
    mf_flags flags;
    mf_speech *speech;
    int prompts;
    mf_answer *answer; /* [prompts] */
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
    mf_table_add(
        t, MF_INT("seed", &s->seed, "1", 0, INT64_MAX >> 10, "of what is drawn; of clips, their noise"));
    mf_table_add(t, MF_SWITCH("ignore-eos", &s->goes_on, "go on behind the token that ends a text"));
    mf_generate_clips_add(&s->clips, &s->run, t);
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
                          .usage = "--model DIR --prompt TEXT... | --model DIR --out FILE [flags]",
                          .about = "goes on with a text, or makes clips of video, on any layout",
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
        "  meshfold generate --model models/qwen --prompt-file book.txt --mesh tsp=2 --dtype bf16\n"
        "  meshfold generate --model runs/video/model --clips 6 --sheet samples.png --out sample.y4m\n");
}

static mf_status add_prompt(command *c, const void *text, size_t bytes) {
    mf_answer *a = &c->answer[c->prompts++];
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
    mf_bytes all = {0};
    char *some = NULL;
    size_t got = 0;
    if (mf_run_settings_mpi(&c->s.run) && mf_mesh_ranks(&c->options.mesh) > 1)
        return MF_FAIL(MF_EINVAL, "-: under mpiexec stdin is rank 0's alone; name a file");
    MF_TRY(mf_host_alloc(AT_ONCE, 1, &some));
    while ((got = fread(some, 1, AT_ONCE, stdin)) > 0) MF_GO(mf_bytes_add(&all, some, got));
    if (ferror(stdin)) MF_GO(MF_FAIL(MF_EIO, "stdin can't be read: %s", strerror(errno)));
    MF_GO(mf_blame("-", add_prompt(c, all.data, all.count)));
fail:
    mf_host_free(some);
    mf_bytes_free(&all);
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

static void show(mf_answer *a) {
    size_t bytes = a->said.count - a->shown;
    if (bytes) fwrite(a->said.data + a->shown, 1, bytes, stdout);
    a->shown = a->said.count;
}

/* Answers stand one behind the other: the first that is not finished is shown as it comes. all: so are those
 * that will not be finished. */
static mf_status show_answers(command *c, bool all) {
    for (; c->showing < c->prompts; c->showing++) {
        mf_answer *a = &c->answer[c->showing];
        if (c->prompts > 1 && !a->shown && (a->said.count || a->finish || all))
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
    mf_answer *a = &c->answer[prompt];
    const char *said = NULL;
    size_t bytes = 0;
    a->finish = finish;
    if (finish) {
        MF_TRY(mf_voice_end(a->voice, &said, &bytes));
    } else {
        MF_TRY(mf_ids_add(&a->made, id));
        MF_TRY(mf_voice_say(a->voice, id, &said, &bytes));
    }
    MF_TRY(mf_bytes_add(&a->said, said, bytes));
    return c->s.json ? MF_OK : show_answers(c, false);
}

static mf_status tell_read(void *context, int64_t done, int64_t of) {
    (void)context;
    if (!isatty(STDERR_FILENO)) return MF_OK;
    fprintf(stderr, "\rprompts: %lld of %lld tokens%s", (long long)done, (long long)of,
            done == of ? "\r\033[K" : "");
    return MF_OK;
}

/* What texts and clips have in common. */
static mf_status find_model(command *c) {
    settings *s = &c->s;
    mf_generate_options *o = &c->options;
    MF_TRY(mf_run_settings_layout(&s->run, s->mesh, true, &o->mesh, &o->layout));
    MF_TRY(mf_run_settings_model(&s->run, "meshfold generate", &o->model));
    MF_TRY(mf_run_settings_threads(&s->run, mf_mesh_ranks(&o->mesh), &o->threads));
    MF_TRY(mf_device_choose("device", &s->run.device));
    o->device = s->run.device;
    return mf_generate_clips_check(&c->flags, o->model.config.family == MF_STDIT);
}

static mf_status make_clips(command *c) {
    mf_clips_request request = {.clips = &c->s.clips,
                                .run = &c->s.run,
                                .mesh = c->s.mesh,
                                .seed = (uint64_t)c->s.seed,
                                .json = c->s.json,
                                .model = c->options.model,
                                .spec = c->options.mesh,
                                .layout = c->options.layout,
                                .threads = c->options.threads};
    return mf_generate_clips_run(&request);
}

static mf_status prepare(command *c) {
    settings *s = &c->s;
    mf_generate_options *o = &c->options;
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

static mf_status run(command *c) {
    MF_TRY(find_model(c));
    if (c->options.model.config.family == MF_STDIT) return make_clips(c);
    MF_TRY(prepare(c));
    int ranks = mf_mesh_ranks(&c->options.mesh);
    MF_TRY(mf_run_settings_check_started(&c->s.run, c->s.mesh, ranks));
    c->options.enough = mf_stop_signals_catch();
    MF_TRY(mf_run_settings_launch(&c->s.run, ranks, body, c));
    if (!c->reports) return MF_OK;
    mf_generate_report report = {.result = &c->result,
                                 .mesh = &c->options.mesh,
                                 .mesh_text = c->s.mesh,
                                 .device = c->s.run.device,
                                 .positions = c->options.model.config.positions,
                                 .prompts = c->prompts,
                                 .answer = c->answer};
    if (c->s.json) return mf_generate_print_json(&report);
    MF_TRY(show_answers(c, true));
    mf_generate_print(&report);
    return MF_OK;
}

static void drop(command *c) {
    for (int i = 0; i < c->prompts; i++) {
        mf_answer *a = &c->answer[i];
        mf_ids_free(&a->prompt);
        mf_ids_free(&a->made);
        mf_voice_destroy(a->voice);
        mf_bytes_free(&a->said);
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
