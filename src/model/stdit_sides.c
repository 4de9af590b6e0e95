/* stdit_sides.c: this rank's share of clips, [batch, frames, places], and how attention sees it.
 *
 * Blocks over places see frames as sequences of places, blocks over frames see places as sequences of frames,
 * which lie token by token. Where the cut is switched each finds whole sequences here: frames are cut for the
 * one, places for the other. Else places are cut throughout, and blocks over places exchange their keys. */
#include "model/model.h"

#include "meshfold/cut.h"

#include <string.h>

/* Frames, and runs of places. */
typedef struct share {
    int64_t frame, frames;
    mf_run run[MF_RUNS];
    int runs;
} share;

static share share_on(const mf_model *m, int side) {
    int ranks = mf_comm_size(m->sequence), rank = mf_comm_rank(m->sequence);
    int64_t places = mf_clip_places(&m->options.grid);
    share s = {.frames = m->options.grid.frames, .run[0].rows = places, .runs = 1};
    if (!mf_switches(m)) {
        s.runs = mf_cut_runs(places, ranks, rank, s.run);
    } else if (side == MF_BY_FRAME) {
        s.frame = mf_share_begin(s.frames, ranks, rank);
        s.frames = mf_share_begin(s.frames, ranks, rank + 1) - s.frame;
    } else {
        s.run[0].position = mf_share_begin(places, ranks, rank);
        s.run[0].rows = mf_share_begin(places, ranks, rank + 1) - s.run[0].position;
    }
    return s;
}

static int64_t places_of(const share *s) { return s->run[0].rows + (s->runs > 1 ? s->run[1].rows : 0); }

void mf_stdit_take_sides(mf_model *m) {
    int64_t batch = m->options.batch;
    share by_frame = share_on(m, MF_BY_FRAME), by_place = share_on(m, MF_BY_PLACE);
    m->sides = MF_SIDES;
    m->stdit.frames = by_frame.frames;
    m->stdit.places = places_of(&by_frame);
    m->sides_of[MF_BY_FRAME].sequences = batch * by_frame.frames;
    m->sides_of[MF_BY_FRAME].all_rows = mf_clip_places(&m->options.grid);
    m->sides_of[MF_BY_FRAME].rows = m->stdit.places;
    m->sides_of[MF_BY_FRAME].cut = !mf_switches(m);
    m->sides_of[MF_BY_PLACE].sequences = batch * places_of(&by_place);
    m->sides_of[MF_BY_PLACE].all_rows = m->sides_of[MF_BY_PLACE].rows = by_place.frames;
    m->sides_of[MF_BY_PLACE].interleave = places_of(&by_place);
}

int64_t mf_model_clip_rows(const mf_model *m, bool last) {
    return m->sides_of[last ? MF_BY_PLACE : MF_BY_FRAME].tokens;
}

/* Calls work with every stretch of a clip's tokens that lie together here and there: [frame][run]. */
typedef void (*stretch_work)(void *context, int64_t token, int64_t row, int64_t count);
static void each_stretch(const mf_model *m, int side, void *context, stretch_work work) {
    share s = share_on(m, side);
    int64_t places = mf_clip_places(&m->options.grid), own = places_of(&s);
    for (int64_t t = 0; t < s.frames; t++)
        for (int i = 0; i < s.runs; i++)
            work(context, (s.frame + t) * places + s.run[i].position, t * own + s.run[i].first_row,
                 s.run[i].rows);
}

/* Between a whole clip and this rank's part of it. */
typedef struct cutting {
    int64_t values;
    const float *from;
    float *to;
} cutting;

static void cut_stretch(void *context, int64_t token, int64_t row, int64_t count) {
    cutting *c = context;
    memcpy(c->to + row * c->values, c->from + token * c->values, (size_t)(count * c->values) * sizeof(float));
}

static void place_stretch(void *context, int64_t token, int64_t row, int64_t count) {
    cutting *c = context;
    memcpy(c->to + token * c->values, c->from + row * c->values, (size_t)(count * c->values) * sizeof(float));
}

void mf_model_cut_clip(const mf_model *m, bool last, const float *clip, float *out) {
    cutting c = {mf_config_values(&m->config), clip, out};
    each_stretch(m, last ? MF_BY_PLACE : MF_BY_FRAME, &c, cut_stretch);
}

void mf_stdit_place_clip(const mf_model *m, const float *own, float *clip) {
    cutting c = {mf_config_values(&m->config), own, clip};
    each_stretch(m, MF_BY_PLACE, &c, place_stretch);
}

/* Where a row of a clip stands in the grid. */
typedef struct indexing {
    const mf_clip_grid *grid;
    int32_t *index;
} indexing;

