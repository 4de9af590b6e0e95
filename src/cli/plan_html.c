/* plan_html.c: what `meshfold plan` found, as one page that needs nothing beside itself. It is well-formed
 * XML too, so that any reader of that can check it. */
#include "cli/plan_table.h"

#include "cli/html.h"
#include "cli/model_text.h"
#include "cli/plan_figures.h"
#include "cli/text.h"
#include "meshfold/io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void put_style(FILE *out) {
    fprintf(out, "<style>\n"
                 ":root{color-scheme:light dark;--ink:#1b1b1b;--paper:#ffffff;--faint:#dddddd}\n"
                 "@media (prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#161616;--faint:#3a3a3a}}\n"
                 "body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);"
                 "max-width:80rem;margin:2rem auto;padding:0 1rem}\n"
                 "h1{font-size:1.5rem}\nh2{font-size:1rem;margin-top:2rem}\n"
                 "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}\n"
                 "dt{font-weight:600}\ndd{margin:0}\n"
                 ".wide{overflow-x:auto}\n"
                 "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem}\n"
                 "th,td{padding:.3rem .6rem;border-bottom:1px solid var(--faint);text-align:right;"
                 "white-space:nowrap;vertical-align:top}\n"
                 ".words{text-align:left}\n"
                 ".long{text-align:left;white-space:normal}\n"
                 "tr.no td{opacity:.65}\n");
    mf_plan_figures_style(out);
    fprintf(out, "</style>\n");
}

static void begin_fact(FILE *out, const char *term) { fprintf(out, "<dt>%s</dt><dd>", term); }
static void end_fact(FILE *out) { fprintf(out, "</dd>\n"); }

static void put_model(const mf_plan_table *t, FILE *out) {
    const mf_model_options *o = &t->options;
    char params[32], text[MF_MODEL_TEXT];
    begin_fact(out, "model");
    mf_html_putf(out, "%s: %s parameters; %s; %s", t->model,
                 mf_rate_text((double)mf_config_params(&o->config), params), mf_config_text(&o->config, text),
                 t->dtype);
    end_fact(out);
    begin_fact(out, "step");
    mf_html_putf(out, "%s, %s a replica", o->forward_only ? "forward" : "training",
                 mf_amount_text(o, o->batch, text));
    end_fact(out);
}

static void put_cluster(const mf_plan_table *t, FILE *out) {
    const mf_cluster *c = t->cluster;
    char memory[32];
    begin_fact(out, "cluster");
    mf_html_putf(out, "%s: %s, %s, %.4g TFLOP/s in %s each; ", c->name, c->device,
                 mf_bytes_text(c->memory_bytes, memory), c->flops[t->options.type] / 1e12,
                 mf_dtype_name(t->options.type));
    for (int i = 0; i < c->levels; i++) {
        mf_html_putf(out, "%s%s, %.4g GB/s", i ? "; " : "", c->level[i].name, c->level[i].bytes_per_s / 1e9);
        if (c->level[i].ranks) mf_html_putf(out, " among %d ranks", c->level[i].ranks);
    }
    end_fact(out);
}

static void put_left_out(const mf_left_out *l, FILE *out) {
    if (l->count == 0) return;
    begin_fact(out, "left out");
    mf_html_putf(out, "%d, such as %s: %s", l->count, l->mesh, l->why);
    end_fact(out);
}

static void put_search(const mf_plan_table *t, FILE *out) {
    const mf_search_result *s = t->search;
    begin_fact(out, "tried");
    mf_html_putf(out, "%d layout%s: %d run with a few layers, of which %d fit; the best %d in full", s->tried,
                 mf_plural(s->tried), s->screened, s->fit, s->count);
    end_fact(out);
    for (int i = 0; i < MF_LEFT_OUT; i++) put_left_out(&s->left_out[i], out);
    if (!t->enough) return;
    begin_fact(out, "more ranks");
    mf_html_putf(out, "on %d something fits", t->enough);
    end_fact(out);
}

static void put_named(const mf_plan_table *t, FILE *out) {
    int fit = 0;
    for (int i = 0; i < t->count; i++) fit += !t->row[i].refused && t->row[i].plan.fits;
    begin_fact(out, "tried");
    mf_html_putf(out, "%d layout%s, as named; %d fit%s", t->count, mf_plural(t->count), fit,
                 fit == 1 ? "s" : "");
    end_fact(out);
}

static void put_head_row(FILE *out) {
    static const char *const before[] = {"#", "mesh", "recompute", "fits", "peak"}, *const after[] = {
                                                                                        "step", "tokens/s",
                                                                                        "of peak",
                                                                                        "sent, by axis",
                                                                                        "exposed"};
    fprintf(out, "<thead><tr>");
    for (int i = 0; i < 5; i++) fprintf(out, "<th%s>%s</th>", i == 1 ? " class=\"words\"" : "", before[i]);
    for (int i = 0; i < MF_CATEGORIES; i++) fprintf(out, "<th>%s</th>", mf_category_name((mf_category)i));
    for (int i = 0; i < 5; i++) fprintf(out, "<th>%s</th>", after[i]);
    fprintf(out, "</tr></thead>\n");
}

static void put_cell(FILE *out, const char *text) {
    fprintf(out, "<td>");
    mf_html_put(out, text);
    fprintf(out, "</td>");
}

static void put_bytes(FILE *out, double bytes) {
    char text[32];
    put_cell(out, mf_bytes_text(bytes, text));
}

static void put_fits(const mf_plan_row *r, FILE *out) {
    char text[48], missing[32];
    snprintf(text, sizeof text, "short by %s", mf_bytes_text(r->plan.short_by_bytes, missing));
    put_cell(out, r->plan.fits ? "fits" : text);
}

