/* layout.c: from a mesh and a few words to which way each part of the model takes, on which axes. */
#include "schedule/kinds.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const mf_layout_words mf_layout_words_none = {.kv_bucket = -1, .zero = -1};

static const mf_stream_kind *const streams[] = {&mf_stream_resident, &mf_stream_gather, &mf_stream_broadcast,
                                                &mf_stream_ring};
static const mf_exchange_kind *const exchanges[] = {
    &mf_exchange_none, &mf_exchange_allgather, &mf_exchange_ring, &mf_exchange_ulysses, &mf_exchange_switch};
static const mf_reduction_kind *const reductions[] = {&mf_reduction_none, &mf_reduction_allreduce,
                                                      &mf_reduction_scatter};
#define COUNT(list) (sizeof(list) / sizeof *(list))

/* NULL for a word that names none. */
static const mf_stream_kind *stream_named(const char *name) {
    for (size_t i = 0; name && i < COUNT(streams); i++)
        if (strcmp(streams[i]->name, name) == 0) return streams[i];
    return NULL;
}

static const mf_exchange_kind *exchange_named(const char *name) {
    for (size_t i = 0; name && i < COUNT(exchanges); i++)
        if (strcmp(exchanges[i]->name, name) == 0) return exchanges[i];
    return NULL;
}

static const mf_reduction_kind *reduction_named(const char *name) {
    for (size_t i = 0; name && i < COUNT(reductions); i++)
        if (strcmp(reductions[i]->name, name) == 0) return reductions[i];
    return NULL;
}

/* What the axes alone ask for. */
mf_layout mf_layout_of(const mf_mesh_spec *mesh) {
    mf_axes tsp = mf_mesh_find(mesh, "tsp"), sp = mf_mesh_find(mesh, "sp"), dsp = mf_mesh_find(mesh, "dsp");
    mf_layout l = {.data = mf_mesh_find(mesh, "dp"),
                   .tensor = mf_mesh_find(mesh, "tp"),
                   .stream = tsp,
                   .sequence = tsp | sp | dsp,
                   .attention = tsp ? &mf_stream_broadcast : &mf_stream_resident,
                   .mlp = tsp ? &mf_stream_ring : &mf_stream_resident,
                   .vocabulary = tsp ? &mf_stream_ring : &mf_stream_resident,
                   .cut_updates = true};
    l.exchange = dsp ? &mf_exchange_switch : l.sequence ? &mf_exchange_allgather : &mf_exchange_none;
    l.reduction = l.tensor ? &mf_reduction_allreduce : &mf_reduction_none;
    return l;
}

mf_axes mf_layout_replicas(const mf_mesh_spec *mesh, const mf_layout *layout) {
    mf_axes all = (1u << mesh->axes) - 1;
    return all & ~(layout->tensor | layout->stream);
}

void mf_layout_describe(const mf_layout *layout, char out[MF_LAYOUT_DESCRIPTION]) {
    snprintf(out, MF_LAYOUT_DESCRIPTION,
             "attention %s, mlp %s, vocabulary %s, exchange %s, reduction %s, zero %d",
             layout->attention->name, layout->mlp->name, layout->vocabulary->name, layout->exchange->name,
             layout->reduction->name, layout->cut_updates);
}

#define MESH "--mesh %.100s: "

/* One of the words in a mesh's text, and where its value goes. Values live in `held`. */
typedef struct words {
    mf_layout_words given;
    char held[5][16];
    char axes[256];
    int axis_count;
    unsigned seen; /* words, by their places in word_names */
} words;

static const char *const word_names[] = {"stream",    "attention-stream", "mlp-stream", "exchange",
                                         "reduction", "kv-bucket",        "zero"};
enum { TEXT_WORDS = 5 };

static int word_find(const char *name, size_t length) {
    for (size_t i = 0; i < COUNT(word_names); i++)
        if (strlen(word_names[i]) == length && memcmp(word_names[i], name, length) == 0) return (int)i;
    return -1;
}

static mf_status set_number(const char *whole, int word, const char *value, words *out) {
    char *end = NULL;
    long number = strtol(value, &end, 10);
    bool digits = value[0] >= '0' && value[0] <= '9' && (*end == ',' || *end == '\0');
    bool zero = strcmp(word_names[word], "zero") == 0;
    if (!digits || number > (zero ? 1 : INT_MAX))
        return MF_FAIL(MF_EINVAL, MESH "%s takes %s", whole, word_names[word],
                       zero ? "0 or 1" : "a whole number from 0");
    if (zero)
        out->given.zero = (int)number;
    else
        out->given.kv_bucket = number;
    return MF_OK;
}

