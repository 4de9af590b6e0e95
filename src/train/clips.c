/* clips.c: clips on straight ways from noise, at time 0, to what they show, at time 1; a model learns their
 * velocities (rectified flow: Liu et al., arXiv 2209.03003). Every rank draws the whole clip and keeps its
 * part. */
#include "train/clips.h"

#include <math.h>

static mf_status take(mf_clip_room *room, int64_t n, const char *what, mf_buffer *out) {
    return mf_buffer_alloc(room->memory, MF_WORKSPACE, (size_t)n * sizeof(float), what, out);
}

/* Values of one clip that this rank has. */
static int64_t own_values(const mf_model *model, bool last) {
    const mf_model_options *o = mf_model_options_get(model);
    return mf_model_clip_rows(model, last) / o->batch * mf_config_values(&o->config);
}

/* Values that the host draws at once. */
static size_t most_drawn(const mf_model_options *o) {
    return (size_t)mf_max(o->tokens * mf_config_values(&o->config), mf_config_condition_values(&o->config));
}

mf_status mf_clip_room_open(mf_clip_room *room, const mf_model *model, mf_memory *memory, mf_device *device,
                            int64_t clips) {
    const mf_model_options *o = mf_model_options_get(model);
    int64_t whole = o->tokens * mf_config_values(&o->config);
    *room = (mf_clip_room){.memory = memory, .device = device};
    room->staging = (mf_staging){.device = device, .room = most_drawn(o) * sizeof(float)};
    if (!mf_options_are_of_videos(o)) return MF_OK;
    MF_TRY(take(room, clips * own_values(model, false), "clips", &room->input));
    MF_TRY(take(room, clips * own_values(model, true), "velocities of clips", &room->target));
    MF_TRY(mf_host_alloc((size_t)clips, sizeof *room->time, &room->time));
    MF_TRY(
        take(room, clips * mf_config_condition_values(&o->config), "conditions of clips", &room->condition));
    MF_TRY(take(room, whole, "a clip", &room->values));
    MF_TRY(take(room, mf_config_values(&o->config), "a factor of clips", &room->factor));
    return take(room, whole, "a clip's noise", &room->noise);
}

void mf_clip_room_close(mf_clip_room *room) {
    mf_buffer *all[] = {&room->input,  &room->target, &room->condition,
                        &room->values, &room->noise,  &room->factor};
    mf_host_free(room->time);
    mf_staging_close(&room->staging);
    for (size_t i = 0; room->memory && i < sizeof all / sizeof *all; i++)
        mf_buffer_free(room->memory, all[i]);
}

/* One stream of random numbers a draw and purpose. */
static uint64_t key_of(const mf_clip_draw *d, const char *purpose) {
    const mf_video_pick *p = &d->pick;
    uint64_t key = mf_random_u64(p->seed, mf_random_key(purpose), (uint64_t)p->step);
    return mf_random_u64(p->seed, key, (uint64_t)p->index);
}

static mf_status fill_normal(const mf_clip_room *room, const mf_clip_draw *d, const char *purpose, int64_t n,
                             float *out) {
    return mf_fill_normal(room->device, &(mf_normal_args){.rows = 1,
                                                          .cols = n,
                                                          .index_ld = n,
                                                          .seed = d->pick.seed,
                                                          .key = key_of(d, purpose),
                                                          .deviation = 1,
                                                          .out = out});
}

/* Most are drawn where clips take shape, midway (Esser et al., arXiv 2403.03206). */
static double time_of(const mf_clip_draw *d) {
    if (d->time >= 0) return d->time;
    return 1 / (1 + exp(-(double)mf_random_normal(d->pick.seed, key_of(d, "a clip's time"), 0)));
}

mf_status mf_clip_add(mf_device *device, const mf_clip_sum *s) {
    MF_TRY(mf_fill(device, s->values, s->factor, s->room->data));
    return mf_gate_add(device, &(mf_gate_args){.type = MF_F32,
                                               .n = s->rows,
                                               .h = s->values,
                                               .sample_rows = s->rows,
                                               .mod_ld = s->values,
                                               .gate = s->room->data,
                                               .in = s->in->data,
                                               .delta = s->delta->data,
                                               .out = s->out->data});
}

