/* parity.c: see parity.h. */
#include "parity.h"

#include "support.h"
#include "train/clips.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const parity_case cases[] = {
    {"grouped heads",
     {.hidden = 32, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 8, .ffn = 40, .vocab = 50},
     2,
     24},
    {"one key head, odd sizes",
     {.hidden = 18, .layers = 2, .heads = 3, .kv_heads = 1, .head_dim = 6, .ffn = 17, .vocab = 13},
     3,
     7},
    {"one token, tied",
     {.hidden = 20,
      .layers = 2,
      .heads = 6,
      .kv_heads = 3,
      .head_dim = 4,
      .ffn = 11,
      .vocab = 29,
      .tied = true},
     2,
     1},
    {"fewer features than ranks",
     {.hidden = 10, .layers = 1, .heads = 5, .kv_heads = 5, .head_dim = 2, .ffn = 3, .vocab = 5},
     1,
     33},
    {"groups that straddle shards",
     {.hidden = 48,
      .layers = 2,
      .heads = 8,
      .kv_heads = 2,
      .head_dim = 10,
      .ffn = 50,
      .vocab = 101,
      .tied = true},
     1,
     130},
    /* What Llama's relatives add, each where it is awkward: heads that straddle shards, windows that cut a
     * rank's chunks, in the second layer alone, scaling that reaches all three bands of frequencies. */
    {"biases and a window, straddling",
     {.hidden = 28,
      .layers = 2,
      .heads = 6,
      .kv_heads = 2,
      .head_dim = 6,
      .ffn = 21,
      .vocab = 31,
      .qkv_bias = true,
      .window = 7,
      .window_from = 1},
     2,
     61},
    {"norms of heads, wider than the model",
     {.hidden = 24,
      .layers = 2,
      .heads = 5,
      .kv_heads = 1,
      .head_dim = 8,
      .ffn = 25,
      .vocab = 37,
      .tied = true,
      .qk_norm = true,
      .scaling = {MF_ROPE_LLAMA3, 8, 1, 4, 64}},
     1,
     45},
    {"all of it, a window of one chunk",
     {.hidden = 22,
      .layers = 1,
      .heads = 4,
      .kv_heads = 4,
      .head_dim = 6,
      .ffn = 19,
      .vocab = 23,
      .qkv_bias = true,
      .qk_norm = true,
      .window = 6,
      .scaling = {.kind = MF_ROPE_LINEAR, .factor = 4}},
     1,
     48},
};

/* With a condition and without, gated and plain; each grid is awkward in another way. */
static const parity_case video_cases[] = {
    {.name = "nothing divides",
     .config = {.hidden = 24,
                .layers = 2,
                .heads = 4,
                .kv_heads = 4,
                .head_dim = 6,
                .ffn = 20,
                .video = {.frames = 5, .height = 3, .width = 7, .channels = 4, .patch = 1}},
     .batch = 1},
    {.name = "gated, with a condition",
     .config = {.hidden = 18,
                .layers = 4,
                .heads = 3,
                .kv_heads = 3,
                .head_dim = 5,
                .ffn = 17,
                .video = {.frames = 4,
                          .height = 4,
                          .width = 10,
                          .channels = 3,
                          .patch = 2,
                          .condition_tokens = 5,
                          .condition_channels = 6,
                          .gated = true}},
     .batch = 3},
    {.name = "fewer frames and places than ranks",
     .config = {.hidden = 22,
                .layers = 2,
                .heads = 8,
                .kv_heads = 8,
                .head_dim = 3,
                .ffn = 5,
                .video = {.frames = 2,
                          .height = 1,
                          .width = 3,
                          .channels = 24,
                          .patch = 1,
                          .condition_tokens = 3,
                          .condition_channels = 2}},
     .batch = 3},
    {.name = "one frame",
     .config = {.hidden = 16,
                .layers = 2,
                .heads = 2,
                .kv_heads = 2,
                .head_dim = 8,
                .ffn = 11,
                .video = {.frames = 1, .height = 8, .width = 10, .channels = 1, .patch = 2, .gated = true}},
     .batch = 1},
    {.name = "one place",
     .config = {.hidden = 20,
                .layers = 2,
                .heads = 5,
                .kv_heads = 5,
                .head_dim = 4,
                .ffn = 30,
                .video = {.frames = 7,
                          .height = 2,
                          .width = 2,
                          .channels = 2,
                          .patch = 2,
                          .condition_tokens = 1,
                          .condition_channels = 9}},
     .batch = 3},
};

