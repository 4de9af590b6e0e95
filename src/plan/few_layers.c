/* few_layers.c: what a step takes, by the same step with fewer layers. */
#include "plan/search.h"

enum { FEWER = 2, MORE = 3 };

/* Layers are alike: what one more of them takes is what each takes. */
static double continued(double of_fewer, double of_more, double layers) {
    return of_fewer + (layers - FEWER) * (of_more - of_fewer);
}

/* Without a step to warm up: the second differs only in its memory, and there by little. */
mf_status mf_plan_few_layers(const mf_cluster *cluster, const mf_measure_options *options, bool borrows,
                             double *tokens_per_s, double *peak_bytes) {
    mf_measure_options o = *options;
    mf_plan_result fewer, more;
    double layers = (double)options->model.config.layers;
    o.model.config.layers = FEWER;
    MF_TRY(mf_plan_after(cluster, &o, 0, borrows, 0, &fewer));
    o.model.config.layers = MORE;
    MF_TRY(mf_plan_after(cluster, &o, 0, borrows, 0, &more));
    double tokens = fewer.tokens_per_s * fewer.step_s;
    *tokens_per_s = tokens / continued(fewer.step_s, more.step_s, layers);
    *peak_bytes =
        continued((double)fewer.rank.memory.peak_total, (double)more.rank.memory.peak_total, layers);
    return MF_OK;
}
