/* checkpoint.c: a run that goes on from a checkpoint: bit for bit on its own mesh, to rounding on any other;
 * what is kept, removed, and refused. */
#include "checkpoint_run.h"

#include <math.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* Saves every second step, then goes on from each checkpoint. */
static void go_on_from_each(checkpoint_run *whole) {
    char *folder = checkpoint_folder();
    int64_t steps = whole->options.adam.steps;
    whole->options.eval_every = 3;
    ASSERT_OK(checkpoint_run_go(whole));
    whole->options.checkpoints = folder;
    whole->options.save_every = 2;
    checkpoint_run *rest = NULL;
    ASSERT_OK(mf_host_alloc(1, sizeof *rest, &rest));
    *rest = *whole;
    rest->options.data.text.bytes = rest->text;
    ASSERT_OK(checkpoint_run_go(rest));
    assert_same_steps(rest, whole, 1); /* saving changes nothing */
    assert_int_equal(rest->saves, 3);
    rest->options.checkpoints = NULL;
    for (int64_t step = 2; step < steps; step += 2) {
        rest->options.resume_from = checkpoint_path(folder, step, NULL);
        memset(rest->loss, 0, sizeof rest->loss);
        memset(rest->eval, 0, sizeof rest->eval);
        for (int64_t i = 1; i <= step; i++) rest->eval[i] = whole->eval[i];
        ASSERT_OK(checkpoint_run_go(rest));
        assert_int_equal(rest->resumed, step);
        assert_int_equal(rest->made, steps - step);
        assert_same_steps(rest, whole, step + 1);
        assert_memory_equal(rest->summary, whole->summary, sizeof rest->summary);
    }
    mf_host_free(rest);
    mf_host_free(folder);
}

static void same_mesh_is_bit_for_bit(void **state) {
    (void)state;
    static const char *const meshes[] = {"single", "tsp=2", "dp=2,tsp=2", "tp=2,sp=2", "sp=2,stream=gather",
                                         "sp=3",   "tp=4",  "sp=3,zero=0"};
    size_t count = MF_TEST_SPARSE ? 3 : sizeof meshes / sizeof *meshes;
    for (size_t i = 0; i < count; i++)
        for (int type = MF_F32; type <= MF_BF16; type++) {
            checkpoint_run *run = checkpoint_run_make(meshes[i], (mf_dtype)type, 6);
            run->options.model.recompute = i % 2 ? MF_RECOMPUTE_BLOCK : MF_RECOMPUTE_NONE;
            if (i % 3 == 1) {
                run->options.model.batch /= 2;
                run->options.accumulate = 2;
            }
            run->no_borrow = i == 1 && type == MF_F32;
            go_on_from_each(run);
            mf_host_free(run);
        }
}

static const char *const layouts[] = {"single",
                                      "tsp=2",
                                      "tsp=3",
                                      "tp=4", /* key heads that several ranks have */
                                      "tp=3,reduction=scatter",
                                      "sp=3", /* updates cut anywhere */
                                      "sp=2,zero=0",
                                      "sp=3,stream=gather",
                                      "dp=2,tsp=2",
                                      "tp=2,sp=2",
                                      "dp=2"};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0], BEFORE = 2, AFTER = 2 };

static checkpoint_run *saved_on(const char *mesh, mf_dtype type, const char *folder) {
    checkpoint_run *run = checkpoint_run_make(mesh, type, BEFORE + AFTER);
    run->options.checkpoints = folder;
    run->options.save_every = BEFORE;
    ASSERT_OK(checkpoint_run_go(run));
    return run;
}

static void go_on_at(const checkpoint_run *source, const char *target, const char *from) {
    checkpoint_run *run = checkpoint_run_make(target, source->options.model.type, BEFORE + AFTER);
    run->options.resume_from = from;
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(run->resumed, BEFORE);
    for (int i = BEFORE + 1; i <= BEFORE + AFTER; i++) {
        double error = fabs(run->loss[i] - source->loss[i]) / fabs(source->loss[i]);
        if (!(error <= mf_tolerance(source->options.model.type)))
            fail_msg("from %s to %s: step %d: loss %.9g instead of %.9g", source->mesh, target, i,
                     run->loss[i], source->loss[i]);
    }
    mf_host_free(run);
}

static void any_layout_goes_on_at_any(void **state) {
    (void)state;
    for (int from = 0; from < LAYOUTS; from++) {
        char *folder = checkpoint_folder();
        mf_dtype type = from % 4 == 3 ? MF_BF16 : MF_F32;
        checkpoint_run *source = saved_on(layouts[from], type, folder);
        for (int to = 0; to < LAYOUTS; to++)
            if (!MF_TEST_SPARSE || (from + to) % 4 == 0)
                go_on_at(source, layouts[to], checkpoint_path(folder, BEFORE, NULL));
        mf_host_free(source);
        mf_host_free(folder);
    }
}

