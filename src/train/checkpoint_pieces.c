/* checkpoint_pieces.c: a rank's share as rectangles of whole tensors. What a rank updates is a run of its
 * packed elements (ZeRO-1 cuts it anywhere), so that a parameter's share may begin and end within a row: at
 * most three rectangles, each contiguous in memory. */
#include "train/checkpoint.h"

#include <stdio.h>
#include <string.h>

const char mf_step_times_name[] = "run/step_s";

static const char *const kind_names[MF_ELEMENT_KINDS] = {"weights", "moment1", "moment2"};

enum { RUN_PIECES = 3 };

/* Elements begin .. end - 1 of a slice of rows of `width`, as rectangles {first row, rows, first column,
 * columns} within it; returns their number. */
static int split(int64_t begin, int64_t end, int64_t width, int64_t out[RUN_PIECES][4]) {
    int count = 0;
    while (begin < end) {
        int64_t row = begin / width, col = begin % width, left = end - begin;
        bool whole_rows = col == 0 && left >= width;
        int64_t rows = whole_rows ? left / width : 1, cols = whole_rows ? width : mf_min(width - col, left);
        int64_t *r = out[count++];
        r[0] = row, r[1] = rows, r[2] = col, r[3] = cols;
        begin += rows * cols;
    }
    return count;
}

/* Of the ranks that hold an element, the one that keeps it: who updates it, and the lowest of those. Key
 * heads that several tensor ranks have are the lower one's. */
static void cut_range(const mf_model_state *s, const mf_param_view *v, int64_t *begin, int64_t *end) {
    int64_t first = v->offset + v->shared_rows * v->slice_cols,
            last = v->offset + v->slice_rows * v->slice_cols;
    bool keeps = s->writes || s->count < s->cut;
    *begin = mf_max(first, s->first) - v->offset;
    *end = keeps ? mf_min(last, s->first + s->count) - v->offset : *begin;
}

static int cut_pieces(const mf_optimizer_state *o, int param, mf_piece *out) {
    mf_param_view v = mf_model_param(o->model, param);
    int64_t begin, end, runs[RUN_PIECES][4];
    cut_range(&o->of_model, &v, &begin, &end);
    int count = 0, n = split(begin, end, v.slice_cols, runs);
    for (int kind = 0; kind < MF_ELEMENT_KINDS; kind++)
        for (int i = 0; i < n; i++) {
            const int64_t *r = runs[i];
            int64_t at = v.offset + r[0] * v.slice_cols + r[2] - o->of_model.first;
            out[count++] = (mf_piece){.param = param,
                                      .kind = kind,
                                      .first_row = v.first_row + r[0],
                                      .rows = r[1],
                                      .first_col = v.first_col + r[2],
                                      .cols = r[3],
                                      .values = o->cut[kind] + at};
        }
    return count;
}

static int replicated_pieces(const mf_optimizer_state *o, int param, mf_piece *out) {
    mf_param_view v = mf_model_param(o->model, param);
    if (mf_comm_rank(mf_model_world(o->model)) > 0) return 0;
    for (int kind = 0; kind < MF_ELEMENT_KINDS; kind++)
        out[kind] = (mf_piece){.param = param,
                               .kind = kind,
                               .rows = v.slice_rows,
                               .cols = v.slice_cols,
                               .values = o->replicated[kind] + v.offset};
    return MF_ELEMENT_KINDS;
}

mf_status mf_pieces_make(const mf_optimizer_state *o, mf_piece **out, int *count) {
    int params = mf_model_params(o->model);
    *count = 0;
    MF_TRY(mf_host_alloc((size_t)params * RUN_PIECES * MF_ELEMENT_KINDS, sizeof **out, out));
    for (int i = 0; i < params; i++) {
        bool replicated = mf_model_param(o->model, i).replicated;
        *count += replicated ? replicated_pieces(o, i, *out + *count) : cut_pieces(o, i, *out + *count);
    }
    return MF_OK;
}

mf_status mf_piece_name(int kind, const char *param, int64_t first_row, int64_t first_col, char **out) {
    return mf_format(out, "%s/%s@%lld,%lld", kind_names[kind], param, (long long)first_row,
                     (long long)first_col);
}

static int kind_of(const char *name, size_t length) {
    for (int kind = 0; kind < MF_ELEMENT_KINDS; kind++)
        if (strlen(kind_names[kind]) == length && memcmp(kind_names[kind], name, length) == 0) return kind;
    return -1;
}

bool mf_piece_name_read(const char *name, int *kind, const char **param, size_t *param_length,
                        int64_t *first_row, int64_t *first_col) {
    const char *slash = strchr(name, '/'), *at = strrchr(name, '@');
    long long row = -1, col = -1;
    int used = 0;
    if (!slash || !at || at < slash) return false;
    *kind = kind_of(name, (size_t)(slash - name));
    *param = slash + 1;
    *param_length = (size_t)(at - slash - 1);
    bool read = sscanf(at, "@%18lld,%18lld%n", &row, &col, &used) == 2 && at[used] == '\0';
    *first_row = row;
    *first_col = col;
    return read && *kind >= 0 && row >= 0 && col >= 0;
}

void mf_piece_shape(int64_t rows, int64_t cols, char out[48]) {
    if (rows)
        snprintf(out, 48, "[%lld, %lld]", (long long)rows, (long long)cols);
    else
        snprintf(out, 48, "[%lld]", (long long)cols);
}
