/* train.c: `meshfold train`. */
#include "cli/commands.h"
#include "cli/device_choice.h"
#include "cli/predict.h"
#include "cli/resume.h"
#include "cli/run_folder.h"
#include "cli/run_settings.h"
#include "cli/shortage.h"
#include "cli/stop_signal.h"
#include "cli/text.h"
#include "cli/train_report.h"

#include <stdlib.h>
#include <string.h>

typedef struct settings {
    mf_run_settings run;
    const char *mesh, *out;
    mf_words data;
    int64_t seq, batch, accumulate, steps, warmup, eval_every, eval_batches, save_every, keep;
    double lr, min_lr, beta1, beta2, eps, weight_decay, clip;
    bool force, json;
} settings;

typedef struct command {
    settings s;
    mf_flag_table table;
    mf_flags flags;
    mf_text text;
    mf_video_set *clips;
    mf_train_options options;
    mf_train_report report;
    mf_resume resume;
    json_t *resolved;
    char *save_to, *checkpoints, *kept_settings;
    mf_cluster *machine; /* NULL: not calibrated */
} command;

static void add_inputs(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Model and data");
    mf_run_settings_add_model(&s->run, t, true);
    mf_run_settings_add_data(
        &s->run, t, &s->data, true,
        "text files and folders, a byte a token, or a NAME.bin that meshfold tokenize "
        "made; the last tenth is held out. Of a model of videos: .npy and .y4m files, and "
        "folders of them; NAME.condition.npy beside each where the model has a condition");
    mf_table_add(t, MF_INT("seq", &s->seq, "256", 1, 1 << 28, "tokens of a text's sequence"));
    mf_run_settings_add_clip(&s->run, t, true);
    mf_table_add(t, MF_INT("seed", &s->run.seed, "1", 0, 9007199254740992.0,
                           "decides the initial weights and which sequences are drawn"));
}

static void add_layout(settings *s, mf_flag_table *t) {
    mf_run_settings_add_mesh(&s->run, t, &s->mesh,
                             "single, or axes and their ranks: tsp folds weights and tokens on one axis, tp "
                             "cuts weights, sp tokens, dsp clips of video, dp sequences; the flags below may "
                             "stand here too, as in sp=4,stream=gather");
    mf_run_settings_add_zero(&s->run, t);
    mf_table_group(t, "Engine");
    mf_run_settings_add_engine_or_one(&s->run, t);
}

static void add_step(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Step");
    mf_table_add(t, MF_INT("steps", &s->steps, "200", 1, 1 << 30, "optimizer steps"));
    mf_table_add(t, MF_INT("batch", &s->batch, "1", 1, 1 << 20,
                           "sequences that each dp replica computes at once (a micro-batch)"));
    mf_table_add(t, MF_INT("accumulate", &s->accumulate, "1", 1, 1 << 20,
                           "micro-batches whose gradients make one step"));
    mf_run_settings_add_numbers(&s->run, t);
}

static void add_optimizer(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Optimizer (AdamW)");
    mf_table_add(t, MF_REAL("lr", &s->lr, "1e-3", 0, 1e6, "learning rate after warm-up"));
    mf_table_add(t, MF_INT("warmup", &s->warmup, NULL, 0, 1 << 30,
                           "steps of linear warm-up (default: a twentieth of the steps)"));
    mf_table_add(
        t, MF_REAL("min-lr", &s->min_lr, NULL, 0, 1e6, "where the cosine ends (default: a tenth of --lr)"));
    mf_table_add(t, MF_REAL("beta1", &s->beta1, "0.9", 0, 0.999999, "decay of the first moment"));
    mf_table_add(t, MF_REAL("beta2", &s->beta2, "0.95", 0, 0.999999, "decay of the second moment"));
    mf_table_add(t, MF_REAL("eps", &s->eps, "1e-8", 1e-30, 1, "added to the root of the second moment"));
    mf_table_add(t, MF_REAL("weight-decay", &s->weight_decay, "0.1", 0, 1e3,
                            "of the matrices that ranks share out; the rest, as norms and biases, has none"));
    mf_table_add(t, MF_REAL("clip", &s->clip, "1", 0, 1e9, "largest global gradient norm; 0: no clipping"));
}

static void add_outputs(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Output");
    mf_table_add(t, MF_INT("eval-every", &s->eval_every, "0", 0, 1 << 30,
                           "steps between evaluations; 0: at the end only"));
    mf_table_add(t, MF_INT("eval-batches", &s->eval_batches, "200", 0, 1 << 30,
                           "held-out batches that an evaluation reads at most; 0: all"));
    mf_table_add(t, MF_TEXT("out", &s->out, "DIR",
                            "folder for the settings, the metrics, the summary and the trained model "
                            "(default: nothing is written)"));
    mf_table_add(t, MF_SWITCH("force", &s->force, "write into --out although it holds something"));
    mf_table_add(t, MF_SWITCH("json", &s->json,
                              "print one JSON object a line: each step, each evaluation, the summary"));
}

