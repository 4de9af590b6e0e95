/* train.c: `meshfold train`. */
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/machine.h"
#include "cli/run_folder.h"
#include "cli/train_report.h"

#include <math.h>
#include <string.h>

typedef struct settings {
    const char *model, *init, *mesh, *engine, *dtype, *recompute, *out;
    mf_words data;
    int64_t seq, batch, accumulate, steps, warmup, threads, seed, eval_every, eval_batches;
    double lr, min_lr, beta1, beta2, eps, weight_decay, clip, comm_timeout;
    bool no_borrow, force, json;
} settings;

enum { GROUPS = 5, FLAGS_MAX = 10 };

typedef struct command {
    settings s;
    mf_flag table[GROUPS][FLAGS_MAX];
    mf_flag_group groups[GROUPS];
    mf_flags flags;
    mf_text text;
    mf_train_options options;
    mf_train_report report;
    json_t *resolved;
    char *save_to;
    bool launched;
} command;

static void add(command *c, int group, mf_flag flag) {
    mf_flag_group *g = &c->groups[group];
    c->table[group][g->count++] = flag;
    g->flags = c->table[group];
}

#define INT(field, flag, value, min, max, text)                                                              \
    (mf_flag) {                                                                                              \
        .name = flag, .kind = MF_FLAG_INT, .target = &c->s.field, .fallback = value, .low = min,             \
        .high = max, .about = text                                                                           \
    }
#define REAL(field, flag, value, min, max, text)                                                             \
    (mf_flag) {                                                                                              \
        .name = flag, .kind = MF_FLAG_REAL, .target = &c->s.field, .fallback = value, .low = min,            \
        .high = max, .about = text                                                                           \
    }
#define SWITCH(field, flag, text)                                                                            \
    (mf_flag) {                                                                                              \
        .name = flag, .kind = MF_FLAG_SWITCH, .target = &c->s.field, .fallback = "false", .about = text      \
    }

static void add_inputs(command *c) {
    c->groups[0].title = "Model and data";
    add(c, 0,
        (mf_flag){.name = "model",
                  .kind = MF_FLAG_TEXT,
                  .target = &c->s.model,
                  .value_name = "PRESET|PATH",
                  .about = "a preset (see below), a Hugging Face config.json or a folder that holds one"});
    add(c, 0,
        (mf_flag){.name = "init",
                  .kind = MF_FLAG_TEXT,
                  .target = &c->s.init,
                  .value_name = "DIR",
                  .about = "start from the weights in this Hugging Face model folder, and its config.json "
                           "unless --model is given"});
    add(c, 0,
        (mf_flag){.name = "data",
                  .kind = MF_FLAG_LIST,
                  .target = &c->s.data,
                  .value_name = "PATH",
                  .required = true,
                  .about = "text files and folders; the last tenth is held out"});
    add(c, 0,
        INT(seq, "seq", "256", 1, 1 << 28, "tokens of a sequence; text is read as bytes, one token each"));
    add(c, 0,
        INT(seed, "seed", "1", 0, 9007199254740992.0,
            "decides the initial weights and which sequences are drawn"));
}

static void add_layout(command *c) {
    c->groups[1].title = "Layout";
    add(c, 1,
        (mf_flag){.name = "mesh",
                  .kind = MF_FLAG_TEXT,
                  .target = &c->s.mesh,
                  .fallback = "single",
                  .value_name = "AXIS=N",
                  .about = "single, or tsp=N: each of N ranks keeps 1/N of the weights and of "
                           "the tokens"});
    add(c, 1,
        (mf_flag){.name = "engine",
                  .kind = MF_FLAG_CHOICE,
                  .target = &c->s.engine,
                  .fallback = "auto",
                  .choices = "auto|local|mpi",
                  .about = "ranks as threads, or as processes that mpiexec started; "
                           "auto: mpi under mpiexec"});
    add(c, 1,
        INT(threads, "threads", NULL, 1, 4096,
            "compute threads of a rank (default: the cores divided by the ranks)"));
    add(c, 1,
        SWITCH(no_borrow, "no-borrow",
               "send weights, keys and gradients even where they could be read in place"));
    add(c, 1,
        REAL(comm_timeout, "comm-timeout", "300", 0.01, 1e9,
             "seconds that a rank waits for its peers, also while they compute, before the run fails"));
}

static void add_step(command *c) {
    c->groups[2].title = "Step";
    add(c, 2, INT(steps, "steps", "200", 1, 1 << 30, "optimizer steps"));
    add(c, 2, INT(batch, "batch", "1", 1, 1 << 20, "sequences computed at once (a micro-batch)"));
    add(c, 2, INT(accumulate, "accumulate", "1", 1, 1 << 20, "micro-batches whose gradients make one step"));
    add(c, 2,
        (mf_flag){.name = "dtype",
                  .kind = MF_FLAG_CHOICE,
                  .target = &c->s.dtype,
                  .fallback = "f32",
                  .choices = "f32|bf16",
                  .about = "type of weights and activations in the products; sums, "
                           "gradients, norms and the optimizer's weights are f32"});
    add(c, 2,
        (mf_flag){.name = "recompute",
                  .kind = MF_FLAG_CHOICE,
                  .target = &c->s.recompute,
                  .fallback = "none",
                  .choices = "none|attention|block",
                  .about = "what the backward pass computes again instead of keeping: more "
                           "time, less memory"});
}

