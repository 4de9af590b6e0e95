/* verify.c: one layout's loss and gradients on given sequences, and how far they are from another's. */
#include "device/staging.h"
#include "train/loop.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A gradient that is nothing but rounding has no norm of its own to compare with: below this share of the
 * largest parameter's it is held against that one. */
static const double smallest_share = 1e-5;

typedef struct run {
    const mf_verify_options *options;
    mf_world *world;
    mf_memory *memory;
    mf_device *device;
    mf_mesh everyone;   /* all ranks of the world */
    mf_mesh this_alone; /* of them */
    mf_mesh *mesh;      /* one of the two */
    mf_model *model;
    mf_model_state state;
    int replica, replicas;
    mf_buffer ids, labels; /* [batch][rows] int32: this rank's tokens of a micro-batch */
    int32_t *own;          /* [rows] the host's */
    mf_clip_room clips;    /* or clips */
} run;

/* A mesh of one rank runs in a larger world too: then each rank is such a mesh. */
static mf_status join(run *r) {
    const mf_mesh_spec *spec = &r->options->mesh;
    mf_mesh_spec all = {.axes = 1, .axis = {{.name = "all", .size = mf_world_size(r->world)}}};
    bool alone = mf_mesh_ranks(spec) == 1 && mf_world_size(r->world) > 1;
    MF_TRY(mf_mesh_create(r->world, alone ? &all : spec, &r->everyone));
    r->this_alone = mf_mesh_alone(&r->everyone);
    r->this_alone.spec = *spec;
    r->mesh = alone ? &r->this_alone : &r->everyone;
    mf_comm *data = mf_mesh_axis(r->mesh, "dp");
    r->replica = data ? mf_comm_rank(data) : 0;
    r->replicas = mf_axes_ranks(spec, r->options->layout.data);
    return MF_OK;
}

/* The f32 values are made where the gradients will be: a rank may have no room for them elsewhere. */
static mf_status fill(run *r) {
    const mf_model_state *s = &r->state;
    float *all = s->cut_grads;
    if (r->options->init_from)
        MF_TRY(mf_model_load(r->model, r->options->init_from, all));
    else
        MF_TRY(mf_model_init(r->model, all));
    MF_TRY(mf_convert(r->device, s->cut, all, MF_F32, s->cut_weights, s->type));
    MF_TRY(mf_zero(r->device, all, (size_t)s->cut * sizeof(float)));
    MF_TRY(mf_zero(r->device, s->replicated_grads, (size_t)s->replicated * sizeof(float)));
    return mf_barrier(mf_model_world(r->model)); /* peers may read the weights from here on */
}

static mf_status build(run *r) {
    const mf_verify_options *o = r->options;
    MF_TRY(mf_open_device(r->world, o->device, o->threads, &r->memory, &r->device));
    MF_TRY(join(r));
    MF_TRY(mf_model_create(&o->model, &o->layout, r->mesh, r->device, &r->model));
    r->state = mf_model_state_get(r->model);
    size_t rows = (size_t)mf_model_rows(r->model), bytes = (size_t)o->model.batch * rows * sizeof(int32_t);
    MF_TRY(mf_clip_room_open(&r->clips, r->model, r->memory, r->device, o->model.batch));
    if (mf_options_are_of_videos(&o->model)) return fill(r);
    MF_TRY(mf_host_alloc(rows, sizeof *r->own, &r->own));
    MF_TRY(mf_buffer_alloc(r->memory, MF_WORKSPACE, bytes, "tokens", &r->ids));
    MF_TRY(mf_buffer_alloc(r->memory, MF_WORKSPACE, bytes, "labels", &r->labels));
    return fill(r);
}

static void take_down(run *r) {
    mf_host_free(r->own);
    mf_buffer_free(r->memory, &r->ids);
    mf_buffer_free(r->memory, &r->labels);
    mf_clip_room_close(&r->clips);
    mf_model_destroy(r->model);
    mf_mesh_destroy(&r->everyone);
    mf_device_destroy(r->device);
    mf_memory_destroy(r->memory);
}

/* The first of this replica's sequences of a micro-batch. */
static int64_t first_of(const run *r, int64_t micro) {
    return (micro * r->replicas + r->replica) * r->options->model.batch;
}
/* Its first token. */
static int64_t begin_of(const run *r, int64_t micro) { return first_of(r, micro) * r->options->model.tokens; }

static mf_status set_documents(run *r, int64_t micro) {
    const int32_t *documents = r->options->documents;
    return documents ? mf_model_set_documents(r->model, documents + begin_of(r, micro)) : MF_OK;
}