/* Loads a checkpoint on another mesh and saves it there again, by the public functions alone. */
typedef struct relay {
    checkpoint_run *run;
    const char *from;
} relay;

static mf_status pass_on(mf_optimizer *optimizer, mf_model *model, const relay *r) {
    mf_status status = MF_OK;
    mf_checkpoint *found = NULL;
    mf_checkpoint_saved saved;
    float times[CHECKPOINT_STEPS];
    mf_checkpoint_progress progress = {.step_s_out = times};
    const mf_train_options *o = &r->run->options;
    MF_GO(mf_checkpoint_find(mf_model_world(model), r->from, NULL, &found));
    MF_GO(mf_checkpoint_match(found, o, mf_train_digest(o)));
    MF_GO(mf_checkpoint_load(found, optimizer, &progress));
    progress.step_s = times;
    MF_GO(mf_checkpoint_save(optimizer, o, &progress, &saved));
fail:
    mf_checkpoint_close(found);
    return status;
}

static mf_status relay_body(mf_world *world, void *argument) {
    mf_status status = MF_OK;
    const relay *r = argument;
    const mf_train_options *o = &r->run->options;
    mf_memory *memory = NULL;
    mf_device *device = NULL;
    mf_mesh mesh = {0};
    mf_model *model = NULL;
    mf_optimizer *optimizer = NULL;
    MF_GO(mf_memory_create(NULL, &memory));
    MF_GO(mf_device_create("cpu", memory, 1, &device));
    MF_GO(mf_mesh_create(world, &o->mesh, &mesh));
    MF_GO(mf_model_create(&o->model, &o->layout, &mesh, device, &model));
    MF_GO(mf_optimizer_create(model, device, &o->adam, NULL, &optimizer));
    MF_GO(pass_on(optimizer, model, r));
    MF_GO(mf_barrier(mesh.world));
fail:
    mf_optimizer_destroy(optimizer);
    mf_model_destroy(model);
    mf_mesh_destroy(&mesh);
    mf_device_destroy(device);
    mf_memory_destroy(memory);
    return status;
}

/* There and back again, nothing is lost: not a bit of a weight or a moment. */
static void there_and_back(const checkpoint_run *source, const char *from, const char *target) {
    char *folder = checkpoint_folder();
    checkpoint_run *middle = checkpoint_run_make(target, source->options.model.type, BEFORE + AFTER);
    checkpoint_run *back = checkpoint_run_make(source->mesh, source->options.model.type, BEFORE + AFTER);
    relay r = {.run = middle, .from = from};
    middle->options.checkpoints = folder;
    ASSERT_OK(
        mf_launch(&(mf_launch_options){.engine = "local", .ranks = mf_mesh_ranks(&middle->options.mesh)},
                  relay_body, &r));
    back->options.resume_from = folder;
    ASSERT_OK(checkpoint_run_go(back));
    back->eval[BEFORE + AFTER] = source->eval[BEFORE + AFTER];
    assert_same_steps(back, source, BEFORE + 1);
    mf_host_free(back);
    mf_host_free(middle);
    mf_host_free(folder);
}

static void nothing_is_lost_on_the_way(void **state) {
    (void)state;
    for (int from = 0; from < LAYOUTS; from++) {
        char *folder = checkpoint_folder();
        mf_dtype type = from % 2 ? MF_BF16 : MF_F32;
        checkpoint_run *source = saved_on(layouts[from], type, folder);
        for (int to = from % 2; to < LAYOUTS; to += MF_TEST_SPARSE ? 6 : 2)
            there_and_back(source, checkpoint_path(folder, BEFORE, NULL), layouts[to]);
        mf_host_free(source);
        mf_host_free(folder);
    }
}

static void newest_stay(void **state) {
    (void)state;
    char *folder = checkpoint_folder();
    checkpoint_run *run = checkpoint_run_make("tsp=2", MF_F32, 7);
    run->options.checkpoints = folder;
    run->options.save_every = 2;
    run->options.keep = 2;
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(run->saves, 4); /* 2, 4, 6, 7 */
    assert_int_equal(count_names(folder), 2);
    assert_int_equal(access(checkpoint_path(folder, 6, "manifest.json"), F_OK), 0);
    assert_int_equal(access(checkpoint_path(folder, 7, "manifest.json"), F_OK), 0);
    run->options.keep = 0; /* at least two do */
    run->options.resume_from = folder;
    run->options.adam.steps = 8;
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(run->made, 1);
    assert_int_equal(count_names(folder), 2);
    mf_host_free(run);
    mf_host_free(folder);
}

