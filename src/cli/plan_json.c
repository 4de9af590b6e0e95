/* plan_json.c: what was planned, as one JSON object. */
#include "cli/plan_table.h"
#include "cli/rank_json.h"

static json_t *sent_json(const mf_rank_report *r) {
    json_t *out = json_object();
    for (int g = 0; g < r->groups; g++)
        json_object_set_new(out, r->group[g].axis, json_integer((json_int_t)mf_plan_group_sent(r, g)));
    return out;
}

static json_t *waited_json(const mf_rank_report *r) {
    json_t *out = json_object();
    for (int g = 0; g < r->groups; g++)
        json_object_set_new(out, r->group[g].axis, json_real(mf_plan_group_waited(r, g)));
    return out;
}

static json_t *row_json(const mf_plan_row *row) {
    char family[32];
    const mf_plan_result *p = &row->plan;
    const mf_measure_options *o = &row->options;
    const char *mode = mf_recompute_name(o->model.recompute);
    if (row->refused)
        return json_pack("{s:s, s:s, s:b, s:s}", "layout", row->mesh, "recompute", mode, "fits", 0, "why",
                         row->why);
    return json_pack("{s:s, s:s, s:s, s:o, s:b, s:f, s:f, s:f, s:f, s:f, s:o, s:o, s:[o]}", "layout",
                     row->mesh, "recompute", mode, "family",
                     mf_plan_family_name(mf_plan_family(&o->mesh, &o->layout), family), "mesh",
                     mf_mesh_json(&o->mesh), "fits", p->fits, "short_by_bytes", p->short_by_bytes, "step_s",
                     p->step_s, "tokens_per_s", p->tokens_per_s, "flops_share_of_peak", p->flops_share,
                     "exposed_s", p->exposed_s, "sent_bytes", sent_json(&p->rank), "exposed_s_by_axis",
                     waited_json(&p->rank), "ranks", mf_rank_json(&o->mesh, &p->rank));
}

static json_t *longest_json(const mf_plan_table *t, const mf_longest *l) {
    json_t *out = json_pack("{s:I, s:I, s:I, s:f, s:f}", "tokens", (json_int_t)l->tokens, "step_tokens",
                            (json_int_t)l->step, "peak_bytes", (json_int_t)l->plan.rank.memory.peak_total,
                            "step_s", l->plan.step_s, "tokens_per_s", l->plan.tokens_per_s);
    if (t->options.config.family == MF_STDIT)
        json_object_set_new(out, "frames", json_integer((json_int_t)mf_plan_length(t, l->tokens)));
    return out;
}

static json_t *rows_json(const mf_plan_table *t) {
    json_t *out = json_array();
    for (int i = 0; i < t->count; i++) {
        json_t *row = row_json(&t->row[i]);
        if (i < t->longests && !t->row[i].refused)
            json_object_set_new(row, "longest", longest_json(t, &t->longest[i]));
        json_array_append_new(out, row);
    }
    return out;
}

static json_t *left_out_json(const mf_search_result *s) {
    json_t *out = json_array();
    for (int i = 0; i < MF_LEFT_OUT; i++)
        if (s->left_out[i].count)
            json_array_append_new(out, json_pack("{s:i, s:s, s:s}", "count", s->left_out[i].count, "such_as",
                                                 s->left_out[i].mesh, "why", s->left_out[i].why));
    return out;
}

static json_t *search_json(const mf_plan_table *t) {
    const mf_search_result *s = t->search;
    if (!s) return json_null();
    json_t *out =
        json_pack("{s:i, s:i, s:i, s:i, s:o}", "tried", s->tried, "screened", s->screened,
                  "screened_that_fit", s->fit, "run_in_full", s->count, "left_out", left_out_json(s));
    if (t->enough) json_object_set_new(out, "ranks_enough", json_integer(t->enough));
    return out;
}

json_t *mf_plan_json(const mf_plan_table *t) {
    const mf_model_options *m = &t->options;
    json_t *out =
        json_pack("{s:s, s:s, s:s, s:b, s:I, s:I, s:o, s:o}", "cluster", t->cluster->name, "model", t->model,
                  "dtype", t->dtype, "forward", m->forward_only, "seq", (json_int_t)m->tokens, "batch",
                  (json_int_t)m->batch, "search", search_json(t), "layouts", rows_json(t));
    if (m->config.family != MF_STDIT) return out;
    json_object_set_new(out, "frames", json_integer((json_int_t)m->grid.frames));
    json_object_set_new(out, "grid",
                        json_pack("[I, I]", (json_int_t)m->grid.rows, (json_int_t)m->grid.columns));
    return out;
}
