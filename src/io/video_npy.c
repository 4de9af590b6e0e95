/* video_npy.c: clips in NumPy's .npy. */
#include "io/npy.h"
#include "io/video_format.h"

#include <string.h>

static mf_status set_type(mf_video *v, const char *type) {
    v->pixels = strcmp(type, "|u1") == 0;
    v->type = strcmp(type, "<f4") == 0 ? MF_FILE_F32 : strcmp(type, "<f2") == 0 ? MF_FILE_F16 : MF_FILE_OTHER;
    if (v->pixels || v->type != MF_FILE_OTHER) return MF_OK;
    return MF_FAIL(MF_EUNSUPPORTED,
                   "%s: its values are %s; |u1 (uint8), <f4 (float32) and <f2 (float16) can be read", v->path,
                   type);
}

static int64_t value_bytes(const mf_video *v) { return v->pixels ? 1 : (int64_t)mf_file_type_bytes(v->type); }

static mf_status set_shape(mf_video *v, const mf_npy *n) {
    if (n->dims != 4 && n->dims != 5)
        return MF_FAIL(
            MF_EFORMAT,
            "%s: has %d dimensions; 4 ([frames, height, width, channels]) or 5 (clips before them) "
            "make a video",
            v->path, n->dims);
    MF_TRY(mf_npy_check(v->path, n, v->bytes, value_bytes(v)));
    const int64_t *size = n->size + n->dims - 4;
    v->shape = (mf_video_shape){n->dims == 5 ? n->size[0] : 1, size[0], size[1], size[2], size[3]};
    return MF_OK;
}

static mf_status open_npy(mf_video *v) {
    mf_npy npy;
    MF_TRY(mf_npy_read(v->path, v->map, v->bytes, &npy));
    v->data_begin = npy.data_begin;
    MF_TRY(set_type(v, npy.type));
    return set_shape(v, &npy);
}

static void read_row(const mf_video *v, int64_t clip, int64_t frame, int64_t y, int64_t x, int64_t n,
                     float *out) {
    const mf_video_shape *s = &v->shape;
    int64_t at = ((((clip * s->frames) + frame) * s->height + y) * s->width + x) * s->channels;
    const uint8_t *from = v->map + v->data_begin + at * value_bytes(v);
    if (!v->pixels) {
        mf_values_widen(v->type, from, n * s->channels, out);
        return;
    }
    for (int64_t i = 0; i < n * s->channels; i++) out[i] = mf_pixel_from_byte(from[i]);
}

static mf_status begin(mf_video_writer *w, char **header, size_t *header_bytes) {
    const mf_video_shape *s = &w->options.shape;
    bool pixels = w->options.pixels;
    mf_npy npy = {.dims = 5, .size = {s->clips, s->frames, s->height, s->width, s->channels}};
    strcpy(npy.type, pixels ? "|u1" : "<f4");
    w->frame_bytes = (size_t)(s->height * s->width * s->channels) * (pixels ? 1 : sizeof(float));
    return mf_npy_write(&npy, header, header_bytes);
}

static void encode(mf_video_writer *w, const float *values) {
    if (!w->options.pixels) {
        memcpy(w->frame, values, w->frame_bytes);
        return;
    }
    for (size_t i = 0; i < w->frame_bytes; i++) w->frame[i] = mf_pixel_to_byte(values[i]);
}

const mf_video_format mf_video_npy = {
    .suffix = ".npy", .open = open_npy, .read_row = read_row, .begin = begin, .encode = encode};