static void index_stretch(void *context, int64_t token, int64_t row, int64_t count) {
    indexing *x = context;
    int64_t places = mf_clip_places(x->grid);
    for (int64_t i = 0; i < count; i++) {
        int64_t place = (token + i) % places;
        int32_t *at = x->index + 3 * (row + i);
        at[0] = (int32_t)((token + i) / places);
        at[1] = (int32_t)(place / x->grid->columns);
        at[2] = (int32_t)(place % x->grid->columns);
    }
}

/* Made in host memory: a dry device has none to write to. */
static mf_status keep_index(mf_model *m) {
    mf_status status = MF_OK;
    mf_stdit *s = &m->stdit;
    int64_t n = 3 * s->frames * s->places;
    size_t bytes = (size_t)n * sizeof(int32_t);
    indexing x = {.grid = &m->options.grid};
    MF_GO(mf_keep(m, n, sizeof(int32_t), "places of a clip's rows", &s->index));
    MF_GO(mf_host_alloc((size_t)n, sizeof *x.index, &x.index));
    each_stretch(m, MF_BY_FRAME, &x, index_stretch);
    MF_GO(mf_copy_rows(m->device, 1, bytes, s->index.data, bytes, x.index, bytes));
fail:
    mf_host_free(x.index);
    return status;
}

/* A quarter for frames, the rest for rows and columns; all even. */
void mf_stdit_widths(const mf_model *m, int64_t width[3]) {
    int64_t h = m->config.hidden;
    width[0] = h / 4 / 2 * 2;
    width[1] = (h - width[0]) / 4 * 2;
    width[2] = h - width[0] - width[1];
}

mf_status mf_stdit_grid(mf_model *m) {
    mf_stdit *s = &m->stdit;
    const mf_clip_grid *g = &m->options.grid;
    const int64_t length[3] = {g->frames, g->rows, g->columns};
    int64_t width[3];
    mf_stdit_widths(m, width);
    for (int i = 0; i < 3; i++) {
        MF_TRY(mf_keep(m, length[i] * width[i], sizeof(float), "positions in a clip", &s->table[i]));
        if (width[i] == 0) continue; /* hidden is too small for three */
        MF_TRY(mf_rope_table(m->device, &(mf_rope_table_args){.rows = length[i],
                                                              .head_dim = width[i],
                                                              .theta = MF_WAVES,
                                                              .cos_sin = s->table[i].data}));
    }
    return keep_index(m);
}

/* The residual stream, of all ranks: [batch, frames, places, hidden]. */
static mf_cut stream_of(const mf_model *m) {
    const mf_clip_grid *g = &m->options.grid;
    return (mf_cut){.comm = m->sequence,
                    .device = m->device,
                    .element = mf_dtype_bytes(m->options.type),
                    .dims = 4,
                    .size = {m->options.batch, g->frames, mf_clip_places(g), m->config.hidden}};
}

/* The dimension of which ranks have shares in a layer's block. */
static int dimension_of(int64_t layer) { return layer % 2 == MF_BY_FRAME ? 1 : 2; }

mf_status mf_stdit_switch_open(mf_model *m, void **place) {
    mf_cut cut = stream_of(m);
    *place = m->stdit.turning.own;
    return mf_cut_settle(&cut);
}

mf_status mf_stdit_switch(mf_model *m, int64_t layer, void *out) {
    mf_cut cut = stream_of(m);
    return mf_cut_switch(&cut, dimension_of(layer - 1), dimension_of(layer), &m->stdit.turning, out);
}

/* What travels has the compute type. */
mf_status mf_stdit_switch_back(mf_model *m, int64_t layer) {
    mf_status status = MF_OK;
    mf_cut cut = stream_of(m);
    mf_dtype type = m->options.type;
    int64_t h = m->config.hidden, before = m->sides_of[(layer + 1) % MF_SIDES].tokens * h,
            after = m->sides_of[layer % MF_SIDES].tokens * h;
    void *leaving = NULL;
    mf_buffer arrived = {0};
    MF_GO(mf_stdit_switch_open(m, &leaving));
    MF_GO(mf_convert(m->device, before, m->dx.data, MF_F32, leaving, type));
    if (type != MF_F32)
        MF_GO(mf_work(m, after, mf_dtype_bytes(type), "gradient on the other side", &arrived));
    MF_GO(mf_cut_switch(&cut, dimension_of(layer + 1), dimension_of(layer), &m->stdit.turning,
                        type == MF_F32 ? m->dx.data : arrived.data));
    if (type != MF_F32) MF_GO(mf_convert(m->device, after, arrived.data, type, m->dx.data, MF_F32));
fail:
    mf_buffer_free(m->memory, &arrived);
    return status;
}
