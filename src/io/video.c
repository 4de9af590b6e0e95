/* video.c: files of video, mapped; windows out of them. */
#include "io/digest.h"
#include "io/video_format.h"

#include <math.h>
#include <string.h>

const mf_video_format *mf_video_format_of(const char *path) {
    static const mf_video_format *const formats[] = {&mf_video_npy, &mf_video_y4m};
    size_t length = strlen(path);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        size_t end = strlen(formats[i]->suffix);
        if (length > end && strcmp(path + length - end, formats[i]->suffix) == 0) return formats[i];
    }
    return NULL;
}

bool mf_video_is_named(const char *path) { return mf_video_format_of(path) != NULL; }

mf_status mf_video_count(const char *path, const mf_video_shape *s, int64_t *out) {
    const int64_t size[] = {s->clips, s->frames, s->height, s->width, s->channels};
    int64_t bytes = sizeof(float);
    for (int i = 0; i < 5; i++)
        if (size[i] < 1 || __builtin_mul_overflow(bytes, size[i], &bytes))
            return MF_FAIL(MF_EINVAL,
                           "%s: can't hold %lld clips of %lld frames of %lldx%lld pixels, %lld channels",
                           path, (long long)s->clips, (long long)s->frames, (long long)s->width,
                           (long long)s->height, (long long)s->channels);
    *out = bytes / (int64_t)sizeof(float);
    return MF_OK;
}

mf_status mf_values_check(const char *path, const float *values, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(values[i])) return MF_FAIL(MF_ENONFINITE, "%s: a value is %g", path, (double)values[i]);
    return MF_OK;
}

mf_status mf_video_open(const char *path, mf_video **out) {
    mf_status status = MF_OK;
    mf_video *v = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *v, &v));
    MF_GO(mf_host_strdup(path, &v->path));
    v->format = mf_video_format_of(path);
    if (!v->format) MF_GO(MF_FAIL(MF_EINVAL, "%s: is named neither .npy nor .y4m", path));
    MF_GO(mf_regular_map(v->path, &v->map, &v->bytes));
    MF_GO(v->format->open(v));
    *out = v;
    v = NULL;
fail:
    mf_video_close(v);
    return status;
}

void mf_video_close(mf_video *v) {
    if (!v) return;
    mf_regular_unmap(v->map, v->bytes);
    mf_host_free(v->frame_at);
    mf_host_free(v->path);
    mf_host_free(v);
}

const char *mf_video_path(const mf_video *v) { return v->path; }
const mf_video_shape *mf_video_shape_of(const mf_video *v) { return &v->shape; }
bool mf_video_has_pixels(const mf_video *v) { return v->pixels; }

uint64_t mf_video_digest(const mf_video *v) {
    enum { STRETCHES = 8, STRETCH_BYTES = 64 << 10 };
    int64_t bytes = (int64_t)v->bytes, step = mf_max(mf_ceil_div(bytes, STRETCHES), STRETCH_BYTES);
    uint64_t all[1 + STRETCHES] = {v->bytes};
    for (int64_t i = 0, at = 0; at < bytes; i++, at += step)
        all[1 + i] = mf_digest_of(v->map + at, (size_t)mf_min(bytes - at, STRETCH_BYTES)).xxh3;
    return mf_digest_of(all, sizeof all).xxh3;
}

/* count of them from first on, out of size. */
static bool inside(int64_t first, int64_t count, int64_t size) {
    return first >= 0 && count >= 1 && count <= size && first <= size - count;
}

static mf_status check_window(const mf_video *v, const mf_video_window *w) {
    const mf_video_shape *s = &v->shape;
    if (inside(w->clip, 1, s->clips) && inside(w->first, w->frames, s->frames) &&
        inside(w->y, w->height, s->height) && inside(w->x, w->width, s->width))
        return MF_OK;
    return MF_FAIL(MF_EINVAL,
                   "%s: %lld frames from %lld on of clip %lld, %lldx%lld pixels at (%lld, %lld), leave its "
                   "%lld clips of %lld frames of %lldx%lld",
                   v->path, (long long)w->frames, (long long)w->first, (long long)w->clip,
                   (long long)w->width, (long long)w->height, (long long)w->x, (long long)w->y,
                   (long long)s->clips, (long long)s->frames, (long long)s->width, (long long)s->height);
}

mf_status mf_video_read(const mf_video *v, const mf_video_window *w, float *out) {
    MF_TRY(check_window(v, w));
    for (int64_t frame = w->first; frame < w->first + w->frames; frame++)
        for (int64_t y = w->y; y < w->y + w->height; y++, out += w->width * v->shape.channels)
            v->format->read_row(v, w->clip, frame, y, w->x, w->width, out);
    return MF_OK;
}
