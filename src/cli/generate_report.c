/* generate_report.c: what `meshfold generate` found and took: figures for people, JSON for programs. */
#include "cli/generate_report.h"

#include "cli/rank_json.h"
#include "cli/text.h"

static double per_second(int64_t count, double seconds) { return seconds > 0 ? (double)count / seconds : 0; }

static double step_rate(const mf_generation *g) {
    return g->made_s > 0 ? g->step_bytes * (double)g->steps / g->made_s : 0;
}

/* Beyond what the model was made for it gets worse, not wrong. */
static void print_lengths(const mf_generate_report *r) {
    int64_t most = r->positions;
    for (int i = 0; i < r->prompts && most; i++) {
        int64_t tokens = r->answer[i].prompt.count + r->answer[i].made.count;
        if (tokens <= most) continue;
        fprintf(stderr, "note     prompt %d and its answer have %lld tokens; the model was made for %lld\n",
                i + 1, (long long)tokens, (long long)most);
        return;
    }
}

void mf_generate_print(const mf_generate_report *r) {
    const mf_generation *g = r->result;
    char a[32], b[32];
    int64_t weights = 0, peak = 0;
    for (int i = 0; i < g->ranks; i++) {
        weights = mf_max(weights, g->rank[i].memory.now[MF_WEIGHTS]);
        peak = mf_max(peak, g->rank[i].memory.peak_total);
    }
    fprintf(stderr, "\n");
    if (g->read)
        fprintf(stderr, "prefill  %lld tokens in %s: %s tokens/s, %.0f%% of peak\n", (long long)g->read,
                mf_seconds_text(g->read_s, a), mf_rate_text(per_second(g->read, g->read_s), b),
                100 * g->read_flops / g->read_s / g->peak_flops);
    if (g->made)
        fprintf(stderr,
                "decode   %lld tokens in %s: %s tokens/s; weights and cache at %.1f GB/s, %.0f%% of the %.1f "
                "that memory gives\n",
                (long long)g->made, mf_seconds_text(g->made_s, a),
                mf_rate_text(per_second(g->made, g->made_s), b), step_rate(g) / 1e9,
                100 * step_rate(g) / g->bandwidth, g->bandwidth / 1e9);
    fprintf(stderr, "memory   of a rank: weights %s, ", mf_bytes_text((double)weights, a));
    fprintf(stderr, "cache %s, ", mf_bytes_text((double)g->cache_bytes, a));
    fprintf(stderr, "peak %s; %d rank%s, %s, on %s\n", mf_bytes_text((double)peak, a), g->ranks,
            mf_plural(g->ranks), r->mesh_text, r->device);
    print_lengths(r);
}

static const char *finish_name(mf_ending finish) {
    return finish == MF_END_STOP ? "stop" : finish == MF_END_LENGTH ? "length" : "interrupted";
}

static json_t *answer_json(const mf_answer *a) {
    json_t *ids = json_array();
    for (int64_t i = 0; i < a->made.count; i++) json_array_append_new(ids, json_integer(a->made.id[i]));
    return json_pack("{s:I, s:s%, s:o, s:s}", "prompt_tokens", (json_int_t)a->prompt.count, "text",
                     a->said.count ? (const char *)a->said.data : "", a->said.count, "tokens", ids, "finish",
                     finish_name(a->finish));
}

mf_status mf_generate_print_json(const mf_generate_report *r) {
    const mf_generation *g = r->result;
    json_t *answers = json_array(), *ranks = json_array();
    for (int i = 0; i < r->prompts; i++) json_array_append_new(answers, answer_json(&r->answer[i]));
    for (int i = 0; i < g->ranks; i++) json_array_append_new(ranks, mf_rank_json(r->mesh, &g->rank[i]));
    json_t *out = json_pack(
        "{s:s, s:o, s:{s:I, s:f, s:f, s:f}, s:{s:I, s:I, s:f, s:f, s:f, s:f}, s:I, s:o, s:o}", "device",
        r->device, "answers", answers, "prefill", "tokens", (json_int_t)g->read, "seconds", g->read_s,
        "tokens_per_s", per_second(g->read, g->read_s), "flops_share_of_peak",
        g->read ? g->read_flops / g->read_s / g->peak_flops : 0, "decode", "tokens", (json_int_t)g->made,
        "steps", (json_int_t)g->steps, "seconds", g->made_s, "tokens_per_s", per_second(g->made, g->made_s),
        "bytes_per_s", step_rate(g), "memory_bytes_per_s", g->bandwidth, "cache_bytes",
        (json_int_t)g->cache_bytes, "mesh", mf_mesh_json(r->mesh), "ranks", ranks);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(out);
    return MF_OK;
}
