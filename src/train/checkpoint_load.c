/* checkpoint_load.c: each rank takes what it holds out of all ranks' parts, one after another, whatever the
 * mesh that wrote them. Parts are mapped, so that only what is taken is read. */
#include "train/checkpoint.h"

#include "device/staging.h"

#include <string.h>

static int64_t sequences_of(const mf_train_options *o) {
    return o->accumulate * o->model.batch * mf_axes_ranks(&o->mesh, o->layout.data);
}

mf_status mf_checkpoint_match(const mf_checkpoint *c, const mf_train_options *o, uint64_t data) {
    const mf_manifest *m = &c->manifest;
    int64_t params = mf_config_params(&o->model.config);
    bool video = o->model.config.family == MF_STDIT;
    if (params != m->params)
        return MF_FAIL(MF_EINVAL, "--model: has %lld parameters, the checkpoint's run %lld",
                       (long long)params, (long long)m->params);
    if (m->converted) return MF_OK;
    if (o->model.tokens != m->tokens)
        return MF_FAIL(MF_EINVAL, "--%s %lld%s: the checkpoint's run has %lld, and keeps it",
                       video ? "frames, --grid: clips of" : "seq", (long long)o->model.tokens,
                       video ? " patches" : "", (long long)m->tokens);
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
        return MF_FAIL(MF_EINVAL, "--data: %s than the checkpoint's run has",
                       video ? "are other videos, or clips of another grid," : "is another text");
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
    mf_staging staging;
    mf_param_names names;
} load;

/* All cut weights are needed, in f32 where the gradients will be; of the moments those of what is updated,
 * where there was a run: else they stay zero. */
static void set_targets(load *l) {
    const mf_model_state *s = &l->state.of_model;
    bool moments = !l->checkpoint->manifest.converted;
    for (int kind = 0; kind < MF_ELEMENT_KINDS; kind++)
        l->target[kind] = (target){.cut = l->state.cut[kind],
                                   .first = s->first,
                                   .count = s->count,
                                   .replicated = l->state.replicated[kind],
                                   .needed = moments ? s->count + s->replicated : 0};
    target *weights = &l->target[MF_ELEMENT_WEIGHT];
    weights->cut = s->cut_grads;
    weights->first = 0;
    weights->count = s->cut;
    weights->needed = s->cut + s->replicated;
}

/* Bytes that go through the host at once: so many, or a row of them where it is longer. */
static size_t room_of(const mf_model *model) {
    int64_t most = 1 << 20;
    for (int i = 0; i < mf_model_params(model); i++) most = mf_max(most, mf_model_param(model, i).slice_cols);
    return (size_t)most * sizeof(float);
}

/* Columns first_col .. of a row of the parameter, of which the target may want a part. */
static mf_status take_run(load *l, const mf_part_tensor *s, const mf_param_view *v, int64_t row,
                          int64_t first_col, int64_t cols) {
    target *to = &l->target[s->kind];
    int64_t first = v->offset + (row - v->first_row) * v->slice_cols + first_col - v->first_col;
    int64_t begin = v->replicated ? first : mf_max(first, to->first),
            end = v->replicated ? first + cols : mf_min(first + cols, to->first + to->count);
    if (begin >= end) return MF_OK;
    float *out = v->replicated ? to->replicated + begin : to->cut + begin - to->first;
    to->taken += end - begin;
    MF_TRY(mf_staging_place(&l->staging, out, (size_t)(end - begin) * sizeof *out, &out));
    return mf_tensor_read(s->tensor, row - s->first_row, 1, first_col + begin - first - s->first_col,
                          end - begin, out);
}

/* Where the tensor and this rank's slice of the parameter meet. */
static mf_status take(load *l, const mf_part_tensor *s, const mf_param_view *v) {
    int64_t row = mf_max(s->first_row, v->first_row),
            end_row = mf_min(s->first_row + s->rows, v->first_row + v->slice_rows);
    int64_t col = mf_max(s->first_col, v->first_col),
            end_col = mf_min(s->first_col + s->cols, v->first_col + v->slice_cols);
    for (; row < end_row && col < end_col; row++) MF_TRY(take_run(l, s, v, row, col, end_col - col));
    return mf_staging_send(&l->staging);
}

static mf_status take_times(load *l, const char *path, const mf_tensor_info *t) {
    int64_t steps = l->checkpoint->manifest.progress.step;
    if (t->dims != 1 || t->shape[0] != steps || t->type != MF_FILE_F32)
        return MF_FAIL(MF_EFORMAT, "%s: tensor %s does not have the times of %lld steps", path, t->name,
                       (long long)steps);
    float *out = l->progress->step_s_out;
    return out ? mf_tensor_read(t, 0, 1, 0, steps, out) : MF_OK;
}

static mf_status take_part(load *l, const char *path, const mf_safetensors *part) {
    for (int i = 0; i < mf_safetensors_count(part); i++) {
        const mf_tensor_info *t = mf_safetensors_at(part, i);
        mf_part_tensor s;
        if (strcmp(t->name, mf_step_times_name) == 0) {
            MF_TRY(take_times(l, path, t));
            continue;
        }
        MF_TRY(mf_part_identify(&l->names, path, part, t, &s));
        mf_param_view view = mf_model_param(l->state.model, s.param);
        MF_TRY(take(l, &s, &view));
    }
    return MF_OK;
}

static mf_status open_part(load *l, int index) {
    mf_status status = MF_OK;
    char *path = NULL;
    mf_safetensors *part = NULL;
    MF_GO(mf_part_name(l->checkpoint->path, index, &path));
    MF_GO(mf_safetensors_open(path, &part));
    MF_GO(take_part(l, path, part));
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
    MF_TRY(mf_param_names_make(&mf_model_options_get(l->state.model)->config, &l->names));
    set_targets(l);
    /* Ranks begin at different parts, so that they don't all read one file at a time. */
    for (int i = 0; i < parts; i++) MF_TRY(open_part(l, (i + mf_comm_rank(world)) % parts));
    return check_complete(l);
}

mf_status mf_checkpoint_load(const mf_checkpoint *c, mf_optimizer *optimizer,
                             mf_checkpoint_progress *progress) {
    float *step_s_out = progress->step_s_out;
    load l = {.checkpoint = c, .state = mf_optimizer_state_get(optimizer), .progress = progress};
    l.staging = (mf_staging){.device = mf_model_device(l.state.model), .room = room_of(l.state.model)};
    MF_TRY(mf_barrier(mf_model_world(l.state.model))); /* no peer adds to own gradients */
    mf_status status = load_all(&l);
    mf_param_names_free(&l.names);
    mf_staging_close(&l.staging);
    MF_TRY(mf_checkpoint_agree(mf_model_world(l.state.model), status));
    MF_TRY(mf_optimizer_adopt(optimizer));
    *l.state.updates = c->manifest.updates;
    *progress = c->manifest.progress;
    progress->step_s_out = step_s_out;
    return MF_OK;
}
