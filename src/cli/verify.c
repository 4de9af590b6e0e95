/* verify.c: `meshfold verify`: one model's loss and gradients on several meshes, each against the first's. */
#include "cli/commands.h"
#include "cli/device_choice.h"
#include "cli/model_text.h"
#include "cli/text.h"
#include "cli/verify_report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef mf_verify_settings settings;
typedef mf_verify_candidate candidate;
typedef mf_verify_command command;

static void add_inputs(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Model and data");
    mf_run_settings_add_model(&s->run, t, true);
    mf_run_settings_add_data(&s->run, t, &s->data, false,
                             "text files and folders, a byte a token, or a NAME.bin that meshfold tokenize "
                             "made (default: uniformly random ids)");
    mf_table_add(t, MF_INT("seq", &s->seq, "256", 1, 1 << 28, "tokens of a text's sequence"));
    mf_run_settings_add_clip(&s->run, t, true);
    mf_table_add(t, MF_INT("batch", &s->batch, "1", 1, 1 << 20,
                           "sequences that each dp replica computes at once; every mesh computes the same "
                           "ones, as many as fill all replicas of each"));
    mf_table_add(t, MF_INT("seed", &s->run.seed, "1", 0, 9007199254740992.0,
                           "decides the initial weights and which sequences are drawn"));
    mf_run_settings_add_numbers(&s->run, t);
}

static void add_layouts(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Layouts");
    mf_run_settings_add_meshes(&s->run, t, &s->mesh,
                               "two or more, each as in meshfold train, with the flags below in it "
                               "where they differ, as in sp=4,exchange=ring; the first is what the "
                               "others are compared with");
    mf_table_group(t, "Engine");
    mf_run_settings_add_engine(&s->run, t);
    mf_table_add(t, MF_TEXT("reference-device", &s->reference_device, "NAME",
                            "what computes the first mesh, so that devices can be compared (default: as "
                            "--device)"));
}

static void add_outputs(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Comparison");
    mf_table_add(t, MF_REAL("tolerance", &s->tolerance, NULL, 0, 1,
                            "largest relative error that agrees (default: 1e-5 in f32, 2e-2 in bf16)"));
    mf_table_add(t, MF_SWITCH("all", &s->all, "list every parameter, not each kind's worst layer"));
    mf_table_add(t, MF_SWITCH("json", &s->json, "print one JSON object, with every parameter"));
}

static void describe(command *c) {
    add_inputs(&c->s, &c->table);
    add_layouts(&c->s, &c->table);
    add_outputs(&c->s, &c->table);
    c->flags = (mf_flags){.command = "meshfold verify",
                          .usage = "--model PRESET|PATH --mesh MESH MESH... [flags]",
                          .about = "computes loss and gradients of one model on several meshes and compares "
                                   "them",
                          .groups = c->table.group,
                          .group_count = c->table.groups};
    mf_run_settings_begin(&c->s.run);
    c->s.tolerance = -1;
}

static void help(command *c) {
    mf_flags_help(&c->flags, stdout);
    mf_print_presets();
    printf(
        "\nExit status: 0 when all agree, 1 when one does not or a run failed, 2 for a mistake in flags or "
        "inputs.\n"
        "\nExamples\n"
        "  meshfold verify --model demo --mesh single tsp=4 tp=2,sp=2,exchange=ring\n"
        "  meshfold verify --init runs/demo/model --data book.txt --mesh tsp=2 --mesh dp=2 --dtype bf16\n"
        "  mpiexec -n 4 meshfold verify --model demo --mesh single tsp=4 tp=4\n");
}

static int64_t replicas(const candidate *k) {
    return mf_axes_ranks(&k->options.mesh, k->options.layout.data);
}

/* Under mpiexec a mesh of one rank runs beside those of all processes. */
static mf_status check_ranks(const command *c, const candidate *k) {
    int ranks = mf_mesh_ranks(&k->options.mesh);
    if (ranks == 1 && mf_launched_by_mpi()) return MF_OK;
    return mf_run_settings_check_started(&c->s.run, k->text, ranks);
}

static mf_status check_model(const candidate *k) {
    const mf_verify_options *o = &k->options;
    char flag[128];
    snprintf(flag, sizeof flag, "--mesh %.100s", k->text);
    return mf_blame(flag, mf_model_check(&o->model, &o->layout, &o->mesh));
}

static mf_status prepare_candidate(command *c, candidate *k) {
    mf_verify_options *o = &k->options;
    MF_TRY(mf_run_settings_layout(&c->s.run, k->text, false, &o->mesh, &o->layout));
    MF_TRY(check_ranks(c, k));
    o->device = k == c->candidate ? c->s.reference_device : c->s.run.device;
    o->model = c->model;
    o->init_from = c->s.run.init;
    MF_TRY(mf_run_settings_threads(&c->s.run, mf_mesh_ranks(&o->mesh), &o->threads));
    return check_model(k);
}

