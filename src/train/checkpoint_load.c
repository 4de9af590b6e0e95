/* checkpoint_load.c: each rank takes what it holds out of all ranks' parts, one after another, whatever the
 * mesh that wrote them. Parts are mapped, so that only what is taken is read. */
#include "train/checkpoint.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static int64_t sequences_of(const mf_train_options *o) {
    return o->accumulate * o->model.batch * mf_axes_ranks(&o->mesh, o->layout.data);
}

mf_status mf_checkpoint_match(const mf_checkpoint *c, const mf_train_options *o, uint64_t data) {
    const mf_manifest *m = &c->manifest;
    int64_t params = mf_config_params(&o->model.config);
    if (params != m->params)
        return MF_FAIL(MF_EINVAL, "--model: has %lld parameters, the checkpoint's run %lld",
                       (long long)params, (long long)m->params);
    if (o->model.tokens != m->tokens)
        return MF_FAIL(MF_EINVAL, "--seq %lld: the checkpoint's run has %lld, and keeps it",
                       (long long)o->model.tokens, (long long)m->tokens);
    if (o->model.seed != m->seed)
        return MF_FAIL(MF_EINVAL, "--seed %llu: the checkpoint's run has seed %llu, and keeps it",
                       (unsigned long long)o->model.seed, (unsigned long long)m->seed);
    if (o->model.type != m->type)
        return MF_FAIL(MF_EINVAL, "--dtype %s: the checkpoint's run has %s, and keeps it",
                       mf_dtype_name(o->model.type), mf_dtype_name(m->type));
    if (sequences_of(o) != m->sequences)
        return MF_FAIL(
            MF_EINVAL,
            "a step would have %lld sequences (--batch %lld, --accumulate %lld, %d dp replicas), but "
            "the checkpoint's run has %lld: choose --batch and --accumulate for that",
            (long long)sequences_of(o), (long long)o->model.batch, (long long)o->accumulate,
            mf_axes_ranks(&o->mesh, o->layout.data), (long long)m->sequences);
    if (data != m->progress.data)
        return MF_FAIL(MF_EINVAL, "--data: is another text than the checkpoint's run has");
    if (o->adam.steps < m->progress.step)
        return MF_FAIL(MF_EINVAL, "--steps %lld: the checkpoint has %lld steps behind it",
                       (long long)o->adam.steps, (long long)m->progress.step);
    return MF_OK;
}

/* What this rank needs of one kind, in f32, and what has come. */
typedef struct target {
    float *cut; /* elements first .. first + count - 1 of the cut ones */
    int64_t first, count;
    float *replicated;
    int64_t needed, taken; /* elements */
} target;

typedef struct load {
    const mf_checkpoint *checkpoint;
    mf_optimizer_state state;
    mf_checkpoint_progress *progress;
    target target[MF_ELEMENT_KINDS];
    mf_param_view *view; /* [params] sorted by name */
    int params;
    const char *path; /* of the part at work */
} load;

static int by_name(const void *a, const void *b) {
    return strcmp(((const mf_param_view *)a)->name, ((const mf_param_view *)b)->name);
}

/* All cut weights are needed, in f32 where the gradients will be; of the moments those of what is updated. */
static void set_targets(load *l) {
    const mf_model_state *s = &l->state.of_model;
    for (int kind = 0; kind < MF_ELEMENT_KINDS; kind++)
        l->target[kind] = (target){.cut = l->state.cut[kind],
                                   .first = s->first,
                                   .count = s->count,
                                   .replicated = l->state.replicated[kind],
                                   .needed = s->count + s->replicated};
    target *weights = &l->target[MF_ELEMENT_WEIGHT];
    weights->cut = s->cut_grads;
    weights->first = 0;
    weights->count = s->cut;
    weights->needed = s->cut + s->replicated;
}

static mf_status sort_views(load *l) {
    l->params = mf_model_params(l->state.model);
    MF_TRY(mf_host_alloc((size_t)l->params, sizeof *l->view, &l->view));
    for (int i = 0; i < l->params; i++) l->view[i] = mf_model_param(l->state.model, i);
    qsort(l->view, (size_t)l->params, sizeof *l->view, by_name);
    return MF_OK;
}