static mf_status set_word(const char *whole, int word, const char *value, size_t length, words *out) {
    if (out->seen >> word & 1) return MF_FAIL(MF_EINVAL, MESH "%s is given twice", whole, word_names[word]);
    out->seen |= 1u << word;
    const char **texts[TEXT_WORDS] = {&out->given.stream, &out->given.attention_stream,
                                      &out->given.mlp_stream, &out->given.exchange, &out->given.reduction};
    if (word >= TEXT_WORDS) return set_number(whole, word, value, out);
    snprintf(out->held[word], sizeof out->held[word], "%.*s", (int)length, value);
    *texts[word] = out->held[word];
    return MF_OK;
}

/* Parts "tp=2,exchange=ring" into axes and words. */
static mf_status part_words(const char *text, words *out) {
    size_t used = 0;
    *out = (words){.given = mf_layout_words_none};
    for (const char *at = text;;) {
        size_t length = strcspn(at, ","), name = strcspn(at, "=,");
        int word = name < length ? word_find(at, name) : -1;
        if (word >= 0) {
            MF_TRY(set_word(text, word, at + name + 1, length - name - 1, out));
        } else {
            if (used + length + 2 > sizeof out->axes) return MF_FAIL(MF_EINVAL, MESH "is too long", text);
            used += (size_t)snprintf(out->axes + used, sizeof out->axes - used, "%s%.*s",
                                     out->axis_count++ ? "," : "", (int)length, at);
        }
        if (at[length] == '\0') return MF_OK;
        at += length + 1;
    }
}

static mf_status unknown(const char *text, const char *word, const char *value, const char *known) {
    return MF_FAIL(MF_EINVAL, MESH "%s can't be \"%s\"; it is %s", text, word, value, known);
}

static mf_status check_stream(const char *text, const char *word, const char *value) {
    if (!value || stream_named(value)) return MF_OK;
    return unknown(text, word, value, "resident, gather, broadcast or ring");
}

static mf_status check_words(const char *text, const mf_layout_words *w) {
    MF_TRY(check_stream(text, "stream", w->stream));
    MF_TRY(check_stream(text, "attention-stream", w->attention_stream));
    MF_TRY(check_stream(text, "mlp-stream", w->mlp_stream));
    if (w->exchange && !exchange_named(w->exchange))
        return unknown(text, "exchange", w->exchange, "none, allgather, ring, ulysses or switch");
    if (w->reduction && !reduction_named(w->reduction))
        return unknown(text, "reduction", w->reduction, "allreduce or scatter");
    return MF_OK;
}

/* Streams need an axis to run on: tsp, or else what cuts the tokens. Sets what is given and fits; tells
 * whether it fitted. */
static bool apply_streams(const mf_mesh_spec *mesh, const mf_layout_words *w, mf_layout *l) {
    const mf_stream_kind *all = stream_named(w->stream), *attention = stream_named(w->attention_stream);
    const mf_stream_kind *mlp = stream_named(w->mlp_stream);
    mf_axes on = l->stream ? l->stream : mf_mesh_find(mesh, "sp") | mf_mesh_find(mesh, "dsp");
    if (!all && !attention && !mlp) return true;
    if (!on) return (!all || all->resident) && (!attention || attention->resident) && (!mlp || mlp->resident);
    mf_layout next = *l;
    if (all) next.attention = next.mlp = next.vocabulary = all;
    if (attention) next.attention = attention;
    if (mlp) next.mlp = mlp;
    bool resident = next.attention->resident && next.mlp->resident && next.vocabulary->resident;
    bool streamed = !next.attention->resident && !next.mlp->resident;
    if (streamed && next.vocabulary->resident) next.vocabulary = next.mlp;
    next.stream = resident ? 0 : on;
    if ((resident && l->stream) || !(resident || streamed)) return false;
    *l = next;
    return true;
}

static bool apply_exchange(const mf_layout_words *w, mf_layout *l) {
    const mf_exchange_kind *kind = exchange_named(w->exchange);
    if (!kind) return true;
    if ((kind == &mf_exchange_none) != !l->sequence) return false;
    if ((kind == &mf_exchange_switch) != (l->exchange == &mf_exchange_switch)) return false;
    l->exchange = kind;
    return true;
}

/* A default that the streams, which are settled by now, leave no use for is none. */
static void apply_default_exchange(const mf_layout_words *w, mf_layout *l) {
    const mf_exchange_kind *kind = exchange_named(w->exchange);
    if (!kind || !kind->all_heads || l->attention != &mf_stream_broadcast) apply_exchange(w, l);
}

