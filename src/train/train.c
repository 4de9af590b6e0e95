/* train.c: builds up one rank's run, measures what the machine can do, trains, takes it down again. */
#include "train/loop.h"
#include "train/optimizer.h"

#include <stdio.h>

enum { PROBE_LEAST = 256, PROBE_MOST = 1024, PROBE_MOST_GPU = 8192, PROBE_TURNS = 4 };

mf_status mf_train_check(const mf_train_options *o) {
    if (o->adam.warmup >= o->adam.steps && o->adam.warmup > 0)
        return MF_FAIL(MF_EINVAL, "--warmup %lld: must be less than --steps %lld", (long long)o->adam.warmup,
                       (long long)o->adam.steps);
    if (o->adam.min_lr > o->adam.lr)
        return MF_FAIL(MF_EINVAL, "--min-lr %g: must be at most --lr %g", (double)o->adam.min_lr,
                       (double)o->adam.lr);
    return mf_model_check(&o->model, &o->layout, &o->mesh);
}

static double probe_flops(int64_t side) { return 2.0 * (double)side * (double)side * (double)side; }

/* Large enough for the machine's best rate, but no longer at work than the training itself. */
static int64_t probe_side(const mf_run_state *r) {
    double training = mf_loop_step_flops(r) * (double)r->options->adam.steps / mf_world_size(r->world);
    int64_t side = mf_device_is_gpu(mf_device_name(r->device)) ? PROBE_MOST_GPU : PROBE_MOST;
    while (side > PROBE_LEAST && PROBE_TURNS * probe_flops(side) > training) side /= 2;
    return side;
}

/* The rate of a square product in the run's type, all ranks at once: the peak that shares are of. */
static mf_status probe(mf_run_state *r, mf_device *device) {
    mf_status status = MF_OK;
    mf_dtype type = r->options->model.type;
    int64_t side = probe_side(r);
    size_t elements = (size_t)(side * side), bytes = elements * mf_dtype_bytes(type);
    mf_buffer a = {0}, b = {0}, c = {0};
    double best = 1e30;
    MF_GO(mf_buffer_alloc(r->memory, MF_WORKSPACE, bytes, "the speed probe", &a));
    MF_GO(mf_buffer_alloc(r->memory, MF_WORKSPACE, bytes, "the speed probe", &b));
    MF_GO(mf_buffer_alloc(r->memory, MF_WORKSPACE, elements * sizeof(float), "the speed probe", &c));
    MF_GO(mf_zero(device, a.data, bytes));
    MF_GO(mf_zero(device, b.data, bytes));
    MF_GO(mf_barrier(r->mesh.world));
    for (int i = 0; i < PROBE_TURNS; i++) {
        MF_GO(mf_device_finish(device, MF_QUEUE_COMPUTE));
        double start = mf_now_s();
        MF_GO(mf_gemm(device, &(mf_gemm_args){.m = side,
                                              .n = side,
                                              .k = side,
                                              .a = {a.data, side, type, false},
                                              .b = {b.data, side, type, false},
                                              .c = c.data,
                                              .c_ld = side,
                                              .c_type = MF_F32}));
        MF_GO(mf_device_finish(device, MF_QUEUE_COMPUTE));
        double took = mf_now_s() - start;
        if (took < best) best = took;
    }
    r->peak_flops = probe_flops(side) / best;
    MF_GO(mf_allreduce_f64(r->mesh.world, &r->peak_flops, 1));
    if (mf_run_is_one_of(r)) r->peak_flops *= mf_world_size(r->world); /* peers are taken to be as fast */
fail:
    mf_buffer_free(r->memory, &a);
    mf_buffer_free(r->memory, &b);
    mf_buffer_free(r->memory, &c);
    return status;
}

static mf_status data_buffers(mf_run_state *r) {
    const mf_train_options *o = r->options;
    size_t sequences = (size_t)(o->accumulate * o->model.batch), tokens = (size_t)o->model.tokens;
    size_t rows = (size_t)mf_model_rows(r->model), step = sequences * rows * sizeof(int32_t);
    MF_TRY(mf_clip_room_open(&r->clips, r->model, r->memory, r->device, o->accumulate * o->model.batch));
    MF_TRY(mf_host_alloc((size_t)o->adam.steps, sizeof *r->step_s, &r->step_s));
    if (mf_options_are_of_videos(&o->model)) return MF_OK;
    if (o->model.packed) MF_TRY(mf_host_alloc(sequences * tokens, sizeof *r->documents, &r->documents));
    MF_TRY(mf_host_alloc(rows, sizeof *r->own, &r->own));
    MF_TRY(mf_host_alloc(tokens, sizeof *r->whole_ids, &r->whole_ids));
    MF_TRY(mf_host_alloc(tokens, sizeof *r->whole_labels, &r->whole_labels));
    MF_TRY(mf_buffer_alloc(r->memory, MF_WORKSPACE, step, "tokens", &r->ids));
    return mf_buffer_alloc(r->memory, MF_WORKSPACE, step, "labels", &r->labels);
}

/* Initial weights are made in f32, which nobody needs afterwards. */
static mf_status weights_of_seed(mf_run_state *r) {
    mf_status status = MF_OK;
    mf_model_state s = mf_model_state_get(r->model);
    mf_buffer all = {0};
    MF_GO(mf_buffer_alloc(r->memory, MF_WORKSPACE, (size_t)s.cut * sizeof(float), "initial weights", &all));
    MF_GO(mf_model_init(r->model, all.data));
    MF_GO(mf_convert(r->device, s.cut, all.data, MF_F32, s.cut_weights, s.type));
fail:
    mf_buffer_free(r->memory, &all);
    return status;
}

