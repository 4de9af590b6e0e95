/* sketch.c: a layout's step and memory by a few formulas, some microseconds each: good enough to choose which
 * layouts are run, of the tens of thousands that many ranks can make. */
#include "plan/search.h"

#include <math.h>
#include <string.h>

typedef struct sizes {
    const mf_cluster *cluster;
    const mf_costs *costs;
    const mf_measure_options *o;
    double T, D, Z, R;      /* ranks of the tensor, stream, sequence axes; replicas */
    double b, tokens;       /* bytes of a value; of a rank */
    int64_t turns;          /* shards that a rank works through */
    double q, kv, ffn;      /* widths of a tensor rank */
    double maps;            /* of the MLP from h: gate and up, or up alone */
    bool clips, cross;      /* of videos; that attend to a condition */
    double layer_parameter; /* matrices of a layer, of a tensor rank */
} sizes;

static sizes sizes_of(const mf_cluster *cluster, const mf_costs *costs, const mf_measure_options *o) {
    const mf_model_config *c = &o->model.config;
    const mf_layout *l = &o->layout;
    sizes s = {.cluster = cluster, .costs = costs, .o = o, .b = (double)mf_dtype_bytes(o->model.type)};
    s.T = mf_axes_ranks(&o->mesh, l->tensor);
    s.D = mf_axes_ranks(&o->mesh, l->stream);
    s.Z = mf_axes_ranks(&o->mesh, l->sequence);
    s.R = mf_axes_ranks(&o->mesh, mf_layout_replicas(&o->mesh, l));
    s.tokens = (double)(o->model.batch * o->model.tokens) / s.Z;
    s.turns = mf_stream_gathers(l->attention) ? 1 : (int64_t)s.D;
    s.q = ceil((double)c->heads / s.T) * (double)c->head_dim;
    s.kv = 2 * ceil((double)c->kv_heads / s.T) * (double)c->head_dim;
    s.ffn = ceil((double)c->ffn / s.T);
    s.maps = mf_config_is_gated(c) ? 2 : 1;
    s.clips = c->family == MF_STDIT;
    s.cross = c->video.condition_tokens > 0;
    s.layer_parameter = (double)c->hidden * ((s.cross ? 6 : 2) * s.q + s.kv + (s.maps + 1) * s.ffn);
    return s;
}

static double product_s(const sizes *s, double n, double k) {
    mf_dtype type = s->o->model.type;
    mf_gemm_args args = {.m = (int64_t)s->tokens,
                         .n = (int64_t)ceil(n),
                         .k = (int64_t)ceil(k),
                         .a = {.type = type, .ld = (int64_t)k},
                         .b = {.type = type, .ld = (int64_t)n},
                         .c_ld = (int64_t)n,
                         .c_type = type};
    return s->costs->gemm_s(s->costs, &args);
}

/* Of a layer: so many pairs of a head, over all ranks, with so many queries in a call. */
static double pairs_s(const sizes *s, bool backward, double pairs, int64_t queries) {
    const mf_model_options *m = &s->o->model;
    double heads = s->q / (double)m->config.head_dim;
    mf_attention_args args = {.type = m->type,
                              .batch = m->batch,
                              .tokens = mf_max(queries, 1),
                              .heads = (int64_t)heads,
                              .kv_heads = (int64_t)heads,
                              .group = 1,
                              .head_dim = m->config.head_dim};
    return s->costs->attention_s(s->costs, &args, backward, (double)m->batch * heads * pairs / s->Z);
}

/* The mean of a block over places, whose queries the exchange may cut, and one over frames. */
static double clip_attention_s(const sizes *s, bool backward, bool whole) {
    const mf_model_options *m = &s->o->model;
    int64_t frames = m->grid.frames, places = mf_clip_places(&m->grid);
    double patches = (double)m->tokens, condition = patches * (double)m->config.video.condition_tokens;
    double over_places =
        pairs_s(s, backward, patches * (double)places, whole ? places : places / (int64_t)s->Z);
    double over_frames = pairs_s(s, backward, patches * (double)frames, frames);
    double crossed = s->cross ? pairs_s(s, backward, condition, m->tokens / (int64_t)s->Z) : 0;
    return (over_places + over_frames) / 2 + crossed;
}

static double attention_pairs_s(const sizes *s, bool backward) {
    const mf_model_options *m = &s->o->model;
    const mf_exchange_kind *kind = s->o->layout.exchange;
    bool whole = kind == &mf_exchange_ulysses || kind == &mf_exchange_switch;
    double length = (double)m->tokens;
    if (s->clips) return clip_attention_s(s, backward, whole);
    return pairs_s(s, backward, length * length / 2, whole ? m->tokens : m->tokens / (int64_t)s->Z);
}

/* Backward's products are twice forward's; what is recomputed comes once more. */
static double layer_s(const sizes *s) {
    const mf_model_options *m = &s->o->model;
    double h = (double)m->config.hidden, turns = (double)s->turns;
    double out = product_s(s, h, s->q / turns);
    double projections = turns * (product_s(s, (s->q + s->kv) / turns, h) + (s->cross ? 3 : 1) * out);
    double mlp = turns * (s->maps * product_s(s, s->ffn / turns, h) + product_s(s, h, s->ffn / turns));
    double forward = attention_pairs_s(s, false);
    double moved = s->tokens * s->b * (8 * h + 4 * s->q + 4 * s->ffn) / s->cluster->memory_bytes_per_s;
    if (m->forward_only) return projections + mlp + forward + moved;
    double again = (m->recompute != MF_RECOMPUTE_NONE ? projections + forward : 0) +
                   (m->recompute == MF_RECOMPUTE_BLOCK ? mlp : 0);
    return 3 * (projections + mlp + moved) + forward + attention_pairs_s(s, true) + again;
}