static void put_sent(const mf_rank_report *rank, FILE *out) {
    const char *between = "";
    fprintf(out, "<td>");
    for (int g = 0; g < rank->groups; g++) {
        char text[32];
        double bytes = mf_plan_group_sent(rank, g);
        if (bytes == 0) continue;
        fprintf(out, "%s", between);
        mf_html_putf(out, "%s %s", rank->group[g].axis, mf_bytes_text(bytes, text));
        between = "<br/>";
    }
    fprintf(out, "%s</td>", *between ? "" : "none");
}

static void put_planned(const mf_plan_row *r, FILE *out) {
    const mf_plan_result *p = &r->plan;
    const mf_memory_stats *m = &p->rank.memory;
    char text[64], rate[32];
    put_cell(out, mf_recompute_name(r->options.model.recompute));
    put_fits(r, out);
    put_bytes(out, (double)m->peak_total);
    for (int i = 0; i < MF_CATEGORIES; i++) put_bytes(out, (double)m->at_peak[i]);
    snprintf(text, sizeof text, "%.3g s", p->step_s);
    put_cell(out, text);
    put_cell(out, mf_rate_text(p->tokens_per_s, rate));
    snprintf(text, sizeof text, "%.0f%%", 100 * p->flops_share);
    put_cell(out, text);
    put_sent(&p->rank, out);
    snprintf(text, sizeof text, "%.3g s, %.0f%%", p->exposed_s, 100 * p->exposed_s / p->step_s);
    put_cell(out, text);
}

static void put_row(const mf_plan_table *t, int row, FILE *out) {
    const mf_plan_row *r = &t->row[row];
    fprintf(out, "<tr%s><td>%d</td><td class=\"words\">", r->refused || !r->plan.fits ? " class=\"no\"" : "",
            row + 1);
    mf_html_put(out, r->mesh);
    fprintf(out, "</td>");
    if (r->refused) {
        fprintf(out, "<td class=\"long\" colspan=\"%d\">impossible: ", MF_CATEGORIES + 8);
        mf_html_put(out, r->why);
        fprintf(out, "</td>");
    } else {
        put_planned(r, out);
    }
    fprintf(out, "</tr>\n");
}

static void put_table(const mf_plan_table *t, FILE *out) {
    fprintf(out, "<div class=\"wide\"><table>\n");
    put_head_row(out);
    fprintf(out, "<tbody>\n");
    for (int i = 0; i < t->count; i++) put_row(t, i, out);
    fprintf(out, "</tbody></table></div>\n"
                 "<p>Of rank 0; its peers are taken to be where it is. Categories are those at the peak; "
                 "workspace is the "
                 "CPU's. Times follow from the cluster's description, in which some figures are assumed: the "
                 "file says which.</p>\n");
}

static void put_longest_row(const mf_plan_table *t, int row, FILE *out) {
    const mf_longest *l = &t->longest[row];
    char text[64];
    fprintf(out, "<tr><td>%d</td><td class=\"words\">", row + 1);
    mf_html_put(out, t->row[row].mesh);
    fprintf(out, "</td>");
    put_cell(out, mf_recompute_name(t->row[row].options.model.recompute));
    snprintf(text, sizeof text, l->tokens ? "%lld" : "not even %lld",
             (long long)mf_plan_length(t, l->tokens ? l->tokens : l->step));
    put_cell(out, text);
    put_bytes(out, (double)l->plan.rank.memory.peak_total);
    put_cell(out, mf_rate_text(l->plan.tokens_per_s, text));
    fprintf(out, "</tr>\n");
}

static void put_longest(const mf_plan_table *t, FILE *out) {
    fprintf(out,
            "<h2>The longest that fit</h2>\n<div class=\"wide\"><table>\n"
            "<thead><tr><th>#</th><th class=\"words\">mesh</th><th>recompute</th><th>%s</th><th>peak</th>"
            "<th>tokens/s</th></tr></thead>\n<tbody>\n",
            mf_plan_length_name(t));
    for (int i = 0; i < t->longests; i++)
        if (!t->row[i].refused) put_longest_row(t, i, out);
    fprintf(out, "</tbody></table></div>\n");
}

static void put_head(const mf_plan_table *t, FILE *out) {
    fprintf(out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
                 "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>");
    mf_html_putf(out, "%s on %s", t->model, t->cluster->name);
    fprintf(out, "</title>\n");
    put_style(out);
    fprintf(out, "</head>\n<body>\n<h1>");
    mf_html_putf(out, "%s on %s", t->model, t->cluster->name);
    fprintf(out, "</h1>\n<dl>\n");
    put_model(t, out);
    put_cluster(t, out);
    if (t->search)
        put_search(t, out);
    else
        put_named(t, out);
    fprintf(out, "</dl>\n");
}

static mf_status put_page(const mf_plan_table *t, FILE *out) {
    put_head(t, out);
    put_table(t, out);
    if (t->longests) put_longest(t, out);
    if (mf_plan_planned(t) > 0) {
        mf_plan_draw_memory(t, out);
        mf_plan_draw_time(t, out);
        MF_TRY(mf_plan_draw_choice(t, out));
    }
    fprintf(out, "</body>\n</html>\n");
    return MF_OK;
}

mf_status mf_plan_html(const mf_plan_table *t, const char *path) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for %s: %s", path, strerror(errno));
    mf_status status = put_page(t, out);
    bool whole = ferror(out) == 0;
    whole &= fclose(out) == 0;
    if (!status && !whole) status = MF_FAIL(MF_ENOMEM, "no memory for %s", path);
    if (!status) status = mf_file_write(path, text, bytes);
    free(text);
    return status;
}
