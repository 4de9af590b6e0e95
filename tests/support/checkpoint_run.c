/* checkpoint_run.c: see checkpoint_run.h. */
#include "checkpoint_run.h"

#include "io/file.h"

#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SEQ = 25, LIMIT_S = 60 };

static mf_status stepped(void *context, const mf_step_metrics *m) {
    checkpoint_run *r = context;
    r->loss[m->step] = m->loss;
    r->grad_norm[m->step] = m->grad_norm;
    r->lr[m->step] = m->lr;
    r->made++;
    return MF_OK;
}

static mf_status evaluated(void *context, int64_t step, double loss) {
    ((checkpoint_run *)context)->eval[step] = loss;
    return MF_OK;
}

static mf_status finished(void *context, const mf_train_summary *s) {
    checkpoint_run *r = context;
    r->summary[0] = s->loss_first;
    r->summary[1] = s->loss_last;
    r->summary[2] = s->loss_eval;
    return MF_OK;
}

static void passed_over(void *context, const char *path, const char *why) {
    checkpoint_run *r = context;
    (void)path;
    if (r->passes++ == 0) snprintf(r->why, sizeof r->why, "%s", why);
}

static mf_status resumed(void *context, int64_t step, const char *path) {
    (void)path;
    ((checkpoint_run *)context)->resumed = step;
    return MF_OK;
}

static mf_status saved(void *context, int64_t step, const mf_checkpoint_saved *s) {
    (void)step;
    assert_true(s->bytes > 0 && s->took_s > 0);
    ((checkpoint_run *)context)->saves++;
    return MF_OK;
}

static mf_status stopped(void *context, int64_t step) {
    ((checkpoint_run *)context)->stopped = step;
    return MF_OK;
}

static mf_status body(mf_world *world, void *argument) {
    checkpoint_run *r = argument;
    int rank = mf_world_rank(world);
    const mf_train_observer observer = {.context = r,
                                        .stepped = stepped,
                                        .evaluated = evaluated,
                                        .finished = finished,
                                        .passed_over = passed_over,
                                        .resumed = resumed,
                                        .saved = saved,
                                        .stopped = stopped};
    r->status[rank] = mf_train(world, &r->options, &observer);
    if (r->status[rank]) r->error[rank] = *mf_error_last();
    __atomic_add_fetch(&r->ended, 1, __ATOMIC_RELAXED);
    return r->status[rank];
}

mf_status checkpoint_run_go(checkpoint_run *r) {
    int ranks = mf_mesh_ranks(&r->options.mesh);
    mf_launch_options options = {
        .engine = "local", .ranks = ranks, .no_borrow = r->no_borrow, .timeout_s = 10 * LIMIT_S};
    r->ended = r->saves = r->passes = 0;
    r->made = r->stopped = 0;
    r->resumed = -1;
    alarm(LIMIT_S);
    mf_status status = mf_launch(&options, body, r);
    alarm(0);
    if (r->ended == 0 && status) return status;
    assert_int_equal(r->ended, ranks);
    for (int i = 0; i < ranks; i++)
        if (r->status[i] != status || (status && strcmp(r->error[i].message, mf_error_last()->message)))
            fail_msg("%s: rank %d ended with %s: %s\nthe launch with %s: %s", r->mesh, i,
                     mf_status_name(r->status[i]), r->error[i].message, mf_status_name(status),
                     mf_error_last()->message);
    return status;
}

checkpoint_run *checkpoint_run_make(const char *mesh, mf_dtype type, int64_t steps) {
    checkpoint_run *r = NULL;
    ASSERT_OK(mf_host_alloc(1, sizeof *r, &r));
    r->mesh = mesh;
    r->options = (mf_train_options){.model = {.config = {.hidden = 16,
                                                         .layers = 2,
                                                         .heads = 4,
                                                         .kv_heads = 2,
                                                         .head_dim = 4,
                                                         .ffn = 13,
                                                         .vocab = 257,
                                                         .rope_theta = 10000,
                                                         .norm_eps = 1e-5,
                                                         .init_range = 0.1},
                                              .type = type,
                                              .tokens = SEQ,
                                              .seed = 3},
                                    .adam = {.lr = 1e-2f,
                                             .min_lr = 1e-3f,
                                             .beta1 = 0.9f,
                                             .beta2 = 0.95f,
                                             .eps = 1e-8f,
                                             .weight_decay = 0.1f,
                                             .clip = 1,
                                             .warmup = 1,
                                             .steps = steps},
                                    .accumulate = 1,
                                    .eval_batches = 1,
                                    .keep = 100,
                                    .threads = 1};
    for (size_t i = 0; i < sizeof r->text; i++)
        r->text[i] = (uint8_t)('a' + mf_random_u64(1, mf_random_key("text"), i) % 20);
    mf_text text = {.bytes = r->text, .count = sizeof r->text};
    ASSERT_OK(mf_layout_parse(mesh, &mf_layout_words_none, &r->options.mesh, &r->options.layout));
    r->options.model.batch = CHECKPOINT_SEQUENCES / mf_axes_ranks(&r->options.mesh, r->options.layout.data);
    ASSERT_OK(mf_dataset_make(&text, SEQ, &r->options.data));
    ASSERT_OK(mf_train_check(&r->options));
    return r;
}

void assert_same_steps(const checkpoint_run *r, const checkpoint_run *expected, int64_t from) {
    for (int64_t i = from; i <= r->options.adam.steps; i++)
        if (r->loss[i] != expected->loss[i] || r->grad_norm[i] != expected->grad_norm[i] ||
            r->lr[i] != expected->lr[i] || r->eval[i] != expected->eval[i])
            fail_msg(
                "%s: step %lld: loss %.17g, norm %.17g, rate %.17g, held out %.17g instead of %.17g, %.17g, "
                "%.17g, %.17g",
                r->mesh, (long long)i, r->loss[i], r->grad_norm[i], r->lr[i], r->eval[i], expected->loss[i],
                expected->grad_norm[i], expected->lr[i], expected->eval[i]);
}

static char root[64];
static int folders;

char *checkpoint_folder(void) {
    static char path[128];
    if (!root[0]) {
        snprintf(root, sizeof root, "%s/meshfold-checkpoint-XXXXXX", P_tmpdir);
        assert_non_null(mkdtemp(root));
    }
    char *copy = NULL;
    snprintf(path, sizeof path, "%s/%d", root, folders++);
    ASSERT_OK(mf_folder_make(path));
    ASSERT_OK(mf_host_strdup(path, &copy));
    return copy;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at) {
    (void)info, (void)type, (void)at;
    return remove(path);
}

void checkpoint_folders_remove(void) {
    if (root[0]) nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *checkpoint_path(const char *folder, int64_t step, const char *file) {
    static char path[4][256];
    static int next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s/step-%06lld%s%s", folder, (long long)step, file ? "/" : "",
             file ? file : "");
    return out;
}

static mf_status count_one(void *context, const char *name) {
    (void)name;
    ++*(int *)context;
    return MF_OK;
}

int count_names(const char *folder) {
    int count = 0;
    ASSERT_OK(mf_folder_walk(folder, count_one, &count));
    return count;
}
