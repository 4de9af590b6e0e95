/* plan.c: `meshfold plan`: steps run dry on a described cluster, side by side, the fastest that fits first.
 */
#include "cli/commands.h"
#include "cli/rank_json.h"
#include "cli/run_settings.h"
#include "cli/text.h"
#include "meshfold/plan.h"

#include <stdlib.h>
#include <string.h>

typedef struct settings {
    mf_run_settings run;
    const char *cluster;
    mf_words mesh;
    int64_t seq, batch;
    bool forward, borrow, json;
} settings;

/* A layout, and what became of it. */
typedef struct candidate {
    const char *mesh;
    mf_measure_options options;
    mf_plan_result plan;
    mf_status refused;
    char why[sizeof((mf_error *)0)->message];
} candidate;

typedef struct command {
    settings s;
    mf_flag_table table;
    mf_flags flags;
    mf_cluster cluster;
    mf_model_options model;
    candidate *candidate; /* [count] best first */
    int count;
} command;

static void describe(command *c) {
    settings *s = &c->s;
    mf_flag_table *t = &c->table;
    mf_table_group(t, "Model");
    mf_run_settings_add_model(&s->run, t, false);
    mf_table_add(t, MF_INT("seq", &s->seq, "4096", 1, 1 << 28, "tokens of a sequence"));
    mf_table_add(t, MF_INT("batch", &s->batch, "1", 1, 1 << 20, "sequences of each dp replica"));
    mf_run_settings_add_numbers(&s->run, t);
    mf_table_add(t, MF_SWITCH("forward", &s->forward, "the forward pass and the loss alone"));
    mf_table_group(t, "Cluster");
    mf_flag cluster = MF_TEXT("cluster", &s->cluster, "FILE", "its description, as those in clusters/");
    cluster.required = true;
    mf_table_add(t, cluster);
    mf_table_add(t,
                 MF_SWITCH("borrow", &s->borrow, "ranks read each other's memory in place, as threads do"));
    mf_table_group(t, "Layouts");
    mf_run_settings_add_meshes(
        &s->run, t, &s->mesh,
        "single, or axes and their ranks, one mesh a word; the flags below may stand in "
        "a mesh too, and else hold for every mesh that has a use for them");
    mf_table_group(t, "Output");
    mf_table_add(t, MF_SWITCH("json", &s->json, "print one JSON object"));
    c->flags =
        (mf_flags){.command = "meshfold plan",
                   .usage = "--model PRESET|PATH --cluster FILE --mesh MESH... [flags]",
                   .about = "runs a step dry on a described cluster: what fits, and how fast it would be",
                   .groups = t->group,
                   .group_count = t->groups};
    mf_run_settings_begin(&s->run);
}

static void help(const command *c) {
    mf_flags_help(&c->flags, stdout);
    mf_print_presets();
    printf("\nMemory and bytes are those of the program itself: the step is run, only without computing. "
           "Workspace is\n"
           "that of the CPU's operations. Times follow from the cluster's description, in which some figures "
           "are\n"
           "assumed: the file says which.\n"
           "\nExamples\n"
           "  meshfold plan --model tsp-7b --dtype bf16 --recompute block --seq 131072 --cluster "
           "clusters/h100.json \\\n"
           "      --mesh tsp=8 tp=8,reduction=scatter tp=4,sp=2 sp=8,stream=gather\n"
           "  meshfold plan --model config.json --cluster clusters/mi300x.json --mesh dp=16,tsp=8 --json\n");
}

static mf_status plan_one(const command *c, const char *mesh, candidate *out) {
    *out = (candidate){.mesh = mesh, .options = {.model = c->model, .threads = 1}};
    MF_TRY(mf_run_settings_layout(&c->s.run, mesh, false, &out->options.mesh, &out->options.layout));
    mf_status status = mf_model_check(&out->options.model, &out->options.layout, &out->options.mesh);
    if (!status) return mf_plan(&c->cluster, &out->options, 0, c->s.borrow, &out->plan);
    out->refused = status;
    snprintf(out->why, sizeof out->why, "%s", mf_error_last()->message);
    return MF_OK;
}

/* What fits before what does not, what can be before what can't; then by speed, or by how little is missing.
 */
static int better_first(const void *left, const void *right) {
    const candidate *a = left, *b = right;
    bool a_refused = a->refused != MF_OK, b_refused = b->refused != MF_OK;
    if (a_refused != b_refused) return a_refused - b_refused;
    if (a->plan.fits != b->plan.fits) return b->plan.fits - a->plan.fits;
    if (!a->plan.fits && a->plan.short_by_bytes != b->plan.short_by_bytes)
        return a->plan.short_by_bytes < b->plan.short_by_bytes ? -1 : 1;
    return (a->plan.tokens_per_s < b->plan.tokens_per_s) - (a->plan.tokens_per_s > b->plan.tokens_per_s);
}

