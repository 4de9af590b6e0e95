/* plan.c: `meshfold plan`: steps run dry on a described cluster: of the meshes that were given, or of all
 * that so many ranks can make. The fastest that fits comes first.
 */
#include "cli/commands.h"
#include "cli/device_choice.h"
#include "cli/machine.h"
#include "cli/plan_analytic.h"
#include "cli/plan_table.h"
#include "cli/plan_validate.h"
#include "cli/predict.h"
#include "cli/run_settings.h"
#include "cli/trace_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS_MOST = 1 << 20, LONGEST_OF = 5 };

typedef struct settings {
    mf_run_settings run;
    const char *cluster, *html, *trace;
    mf_words mesh;
    int64_t seq, batch, ranks, top, rounds;
    bool forward, train, borrow, json, explain, longest, analytic, validate;
} settings;

typedef struct command {
    settings s;
    mf_flag_table table;
    mf_flags flags;
    mf_cluster cluster;
    mf_model_options model;
    mf_search_options search;
    mf_search_result found;
    mf_plan_row *row; /* [count] best first */
    int count;
    mf_longest *longest; /* [longests] of the first rows */
    int longests, enough;
} command;

static void describe_model(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Model");
    mf_run_settings_add_model(&s->run, t, false);
    mf_table_add(t, MF_INT("seq", &s->seq, "4096", 1, 1 << 28, "tokens of a sequence"));
    mf_run_settings_add_clip(&s->run, t, true);
    mf_table_add(
        t, MF_INT("batch", &s->batch, "1", 1, 1 << 20,
                  "sequences, or clips, of each dp replica: more replicas do more, which tokens/s counts"));
    mf_run_settings_add_numbers(&s->run, t);
    mf_table_add(t, MF_SWITCH("forward", &s->forward, "the forward pass and the loss alone"));
    mf_table_add(t, MF_SWITCH("train", &s->train, "a training step (default)"));
}

static void describe_cluster(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Cluster");
    mf_table_add(t,
                 MF_TEXT("cluster", &s->cluster, "FILE",
                         "its description, as those in clusters/ (default: the machine at hand, as meshfold "
                         "calibrate found it)"));
    mf_device_flag_add(&s->run.device, t, "device",
                       "whose workspace ranks take: cpu, or cuda, whether there is a GPU here or not; auto: "
                       "cuda where there is one");
    mf_table_add(
        t, MF_INT("ranks", &s->ranks, NULL, 1, RANKS_MOST,
                  "how many; without --mesh, every mesh and layout that they can make is searched, in every "
                  "mode of recomputation unless --recompute is given"));
    mf_table_add(t,
                 MF_SWITCH("borrow", &s->borrow, "ranks read each other's memory in place, as threads do"));
}

static void describe_layouts(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Layouts");
    mf_table_add(t,
                 (mf_flag){.name = "mesh",
                           .kind = MF_FLAG_LIST,
                           .target = &s->mesh,
                           .value_name = "MESH",
                           .about = "single, or axes and their ranks, one mesh a word; the flags below may "
                                    "stand in a mesh too, and else hold for every mesh that has a use for "
                                    "them; a search keeps to layouts that have them"});
    mf_run_settings_add_layout(&s->run, t);
    mf_run_settings_add_zero(&s->run, t);
}

static void describe_output(settings *s, mf_flag_table *t) {
    mf_table_group(t, "Output");
    mf_table_add(t, MF_INT("top", &s->top, "16", 1, 1 << 20, "layouts of a search to show"));
    mf_table_add(t, MF_SWITCH("explain", &s->explain,
                              "say why the first comes before the second, and before the best of each other "
                              "kind"));
    mf_table_add(t, MF_SWITCH("longest", &s->longest,
                              "find the longest sequence that fits, of each mesh, or of a search's first 5, "
                              "in steps of about 1024 tokens that all ranks share evenly; of clips the most "
                              "frames"));
    mf_table_add(t, MF_SWITCH("analytic", &s->analytic,
                              "print the paper's formulas for this model on --ranks instead: no --cluster"));
    mf_table_add(t, MF_SWITCH("validate", &s->validate,
                              "run the same steps dry and real on the machine at hand, at 512 tokens, 1024 "
                              "and so on to --seq, and print how far they are apart"));
    mf_table_add(t, MF_INT("rounds", &s->rounds, "3", 1, MF_VALIDATE_ROUNDS,
                           "of --validate: times that every step has its turn"));
    mf_table_add(t, MF_SWITCH("json", &s->json, "print one JSON object"));
    mf_table_add(t,
                 MF_TEXT("trace", &s->trace, "FILE",
                         "also write the first layout's step as a trace for chrome://tracing or Perfetto"));
    mf_table_add(t,
                 MF_TEXT("html", &s->html, "FILE", "also write a page with the tables, and plots of them"));
}

