/* costs.c: what operations and transfers cost on a cluster: as they were measured there, or by its devices'
 * peaks and what is usually reached of them. */
#include "meshfold/plan.h"

#include <math.h>

/* What was measured with as many ranks at work, or nearly; NULL: nothing was. */
static const mf_rates *rates_of(const mf_cluster *c, int ranks) {
    const mf_rates *best = NULL;
    for (int i = 0; i < c->measured; i++)
        if (!best || c->rates[i].ranks <= ranks) best = &c->rates[i];
    return best;
}

/* Ranks that were not measured together share the device of those that were, where all have one. */
static double crowding(const mf_costs *costs, const mf_rates *rates) {
    const mf_cluster *c = costs->context;
    return c->shared && costs->ranks > rates->ranks ? (double)costs->ranks / rates->ranks : 1;
}

/* Seconds where the grid was measured, else below 0. */
static double measured_s(const mf_costs *costs, const mf_rates *rates, const mf_grid *grid,
                         const double *size, double amount) {
    if (!grid->axes) return -1;
    return crowding(costs, rates) * mf_rates_s(rates, grid, size, amount);
}

static double reached(const mf_efficiency *e, double size) { return size / (size + e->half); }

static double matrix_bytes(const mf_gemm_args *a) {
    double in = (double)mf_dtype_bytes(a->a.type),
           out = (double)mf_dtype_bytes(a->c_type) * (a->accumulate ? 2 : 1);
    double m = (double)a->m, n = (double)a->n, k = (double)a->k;
    return in * (m * k + k * n) + out * m * n;
}

/* Bound by arithmetic or by memory, whichever is longer. */
static double gemm_by_peak_s(const mf_cluster *c, const mf_gemm_args *a) {
    double m = (double)a->m, n = (double)a->n, k = (double)a->k;
    double share = c->gemm.share * reached(&c->gemm, m) * reached(&c->gemm, n) * reached(&c->gemm, k);
    return c->launch_s +
           fmax(2 * m * n * k / (c->flops[a->a.type] * share), matrix_bytes(a) / c->memory_bytes_per_s);
}

/* What a product takes longer that is not simply stored as f32. */
static double result_s(const mf_rates *rates, const mf_gemm_args *a) {
    const mf_grid *grid = &rates->gemm_result[a->a.type];
    double elements = (double)a->m * (double)a->n, plain = 1, added = 2, rounded = 3, more = 0;
    if (!grid->axes) return 0;
    double least = mf_rates_s(rates, grid, &plain, elements);
    if (a->accumulate) more += mf_rates_s(rates, grid, &added, elements) - least;
    if (a->c_type == MF_BF16) more += mf_rates_s(rates, grid, &rounded, elements) - least;
    return fmax(more, 0);
}

static double gemm_s(const mf_costs *costs, const mf_gemm_args *a) {
    const mf_cluster *c = costs->context;
    const mf_rates *rates = rates_of(c, costs->ranks);
    double m = (double)a->m, n = (double)a->n, k = (double)a->k;
    if (k == 0) return c->launch_s;
    if (!rates) return gemm_by_peak_s(c, a);
    mf_dtype type = a->a.type;
    int form = a->a.transposed   ? a->b.transposed ? MF_FORM_TT : MF_FORM_TN
               : a->b.transposed ? MF_FORM_NT
                                 : MF_FORM_NN;
    double s = measured_s(costs, rates, &rates->gemm[type][form], (double[]){m, n, k}, 2 * m * n * k);
    if (s < 0) return gemm_by_peak_s(c, a);
    return s + crowding(costs, rates) * result_s(rates, a);
}