static mf_status prepare(command *c) {
    const settings *s = &c->s;
    MF_TRY(mf_run_settings_model(&s->run, "meshfold plan", &c->model));
    c->model.batch = s->batch;
    c->model.tokens = s->seq;
    c->model.forward_only = s->forward;
    MF_TRY(mf_blame("--cluster", mf_cluster_load(s->cluster, &c->cluster)));
    return mf_host_alloc((size_t)s->mesh.count, sizeof *c->candidate, &c->candidate);
}

static mf_status plan_all(command *c) {
    MF_TRY(prepare(c));
    for (; c->count < c->s.mesh.count; c->count++)
        MF_TRY(plan_one(c, c->s.mesh.items[c->count], &c->candidate[c->count]));
    qsort(c->candidate, (size_t)c->count, sizeof *c->candidate, better_first);
    return MF_OK;
}

static double sent(const mf_rank_report *r) {
    double bytes = 0;
    for (int g = 0; g < r->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++) bytes += (double)r->group[g].stat[op].bytes;
    return bytes;
}

static const char *verdict(const candidate *k, char out[48]) {
    char missing[32];
    if (k->refused) return "impossible";
    if (k->plan.fits) return "fits";
    snprintf(out, 48, "short by %s", mf_bytes_text(k->plan.short_by_bytes, missing));
    return out;
}

static void print_row(const candidate *k, int width) {
    char text[7][32], fits[48];
    const mf_plan_result *p = &k->plan;
    const int64_t *peak = p->rank.memory.peak;
    if (k->refused) {
        printf("%-*s  impossible: %s\n", width, k->mesh, k->why);
        return;
    }
    double state = (double)(peak[MF_WEIGHTS] + peak[MF_GRADS] + peak[MF_OPTIMIZER]);
    printf("%-*s  %-19s %10s %10s %11s %10s  %9.3g s %9s %7.0f%% %10s %7.0f%%\n", width, k->mesh,
           verdict(k, fits), mf_bytes_text((double)p->rank.memory.peak_total, text[0]),
           mf_bytes_text(state, text[1]), mf_bytes_text((double)peak[MF_ACTIVATIONS], text[2]),
           mf_bytes_text((double)(peak[MF_STREAM] + peak[MF_EXCHANGE]), text[3]), p->step_s,
           mf_rate_text(p->tokens_per_s, text[4]), 100 * p->flops_share,
           mf_bytes_text(sent(&p->rank), text[5]), 100 * p->exposed_s / p->step_s);
}

static void print_table(const command *c) {
    const settings *s = &c->s;
    char memory[32], params[32];
    int width = 4;
    for (int i = 0; i < c->count; i++) width = (int)mf_max(width, (int64_t)strlen(c->candidate[i].mesh));
    printf("model    %s: %s parameters, %s, recompute %s; %s of %lld sequence%s of %lld tokens a replica\n",
           s->run.model, mf_rate_text((double)mf_config_params(&c->model.config), params), s->run.dtype,
           s->run.recompute, s->forward ? "forward" : "training step", (long long)s->batch,
           mf_plural(s->batch), (long long)s->seq);
    printf("cluster  %s: %s, %s each\n\n", c->cluster.name, c->cluster.device,
           mf_bytes_text(c->cluster.memory_bytes, memory));
    printf("%-*s  %-19s %10s %10s %11s %10s  %11s %9s %8s %10s %8s\n", width, "mesh", "", "peak", "state",
           "activations", "in flight", "step", "tokens/s", "of peak", "sent", "exposed");
    for (int i = 0; i < c->count; i++) print_row(&c->candidate[i], width);
    printf("\nOf rank 0; its peers are taken to be where it is. Workspace is the CPU's.\n");
}

static json_t *as_json(const candidate *k) {
    const mf_plan_result *p = &k->plan;
    if (k->refused) return json_pack("{s:s, s:b, s:s}", "layout", k->mesh, "fits", 0, "why", k->why);
    return json_pack("{s:s, s:o, s:b, s:f, s:f, s:f, s:f, s:f, s:[o]}", "layout", k->mesh, "mesh",
                     mf_mesh_json(&k->options.mesh), "fits", p->fits, "short_by_bytes", p->short_by_bytes,
                     "step_s", p->step_s, "tokens_per_s", p->tokens_per_s, "flops_share_of_peak",
                     p->flops_share, "exposed_s", p->exposed_s, "ranks",
                     mf_rank_json(&k->options.mesh, &p->rank));
}

static mf_status print_json(const command *c) {
    json_t *layouts = json_array();
    for (int i = 0; i < c->count; i++) json_array_append_new(layouts, as_json(&c->candidate[i]));
    json_t *out = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:o}", "cluster", c->cluster.name, "model",
                            c->s.run.model, "dtype", c->s.run.dtype, "recompute", c->s.run.recompute, "seq",
                            (json_int_t)c->s.seq, "batch", (json_int_t)c->s.batch, "layouts", layouts);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(out);
    return MF_OK;
}

static mf_status run(command *c) {
    MF_TRY(plan_all(c));
    if (c->s.json) return print_json(c);
    print_table(c);
    return MF_OK;
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
    mf_host_free(c.candidate);
    mf_flags_free(&c.flags);
    return code;
}
