/* plan_validate.c: see plan_validate.h. Noise is kept apart from the model's error: between turns the
 * machine's pace is taken, and a step's time brought to the pace at which the machine was calibrated. */
#include "cli/plan_validate.h"

#include "cli/machine.h"
#include "cli/text.h"

#include <jansson.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS = MF_VALIDATE_ROUNDS, STEPS = 64 };

typedef struct row {
    const char *mesh;
    mf_measure_options options;
    double predicted_s;
    int rounds;
    double step_s[ROUNDS], pace[ROUNDS]; /* pace: over that of calibration */
    bool exact;                          /* memory and bytes of every rank are as predicted, to the byte */
} row;

typedef struct validation {
    const mf_validate_options *o;
    row *row;
    int rows;
    row *at_work;
    double pace; /* of rank 0, around the turn */
    mf_measure_result result;
} validation;

static const char *const usual[] = {
    "single", "tsp=2", "tp=2", "tp=2,reduction=scatter", "sp=2", "sp=2,exchange=ring"};
enum { USUAL = sizeof usual / sizeof *usual };
static const double turn_s = 0.5, pace_s = 0.1;

static double median(const double *values, int n) {
    double sorted[STEPS];
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    return mf_median(sorted, n);
}

static const mf_rates *rates_of(const mf_cluster *machine, int ranks) {
    for (int i = 0; i < machine->measured; i++)
        if (machine->rates[i].ranks == ranks) return &machine->rates[i];
    return NULL;
}

/* Short steps are repeated, so that a turn is long enough for a median. */
static mf_status predict(const validation *v, row *r) {
    mf_plan_result plan;
    int ranks = mf_mesh_ranks(&r->options.mesh);
    const mf_rates *rates = rates_of(v->o->machine, ranks);
    if (!rates)
        return MF_FAIL(MF_EINVAL, "--mesh %s: %s says nothing of %d ranks at work; meshfold calibrate would",
                       r->mesh, v->o->machine->name, ranks);
    r->options.threads = rates->threads;
    MF_TRY(mf_plan(v->o->machine, &r->options, 0, true, &plan));
    r->predicted_s = plan.step_s;
    r->options.steps = (int64_t)fmin(STEPS, fmax(1, ceil(turn_s / plan.step_s)));
    return MF_OK;
}

static mf_status add_rows(validation *v, const char *mesh) {
    const mf_model_options *model = &v->o->model;
    for (int64_t tokens = MF_VALIDATE_LEAST; tokens <= model->tokens; tokens *= 2) {
        row *r = &v->row[v->rows++];
        *r = (row){.mesh = mesh, .options.model = *model, .options.device = v->o->settings->device};
        r->options.model.tokens = tokens;
        MF_TRY(mf_run_settings_layout(v->o->settings, mesh, false, &r->options.mesh, &r->options.layout));
        MF_TRY(mf_model_check(&r->options.model, &r->options.layout, &r->options.mesh));
        MF_TRY(predict(v, r));
    }
    return MF_OK;
}

static mf_status prepare(validation *v) {
    const mf_words *given = v->o->meshes;
    int meshes = given->count ? given->count : USUAL, lengths = 0;
    for (int64_t tokens = MF_VALIDATE_LEAST; tokens <= v->o->model.tokens; tokens *= 2) lengths++;
    if (!lengths)
        return MF_FAIL(MF_EINVAL, "--validate begins at %d tokens: --seq is shorter", MF_VALIDATE_LEAST);
    MF_TRY(mf_host_alloc((size_t)(meshes * lengths), sizeof *v->row, &v->row));
    for (int i = 0; i < meshes; i++) MF_TRY(add_rows(v, given->count ? given->items[i] : usual[i]));
    return MF_OK;
}

static mf_status body(mf_world *world, void *argument) {
    validation *v = argument;
    const mf_measure_options *o = &v->at_work->options;
    double before = 0, after = 0;
    mf_measure_result own = {0};
    MF_TRY(mf_pace(world, o->device, o->threads, pace_s, &before));
    mf_status status = mf_measure(world, o, mf_world_rank(world) == 0 ? &v->result : &own);
    if (!status) status = mf_pace(world, o->device, o->threads, pace_s, &after);
    if (mf_world_rank(world) == 0) v->pace = 0.5 * (before + after);
    return status;
}

static bool same_bytes(const mf_rank_report *a, const mf_rank_report *b) {
    bool same = a->groups == b->groups;
    for (int g = 0; g < a->groups && same; g++)
        for (int op = 0; op < MF_COMM_OPS; op++)
            same &= a->group[g].stat[op].bytes == b->group[g].stat[op].bytes &&
                    a->group[g].stat[op].borrowed_bytes == b->group[g].stat[op].borrowed_bytes;
    return same;
}

/* Of every rank. */
static mf_status compare_exactly(const validation *v, row *r) {
    mf_plan_result plan;
    r->exact = true;
    for (int rank = 0; rank < v->result.ranks && r->exact; rank++) {
        const mf_rank_report *real = &v->result.rank[rank];
        MF_TRY(mf_plan(v->o->machine, &r->options, rank, true, &plan));
        r->exact = same_bytes(real, &plan.rank) &&
                   memcmp(&real->memory, &plan.rank.memory, sizeof real->memory) == 0;
    }
    return MF_OK;
}