static void describe(command *c) {
    describe_model(&c->s, &c->table);
    describe_cluster(&c->s, &c->table);
    describe_layouts(&c->s, &c->table);
    describe_output(&c->s, &c->table);
    c->flags =
        (mf_flags){.command = "meshfold plan",
                   .usage = "--model PRESET|PATH [--cluster FILE] --ranks N | --mesh MESH... [flags]",
                   .about = "runs steps dry on a described cluster: what fits, and how fast it would be",
                   .groups = c->table.group,
                   .group_count = c->table.groups};
    mf_run_settings_begin(&c->s.run);
}

static void help(const command *c) {
    mf_flags_help(&c->flags, stdout);
    mf_print_presets();
    printf("\nMemory and bytes are those of the program itself: the step is run, only without computing. "
           "Workspace is\n"
           "that of the operations of --device. Times follow from the cluster's description, in which some "
           "figures "
           "are\n"
           "assumed: the file says which.\n"
           "\nExamples\n"
           "  meshfold plan --model tsp-7b --dtype bf16 --seq 131072 --cluster clusters/h100.json --ranks 8 "
           "--explain\n"
           "  meshfold plan --model tsp-7b --dtype bf16 --recompute block --seq 131072 --cluster "
           "clusters/h100.json \\\n"
           "      --mesh tsp=8 tp=8,reduction=scatter tp=4,sp=2 sp=8,stream=gather --longest\n"
           "  meshfold plan --model config.json --cluster clusters/mi300x.json --mesh dp=16,tsp=8 --json\n"
           "  meshfold plan --model stdit-720m --dtype bf16 --frames 64 --grid 64x64 --cluster "
           "clusters/h100.json --ranks 16\n"
           "  meshfold plan --model demo --mesh single tsp=2 --validate\n");
}

static mf_status check_modes(const command *c) {
    const settings *s = &c->s;
    if (s->train && s->forward)
        return MF_FAIL(MF_EINVAL, "--train and --forward: a step is one or the other");
    if (s->explain && s->json)
        return MF_FAIL(MF_EINVAL, "--explain is for people to read: give it without --json");
    if (s->analytic && !s->ranks)
        return MF_FAIL(MF_EINVAL, "--analytic needs --ranks: how many share the model");
    if (s->analytic && (s->mesh.count || s->explain || s->longest || s->html || s->trace))
        return MF_FAIL(MF_EINVAL, "--analytic has rows of its own: give it without --mesh, --explain, "
                                  "--longest, --html and --trace");
    if (s->analytic && s->cluster)
        return MF_FAIL(MF_EINVAL, "--analytic is about any cluster: give it without --cluster");
    if (!s->validate && mf_flags_given(&c->flags, "rounds"))
        return MF_FAIL(MF_EINVAL, "--rounds is of --validate");
    if (s->validate && (s->analytic || s->explain || s->longest || s->html || s->trace || s->ranks))
        return MF_FAIL(MF_EINVAL, "--validate has a table of its own: give it without --ranks, --analytic, "
                                  "--explain, --longest, --html and --trace");
    if (s->validate && s->cluster)
        return MF_FAIL(MF_EINVAL, "--validate is about the machine at hand: give it without --cluster");
    return MF_OK;
}

