/* faults.c: training in which the n-th allocation or the n-th communication fails, values stop being finite,
 * or the observer or the disk refuses: every rank returns the first error, nobody waits for ever, and the
 * leak check of the address sanitizer finds nothing left behind. */
#include "support.h"

#include "meshfold/train.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RANKS = 4, TEXT_BYTES = 1200, SEQ = 25, SEED = 3, RUN_LIMIT_S = 60 };

/* Without recomputation in f32 every n up to EVERY fails (while a run is built up), then every FINE-th; in
 * the other modes every STRIDE-th. The strides are primes, so that they drift over the events of a step,
 * which recur, and each mode starts elsewhere. All n in all modes would take minutes, and so would these
 * under the sanitizers. */
#if defined(__SANITIZE_THREAD__)
enum { EVERY = 0, FINE = 29, STRIDE = 307, LAYOUT_STRIDE = 503 };
#elif defined(__SANITIZE_ADDRESS__)
enum { EVERY = 100, FINE = 7, STRIDE = 131, LAYOUT_STRIDE = 43 };
#else
enum { EVERY = 200, FINE = 3, STRIDE = 53, LAYOUT_STRIDE = 7 };
#endif

static char folder[64], model_file[96], config_file[96];

/* What a hang is reported with. */
static char under_way[200];

static void hung(int signal_number) {
    (void)signal_number;
    ssize_t written = write(STDERR_FILENO, under_way, strlen(under_way));
    (void)written;
    abort();
}

/* A run, how it ended on each rank, and what its observer saw. */
typedef struct trial {
    mf_train_options options;
    const char *mesh;
    bool no_borrow;
    int stride; /* of injected failures; 0: by mode */
    uint8_t text[TEXT_BYTES];
    mf_status status[RANKS];
    mf_error error[RANKS];
    int ended;
    double loss[8], eval[8]; /* of steps from 1 */
    int64_t skipped;
    int refuse; /* the observer's call that fails, from 1; 0: none */
    int calls;
} trial;

static mf_status observe(trial *t) {
    return ++t->calls == t->refuse ? MF_FAIL(MF_EIO, "the observer has enough") : MF_OK;
}

static mf_status started(void *context, const mf_train_options *options, double peak_flops) {
    (void)options, (void)peak_flops;
    return observe(context);
}

static mf_status stepped(void *context, const mf_step_metrics *metrics) {
    trial *t = context;
    if (metrics->step < 8) t->loss[metrics->step] = metrics->loss;
    t->skipped = metrics->skipped;
    return observe(t);
}

static mf_status evaluated(void *context, int64_t step, double loss) {
    trial *t = context;
    if (step < 8) t->eval[step] = loss;
    return observe(t);
}

static mf_status finished(void *context, const mf_train_summary *summary) {
    trial *t = context;
    t->skipped = summary->skipped;
    return observe(t);
}

static mf_status body(mf_world *world, void *argument) {
    trial *t = argument;
    int rank = mf_world_rank(world);
    const mf_train_observer observer = {
        .context = t, .started = started, .stepped = stepped, .evaluated = evaluated, .finished = finished};
    t->status[rank] = mf_train(world, &t->options, &observer);
    if (t->status[rank]) t->error[rank] = *mf_error_last();
    __atomic_add_fetch(&t->ended, 1, __ATOMIC_RELAXED);
    return t->status[rank];
}

static int ranks_of(const trial *t) { return mf_mesh_ranks(&t->options.mesh); }

static const char *name_of(const trial *t, char text[128]) {
    snprintf(text, 128, "%s, %s, recompute %d, %s", t->mesh, mf_dtype_name(t->options.model.type),
             (int)t->options.model.recompute, t->no_borrow ? "sent" : "borrowed");
    return text;
}

/* All ranks end alike, and the launch with them. It may fail before there are any. Whoever is not told of a
 * failure waits longer than this test does. */
