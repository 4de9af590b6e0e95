/* clips.c: clips out of noise: Euler's steps along the velocities that a model of videos predicts, from time
 * 0 to time 1. Every rank of a replica has the clips whole between steps. */
#include "meshfold/infer.h"
#include "train/loop.h"

#include <string.h>

typedef struct session {
    const mf_clips_options *options;
    mf_run_state run;
    mf_comm *data;           /* the replicas; NULL: one */
    int64_t values;          /* of a clip */
    mf_buffer x;             /* [batch][tokens, values] f32: where the clips are */
    mf_buffer v;             /* the same: velocities */
    mf_buffer unled;         /* the same without the condition, where it leads */
    mf_buffer input;         /* [batch][own tokens, values] f32 */
    float *time;             /* [batch] the host's */
    mf_buffer given;         /* [batch] conditions of the clips at work */
    mf_buffer nothing;       /* the same of zeros */
    mf_buffer factor;        /* [values of a patch] f32 */
    mf_buffer all;           /* [replicas][batch] clips that are finished */
    mf_staging staging;      /* for one of these */
    mf_generated_clips *out; /* NULL but on rank 0 */
    double told_s;           /* that the observer took */
    int64_t steps_done, steps;
} session;

static bool leads(const mf_clips_options *o) {
    return mf_config_condition_values(&o->model.config) > 0 && o->guidance != 1;
}

static mf_status take(session *s, int64_t n, const char *what, mf_buffer *out) {
    MF_TRY(mf_buffer_alloc(s->run.memory, MF_WORKSPACE, (size_t)n * sizeof(float), what, out));
    return mf_zero(s->run.device, out->data, (size_t)n * sizeof(float));
}

static mf_status open_session(session *s) {
    const mf_clips_options *o = s->options;
    int64_t batch = o->model.batch;
    MF_TRY(mf_run_open(&s->run));
    s->data = mf_mesh_axis(&s->run.mesh, "dp");
    s->values = o->model.tokens * mf_config_values(&o->model.config);
    int64_t own = mf_model_clip_rows(s->run.model, false) * mf_config_values(&o->model.config);
    MF_TRY(take(s, batch * s->values, "clips", &s->x));
    MF_TRY(take(s, batch * s->values, "velocities", &s->v));
    MF_TRY(take(s, leads(o) ? batch * s->values : 0, "velocities without the condition", &s->unled));
    MF_TRY(take(s, own, "own patches", &s->input));
    MF_TRY(mf_host_alloc((size_t)batch, sizeof *s->time, &s->time));
    MF_TRY(take(s, batch * mf_config_condition_values(&o->model.config), "conditions", &s->given));
    MF_TRY(take(s, leads(o) ? batch * mf_config_condition_values(&o->model.config) : 0, "no condition",
                &s->nothing));
    MF_TRY(take(s, mf_config_values(&o->model.config), "a factor of clips", &s->factor));
    s->staging = (mf_staging){.device = s->run.device, .room = (size_t)s->values * sizeof(float)};
    return take(s, s->data ? s->run.replicas * batch * s->values : 0, "all replicas' clips", &s->all);
}

static void close_session(session *s) {
    mf_buffer *all[] = {&s->x, &s->v, &s->unled, &s->input, &s->given, &s->nothing, &s->factor, &s->all};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mf_buffer_free(s->run.memory, all[i]);
    mf_staging_close(&s->staging);
    mf_host_free(s->time);
    mf_run_close(&s->run);
}

/* Noise of a clip depends on the seed and its number alone. */
static mf_status begin_clip(session *s, int64_t clip, float *x) {
    uint64_t seed = s->options->seed;
    return mf_fill_normal(
        s->run.device,
        &(mf_normal_args){.rows = 1,
                          .cols = s->values,
                          .index_ld = s->values,
                          .seed = seed,
                          .key = mf_random_u64(seed, mf_random_key("a new clip"), (uint64_t)clip),
                          .deviation = 1,
                          .out = x});
}

/* Those beyond the last, which fill a round up, have its condition. */
static mf_status give_conditions(session *s, int64_t first) {
    const mf_clips_options *o = s->options;
    size_t bytes = (size_t)mf_config_condition_values(&o->model.config) * sizeof(float);
    for (int64_t b = 0; b < o->model.batch && bytes; b++)
        MF_TRY(mf_copy(s->run.device, MF_QUEUE_COMPUTE, (char *)s->given.data + (size_t)b * bytes,
                       o->condition +
                           mf_min(first + b, o->clips - 1) * mf_config_condition_values(&o->model.config),
                       bytes));
    return MF_OK;
}

/* out = in + factor * delta, of all clips of a round. */
static mf_status add(session *s, const mf_buffer *in, float factor, const mf_buffer *delta,
                     const mf_buffer *out) {
    int64_t values = mf_config_values(&s->options->model.config);
    return mf_clip_add(s->run.device, &(mf_clip_sum){.rows = s->options->model.batch * s->values / values,
                                                     .values = values,
                                                     .factor = factor,
                                                     .in = in,
                                                     .delta = delta,
                                                     .out = out,
                                                     .room = &s->factor});
}

/* Velocities at time `time`, led by the condition: *out. */
static mf_status velocities(session *s, double time, const mf_buffer **out) {
    const mf_clips_options *o = s->options;
    int64_t batch = o->model.batch, own = mf_model_clip_rows(s->run.model, false) / batch;
    float *x = s->x.data, *input = s->input.data;
    int64_t own_values = own * mf_config_values(&o->model.config);
    for (int64_t b = 0; b < batch; b++) {
        if (own) MF_TRY(mf_model_cut_clip(s->run.model, false, x + b * s->values, input + b * own_values));
        s->time[b] = (float)time;
    }
    mf_model_call call = {.input = input, .time = s->time, .condition = s->given.data};
    MF_TRY(mf_model_velocity(s->run.model, &call, s->v.data));
    *out = &s->v;
    if (!leads(o)) return MF_OK;
    call.condition = s->nothing.data;
    MF_TRY(mf_model_velocity(s->run.model, &call, s->unled.data));
    *out = &s->unled;
    MF_TRY(add(s, &s->v, -1, &s->unled, &s->v));
    return add(s, &s->unled, (float)o->guidance, &s->v, &s->unled);
}

