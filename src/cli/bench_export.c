/* bench_export.c: what `meshfold bench` measured, for programs: JSON under summary.json's names, and CSV. */
#include "cli/bench_report.h"

#include "cli/device_choice.h"
#include "cli/rank_json.h"
#include "meshfold/io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Enough that a mean of bytes stays exact. */
enum { DIGITS = 15 };

/* Of a CSV line, after what was asked. */
enum { FIGURES = MF_CATEGORIES + 11 };

static json_t *all_steps(const mf_bench *b, const mf_bench_case *c) {
    json_t *out = json_array();
    for (int i = 0; i < c->rounds * b->steps; i++) json_array_append_new(out, json_real(c->step_s[i]));
    return out;
}

static json_t *transfers(const mf_bench_case *c) {
    json_t *out = json_array();
    mf_bench_transfer t;
    for (int i = 0; mf_bench_transfer_at(c, i, &t); i++)
        json_array_append_new(out, json_pack("{s:s, s:s, s:f, s:f, s:f, s:f}", "axis", t.axis, "op", t.op,
                                             "calls", t.calls, "bytes", t.bytes, "borrowed_bytes",
                                             t.borrowed_bytes, "predicted_bytes", t.predicted));
    return out;
}

static json_t *measured(const mf_bench *b, const mf_bench_case *c) {
    mf_bench_figures f = mf_bench_figures_of(b, c);
    json_t *ranks = json_array();
    for (int i = 0; i < c->first.ranks; i++)
        json_array_append_new(ranks, mf_rank_json(&c->options.mesh, &c->first.rank[i]));
    json_t *times = json_pack("{s:f, s:f, s:f, s:o}", "median", f.step_s, "min", f.step_s_min, "max",
                              f.step_s_max, "all", all_steps(b, c));
    json_t *moved = json_pack("{s:f, s:f, s:f, s:o}", "most", f.moved_most, "mean", f.moved, "predicted",
                              f.predicted, "by_op", transfers(c));
    return json_pack("{s:o, s:f, s:f, s:f, s:f, s:f, s:o, s:o, s:o}", "step_s", times, "tokens_per_s",
                     f.tokens_per_s, "flops_per_step", c->first.flops, "peak_flops", f.peak_flops,
                     "flops_share_of_peak", f.flops_share, "exposed_share", f.exposed, "moved_bytes", moved,
                     "ranks", ranks, "predicted", mf_prediction_json(&c->options.mesh, &c->dry));
}

static json_t *refused(const mf_bench_case *c) {
    return json_pack("{s:{s:s, s:s}}", "refused", "status", mf_status_name(c->refused), "why", c->why);
}

static json_t *layout(const mf_bench *b, const mf_bench_case *c) {
    const mf_model_options *m = &c->options.model;
    json_t *out = json_pack("{s:s, s:o, s:I, s:I, s:i, s:b}", "layout", c->mesh, "mesh",
                            mf_mesh_json(&c->options.mesh), "seq", (json_int_t)m->tokens, "batch",
                            (json_int_t)m->batch, "threads", c->options.threads, "fits", c->refused == MF_OK);
    json_t *rest = c->refused ? refused(c) : measured(b, c);
    json_object_update(out, rest);
    json_decref(rest);
    return out;
}

static json_t *whole(const mf_bench *b) {
    const mf_model_options *m = &b->cases->options.model;
    json_t *layouts = json_array();
    char name[MF_DEVICE_WORDS];
    mf_device_words(b->device, name);
    for (int i = 0; i < b->lengths * b->meshes; i++) json_array_append_new(layouts, layout(b, &b->cases[i]));
    return json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:o}", "model", b->model, "params",
                     (json_int_t)mf_config_params(&m->config), "pass", b->forward ? "forward" : "training",
                     "engine", b->engine, "device", b->device, "device_name", name, "dtype",
                     mf_dtype_name(m->type), "recompute", b->recompute, "rounds", b->rounds, "steps",
                     b->steps, "layouts", layouts);
}

/* What is lost on the way to stdout is found when the program ends. */
static mf_status put(const char *path, const char *text, size_t bytes) {
    if (strcmp(path, "-") != 0) return mf_file_write(path, text, bytes);
    fwrite(text, 1, bytes, stdout);
    return MF_OK;
}

mf_status mf_bench_write_json(const mf_bench *b, const char *path) {
    mf_status status = MF_OK;
    char *line = NULL;
    json_t *object = whole(b);
    char *text = object ? json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(DIGITS)) : NULL;
    if (!text) MF_GO(MF_FAIL(MF_ENOMEM, "no memory for the report"));
    MF_GO(mf_format(&line, "%s\n", text));
    MF_GO(put(path, line, strlen(line)));
fail:
    mf_host_free(line);
    free(text);
    json_decref(object);
    return status;
}

/* Quoted: meshes have commas, reasons may have anything. */
static void csv_text(FILE *out, const char *text) {
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"') fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void csv_head(FILE *out) {
    fprintf(out, "layout,seq,batch,ranks,threads,fits,why,peak_bytes");
    for (int k = 0; k < MF_CATEGORIES; k++) fprintf(out, ",peak_%s_bytes", mf_category_name((mf_category)k));
    fprintf(out,
            ",moved_most_bytes,moved_mean_bytes,moved_predicted_bytes,step_s_median,step_s_min,step_s_max,"
            "tokens_per_s,flops_share_of_peak,exposed_share,dry_peak_bytes,device\n");
}

static void csv_figures(FILE *out, const mf_bench_figures *f, const mf_prediction *dry) {
    fprintf(out, ",%lld", (long long)f->rank->memory.peak_total);
    for (int k = 0; k < MF_CATEGORIES; k++) fprintf(out, ",%lld", (long long)f->rank->memory.peak[k]);
    fprintf(out, ",%.0f,%.*g,%.*g,%.*g,%.*g,%.*g,%.*g,%.*g,%.*g,%lld", f->moved_most, DIGITS, f->moved,
            DIGITS, f->predicted, DIGITS, f->step_s, DIGITS, f->step_s_min, DIGITS, f->step_s_max, DIGITS,
            f->tokens_per_s, DIGITS, f->flops_share, DIGITS, f->exposed,
            (long long)dry->rank.memory.peak_total);
}

static void csv_line(FILE *out, const mf_bench *b, const mf_bench_case *c) {
    csv_text(out, c->mesh);
    fprintf(out, ",%lld,%lld,%d,%d,%s,", (long long)c->options.model.tokens,
            (long long)c->options.model.batch, mf_mesh_ranks(&c->options.mesh), c->options.threads,
            c->refused ? "false" : "true");
    csv_text(out, c->why);
    if (c->refused) {
        for (int i = 0; i < FIGURES; i++) fputc(',', out);
    } else {
        mf_bench_figures f = mf_bench_figures_of(b, c);
        csv_figures(out, &f, &c->dry);
    }
    fputc(',', out);
    csv_text(out, b->device);
    fputc('\n', out);
}

mf_status mf_bench_write_csv(const mf_bench *b, const char *path) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report: %s", strerror(errno));
    csv_head(out);
    for (int i = 0; i < b->lengths * b->meshes; i++) csv_line(out, b, &b->cases[i]);
    bool whole_text = fclose(out) == 0;
    mf_status status = whole_text ? put(path, text, bytes) : MF_FAIL(MF_ENOMEM, "no memory for the report");
    free(text);
    return status;
}
