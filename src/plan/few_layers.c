/* few_layers.c: what a step takes, by the same step with fewer layers. */
#include "plan/search.h"

/* Layers are alike, of a video's model in pairs; the fewest of which as much is in flight as of many. */
typedef struct layers {
    int64_t fewer, more;
} layers;

static layers layers_of(const mf_model_config *c) {
    return c->family == MF_STDIT ? (layers){4, 6} : (layers){2, 3};
}

/* What some more of them take is what as many take each time. */
static double continued(double of_fewer, double of_more, const mf_model_config *c) {
    layers l = layers_of(c);
    double times = (double)(c->layers - l.fewer) / (double)(l.more - l.fewer);
    return of_fewer + times * (of_more - of_fewer);
}

/* Without a step to warm up: the second differs only in its memory, and there by little. */
mf_status mf_plan_few_layers(const mf_cluster *cluster, const mf_measure_options *options, bool borrows,
                             double *tokens_per_s, double *peak_bytes) {
    mf_measure_options o = *options;
    mf_plan_result fewer, more;
    const mf_model_config *c = &options->model.config;
    o.model.config.layers = layers_of(c).fewer;
    MF_TRY(mf_plan_after(cluster, &o, 0, borrows, 0, &fewer));
    o.model.config.layers = layers_of(c).more;
    MF_TRY(mf_plan_after(cluster, &o, 0, borrows, 0, &more));
    double tokens = fewer.tokens_per_s * fewer.step_s;
    *tokens_per_s = tokens / continued(fewer.step_s, more.step_s, c);
    *peak_bytes = continued((double)fewer.rank.memory.peak_total, (double)more.rank.memory.peak_total, c);
    return MF_OK;
}