static mf_status place_clips(run *r, int64_t micro, mf_model_call *call) {
    const mf_verify_options *o = r->options;
    for (int64_t b = 0; b < o->model.batch; b++) {
        mf_clip_draw draw = {
            .set = o->clips, .pick = {o->model.seed, 0, first_of(r, micro) + b, false}, .time = -1};
        MF_TRY(mf_clip_place(&r->clips, r->model, &draw, b));
    }
    mf_clip_fill(&r->clips, r->model, 0, call);
    return MF_OK;
}

static mf_status place_own(run *r, const int32_t *whole, int64_t at, const mf_buffer *out) {
    int64_t rows = mf_model_rows(r->model);
    if (rows == 0) return MF_OK;
    mf_model_cut(r->model, whole, r->own);
    return mf_copy(r->device, MF_QUEUE_COMPUTE, (int32_t *)out->data + at * rows, r->own,
                   (size_t)rows * sizeof *r->own);
}

/* This rank's tokens of a micro-batch. */
static mf_status place_texts(run *r, int64_t micro, mf_model_call *call) {
    const mf_verify_options *o = r->options;
    for (int64_t b = 0; b < o->model.batch; b++) {
        int64_t at = begin_of(r, micro) + b * o->model.tokens;
        MF_TRY(place_own(r, o->ids + at, b, &r->ids));
        MF_TRY(place_own(r, o->labels + at, b, &r->labels));
    }
    call->ids = r->ids.data;
    call->labels = r->labels.data;
    return MF_OK;
}

static mf_status place(run *r, int64_t micro, mf_model_call *call) {
    if (mf_options_are_of_videos(&r->options->model)) return place_clips(r, micro, call);
    MF_TRY(place_texts(r, micro, call));
    return set_documents(r, micro);
}

/* What the loss is the mean over. */
static double terms(const mf_verify_options *o) {
    int64_t count = 0;
    if (mf_options_are_of_videos(&o->model)) return (double)o->sequences * mf_loss_terms(&o->model);
    for (int64_t i = 0; i < o->sequences * o->model.tokens; i++) count += o->labels[i] >= 0;
    return (double)count;
}

/* *loss: this rank's share of the mean. */
static mf_status gradients(run *r, double *loss) {
    int64_t micros = r->options->sequences / (r->options->model.batch * r->replicas);
    double scale = 1.0 / terms(r->options);
    *loss = 0;
    for (int64_t micro = 0; micro < micros; micro++) {
        double part = 0;
        mf_model_call call = {.scale = (float)scale, .last = micro + 1 == micros};
        MF_TRY(place(r, micro, &call));
        MF_TRY(mf_model_gradients(r->model, &call, &part));
        *loss += part * scale;
    }
    return mf_barrier(mf_model_world(r->model)); /* peers may have been adding to own gradients until here */
}

/* Replicated parameters count once: every rank has the same, so each adds it to the others' total. */
static mf_status sum_up(run *r, double *loss, double *grad_norm) {
    double sums[2] = {*loss, 0}, replicated = 0;
    MF_TRY(mf_model_grad_squares(r->model, &sums[1]));
    MF_TRY(mf_sum_squares(r->device, r->state.replicated, r->state.replicated_grads, &replicated));
    MF_TRY(mf_allreduce_f64(mf_model_world(r->model), sums, 2));
    *loss = sums[0];
    *grad_norm = sqrt(sums[1] + replicated);
    return MF_OK;
}

static int64_t elements_of(const mf_param_view *v) { return mf_max(v->rows, 1) * v->cols; }

/* observer: NULL but on the world's first rank. */
static mf_status hand_over_gradient(run *r, const mf_verify_observer *observer, int param) {
    mf_status status = MF_OK;
    mf_param_view view = mf_model_param(r->model, param);
    mf_buffer whole = {0};
    const float *host = NULL;
    size_t bytes = (size_t)elements_of(&view) * sizeof(float);
    mf_staging staging = {.device = r->device, .room = bytes};
    MF_TRY(mf_buffer_alloc(r->memory, MF_WORKSPACE, bytes, "a whole gradient", &whole));
    MF_GO(mf_model_collect_gradient(r->model, param, whole.data));
    if (!observer) goto fail;
    MF_GO(mf_staging_fetch(&staging, whole.data, bytes, &host));
    MF_GO(observer->gradient(observer->context, param, &view, host));
fail:
    mf_staging_close(&staging);
    mf_buffer_free(r->memory, &whole);
    return status;
}

static mf_status measure(run *r, const mf_verify_observer *observer) {
    int params = mf_model_params(r->model);
    double loss = 0, grad_norm = 0;
    MF_TRY(gradients(r, &loss));
    MF_TRY(sum_up(r, &loss, &grad_norm));
    if (observer) MF_TRY(observer->started(observer->context, params, loss, grad_norm));
    for (int i = 0; i < params; i++) MF_TRY(hand_over_gradient(r, observer, i));
    return MF_OK;
}

/* What failed here may only follow from what failed on another rank: a group of one waits for nobody, but it
 * returns the first error of all. */
