/* train_report.c: see train_report.h. */
#include "cli/train_report.h"

#include "cli/device_choice.h"
#include "cli/metrics_file.h"
#include "cli/model_text.h"
#include "cli/predict.h"
#include "cli/rank_json.h"
#include "cli/run_folder.h"
#include "cli/text.h"
#include "meshfold/checkpoint.h"
#include "meshfold/comm.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a float needs to be told from its neighbours. */
enum { DIGITS = 9 };

static const char *text_time(double seconds, char out[32]) {
    long s = (long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(out, 32, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else
        snprintf(out, 32, "%ldm%02lds", s / 60, s % 60);
    return out;
}

void mf_report_close(mf_train_report *r) {
    if (r->metrics) fclose(r->metrics);
    r->metrics = NULL;
}

/* One JSON line to metrics.jsonl, and to the terminal where JSON was asked for. Takes `line`. */
static mf_status put(mf_train_report *r, json_t *line) {
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS)) : NULL;
    json_decref(line);
    if (!text) return MF_FAIL(MF_ENOMEM, "no memory for a line of metrics");
    bool written = true;
    if (r->metrics) written = fprintf(r->metrics, "%s\n", text) > 0 && fflush(r->metrics) == 0;
    if (r->json) printf("%s\n", text);
    free(text);
    fflush(stdout);
    return written ? MF_OK : MF_FAIL(MF_EIO, "%s/metrics.jsonl: %s", r->folder, strerror(errno));
}

/* Texts always do. */
static bool holds_out(const mf_train_options *o) {
    return !o->clips || mf_video_set_runs(o->clips).held_out > 0;
}

static void print_clips(const mf_video_set *clips) {
    mf_video_runs runs = mf_video_set_runs(clips);
    int64_t count = mf_video_set_clips(clips);
    printf("; %lld clip%s in %d file%s, ", (long long)count, mf_plural(count), mf_video_set_files(clips),
           mf_plural(mf_video_set_files(clips)));
    if (runs.held_out)
        printf("%lld runs of frames, the last %lld held out\n", (long long)runs.all,
               (long long)runs.held_out);
    else
        printf("too short to hold any out: evaluated on what is trained on\n");
}

static void print_start(const mf_train_report *r, const mf_train_options *o, double peak_flops) {
    const mf_model_config *m = &o->model.config;
    int64_t sequences = o->model.batch * o->accumulate;
    char params[32], text[MF_MODEL_TEXT], device[MF_DEVICE_WORDS];
    mf_device_words(o->device, device);
    printf("device     %s: %s\n", o->device, device);
    printf("model      %s parameters: %s\n", mf_rate_text((double)mf_config_params(m), params),
           mf_config_text(m, text));
    printf("mesh       ");
    if (o->mesh.axes == 0) printf("single");
    for (int i = 0; i < o->mesh.axes; i++)
        printf("%s%s=%d", i ? "," : "", o->mesh.axis[i].name, o->mesh.axis[i].size);
    printf(", %d thread%s a rank, %s, recompute %s; matrix peak %.1f GFLOP/s\n", o->threads,
           mf_plural(o->threads), r->dtype, r->recompute, peak_flops / 1e9);
    printf("step       %s", mf_amount_text(&o->model, sequences, text));
    if (o->clips)
        print_clips(o->clips);
    else
        printf("%s; text of %lld %ss, the last %lld held out\n", o->model.packed ? ", documents apart" : "",
               (long long)o->data.total, o->data.text.width ? "token" : "byte",
               (long long)(o->data.total - o->data.train));
    fflush(stdout);
}

/* The folder of a run that begins holds no checkpoints, though an older one's may be there (--force). */
static mf_status open_folder(mf_train_report *r) {
    bool goes_on = r->resumed && !r->elsewhere;
    if (goes_on)
        MF_TRY(mf_metrics_cut(r->folder, r->first_step));
    else
        MF_TRY(mf_run_folder_forget(r->folder));
    return mf_run_folder_open(r->folder, r->resolved, goes_on, &r->metrics);
}

