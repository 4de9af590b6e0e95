/* clips.h: what a model of videos computes on: clips somewhere between noise and what they show. */
#ifndef MF_TRAIN_CLIPS_H
#define MF_TRAIN_CLIPS_H

#include "device/staging.h"
#include "meshfold/train.h"

/* Room for the clips of a step, and for one before the cut. */
typedef struct mf_clip_room {
    mf_memory *memory;
    mf_device *device;
    mf_buffer input, target; /* [clips][own tokens, values] f32, where the first and the last block cut */
    float *time;             /* [clips] the host's */
    mf_buffer condition;     /* [clips][condition tokens, channels] f32 */
    mf_buffer values, noise; /* [tokens, values] f32: one clip */
    mf_buffer factor;        /* [values] f32 */
    mf_staging staging;      /* for what the host draws */
} mf_clip_room;
/* Empty of a model of texts. */
mf_status mf_clip_room_open(mf_clip_room *room, const mf_model *model, mf_memory *memory, mf_device *device,
                            int64_t clips);
void mf_clip_room_close(mf_clip_room *room);

/* Which clip, and at which time. */
typedef struct mf_clip_draw {
    const mf_video_set *set; /* NULL: random values, and a random condition */
    mf_video_pick pick;
    double time; /* below 0: the logistic function of a normal number, by the pick's seed, step and index */
} mf_clip_draw;
/* Places one: noise and time depend on the pick's numbers alone. A tenth of the clips of a set that are not
 * held out lose their condition, which becomes 0: so a model learns to do without (classifier-free guidance:
 * Ho and Salimans, arXiv 2207.12598). */
mf_status mf_clip_place(mf_clip_room *room, const mf_model *model, const mf_clip_draw *draw, int64_t at);
/* The batch that begins with place `at`. */
void mf_clip_fill(const mf_clip_room *room, const mf_model *model, int64_t at, mf_model_call *call);

/* out: [rows, values] f32 = in + factor * delta; out may be in. factor: room for [values] f32. */
typedef struct mf_clip_sum {
    int64_t rows, values;
    float factor;
    const mf_buffer *in, *delta, *out, *room;
} mf_clip_sum;
mf_status mf_clip_add(mf_device *device, const mf_clip_sum *sum);

static inline bool mf_options_are_of_videos(const mf_model_options *o) {
    return o->config.family == MF_STDIT;
}
/* Values that a sequence's loss is a sum over. */
static inline double mf_loss_terms(const mf_model_options *o) {
    return (double)o->tokens * (double)(mf_options_are_of_videos(o) ? mf_config_values(&o->config) : 1);
}

#endif