/* Two products a pair forward, five backward. */
static double attention_s(const mf_costs *costs, const mf_attention_args *a, bool backward, double pairs) {
    const mf_cluster *c = costs->context;
    const mf_rates *rates = rates_of(c, costs->ranks);
    double flops = (backward ? 10.0 : 4.0) * (double)a->head_dim * pairs;
    double tokens = (double)mf_max(a->tokens, 1);
    double s = rates ? measured_s(costs, rates, &rates->attention[a->type][backward],
                                  (double[]){(double)a->head_dim, tokens}, flops)
                     : -1;
    if (s >= 0) return s;
    return c->launch_s + flops / (c->flops[a->type] * c->attention.share * reached(&c->attention, tokens));
}

static double touch_s(const mf_costs *costs, mf_operation operation, mf_dtype type, double bytes) {
    const mf_cluster *c = costs->context;
    const mf_rates *rates = rates_of(c, costs->ranks);
    double s = rates ? measured_s(costs, rates, &rates->touch[operation][type], &bytes, bytes) : -1;
    return s >= 0 ? s : c->launch_s + bytes / c->memory_bytes_per_s;
}

/* Hops that a collective takes one after another: trees and their like, as libraries use where latency
 * counts.
 */
static double hops(const mf_transfer_cost *t) {
    double rounds = ceil(log2(t->size));
    switch (t->op) {
    case MF_OP_SHIFT:
    case MF_OP_ALLTOALL:
        return 1;
    case MF_OP_ALLREDUCE:
        return 2 * rounds;
    default:
        return rounds;
    }
}

/* Of the bytes that a rank sends, what a rank's link carries out of a unit that holds `inside` of the group's
 * `size` ranks. Rings and trees leave over the links of all of these, each with a part of the data; blocks of
 * an all-to-all go from rank to rank; a shift waits for the rank whose whole block leaves. Source: NCCL's
 * developers, github.com/NVIDIA/nccl/issues 530 (rings and trees use all NICs in parallel) and 687 (an
 * all-to-all has direct connections alone).
 */
static double carried_bytes(int op, double bytes, int inside, int size) {
    switch (op) {
    case MF_OP_SHIFT:
        return bytes;
    case MF_OP_ALLTOALL:
        return bytes * (size - inside) / (size - 1);
    default:
        return bytes / inside;
    }
}

double mf_cluster_links_s(const mf_cluster *c, int op, double bytes, const int *together, int size) {
    double slowest = 0;
    for (int level = 0, inside = 1; inside < size; inside = together[level++])
        if (together[level] > inside)
            slowest = fmax(slowest, carried_bytes(op, bytes, inside, size) / c->level[level].bytes_per_s);
    return slowest;
}

/* Ranks of the group in a unit of so many (0: all): as a mesh lists them, ascending. */
static int fewest_in_a_unit(const mf_transfer_cost *t, int unit) {
    int fewest = t->size, begin = 0;
    for (int i = 1; unit && i <= t->size; i++)
        if (i == t->size || t->ranks[i] / unit != t->ranks[begin] / unit) {
            fewest = (int)mf_min(fewest, i - begin);
            begin = i;
        }
    return fewest;
}

static double transfer_s(const mf_costs *costs, const mf_transfer_cost *t) {
    const mf_cluster *c = costs->context;
    const mf_rates *rates = rates_of(c, costs->ranks);
    int level = mf_cluster_level(c, t->ranks, t->size), together[MF_CLUSTER_LEVELS];
    double s =
        level == 0 && rates ? measured_s(costs, rates, &rates->transfer[t->op], &t->payload, t->payload) : -1;
    if (s >= 0) return s;
    for (int i = 0; i < c->levels; i++) together[i] = fewest_in_a_unit(t, c->level[i].ranks);
    return hops(t) * c->level[level].latency_s + mf_cluster_links_s(c, t->op, t->bytes, together, t->size);
}

mf_costs mf_cluster_costs(const mf_cluster *c, int ranks) {
    return (mf_costs){.context = c,
                      .ranks = ranks,
                      .gemm_s = gemm_s,
                      .attention_s = attention_s,
                      .touch_s = touch_s,
                      .transfer_s = transfer_s,
                      .overlaps = c->overlaps};
}