static void complete(parity_case *shape) {
    shape->config.norm_eps = 1e-5;
    shape->config.init_range = 0.2; /* large, so that attention is far from uniform */
}

const parity_case *parity_case_at(int index) {
    static _Thread_local parity_case one;
    if (index >= (int)(sizeof cases / sizeof *cases)) return NULL;
    one = cases[index];
    one.config.rope_theta = 10000;
    complete(&one);
    return &one;
}

const parity_case *parity_video_case_at(int index) {
    static _Thread_local parity_case one;
    if (index >= (int)(sizeof video_cases / sizeof *video_cases)) return NULL;
    one = video_cases[index];
    one.config.family = MF_STDIT;
    mf_clip_grid grid = mf_config_grid(&one.config);
    one.tokens = mf_clip_tokens(&grid);
    complete(&one);
    return &one;
}

parity_case parity_long_case(void) {
    parity_case one = *parity_case_at(0);
    one.name = "several tiles of rows and of the vocabulary";
    one.config = (mf_model_config){.hidden = 16,
                                   .layers = 1,
                                   .heads = 2,
                                   .kv_heads = 1,
                                   .head_dim = 8,
                                   .ffn = 24,
                                   .vocab = 9000,
                                   .rope_theta = 10000,
                                   .norm_eps = 1e-5,
                                   .init_range = 0.2};
    one.batch = 1;
    one.tokens = PARITY_TOKENS;
    return one;
}

void parity_tokens(const parity_case *shape, int32_t *ids, int32_t *labels) {
    uint64_t vocab = (uint64_t)shape->config.vocab;
    for (int64_t i = 0; i < shape->batch * shape->tokens; i++) {
        ids[i] = (int32_t)(mf_random_u64(3, mf_random_key("ids"), (uint64_t)i) % vocab);
        labels[i] = (int32_t)(mf_random_u64(3, mf_random_key("labels"), (uint64_t)i) % vocab);
        if (i % 7 == 5) labels[i] = -1;
    }
}

void parity_documents(const parity_case *shape, int32_t *begins) {
    uint64_t key = mf_random_key("documents"), mean = (uint64_t)shape->tokens / 6 + 1;
    for (int64_t i = 0; i < shape->batch * shape->tokens; i++) {
        int64_t position = i % shape->tokens;
        bool first = position == 0 || mf_random_u64(3, key, (uint64_t)i) % mean == 0;
        begins[i] = first ? (int32_t)position : begins[i - 1];
    }
}

double parity_scale(const parity_case *shape, const int32_t *labels) {
    int64_t count = 0;
    for (int64_t i = 0; i < shape->batch * shape->tokens; i++) count += labels[i] >= 0;
    return 1.0 / (double)count;
}

mf_status parity_lay_out(parity_run *run, parity_case *shape, const char *mesh) {
    MF_TRY(mf_layout_parse(mesh, &mf_layout_words_none, &run->mesh, &run->layout));
    int replicas = mf_axes_ranks(&run->mesh, run->layout.data);
    shape->batch = (shape->batch + replicas - 1) / replicas * replicas;
    if (run->layout.tensor && run->type == MF_BF16) shape->config.init_range /= 2;
    run->shape = shape;
    run->mesh_text = mesh;
    return MF_OK;
}

bool parity_possible(const parity_run *run) {
    const parity_case *s = run->shape;
    mf_model_options options = {
        .config = s->config, .batch = s->batch, .tokens = s->tokens, .grid = mf_config_grid(&s->config)};
    return mf_model_check(&options, &run->layout, &run->mesh) == MF_OK;
}

void parity_check(parity_run *run, bool no_borrow) {
    mf_launch_options options = {
        .engine = "local", .ranks = mf_mesh_ranks(&run->mesh), .no_borrow = no_borrow, .timeout_s = 60};
    mf_status status = mf_launch(&options, parity_body, run);
    double tolerance = mf_tolerance(run->type);
    if (!status && run->loss_error < tolerance && run->worst < tolerance && run->norm_error < tolerance)
        return;
    print_error("%s, %s, %s, recompute %d%s%s%s, %s: ", run->shape->name, run->mesh_text,
                mf_dtype_name(run->type), (int)run->recompute, run->two_calls ? ", two calls" : "",
                run->packed ? ", packed" : "", run->forward_only ? ", forward only" : "",
                no_borrow ? "sent" : "borrowed");
    if (status)
        print_error("%s\n", mf_error_last()->message);
    else
        print_error("loss error %.2e, norm error %.2e, worst error %.2e (%s)\n", run->loss_error,
                    run->norm_error, run->worst, run->worst_name);
    fail();
}

