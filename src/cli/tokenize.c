/* tokenize.c: `meshfold tokenize`: files of text to a file of ids; what a text's ids are; what ids stand for.
 */
#include "cli/commands.h"
#include "cli/flag_table.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "cli/run_settings.h"
#include "cli/text.h"

#include "io/tokenize.h"
#include "meshfold/io.h"

#include <stdlib.h>
#include <string.h>

typedef struct command {
    const char *tokenizer, *out, *separator, *show;
    mf_words data, decode;
    int64_t threads;
    bool by_line, add_special, special_as_text, skip_special, json;
    mf_flag_table table;
    mf_flags flags;
    mf_tokenizer *opened;
} command;

static void describe(command *c) {
    mf_flag_table *t = &c->table;
    mf_table_group(t, "Tokenizer");
    mf_flag tokenizer = MF_TEXT("tokenizer", &c->tokenizer, "PATH", "a tokenizer.json, or a folder with one");
    tokenizer.required = true;
    mf_table_add(t, tokenizer);
    mf_table_add(t, MF_SWITCH("add-special", &c->add_special,
                              "put the tokenizer's own tokens (BOS, EOS) around each document"));
    mf_table_add(t, MF_SWITCH("special-as-text", &c->special_as_text,
                              "special tokens' names in the text are text like any other"));
    mf_table_group(t, "Files of text to a file of ids");
    mf_table_add(t, (mf_flag){.name = "data",
                              .kind = MF_FLAG_LIST,
                              .target = &c->data,
                              .value_name = "PATH",
                              .about = "text files and folders; each file is a document"});
    mf_table_add(
        t, MF_TEXT("out", &c->out, "NAME.bin",
                   "ids, little-endian, of 16 bits where the vocabulary allows; NAME.json describes them"));
    mf_table_add(
        t, MF_SWITCH("document-per-line", &c->by_line, "each line of a file is a document, without its end"));
    mf_flag separator =
        MF_TEXT("separator", &c->separator, "TOKEN",
                "what follows each document: eos, none, or a token as the tokenizer spells it");
    separator.fallback = "eos";
    mf_table_add(t, separator);
    mf_table_add(t,
                 MF_INT("threads", &c->threads, NULL, 1, 4096, "that encode (default: the cores there are)"));
    mf_table_group(t, "A look at a few");
    mf_table_add(
        t, MF_TEXT("show", &c->show, "TEXT", "print this text's ids, and the pieces that they stand for"));
    mf_table_add(t, (mf_flag){.name = "decode",
                              .kind = MF_FLAG_LIST,
                              .target = &c->decode,
                              .value_name = "ID",
                              .about = "print the text that these ids stand for"});
    mf_table_add(
        t, MF_SWITCH("skip-special", &c->skip_special, "leave special tokens out of what --decode prints"));
    mf_table_add(t, MF_SWITCH("json", &c->json, "print one JSON object"));
    c->flags =
        (mf_flags){.command = "meshfold tokenize",
                   .usage = "--tokenizer PATH (--data PATH... --out NAME.bin | --show TEXT | --decode ID...)",
                   .about = "turns text into token ids, as the tokenizer.json of a model says",
                   .groups = t->group,
                   .group_count = t->groups};
}

static void help(command *c) {
    mf_flags_help(&c->flags, stdout);
    printf("\nExamples\n"
           "  meshfold tokenize --tokenizer models/llama --data books --out books.bin\n"
           "  meshfold tokenize --tokenizer models/llama --show \"Hello, world\"\n"
           "  meshfold tokenize --tokenizer models/llama --decode 9906 11 1917\n");
}

/* Exactly one of the three things to do. */
static mf_status check(const command *c) {
    int asked = (c->data.count > 0) + (c->show != NULL) + (c->decode.count > 0);
    if (asked != 1)
        return MF_FAIL(MF_EINVAL, "give one of --data, --show and --decode; see meshfold tokenize --help");
    if (c->data.count && !c->out) return MF_FAIL(MF_EINVAL, "--data needs --out NAME.bin");
    if (!c->data.count && c->out) return MF_FAIL(MF_EINVAL, "--out needs --data");
    return MF_OK;
}

static mf_status find_separator(const command *c, int32_t *out) {
    *out = -1;
    if (!strcmp(c->separator, "none")) return MF_OK;
    bool eos = !strcmp(c->separator, "eos");
    *out = eos ? mf_tokenizer_eos(c->opened) : mf_tokenizer_find(c->opened, c->separator);
    if (*out >= 0) return MF_OK;
    if (eos)
        return MF_FAIL(MF_EINVAL,
                       "--separator eos: %s does not say which token ends a text; name one, or none",
                       mf_tokenizer_path(c->opened));
    return MF_FAIL(MF_EINVAL, "--separator %.100s: %s has no such token", c->separator,
                   mf_tokenizer_path(c->opened));
}

static void progress(void *context, int64_t done, int64_t all) { mf_progress_show(context, done, all); }

