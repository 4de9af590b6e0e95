/* stdit_sides.c: this rank's share of clips, [batch, frames, places], and how attention sees it.
 *
 * Blocks over places see frames as sequences of places, blocks over frames see places as sequences of frames,
 * which lie token by token. Where the cut is switched each finds whole sequences here: frames are cut for the
 * one, places for the other. Else places are cut throughout, and blocks over places exchange their keys. */
#include "model/model.h"

#include "meshfold/cut.h"

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

/* A run of places lies alike in every frame: between a whole clip and this rank's part of it, either way. */
static mf_status move_runs(const mf_model *m, int side, float *own, float *clip, bool cut) {
    share s = share_on(m, side);
    int64_t places = mf_clip_places(&m->options.grid);
    size_t row = (size_t)mf_config_values(&m->config) * sizeof(float);
    size_t own_ld = (size_t)places_of(&s) * row, clip_ld = (size_t)places * row;
    for (int i = 0; i < s.runs; i++) {
        size_t bytes = (size_t)s.run[i].rows * row;
        char *here = (char *)own + (size_t)s.run[i].first_row * row,
             *there = (char *)clip + (size_t)(s.frame * places + s.run[i].position) * row;
        MF_TRY(mf_copy_rows(m->device, s.frames, bytes, cut ? here : there, cut ? own_ld : clip_ld,
                            cut ? there : here, cut ? clip_ld : own_ld));
    }
    return MF_OK;
}

mf_status mf_model_cut_clip(const mf_model *m, bool last, const float *clip, float *out) {
    union {
        const float *in;
        float *out;
    } whole = {clip}; /* only read */
    return move_runs(m, last ? MF_BY_PLACE : MF_BY_FRAME, out, whole.out, true);
}

mf_status mf_stdit_place_clip(const mf_model *m, const float *own, float *clip) {
    union {
        const float *in;
        float *out;
    } part = {own};
    return move_runs(m, MF_BY_PLACE, part.out, clip, false);
}

/* Where a token of a clip stands in the grid: frame, row, column. */
static void index_token(const mf_clip_grid *grid, int64_t token, int32_t *out) {
    int64_t places = mf_clip_places(grid), place = token % places;
    out[0] = (int32_t)(token / places);
    out[1] = (int32_t)(place / grid->columns);
    out[2] = (int32_t)(place % grid->columns);
}

static void index_rows(const mf_model *m, int32_t *out) {
    share s = share_on(m, MF_BY_FRAME);
    int64_t places = mf_clip_places(&m->options.grid), own = places_of(&s);
    for (int64_t t = 0; t < s.frames; t++)
        for (int i = 0; i < s.runs; i++)
            for (int64_t r = 0; r < s.run[i].rows; r++)
                index_token(&m->options.grid, (s.frame + t) * places + s.run[i].position + r,
                            out + 3 * (t * own + s.run[i].first_row + r));
}

/* Made in host memory: a device's may be none that the host can write to. */
static mf_status keep_index(mf_model *m) {
    mf_status status = MF_OK;
    mf_stdit *s = &m->stdit;
    int64_t n = 3 * s->frames * s->places;
    int32_t *index = NULL;
    MF_GO(mf_keep(m, n, sizeof(int32_t), "places of a clip's rows", &s->index));
    MF_GO(mf_host_alloc((size_t)n, sizeof *index, &index));
    index_rows(m, index);
    MF_GO(mf_copy(m->device, MF_QUEUE_COMPUTE, s->index.data, index, (size_t)n * sizeof *index));
fail:
    mf_host_free(index);
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
