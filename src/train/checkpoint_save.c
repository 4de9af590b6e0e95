/* checkpoint_save.c: every rank writes its part into a draft's folder; when all are on the disk, the first
 * rank adds the manifest and gives the folder its name. Whenever it ends, there is a whole checkpoint or
 * none. */
#include "device/staging.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "io/tensor_stream.h"
#include "train/checkpoint.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t mf_train_digest(const mf_train_options *o) {
    const mf_dataset *data = &o->data;
    int64_t width = mf_max(data->text.width, 1);
    if (o->clips) return mf_video_set_digest(o->clips);
    return mf_digest_of(data->text.bytes, (size_t)(data->total * width)).xxh3;
}

typedef struct save {
    const mf_train_options *options;
    const mf_checkpoint_progress *progress;
    mf_optimizer_state state;
    mf_comm *world;
    bool first;             /* this is rank 0 */
    char *draft, *path;     /* the folder, before and after */
    char *part;             /* this rank's file */
    mf_piece *piece;        /* [pieces] of this rank */
    int pieces, tensors;    /* rank 0 has one tensor more: how long steps took */
    char **name;            /* [tensors] */
    mf_tensor_info *tensor; /* [tensors] */
    json_t *shapes;         /* of the whole tensors, by name */
    mf_digest *all;         /* [ranks] every rank's part */
    bool may_publish;       /* rank 0 may have heard that all parts are written */
} save;

static mf_status set_shape(save *s, const char *name, const char *shape) {
    if (json_object_set_new(s->shapes, name, json_string(shape)))
        return MF_FAIL(MF_ENOMEM, "no memory for the shape of %s", name);
    return MF_OK;
}

static mf_status describe_piece(save *s, int i) {
    const mf_piece *p = &s->piece[i];
    mf_param_view v = mf_model_param(s->state.model, p->param);
    char shape[48];
    MF_TRY(mf_piece_name(p->kind, v.name, p->first_row, p->first_col, &s->name[i]));
    mf_tensor_spec spec = {.name = s->name[i], .rows = v.rows ? p->rows : 0, .cols = p->cols};
    MF_TRY(mf_tensor_describe(&spec, MF_F32, &s->tensor[i]));
    mf_piece_shape(v.rows, v.cols, shape);
    return set_shape(s, s->name[i], shape);
}

static mf_status describe_times(save *s) {
    char shape[48];
    MF_TRY(mf_host_strdup(mf_step_times_name, &s->name[s->pieces]));
    mf_tensor_spec spec = {.name = s->name[s->pieces], .cols = s->progress->step};
    MF_TRY(mf_tensor_describe(&spec, MF_F32, &s->tensor[s->pieces]));
    mf_piece_shape(0, s->progress->step, shape);
    return set_shape(s, mf_step_times_name, shape);
}

static mf_status describe_part(save *s) {
    MF_TRY(mf_pieces_make(&s->state, &s->piece, &s->pieces));
    s->tensors = s->pieces + (s->first && s->progress->step_s);
    MF_TRY(mf_host_alloc((size_t)s->tensors, sizeof *s->name, &s->name));
    MF_TRY(mf_host_alloc((size_t)s->tensors, sizeof *s->tensor, &s->tensor));
    s->shapes = json_object();
    if (!s->shapes) return MF_FAIL(MF_ENOMEM, "no memory for the shapes of a checkpoint's tensors");
    for (int i = 0; i < s->pieces; i++) MF_TRY(describe_piece(s, i));
    return s->tensors > s->pieces ? describe_times(s) : MF_OK;
}

/* Bytes that go through the host at once. */
enum { AT_ONCE = 4 << 20 };

static mf_status write_piece(mf_tensor_stream *stream, const float *values, size_t bytes, mf_staging *s) {
    const char *from = (const char *)values;
    const void *at = NULL;
    for (size_t done = 0; done < bytes; done += AT_ONCE) {
        size_t some = bytes - done < AT_ONCE ? bytes - done : AT_ONCE;
        MF_TRY(mf_staging_fetch(s, from + done, some, &at));
        MF_TRY(mf_tensor_stream_write(stream, at, some));
    }
    return MF_OK;
}

static mf_status write_part(save *s, mf_digest *digest) {
    mf_status status = MF_OK;
    mf_tensor_stream *stream = NULL;
    mf_staging staging = {.device = mf_model_device(s->state.model), .room = AT_ONCE};
    MF_GO(mf_tensor_stream_open(s->part, s->tensor, s->tensors, s->shapes, &stream));
    for (int i = 0; i < s->pieces; i++)
        MF_GO(write_piece(stream, s->piece[i].values, s->tensor[i].bytes, &staging));
    if (s->tensors > s->pieces)
        MF_GO(mf_tensor_stream_write(stream, s->progress->step_s, s->tensor[s->pieces].bytes));
    MF_GO(mf_tensor_stream_finish(stream, digest));
fail:
    mf_staging_close(&staging);
    mf_tensor_stream_close(stream);
    return status;
}

/* An older draft of this step was given up: it is cleared away. */
static mf_status make_draft(save *s) {
    struct stat found;
    if (stat(s->path, &found) == 0) return MF_FAIL(MF_EIO, "%s: is there already", s->path);
    MF_TRY(mf_folder_make(s->options->checkpoints));
    MF_TRY(mf_folder_remove(s->draft));
    return mf_folder_make(s->draft);
}