static void add_optimizer(command *c) {
    c->groups[3].title = "Optimizer (AdamW)";
    add(c, 3, REAL(lr, "lr", "1e-3", 0, 1e6, "learning rate after warm-up"));
    add(c, 3,
        INT(warmup, "warmup", NULL, 0, 1 << 30,
            "steps of linear warm-up (default: a twentieth of the steps)"));
    add(c, 3, REAL(min_lr, "min-lr", NULL, 0, 1e6, "where the cosine ends (default: a tenth of --lr)"));
    add(c, 3, REAL(beta1, "beta1", "0.9", 0, 0.999999, "decay of the first moment"));
    add(c, 3, REAL(beta2, "beta2", "0.95", 0, 0.999999, "decay of the second moment"));
    add(c, 3, REAL(eps, "eps", "1e-8", 1e-30, 1, "added to the root of the second moment"));
    add(c, 3, REAL(weight_decay, "weight-decay", "0.1", 0, 1e3, "of all weights but the norms"));
    add(c, 3, REAL(clip, "clip", "1", 0, 1e9, "largest global gradient norm; 0: no clipping"));
}

static void add_outputs(command *c) {
    c->groups[4].title = "Output";
    add(c, 4,
        INT(eval_every, "eval-every", "0", 0, 1 << 30, "steps between evaluations; 0: at the end only"));
    add(c, 4,
        INT(eval_batches, "eval-batches", "200", 0, 1 << 30,
            "batches of the held-out text that an evaluation reads at most; 0: all"));
    add(c, 4,
        (mf_flag){.name = "out",
                  .kind = MF_FLAG_TEXT,
                  .target = &c->s.out,
                  .value_name = "DIR",
                  .about = "folder for the settings, the metrics, the summary and the trained model "
                           "(default: nothing is written)"});
    add(c, 4, SWITCH(force, "force", "write into --out although it holds something"));
    add(c, 4, SWITCH(json, "json", "print one JSON object a line: each step, each evaluation, the summary"));
}

static void describe(command *c) {
    add_inputs(c);
    add_layout(c);
    add_step(c);
    add_optimizer(c);
    add_outputs(c);
    c->flags =
        (mf_flags){.command = "meshfold train",
                   .usage = "--model PRESET|PATH --data PATH... [flags]",
                   .about = "trains a Llama on text, its weights and sequences cut over ranks as --mesh "
                            "says",
                   .groups = c->groups,
                   .group_count = GROUPS};
    c->s.threads = c->s.warmup = -1;
    c->s.min_lr = -1;
}

static void help(command *c) {
    const char *name, *about;
    mf_flags_help(&c->flags, stdout);
    printf("\nPresets\n");
    for (int i = 0; mf_config_preset_at(i, &name, &about); i++) printf("  %-12s %s\n", name, about);
    printf("\nExamples\n"
           "  meshfold train --model demo --data book.txt --mesh tsp=2 --out runs/demo\n"
           "  meshfold train --init runs/demo/model --data book.txt --mesh tsp=2 --out runs/more\n"
           "  meshfold train --config runs/demo/resolved.json --out runs/again\n"
           "  mpiexec -n 4 meshfold train --model demo --data book.txt --mesh tsp=4 --out runs/demo4\n");
}

/* Puts the flag that named an input before the error that came of it. */
static mf_status blame(const char *flag, mf_status status) {
    char message[sizeof mf_error_last()->message];
    if (!status) return MF_OK;
    snprintf(message, sizeof message, "%s", mf_error_last()->message);
    return MF_FAIL(status, "%s: %s", flag, message);
}

static mf_status find_model(command *c) {
    char *path = NULL;
    mf_model_config *config = &c->options.model.config;
    if (c->s.model) return blame("--model", mf_config_find(c->s.model, config));
    if (!c->s.init)
        return MF_FAIL(MF_EINVAL,
                       "meshfold train needs --model: a preset, a config.json or a folder that holds "
                       "one; or --init DIR; see meshfold train --help");
    MF_TRY(mf_format(&path, "%s/config.json", c->s.init));
    mf_status status = mf_config_load(path, config);
    mf_host_free(path);
    return blame("--init", status);
}

/* Defaults that depend on other settings; they are written to resolved.json like the rest. */
static mf_status fill_defaults(command *c) {
    settings *s = &c->s;
    if (s->threads < 0) {
        mf_machine machine;
        int ranks = mf_launched_by_mpi() ? mf_mpi_local_ranks() : mf_mesh_ranks(&c->options.mesh);
        MF_TRY(mf_machine_look(&machine));
        s->threads = mf_max(1, mf_machine_workers(&machine) / ranks);
    }
    if (s->warmup < 0) s->warmup = s->steps / 20;
    if (s->min_lr < 0) s->min_lr = s->lr / 10;
    mf_flags_settle(&c->flags, "threads");
    mf_flags_settle(&c->flags, "warmup");
    mf_flags_settle(&c->flags, "min-lr");
    return MF_OK;
}

