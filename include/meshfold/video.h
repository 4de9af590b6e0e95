/* video.h: clips of video in and out: .npy and .y4m files, patches, contact sheets.
 *
 *     mf_video *video = NULL;
 *     MF_TRY(mf_video_open("walk.y4m", &video));
 *     const mf_video_shape *s = mf_video_shape_of(video);
 *     mf_video_window first = {.frames = 1, .height = s->height, .width = s->width};
 *     ... mf_video_read(video, &first, out) ...          // out: [1, height, width, channels]
 *     mf_video_close(video);
 *
 * Pixels are f32 in [-1, 1]: black to white, or none to all of red, green, blue. */
#ifndef MESHFOLD_VIDEO_H
#define MESHFOLD_VIDEO_H

#include "meshfold/base.h"

/* [clips, frames, height, width, channels], dense in this order; none is 0. */
typedef struct mf_video_shape {
    int64_t clips, frames, height, width, channels;
} mf_video_shape;

/* A file's clips, mapped: any thread may read.
 * .npy: [T, H, W, C] or [N, T, H, W, C] in C order, little-endian: uint8 (pixels), float32, float16 (values
 * as they are). .y4m: one clip of 8 bits, progressive: C420 (jpeg, paldv, mpeg2), C422, C444, which become
 * RGB, and Cmono, one channel; BT.601 of limited range, chroma repeated. */
typedef struct mf_video mf_video;
/* True for a name that ends as such files do. */
bool mf_video_is_named(const char *path);
/* Everything the file says is checked here. MF_EIO, MF_EFORMAT, MF_EUNSUPPORTED name the file and what is
 * wrong; MF_EINVAL when its name ends otherwise. */
mf_status mf_video_open(const char *path, mf_video **out);
/* Accepts NULL. */
void mf_video_close(mf_video *video);
const char *mf_video_path(const mf_video *video);
const mf_video_shape *mf_video_shape_of(const mf_video *video);
/* False: values are what the file has, of no known range. */
bool mf_video_has_pixels(const mf_video *video);
/* Tells one file's content from another's, by its size and eight stretches of 64 KiB: smaller files are read
 * whole. */
uint64_t mf_video_digest(const mf_video *video);

/* A cut out of a clip: `frames` from `first` on, `height` rows from row y on, `width` columns from x on. */
typedef struct mf_video_window {
    int64_t clip, first, frames, y, height, x, width;
} mf_video_window;
/* out: [frames, height, width, channels] f32. MF_EINVAL when the window leaves the clip. */
mf_status mf_video_read(const mf_video *video, const mf_video_window *window, float *out);

/* Space to depth: values [clips, frames, height, width, channels] as
 * patches [clips, frames, height/p * width/p, p*p * channels], patches row by row, in each its rows, columns,
 * channels; and back. Only p that divides both: MF_EINVAL. */
mf_status mf_video_patch_check(int64_t height, int64_t width, int64_t p);
mf_status mf_video_to_patches(const mf_video_shape *shape, int64_t p, const float *values, float *patches);
mf_status mf_video_from_patches(const mf_video_shape *shape, int64_t p, const float *patches, float *values);

/* A file written clip after clip; it appears when it is finished, whole. */
typedef struct mf_video_options {
    mf_video_shape shape;
    bool pixels; /* .npy: uint8, else float32; .y4m always has pixels */
    int rate;    /* .y4m: frames a second */
} mf_video_options;
typedef struct mf_video_writer mf_video_writer;
/* The name's end says what it becomes: .npy of five dimensions; .y4m of one clip, C444 for 3 channels, Cmono
 * for 1; not that of a condition. MF_EINVAL, MF_EUNSUPPORTED name the file and what can't be. */
mf_status mf_video_create(const char *path, const mf_video_options *options, mf_video_writer **out);
/* clip: [frames, height, width, channels] f32, where pixels are written clamped to [-1, 1] and rounded.
 * MF_ENONFINITE for a pixel that is no number or infinite; MF_EINVAL behind the last clip. */
mf_status mf_video_add(mf_video_writer *writer, const float *clip);
/* MF_EINVAL when clips are missing. */
mf_status mf_video_finish(mf_video_writer *writer);
/* Accepts NULL. What was not finished is gone. */
void mf_video_writer_close(mf_video_writer *writer);

/* What each clip of a file shows, as tokens that a model attends to: NAME.condition.npy beside NAME.npy or
 * NAME.y4m, float32 [clips, tokens, channels]. It is named by the file of clips, `video`, whose name must end
 * as such files' do. Mapped: any thread may read. */
typedef struct mf_condition_shape {
    int64_t clips, tokens, channels;
} mf_condition_shape;
typedef struct mf_condition mf_condition;
/* True for a name that ends in .condition.npy. */
bool mf_condition_is_named(const char *path);
/* By the file's own name. MF_EIO, MF_EFORMAT, MF_EUNSUPPORTED name the file that is not there, or not of this
 * shape; clips 0: of any number. */
mf_status mf_condition_load(const char *path, const mf_condition_shape *shape, mf_condition **out);
/* The one beside a file of clips. */
mf_status mf_condition_open(const char *video, const mf_condition_shape *shape, mf_condition **out);
/* Accepts NULL. */
void mf_condition_close(mf_condition *condition);
int64_t mf_condition_clips(const mf_condition *condition);
/* clip: below these. out: [tokens, channels]. */
void mf_condition_read(const mf_condition *condition, int64_t clip, float *out);
/* Tells one file's content from another's. */
uint64_t mf_condition_digest(const mf_condition *condition);
/* values: [clips, tokens, channels]. */
mf_status mf_condition_write(const char *video, const mf_condition_shape *shape, const float *values);

/* Clips side by side in one .png: a clip a row, frames as columns, the first and the last among them. */
typedef struct mf_sheet_options {
    int64_t columns; /* frames shown, evenly chosen; 0, or more than there are: all */
    int64_t scale;   /* a pixel becomes scale x scale; 0: what makes a frame 64 high and wide at least */
} mf_sheet_options;
/* values: pixels [clips, frames, height, width, channels] of 1 or 3 channels. MF_EINVAL, MF_ENONFINITE. */
mf_status mf_video_sheet_check(const char *path, const mf_video_shape *shape,
                               const mf_sheet_options *options);
mf_status mf_video_sheet(const char *path, const mf_video_shape *shape, const float *values,
                         const mf_sheet_options *options);

#endif
