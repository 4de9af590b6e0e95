/* checkpoint_weights.c: weights out of all parts, in runs of a parameter's elements, whatever the mesh that
 * wrote them. */
#include "train/checkpoint.h"

#include <stdlib.h>
#include <string.h>

struct mf_checkpoint_weights {
    const mf_param_names *names;
    char *path; /* of the checkpoint */
    int parts;
    mf_safetensors **part; /* [parts] */
    int count;
    mf_part_tensor *piece; /* [count] of weights, parameter after parameter */
    int *begin;            /* [names->count + 1] where each one's begin */
};

void mf_checkpoint_weights_close(mf_checkpoint_weights *w) {
    if (!w) return;
    for (int i = 0; w->part && i < w->parts; i++) mf_safetensors_close(w->part[i]);
    mf_host_free(w->part);
    mf_host_free(w->piece);
    mf_host_free(w->begin);
    mf_host_free(w->path);
    mf_host_free(w);
}

static mf_status open_parts(mf_checkpoint_weights *w) {
    MF_TRY(mf_host_alloc((size_t)w->parts, sizeof *w->part, &w->part));
    for (int i = 0; i < w->parts; i++) {
        char *path = NULL;
        MF_TRY(mf_part_name(w->path, i, &path));
        mf_status status = mf_safetensors_open(path, &w->part[i]);
        mf_host_free(path);
        MF_TRY(status);
    }
    return MF_OK;
}

static mf_status identify_part(mf_checkpoint_weights *w, int index) {
    mf_status status = MF_OK;
    char *path = NULL;
    MF_TRY(mf_part_name(w->path, index, &path));
    for (int i = 0; i < mf_safetensors_count(w->part[index]); i++) {
        const mf_tensor_info *t = mf_safetensors_at(w->part[index], i);
        if (strcmp(t->name, mf_step_times_name) == 0) continue;
        MF_GO(mf_part_identify(w->names, path, w->part[index], t, &w->piece[w->count]));
        if (w->piece[w->count].kind == MF_ELEMENT_WEIGHT) w->count++;
    }
fail:
    mf_host_free(path);
    return status;
}

static int by_place(const void *a, const void *b) {
    const mf_part_tensor *x = a, *y = b;
    return (x->param > y->param) - (x->param < y->param);
}

static mf_status collect_pieces(mf_checkpoint_weights *w) {
    size_t tensors = 0;
    for (int i = 0; i < w->parts; i++) tensors += (size_t)mf_safetensors_count(w->part[i]);
    MF_TRY(mf_host_alloc(tensors, sizeof *w->piece, &w->piece));
    MF_TRY(mf_host_alloc((size_t)w->names->count + 1, sizeof *w->begin, &w->begin));
    for (int i = 0; i < w->parts; i++) MF_TRY(identify_part(w, i));
    qsort(w->piece, (size_t)w->count, sizeof *w->piece, by_place);
    for (int param = 0, at = 0; param <= w->names->count; param++) {
        while (at < w->count && w->piece[at].param < param) at++;
        w->begin[param] = at;
    }
    return MF_OK;
}

mf_status mf_checkpoint_weights_open(const mf_checkpoint *checkpoint, const mf_param_names *names,
                                     mf_checkpoint_weights **out) {
    mf_status status = MF_OK;
    mf_checkpoint_weights *w = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *w, &w));
    w->names = names;
    w->parts = checkpoint->manifest.parts;
    MF_GO(mf_host_strdup(checkpoint->path, &w->path));
    MF_GO(open_parts(w));
    MF_GO(collect_pieces(w));
    *out = w;
    return MF_OK;
fail:
    mf_checkpoint_weights_close(w);
    return status;
}

/* Elements first .. end - 1 of a parameter of `width` columns, as far as the piece has them. *taken grows by
 * their number. */
static mf_status take(const mf_part_tensor *p, int64_t width, int64_t first, int64_t end, float *out,
                      int64_t *taken) {
    int64_t row = mf_max(p->first_row, first / width),
            end_row = mf_min(p->first_row + p->rows, mf_ceil_div(end, width));
    for (; row < end_row; row++) {
        int64_t col = mf_max(p->first_col, first - row * width),
                end_col = mf_min(p->first_col + p->cols, end - row * width);
        if (col >= end_col) continue;
        MF_TRY(mf_tensor_read(p->tensor, row - p->first_row, 1, col - p->first_col, end_col - col,
                              out + row * width + col - first));
        *taken += end_col - col;
    }
    return MF_OK;
}

mf_status mf_checkpoint_weights_read(const mf_checkpoint_weights *w, int param, int64_t first, int64_t n,
                                     float *out) {
    const mf_named_shape *whole = &w->names->param[param];
    int64_t taken = 0;
    for (int i = w->begin[param]; i < w->begin[param + 1]; i++)
        MF_TRY(take(&w->piece[i], whole->cols, first, first + n, out, &taken));
    if (taken == n) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: its parts have %lld of %lld values of %s", w->path, (long long)taken,
                   (long long)n, whole->name);
}
