/* convert.c: `meshfold convert`: models between Hugging Face folders and checkpoints, and between types. */
#include "cli/commands.h"
#include "cli/flag_table.h"
#include "cli/progress.h"
#include "cli/text.h"

#include "meshfold/convert.h"

#include <stdlib.h>
#include <string.h>

typedef struct command {
    const char *from, *out, *format, *dtype, *shard_size;
    bool json;
    mf_flag_table table;
    mf_flags flags;
    mf_progress progress;
    mf_convert_result result;
} command;

static void describe(command *c) {
    mf_flag_table *t = &c->table;
    mf_table_group(t, "From and to");
    mf_flag from =
        MF_TEXT("from", &c->from, "DIR",
                "a Hugging Face model folder, a run's folder or a folder of checkpoints (the newest "
                "whole one is taken), or a checkpoint");
    from.required = true;
    mf_table_add(t, from);
    mf_flag out = MF_TEXT("out", &c->out, "DIR", "the new folder; it may be there if it is empty");
    out.required = true;
    mf_table_add(t, out);
    mf_table_add(
        t, MF_CHOICE("format", &c->format, "hf|checkpoint", "hf",
                     "what it becomes: a Hugging Face model folder, or a checkpoint that meshfold train "
                     "--resume begins with"));
    mf_table_group(t, "Tensors");
    mf_table_add(t, MF_CHOICE("dtype", &c->dtype, "f32|bf16|f16", NULL,
                              "type of all floats in a model folder (default: what they are; out of a "
                              "checkpoint, what its run computed in)"));
    mf_flag shard_size =
        MF_TEXT("shard-size", &c->shard_size, "SIZE",
                "where a file ends and the next begins: a number and KB, MB, GB, KiB, MiB or GiB");
    shard_size.fallback = "5GB";
    mf_table_add(t, shard_size);
    mf_table_group(t, "Output");
    mf_table_add(t, MF_SWITCH("json", &c->json, "print one JSON object"));
    c->flags = (mf_flags){.command = "meshfold convert",
                          .usage = "--from DIR --out DIR [flags]",
                          .about = "turns models into Hugging Face folders, checkpoints, and other types",
                          .groups = t->group,
                          .group_count = t->groups};
}

static void help(const command *c) {
    mf_flags_help(&c->flags, stdout);
    printf(
        "\nExamples\n"
        "  meshfold convert --from runs/long --out long-bf16 --dtype bf16\n"
        "  meshfold convert --from runs/long/checkpoints/step-000100 --out long-100\n"
        "  meshfold convert --from models/llama --out models/llama-parts --shard-size 500MB\n"
        "  meshfold convert --from models/llama --out runs/more/checkpoints/step-000000 --format checkpoint\n"
        "  meshfold train --resume runs/more --data book.txt --seq 4096 --mesh tsp=2 --save-every 100\n");
}

static mf_status read_size(const char *text, int64_t *out) {
    static const struct unit {
        const char *name;
        double bytes;
    } units[] = {{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}};
    char *end = NULL;
    double number = strtod(text, &end);
    bool plain = end == text + strspn(text, ".0123456789"); /* strtod alone would take "0x1p3" and "1e3" */
    for (size_t i = 0; i < sizeof units / sizeof *units && plain; i++) {
        double bytes = number * units[i].bytes;
        if (strcmp(end, units[i].name) != 0 || bytes < 1 || bytes >= 0x1p62) continue;
        *out = (int64_t)bytes;
        return MF_OK;
    }
    return MF_FAIL(MF_EINVAL,
                   "--shard-size %.100s: expected a number and KB, MB, GB, KiB, MiB or GiB, as in 5GB", text);
}

static mf_file_type type_of(const char *dtype) {
    if (!dtype) return MF_FILE_OTHER;
    if (strcmp(dtype, "f32") == 0) return MF_FILE_F32;
    return strcmp(dtype, "bf16") == 0 ? MF_FILE_BF16 : MF_FILE_F16;
}

static void passed_over(void *context, const char *path, const char *why) {
    (void)context, (void)path;
    fprintf(stderr, "passed over %s\n", why);
}

/* A checkpoint's parts are read before the first value is written. */
static void progress(void *context, int64_t done, int64_t bytes) {
    mf_progress *p = context;
    if (p->began_s == 0) *p = mf_progress_begin();
    mf_progress_show(p, done, bytes);
}

static void print(const command *c, double seconds) {
    const mf_convert_result *r = &c->result;
    char bytes[32], spent[32];
    printf("%s: %d tensors, %s in %d file%s, from %s in %s\n", c->out, r->tensors,
           mf_bytes_text((double)r->bytes, bytes), r->files, mf_plural(r->files), r->from,
           mf_seconds_text(seconds, spent));
    if (r->absent[0]) printf("without a tokenizer: %s, which its run began with, is gone\n", r->absent);
}

static mf_status print_json(const command *c, double seconds) {
    const mf_convert_result *r = &c->result;
    json_t *out = json_pack("{s:s, s:s, s:i, s:i, s:I, s:s?, s:f}", "out", c->out, "from", r->from, "tensors",
                            r->tensors, "files", r->files, "bytes", (json_int_t)r->bytes, "absent",
                            r->absent[0] ? r->absent : NULL, "seconds", seconds);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(out, stdout, JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(out);
    return MF_OK;
}

static mf_status run(command *c) {
    mf_checkpoint_observer observer = {.passed_over = passed_over};
    mf_convert_options options = {.from = c->from,
                                  .to = c->out,
                                  .checkpoint = strcmp(c->format, "checkpoint") == 0,
                                  .type = type_of(c->dtype),
                                  .observer = &observer,
                                  .context = &c->progress,
                                  .progress = progress};
    MF_TRY(read_size(c->shard_size, &options.shard_bytes));
    if (options.checkpoint && c->dtype)
        return MF_FAIL(MF_EINVAL,
                       "--dtype %s: a checkpoint's weights are f32; the run that begins with it chooses "
                       "its own --dtype",
                       c->dtype);
    double began = mf_now_s();
    mf_status status = mf_model_convert(&options, &c->result);
    mf_progress_end(&c->progress);
    MF_TRY(status);
    double seconds = mf_now_s() - began;
    if (c->json) return print_json(c, seconds);
    print(c, seconds);
    return MF_OK;
}

int mf_command_convert(int argc, char **argv) {
    command c = {0};
    describe(&c);
    mf_status status = mf_flags_parse(&c.flags, argc, argv);
    if (!status && c.flags.help)
        help(&c);
    else if (!status)
        status = run(&c);
    int code = status ? mf_report_error(status) : 0;
    if (status == MF_EIO && c.result.writing) code = 1; /* what failed was an output */
    mf_flags_free(&c.flags);
    return code;
}