static bool apply_reduction(const mf_layout_words *w, mf_layout *l) {
    const mf_reduction_kind *kind = reduction_named(w->reduction);
    if (!kind) return true;
    if ((kind == &mf_reduction_none) != !l->tensor) return false;
    if (mf_reduction_scatters(kind) && l->exchange == &mf_exchange_switch) return false;
    l->reduction = kind;
    return true;
}

static void apply_numbers(const mf_layout_words *w, mf_layout *l) {
    if (w->kv_bucket >= 0) l->kv_bucket = w->kv_bucket;
    if (w->zero >= 0) l->cut_updates = w->zero > 0;
}

static mf_status check_heads(const char *text, const mf_layout *l) {
    if (!l->exchange->all_heads || l->attention != &mf_stream_broadcast) return MF_OK;
    return MF_FAIL(MF_EINVAL,
                   MESH "exchange=%s needs all heads at once: with it, use attention-stream=ring or gather",
                   text, l->exchange->name);
}

/* Sequences are cut by one axis, or by tsp and sp together, in one way. */
static mf_status check_switch(const char *text, const mf_mesh_spec *mesh, const mf_layout *l) {
    if (l->exchange != &mf_exchange_switch || l->sequence == mf_mesh_find(mesh, "dsp")) return MF_OK;
    return MF_FAIL(MF_EINVAL, MESH "dsp cuts all tokens by itself: sp or tsp can't cut them too", text);
}

static mf_status check_bucket(const char *text, const mf_layout_words *w, const mf_layout *l) {
    if (w->kv_bucket <= 0 || l->exchange == &mf_exchange_allgather) return MF_OK;
    return MF_FAIL(MF_EINVAL,
                   MESH "kv-bucket says how many heads exchange=allgather gathers at once, here it is %s",
                   text, l->exchange->name);
}

/* Defaults that must be of use count as given, where the text has nothing else. */
static void take_defaults(mf_layout_words *given, const mf_layout_words *defaults) {
    if (!defaults->strict) return;
    if (!given->stream) given->stream = defaults->stream;
    if (!given->attention_stream) given->attention_stream = defaults->attention_stream;
    if (!given->mlp_stream) given->mlp_stream = defaults->mlp_stream;
    if (!given->exchange) given->exchange = defaults->exchange;
    if (!given->reduction) given->reduction = defaults->reduction;
    if (given->kv_bucket < 0) given->kv_bucket = defaults->kv_bucket;
    if (given->zero < 0) given->zero = defaults->zero;
}

mf_status mf_layout_parse(const char *text, const mf_layout_words *defaults, mf_mesh_spec *mesh,
                          mf_layout *out) {
    words w;
    MF_TRY(part_words(text, &w));
    MF_TRY(mf_mesh_parse(w.axis_count ? w.axes : "single", mesh));
    MF_TRY(check_words(text, &w.given));
    MF_TRY(check_words(text, defaults));
    take_defaults(&w.given, defaults);
    *out = mf_layout_of(mesh);
    apply_streams(mesh, defaults, out);
    apply_numbers(defaults, out);
    if (!apply_streams(mesh, &w.given, out))
        return MF_FAIL(MF_EINVAL, MESH "%s", text,
                       mf_mesh_find(mesh, "tsp")
                           ? "on tsp no stream can be resident: use gather, broadcast or ring"
                       : out->sequence ? "attention-stream and mlp-stream are both resident or both not"
                                       : "a stream other than resident needs an axis sp, tsp or dsp");
    apply_default_exchange(defaults, out);
    if (!apply_exchange(&w.given, out))
        return MF_FAIL(MF_EINVAL, MESH "exchange=%s %s", text, w.given.exchange,
                       out->exchange == &mf_exchange_switch
                           ? "can't be on dsp, which switches the cut between blocks: use sp"
                       : w.given.exchange && strcmp(w.given.exchange, "switch") == 0 ? "needs an axis dsp"
                       : out->sequence
                           ? "leaves queries without the keys of other ranks: use allgather, ring or ulysses"
                           : "needs an axis that cuts the sequence: sp or tsp");
    apply_reduction(defaults, out);
    if (!apply_reduction(&w.given, out))
        return MF_FAIL(MF_EINVAL, MESH "reduction=%s %s", text, w.given.reduction,
                       !out->tensor ? "needs an axis tp"
                       : strcmp(w.given.reduction, "none") == 0
                           ? "leaves partial sums on an axis tp: use allreduce or scatter"
                           : "deals tokens out in another way than dsp: use allreduce");
    apply_numbers(&w.given, out);
    MF_TRY(check_heads(text, out));
    MF_TRY(check_switch(text, mesh, out));
    return check_bucket(text, &w.given, out);
}
