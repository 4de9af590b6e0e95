/* reference.c: the model on one rank against the plain double-precision reference, and against finite
 * differences. */
#include "support.h"

#include "parity.h"
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One rank's model and the reference of the same weights. */
typedef struct pair {
    parity_case shape;
    mf_dtype type;
    mf_memory *memory;
    mf_device *device;
    mf_mesh mesh;
    mf_model *model;
    mf_model_state state;
    float *master;
    int32_t ids[512], labels[512];
    reference reference;
    double loss;
} pair;

static float as_stored(const pair *p, float value) {
    return p->type == MF_F32 ? value : mf_f32_from_bf16(mf_bf16_from_f32(value));
}

static void make_reference(pair *p) {
    reference *r = &p->reference;
    *r = (reference){.config = p->shape.config,
                     .batch = p->shape.batch,
                     .tokens = p->shape.tokens,
                     .ids = p->ids,
                     .labels = p->labels,
                     .params = mf_model_params(p->model)};
    r->value = calloc((size_t)r->params, sizeof *r->value);
    r->grad = calloc((size_t)r->params, sizeof *r->grad);
    for (int i = 0; i < r->params; i++) {
        mf_param_view v = mf_model_param(p->model, i);
        int64_t n = v.slice_rows * v.slice_cols;
        r->value[i] = calloc((size_t)n, sizeof(double));
        r->grad[i] = calloc((size_t)n, sizeof(double));
        for (int64_t k = 0; k < n; k++)
            r->value[i][k] = v.replicated ? (double)p->state.replicated_weights[v.offset + k]
                                          : (double)as_stored(p, p->master[v.offset + k]);
    }
}

static mf_status build(mf_world *world, pair *p) {
    mf_model_options options = {.config = p->shape.config,
                                .type = p->type,
                                .batch = p->shape.batch,
                                .tokens = p->shape.tokens,
                                .seed = 5};
    MF_TRY(mf_memory_create(NULL, &p->memory));
    MF_TRY(mf_device_create("cpu", p->memory, 1, &p->device));
    MF_TRY(mf_mesh_create(world, &(mf_mesh_spec){0}, &p->mesh));
    mf_layout layout = mf_layout_of(&p->mesh.spec);
    MF_TRY(mf_model_create(&options, &layout, &p->mesh, p->device, &p->model));
    p->state = mf_model_state_get(p->model);
    p->master = calloc((size_t)p->state.cut, sizeof(float));
    MF_TRY(mf_model_init(p->model, p->master));
    /* Norms of one would hide a factor. */
    for (int64_t i = 0; i < p->state.replicated; i++)
        p->state.replicated_weights[i] = 1 + 0.1f * (float)sin((double)i);
    return mf_convert(p->device, p->state.cut, p->master, MF_F32, p->state.cut_weights, p->type);
}

static mf_status run(pair *p) {
    MF_TRY(mf_zero(p->device, p->state.cut_grads, (size_t)p->state.cut * 4));
    MF_TRY(mf_zero(p->device, p->state.replicated_grads, (size_t)p->state.replicated * 4));
    parity_tokens(&p->shape, p->ids, p->labels);
    double scale = parity_scale(&p->shape, p->labels);
    mf_model_call call = {.ids = p->ids, .labels = p->labels, .scale = (float)scale, .last = true};
    MF_TRY(mf_model_gradients(p->model, &call, &p->loss));
    p->loss *= scale;
    return MF_OK;
}

static void drop(pair *p) {
    for (int i = 0; i < p->reference.params; i++) free(p->reference.value[i]), free(p->reference.grad[i]);
    free(p->reference.value), free(p->reference.grad), free(p->master);
    mf_model_destroy(p->model);
    mf_mesh_destroy(&p->mesh);
    mf_device_destroy(p->device);
    mf_memory_destroy(p->memory);
}

static const float *grad_of(const pair *p, mf_param_view v) {
    return (v.replicated ? p->state.replicated_grads : p->state.cut_grads) + v.offset;
}

static mf_status compare_gradients(pair *p, double tolerance) {
    double reference_value = reference_gradients(&p->reference), largest = 0;
    if (!(fabs(p->loss - reference_value) < tolerance * fabs(reference_value)))
        return MF_FAIL(MF_ELIBRARY, "%s: loss %.9g, reference %.9g", p->shape.name, p->loss, reference_value);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < p->reference.params; i++) {
            mf_param_view v = mf_model_param(p->model, i);
            int64_t n = v.slice_rows * v.slice_cols;
            double norm = 0, error;
            for (int64_t k = 0; k < n; k++) norm += p->reference.grad[i][k] * p->reference.grad[i][k];
            if (pass == 0) largest = fmax(largest, sqrt(norm));
            if (pass == 0) continue;
            error = relative_error(n, grad_of(p, v), p->reference.grad[i]);
            if (sqrt(norm) < 1e-5 * largest)
                error *= sqrt(norm) / largest; /* exactly zero but for rounding */
            if (!(error < tolerance))
                return MF_FAIL(MF_ELIBRARY, "%s, %s: gradient of %s is off by %.2e", p->shape.name,
                               mf_dtype_name(p->type), v.name, error);
        }
    }
    return MF_OK;
}

/* A few elements of every parameter: (loss(w + e) - loss(w - e)) / 2e, the losses in double. */
static mf_status compare_differences(pair *p) {
    const double step = 1e-5;
    for (int i = 0; i < p->reference.params; i++) {
        mf_param_view v = mf_model_param(p->model, i);
        int64_t n = v.slice_rows * v.slice_cols;
        for (int64_t k = 0; k < 3; k++) {
            int64_t at = (int64_t)(mf_random_u64(1, mf_random_key(v.name), (uint64_t)k) % (uint64_t)n);
            double *w = &p->reference.value[i][at], kept = *w, up, down;
            *w = kept + step;
            up = reference_loss(&p->reference);
            *w = kept - step;
            down = reference_loss(&p->reference);
            *w = kept;
            double slope = (up - down) / (2 * step), ours = (double)grad_of(p, v)[at];
            if (!(fabs(slope - ours) < 1e-4 * fabs(slope) + 1e-6))
                return MF_FAIL(MF_ELIBRARY, "%s: %s[%lld] has slope %.8g, gradient %.8g", p->shape.name,
                               v.name, (long long)at, slope, ours);
        }
    }
    return MF_OK;
}

static mf_status body(mf_world *world, void *argument) {
    pair *p = argument;
    mf_status status = MF_OK;
    MF_GO(build(world, p));
    MF_GO(run(p));
    make_reference(p);
    MF_GO(compare_gradients(p, p->type == MF_F32 ? mf_tolerance(MF_F32) : 6e-2));
    if (p->type == MF_F32) MF_GO(compare_differences(p));
fail:
    drop(p);
    return status;
}

static void every_shape(mf_dtype type) {
    for (int i = 0; parity_case_at(i); i++) {
        pair p = {.shape = *parity_case_at(i), .type = type};
        ASSERT_OK(mf_launch(&(mf_launch_options){.engine = "local", .ranks = 1}, body, &p));
    }
}

static void f32_equals_the_reference(void **state) {
    (void)state;
    every_shape(MF_F32);
}

static void bf16_is_near_the_reference(void **state) {
    (void)state;
    every_shape(MF_BF16);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(f32_equals_the_reference),
                                       cmocka_unit_test(bf16_is_near_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