static mf_status started(void *context, const mf_train_options *o, double peak_flops) {
    mf_train_report *r = context;
    r->options = o;
    r->started = true;
    if (r->folder) MF_TRY(open_folder(r));
    if (!r->json) print_start(r, o, peak_flops);
    return MF_OK;
}

static void print_values(const mf_train_report *r, const mf_step_metrics *m) {
    if (r->one_of)
        printf("loss -  grad -");
    else
        printf("loss %.4f  grad %.3f", fabs(m->loss), fabs(m->grad_norm));
}

static void print_step(const mf_train_report *r, const mf_step_metrics *m) {
    char rate[32], peak[32], left[32];
    int width = snprintf(NULL, 0, "%lld", (long long)m->steps);
    printf("step %*lld/%lld  ", width, (long long)m->step, (long long)m->steps);
    print_values(r, m);
    printf("  lr %.2e  %s tokens/s  %.0f%% of peak  %s  %s left", m->lr, mf_rate_text(m->tokens_per_s, rate),
           100 * m->flops_share, mf_bytes_text((double)m->peak_bytes, peak), text_time(m->left_s, left));
    if (m->skipped) printf("  %lld skipped", (long long)m->skipped);
    printf("\n");
}

/* JSON has no word for a value that is not finite: null stands for it. */
static json_t *real(double value) { return value - value == 0.0 ? json_real(value) : json_null(); }

/* What one rank alone finds among stand-ins means nothing. */
static json_t *value(const mf_train_report *r, double found) { return r->one_of ? json_null() : real(found); }

static mf_status stepped(void *context, const mf_step_metrics *m) {
    mf_train_report *r = context;
    if (!r->json) print_step(r, m);
    return put(r,
               json_pack("{s:I, s:o, s:o, s:f, s:I, s:f, s:f, s:I, s:I}", "step", (json_int_t)m->step, "loss",
                         value(r, m->loss), "grad_norm", value(r, m->grad_norm), "lr", m->lr, "tokens",
                         (json_int_t)m->tokens, "step_s", m->step_s, "tokens_per_s", m->tokens_per_s,
                         "peak_bytes", (json_int_t)m->peak_bytes, "skipped", (json_int_t)m->skipped));
}

static mf_status evaluated(void *context, int64_t step, double loss) {
    mf_train_report *r = context;
    const char *data = holds_out(r->options) ? "held-out" : "training";
    if (!r->json) printf("eval after step %lld: %s loss %.4f\n", (long long)step, data, loss);
    return put(r, json_pack("{s:I, s:o}", "step", (json_int_t)step, "eval_loss", real(loss)));
}

/* One JSON object a line, of what is no metric. Takes `line`. */
static mf_status say(json_t *line) {
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS)) : NULL;
    json_decref(line);
    if (!text) return MF_FAIL(MF_ENOMEM, "no memory for a line of output");
    printf("%s\n", text);
    free(text);
    fflush(stdout);
    return MF_OK;
}

static void passed_over(void *context, const char *path, const char *why) {
    const mf_train_report *r = context;
    if (r->json)
        (void)say(json_pack("{s:s, s:s}", "passed_over", path, "why", why));
    else
        printf("passed over %s\n", why);
}

static mf_status resumed(void *context, int64_t step, const char *path) {
    mf_train_report *r = context;
    r->resumed = true;
    r->first_step = step;
    if (r->json) return say(json_pack("{s:I, s:s}", "step", (json_int_t)step, "resumed_from", path));
    printf("resumed    from %s, after step %lld\n", path, (long long)step);
    return MF_OK;
}

static mf_status saved(void *context, int64_t step, const mf_checkpoint_saved *s) {
    const mf_train_report *r = context;
    char bytes[32], seconds[32];
    if (r->json)
        return say(json_pack("{s:I, s:s, s:I, s:f}", "step", (json_int_t)step, "checkpoint", s->path,
                             "checkpoint_bytes", (json_int_t)s->bytes, "checkpoint_s", s->took_s));
    printf("saved %s: %s in %s\n", s->path, mf_bytes_text((double)s->bytes, bytes),
           mf_seconds_text(s->took_s, seconds));
    fflush(stdout);
    return MF_OK;
}

