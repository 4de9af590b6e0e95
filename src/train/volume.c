/* volume.c: what a step moves, by formula: docs/volumes.md, line by line. The counters say what it did move;
 * a test holds one against the other to the byte. */
#include "meshfold/train.h"

#include <stdio.h>
#include <string.h>

/* Sizes of one rank's work, in elements, and where its bytes are counted. */
typedef struct work {
    const mf_model_options *o;
    const mf_layout *layout;
    const mf_mesh_spec *mesh;
    mf_volume *out;
    bool clips;                          /* a model of videos */
    double T, D, Z;                      /* ranks of the tensor, stream and sequence axes */
    double tokens, width;                /* batch * S / Z, of clips S is all patches; bytes of an element */
    double qkv, output, mlp, vocabulary; /* weights of a tensor share */
    double cross, outer;                 /* the same: attention to a condition; all outside of the layers */
} work;

static double ranks(const work *w, mf_axes axes) { return mf_axes_ranks(w->mesh, axes); }
static double others(double n) { return (n - 1) / n; }

/* Of `bytes` that go round all n ranks of the axes, each sends (n - 1) / n. */
static void add(work *w, mf_axes axes, mf_comm_op op, double bytes) {
    char name[MF_AXES_NAME];
    int i = 0;
    if (ranks(w, axes) == 1 || bytes == 0) return;
    mf_axes_name(w->mesh, axes, name);
    while (i < w->out->groups && strcmp(w->out->group[i].axis, name) != 0) i++;
    if (i == MF_GROUPS) return;
    if (i == w->out->groups) snprintf(w->out->group[w->out->groups++].axis, MF_AXIS_NAME, "%s", name);
    w->out->group[i].bytes[op] += bytes * others(ranks(w, axes));
}

/* One passage of weights: of `elements` in all. */
static void stream_weights(work *w, const mf_stream_kind *kind, double elements) {
    mf_comm_op op = mf_stream_gathers(kind)    ? MF_OP_ALLGATHER
                    : mf_stream_staggers(kind) ? MF_OP_SHIFT
                                               : MF_OP_BROADCAST;
    add(w, w->layout->stream, op, elements * w->width);
}

/* Their f32 gradients go to their owners. */
static void stream_gradients(work *w, const mf_stream_kind *kind, double elements) {
    mf_comm_op op = mf_stream_gathers(kind)    ? MF_OP_REDUCE_SCATTER
                    : mf_stream_staggers(kind) ? MF_OP_SHIFT
                                               : MF_OP_REDUCE;
    add(w, w->layout->stream, op, elements * 4);
}

/* Key heads that the parts of a rank's query heads read, summed over the parts: a head that queries of two
 * parts read is brought to both. The mean over tensor ranks. */
static double heads_read(const work *w, int64_t parts) {
    const mf_model_config *c = &w->o->config;
    int64_t group = c->heads / c->kv_heads, T = (int64_t)w->T, sum = 0;
    for (int64_t i = 0; i < T * parts; i++) {
        int64_t first = mf_share_begin(c->heads, T * parts, i),
                end = mf_share_begin(c->heads, T * parts, i + 1);
        if (first < end) sum += mf_ceil_div(end, group) - first / group;
    }
    return (double)sum / (double)T;
}

/* Turns of attention that each read their own key heads. */
static int64_t attention_turns(const work *w) {
    const mf_stream_kind *kind = w->layout->attention;
    return mf_stream_gathers(kind) || mf_stream_staggers(kind) ? 1 : (int64_t)w->D;
}

static void exchange_keys(work *w, bool backward) {
    const mf_model_config *c = &w->o->config;
    bool ring = w->layout->exchange == &mf_exchange_ring;
    double elements = 2 * w->tokens * w->Z * heads_read(w, attention_turns(w)) * (double)c->head_dim;
    add(w, w->layout->sequence, ring ? MF_OP_SHIFT : MF_OP_ALLGATHER, elements * w->width);
    if (backward) add(w, w->layout->sequence, MF_OP_SHIFT, elements * 4);
}