static mf_status check_flags(const command *c) {
    const settings *s = &c->s;
    MF_TRY(check_modes(c));
    if ((s->analytic || s->validate || s->mesh.count) && mf_flags_given(&c->flags, "top"))
        return MF_FAIL(MF_EINVAL,
                       "--top is for a search: of --mesh, --analytic and --validate all are shown");
    if (s->analytic || s->validate) return MF_OK;
    if (!s->mesh.count && !s->ranks)
        return MF_FAIL(MF_EINVAL,
                       "meshfold plan needs --mesh, or --ranks to search for one; see meshfold plan --help");
    return MF_OK;
}

/* The machine at hand reads peers' memory in place, as its threads do. */
static mf_status find_cluster(command *c) {
    mf_cluster *machine = NULL;
    if (c->s.cluster) return mf_blame("--cluster", mf_cluster_load(c->s.cluster, &c->cluster));
    MF_TRY(mf_machine_load(c->s.run.device, &machine));
    if (!machine)
        return MF_FAIL(MF_EINVAL, "meshfold plan needs --cluster, or meshfold calibrate to have measured the "
                                  "machine at hand");
    c->cluster = *machine;
    c->s.borrow = true;
    mf_host_free(machine);
    return MF_OK;
}

static mf_status check_kind(const command *c) {
    if (c->model.config.family != MF_STDIT || !(c->s.analytic || c->s.validate)) return MF_OK;
    return MF_FAIL(MF_EINVAL, "--%s: is about sequences of texts, but this model is of videos",
                   c->s.analytic ? "analytic" : "validate");
}

static mf_status prepare(command *c) {
    const settings *s = &c->s;
    MF_TRY(check_flags(c));
    MF_TRY(mf_device_choose_dry("device", &c->s.run.device));
    MF_TRY(mf_run_settings_model(&s->run, "meshfold plan", &c->model));
    MF_TRY(check_kind(c));
    MF_TRY(
        mf_run_settings_shape(&s->run, mf_flags_given(&c->flags, "seq"), s->seq, s->run.frames, &c->model));
    c->model.batch = s->batch;
    c->model.forward_only = s->forward;
    return s->analytic ? MF_OK : find_cluster(c);
}

static mf_status plan_one(const command *c, const char *mesh, mf_plan_row *out) {
    *out = (mf_plan_row){.options = {.model = c->model, .threads = 1, .device = c->s.run.device}};
    snprintf(out->mesh, sizeof out->mesh, "%s", mesh);
    MF_TRY(mf_run_settings_layout(&c->s.run, mesh, false, &out->options.mesh, &out->options.layout));
    int ranks = mf_mesh_ranks(&out->options.mesh);
    if (c->s.ranks && ranks != c->s.ranks)
        return MF_FAIL(MF_EINVAL, "--mesh %s is %d rank%s, but --ranks is %lld", mesh, ranks,
                       ranks == 1 ? "" : "s", (long long)c->s.ranks);
    out->refused = mf_model_check(&out->options.model, &out->options.layout, &out->options.mesh);
    if (!out->refused) return mf_plan(&c->cluster, &out->options, 0, c->s.borrow, &out->plan);
    snprintf(out->why, sizeof out->why, "%s", mf_error_last()->message);
    return MF_OK;
}

static int better_first(const void *left, const void *right) { return mf_plan_row_compare(left, right); }

static mf_status plan_given(command *c) {
    MF_TRY(mf_host_alloc((size_t)c->s.mesh.count, sizeof *c->row, &c->row));
    for (; c->count < c->s.mesh.count; c->count++)
        MF_TRY(plan_one(c, c->s.mesh.items[c->count], &c->row[c->count]));
    qsort(c->row, (size_t)c->count, sizeof *c->row, better_first);
    return MF_OK;
}

static mf_status take_found(command *c) {
    MF_TRY(mf_host_alloc((size_t)c->found.count, sizeof *c->row, &c->row));
    for (; c->count < c->found.count; c->count++) {
        const mf_found *found = &c->found.found[c->count];
        mf_plan_row *row = &c->row[c->count];
        snprintf(row->mesh, sizeof row->mesh, "%s", found->mesh);
        row->options = found->options;
        row->plan = found->plan;
    }
    return MF_OK;
}