static void check_mode(parity_run *run, int mode, bool no_borrow) {
    run->forward_only = mode > MF_RECOMPUTE_BLOCK;
    run->recompute = run->forward_only ? MF_RECOMPUTE_NONE : (mf_recompute)mode;
    run->two_calls = mode == MF_RECOMPUTE_ATTENTION;
    parity_check(run, no_borrow);
}

static bool is_video(const parity_run *run) { return run->shape->config.family == MF_STDIT; }

static void check_type(const char *mesh, const parity_case *shape, int turn, mf_dtype type) {
    enum { MODES = PARITY_TURNS / 2 };
    parity_case own = *shape;
    parity_run run = {.type = type, .threads = 1};
    if (parity_lay_out(&run, &own, mesh)) fail_msg("%s: %s", mesh, mf_error_last()->message);
    if (!parity_possible(&run)) return;
    for (int i = 0; i < PARITY_TURNS; i++)
        if ((type == MF_F32 && !MF_TEST_SPARSE) || i == turn) check_mode(&run, i % MODES, i < MODES);
    if (is_video(&run) || (MF_TEST_SPARSE && type == MF_BF16)) return;
    run.packed = true;
    check_mode(&run, (turn + 1) % MODES, turn >= MODES);
}

void parity_check_modes(const char *mesh, const parity_case *shape, int turn) {
    for (mf_dtype type = MF_F32; type <= MF_BF16; type++) check_type(mesh, shape, turn, type);
}

/* One model with its f32 weights filled in, on a mesh or alone. */
typedef struct member {
    mf_model *model;
    mf_model_state state;
    mf_buffer master, ids, labels;
    mf_clip_room clips;
    int64_t batch, first; /* sequences of the shape that are this rank's */
} member;

static mf_status member_create(const parity_run *r, const mf_layout *layout, mf_mesh *mesh, mf_device *device,
                               member *out) {
    mf_memory *memory = mf_device_memory(device);
    int replicas = mf_axes_ranks(&mesh->spec, layout->data);
    mf_comm *data = mf_mesh_axis(mesh, "dp");
    out->batch = r->shape->batch / replicas;
    out->first = data ? mf_comm_rank(data) * out->batch : 0;
    mf_model_options options = {.config = r->shape->config,
                                .type = r->type,
                                .recompute = r->recompute,
                                .batch = out->batch,
                                .tokens = r->shape->tokens,
                                .grid = mf_config_grid(&r->shape->config),
                                .seed = 11,
                                .forward_only = r->forward_only,
                                .packed = r->packed};
    MF_TRY(mf_model_create(&options, layout, mesh, device, &out->model));
    out->state = mf_model_state_get(out->model);
    size_t bytes = (size_t)out->state.cut * sizeof(float);
    size_t tokens = (size_t)(out->batch * mf_model_rows(out->model)) * sizeof(int32_t);
    MF_TRY(mf_buffer_alloc(memory, MF_OPTIMIZER, bytes, "master", &out->master));
    MF_TRY(mf_buffer_alloc(memory, MF_WORKSPACE, tokens, "ids", &out->ids));
    MF_TRY(mf_buffer_alloc(memory, MF_WORKSPACE, tokens, "labels", &out->labels));
    MF_TRY(mf_clip_room_open(&out->clips, out->model, memory, device, out->batch));
    MF_TRY(mf_model_init(out->model, out->master.data));
    for (int64_t i = 0; i < out->state.replicated; i++) /* zeros and ones would hide whose they are */
        out->state.replicated_weights[i] += 0.1f * (float)sin((double)i);
    if (!r->forward_only) {
        MF_TRY(mf_zero(device, out->state.cut_grads, bytes));
        MF_TRY(mf_zero(device, out->state.replicated_grads, (size_t)out->state.replicated * sizeof(float)));
    }
    return mf_convert(device, out->state.cut, out->master.data, MF_F32, out->state.cut_weights, r->type);
}

static void member_destroy(member *m, mf_device *device) {
    mf_memory *memory = mf_device_memory(device);
    mf_buffer_free(memory, &m->master);
    mf_buffer_free(memory, &m->ids);
    mf_buffer_free(memory, &m->labels);
    mf_clip_room_close(&m->clips);
    mf_model_destroy(m->model);
    *m = (member){0};
}