static mf_status tell_step(session *s) {
    const mf_clips_options *o = s->options;
    s->steps_done++;
    if (!s->out || !o->stepped) return MF_OK;
    MF_TRY(mf_device_finish(s->run.device, MF_QUEUE_COMPUTE));
    double begin = mf_now_s();
    MF_TRY(o->stepped(o->context, s->steps_done, s->steps));
    s->told_s += mf_now_s() - begin;
    return MF_OK;
}

static mf_status walk(session *s) {
    const mf_clips_options *o = s->options;
    const mf_buffer *v = NULL;
    for (int64_t k = 0; k < o->steps; k++) {
        mf_loop_reset_stats(&s->run);
        MF_TRY(velocities(s, (double)k / (double)o->steps, &v));
        MF_TRY(add(s, &s->x, 1.0f / (float)o->steps, v, &s->x));
        MF_TRY(tell_step(s));
    }
    return MF_OK;
}

/* Hands over those of a round, all replicas', that are wanted. */
static mf_status hand_over(session *s, int64_t round) {
    mf_status status = MF_OK;
    const mf_clips_options *o = s->options;
    int64_t batch = o->model.batch;
    size_t *offsets = NULL, bytes = (size_t)(batch * s->values) * sizeof(float);
    const float *all = s->data ? s->all.data : s->x.data;
    MF_TRY(mf_host_alloc((size_t)s->run.replicas + 1, sizeof *offsets, &offsets));
    for (int i = 0; i <= s->run.replicas; i++) offsets[i] = (size_t)i * bytes;
    if (s->data) MF_GO(mf_allgather(s->data, s->x.data, s->all.data, offsets, NULL));
    MF_GO(mf_device_finish(s->run.device, MF_QUEUE_COMPUTE));
    double begin = mf_now_s();
    for (int64_t i = 0; i < s->run.replicas * batch && s->out && round + i < o->clips; i++) {
        const float *clip = NULL;
        MF_GO(mf_staging_fetch(&s->staging, all + i * s->values, bytes / (size_t)batch, &clip));
        MF_GO(o->clip(o->context, round + i, clip));
    }
    s->told_s += mf_now_s() - begin;
fail:
    mf_host_free(offsets);
    return status;
}

static mf_status make_all(session *s) {
    const mf_clips_options *o = s->options;
    int64_t batch = o->model.batch, together = batch * s->run.replicas;
    double begin = mf_now_s();
    s->steps = mf_ceil_div(o->clips, together) * o->steps;
    for (int64_t round = 0; round < o->clips; round += together) {
        int64_t first = round + s->run.replica * batch;
        for (int64_t b = 0; b < batch; b++)
            MF_TRY(begin_clip(s, first + b, (float *)s->x.data + b * s->values));
        MF_TRY(give_conditions(s, first));
        MF_TRY(walk(s));
        MF_TRY(hand_over(s, round));
    }
    if (s->out) s->out->seconds = mf_now_s() - begin - s->told_s;
    return MF_OK;
}

static mf_status check(const mf_clips_options *o) {
    if (o->model.config.family != MF_STDIT) return MF_FAIL(MF_EINVAL, "clips of a model of texts");
    if (o->clips < 1 || o->steps < 1)
        return MF_FAIL(MF_EINVAL, "%lld clips in %lld steps", (long long)o->clips, (long long)o->steps);
    if (mf_config_condition_values(&o->model.config) && !o->condition)
        return MF_FAIL(MF_EINVAL, "the model has a condition: none is given");
    return mf_model_check(&o->model, &o->layout, &o->mesh);
}

mf_status mf_generate_clips(mf_world *world, const mf_clips_options *options, mf_generated_clips *out) {
    mf_status status = MF_OK;
    mf_clips_options own = *options;
    own.model.forward_only = true;
    int replicas = mf_axes_ranks(&own.mesh, own.layout.data);
    own.model.batch = mf_min(own.model.batch, mf_ceil_div(own.clips, replicas)); /* more are not wanted */
    mf_train_options run = {.model = own.model,
                            .mesh = own.mesh,
                            .layout = own.layout,
                            .adam = {.steps = 1},
                            .accumulate = 1,
                            .threads = own.threads,
                            .device = own.device,
                            .init_from = own.init_from};
    session s = {.options = &own,
                 .run = {.options = &run, .world = world},
                 .out = mf_world_rank(world) == 0 ? out : NULL};
    MF_TRY(check(&own));
    MF_GO(open_session(&s));
    MF_GO(make_all(&s));
    MF_GO(mf_loop_report(&s.run, s.out ? &s.out->ranks : NULL, s.out ? &s.out->rank : NULL));
    if (s.out) s.out->peak_flops = s.run.peak_flops;
    if (s.out) s.out->flops = mf_loop_step_flops(&s.run) * (double)s.steps * (leads(&own) ? 2 : 1);
    MF_GO(mf_barrier(s.run.mesh.world)); /* peers may be reading this rank's memory until here */
fail:
    if (status) status = mf_run_first_error(&s.run, status);
    close_session(&s);
    return status;
}

void mf_generated_clips_free(mf_generated_clips *g) {
    mf_host_free(g->rank);
    *g = (mf_generated_clips){0};
}