static mf_status run(trial *t) {
    char name[128];
    mf_launch_options options = {
        .engine = "local", .ranks = ranks_of(t), .no_borrow = t->no_borrow, .timeout_s = 10 * RUN_LIMIT_S};
    t->ended = t->calls = 0;
    alarm(RUN_LIMIT_S);
    mf_status status = mf_launch(&options, body, t);
    alarm(0);
    if (t->ended == 0 && status) return status;
    assert_int_equal(t->ended, ranks_of(t));
    for (int r = 0; r < ranks_of(t); r++) {
        if (t->status[r] == status && (!status || !strcmp(t->error[r].message, mf_error_last()->message)))
            continue;
        print_error("%s: rank %d ended with %s: %s\nthe launch with %s: %s\n", name_of(t, name), r,
                    mf_status_name(t->status[r]), t->error[r].message, mf_status_name(status),
                    mf_error_last()->message);
        fail();
    }
    return status;
}

static void trial_lay_out(trial *t, const char *mesh) {
    t->mesh = mesh;
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &t->options.mesh, &t->options.layout));
    ASSERT_OK(mf_train_check(&t->options));
}

/* A small model, cut so that no share is like another. */
static trial *trial_make(const char *mesh, mf_dtype type, mf_recompute recompute, bool no_borrow) {
    trial *t = NULL;
    ASSERT_OK(mf_host_alloc(1, sizeof *t, &t));
    t->no_borrow = no_borrow;
    t->options = (mf_train_options){.model = {.config = {.hidden = 16,
                                                         .layers = 2,
                                                         .heads = 4,
                                                         .kv_heads = 2,
                                                         .head_dim = 4,
                                                         .ffn = 12,
                                                         .vocab = 256,
                                                         .rope_theta = 10000,
                                                         .norm_eps = 1e-5,
                                                         .init_range = 0.1},
                                              .type = type,
                                              .recompute = recompute,
                                              .batch = 1,
                                              .tokens = SEQ,
                                              .seed = SEED},
                                    .adam = {.lr = 1e-2f,
                                             .min_lr = 1e-3f,
                                             .beta1 = 0.9f,
                                             .beta2 = 0.95f,
                                             .eps = 1e-8f,
                                             .clip = 1,
                                             .steps = 2},
                                    .accumulate = 1,
                                    .eval_batches = 1,
                                    .threads = 1,
                                    .save_to = folder};
    for (int i = 0; i < TEXT_BYTES; i++)
        t->text[i] = (uint8_t)('a' + mf_random_u64(1, mf_random_key("text"), (uint64_t)i) % 20);
    ASSERT_OK(mf_dataset_make(&(mf_text){.bytes = t->text, .count = TEXT_BYTES}, SEQ, &t->options.data));
    trial_lay_out(t, mesh);
    return t;
}

typedef void (*trial_check)(trial *t, int mode);

/* Modes 0, 4, and 8 are f32 without recomputation: borrowed, sent, and on one rank. */
static void every_mode(trial_check check) {
    const char *const meshes[] = {"single", "tsp=3"};
    const mf_recompute recompute[] = {MF_RECOMPUTE_NONE, MF_RECOMPUTE_BLOCK};
    for (int mode = 0; mode < 16; mode++) {
        bool alone = mode & 8, no_borrow = mode & 4;
        if (alone && no_borrow) continue; /* one rank has nobody to send to */
        trial *t =
            trial_make(meshes[!alone], mode & 1 ? MF_BF16 : MF_F32, recompute[mode >> 1 & 1], no_borrow);
        check(t, mode);
        mf_host_free(t);
    }
}

/* The saved model's bytes; NULL when there is none. */
static char *saved_model(size_t *bytes) {
    char *content = NULL;
    *bytes = 0;
    if (access(model_file, F_OK) == 0) ASSERT_OK(mf_file_read(model_file, &content, bytes));
    return content;
}

static void forget_saved(void) {
    unlink(model_file);
    unlink(config_file);
    if (rmdir(folder)) fail_msg("%s holds more than a model after a run", folder);
    assert_int_equal(mkdir(folder, 0700), 0);
}

/* A run that failed leaves no model or, when all but its end was done, the whole of it. */
static void check_saved(const char *good, size_t good_bytes) {
    size_t bytes;
    char *content = saved_model(&bytes);
    if (content) {
        assert_int_equal(bytes, good_bytes);
        assert_memory_equal(content, good, good_bytes);
    }
    mf_host_free(content);
    forget_saved();
}

static int64_t stride_at(const trial *t, int mode, int64_t n) {
    if (t->stride) return t->stride;
    return mode & 3 ? STRIDE : n < EVERY ? 1 : FINE;
}