static mf_status stopped(void *context, int64_t step) {
    const mf_train_report *r = context;
    if (r->json) return say(json_pack("{s:I, s:s}", "step", (json_int_t)step, "stopped", r->folder));
    printf("stopped after step %lld, as asked; to go on: meshfold train --resume %s\n", (long long)step,
           r->folder);
    return MF_OK;
}

/* A last step that the dry one can be held against. */
static bool comparable(const mf_train_summary *s) { return s->ran > 0 && !s->skipped_last; }

static mf_status predict(const mf_train_report *r, const mf_train_summary *s, mf_prediction *out) {
    const mf_train_options *o = r->options;
    const mf_measure_options options = {.model = o->model,
                                        .mesh = o->mesh,
                                        .layout = o->layout,
                                        .threads = o->threads,
                                        .device = o->device,
                                        .accumulate = o->accumulate,
                                        .steps = mf_max(s->ran - 1, 0)};
    return mf_predict(r->machine, &options, r->borrows, s->rank->rank, out);
}

/* Of a step, without what stood in for transfers. */
static double computing_s(const mf_train_summary *s) {
    double seconds = s->step_s_median;
    for (int g = 0; g < s->rank->groups; g++)
        for (int op = 0; op < MF_COMM_OPS; op++) seconds -= s->rank->group[g].stat[op].exposed_s;
    return fmax(seconds, 0);
}

static json_t *json_summary(const mf_train_report *r, const mf_train_summary *s,
                            const mf_prediction *predicted) {
    const mf_train_options *o = r->options;
    json_t *mesh = mf_mesh_json(&o->mesh), *ranks = json_array();
    for (int i = 0; i < s->ranks; i++) json_array_append_new(ranks, mf_rank_json(&o->mesh, &s->rank[i]));
    json_t *loss = json_pack("{s:o, s:o, s:o}", "first", value(r, s->loss_first), "last",
                             value(r, s->loss_last), "eval", value(r, s->loss_eval));
    json_t *times = json_pack("{s:f, s:f}", "median", s->step_s_median, "min", s->step_s_min);
    if (r->one_of) json_object_set_new(times, "computing", json_real(computing_s(s)));
    char name[MF_DEVICE_WORDS];
    mf_device_words(s->device, name);
    return json_pack(
        "{s:o, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:f, s:f, s:f, "
        "s:f, s:o, s:o}",
        "mesh", mesh, "engine", s->engine, "device", s->device, "device_name", name, "dtype", r->dtype,
        "recompute", r->recompute, "seq", (json_int_t)o->model.tokens, "batch", (json_int_t)o->model.batch,
        "accumulate", (json_int_t)o->accumulate, "threads", (json_int_t)o->threads, "steps",
        (json_int_t)s->steps, "skipped", (json_int_t)s->skipped, "params", (json_int_t)s->params, "loss",
        loss, "step_s", times, "tokens_per_s", s->tokens_per_s, "flops_per_step", s->flops_per_step,
        "peak_flops", s->peak_flops, "flops_share_of_peak", s->flops_share, "ranks", ranks, "predicted",
        mf_prediction_json(&o->mesh, predicted));
}