static void exchange_heads(work *w, bool backward) {
    const mf_model_config *c = &w->o->config;
    double q = w->tokens * (double)c->heads / w->T, kv = 2 * w->tokens * heads_read(w, (int64_t)w->Z);
    double bytes = (2 * q + kv) * (double)c->head_dim * w->width;
    add(w, w->layout->sequence, MF_OP_ALLTOALL, bytes + (backward ? q * 4 : 0)); /* with row sums, f32 */
}

static void exchange(work *w, bool backward) {
    if (w->layout->exchange == &mf_exchange_switch) return; /* whole sequences are here */
    if (w->layout->exchange == &mf_exchange_ulysses)
        exchange_heads(w, backward);
    else
        exchange_keys(w, backward);
}

/* Rows between blocks: gathered so many times, summed so many times. */
static void reduction(work *w, int gathers, int sums) {
    bool scatters = mf_reduction_scatters(w->layout->reduction);
    double bytes = w->tokens * (double)w->o->config.hidden * w->width;
    if (scatters) add(w, w->layout->tensor, MF_OP_ALLGATHER, gathers * bytes);
    add(w, w->layout->tensor, scatters ? MF_OP_REDUCE_SCATTER : MF_OP_ALLREDUCE,
        (scatters ? 1 : 2) * sums * bytes);
}

/* Of clips blocks take turns: those over frames have every frame of their places. */
static bool exchanges(const work *w, int64_t layer) { return !w->clips || layer % 2 == 0; }

static void attention_forward(work *w, int64_t layer) {
    stream_weights(w, w->layout->attention, w->qkv + w->output);
    if (exchanges(w, layer)) exchange(w, false);
    reduction(w, 1, 1);
    if (w->cross == 0) return;
    stream_weights(w, w->layout->mlp, w->cross);
    reduction(w, 1, 1);
}

static void cross_backward(work *w) {
    if (w->cross == 0) return;
    stream_weights(w, w->layout->mlp, w->cross);
    stream_gradients(w, w->layout->mlp, w->cross);
    reduction(w, 2, 1);
}

static void attention_backward(work *w, int64_t layer) {
    cross_backward(w);
    stream_weights(w, w->layout->attention, w->qkv + w->output);
    stream_gradients(w, w->layout->attention, w->qkv + w->output);
    if (exchanges(w, layer)) exchange(w, true);
    reduction(w, 2, 1);
}

static void mlp_forward(work *w) {
    stream_weights(w, w->layout->mlp, w->mlp);
    reduction(w, 1, 1);
}

static void mlp_backward(work *w) {
    mlp_forward(w);
    stream_gradients(w, w->layout->mlp, w->mlp);
    reduction(w, 1, 0);
}

static void layers_forward(work *w) {
    for (int64_t layer = 0; layer < w->o->config.layers; layer++) {
        attention_forward(w, layer);
        mlp_forward(w);
    }
}

static void layers_backward(work *w) {
    for (int64_t layer = 0; layer < w->o->config.layers; layer++) {
        if (w->o->recompute != MF_RECOMPUTE_NONE) attention_forward(w, layer);
        mlp_backward(w);
        attention_backward(w, layer);
    }
}

static void text_forward(work *w) {
    stream_weights(w, w->layout->vocabulary, w->vocabulary);
    reduction(w, 0, 1); /* rows of the embedding */
    layers_forward(w);
    stream_weights(w, w->layout->vocabulary, w->vocabulary);
    reduction(w, 1, 0);
    add(w, w->layout->tensor, MF_OP_ALLGATHER, 3 * 4 * w->tokens * w->T); /* log-sum-exps */
}

static void text_backward(work *w) {
    const mf_stream_kind *vocabulary = w->layout->vocabulary;
    if (!mf_stream_gathers(vocabulary))
        stream_weights(w, vocabulary, w->vocabulary); /* else it is still there */
    stream_gradients(w, vocabulary, w->vocabulary);
    reduction(w, 0, 1);
    layers_backward(w);
    stream_gradients(w, vocabulary, w->vocabulary);
    reduction(w, 1, 0);
}

/* The cut moves between all layers; gradients travel in the compute type, too. */
static void switches(work *w) {
    double bytes = w->tokens * (double)w->o->config.hidden * w->width;
    if (w->layout->exchange == &mf_exchange_switch)
        add(w, w->layout->sequence, MF_OP_ALLTOALL, (double)(w->o->config.layers - 1) * bytes);
}