static const mf_param_view *view_named(const load *l, const char *name, size_t length) {
    int low = 0, high = l->params;
    while (low < high) {
        int middle = (low + high) / 2, order = strncmp(name, l->view[middle].name, length);
        if (order == 0 && l->view[middle].name[length]) order = -1;
        if (order == 0) return &l->view[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* A tensor of a part, and where it lies in the parameter. */
typedef struct source {
    const mf_tensor_info *tensor;
    const mf_param_view *view;
    int kind;
    int64_t first_row, rows, first_col, cols;
} source;

static mf_status identify(const load *l, const mf_safetensors *part, const mf_tensor_info *t, source *out) {
    const char *param = NULL, *stated = mf_safetensors_metadata(part, t->name);
    size_t length = 0;
    char shape[48];
    *out = (source){.tensor = t};
    if (!mf_piece_name_read(t->name, &out->kind, &param, &length, &out->first_row, &out->first_col))
        return MF_FAIL(MF_EFORMAT, "%s: has a tensor %.100s, which is none of a checkpoint's", l->path,
                       t->name);
    out->view = view_named(l, param, length);
    if (!out->view)
        return MF_FAIL(MF_EFORMAT, "%s: has a tensor %.100s, which the model does not have", l->path,
                       t->name);
    mf_piece_shape(out->view, shape);
    if (!stated || strcmp(stated, shape) != 0)
        return MF_FAIL(MF_EFORMAT, "%s: tensor %.100s is of a tensor of shape %.40s, but the model's is %s",
                       l->path, t->name, stated ? stated : "(none)", shape);
    int dims = out->view->rows ? 2 : 1;
    if (t->dims != dims || t->type != MF_FILE_F32)
        return MF_FAIL(MF_EFORMAT, "%s: tensor %.100s is not a slice of %s in F32", l->path, t->name, shape);
    out->rows = dims == 2 ? t->shape[0] : 1;
    out->cols = t->shape[dims - 1];
    bool inside = out->rows <= mf_max(out->view->rows, 1) - out->first_row &&
                  out->cols <= out->view->cols - out->first_col;
    if (!inside) return MF_FAIL(MF_EFORMAT, "%s: tensor %.100s leaves its %s", l->path, t->name, shape);
    return MF_OK;
}

/* Columns first_col .. of a row of the parameter, of which the target may want a part. */
static mf_status take_run(const source *s, target *to, int64_t row, int64_t first_col, int64_t cols) {
    const mf_param_view *v = s->view;
    int64_t first = v->offset + (row - v->first_row) * v->slice_cols + first_col - v->first_col;
    int64_t begin = v->replicated ? first : mf_max(first, to->first),
            end = v->replicated ? first + cols : mf_min(first + cols, to->first + to->count);
    if (begin >= end) return MF_OK;
    to->taken += end - begin;
    return mf_tensor_read(s->tensor, row - s->first_row, 1, first_col + begin - first - s->first_col,
                          end - begin, v->replicated ? to->replicated + begin : to->cut + begin - to->first);
}

/* Where the tensor and this rank's slice of the parameter meet. */
static mf_status take(const source *s, target *to) {
    const mf_param_view *v = s->view;
    int64_t row = mf_max(s->first_row, v->first_row),
            end_row = mf_min(s->first_row + s->rows, v->first_row + v->slice_rows);
    int64_t col = mf_max(s->first_col, v->first_col),
            end_col = mf_min(s->first_col + s->cols, v->first_col + v->slice_cols);
    for (; row < end_row && col < end_col; row++) MF_TRY(take_run(s, to, row, col, end_col - col));
    return MF_OK;
}

static mf_status take_times(load *l, const mf_tensor_info *t) {
    int64_t steps = l->checkpoint->manifest.progress.step;
    if (t->dims != 1 || t->shape[0] != steps || t->type != MF_FILE_F32)
        return MF_FAIL(MF_EFORMAT, "%s: tensor %s does not have the times of %lld steps", l->path, t->name,
                       (long long)steps);
    float *out = l->progress->step_s_out;
    return out ? mf_tensor_read(t, 0, 1, 0, steps, out) : MF_OK;
}

static mf_status take_part(load *l, const mf_safetensors *part) {
    for (int i = 0; i < mf_safetensors_count(part); i++) {
        const mf_tensor_info *t = mf_safetensors_at(part, i);
        source s;
        if (strcmp(t->name, mf_step_times_name) == 0) {
            MF_TRY(take_times(l, t));
            continue;
        }
        MF_TRY(identify(l, part, t, &s));
        MF_TRY(take(&s, &l->target[s.kind]));
    }
    return MF_OK;
}

static mf_status open_part(load *l, int index) {
    mf_status status = MF_OK;
    char *path = NULL;
    mf_safetensors *part = NULL;
    MF_GO(mf_part_name(l->checkpoint->path, index, &path));
    l->path = path;
    MF_GO(mf_safetensors_open(path, &part));
    MF_GO(take_part(l, part));
fail:
    mf_safetensors_close(part);
    mf_host_free(path);
    return status;
}

static mf_status check_complete(const load *l) {
    for (int kind = 0; kind < MF_ELEMENT_KINDS; kind++) {
        const target *t = &l->target[kind];
        if (t->taken != t->needed)
            return MF_FAIL(MF_EFORMAT, "%s: its parts have %lld values where this rank needs %lld",
                           l->checkpoint->path, (long long)t->taken, (long long)t->needed);
    }
    return MF_OK;
}

static mf_status load_all(load *l) {
    mf_comm *world = mf_model_world(l->state.model);
    int parts = l->checkpoint->manifest.parts;
    MF_TRY(sort_views(l));
    set_targets(l);
    /* Ranks begin at different parts, so that they don't all read one file at a time. */
    for (int i = 0; i < parts; i++) MF_TRY(open_part(l, (i + mf_comm_rank(world)) % parts));
    return check_complete(l);
}

mf_status mf_checkpoint_load(const mf_checkpoint *c, mf_optimizer *optimizer,
                             mf_checkpoint_progress *progress) {
    float *step_s_out = progress->step_s_out;
    load l = {.checkpoint = c, .state = mf_optimizer_state_get(optimizer), .progress = progress};
    MF_TRY(mf_barrier(mf_model_world(l.state.model))); /* no peer adds to own gradients */
    mf_status status = load_all(&l);
    mf_host_free(l.view);
    MF_TRY(mf_checkpoint_agree(mf_model_world(l.state.model), status));
    MF_TRY(mf_optimizer_adopt(optimizer));
    *l.state.updates = c->manifest.updates;
    *progress = c->manifest.progress;
    progress->step_s_out = step_s_out;
    return MF_OK;
}