static void print_memory(const mf_train_report *r, const mf_train_summary *s) {
    printf("\npeak memory by category\n  rank %12s", "total");
    for (int i = 0; i < MF_CATEGORIES; i++) printf(" %12s", mf_category_name((mf_category)i));
    printf("\n");
    for (int rank = 0; rank < s->ranks; rank++) {
        const mf_memory_stats *stats = &s->rank[rank].memory;
        char text[32];
        printf("  %4d %12s", s->rank[rank].rank, mf_bytes_text((double)stats->peak_total, text));
        for (int i = 0; i < MF_CATEGORIES; i++) printf(" %12s", mf_bytes_text((double)stats->peak[i], text));
        printf("\n");
    }
    int64_t accounted = 0;
    for (int rank = 0; rank < s->ranks; rank++) accounted += s->rank[rank].memory.peak_total;
    char a[32], b[32];
    bool one_process = !r->one_of && strcmp(s->engine, "mpi") != 0 && !mf_launched_by_mpi();
    char alone[32];
    snprintf(alone, sizeof alone, "rank %d", s->rank->rank);
    printf("  %s accounted %s, peak resident size of the process %s\n", one_process ? "all ranks" : alone,
           mf_bytes_text((double)(one_process ? accounted : s->rank[0].memory.peak_total), a),
           mf_bytes_text((double)s->rank[0].rss_peak_bytes, b));
}

static void print_comm(const mf_train_summary *s) {
    printf("\nbytes moved in a step, by rank\n  rank %-6s %-10s %8s %12s %12s %10s\n", "axis", "op", "calls",
           "sent", "borrowed", "exposed");
    for (int rank = 0; rank < s->ranks; rank++) {
        const mf_rank_report *r = &s->rank[rank];
        for (int g = 0; g < r->groups; g++) {
            for (int i = 0; i < MF_COMM_OPS; i++) {
                const mf_comm_stat *c = &r->group[g].stat[i];
                char sent[32], borrowed[32];
                if (c->calls == 0 || i == MF_OP_BARRIER) continue;
                printf("  %4d %-6s %-10s %8lld %12s %12s %8.1fms\n", r->rank, r->group[g].axis, c->op,
                       (long long)c->calls, mf_bytes_text((double)c->bytes, sent),
                       mf_bytes_text((double)c->borrowed_bytes, borrowed), 1e3 * c->exposed_s);
            }
        }
    }
}

static void print_end(const mf_train_report *r, const mf_train_summary *s) {
    char rate[32];
    if (r->one_of)
        printf("\nrank %d alone: a step takes %.3f s, of which it computes for %.3f s; loss -", s->rank->rank,
               s->step_s_median, computing_s(s));
    else
        printf("\nloss %.4f -> %.4f, %s %.4f; %s tokens/s, %.0f%% of peak", s->loss_first, s->loss_last,
               holds_out(r->options) ? "held out" : "evaluated", s->loss_eval,
               mf_rate_text(s->tokens_per_s, rate), 100 * s->flops_share);
}

static mf_status finished(void *context, const mf_train_summary *s) {
    mf_status status = MF_OK;
    mf_train_report *r = context;
    mf_prediction predicted;
    MF_TRY(predict(r, s, &predicted));
    json_t *summary = json_summary(r, s, &predicted);
    if (!summary) return MF_FAIL(MF_ENOMEM, "no memory for the summary");
    if (r->json) {
        json_dumpf(summary, stdout, JSON_COMPACT | JSON_REAL_PRECISION(DIGITS));
        printf("\n");
    } else {
        print_memory(r, s);
        if (s->ranks > 1 || r->one_of) print_comm(s);
        if (comparable(s)) mf_prediction_print(&predicted, &s->rank[0], s->step_s_median);
        print_end(r, s);
        if (s->skipped) printf("; %lld step%s skipped", (long long)s->skipped, mf_plural(s->skipped));
        printf("\n");
        if (r->folder) printf("wrote %s (model in %s/model)\n", r->folder, r->folder);
    }
    if (r->folder) MF_GO(mf_run_folder_write(r->folder, "summary.json", summary, DIGITS));
fail:
    json_decref(summary);
    return status;
}

mf_train_observer mf_report_observer(mf_train_report *report) {
    return (mf_train_observer){.context = report,
                               .started = started,
                               .stepped = stepped,
                               .evaluated = evaluated,
                               .finished = finished,
                               .passed_over = passed_over,
                               .resumed = resumed,
                               .saved = saved,
                               .stopped = stopped};
}