static void add_checkpoints(command *c) {
    settings *s = &c->s;
    mf_flag_table *t = &c->table;
    mf_table_group(t, "Checkpoints");
    mf_table_add(t, MF_INT("save-every", &s->save_every, NULL, 0, 1 << 30,
                           "steps between checkpoints in --out; one more is written at the end, and when "
                           "SIGINT, SIGTERM or SIGUSR1 asks the run to stop; 0: only then (default: none)"));
    mf_table_add(t, MF_INT("keep", &s->keep, "2", 2, 1 << 20, "newest checkpoints that stay"));
    mf_table_add(t,
                 MF_TEXT("resume", &c->resume.folder, "DIR",
                         "go on with the run in this folder from its newest whole checkpoint, or from this "
                         "checkpoint, on any mesh; all flags are the run's, but for those given"));
}

static void describe(command *c) {
    add_inputs(&c->s, &c->table);
    add_layout(&c->s, &c->table);
    add_step(&c->s, &c->table);
    add_optimizer(&c->s, &c->table);
    add_outputs(&c->s, &c->table);
    add_checkpoints(c);
    c->flags = (mf_flags){
        .command = "meshfold train",
        .usage = "--model PRESET|PATH --data PATH... | --resume DIR [flags]",
        .about =
            "trains a transformer on text or videos, its weights and sequences cut over ranks as --mesh says",
        .groups = c->table.group,
        .group_count = c->table.groups,
        .inherit = mf_resume_inherit,
        .inherit_context = &c->resume};
    mf_run_settings_begin(&c->s.run);
    c->s.save_every = -1;
    c->s.warmup = -1;
    c->s.min_lr = -1;
}

static void help(command *c) {
    mf_flags_help(&c->flags, stdout);
    mf_print_presets();
    printf(
        "\nExamples\n"
        "  meshfold train --model demo --data book.txt --mesh tsp=2 --out runs/demo\n"
        "  meshfold train --init runs/demo/model --data book.txt --mesh tsp=2 --out runs/more\n"
        "  meshfold train --config runs/demo/resolved.json --out runs/again\n"
        "  meshfold train --model demo --data book.txt --mesh dp=2,tp=2 --reduction scatter\n"
        "  mpiexec -n 4 meshfold train --model demo --data book.txt --mesh tsp=4 --out runs/demo4\n"
        "  meshfold train --model stdit-shapes --data shapes.npy --mesh dsp=2 --batch 8 --out runs/shapes\n"
        "  meshfold train --model demo --data book.txt --out runs/long --save-every 100\n"
        "  meshfold train --resume runs/long --mesh tsp=2 --steps 400\n");
}

/* Defaults that depend on other settings; they are written to resolved.json like the rest. */
static mf_status fill_defaults(command *c) {
    settings *s = &c->s;
    int threads = 0;
    MF_TRY(mf_run_settings_threads(&s->run, mf_mesh_ranks(&c->options.mesh), &threads));
    s->run.threads = threads;
    if (s->warmup < 0) s->warmup = s->steps / 20;
    if (s->min_lr < 0) s->min_lr = s->lr / 10;
    MF_TRY(mf_device_choose("device", &s->run.device));
    mf_flags_settle(&c->flags, "threads");
    mf_flags_settle(&c->flags, "warmup");
    mf_flags_settle(&c->flags, "min-lr");
    return MF_OK;
}

/* A resumed run leaves the folder that it was in as it is. */
static bool is_elsewhere(const command *c) {
    const char *run = c->resume.run, *out = c->s.out;
    return c->resume.folder && (!run || !out || strcmp(run, out) != 0);
}

static void fill_options(command *c) {
    const settings *s = &c->s;
    mf_train_options *o = &c->options;
    o->model.batch = s->batch;
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
    o->threads = (int)s->run.threads;
    o->device = s->run.device;
    o->init_from = s->run.init;
    o->save_to = c->save_to;
    o->checkpoints = c->checkpoints;
    o->save_every = s->save_every;
    o->keep = (int)s->keep;
    o->settings = c->kept_settings;
    o->resume_from = c->resume.from;
    c->report = (mf_train_report){.json = s->json,
                                  .folder = s->out,
                                  .elsewhere = is_elsewhere(c),
                                  .resolved = c->resolved,
                                  .recompute = s->run.recompute,
                                  .dtype = s->run.dtype,
                                  .options = o,
                                  .machine = c->machine,
                                  .borrows = !s->run.no_borrow,
                                  .one_of = mf_run_settings_one_of(&s->run)};
}

/* A resumed run's model is the checkpoint's, wherever --model's file has gone since. */
static mf_status find_model(command *c) {
    mf_run_settings *s = &c->s.run;
    const char *name = s->model;
    if (c->resume.config) s->model = c->resume.config;
    MF_TRY(mf_run_settings_model(s, "meshfold train", &c->options.model));
    s->model = name;
    return MF_OK;
}