static mf_status take_turn(validation *v, row *r) {
    int ranks = mf_mesh_ranks(&r->options.mesh);
    v->at_work = r;
    mf_status status = mf_launch(&(mf_launch_options){.engine = "local", .ranks = ranks}, body, v);
    if (!status && r->rounds == 0) status = compare_exactly(v, r);
    if (!status) {
        r->step_s[r->rounds] = median(v->result.step_s, (int)r->options.steps);
        r->pace[r->rounds++] = v->pace / rates_of(v->o->machine, ranks)->pace;
    }
    mf_measure_free(&v->result);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

static mf_status take_turns(validation *v) {
    for (int round = 0; round < v->o->rounds; round++) {
        for (int i = 0; i < v->rows; i++) {
            if (isatty(STDERR_FILENO))
                fprintf(stderr, "\rround %d of %d, row %d of %d", round + 1, v->o->rounds, i + 1, v->rows);
            MF_TRY(take_turn(v, &v->row[i]));
        }
    }
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%*s\r", 48, "");
    return MF_OK;
}

/* What a row comes to. */
typedef struct outcome {
    double measured_s, pace; /* medians */
    double error;            /* predicted over measured, less 1 */
    double paced_error;      /* the same with every time brought to the pace of calibration */
    double spread;           /* of the paced times: the largest less the smallest, over the median */
} outcome;

static outcome outcome_of(const row *r) {
    double paced[ROUNDS], low = INFINITY, high = 0;
    for (int i = 0; i < r->rounds; i++) {
        paced[i] = r->step_s[i] * r->pace[i];
        low = fmin(low, paced[i]);
        high = fmax(high, paced[i]);
    }
    double at_pace = median(paced, r->rounds);
    outcome o = {.measured_s = median(r->step_s, r->rounds), .pace = median(r->pace, r->rounds)};
    o.error = r->predicted_s / o.measured_s - 1;
    o.paced_error = r->predicted_s / at_pace - 1;
    o.spread = (high - low) / at_pace;
    return o;
}

typedef struct summary {
    double mean, largest, paced_mean, paced_largest, spread;
    int inexact;
} summary;

static summary summarize(const validation *v) {
    summary s = {0};
    for (int i = 0; i < v->rows; i++) {
        outcome o = outcome_of(&v->row[i]);
        s.mean += fabs(o.error) / v->rows;
        s.paced_mean += fabs(o.paced_error) / v->rows;
        s.spread += o.spread / v->rows;
        s.largest = fmax(s.largest, fabs(o.error));
        s.paced_largest = fmax(s.paced_largest, fabs(o.paced_error));
        s.inexact += !v->row[i].exact;
    }
    return s;
}

static void print_table(const validation *v) {
    summary s = summarize(v);
    int width = 4;
    for (int i = 0; i < v->rows; i++) width = (int)mf_max(width, (int64_t)strlen(v->row[i].mesh));
    printf("%-*s %8s %11s %11s %8s %7s %10s %8s  %s\n", width, "mesh", "seq", "measured", "predicted",
           "error", "pace", "at pace 1", "spread", "memory, bytes");
    for (int i = 0; i < v->rows; i++) {
        const row *r = &v->row[i];
        outcome o = outcome_of(r);
        printf("%-*s %8lld %9.4f s %9.4f s %+7.1f%% %7.3f %+9.1f%% %7.1f%%  %s\n", width, r->mesh,
               (long long)r->options.model.tokens, o.measured_s, r->predicted_s, 100 * o.error, o.pace,
               100 * o.paced_error, 100 * o.spread, r->exact ? "as predicted" : "NOT as predicted");
    }
    printf("\n%d rows of %d rounds. Error: mean %.1f%%, largest %.1f%%; at the pace of calibration: mean "
           "%.1f%%, largest %.1f%%.\nSpread of a row's rounds, at that pace: mean %.1f%%. Memory and bytes: "
           "%d of %d rows to the byte.\n",
           v->rows, v->o->rounds, 100 * s.mean, 100 * s.largest, 100 * s.paced_mean, 100 * s.paced_largest,
           100 * s.spread, v->rows - s.inexact, v->rows);
}

static mf_status print_json(const validation *v) {
    summary s = summarize(v);
    json_t *rows = json_array();
    for (int i = 0; i < v->rows; i++) {
        const row *r = &v->row[i];
        outcome o = outcome_of(r);
        json_array_append_new(rows, json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:b}", "layout",
                                              r->mesh, "seq", (json_int_t)r->options.model.tokens,
                                              "measured_s", o.measured_s, "predicted_s", r->predicted_s,
                                              "error", o.error, "pace", o.pace, "paced_error", o.paced_error,
                                              "spread", o.spread, "exact", r->exact));
    }
    json_t *out = json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:o}", "rounds", v->o->rounds, "mean_error",
                            s.mean, "largest_error", s.largest, "mean_paced_error", s.paced_mean,
                            "largest_paced_error", s.paced_largest, "mean_spread", s.spread, "rows", rows);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(out);
    return MF_OK;
}

mf_status mf_plan_validate(const mf_validate_options *options) {
    mf_status status = MF_OK;
    validation v = {.o = options};
    MF_GO(prepare(&v));
    MF_GO(take_turns(&v));
    if (options->json)
        MF_GO(print_json(&v));
    else
        print_table(&v);
fail:
    mf_host_free(v.row);
    return status;
}
