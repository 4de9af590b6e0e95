/* video_format.h: what video.c and video_writer.c share with the formats, one table of operations each. */
#ifndef MF_IO_VIDEO_FORMAT_H
#define MF_IO_VIDEO_FORMAT_H

#include "io/file.h"
#include "io/values.h"
#include "meshfold/video.h"

typedef struct mf_video_format mf_video_format;

struct mf_video {
    char *path; /* owned */
    const mf_video_format *format;
    const uint8_t *map;
    size_t bytes;
    mf_video_shape shape;
    bool pixels;
    size_t data_begin;  /* .npy: where values begin */
    mf_file_type type;  /* .npy: of values that are no pixels */
    size_t *frame_at;   /* .y4m: [frames] where planes begin; owned */
    int down_x, down_y; /* .y4m: a chroma sample stands for 1 << down_x columns, 1 << down_y rows */
};

struct mf_video_writer {
    char *path; /* owned */
    const mf_video_format *format;
    mf_video_options options;
    mf_draft draft;
    int64_t written; /* bytes */
    int64_t clips;
    uint8_t *frame; /* [frame_bytes], owned */
    size_t frame_bytes;
};

struct mf_video_format {
    const char *suffix;
    /* Reads what stands around the values in the map, and sets the members from `shape` on. */
    mf_status (*open)(mf_video *video);
    /* n pixels from (y, x) on of a frame: out: [n, channels]. */
    void (*read_row)(const mf_video *video, int64_t clip, int64_t frame, int64_t y, int64_t x, int64_t n,
                     float *out);
    /* Checks the options; *header, owned by the caller, is what stands before the first frame. Sets
     * frame_bytes. */
    mf_status (*begin)(mf_video_writer *writer, char **header, size_t *header_bytes);
    /* values: [height, width, channels], finite where they are pixels, as writer->frame's bytes. */
    void (*encode)(mf_video_writer *writer, const float *values);
};
extern const mf_video_format mf_video_npy, mf_video_y4m;

/* By the end of the path; NULL: none. */
const mf_video_format *mf_video_format_of(const char *path);

/* Values of all dimensions; MF_EINVAL names the path when one is below 1 or they can't be counted in bytes of
 * f32. */
mf_status mf_video_count(const char *path, const mf_video_shape *shape, int64_t *out);
/* MF_ENONFINITE names the path. */
mf_status mf_values_check(const char *path, const float *values, int64_t n);

/* Pixels as bytes and back. */
static inline float mf_pixel_from_byte(uint8_t byte) { return (float)byte / 127.5f - 1; }
static inline uint8_t mf_pixel_to_byte(float value) {
    float level = (value + 1) * 127.5f + 0.5f;
    return (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
}

#endif
