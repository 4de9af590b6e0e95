/* verify_report.c: what `meshfold verify` says: tables for people, one JSON object for programs. */
#include "cli/verify_report.h"

#include "cli/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef mf_verify_settings settings;
typedef mf_verify_candidate candidate;
typedef mf_verify_command command;

/* A line of the table: the loss, the gradient norm, then parameters, by index. */
enum { ROW_LOSS = -2, ROW_NORM = -1, WIDTH = 100, CELL = 16 };

/* An error and where it is. */
typedef struct finding {
    double error;
    const char *mesh, *what;
    int64_t layer; /* -1: none */
} finding;

/* "model.layers.3.mlp.up_proj.weight": 3, and "mlp.up_proj.weight" in *kind; -1 for one outside the layers.
 */
static int64_t layer_of(const char *name, const char **kind) {
    static const char layers[] = "model.layers.";
    char *end = NULL;
    *kind = name;
    if (strncmp(name, layers, sizeof layers - 1) != 0) return -1;
    long long layer = strtoll(name + sizeof layers - 1, &end, 10);
    *kind = end + 1;
    return layer;
}

static finding find_param(const command *c, const candidate *k, int param) {
    const char *name = c->reference.param[param].name, *kind;
    return (finding){k->errors.param[param], k->text, name, layer_of(name, &kind)};
}

static bool same_kind(const command *c, int a, int b) {
    const char *kind_a, *kind_b;
    layer_of(c->reference.param[a].name, &kind_a);
    layer_of(c->reference.param[b].name, &kind_b);
    return strcmp(kind_a, kind_b) == 0;
}

static finding find_row(const command *c, const candidate *k, int row) {
    if (row == ROW_LOSS) return (finding){k->errors.loss_error, k->text, "loss", -1};
    if (row == ROW_NORM) return (finding){k->errors.grad_norm_error, k->text, "gradient norm", -1};
    finding worst = find_param(c, k, row);
    for (int i = row + 1; i < c->reference.params && !c->s.all; i++)
        if (k->errors.param[i] > worst.error && same_kind(c, row, i)) worst = find_param(c, k, i);
    return worst;
}

/* Its parameter is the first of its kind, or every one has a line. */
static bool has_row(const command *c, int row) {
    const char *kind;
    return row < 0 || c->s.all || layer_of(c->reference.param[row].name, &kind) <= 0;
}

static void label_of(const command *c, int row, char out[128]) {
    static const char weight[] = ".weight";
    const char *text = row == ROW_LOSS ? "loss" : "gradient norm";
    if (row >= 0) text = c->reference.param[row].name;
    if (row >= 0 && !c->s.all) layer_of(text, &text);
    size_t length = strlen(text), end = sizeof weight - 1;
    if (length > end && strcmp(text + length - end, weight) == 0) length -= end;
    snprintf(out, 128, "%.*s", (int)length, text);
}

static int label_width(const command *c) {
    int widest = 0;
    for (int row = ROW_LOSS; row < c->reference.params; row++) {
        char label[128];
        label_of(c, row, label);
        if (has_row(c, row)) widest = (int)mf_max(widest, (int64_t)strlen(label));
    }
    return widest;
}

/* With the space before it. */
static int cell_width(const candidate *k) { return (int)mf_max(CELL, (int64_t)strlen(k->text)) + 2; }

/* Lines don't end in spaces. */
static void print_in_cell(const candidate *k, const char *text, bool last) {
    printf("  %-*s", last ? 0 : cell_width(k) - 2, text);
}

static void print_cell(const command *c, const candidate *k, int row, bool last) {
    finding f = find_row(c, k, row);
    char text[64];
    int length = snprintf(text, sizeof text, f.error == 0 ? "0" : "%.1e", f.error);
    if (f.layer >= 0 && !c->s.all && f.error != 0)
        length += snprintf(text + length, sizeof text - (size_t)length, " (%lld)", (long long)f.layer);
    snprintf(text + length, sizeof text - (size_t)length, f.error <= c->s.tolerance ? "" : " *");
    print_in_cell(k, text, last);
}

static void print_row(const command *c, int row, int first, int end) {
    char label[128];
    label_of(c, row, label);
    printf("%-*s", label_width(c), label);
    for (int i = first; i < end; i++) print_cell(c, &c->candidate[i], row, i + 1 == end);
    printf("\n");
}

static void print_table(const command *c, int first, int end) {
    printf("%-*s", label_width(c), "");
    for (int i = first; i < end; i++) print_in_cell(&c->candidate[i], c->candidate[i].text, i + 1 == end);
    printf("\n");
    for (int row = ROW_LOSS; row < c->reference.params; row++)
        if (has_row(c, row)) print_row(c, row, first, end);
    printf("\n");
}