static mf_status resolve(command *c) {
    MF_TRY(mf_flags_resolved(&c->flags, &c->resolved));
    if (c->resume.folder) MF_TRY(mf_resume_check(&c->resume, &c->flags, c->resolved));
    json_object_del(c->resolved, "resume");
    if (c->options.model.config.family == MF_STDIT) json_object_del(c->resolved, "seq"); /* it is of texts */
    return MF_OK;
}

/* The settings that checkpoints keep have so many digits that they come back as they are. */
static mf_status name_outputs(command *c) {
    const settings *s = &c->s;
    if (s->save_every >= 0 && !s->out)
        return MF_FAIL(MF_EINVAL, "--save-every %lld needs --out: checkpoints are written there",
                       (long long)s->save_every);
    if (s->out) MF_TRY(mf_format(&c->save_to, "%s/model", s->out));
    if (s->save_every < 0) return MF_OK;
    MF_TRY(mf_format(&c->checkpoints, "%s/checkpoints", s->out));
    c->kept_settings = json_dumps(c->resolved, JSON_COMPACT | JSON_REAL_PRECISION(17));
    return c->kept_settings ? MF_OK : MF_FAIL(MF_ENOMEM, "no memory for the settings");
}

static mf_status load_text(command *c) {
    const settings *s = &c->s;
    MF_TRY(mf_run_settings_text(&s->run, &s->data, c->options.model.config.vocab, &c->text));
    return mf_dataset_make(&c->text, s->seq, &c->options.data);
}

static mf_status load_clips(command *c) {
    const mf_model_options *m = &c->options.model;
    const mf_video_config *v = &m->config.video;
    mf_video_need need = {.frames = m->grid.frames,
                          .height = m->grid.rows * v->patch,
                          .width = m->grid.columns * v->patch,
                          .patch = v->patch,
                          .condition_tokens = v->condition_tokens,
                          .condition_channels = v->condition_channels};
    MF_TRY(mf_blame("--data", mf_video_set_open((const char *const *)c->s.data.items, c->s.data.count, &need,
                                                &c->clips)));
    c->options.clips = c->clips;
    if (mf_video_set_channels(c->clips) == v->channels) return MF_OK;
    return MF_FAIL(MF_EINVAL, "--data: clips have %lld channel%s, the model %lld",
                   (long long)mf_video_set_channels(c->clips), mf_plural(mf_video_set_channels(c->clips)),
                   (long long)v->channels);
}

static mf_status prepare(command *c) {
    settings *s = &c->s;
    MF_TRY(mf_run_settings_layout(&s->run, s->mesh, true, &c->options.mesh, &c->options.layout));
    MF_TRY(find_model(c));
    MF_TRY(mf_run_settings_shape(&s->run, mf_flags_given(&c->flags, "seq"), s->seq, s->run.frames,
                                 &c->options.model));
    MF_TRY(fill_defaults(c));
    MF_TRY(resolve(c));
    MF_TRY(name_outputs(c));
    MF_TRY(mf_machine_load(s->run.device, &c->machine));
    fill_options(c);
    MF_TRY(mf_train_check(&c->options));
    bool own = c->resume.folder && !is_elsewhere(c);
    if (s->out) MF_TRY(mf_run_folder_check(s->out, s->force || own));
    MF_TRY(c->options.model.config.family == MF_STDIT ? load_clips(c) : load_text(c));
    if (!c->resume.folder) return MF_OK;
    return mf_checkpoint_match(c->resume.found, &c->options, mf_train_digest(&c->options));
}

static mf_status body(mf_world *world, void *argument) {
    command *c = argument;
    mf_train_observer observer = mf_report_observer(&c->report);
    return mf_train(world, &c->options, &observer);
}

static mf_status launch(command *c) {
    int ranks = mf_mesh_ranks(&c->options.mesh);
    MF_TRY(mf_run_settings_check_started(&c->s.run, c->s.mesh, ranks));
    if (c->checkpoints) c->options.stop = mf_stop_signals_catch();
    return mf_run_settings_launch(&c->s.run, ranks, body, c);
}

static void free_all(command *c) {
    mf_report_close(&c->report);
    json_decref(c->resolved);
    mf_host_free(c->save_to);
    mf_host_free(c->checkpoints);
    free(c->kept_settings);
    mf_host_free(c->machine);
    mf_text_free(&c->text);
    mf_video_set_close(c->clips);
    mf_flags_free(&c->flags);
    mf_resume_free(&c->resume);
}

static void report_shortage(const command *c, mf_status status) {
    const mf_train_options *o = &c->options;
    mf_shortage_report(&(mf_shortage){.settings = &c->s.run,
                                      .mesh = c->s.mesh,
                                      .model = &o->model,
                                      .spec = &o->mesh,
                                      .layout = &o->layout,
                                      .accumulate = o->accumulate},
                       status);
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
    report_shortage(&c, status);
    if (status == MF_EIO && c.report.started) code = 1; /* what failed was an output */
    if (c.s.run.launched && status) mf_abort_peers(code);
    free_all(&c);
    return code;
}