/* Of what comes of times and condition tensor ranks add up so many rows of `hidden`, in f32. */
static void sum_rows(work *w, int64_t of_times) {
    const mf_model_options *o = w->o;
    int64_t rows = o->batch * (of_times + o->config.video.condition_tokens);
    add(w, w->layout->tensor, MF_OP_ALLREDUCE, 2 * 4 * (double)(rows * o->config.hidden));
}

/* Two maps of a time, and six rows of modulation. */
static void clips_forward(work *w) {
    stream_weights(w, w->layout->vocabulary, w->outer);
    sum_rows(w, 2 + 6);
    layers_forward(w);
    switches(w);
}

/* Gradients of the last norm's row, of the modulation's six, and of what goes into it and into the second
 * map.
 */
static void clips_backward(work *w) {
    layers_backward(w);
    switches(w);
    stream_weights(w, w->layout->vocabulary, w->outer);
    stream_gradients(w, w->layout->vocabulary, w->outer);
    sum_rows(w, 1 + 6 + 2);
}

/* Key heads whose gradients several tensor ranks have parts of. */
static double shared_heads(const work *w) {
    const mf_model_config *c = &w->o->config;
    int64_t group = c->heads / c->kv_heads, T = (int64_t)w->T, last = -1, count = 0;
    for (int64_t t = 1; t < T; t++) {
        int64_t boundary = mf_share_begin(c->heads, T, t);
        if (boundary % group == 0 || boundary / group == last) continue;
        last = boundary / group;
        count++;
    }
    return (double)count;
}

/* What ranks that hold the same must add up, and tell each other after the update. */
static void gradients_and_updates(work *w) {
    const mf_model_config *c = &w->o->config;
    const mf_layout *l = w->layout;
    mf_axes all = (1u << w->mesh->axes) - 1, replicas = mf_layout_replicas(w->mesh, l);
    double layers = (double)c->layers, h = (double)c->hidden;
    double cut = (layers * (w->qkv + w->output + w->cross + w->mlp) + w->outer) / w->D;
    double shared = 2 * layers * shared_heads(w) * (double)c->head_dim * h;
    add(w, l->tensor | l->stream, MF_OP_ALLREDUCE, 2 * 4 * shared);
    add(w, all & ~(mf_reduction_scatters(l->reduction) ? 0 : l->tensor), MF_OP_ALLREDUCE,
        2 * 4 * (w->clips ? 0 : 2 * layers + 1) * h);
    add(w, all, MF_OP_ALLREDUCE, 2 * 4 * (double)mf_config_vectors(c));
    if (!l->cut_updates) {
        add(w, replicas, MF_OP_ALLREDUCE, 2 * 4 * cut);
        return;
    }
    add(w, replicas, MF_OP_REDUCE_SCATTER, 4 * cut);
    add(w, replicas, MF_OP_ALLGATHER, w->width * cut);
}

void mf_volume_predict(const mf_model_options *o, const mf_layout *layout, const mf_mesh_spec *mesh,
                       mf_volume *out) {
    const mf_model_config *c = &o->config;
    work w = {.o = o, .layout = layout, .mesh = mesh, .out = out, .width = (double)mf_dtype_bytes(o->type)};
    w.clips = c->family == MF_STDIT;
    *out = (mf_volume){0};
    w.T = ranks(&w, layout->tensor);
    w.D = ranks(&w, layout->stream);
    w.Z = ranks(&w, layout->sequence);
    w.tokens = (double)(o->batch * o->tokens) / w.Z;
    double h = (double)c->hidden, d = (double)c->head_dim, heads = (double)c->heads / w.T;
    w.qkv = h * d * (heads + 2 * heads_read(&w, 1)); /* key heads that two tensor ranks hold count for both */
    w.output = h * d * heads;
    w.mlp = (mf_config_is_gated(c) ? 3 : 2) * h * (double)c->ffn / w.T;
    w.cross = c->video.condition_tokens ? 4 * h * d * heads : 0;
    w.vocabulary = h * (double)c->vocab / w.T;
    w.outer = (double)mf_config_outer(c) / w.T;
    w.clips ? clips_forward(&w) : text_forward(&w);
    if (o->forward_only) return;
    w.clips ? clips_backward(&w) : text_backward(&w);
    gradients_and_updates(&w);
}