/* Before and behind the layers. */
static double head_s(const sizes *s) {
    const mf_model_config *c = &s->o->model.config;
    double passes = s->o->model.forward_only ? 1 : 3;
    if (s->clips) return 2 * passes * product_s(s, (double)mf_config_values(c), (double)c->hidden);
    double n = ceil((double)c->vocab / s->T) / (double)s->turns;
    return (s->o->model.forward_only ? 1 : 4) * (double)s->turns * product_s(s, n, (double)c->hidden);
}

static double parameters(const sizes *s) {
    const mf_model_config *c = &s->o->model.config;
    return (double)c->layers * s->layer_parameter + (double)mf_config_outer(c) / s->T;
}

static double state_bytes(const sizes *s) {
    double own = parameters(s) / s->D, updated = s->o->layout.cut_updates ? own / s->R : own;
    if (s->o->model.forward_only) return own * s->b;
    return own * (s->b + 4) + updated * (s->b < 4 ? 12 : 8);
}

static double kept_bytes(const sizes *s) {
    const mf_model_options *m = &s->o->model;
    double h = (double)m->config.hidden / (mf_reduction_scatters(s->o->layout.reduction) ? s->T : 1);
    double inside = 2 * s->q + s->kv + (s->cross ? 2 : 1) * h,
           layers = m->forward_only ? 1 : (double)m->config.layers;
    double values = layers * h + inside;
    if (m->forward_only) return s->tokens * s->b * values;
    if (m->recompute == MF_RECOMPUTE_NONE) values += (layers - 1) * inside;
    if (m->recompute != MF_RECOMPUTE_BLOCK) values += layers * s->maps * s->ffn;
    return s->tokens * (s->b * values + 4 * h);
}

static mf_axes axes_named(const mf_mesh_spec *mesh, const char *name) {
    char known[MF_AXES_NAME];
    mf_axes axes = 0, all = (1u << mesh->axes) - 1;
    while (axes++ < all) {
        mf_axes_name(mesh, axes, known);
        if (strcmp(known, name) == 0) break;
    }
    return axes;
}

/* Of the axes' group, the ranks in rank 0's unit of a level; nearly, where sizes don't divide each other. */
static int in_a_unit(const mf_mesh_spec *mesh, mf_axes axes, int unit) {
    int64_t together = 1, stride = 1;
    for (int i = mesh->axes - 1; i >= 0; stride *= mesh->axis[i--].size)
        if (axes >> i & 1) together *= mf_min(mf_ceil_div(unit, stride), mesh->axis[i].size);
    return (int)mf_min(together, unit);
}

/* Once or twice a layer round the group; but what replicas tell each other after the update goes once. */
static double transfer_s(const sizes *s, mf_axes axes, int op, double bytes) {
    const mf_cluster *c = s->cluster;
    const mf_layout *l = &s->o->layout;
    bool in_layers = !(axes & ~(l->tensor | l->stream | l->sequence)) || op == MF_OP_REDUCE_SCATTER;
    double calls = in_layers ? 2 * (double)s->o->model.config.layers : 1;
    int size = mf_axes_ranks(&s->o->mesh, axes), joins = 0, together[MF_CLUSTER_LEVELS];
    for (int i = 0; i < c->levels; i++)
        together[i] = c->level[i].ranks ? in_a_unit(&s->o->mesh, axes, c->level[i].ranks) : size;
    while (together[joins] < size) joins++;
    return mf_cluster_links_s(c, op, bytes, together, size) +
           calls * ceil(log2(size)) * c->level[joins].latency_s;
}

/* Sums over tp and heads for tokens are waited for; the rest runs beside the computation where there is
 * enough of it. */
static double step_s(const sizes *s) {
    mf_volume volume;
    double waited = 0, beside = 0, work = (double)s->o->model.config.layers * layer_s(s) + head_s(s);
    mf_volume_predict(&s->o->model, &s->o->layout, &s->o->mesh, &volume);
    work += 40 * parameters(s) / s->D / s->R / s->cluster->memory_bytes_per_s;
    for (int g = 0; g < volume.groups; g++) {
        mf_axes axes = axes_named(&s->o->mesh, volume.group[g].axis);
        for (int op = 0; op < MF_COMM_OPS; op++) {
            bool waits = axes == s->o->layout.tensor || op == MF_OP_ALLTOALL || !s->cluster->overlaps;
            double bytes = volume.group[g].bytes[op];
            if (bytes > 0) *(waits ? &waited : &beside) += transfer_s(s, axes, op, bytes);
        }
    }
    return waited + fmax(work, beside);
}

void mf_sketch(const mf_cluster *cluster, mf_lead *lead) {
    mf_costs costs = mf_cluster_costs(cluster, mf_mesh_ranks(&lead->options.mesh));
    const mf_measure_options *o = &lead->options;
    sizes s = sizes_of(cluster, &costs, o);
    double replicas = mf_axes_ranks(&o->mesh, o->layout.data);
    lead->tokens_per_s = replicas * (double)(o->model.batch * o->model.tokens) / step_s(&s);
    lead->peak_bytes = state_bytes(&s) + kept_bytes(&s);
    lead->short_by_bytes = fmax(0, lead->peak_bytes - mf_cluster_memory(cluster, mf_mesh_ranks(&o->mesh)));
}