static void fail_each(trial *t, int mode, mf_fault fault, mf_status expected, const char *good,
                      size_t good_bytes) {
    char name[128];
    name_of(t, name);
    for (int64_t n = mode & 3 ? mode : 1 + mode / 4;; n += stride_at(t, mode, n)) {
        snprintf(under_way, sizeof under_way, "%s: hangs when %s %lld fails\n", name,
                 fault == MF_FAULT_ALLOC ? "allocation" : "communication", (long long)n);
        mf_fault_arm(fault, n);
        mf_status status = run(t);
        bool fired = mf_fault_fired(fault);
        mf_fault_arm(fault, 0);
        if (status != (fired ? expected : MF_OK))
            fail_msg("%s: failure %lld %s, but the run ended with %s: %s", name, (long long)n,
                     fired ? "came" : "did not come", mf_status_name(status),
                     status ? mf_error_last()->message : "");
        check_saved(good, good_bytes);
        if (!fired) return;
    }
}

static void fail_in_mode(trial *t, int mode) {
    size_t bytes;
    ASSERT_OK(run(t));
    char *good = saved_model(&bytes);
    assert_non_null(good);
    forget_saved();
    fail_each(t, mode, MF_FAULT_ALLOC, MF_ENOMEM, good, bytes);
    fail_each(t, mode, MF_FAULT_COMM, MF_ECOMM, good, bytes);
    mf_host_free(good);
}

static void injected_failures(void **state) {
    (void)state;
    every_mode(fail_in_mode);
}

/* The paths that tsp by itself does not take: reductions, other exchanges and streams, replicas, several
 * axes. */
static void other_layouts_fail_alike(void **state) {
    (void)state;
    static const struct {
        const char *mesh;
        mf_dtype type;
        mf_recompute recompute;
        bool no_borrow;
    } trials[] = {
        {"tp=3", MF_BF16, MF_RECOMPUTE_NONE, false},
        {"tp=2,reduction=scatter", MF_F32, MF_RECOMPUTE_BLOCK, false},
        {"sp=3,exchange=ring", MF_BF16, MF_RECOMPUTE_NONE, true},
        {"sp=3,exchange=ring", MF_F32, MF_RECOMPUTE_NONE, false},
        {"sp=2,exchange=ulysses", MF_BF16, MF_RECOMPUTE_NONE, false},
        {"sp=3,stream=gather", MF_BF16, MF_RECOMPUTE_ATTENTION, true},
        {"tsp=3,attention-stream=ring", MF_F32, MF_RECOMPUTE_NONE, true},
        {"dp=2,tp=2", MF_BF16, MF_RECOMPUTE_NONE, false},
        {"tsp=2,sp=2,zero=0", MF_F32, MF_RECOMPUTE_NONE, false},
    };
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        trial *t = trial_make(trials[i].mesh, trials[i].type, trials[i].recompute, trials[i].no_borrow);
        t->stride = LAYOUT_STRIDE;
        fail_in_mode(t, (int)i + 1);
        mf_host_free(t);
    }
}

/* Biases, norms of heads, windows, where a family's own gradients and workspace come in; and documents. */
static void relatives_fail_alike(void **state) {
    (void)state;
    static const char *const meshes[] = {"tsp=3", "tp=3", "tp=2,sp=2,exchange=ring"};
    for (int i = 0; i < 3; i++) {
        trial *t = trial_make(meshes[i], i ? MF_BF16 : MF_F32, MF_RECOMPUTE_NONE, i % 2);
        mf_model_config *c = &t->options.model.config;
        c->family = i == 1 ? MF_QWEN2 : MF_QWEN3;
        c->qkv_bias = i == 1;
        c->qk_norm = i != 1;
        c->window = 5;
        t->options.model.packed = t->options.data.text.separated = true;
        t->options.data.text.separator = 'a';
        t->stride = LAYOUT_STRIDE;
        fail_in_mode(t, i + 1);
        mf_host_free(t);
    }
}

static void trial_take_clips(mf_model_options *o, bool gated) {
    o->config.family = MF_STDIT;
    o->config.kv_heads = o->config.heads;
    o->config.video = (mf_video_config){.frames = 4,
                                        .height = 2,
                                        .width = 6,
                                        .channels = 1,
                                        .patch = 2,
                                        .condition_tokens = 2,
                                        .condition_channels = 3,
                                        .gated = gated};
    o->grid = mf_config_grid(&o->config);
    o->tokens = mf_clip_tokens(&o->grid);
}