static int64_t divisor(int64_t a, int64_t b) { return b ? divisor(b, a % b) : a; }

/* The fewest sequences that every mesh can share out. */
static mf_status count_sequences(command *c) {
    c->sequences = c->s.batch;
    for (int i = 0; i < c->count; i++) {
        int64_t unit = c->s.batch * replicas(&c->candidate[i]);
        c->sequences = c->sequences / divisor(c->sequences, unit) * unit;
        if (c->sequences > 1 << 30)
            return MF_FAIL(MF_EINVAL,
                           "--mesh: more than %d sequences would fill the dp replicas of every mesh",
                           1 << 30);
    }
    return MF_OK;
}

/* A sequence's labels are its ids, one later. */
static void draw_ids(command *c, int64_t sequence, int32_t *ids, int32_t *labels) {
    uint64_t key = mf_random_key("random ids"), vocab = (uint64_t)c->model.config.vocab;
    for (int64_t i = 0; i <= c->s.seq; i++) {
        uint64_t index = (uint64_t)(sequence * (c->s.seq + 1) + i);
        int32_t id = (int32_t)(mf_random_u64(c->model.seed, key, index) % vocab);
        if (i < c->s.seq) ids[i] = id;
        if (i > 0) labels[i - 1] = id;
    }
}

static mf_status load_text(command *c, mf_dataset *out) {
    MF_TRY(mf_run_settings_text(&c->s.run, &c->s.data, c->model.config.vocab, &c->text));
    return mf_dataset_make(&c->text, c->s.seq, out);
}

static mf_status draw(command *c) {
    int64_t seq = c->s.seq;
    mf_dataset data = {0};
    if (c->model.config.family == MF_STDIT) return MF_OK; /* each run draws its own */
    if (c->s.data.count) MF_TRY(load_text(c, &data));
    MF_TRY(mf_host_alloc((size_t)c->sequences, (size_t)seq * sizeof *c->ids, &c->ids));
    MF_TRY(mf_host_alloc((size_t)c->sequences, (size_t)seq * sizeof *c->labels, &c->labels));
    if (c->model.packed)
        MF_TRY(mf_host_alloc((size_t)c->sequences, (size_t)seq * sizeof *c->documents, &c->documents));
    for (int64_t i = 0; i < c->sequences; i++) {
        int32_t *ids = c->ids + i * seq, *labels = c->labels + i * seq;
        if (c->s.data.count)
            mf_dataset_draw(&data, seq, c->model.seed, (uint64_t)i, ids, labels);
        else
            draw_ids(c, i, ids, labels);
        if (c->documents) mf_text_documents(&c->text, ids, seq, c->documents + i * seq);
    }
    return MF_OK;
}

static mf_status prepare(command *c) {
    settings *s = &c->s;
    c->count = s->mesh.count;
    if (c->count < 2)
        return MF_FAIL(MF_EINVAL, "--mesh %.100s: one mesh has nothing to be compared with: give two or more",
                       s->mesh.items[0]);
    if (s->run.packed && !s->data.count)
        return MF_FAIL(MF_EINVAL, "--packed: needs --data: random ids are no documents");
    MF_TRY(mf_device_choose("device", &s->run.device));
    if (!s->reference_device) s->reference_device = s->run.device;
    MF_TRY(mf_device_choose("reference-device", &s->reference_device));
    MF_TRY(mf_run_settings_model(&s->run, "meshfold verify", &c->model));
    c->model.batch = s->batch;
    MF_TRY(
        mf_run_settings_shape(&s->run, mf_flags_given(&c->flags, "seq"), s->seq, s->run.frames, &c->model));
    if (c->model.config.family == MF_STDIT && s->data.count)
        return MF_FAIL(MF_EUNSUPPORTED, "--data: a model of videos is verified on random clips");
    if (s->tolerance < 0) s->tolerance = c->model.type == MF_F32 ? 1e-5 : 2e-2;
    MF_TRY(mf_host_alloc((size_t)c->count, sizeof *c->candidate, &c->candidate));
    for (int i = 0; i < c->count; i++) {
        c->candidate[i].text = s->mesh.items[i];
        MF_TRY(prepare_candidate(c, &c->candidate[i]));
    }
    MF_TRY(count_sequences(c));
    return draw(c);
}

