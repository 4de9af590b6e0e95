/* video_sheet.c: clips as rows of frames in one picture. */
#include "io/video_format.h"
#include "meshfold/io.h"

#include <png.h>
#include <string.h>

enum { GAP = 2, FRAME_LEAST = 64, SIDE_LIMIT = 65535 }; /* pixels of the sheet */
static const uint8_t gap_level = 255;

typedef struct sheet {
    const mf_video_shape *shape;
    int64_t columns, scale, width, height; /* width, height: pixels of the sheet */
    uint8_t *pixels;                       /* [height, width, channels], owned */
} sheet;

/* Of a row or a column of n frames; beyond SIDE_LIMIT where that can't be counted. */
static int64_t side_of(int64_t n, int64_t frame, int64_t scale) {
    if (mf_max(mf_max(n, frame), scale) > SIDE_LIMIT) return SIDE_LIMIT + 1;
    return n * (frame * scale + GAP) - GAP;
}

static mf_status lay_out(const char *path, const mf_video_shape *s, const mf_sheet_options *o, sheet *out) {
    int64_t least = mf_min(s->height, s->width);
    *out = (sheet){.shape = s,
                   .columns = o->columns > 0 ? mf_min(o->columns, s->frames) : s->frames,
                   .scale = o->scale > 0 ? o->scale : mf_ceil_div(FRAME_LEAST, least)};
    if (s->channels != 1 && s->channels != 3)
        return MF_FAIL(MF_EINVAL, "%s: a sheet has 1 or 3 channels, not %lld", path, (long long)s->channels);
    out->width = side_of(out->columns, s->width, out->scale);
    out->height = side_of(s->clips, s->height, out->scale);
    if (mf_max(out->width, out->height) <= SIDE_LIMIT) return MF_OK;
    return MF_FAIL(
        MF_EINVAL,
        "%s: %lld clips of %lld frames of %lldx%lld, a pixel %lld wide, are beyond %d pixels a side", path,
        (long long)s->clips, (long long)out->columns, (long long)s->width, (long long)s->height,
        (long long)out->scale, SIDE_LIMIT);
}

mf_status mf_video_sheet_check(const char *path, const mf_video_shape *shape,
                               const mf_sheet_options *options) {
    sheet sh;
    return lay_out(path, shape, options, &sh);
}

/* values: [height, width, channels], to the sheet from its pixel (top, left) on. */
static void draw_frame(sheet *sh, const float *values, int64_t top, int64_t left) {
    int64_t channels = sh->shape->channels;
    for (int64_t y = 0; y < sh->shape->height * sh->scale; y++) {
        uint8_t *to = sh->pixels + ((top + y) * sh->width + left) * channels;
        const float *row = values + y / sh->scale * sh->shape->width * channels;
        for (int64_t x = 0; x < sh->shape->width * sh->scale; x++)
            for (int64_t c = 0; c < channels; c++)
                *to++ = mf_pixel_to_byte(row[x / sh->scale * channels + c]);
    }
}

/* The frame in a column: the first and the last are shown, the others lie evenly between. */
static int64_t frame_of(const sheet *sh, int64_t column) {
    return sh->columns == 1 ? 0 : column * (sh->shape->frames - 1) / (sh->columns - 1);
}

static void draw(sheet *sh, const float *values) {
    const mf_video_shape *s = sh->shape;
    for (int64_t clip = 0; clip < s->clips; clip++)
        for (int64_t column = 0; column < sh->columns; column++) {
            int64_t frame = clip * s->frames + frame_of(sh, column);
            draw_frame(sh, values + frame * s->height * s->width * s->channels,
                       clip * (s->height * sh->scale + GAP), column * (s->width * sh->scale + GAP));
        }
}

static mf_status write_png(const char *path, const sheet *sh) {
    mf_status status = MF_OK;
    char *bytes = NULL;
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)sh->width,
                       .height = (png_uint_32)sh->height,
                       .format = sh->shape->channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY};
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
    MF_GO(mf_host_alloc(size, 1, &bytes));
    if (!png_image_write_to_memory(&image, bytes, &size, 0, sh->pixels, 0, NULL))
        MF_GO(MF_FAIL(MF_ELIBRARY, "%s: libpng: %s", path, image.message));
    MF_GO(mf_file_write(path, bytes, size));
fail:
    mf_host_free(bytes);
    return status;
}

mf_status mf_video_sheet(const char *path, const mf_video_shape *shape, const float *values,
                         const mf_sheet_options *options) {
    mf_status status = MF_OK;
    sheet sh;
    int64_t count;
    MF_TRY(mf_video_count(path, shape, &count));
    MF_TRY(mf_values_check(path, values, count));
    MF_TRY(lay_out(path, shape, options, &sh));
    size_t bytes = (size_t)(sh.width * sh.height * shape->channels);
    MF_GO(mf_host_alloc(bytes, 1, &sh.pixels));
    memset(sh.pixels, gap_level, bytes);
    draw(&sh, values);
    MF_GO(write_png(path, &sh));
fail:
    mf_host_free(sh.pixels);
    return status;
}