/* As many meshes side by side as fit. */
static void print_tables(const command *c) {
    for (int first = 1, end; first < c->count; first = end) {
        int used = label_width(c);
        for (end = first; end < c->count; end++) {
            used += cell_width(&c->candidate[end]);
            if (end > first && used > WIDTH) break;
        }
        print_table(c, first, end);
    }
}

/* The largest of a mesh's errors. */
static finding find_worst(const command *c, const candidate *k) {
    finding worst = find_row(c, k, ROW_LOSS), norm = find_row(c, k, ROW_NORM);
    if (norm.error > worst.error) worst = norm;
    for (int i = 0; i < c->reference.params; i++)
        if (k->errors.param[i] > worst.error) worst = find_param(c, k, i);
    return worst;
}

static bool agrees(const command *c, const candidate *k) { return find_worst(c, k).error <= c->s.tolerance; }

int mf_verify_agreeing(const command *c) {
    int agree = 0;
    for (int i = 1; i < c->count; i++) agree += agrees(c, &c->candidate[i]);
    return agree;
}

static void print_verdict(const command *c) {
    finding worst = find_worst(c, &c->candidate[1]);
    for (int i = 2; i < c->count; i++) {
        finding f = find_worst(c, &c->candidate[i]);
        if (f.error > worst.error) worst = f;
    }
    int others = c->count - 1, agree = mf_verify_agreeing(c);
    printf("%d of %d layout%s agree%s with %s within %g; ", agree, others, mf_plural(others),
           agree == 1 || others == 1 ? "s" : "", c->candidate[0].text, c->s.tolerance);
    if (worst.error == 0)
        printf("no value differs\n");
    else
        printf("the largest relative error is %.1e (%s, %s)\n", worst.error, worst.mesh, worst.what);
}

static void print_report(const command *c) {
    printf("On %s the loss is %.6g and the gradient norm %.6g.\n"
           "Relative errors of the others%s (* is beyond the tolerance):\n\n",
           c->candidate[0].text, c->reference.loss, c->reference.grad_norm,
           c->s.all ? "" : ", each kind's largest and its layer");
    print_tables(c);
    print_verdict(c);
}

/* JSON has no word for a value that is not finite: null stands for it. */
static json_t *real(double value) { return isfinite(value) ? json_real(value) : json_null(); }

static json_t *json_layout(const command *c, const candidate *k) {
    const mf_verify_errors *e = &k->errors;
    finding worst = find_worst(c, k);
    json_t *params = json_object();
    for (int i = 0; i < c->reference.params; i++)
        json_object_set_new(params, c->reference.param[i].name, real(e->param[i]));
    return json_pack("{s:s, s:i, s:b, s:f, s:f, s:o, s:s, s:o, s:o, s:o}", "mesh", k->text, "ranks",
                     mf_mesh_ranks(&k->options.mesh), "agrees", agrees(c, k), "loss", e->loss, "grad_norm",
                     e->grad_norm, "largest_error", real(worst.error), "largest_error_in", worst.what,
                     "loss_error", real(e->loss_error), "grad_norm_error", real(e->grad_norm_error),
                     "param_errors", params);
}

static json_t *json_report(const command *c) {
    const settings *s = &c->s;
    json_t *layouts = json_array();
    for (int i = 1; i < c->count; i++) json_array_append_new(layouts, json_layout(c, &c->candidate[i]));
    json_t *reference =
        json_pack("{s:s, s:s, s:f, s:f}", "mesh", c->candidate[0].text, "device", s->reference_device, "loss",
                  c->reference.loss, "grad_norm", c->reference.grad_norm);
    return json_pack("{s:s, s:s, s:I, s:s, s:b, s:I, s:I, s:I, s:s, s:s, s:I, s:f, s:o, s:i, s:o}", "device",
                     s->run.device, "model", s->run.model ? s->run.model : s->run.init, "params",
                     (json_int_t)mf_config_params(&c->model.config), "data",
                     s->data.count ? "text" : "random", "packed", s->run.packed, "sequences",
                     (json_int_t)c->sequences, "seq", (json_int_t)s->seq, "batch", (json_int_t)s->batch,
                     "dtype", s->run.dtype, "recompute", s->run.recompute, "seed", (json_int_t)s->run.seed,
                     "tolerance", s->tolerance, "reference", reference, "agree", mf_verify_agreeing(c),
                     "layouts", layouts);
}

mf_status mf_verify_report(const command *c) {
    if (!c->s.json) {
        print_report(c);
        return MF_OK;
    }
    json_t *out = json_report(c);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(out, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(out);
    return MF_OK;
}