/* Without an optimizer: what it took to begin does not count as the run's. */
static mf_status weights_alone(mf_run_state *r) {
    const char *from = r->options->init_from;
    MF_TRY(from ? mf_model_load_weights(r->model, r->device, from) : weights_of_seed(r));
    mf_memory_reset_peaks(r->memory);
    return MF_OK;
}

static mf_status weights(mf_run_state *r) {
    const mf_train_options *o = r->options;
    if (o->model.forward_only) return weights_alone(r);
    if (o->resume_from) return mf_optimizer_allocate(r->model, r->device, &o->adam, &r->optimizer);
    return mf_optimizer_create(r->model, r->device, &o->adam, o->init_from, &r->optimizer);
}

/* What a run on this device takes, a dry one takes on the device that stands for it. */
static void name_device(const mf_world *world, const char *name, char out[MF_DEVICE_NAME]) {
    if (strcmp(mf_world_engine(world), "dry") == 0)
        mf_device_name_dry(name ? name : "cpu", out);
    else
        mf_device_name_of_rank(name ? name : "cpu", mf_world_local_rank(world), out);
}

mf_status mf_open_device(mf_world *world, const char *name, int threads, mf_memory **memory,
                         mf_device **device) {
    char own[MF_DEVICE_NAME];
    name_device(world, name, own);
    MF_TRY(mf_device_memory_create(own, memory));
    MF_TRY(mf_device_create(own, *memory, threads, device));
    mf_world_use(world, *device);
    return MF_OK;
}

/* The probe's workspace is not the run's: it has a device of its own. */
static mf_status probe_alone(mf_run_state *r) {
    mf_status status = MF_OK;
    mf_device *device = NULL;
    MF_GO(mf_device_create(mf_device_name(r->device), r->memory, r->options->threads, &device));
    MF_GO(probe(r, device));
fail:
    mf_device_destroy(device);
    mf_memory_reset_peaks(r->memory);
    return status;
}

mf_status mf_run_open(mf_run_state *r) {
    const mf_train_options *o = r->options;
    MF_TRY(mf_open_device(r->world, o->device, o->threads, &r->memory, &r->device));
    MF_TRY(mf_mesh_create(r->world, &o->mesh, &r->mesh));
    r->replicas = mf_axes_ranks(&o->mesh, o->layout.data);
    mf_comm *data = mf_mesh_axis(&r->mesh, "dp");
    r->replica = data ? mf_comm_rank(data) : 0;
    MF_TRY(probe_alone(r));
    MF_TRY(mf_model_create(&o->model, &o->layout, &r->mesh, r->device, &r->model));
    MF_TRY(weights(r));
    MF_TRY(data_buffers(r));
    MF_TRY(mf_run_resume(r));
    MF_TRY(mf_barrier(r->mesh.world)); /* all ranks have what they need: nothing is written before */
    return mf_device_finish(r->device, MF_QUEUE_COMPUTE);
}

void mf_run_close(mf_run_state *r) {
    mf_buffer *buffers[] = {&r->ids, &r->labels};
    int32_t *host[] = {r->own, r->whole_ids, r->whole_labels, r->documents};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) mf_buffer_free(r->memory, buffers[i]);
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) mf_host_free(host[i]);
    mf_clip_room_close(&r->clips);
    mf_host_free(r->step_s);
    mf_optimizer_destroy(r->optimizer);
    mf_model_destroy(r->model);
    mf_mesh_destroy(&r->mesh);
    mf_device_destroy(r->device);
    mf_memory_destroy(r->memory);
}

/* What failed here may only follow from what failed on another rank: a group of one waits for nobody, but it
 * returns the first error of all. */
mf_status mf_run_first_error(const mf_run_state *r, mf_status own) {
    mf_status first = r->mesh.self ? mf_barrier(r->mesh.self) : MF_OK;
    return first ? first : own;
}

static mf_status check_one_of(const mf_world *world, const mf_train_options *o) {
    const char *what = o->resume_from ? "--resume: has no use for" : o->save_to ? "--out: would save" : NULL;
    if (!mf_world_is_one_of(world) || (!what && !o->checkpoints)) return MF_OK;
    return MF_FAIL(MF_EINVAL, "%s a model of which --engine one-of trains one rank's share, on stand-ins",
                   what ? what : "--save-every: would save");
}

mf_status mf_train(mf_world *world, const mf_train_options *options, const mf_train_observer *observer) {
    mf_status status = MF_OK;
    mf_run_state r = {.options = options, .world = world};
    if (mf_world_speaks(world)) r.observer = observer;
    MF_TRY(check_one_of(world, options));
    if (options->model.packed) MF_TRY(mf_text_is_separated(&options->data.text));
    MF_GO(mf_run_open(&r));
    if (r.observer && r.observer->started)
        MF_GO(r.observer->started(r.observer->context, options, r.peak_flops));
    MF_GO(mf_run_tidy(&r));
    MF_GO(mf_loop_run(&r));
    MF_GO(mf_barrier(r.mesh.world)); /* peers may be reading this rank's memory until here */
fail:
    if (status) status = mf_run_first_error(&r, status);
    mf_run_close(&r);
    return status;
}