static mf_status gather_digests(save *s, const mf_digest *own) {
    mf_status status = MF_OK;
    size_t *offsets = NULL, ranks = (size_t)mf_comm_size(s->world);
    MF_GO(mf_host_alloc(ranks, sizeof *s->all, &s->all));
    MF_GO(mf_host_alloc(ranks + 1, sizeof *offsets, &offsets));
    for (size_t i = 0; i <= ranks; i++) offsets[i] = i * sizeof *own;
    MF_GO(mf_allgather(s->world, own, s->all, offsets, NULL));
fail:
    mf_host_free(offsets);
    return status;
}

static void describe_mesh(const mf_mesh_spec *mesh, char out[MF_LAYOUT_DESCRIPTION]) {
    size_t used = (size_t)snprintf(out, MF_LAYOUT_DESCRIPTION, "%s", mesh->axes ? "" : "single");
    for (int i = 0; i < mesh->axes && used < MF_LAYOUT_DESCRIPTION; i++)
        used += (size_t)snprintf(out + used, MF_LAYOUT_DESCRIPTION - used, "%s%s=%d", i ? "," : "",
                                 mesh->axis[i].name, mesh->axis[i].size);
}

static int64_t sequences_of(const mf_train_options *o) {
    return o->accumulate * o->model.batch * mf_axes_ranks(&o->mesh, o->layout.data);
}

static mf_status write_manifest(save *s) {
    mf_status status = MF_OK;
    const mf_train_options *o = s->options;
    char *config = NULL;
    mf_manifest m = {.type = o->model.type,
                     .seed = o->model.seed,
                     .tokens = o->model.tokens,
                     .sequences = sequences_of(o),
                     .params = mf_config_params(&o->model.config),
                     .updates = *s->state.updates,
                     .adam = o->adam,
                     .progress = *s->progress,
                     .parts = mf_comm_size(s->world)};
    describe_mesh(&o->mesh, m.mesh);
    mf_layout_describe(&o->layout, m.layout);
    MF_GO(mf_host_alloc((size_t)m.parts, sizeof *m.part, &m.part));
    for (int i = 0; i < m.parts; i++) m.part[i] = s->all[i];
    if (o->settings) MF_GO(mf_host_strdup(o->settings, &m.settings));
    MF_GO(mf_format(&config, "%s/config.json", s->draft));
    MF_GO(mf_config_save(&o->model.config, o->model.type, o->model.tokens, config));
    MF_GO(mf_digest_file(config, &m.config));
    MF_GO(mf_manifest_write(&m, s->draft));
fail:
    mf_manifest_free(&m);
    mf_host_free(config);
    return status;
}

static mf_status publish(save *s) {
    MF_TRY(write_manifest(s));
    MF_TRY(mf_folder_sync(s->draft));
    return mf_folder_rename(s->options->checkpoints, s->draft, s->path);
}

static mf_status save_all(save *s) {
    mf_digest digest = {0};
    MF_TRY(describe_part(s));
    if (s->first) MF_TRY(make_draft(s));
    MF_TRY(mf_barrier(s->world));
    /* a full disk is every rank's at once */
    MF_TRY(mf_checkpoint_agree(s->world, write_part(s, &digest)));
    s->may_publish = true;
    MF_TRY(gather_digests(s, &digest));
    if (s->first) MF_TRY(publish(s));
    MF_TRY(mf_barrier(s->world));
    return s->first ? mf_checkpoints_keep(s->options->checkpoints, (int)mf_max(s->options->keep, 2)) : MF_OK;
}

/* A rank takes its own part away unless rank 0 may be publishing it, and the last one out removes the folder;
 * rank 0, which knows, takes all. A draft whose ranks end at different places may stay: the next run over
 * these checkpoints removes it. After publication there is nothing under the draft's name. */
static void give_up(const save *s) {
    mf_error error = *mf_error_last();
    if (!s->draft || !s->part) return;
    if (s->first) {
        (void)mf_folder_remove(s->draft);
    } else if (!s->may_publish) {
        unlink(s->part);
        rmdir(s->draft);
    }
    mf_error_adopt(&error);
}

static mf_status names(save *s) {
    const char *folder = s->options->checkpoints;
    MF_TRY(mf_checkpoint_name(folder, s->progress->step, &s->path));
    MF_TRY(mf_checkpoint_draft_name(folder, s->progress->step, &s->draft));
    return mf_part_name(s->draft, mf_comm_rank(s->world), &s->part);
}

static void free_all(save *s) {
    for (int i = 0; s->name && i < s->tensors; i++) mf_host_free(s->name[i]);
    mf_host_free(s->name);
    mf_host_free(s->tensor);
    mf_host_free(s->piece);
    mf_host_free(s->all);
    json_decref(s->shapes);
    mf_host_free(s->part);
    mf_host_free(s->draft);
    mf_host_free(s->path);
}

static void report(const save *s, double began, mf_checkpoint_saved *out) {
    snprintf(out->path, sizeof out->path, "%s", s->path);
    out->took_s = mf_now_s() - began;
    out->bytes = 0;
    for (int i = 0; i < mf_comm_size(s->world); i++) out->bytes += s->all[i].bytes;
}

mf_status mf_checkpoint_save(mf_optimizer *optimizer, const mf_train_options *options,
                             const mf_checkpoint_progress *progress, mf_checkpoint_saved *out) {
    mf_status status = MF_OK;
    double began = mf_now_s();
    save s = {.options = options, .progress = progress, .state = mf_optimizer_state_get(optimizer)};
    s.world = mf_model_world(s.state.model);
    s.first = mf_comm_rank(s.world) == 0;
    MF_GO(names(&s));
    MF_GO(save_all(&s));
    report(&s, began, out);
fail:
    if (status) give_up(&s);
    free_all(&s);
    return status;
}