static mf_status place_clips(const parity_run *r, member *m, mf_model_call *call) {
    for (int64_t b = 0; b < m->batch; b++) {
        mf_clip_draw draw = {.pick = {.seed = 3, .index = m->first + b}, .time = -1};
        MF_TRY(mf_clip_place(&m->clips, m->model, &draw, b));
    }
    mf_clip_fill(&m->clips, m->model, 0, call);
    call->scale = (float)(1 / ((double)r->shape->batch * mf_loss_terms(mf_model_options_get(m->model))));
    return MF_OK;
}

static mf_status place_texts(const parity_run *r, member *m, mf_model_call *call) {
    const parity_case *s = r->shape;
    int32_t ids[PARITY_TOKENS], labels[PARITY_TOKENS], documents[PARITY_TOKENS];
    int64_t rows = mf_model_rows(m->model);
    parity_tokens(s, ids, labels);
    parity_documents(s, documents);
    if (r->packed) MF_TRY(mf_model_set_documents(m->model, documents + m->first * s->tokens));
    for (int64_t b = 0; b < m->batch && rows; b++) {
        int64_t at = (m->first + b) * s->tokens;
        mf_model_cut(m->model, ids + at, (int32_t *)m->ids.data + b * rows);
        mf_model_cut(m->model, labels + at, (int32_t *)m->labels.data + b * rows);
    }
    call->ids = m->ids.data;
    call->labels = m->labels.data;
    call->scale = (float)parity_scale(s, labels);
    return MF_OK;
}

/* What the member computes on, and the scale of which the loss of all is a mean. */
static mf_status member_place(const parity_run *r, member *m, mf_model_call *call) {
    *call = (mf_model_call){.last = true};
    return is_video(r) ? place_clips(r, m, call) : place_texts(r, m, call);
}

/* A step of two halves: gradients add up over calls, and the last one completes them. */
static mf_status member_gradients(const parity_run *r, member *m, mf_model_call call, double *loss) {
    if (!r->two_calls) return mf_model_gradients(m->model, &call, loss);
    call.scale *= 0.25f;
    call.last = false;
    MF_TRY(mf_model_gradients(m->model, &call, loss));
    call.scale *= 3;
    call.last = true;
    return mf_model_gradients(m->model, &call, loss);
}

/* *loss: the mean over all ranks of the member's mesh. */
static mf_status member_run(const parity_run *r, member *m, double *loss) {
    mf_model_call call;
    MF_TRY(member_place(r, m, &call));
    MF_TRY(mf_barrier(mf_model_world(m->model)));
    if (r->forward_only)
        MF_TRY(mf_model_loss(m->model, &call, loss));
    else
        MF_TRY(member_gradients(r, m, call, loss));
    MF_TRY(mf_barrier(mf_model_world(m->model)));
    MF_TRY(mf_allreduce_f64(mf_model_world(m->model), loss, 1));
    *loss *= (double)call.scale;
    return MF_OK;
}

/* Squares of the difference and of the whole's values. */
static mf_status compare_param(mf_world *world, const member *cut, const member *whole, int param,
                               double sums[2]) {
    mf_status status = MF_OK;
    mf_param_view v = mf_model_param(whole->model, param);
    int64_t elements = (v.rows ? v.rows : 1) * v.cols;
    float *gradient = NULL;
    const float *expected =
        (v.replicated ? whole->state.replicated_grads : whole->state.cut_grads) + v.offset;
    MF_TRY(mf_host_alloc((size_t)elements, sizeof *gradient, &gradient));
    MF_GO(mf_model_collect_gradient(cut->model, param, gradient));
    for (int64_t i = 0; i < elements && mf_world_rank(world) == 0; i++) {
        double x = gradient[i], y = expected[i];
        sums[0] += (x - y) * (x - y);
        sums[1] += y * y;
    }
fail:
    mf_host_free(gradient);
    return status;
}

/* Each rank's share of the squares of the whole gradient, as the optimizer's norm counts them. */
static mf_status compare_norm(parity_run *r, mf_world *world, const member *cut, const member *whole) {
    double got = 0, expected = 0;
    MF_TRY(mf_model_grad_squares(cut->model, &got));
    MF_TRY(mf_allreduce_f64(mf_model_world(cut->model), &got, 1));
    MF_TRY(mf_model_grad_squares(whole->model, &expected));
    if (mf_world_rank(world) == 0) r->norm_error = fabs(sqrt(got) - sqrt(expected)) / sqrt(expected);
    return MF_OK;
}

/* A gradient that is nothing but rounding (keys' where each query sees one key) has no norm of its own to
 * compare with: it is held against the largest parameter's. */
static double norm_to_compare(double norm, double largest) { return norm > 1e-5 * largest ? norm : largest; }