static mf_status first_error(const run *r, mf_status own) {
    mf_status first = r->everyone.self ? mf_barrier(r->everyone.self) : MF_OK;
    return first ? first : own;
}

mf_status mf_verify_run(mf_world *world, const mf_verify_options *options,
                        const mf_verify_observer *observer) {
    mf_status status = MF_OK;
    run r = {.options = options, .world = world};
    MF_GO(build(&r));
    MF_GO(measure(&r, mf_world_rank(world) == 0 ? observer : NULL));
    MF_GO(mf_barrier(r.everyone.world)); /* peers may be reading this rank's memory until here */
fail:
    if (status) status = first_error(&r, status);
    take_down(&r);
    return status;
}

static mf_status check_finite(const char *what, double value) {
    return isfinite(value) ? MF_OK : MF_FAIL(MF_ENONFINITE, "the %s is not finite", what);
}

static mf_status check_sums(double loss, double grad_norm) {
    MF_TRY(check_finite("loss", loss));
    return check_finite("gradient norm", grad_norm);
}

static mf_status check_gradient(const char *name, double squares) {
    char what[160];
    snprintf(what, sizeof what, "gradient of %s", name);
    return check_finite(what, squares);
}

static mf_status keep_sums(void *context, int params, double loss, double grad_norm) {
    mf_verify_reference *r = context;
    r->loss = loss;
    r->grad_norm = grad_norm;
    MF_TRY(mf_host_alloc((size_t)params, sizeof *r->param, &r->param));
    r->params = params;
    return check_sums(loss, grad_norm);
}

static double squares_of(const float *values, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)values[i] * (double)values[i];
    return sum;
}

static mf_status keep_gradient(void *context, int param, const mf_param_view *view, const float *whole) {
    mf_verify_reference *r = context;
    mf_verify_param *p = &r->param[param];
    p->elements = elements_of(view);
    MF_TRY(mf_host_strdup(view->name, &p->name));
    MF_TRY(mf_host_alloc((size_t)p->elements, sizeof *p->gradient, &p->gradient));
    memcpy(p->gradient, whole, (size_t)p->elements * sizeof *p->gradient);
    p->norm = sqrt(squares_of(whole, p->elements));
    r->largest = fmax(r->largest, p->norm);
    return check_gradient(p->name, p->norm);
}

mf_verify_observer mf_verify_keep(mf_verify_reference *out) {
    return (mf_verify_observer){.context = out, .started = keep_sums, .gradient = keep_gradient};
}

void mf_verify_reference_free(mf_verify_reference *r) {
    for (int i = 0; i < r->params; i++) {
        mf_host_free(r->param[i].name);
        mf_host_free(r->param[i].gradient);
    }
    mf_host_free(r->param);
    *r = (mf_verify_reference){0};
}

/* Nothing is off by nothing from zero. */
static double relative(double difference, double reference) {
    return difference == 0 ? 0 : difference / reference;
}

static mf_status compare_sums(void *context, int params, double loss, double grad_norm) {
    mf_verify_errors *e = context;
    const mf_verify_reference *r = e->reference;
    if (params != r->params)
        return MF_FAIL(MF_EINVAL, "%d parameters, but the reference has %d", params, r->params);
    MF_TRY(mf_host_alloc((size_t)params, sizeof *e->param, &e->param));
    e->loss = loss;
    e->grad_norm = grad_norm;
    e->loss_error = relative(fabs(loss - r->loss), fabs(r->loss));
    e->grad_norm_error = relative(fabs(grad_norm - r->grad_norm), r->grad_norm);
    return check_sums(loss, grad_norm);
}

static mf_status compare_gradient(void *context, int param, const mf_param_view *view, const float *whole) {
    mf_verify_errors *e = context;
    const mf_verify_reference *r = e->reference;
    const mf_verify_param *p = &r->param[param];
    double sum = 0;
    if (elements_of(view) != p->elements || strcmp(view->name, p->name) != 0)
        return MF_FAIL(MF_EINVAL, "parameter %d is %s, but the reference's %s", param, view->name, p->name);
    for (int64_t i = 0; i < p->elements; i++) {
        double difference = (double)whole[i] - (double)p->gradient[i];
        sum += difference * difference;
    }
    e->param[param] = relative(sqrt(sum), p->norm > smallest_share * r->largest ? p->norm : r->largest);
    return check_gradient(p->name, sum);
}

mf_verify_observer mf_verify_compare(const mf_verify_reference *reference, mf_verify_errors *out) {
    out->reference = reference;
    return (mf_verify_observer){.context = out, .started = compare_sums, .gradient = compare_gradient};
}

void mf_verify_errors_free(mf_verify_errors *e) {
    mf_host_free(e->param);
    *e = (mf_verify_errors){0};
}