static const char *source_of(const command *c) {
    if (c->model.config.family == MF_STDIT) return "random values";
    if (c->s.run.packed) return "from the text of --data, documents apart";
    return c->s.data.count ? "from the text of --data" : "uniformly random ids";
}

static void print_header(const command *c) {
    const mf_model_config *m = &c->model.config;
    const settings *s = &c->s;
    char text[MF_MODEL_TEXT], device[MF_DEVICE_WORDS];
    mf_device_words(s->run.device, device);
    printf("device     %s: %s; the reference's is %s\n", s->run.device, device, s->reference_device);
    printf("model      %s: %lld parameters, %s\n", s->run.model ? s->run.model : s->run.init,
           (long long)mf_config_params(m), mf_config_text(m, text));
    printf("data       %s, %s\n", mf_amount_text(&c->model, c->sequences, text), source_of(c));
    printf("numbers    %s, recompute %s, seed %lld%s%s; tolerance %g\n", s->run.dtype, s->run.recompute,
           (long long)s->run.seed, s->run.init ? ", weights of " : "", s->run.init ? s->run.init : "",
           s->tolerance);
    printf("reference  %s\n\n", c->candidate[0].text);
    fflush(stdout);
}

static void print_progress(const command *c) {
    const candidate *k = &c->candidate[c->at];
    int ranks = mf_mesh_ranks(&k->options.mesh);
    fprintf(stderr, "running %d of %d: %s, %d rank%s, %d thread%s each\n", c->at + 1, c->count, k->text,
            ranks, mf_plural(ranks), k->options.threads, mf_plural(k->options.threads));
}

/* On the rank that will have the results. */
static void begin(command *c) {
    c->speaks = true;
    if (c->s.json) return;
    if (c->at == 0) print_header(c);
    print_progress(c);
}

static mf_status run_one(mf_world *world, void *argument) {
    command *c = argument;
    candidate *k = &c->candidate[c->at];
    mf_verify_options options = k->options;
    options.sequences = c->sequences;
    options.ids = c->ids;
    options.labels = c->labels;
    options.documents = c->documents;
    mf_verify_observer observer = {0};
    if (mf_world_rank(world) == 0) {
        begin(c);
        observer = c->at == 0 ? mf_verify_keep(&c->reference) : mf_verify_compare(&c->reference, &k->errors);
    }
    return mf_verify_run(world, &options, &observer);
}

static mf_status run_all(mf_world *world, void *argument) {
    command *c = argument;
    for (c->at = 0; c->at < c->count; c->at++) MF_TRY(run_one(world, c));
    return MF_OK;
}

/* What went wrong with a file did so whatever the mesh. */
static mf_status blame_mesh(const command *c, mf_status status) {
    mf_error error = *mf_error_last();
    if (!status || status == MF_EIO || status == MF_EFORMAT || c->at >= c->count) return status;
    snprintf(error.message, sizeof error.message, "--mesh %.100s: %.400s", c->candidate[c->at].text,
             mf_error_last()->message);
    return mf_error_adopt(&error);
}

/* MPI starts once in a process: there, one launch runs every mesh. */
static mf_status launch(command *c) {
    mf_run_settings *run = &c->s.run;
    if (mf_run_settings_mpi(run))
        return blame_mesh(c, mf_run_settings_launch(run, mf_mpi_ranks(), run_all, c));
    for (c->at = 0; c->at < c->count; c->at++) {
        int ranks = mf_mesh_ranks(&c->candidate[c->at].options.mesh);
        MF_TRY(blame_mesh(c, mf_run_settings_launch(run, ranks, run_one, c)));
    }
    return MF_OK;
}

static void free_all(command *c) {
    for (int i = 0; c->candidate && i < c->count; i++) mf_verify_errors_free(&c->candidate[i].errors);
    mf_verify_reference_free(&c->reference);
    mf_host_free(c->candidate);
    mf_host_free(c->ids);
    mf_host_free(c->labels);
    mf_host_free(c->documents);
    mf_text_free(&c->text);
    mf_flags_free(&c->flags);
}

static mf_status run(command *c) {
    MF_TRY(prepare(c));
    MF_TRY(launch(c));
    return c->speaks ? mf_verify_report(c) : MF_OK;
}

int mf_command_verify(int argc, char **argv) {
    command c = {0};
    describe(&c);
    mf_status status = mf_flags_parse(&c.flags, argc, argv);
    if (!status && c.flags.help)
        help(&c);
    else if (!status)
        status = run(&c);
    bool compared = !status && !c.flags.help && c.speaks;
    int code = status ? mf_report_error(status) : compared && mf_verify_agreeing(&c) < c.count - 1;
    if (c.s.run.launched && status) mf_abort_peers(code);
    free_all(&c);
    return code;
}