/* An older one is named: the newer are out of the way, and a new run clears everything. */
static void newer_ones_are_set_aside(void **state) {
    (void)state;
    char *folder = checkpoint_folder(), again[160];
    checkpoint_run *run = checkpoint_run_make("single", MF_F32, 6);
    run->options.checkpoints = folder;
    run->options.save_every = 2;
    ASSERT_OK(checkpoint_run_go(run));
    run->options.resume_from = checkpoint_path(folder, 2, NULL);
    run->options.adam.steps = 5;
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(run->resumed, 2);
    snprintf(again, sizeof again, "%s.set-aside-1/manifest.json", checkpoint_path(folder, 6, NULL));
    assert_int_equal(access(again, F_OK), 0);
    assert_int_equal(count_names(folder), 5); /* 2, 4, 5, and 4 and 6 set aside */
    run->options.resume_from = NULL;
    run->options.save_every = 0;
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(count_names(folder), 1);
    mf_host_free(run);
    mf_host_free(folder);
}

/* Whoever is asked, all ranks stop after the same step, and the rest is as if nobody had been. */
static void asked_to_stop(void **state) {
    (void)state;
    volatile sig_atomic_t stop = 1;
    char *folder = checkpoint_folder();
    checkpoint_run *whole = checkpoint_run_make("tsp=3", MF_F32, 4);
    checkpoint_run *run = checkpoint_run_make("tsp=3", MF_F32, 4);
    ASSERT_OK(checkpoint_run_go(whole));
    run->options.checkpoints = folder;
    run->options.stop = &stop;
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(run->stopped, 1);
    assert_int_equal(run->made, 1);
    run->options.resume_from = folder;
    for (int step = 2; step <= 4; step++) {
        ASSERT_OK(checkpoint_run_go(run));
        assert_int_equal(run->resumed, step - 1);
        assert_int_equal(run->stopped, step < 4 ? step : 0); /* after the last there is nothing to stop */
    }
    assert_same_steps(run, whole, 1);
    assert_memory_equal(run->summary, whole->summary, sizeof run->summary);
    mf_host_free(run);
    mf_host_free(whole);
    mf_host_free(folder);
}

/* From the last step a run only sums up; with more steps it goes on. */
static void at_its_end(void **state) {
    (void)state;
    char *folder = checkpoint_folder();
    checkpoint_run *run = checkpoint_run_make("sp=2", MF_F32, 4);
    run->options.checkpoints = folder;
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(run->saves, 1);
    double summary[3];
    memcpy(summary, run->summary, sizeof summary);
    run->options.resume_from = folder;
    run->eval[4] = 0;
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(run->made, 0);
    assert_int_equal(run->resumed, 4);
    assert_true(run->eval[4] == 0); /* that was known */
    assert_memory_equal(run->summary, summary, sizeof summary);
    run->options.adam.steps = 6;
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(run->made, 2);
    assert_true(run->summary[0] == summary[0] && run->summary[1] != summary[1]);
    run->options.adam.steps = 3;
    ASSERT_FAILS(checkpoint_run_go(run), MF_EINVAL, "--steps 3: the checkpoint has 6 steps behind it");
    mf_host_free(run);
    mf_host_free(folder);
}

static void other_runs_are_refused(void **state) {
    (void)state;
    char *folder = checkpoint_folder();
    checkpoint_run *run = checkpoint_run_make("tsp=2", MF_F32, 2);
    run->options.checkpoints = folder;
    ASSERT_OK(checkpoint_run_go(run));
    mf_train_options good = run->options;
    good.resume_from = folder;
    good.adam.steps = 4;
    run->options = good;
    run->options.model.seed = 4;
    ASSERT_FAILS(checkpoint_run_go(run), MF_EINVAL,
                 "--seed 4: the checkpoint's run has seed 3, and keeps it");
    run->options = good;
    run->options.model.tokens = 24;
    ASSERT_FAILS(checkpoint_run_go(run), MF_EINVAL, "--seq 24: the checkpoint's run has 25, and keeps it");
    run->options = good;
    run->options.model.type = MF_BF16;
    ASSERT_FAILS(checkpoint_run_go(run), MF_EINVAL, "--dtype bf16: the checkpoint's run has f32");
    run->options = good;
    run->options.accumulate = 2;
    ASSERT_FAILS(checkpoint_run_go(run), MF_EINVAL, "a step would have 4 sequences");
    run->options = good;
    run->options.model.config.ffn = 14;
    ASSERT_FAILS(checkpoint_run_go(run), MF_EINVAL, "--model: has ");
    run->options = good;
    run->text[5] ^= 1;
    ASSERT_FAILS(checkpoint_run_go(run), MF_EINVAL, "--data: is another text");
    run->text[5] ^= 1;
    mf_host_free(run);
    mf_host_free(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_mesh_is_bit_for_bit),
                                       cmocka_unit_test(any_layout_goes_on_at_any),
                                       cmocka_unit_test(nothing_is_lost_on_the_way),
                                       cmocka_unit_test(newest_stay),
                                       cmocka_unit_test(newer_ones_are_set_aside),
                                       cmocka_unit_test(asked_to_stop),
                                       cmocka_unit_test(at_its_end),
                                       cmocka_unit_test(other_runs_are_refused)};
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    checkpoint_folders_remove();
    return failures;
}