/* Blocks that switch the cut, and weights that stream under it; on clips of random values. */
static void videos_fail_alike(void **state) {
    (void)state;
    static const struct {
        const char *mesh;
        mf_dtype type;
        mf_recompute recompute;
        bool no_borrow;
    } trials[] = {
        {"dsp=3", MF_F32, MF_RECOMPUTE_NONE, false},
        {"dsp=3", MF_BF16, MF_RECOMPUTE_ATTENTION, true},
        {"dsp=3,stream=ring", MF_BF16, MF_RECOMPUTE_BLOCK, false},
        {"dsp=3,stream=ring", MF_F32, MF_RECOMPUTE_NONE, true},
        {"dsp=2,tp=2,stream=gather", MF_BF16, MF_RECOMPUTE_NONE, false},
    };
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        trial *t = trial_make("single", trials[i].type, trials[i].recompute, trials[i].no_borrow);
        trial_take_clips(&t->options.model, i % 2);
        trial_lay_out(t, trials[i].mesh);
        t->stride = LAYOUT_STRIDE;
        fail_in_mode(t, (int)i + 1);
        mf_host_free(t);
    }
}

static void refuse_in_mode(trial *t, int mode) {
    (void)mode;
    t->options.eval_every = 1;
    ASSERT_OK(run(t));
    int calls = t->calls; /* started, two steps and two evaluations, finished */
    assert_int_equal(calls, 6);
    for (t->refuse = 1; t->refuse <= calls; t->refuse++) {
        ASSERT_FAILS(run(t), MF_EIO, "the observer has enough");
        assert_int_equal(t->calls, t->refuse);
    }
    forget_saved();
}

static void observer_ends_the_run(void **state) {
    (void)state;
    every_mode(refuse_in_mode);
}

static void no_folder_in_mode(trial *t, int mode) {
    (void)mode;
    char missing[96];
    snprintf(missing, sizeof missing, "%s/missing", folder);
    t->options.save_to = missing;
    ASSERT_FAILS(run(t), MF_EIO, missing);
}

/* Larger files than the header fail as on a full disk. */
static void full_disk_in_mode(trial *t, int mode) {
    (void)mode;
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 4096;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    mf_status status = run(t);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    ASSERT_FAILS(status, MF_EIO, model_file);
    assert_int_not_equal(access(model_file, F_OK), 0);
    forget_saved();
}

static void model_cannot_be_saved(void **state) {
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    every_mode(no_folder_in_mode);
    every_mode(full_disk_in_mode);
}

/* Overwrites row `row` of a saved f32 tensor with NaN. */
static void poison(const char *tensor, int64_t row) {
    mf_safetensors *file = NULL;
    mf_tensor_writer *writer = NULL;
    mf_tensor_spec specs[64];
    float nans[64];
    int index = -1;
    ASSERT_OK(mf_safetensors_open(model_file, &file));
    int count = mf_safetensors_count(file);
    assert_in_range(count, 1, 64);
    for (int i = 0; i < count; i++) {
        const mf_tensor_info *t = mf_safetensors_at(file, i);
        specs[i] = (mf_tensor_spec){
            .name = t->name, .rows = t->dims > 1 ? t->shape[0] : 0, .cols = t->shape[t->dims - 1]};
        if (strcmp(t->name, tensor) == 0) index = i;
    }
    assert_true(index >= 0 && specs[index].cols <= 64);
    for (int i = 0; i < 64; i++) nans[i] = NAN;
    ASSERT_OK(mf_tensors_open_writer(model_file, specs, count, MF_F32, &writer));
    ASSERT_OK(mf_tensors_write(writer, index, row, 1, 0, specs[index].cols, nans));
    ASSERT_OK(mf_tensors_close_writer(writer));
    mf_safetensors_close(file);
}

/* Leaves the model in `folder` as it is before any step, with one row of NaN. */
static void save_poisoned(const char *tensor, int64_t row) {
    trial *t = trial_make("single", MF_F32, MF_RECOMPUTE_NONE, false);
    t->options.adam.lr = t->options.adam.min_lr = 0;
    t->options.adam.steps = 1;
    ASSERT_OK(run(t));
    mf_host_free(t);
    poison(tensor, row);
}

