/* documents.c: sequences of several documents against each document by itself, on one rank: losses and the
 * gradients of every parameter add up, though positions go on (docs/decisions/011). Where documents begin. */
#include "support.h"

#include "parity.h"

#include <math.h>
#include <stdlib.h>

/* Sequences of a shape, and what was found of them. */
typedef struct batch {
    parity_case shape;
    mf_dtype type;
    bool packed;
    const int32_t *ids, *labels, *begins; /* [batch, tokens] */
    double scale, loss;
    int64_t elements; /* of all parameters */
    double *grads;    /* [elements] += */
} batch;

typedef struct member {
    mf_memory *memory;
    mf_device *device;
    mf_mesh mesh;
    mf_model *model;
    mf_model_state state;
} member;

static mf_status fill(member *m, mf_dtype type) {
    mf_status status = MF_OK;
    float *master = NULL;
    MF_TRY(mf_host_alloc((size_t)m->state.cut, sizeof *master, &master));
    MF_GO(mf_model_init(m->model, master));
    for (int64_t i = 0; i < m->state.replicated; i++) /* zeros and ones would hide a factor */
        m->state.replicated_weights[i] += 0.1f * (float)sin((double)i);
    MF_GO(mf_convert(m->device, m->state.cut, master, MF_F32, m->state.cut_weights, type));
    MF_GO(mf_zero(m->device, m->state.cut_grads, (size_t)m->state.cut * sizeof(float)));
    MF_GO(mf_zero(m->device, m->state.replicated_grads, (size_t)m->state.replicated * sizeof(float)));
fail:
    mf_host_free(master);
    return status;
}

static mf_status open_member(mf_world *world, const batch *s, member *m) {
    mf_model_options options = {.config = s->shape.config,
                                .type = s->type,
                                .batch = s->shape.batch,
                                .tokens = s->shape.tokens,
                                .seed = 11,
                                .packed = s->packed};
    MF_TRY(mf_memory_create(NULL, &m->memory));
    MF_TRY(mf_device_create("cpu", m->memory, 1, &m->device));
    MF_TRY(mf_mesh_create(world, &(mf_mesh_spec){0}, &m->mesh));
    mf_layout layout = mf_layout_of(&m->mesh.spec);
    MF_TRY(mf_model_create(&options, &layout, &m->mesh, m->device, &m->model));
    m->state = mf_model_state_get(m->model);
    return fill(m, s->type);
}

static void close_member(member *m) {
    mf_model_destroy(m->model);
    mf_mesh_destroy(&m->mesh);
    mf_device_destroy(m->device);
    mf_memory_destroy(m->memory);
}

static mf_status add_grads(const member *m, batch *s) {
    if (m->state.cut + m->state.replicated != s->elements)
        return MF_FAIL(MF_EINVAL, "%lld elements instead of %lld",
                       (long long)(m->state.cut + m->state.replicated), (long long)s->elements);
    for (int64_t i = 0; i < m->state.cut; i++) s->grads[i] += (double)m->state.cut_grads[i];
    for (int64_t i = 0; i < m->state.replicated; i++)
        s->grads[m->state.cut + i] += (double)m->state.replicated_grads[i];
    return MF_OK;
}

static mf_status body(mf_world *world, void *argument) {
    mf_status status = MF_OK;
    batch *s = argument;
    member m = {0};
    double loss = 0;
    MF_GO(open_member(world, s, &m));
    if (s->packed) MF_GO(mf_model_set_documents(m.model, s->begins));
    mf_model_call call = {.ids = s->ids, .labels = s->labels, .scale = (float)s->scale, .last = true};
    MF_GO(mf_model_gradients(m.model, &call, &loss));
    s->loss += loss * s->scale;
    MF_GO(add_grads(&m, s));
fail:
    close_member(&m);
    return status;
}

static void run(batch *s) {
    ASSERT_OK(mf_launch(&(mf_launch_options){.engine = "local", .ranks = 1}, body, s));
}

/* Each document of `all` as a sequence of its own, added up in *apart. */
static void run_apart(const batch *all, batch *apart) {
    int64_t tokens = all->shape.tokens, count = all->shape.batch * tokens;
    apart->shape.batch = 1;
    for (int64_t first = 0, end; first < count; first = end) {
        for (end = first + 1; end < count && all->begins[end] != end % tokens; end++) continue;
        apart->shape.tokens = end - first;
        apart->ids = all->ids + first;
        apart->labels = all->labels + first;
        run(apart);
    }
}