static mf_recompute recompute_of(const char *word) {
    if (strcmp(word, "attention") == 0) return MF_RECOMPUTE_ATTENTION;
    return strcmp(word, "block") == 0 ? MF_RECOMPUTE_BLOCK : MF_RECOMPUTE_NONE;
}

static void fill_options(command *c) {
    const settings *s = &c->s;
    mf_train_options *o = &c->options;
    o->model.type = strcmp(s->dtype, "bf16") == 0 ? MF_BF16 : MF_F32;
    o->model.recompute = recompute_of(s->recompute);
    o->model.batch = s->batch;
    o->model.tokens = s->seq;
    o->model.seed = (uint64_t)s->seed;
    o->adam = (mf_adam_options){.lr = (float)s->lr,
                                .min_lr = (float)s->min_lr,
                                .beta1 = (float)s->beta1,
                                .beta2 = (float)s->beta2,
                                .eps = (float)s->eps,
                                .weight_decay = (float)s->weight_decay,
                                .clip = (float)s->clip,
                                .warmup = s->warmup,
                                .steps = s->steps};
    o->accumulate = s->accumulate;
    o->eval_every = s->eval_every;
    o->eval_batches = s->eval_batches;
    o->threads = (int)s->threads;
    o->init_from = s->init;
    o->save_to = c->save_to;
    c->report = (mf_train_report){.json = s->json,
                                  .folder = s->out,
                                  .resolved = c->resolved,
                                  .recompute = s->recompute,
                                  .dtype = s->dtype,
                                  .options = o};
}

static mf_status prepare(command *c) {
    MF_TRY(mf_mesh_parse(c->s.mesh, &c->options.mesh));
    MF_TRY(find_model(c));
    MF_TRY(fill_defaults(c));
    MF_TRY(mf_flags_resolved(&c->flags, &c->resolved));
    if (c->s.out) MF_TRY(mf_format(&c->save_to, "%s/model", c->s.out));
    fill_options(c);
    MF_TRY(mf_train_check(&c->options));
    if (c->s.out) MF_TRY(mf_run_folder_check(c->s.out, c->s.force));
    MF_TRY(blame("--data", mf_text_load(c->s.data.items, c->s.data.count, &c->text)));
    return mf_dataset_make(&c->text, c->s.seq, &c->options.data);
}

static mf_status body(mf_world *world, void *argument) {
    command *c = argument;
    mf_train_observer observer = mf_report_observer(&c->report);
    return mf_train(world, &c->options, &observer);
}

/* Said here and not by the engine, which knows nothing of meshes. */
static mf_status check_started(const char *mesh, int ranks) {
    int started = mf_mpi_ranks();
    if (ranks == started) return MF_OK;
    if (!mf_launched_by_mpi())
        return MF_FAIL(MF_EINVAL, "--engine mpi: --mesh %s needs mpiexec -n %d before meshfold", mesh, ranks);
    return MF_FAIL(MF_EINVAL,
                   "--mesh %s: is %d rank%s, but mpiexec started %d: give mpiexec -n %d or --mesh tsp=%d",
                   mesh, ranks, ranks == 1 ? "" : "s", started, ranks, started);
}

static mf_status launch(command *c) {
    bool mpi = strcmp(c->s.engine, "mpi") == 0 || (strcmp(c->s.engine, "auto") == 0 && mf_launched_by_mpi());
    if (mpi && *mf_mpi_description()) MF_TRY(check_started(c->s.mesh, mf_mesh_ranks(&c->options.mesh)));
    mf_launch_options options = {.engine = mpi ? "mpi" : "local",
                                 .ranks = mf_mesh_ranks(&c->options.mesh),
                                 .timeout_s = c->s.comm_timeout,
                                 .no_borrow = c->s.no_borrow};
    c->launched = true;
    return mf_launch(&options, body, c);
}

static void free_all(command *c) {
    mf_report_close(&c->report);
    json_decref(c->resolved);
    mf_host_free(c->save_to);
    mf_text_free(&c->text);
    mf_flags_free(&c->flags);
}

int mf_command_train(int argc, char **argv) {
    command c = {0};
    describe(&c);
    mf_status status = mf_flags_parse(&c.flags, argc, argv);
    if (!status && c.flags.help) {
        help(&c);
    } else if (!status) {
        status = prepare(&c);
        if (!status) status = launch(&c);
    }
    int code = status ? mf_report_error(status) : 0;
    if (status == MF_EIO && c.report.started) code = 1; /* what failed was an output */
    if (c.launched && status) mf_abort_peers(code);
    free_all(&c);
    return code;
}