static mf_status plan_search(command *c) {
    mf_machine machine;
    MF_TRY(mf_machine_look(&machine));
    c->search = (mf_search_options){.model = c->model,
                                    .words = mf_run_settings_words(&c->s.run),
                                    .any_recompute = !mf_flags_given(&c->flags, "recompute"),
                                    .device = c->s.run.device,
                                    .borrows = c->s.borrow,
                                    .ranks = (int)c->s.ranks,
                                    .threads = mf_machine_workers(&machine)};
    MF_TRY(mf_search(&c->cluster, &c->search, &c->found));
    MF_TRY(take_found(c));
    return c->row[0].plan.fits ? MF_OK : mf_search_enough(&c->cluster, &c->search, RANKS_MOST, &c->enough);
}

static mf_status find_longest(command *c, int rows) {
    MF_TRY(mf_host_alloc((size_t)rows, sizeof *c->longest, &c->longest));
    for (; c->longests < rows; c->longests++) {
        const mf_plan_row *row = &c->row[c->longests];
        if (!row->refused)
            MF_TRY(mf_plan_longest(&c->cluster, &row->options, c->s.borrow, &c->longest[c->longests]));
    }
    return MF_OK;
}

static mf_status print_json(const mf_plan_table *table) {
    json_t *out = mf_plan_json(table);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(out);
    return MF_OK;
}

static mf_status trace_first(const command *c) {
    mf_status status = MF_OK;
    mf_trace trace = {0};
    mf_plan_result plan;
    char name[256];
    mf_measure_options options = c->row[0].options;
    if (c->row[0].refused) return MF_FAIL(MF_EINVAL, "--trace: no layout can be run");
    options.trace = &trace;
    snprintf(name, sizeof name, "rank 0 of %s, predicted", c->row[0].mesh);
    MF_GO(mf_plan(&c->cluster, &options, 0, c->s.borrow, &plan));
    MF_GO(mf_trace_write(&trace, name, c->s.trace));
fail:
    mf_trace_free(&trace);
    return status;
}

static mf_status validate(const command *c) {
    return mf_plan_validate(&(mf_validate_options){.machine = &c->cluster,
                                                   .settings = &c->s.run,
                                                   .meshes = &c->s.mesh,
                                                   .model = c->model,
                                                   .rounds = (int)c->s.rounds,
                                                   .json = c->s.json});
}

static mf_status show(const command *c, int shown) {
    bool searched = c->found.count > 0;
    mf_plan_table table = {.cluster = &c->cluster,
                           .model = c->s.run.model,
                           .dtype = c->s.run.dtype,
                           .options = c->model,
                           .row = c->row,
                           .count = shown,
                           .search = searched ? &c->found : NULL,
                           .enough = c->enough,
                           .longest = c->longest,
                           .longests = c->longests};
    if (c->s.trace) MF_TRY(trace_first(c));
    if (c->s.html) MF_TRY(mf_plan_html(&table, c->s.html));
    if (c->s.json) return print_json(&table);
    mf_plan_print(&table);
    if (c->s.explain) mf_plan_explain(c->row, c->count);
    return MF_OK;
}

static mf_status run(command *c) {
    const settings *s = &c->s;
    MF_TRY(prepare(c));
    if (s->validate) return validate(c);
    if (s->analytic) return mf_plan_analytic(&c->model, (int)s->ranks, s->json);
    MF_TRY(s->mesh.count ? plan_given(c) : plan_search(c));
    int shown = s->mesh.count ? c->count : (int)mf_min(s->top, c->count);
    if (s->longest) MF_TRY(find_longest(c, s->mesh.count ? shown : (int)mf_min(shown, LONGEST_OF)));
    return show(c, shown);
}

int mf_command_plan(int argc, char **argv) {
    command c = {0};
    describe(&c);
    mf_status status = mf_flags_parse(&c.flags, argc, argv);
    if (!status && c.flags.help)
        help(&c);
    else if (!status)
        status = run(&c);
    int code = status ? mf_report_error(status) : 0;
    mf_search_free(&c.found);
    mf_host_free(c.longest);
    mf_host_free(c.row);
    mf_flags_free(&c.flags);
    return code;
}