static void poisoned_in_mode(trial *t, int mode) {
    (void)mode;
    t->options.adam.steps = 20;
    t->options.init_from = folder;
    t->options.save_to = NULL;
    ASSERT_FAILS(run(t), MF_ENONFINITE, "10 steps");
    ASSERT_FAILS(MF_ENONFINITE, MF_ENONFINITE, "starts from");
    assert_int_equal(t->calls, 1 + 10); /* the tenth step is seen, then it ends the run */
    assert_int_equal(t->skipped, 10);
}

static void poisoned_weights_end_the_run(void **state) {
    (void)state;
    save_poisoned("model.norm.weight", 0);
    every_mode(poisoned_in_mode);
    forget_saved();
}

static void absurd_rate_in_mode(trial *t, int mode) {
    (void)mode;
    t->options.adam.steps = 20;
    t->options.adam.lr = t->options.adam.min_lr = 1e30f;
    t->options.save_to = NULL;
    ASSERT_FAILS(run(t), MF_ENONFINITE, "--lr");
    assert_true(isfinite(t->loss[1]) && !isfinite(t->loss[7]));
}

static void absurd_rate_ends_the_run(void **state) {
    (void)state;
    every_mode(absurd_rate_in_mode);
}

/* Puts a byte that is nowhere else in the text where, of all steps, only `step` (from 0) reads it as input.
 */
static void mark_for_step(trial *t, int64_t step, uint8_t mark) {
    for (int64_t at = 0; at < t->options.data.train; at++) {
        int64_t reads = 0;
        uint8_t before = t->text[at];
        t->text[at] = mark;
        for (int64_t s = 0; s < t->options.adam.steps; s++) {
            int32_t ids[SEQ], labels[SEQ];
            mf_dataset_draw(&t->options.data, SEQ, SEED, (uint64_t)s, ids, labels);
            for (int i = 0; i < SEQ; i++)
                if (ids[i] == mark) reads |= (int64_t)1 << s;
        }
        if (reads == (int64_t)1 << step) return;
        t->text[at] = before;
    }
    fail_msg("no byte of the text is read in step %lld alone", (long long)step);
}

/* The embedding of '#' is NaN, which only the second step meets. */
static void one_skipped_in_mode(trial *t, int mode) {
    (void)mode;
    t->options.adam.steps = 4;
    t->options.eval_every = 1;
    t->options.init_from = folder;
    t->options.save_to = NULL;
    mark_for_step(t, 1, '#');
    ASSERT_OK(run(t));
    assert_int_equal(t->skipped, 1);
    for (int step = 1; step <= 4; step++) assert_int_equal(!isfinite(t->loss[step]), step == 2);
    /* The same weights give the same bits; an update of any rank's would show. */
    assert_memory_equal(&t->eval[1], &t->eval[2], sizeof t->eval[1]);
    assert_true(isfinite(t->eval[1]) && isfinite(t->eval[4]));
    assert_true(t->eval[2] != t->eval[3] && t->eval[3] != t->eval[4]);
}

static void one_skipped_step_changes_nothing(void **state) {
    (void)state;
    save_poisoned("model.embed_tokens.weight", '#');
    every_mode(one_skipped_in_mode);
    forget_saved();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(injected_failures),
                                       cmocka_unit_test(other_layouts_fail_alike),
                                       cmocka_unit_test(relatives_fail_alike),
                                       cmocka_unit_test(videos_fail_alike),
                                       cmocka_unit_test(observer_ends_the_run),
                                       cmocka_unit_test(model_cannot_be_saved),
                                       cmocka_unit_test(poisoned_weights_end_the_run),
                                       cmocka_unit_test(absurd_rate_ends_the_run),
                                       cmocka_unit_test(one_skipped_step_changes_nothing)};
    snprintf(folder, sizeof folder, "%s/meshfold-faults-XXXXXX", P_tmpdir);
    if (!mkdtemp(folder)) return 1;
    snprintf(model_file, sizeof model_file, "%s/model.safetensors", folder);
    snprintf(config_file, sizeof config_file, "%s/config.json", folder);
    signal(SIGALRM, hung);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(model_file);
    unlink(config_file);
    rmdir(folder);
    return failures;
}
