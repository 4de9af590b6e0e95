/* video_writer.c: a file of video written frame after frame beside its place, then put there. */
#include "io/video_format.h"

#include <string.h>

static mf_status append(mf_video_writer *w, const void *data, size_t bytes) {
    MF_TRY(mf_fd_write(w->draft.fd, data, bytes, w->written, w->path));
    w->written += (int64_t)bytes;
    return MF_OK;
}

static mf_status begin(mf_video_writer *w) {
    char *header = NULL;
    size_t header_bytes = 0;
    int64_t count;
    mf_status status = MF_OK;
    MF_TRY(mf_video_count(w->path, &w->options.shape, &count));
    MF_GO(w->format->begin(w, &header, &header_bytes));
    MF_GO(mf_host_alloc(w->frame_bytes, 1, &w->frame));
    MF_GO(mf_draft_open(w->path, &w->draft));
    MF_GO(append(w, header, header_bytes));
fail:
    mf_host_free(header);
    return status;
}

mf_status mf_video_create(const char *path, const mf_video_options *options, mf_video_writer **out) {
    mf_status status = MF_OK;
    mf_video_writer *w = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *w, &w));
    w->options = *options;
    MF_GO(mf_host_strdup(path, &w->path));
    if (mf_condition_is_named(path))
        MF_GO(MF_FAIL(MF_EINVAL, "%s: is a name of conditions, which are passed over as videos", path));
    w->format = mf_video_format_of(path);
    if (!w->format) MF_GO(MF_FAIL(MF_EINVAL, "%s: is named neither .npy nor .y4m", path));
    MF_GO(begin(w));
    *out = w;
    w = NULL;
fail:
    mf_video_writer_close(w);
    return status;
}

mf_status mf_video_add(mf_video_writer *w, const float *clip) {
    const mf_video_shape *s = &w->options.shape;
    int64_t values = s->height * s->width * s->channels;
    if (w->clips == s->clips)
        return MF_FAIL(MF_EINVAL, "%s: gets more than its %lld clips", w->path, (long long)s->clips);
    for (int64_t frame = 0; frame < s->frames; frame++, clip += values) {
        if (w->options.pixels) MF_TRY(mf_values_check(w->path, clip, values));
        w->format->encode(w, clip);
        MF_TRY(append(w, w->frame, w->frame_bytes));
    }
    w->clips++;
    return MF_OK;
}

mf_status mf_video_finish(mf_video_writer *w) {
    if (w->clips < w->options.shape.clips)
        return MF_FAIL(MF_EINVAL, "%s: got %lld of its %lld clips", w->path, (long long)w->clips,
                       (long long)w->options.shape.clips);
    return mf_draft_keep(&w->draft, w->path);
}

void mf_video_writer_close(mf_video_writer *w) {
    if (!w) return;
    mf_draft_drop(&w->draft);
    mf_host_free(w->frame);
    mf_host_free(w->path);
    mf_host_free(w);
}
