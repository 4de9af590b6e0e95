/* video_data.h: training clips out of files of video.
 *
 *     mf_video_need need = {.frames = 8, .height = 32, .width = 32, .patch = 4};
 *     MF_TRY(mf_video_set_open(paths, count, &need, &set));
 *     mf_video_pick pick = {seed, step, index, .held_out = false};
 *     MF_TRY(mf_video_draw(set, &pick, out));                  // out: [8, 64, 4*4 * channels]
 *     mf_video_set_close(set);
 */
#ifndef MESHFOLD_VIDEO_DATA_H
#define MESHFOLD_VIDEO_DATA_H

#include "meshfold/video.h"

/* What every drawn clip is. */
typedef struct mf_video_need {
    int64_t frames, height, width;
    int64_t patch;                                /* side of a patch; divides height and width */
    int64_t condition_tokens, condition_channels; /* 0: conditions are not looked for */
} mf_video_need;

typedef struct mf_video_set mf_video_set;
/* paths: .npy and .y4m files, and folders, in which other files are passed over, as conditions are
 * everywhere. MF_EINVAL names the file that is smaller than needed or has other channels than the first, or
 * says that there is no video; a file without its condition is named with what is wrong. */
mf_status mf_video_set_open(const char *const *paths, int count, const mf_video_need *need,
                            mf_video_set **out);
/* Accepts NULL. */
void mf_video_set_close(mf_video_set *set);
int mf_video_set_files(const mf_video_set *set);
int64_t mf_video_set_clips(const mf_video_set *set);
int64_t mf_video_set_channels(const mf_video_set *set);
/* Tells what one set draws from what another does: by the need, and mf_video_digest and mf_condition_digest
 * of the files in order. */
uint64_t mf_video_set_digest(const mf_video_set *set);
/* Runs of frames that clips are drawn from, each as likely as any other: a run is so many frames as are
 * needed, one after another in one clip. The last tenth of all runs, one at least, are held out; those that
 * share frames with them are not drawn at all. Where nothing would be left to train on (as with one clip of
 * less than two runs' length), none is held out. */
typedef struct mf_video_runs {
    int64_t all, trained, held_out;
} mf_video_runs;
mf_video_runs mf_video_set_runs(const mf_video_set *set);

/* Clip `index` of a step's batch: which file, clip, first frame and crop depends on (seed, step, index) and
 * held_out alone. step, index: below 2^32. */
typedef struct mf_video_pick {
    uint64_t seed;
    int64_t step, index;
    bool held_out; /* one of those held out, or of all where none is; else one to train on */
} mf_video_pick;
/* out: [frames, height/p * width/p, p*p * channels] f32. MF_ENONFINITE names a file with values that are no
 * numbers or infinite. */
mf_status mf_video_draw(const mf_video_set *set, const mf_video_pick *pick, float *out);
/* What that clip shows. out: [condition tokens, channels] f32. MF_EINVAL where the need had no condition;
 * MF_ENONFINITE. */
mf_status mf_video_condition(const mf_video_set *set, const mf_video_pick *pick, float *out);

#endif
