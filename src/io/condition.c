/* condition.c: what clips show, beside them: float32 [clips, tokens, channels] in a .npy. */
#include "io/digest.h"
#include "io/file.h"
#include "io/npy.h"
#include "meshfold/io.h"
#include "meshfold/video.h"

#include <string.h>

static const char ending[] = ".condition.npy";

struct mf_condition {
    const uint8_t *map, *values;
    size_t bytes, clip_bytes;
    int64_t clips;
};

bool mf_condition_is_named(const char *path) {
    size_t length = strlen(path), end = strlen(ending);
    return length > end && strcmp(path + length - end, ending) == 0;
}

/* The caller frees *out with mf_host_free. */
static mf_status path_of(const char *video, char **out) {
    return mf_format(out, "%.*s%s", (int)(strlen(video) - strlen(".npy")), video, ending);
}

static mf_npy npy_of(const mf_condition_shape *s) {
    return (mf_npy){.type = "<f4", .dims = 3, .size = {s->clips, s->tokens, s->channels}};
}

static mf_status check(const char *path, const mf_npy *npy, const mf_condition_shape *shape) {
    char there[MF_NPY_TEXT], needed[MF_NPY_TEXT];
    mf_npy wanted = npy_of(shape);
    if (shape->clips == 0) wanted.size[0] = mf_max(npy->size[0], 1);
    mf_npy_shape_text(npy, there);
    mf_npy_shape_text(&wanted, needed);
    if (strcmp(npy->type, wanted.type) == 0 && strcmp(there, needed) == 0) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: is %s of %s; %s of %s is needed", path, there, npy->type, needed,
                   wanted.type);
}

static mf_status open_at(mf_condition *c, const char *path, const mf_condition_shape *shape) {
    mf_npy npy;
    MF_TRY(mf_regular_map(path, &c->map, &c->bytes));
    MF_TRY(mf_npy_read(path, c->map, c->bytes, &npy));
    MF_TRY(check(path, &npy, shape));
    MF_TRY(mf_npy_check(path, &npy, c->bytes, sizeof(float)));
    c->values = c->map + npy.data_begin;
    c->clips = npy.size[0];
    c->clip_bytes = (size_t)(shape->tokens * shape->channels) * sizeof(float);
    return MF_OK;
}

mf_status mf_condition_load(const char *path, const mf_condition_shape *shape, mf_condition **out) {
    mf_status status = MF_OK;
    mf_condition *c = NULL;
    *out = NULL;
    MF_GO(mf_host_alloc(1, sizeof *c, &c));
    MF_GO(open_at(c, path, shape));
    *out = c;
    c = NULL;
fail:
    mf_condition_close(c);
    return status;
}

mf_status mf_condition_open(const char *video, const mf_condition_shape *shape, mf_condition **out) {
    char *path = NULL;
    *out = NULL;
    MF_TRY(path_of(video, &path));
    mf_status status = mf_condition_load(path, shape, out);
    mf_host_free(path);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

int64_t mf_condition_clips(const mf_condition *c) { return c->clips; }

void mf_condition_close(mf_condition *c) {
    if (!c) return;
    mf_regular_unmap(c->map, c->bytes);
    mf_host_free(c);
}

void mf_condition_read(const mf_condition *c, int64_t clip, float *out) {
    memcpy(out, c->values + (size_t)clip * c->clip_bytes, c->clip_bytes);
}

uint64_t mf_condition_digest(const mf_condition *c) { return mf_digest_of(c->map, c->bytes).xxh3; }

mf_status mf_condition_write(const char *video, const mf_condition_shape *shape, const float *values) {
    mf_status status = MF_OK;
    mf_draft draft = {0};
    char *path = NULL, *header = NULL;
    size_t header_bytes, bytes = (size_t)(shape->clips * shape->tokens * shape->channels) * sizeof *values;
    mf_npy npy = npy_of(shape);
    MF_TRY(path_of(video, &path));
    MF_GO(mf_npy_write(&npy, &header, &header_bytes));
    MF_GO(mf_draft_open(path, &draft));
    MF_GO(mf_fd_write(draft.fd, header, header_bytes, 0, path));
    MF_GO(mf_fd_write(draft.fd, values, bytes, (int64_t)header_bytes, path));
    MF_GO(mf_draft_keep(&draft, path));
fail:
    mf_draft_drop(&draft);
    mf_host_free(header);
    mf_host_free(path);
    return status;
}