static mf_status report(const command *c, const mf_tokenize_result *r, double seconds) {
    char bytes[32], rate[32], spent[32];
    if (c->json) {
        json_t *object =
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:i, s:f}", "out", c->out, "files", (json_int_t)r->files,
                      "documents", (json_int_t)r->documents, "bytes", (json_int_t)r->bytes, "ids",
                      (json_int_t)r->ids, "id_bytes", r->width, "seconds", seconds);
        if (!object) return MF_FAIL(MF_ENOMEM, "no memory for the report");
        json_dumpf(object, stdout, JSON_REAL_PRECISION(6));
        printf("\n");
        json_decref(object);
        return MF_OK;
    }
    printf("%s: %lld ids of %d bits, from %lld document%s in %lld file%s\n", c->out, (long long)r->ids,
           8 * r->width, (long long)r->documents, mf_plural(r->documents), (long long)r->files,
           mf_plural(r->files));
    printf("%s of text, %.2f bytes an id, in %s: %s/s\n", mf_bytes_text((double)r->bytes, bytes),
           (double)r->bytes / (double)r->ids, mf_seconds_text(seconds, spent),
           mf_bytes_text((double)r->bytes / seconds, rate));
    return MF_OK;
}

static mf_status convert(command *c) {
    mf_machine machine;
    mf_progress shown;
    mf_tokenize_result result;
    mf_tokenize_options options = {.tokenizer = c->opened,
                                   .paths = c->data.items,
                                   .path_count = c->data.count,
                                   .out = c->out,
                                   .by_line = c->by_line,
                                   .encode = {c->add_special, c->special_as_text},
                                   .threads = (int)c->threads,
                                   .context = &shown,
                                   .progress = progress};
    MF_TRY(find_separator(c, &options.separator));
    if (!options.threads) {
        MF_TRY(mf_machine_look(&machine));
        options.threads = mf_machine_workers(&machine);
    }
    shown = mf_progress_begin();
    mf_status status = mf_tokenize(&options, &result);
    mf_progress_end(&shown);
    MF_TRY(status);
    return report(c, &result, mf_now_s() - shown.began_s);
}

static mf_status show_json(const command *c, const mf_ids *ids) {
    json_t *list = json_array();
    for (int64_t i = 0; i < ids->count; i++)
        json_array_append_new(list, json_pack("{s:i, s:s}", "id", (int)ids->id[i], "token",
                                              mf_tokenizer_token(c->opened, ids->id[i])));
    json_dumpf(list, stdout, JSON_COMPACT);
    printf("\n");
    json_decref(list);
    return MF_OK;
}

static mf_status show(const command *c) {
    mf_encoder *encoder = NULL;
    mf_ids ids = {0};
    mf_status status = MF_OK;
    const mf_encode_options options = {c->add_special, c->special_as_text};
    MF_GO(mf_encoder_create(c->opened, &encoder));
    MF_GO(mf_encode(encoder, c->show, (int64_t)strlen(c->show), &options, &ids));
    if (c->json)
        MF_GO(show_json(c, &ids));
    else
        for (int64_t i = 0; i < ids.count; i++)
            printf("%8d  %s\n", (int)ids.id[i], mf_tokenizer_token(c->opened, ids.id[i]));
fail:
    mf_encoder_destroy(encoder);
    mf_ids_free(&ids);
    return status;
}

static mf_status read_id(const command *c, const char *word, int32_t *out) {
    char *end = NULL;
    long id = strtol(word, &end, 10);
    *out = (int32_t)id;
    if (*word >= '0' && *word <= '9' && !*end && id < mf_tokenizer_size(c->opened)) return MF_OK;
    return MF_FAIL(MF_EINVAL, "--decode: %.100s is no id from 0 to %d", word,
                   (int)mf_tokenizer_size(c->opened) - 1);
}

static mf_status decode(const command *c) {
    mf_ids ids = {0};
    mf_status status = MF_OK;
    char *text = NULL;
    size_t bytes = 0;
    for (int i = 0; i < c->decode.count; i++) {
        int32_t id = -1;
        MF_GO(read_id(c, c->decode.items[i], &id));
        MF_GO(mf_ids_add(&ids, id));
    }
    MF_GO(mf_decode(c->opened, ids.id, ids.count, c->skip_special, &text, &bytes));
    fwrite(text, 1, bytes, stdout);
    printf("\n");
fail:
    mf_host_free(text);
    mf_ids_free(&ids);
    return status;
}

static mf_status run(command *c) {
    MF_TRY(check(c));
    MF_TRY(mf_blame("--tokenizer", mf_tokenizer_open(c->tokenizer, &c->opened)));
    if (c->data.count) return convert(c);
    return c->show ? show(c) : decode(c);
}

int mf_command_tokenize(int argc, char **argv) {
    command c = {0};
    describe(&c);
    mf_status status = mf_flags_parse(&c.flags, argc, argv);
    if (!status && c.flags.help)
        help(&c);
    else if (!status)
        status = run(&c);
    int code = status ? mf_report_error(status) : 0;
    mf_tokenizer_close(c.opened);
    mf_flags_free(&c.flags);
    return code;
}