/* values becomes the place on the way, noise the velocity: shown - noise, of which 1 - time are missing. */
static mf_status mix(mf_clip_room *room, const mf_model *model, float time) {
    const mf_model_options *o = mf_model_options_get(model);
    mf_clip_sum s = {.rows = o->tokens, .values = mf_config_values(&o->config), .room = &room->factor};
    s.factor = -1;
    s.in = s.out = &room->noise;
    s.delta = &room->values;
    MF_TRY(mf_clip_add(room->device, &s));
    s.factor = 1 - time;
    s.in = s.out = &room->values;
    s.delta = &room->noise;
    MF_TRY(mf_clip_add(room->device, &s));
    MF_TRY(mf_fill(room->device, s.values, -1, room->factor.data));
    return mf_gate_scale(room->device, &(mf_gate_args){.type = MF_F32,
                                                       .n = s.rows,
                                                       .h = s.values,
                                                       .sample_rows = s.rows,
                                                       .mod_ld = s.values,
                                                       .gate = room->factor.data,
                                                       .in = room->noise.data,
                                                       .out = room->noise.data});
}

/* out: [tokens, values] */
static mf_status draw_values(mf_clip_room *room, const mf_clip_draw *d, int64_t n, float *out) {
    float *at = NULL;
    if (!d->set) return fill_normal(room, d, "values to measure with", n, out);
    MF_TRY(mf_staging_place(&room->staging, out, (size_t)n * sizeof *out, &at));
    MF_TRY(mf_video_draw(d->set, &d->pick, at));
    return mf_staging_send(&room->staging);
}

/* One of so many clips that are trained on goes without its condition. */
enum { WITHOUT_CONDITION = 10 };
static bool goes_without(const mf_clip_draw *d) {
    return !d->pick.held_out && key_of(d, "a clip without its condition") % WITHOUT_CONDITION == 0;
}

/* out: [tokens, channels] of the condition: n values */
static mf_status draw_condition(mf_clip_room *room, const mf_clip_draw *d, int64_t n, float *out) {
    float *at = NULL;
    if (n == 0) return MF_OK;
    if (!d->set) return fill_normal(room, d, "a condition to measure with", n, out);
    if (goes_without(d)) return mf_zero(room->device, out, (size_t)n * sizeof *out);
    MF_TRY(mf_staging_place(&room->staging, out, (size_t)n * sizeof *out, &at));
    MF_TRY(mf_video_condition(d->set, &d->pick, at));
    return mf_staging_send(&room->staging);
}

mf_status mf_clip_place(mf_clip_room *room, const mf_model *model, const mf_clip_draw *d, int64_t at) {
    const mf_model_options *o = mf_model_options_get(model);
    int64_t n = o->tokens * mf_config_values(&o->config), condition = mf_config_condition_values(&o->config);
    int64_t in = own_values(model, false), out = own_values(model, true);
    float *input = room->input.data, *target = room->target.data;
    room->time[at] = (float)time_of(d);
    MF_TRY(draw_values(room, d, n, room->values.data));
    MF_TRY(draw_condition(room, d, condition, (float *)room->condition.data + at * condition));
    MF_TRY(fill_normal(room, d, "a clip's noise", n, room->noise.data));
    MF_TRY(mix(room, model, room->time[at]));
    if (in) MF_TRY(mf_model_cut_clip(model, false, room->values.data, input + at * in));
    if (out) MF_TRY(mf_model_cut_clip(model, true, room->noise.data, target + at * out));
    return MF_OK;
}

static const float *at_elements(const mf_buffer *buffer, int64_t elements) {
    return buffer->data ? (const float *)buffer->data + elements : NULL;
}

void mf_clip_fill(const mf_clip_room *room, const mf_model *model, int64_t at, mf_model_call *call) {
    call->input = at_elements(&room->input, at * own_values(model, false));
    call->target = at_elements(&room->target, at * own_values(model, true));
    call->time = room->time + at;
    call->condition =
        at_elements(&room->condition, at * mf_config_condition_values(&mf_model_options_get(model)->config));
}