static mf_status compare(parity_run *r, mf_world *world, const member *cut, const member *whole) {
    mf_status status = MF_OK;
    int params = mf_model_params(cut->model);
    double *sums = NULL, largest = 0;
    MF_TRY(mf_host_alloc((size_t)params, 2 * sizeof *sums, &sums));
    for (int i = 0; i < params; i++) MF_GO(compare_param(world, cut, whole, i, &sums[2 * i]));
    MF_GO(compare_norm(r, world, cut, whole));
    for (int i = 0; i < params; i++) largest = fmax(largest, sqrt(sums[2 * i + 1]));
    for (int i = 0; i < params && mf_world_rank(world) == 0; i++) {
        double error = sqrt(sums[2 * i]) / norm_to_compare(sqrt(sums[2 * i + 1]), largest);
        if (error <= r->worst) continue;
        r->worst = error;
        snprintf(r->worst_name, sizeof r->worst_name, "%s", mf_model_param(cut->model, i).name);
    }
fail:
    mf_host_free(sums);
    return status;
}

/* [batch, tokens, values] of the member's clips; owned by the caller (mf_host_free). */
static mf_status member_velocity(const parity_run *r, member *m, float **out) {
    mf_model_call call;
    int64_t values = m->batch * r->shape->tokens * mf_config_values(&r->shape->config);
    MF_TRY(member_place(r, m, &call));
    MF_TRY(mf_host_alloc((size_t)values, sizeof **out, out));
    return mf_model_velocity(m->model, &call, *out);
}

/* Every rank's velocities of its clips. */
static mf_status compare_velocity(parity_run *r, mf_world *world, member *cut, member *whole) {
    mf_status status = MF_OK;
    int64_t clip = r->shape->tokens * mf_config_values(&r->shape->config);
    float *got = NULL, *expected = NULL;
    double sums[2] = {0};
    MF_GO(member_velocity(r, cut, &got));
    MF_GO(member_velocity(r, whole, &expected));
    for (int64_t i = 0; i < cut->batch * clip; i++) {
        double x = got[i], y = expected[cut->first * clip + i];
        sums[0] += (x - y) * (x - y);
        sums[1] += y * y;
    }
    MF_GO(mf_allreduce_f64(mf_model_world(cut->model), sums, 2));
    if (mf_world_rank(world) == 0) {
        r->worst = sqrt(sums[0] / sums[1]);
        snprintf(r->worst_name, sizeof r->worst_name, "velocities");
    }
fail:
    mf_host_free(got);
    mf_host_free(expected);
    return status;
}

static mf_status both(parity_run *r, mf_world *world, mf_mesh *mesh, mf_device *device, member *cut,
                      member *whole) {
    double loss = 0, alone = 0;
    mf_mesh lone = mf_mesh_alone(mesh);
    mf_layout single = mf_layout_of(&lone.spec);
    MF_TRY(member_create(r, &r->layout, mesh, device, cut));
    MF_TRY(member_create(r, &single, &lone, device, whole));
    MF_TRY(member_run(r, cut, &loss));
    MF_TRY(member_run(r, whole, &alone));
    if (mf_world_rank(world) == 0) {
        r->loss = alone;
        r->loss_error = fabs(loss - alone) / fabs(alone);
        r->worst = r->norm_error = 0;
        r->worst_name[0] = '\0';
    }
    if (!r->forward_only) MF_TRY(compare(r, world, cut, whole));
    if (r->forward_only && is_video(r)) MF_TRY(compare_velocity(r, world, cut, whole));
    return mf_barrier(mesh->world);
}

mf_status parity_body(mf_world *world, void *argument) {
    mf_status status = MF_OK;
    parity_run *r = argument;
    mf_memory *memory = NULL;
    mf_device *device = NULL;
    mf_mesh mesh = {0};
    member cut = {0}, whole = {0};
    MF_GO(mf_memory_create(NULL, &memory));
    MF_GO(mf_device_create("cpu", memory, r->threads, &device));
    MF_GO(mf_mesh_create(world, &r->mesh, &mesh));
    for (int i = 0; i < (r->models ? r->models : 1); i++) {
        MF_GO(both(r, world, &mesh, device, &cut, &whole));
        member_destroy(&cut, device);
        member_destroy(&whole, device);
    }
fail:
    if (device) {
        member_destroy(&cut, device);
        member_destroy(&whole, device);
    }
    mf_mesh_destroy(&mesh);
    mf_device_destroy(device);
    mf_memory_destroy(memory);
    return status;
}