static double difference(const double *a, const double *b, int64_t n) {
    double sum = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (a[i] - b[i]) * (a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return sqrt(sum / norm);
}

/* Turned by other angles, queries and keys round otherwise: in bf16 initial weights are half as large, so
 * that the same tolerance still tells a wrong gradient from rounding. */
static void add_up(const parity_case *shape, mf_dtype type) {
    static int32_t ids[PARITY_TOKENS], labels[PARITY_TOKENS], begins[PARITY_TOKENS];
    parity_tokens(shape, ids, labels);
    parity_documents(shape, begins);
    batch all = {.shape = *shape,
                 .type = type,
                 .packed = true,
                 .ids = ids,
                 .labels = labels,
                 .begins = begins,
                 .scale = parity_scale(shape, labels),
                 .elements = mf_config_params(&shape->config)};
    if (type == MF_BF16) all.shape.config.init_range /= 2;
    batch apart = all;
    apart.packed = false;
    all.grads = calloc((size_t)all.elements, sizeof *all.grads);
    apart.grads = calloc((size_t)all.elements, sizeof *apart.grads);
    assert_true(all.grads && apart.grads);
    run(&all);
    run_apart(&all, &apart);
    double loss = fabs(all.loss - apart.loss) / apart.loss,
           grads = difference(all.grads, apart.grads, all.elements);
    if (!(loss < mf_tolerance(type)) || !(grads < mf_tolerance(type)))
        fail_msg("%s, %s: loss is off by %.2e, gradients by %.2e", shape->name, mf_dtype_name(type), loss,
                 grads);
    free(all.grads);
    free(apart.grads);
}

static void documents_add_up(void **state) {
    (void)state;
    for (int i = 0; parity_case_at(i); i++) {
        add_up(parity_case_at(i), MF_F32);
        add_up(parity_case_at(i), MF_BF16);
    }
}

/* Positions in the thousands, for every way to scale them. */
static void far_documents_add_up(void **state) {
    (void)state;
    const mf_rope_scaling scalings[] = {
        {.kind = MF_ROPE_PLAIN}, {.kind = MF_ROPE_LINEAR, .factor = 4}, {MF_ROPE_LLAMA3, 8, 1, 4, 64}};
    for (int i = 0; i < 3; i++) {
        parity_case shape = parity_long_case();
        shape.config.vocab = 50;
        shape.config.scaling = scalings[i];
        add_up(&shape, MF_F32);
        add_up(&shape, MF_BF16);
    }
}

static mf_status refuse(mf_world *world, void *argument) {
    const batch *s = argument;
    mf_status status = MF_OK;
    member m = {0};
    MF_GO(open_member(world, s, &m));
    status = mf_model_set_documents(m.model, s->begins);
fail:
    close_member(&m);
    return status;
}

static void refused(bool packed, const int32_t begins[3], const char *why) {
    batch s = {.shape = *parity_case_at(0), .packed = packed, .begins = begins};
    s.shape.batch = 1;
    s.shape.tokens = 3;
    ASSERT_FAILS(mf_launch(&(mf_launch_options){.engine = "local", .ranks = 1}, refuse, &s), MF_EINVAL, why);
}

static void absurd_documents_are_refused(void **state) {
    (void)state;
    refused(false, (int32_t[]){0, 0, 0}, "not packed");
    refused(true, (int32_t[]){0, 0, 3}, "token 2 of sequence 0 begins at 3");
    refused(true, (int32_t[]){0, 1, 0}, "token 2 of sequence 0 begins at 0");
    refused(true, (int32_t[]){-1, 0, 0}, "token 0 of sequence 0 begins at -1");
}

/* A separator belongs to the document that it ends; what stands before the first one is a document too. */
static void separators_end_documents(void **state) {
    (void)state;
    const mf_text text = {.separated = true, .separator = 9};
    const int32_t ids[] = {5, 9, 9, 0, 4, 9, 7}, expected[] = {0, 0, 2, 3, 3, 3, 6};
    int32_t begins[7];
    mf_text_documents(&text, ids, 7, begins);
    for (int i = 0; i < 7; i++) assert_int_equal(begins[i], expected[i]);
    ASSERT_OK(mf_text_is_separated(&text));
    ASSERT_FAILS(mf_text_is_separated(&(mf_text){.width = 2}), MF_EINVAL, "names no separator");
    ASSERT_FAILS(mf_text_is_separated(&(mf_text){0}), MF_EINVAL, "read as bytes");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents_add_up),
        cmocka_unit_test(far_documents_add_up),
        cmocka_unit_test(absurd_documents_are_refused),
        cmocka_unit_test(separators_end_documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
