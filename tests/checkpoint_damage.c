/* checkpoint_damage.c: checkpoints that are not whole, or lie, are passed over with their reason; a save that
 * fails at any point leaves the last whole one; a failure while saving or loading is everyone's. */
#include "checkpoint_run.h"

#include "io/digest.h"
#include "io/safetensors.h"
#include "io/tensor_stream.h"
#include "meshfold/convert.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OLDER = 2, NEWER = 4 };
static const char part0[] = "part-00000.safetensors", part1[] = "part-00001.safetensors",
                  manifest[] = "manifest.json";

/* Checkpoints after steps 2 and 4 in a new folder; *folder is the caller's. */
static checkpoint_run *two_checkpoints(char **folder) {
    *folder = checkpoint_folder();
    checkpoint_run *run = checkpoint_run_make("tsp=2", MF_F32, NEWER);
    run->options.checkpoints = *folder;
    run->options.save_every = OLDER;
    ASSERT_OK(checkpoint_run_go(run));
    run->options.resume_from = *folder;
    run->options.checkpoints = NULL;
    return run;
}

static void write_file(const char *path, const void *content, size_t bytes) {
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(content, 1, bytes, out), bytes);
    assert_int_equal(fclose(out), 0);
}

static void flip_bit(const char *path, long at) {
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    fputc(byte ^ 4, file);
    assert_int_equal(fclose(file), 0);
}

static void assert_passed_over(checkpoint_run *run, const char *why) {
    ASSERT_OK(checkpoint_run_go(run));
    if (run->resumed != OLDER || run->passes != 1 || !strstr(run->why, why))
        fail_msg("went on from step %lld after passing over %d: %s\nexpected: %s", (long long)run->resumed,
                 run->passes, run->why, why);
}

/* One kind of damage to the newest checkpoint's files. */
typedef struct damage {
    const char *what, *why;
    void (*inflict)(const char *folder);
} damage;

static void cut_part(const char *folder) {
    const char *path = checkpoint_path(folder, NEWER, part1);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(truncate(path, info.st_size - 1), 0);
}
static void empty_part(const char *folder) {
    assert_int_equal(truncate(checkpoint_path(folder, NEWER, part0), 0), 0);
}
static void flip_value(const char *folder) { flip_bit(checkpoint_path(folder, NEWER, part1), -40); }
static void flip_header(const char *folder) { flip_bit(checkpoint_path(folder, NEWER, part0), 3); }
static void lose_part(const char *folder) {
    assert_int_equal(unlink(checkpoint_path(folder, NEWER, part1)), 0);
}
static void lose_manifest(const char *folder) {
    assert_int_equal(unlink(checkpoint_path(folder, NEWER, manifest)), 0);
}
static void flip_manifest(const char *folder) {
    const char *path = checkpoint_path(folder, NEWER, manifest);
    char *text = NULL;
    size_t bytes = 0;
    ASSERT_OK(mf_file_read(path, &text, &bytes));
    char *digit = strstr(text, "\"updates\": ");
    assert_non_null(digit);
    digit[strlen("\"updates\": ")] ^= 1; /* 4 to 5 */
    write_file(path, text, bytes);
    mf_host_free(text);
}
static void cut_manifest(const char *folder) {
    assert_int_equal(truncate(checkpoint_path(folder, NEWER, manifest), 300), 0);
}
static void change_config(const char *folder) { flip_bit(checkpoint_path(folder, NEWER, "config.json"), -9); }
static void empty_folder(const char *folder) {
    const char *const all[] = {part0, part1, manifest, "config.json"};
    for (int i = 0; i < 4; i++) assert_int_equal(unlink(checkpoint_path(folder, NEWER, all[i])), 0);
}
static void part_becomes_folder(const char *folder) {
    lose_part(folder);
    assert_int_equal(mkdir(checkpoint_path(folder, NEWER, part1), 0700), 0);
}
static void becomes_file(const char *folder) {
    empty_folder(folder);
    assert_int_equal(rmdir(checkpoint_path(folder, NEWER, NULL)), 0);
    write_file(checkpoint_path(folder, NEWER, NULL), "x", 1);
}

static const damage damages[] = {
    {"a part is cut short", "part-00001.safetensors: has ", cut_part},
    {"a part is empty", "part-00000.safetensors: has 0 bytes, but ", empty_part},
    {"a value's bit is flipped", "part-00001.safetensors: its content is not what was written", flip_value},
    {"a header's bit is flipped", "part-00000.safetensors: its content is not what was written", flip_header},
    {"a part is missing", "part-00001.safetensors: cannot be opened: No such file", lose_part},
    {"a part is a folder", "part-00001.safetensors: ", part_becomes_folder},
    {"the manifest is missing", "manifest.json: cannot be opened: No such file", lose_manifest},
    {"the manifest is cut short", "manifest.json: is not valid JSON", cut_manifest},
    {"a digit of the manifest changed", "manifest.json: its content is not what was written", flip_manifest},
    {"the configuration changed", "config.json: its content is not what was written", change_config},
    {"the folder is empty", "manifest.json: cannot be opened: No such file", empty_folder},
    {"it is a file", "manifest.json: cannot be opened: Not a directory", becomes_file},
};

static void damaged_ones_are_passed_over(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        char *folder = NULL;
        checkpoint_run *run = two_checkpoints(&folder);
        damages[i].inflict(folder);
        print_message("%s\n", damages[i].what);
        assert_passed_over(run, damages[i].why);
        mf_host_free(run);
        mf_host_free(folder);
    }
}

static void none_is_whole(void **state) {
    (void)state;
    char *folder = NULL, *hollow = checkpoint_folder();
    checkpoint_run *run = two_checkpoints(&folder);
    cut_part(folder);
    assert_int_equal(unlink(checkpoint_path(folder, OLDER, manifest)), 0);
    ASSERT_FAILS(checkpoint_run_go(run), MF_EFORMAT, "no whole checkpoint; of the newest: ");
    assert_non_null(strstr(run->error[1].message, "part-00001.safetensors: has "));
    assert_int_equal(run->passes, 2);
    mf_checkpoint *found = NULL;
    ASSERT_FAILS(mf_checkpoint_peek(folder, &found), MF_EFORMAT, "no whole checkpoint; of the newest: ");
    assert_null(found);
    run->options.resume_from = checkpoint_path(folder, OLDER, NULL);
    ASSERT_FAILS(checkpoint_run_go(run), MF_EFORMAT, "manifest.json: cannot be opened");
    run->options.resume_from = hollow;
    ASSERT_FAILS(checkpoint_run_go(run), MF_EFORMAT, "no whole checkpoint");
    run->options.resume_from = "/nowhere/at/all";
    ASSERT_FAILS(checkpoint_run_go(run), MF_EFORMAT, "no whole checkpoint");
    mf_host_free(run);
    mf_host_free(hollow);
    mf_host_free(folder);
}

/* What a killed save leaves: a draft, and names that only look like a checkpoint's. */
static void drafts_are_not_looked_at(void **state) {
    (void)state;
    char *folder = NULL, path[256];
    checkpoint_run *run = two_checkpoints(&folder);
    const char *const names[] = {".step-000009.partial", "step-9", "step-0000010",
                                 "step-000010x",         "step-",  "notes"};
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    snprintf(path, sizeof path, "%s/%s/%s", folder, names[0], part0);
    write_file(path, "half", 4);
    run->options.checkpoints = folder;
    run->options.adam.steps = 5;
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(run->passes, 0);
    assert_int_equal(run->resumed, NEWER);
    assert_int_equal(count_names(folder), 8); /* steps 2, 4, 5, and the names that are none */
    mf_host_free(run);
    mf_host_free(folder);
}

/* A manifest with a right checksum, whatever it says. Takes root. */
static void seal(const char *path, json_t *root) {
    char hex[20];
    json_object_del(root, "manifest_xxh3");
    char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)mf_digest_of(text, strlen(text)).xxh3);
    free(text);
    json_object_set_new(root, "manifest_xxh3", json_string(hex));
    text = json_dumps(root, 0);
    write_file(path, text, strlen(text));
    free(text);
    json_decref(root);
}

static json_t *manifest_of(const char *folder) {
    json_t *root = json_load_file(checkpoint_path(folder, NEWER, manifest), 0, NULL);
    assert_non_null(root);
    return root;
}

/* A member of an object in the manifest (NULL: of itself), and what it is set to; NULL: removed. */
static const struct lie {
    const char *in, *name, *json, *why;
} lies[] = {
    {NULL, "format", "\"another\"", "is no manifest of a checkpoint"},
    {NULL, "format", "7", "\"format\" is no text"},
    {NULL, "version", "2", "has version 2; this program reads version 1"},
    {NULL, "version", "\"1\"", "\"version\" is no whole number"},
    {NULL, "run", "[]", "\"run\" is no object"},
    {NULL, "run", NULL, "\"run\" is no object"},
    {NULL, "progress", "null", "\"progress\" is no object"},
    {NULL, "settings", "\"none\"", "\"settings\" is neither an object nor null"},
    {NULL, "config", "{}", "\"file\" is no text"},
    {NULL, "parts", "{}", "\"parts\" is no list of 2"},
    {NULL, "parts", "[]", "\"parts\" is no list of 2"},
    {NULL, "parts", "[1, 2]", "\"file\" is no text"},
    {NULL, "parts", "[{\"file\": \"../step-000002/part-00000.safetensors\"}, {}]",
     "names a file ../step-000002"},
    {NULL, "parts",
     "[{\"file\": \"part-00000.safetensors\", \"bytes\": -1, \"xxh3\": \"0000000000000000\"}, {}]",
     "\"bytes\" is no whole number"},
    {NULL, "parts", "[{\"file\": \"part-00000.safetensors\", \"bytes\": 1, \"xxh3\": \"0x1\"}, {}]",
     "\"xxh3\" is not sixteen hexadecimal digits"},
    {"run", "ranks", "9223372036854775807", "\"ranks\" is no whole number from 1 to 1048576"},
    {"run", "ranks", "1e9", "\"ranks\" is no whole number"},
    {"run", "ranks", "3", "\"parts\" is no list of 3"},
    {"run", "dtype", "\"f8\"", "\"dtype\" is f8"},
    {"run", "mesh", "3", "\"mesh\" is no text"},
    {"run", "seq", "0", "\"seq\" is no whole number"},
    {"run", "seed", "0.5", "\"seed\" is no whole number"},
    {"run", "data_xxh3", "\"zz\"", "\"data_xxh3\" is not sixteen"},
    {"progress", "step", "-4", "\"step\" is no whole number"},
    {"progress", "updates", "5", "\"updates\" is no whole number from 0 to 4"},
    {"progress", "skipped", "99", "\"skipped\" is no whole number"},
    {"progress", "loss_first", "\"low\"", "\"loss_first\" is neither a number nor null"},
};

static void lies_are_passed_over(void **state) {
    (void)state;
    char *folder = NULL;
    checkpoint_run *run = two_checkpoints(&folder);
    json_t *truth = manifest_of(folder);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        json_t *root = json_deep_copy(truth), *in = lies[i].in ? json_object_get(root, lies[i].in) : root;
        if (lies[i].json)
            json_object_set_new(in, lies[i].name, json_loads(lies[i].json, JSON_DECODE_ANY, NULL));
        else
            json_object_del(in, lies[i].name);
        seal(checkpoint_path(folder, NEWER, manifest), root);
        assert_passed_over(run, lies[i].why);
    }
    static const char *const texts[] = {"", "[]", "7", "{", "{\"format\": 1, \"format\": 2}", "\xff\xfe"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        write_file(checkpoint_path(folder, NEWER, manifest), texts[i], strlen(texts[i]));
        assert_passed_over(run, "manifest.json: ");
    }
    char *deep = malloc(100001);
    memset(deep, '[', 100000);
    write_file(checkpoint_path(folder, NEWER, manifest), deep, 100000);
    free(deep);
    assert_passed_over(run, "manifest.json: is not valid JSON");
    json_decref(truth);
    mf_host_free(run);
    mf_host_free(folder);
}

/* A part of one tensor, with all checksums right. */
static void replace_part(const char *folder, const char *name, int64_t rows, int64_t cols,
                         const char *shape) {
    static const float zeros[64];
    mf_tensor_info tensor;
    mf_tensor_stream *stream = NULL;
    mf_digest digest;
    char hex[20];
    json_t *shapes = shape ? json_pack("{s:s}", name, shape) : NULL, *root = manifest_of(folder);
    ASSERT_OK(mf_tensor_describe(&(mf_tensor_spec){name, rows, cols}, MF_F32, &tensor));
    ASSERT_OK(mf_tensor_stream_open(checkpoint_path(folder, NEWER, part1), &tensor, 1, shapes, &stream));
    ASSERT_OK(mf_tensor_stream_write(stream, zeros, tensor.bytes));
    ASSERT_OK(mf_tensor_stream_finish(stream, &digest));
    mf_tensor_stream_close(stream);
    json_decref(shapes);
    snprintf(hex, sizeof hex, "%016llx", (unsigned long long)digest.xxh3);
    json_t *entry = json_array_get(json_object_get(root, "parts"), 1);
    json_object_set_new(entry, "bytes", json_integer(digest.bytes));
    json_object_set_new(entry, "xxh3", json_string(hex));
    seal(checkpoint_path(folder, NEWER, manifest), root);
}

typedef struct odd_part {
    const char *name;
    int64_t rows, cols;
    const char *shape, *why;
} odd_part;
static const odd_part odd_parts[] = {
    {"weights/model.norm.weight@0,0", 0, 16, "[16]", "its parts have "}, /* twice, and the rest not at all */
    {"weights/model.nonsense@0,0", 0, 16, "[16]", "which the model does not have"},
    {"weights/model.norm.weigh@0,0", 0, 16, "[16]", "which the model does not have"},
    {"model.norm.weight", 0, 16, "[16]", "which is none of a checkpoint's"},
    {"moment9/model.norm.weight@0,0", 0, 16, "[16]", "which is none of a checkpoint's"},
    {"weights/model.norm.weight@0", 0, 16, "[16]", "which is none of a checkpoint's"},
    {"weights/model.norm.weight@0,-1", 0, 16, "[16]", "which is none of a checkpoint's"},
    {"weights/model.norm.weight@0,999999999999999999", 0, 16, "[16]", "leaves its [16]"},
    {"weights/model.norm.weight@0,1", 0, 16, "[16]", "leaves its [16]"},
    {"weights/model.norm.weight@0,0", 0, 16, "[17]", "but the model's is [16]"},
    {"weights/model.norm.weight@0,0", 0, 16, NULL, "but the model's is [16]"},
    {"weights/model.norm.weight@0,0", 4, 4, "[16]", "is not a slice of [16] in F32"},
    {"weights/model.embed_tokens.weight@256,0", 2, 16, "[257, 16]", "leaves its [257, 16]"},
    {"run/step_s", 0, 7, NULL, "does not have the times of 4 steps"},
};

/* It has no use for a run's times. */
static void assert_not_converted(const char *folder, const odd_part *odd) {
    mf_convert_result result;
    char to[256];
    snprintf(to, sizeof to, "%s/model", folder);
    mf_convert_options options = {
        .from = checkpoint_path(folder, NEWER, NULL), .to = to, .type = MF_FILE_OTHER, .shard_bytes = 1000};
    ASSERT_FAILS(mf_model_convert(&options, &result), MF_EFORMAT,
                 strcmp(odd->name, "run/step_s") == 0 ? "its parts have " : odd->why);
    assert_int_equal(count_names(folder), 2);
}

/* What adds up, but fits no model: the run ends before its first step. */
static void odd_parts_are_refused(void **state) {
    (void)state;
    char *folder = NULL;
    checkpoint_run *run = two_checkpoints(&folder);
    for (size_t i = 0; i < sizeof odd_parts / sizeof *odd_parts; i++) {
        replace_part(folder, odd_parts[i].name, odd_parts[i].rows, odd_parts[i].cols, odd_parts[i].shape);
        ASSERT_FAILS(checkpoint_run_go(run), MF_EFORMAT, odd_parts[i].why);
        assert_int_equal(run->made, 0);
        assert_not_converted(folder, &odd_parts[i]);
    }
    mf_host_free(run);
    mf_host_free(folder);
}

/* After whatever went wrong what is there is whole; drafts are none that a run could take. */
static void assert_only_whole(checkpoint_run *run, const char *folder, int least, bool draft) {
    int names = count_names(folder), whole = 0;
    for (int64_t step = 1; step <= CHECKPOINT_STEPS; step++) {
        mf_checkpoint *found = NULL;
        if (access(checkpoint_path(folder, step, NULL), F_OK) != 0) continue;
        ASSERT_OK(mf_checkpoint_peek(checkpoint_path(folder, step, NULL), &found));
        assert_int_equal(mf_checkpoint_step(found), step);
        mf_checkpoint_close(found);
        whole++;
    }
    assert_true(whole >= least);
    if (names > whole + draft) fail_msg("%s: %d names, but %d checkpoints", run->mesh, names, whole);
}

/* Files may grow to `bytes`: the disk is full. */
static mf_status go_with_limit(checkpoint_run *run, rlim_t bytes) {
    struct rlimit before, now;
    getrlimit(RLIMIT_FSIZE, &before);
    now = before;
    now.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &now);
    mf_status status = checkpoint_run_go(run);
    setrlimit(RLIMIT_FSIZE, &before);
    return status;
}

static void full_disk_ends_the_run(void **state) {
    (void)state;
    char *folder = NULL;
    checkpoint_run *run = two_checkpoints(&folder);
    struct stat part, other;
    assert_int_equal(stat(checkpoint_path(folder, NEWER, part0), &part), 0);
    assert_int_equal(stat(checkpoint_path(folder, NEWER, manifest), &other), 0);
    run->options.checkpoints = folder;
    run->options.adam.steps = CHECKPOINT_STEPS;
    ASSERT_FAILS(go_with_limit(run, (rlim_t)part.st_size / 2), MF_EIO,
                 "safetensors: cannot be written: File too");
    assert_non_null(strstr(run->error[0].message, "/.step-000006.partial/part-0000"));
    assert_int_equal(run->made, 2); /* nothing is trained on without checkpoints */
    assert_only_whole(run, folder, 2, false);
    ASSERT_FAILS(go_with_limit(run, (rlim_t)other.st_size / 2), MF_EIO, "cannot be written: File too");
    assert_only_whole(run, folder, 2, false);
    ASSERT_OK(checkpoint_run_go(run));
    assert_int_equal(run->resumed, NEWER);
    mf_host_free(run);
    mf_host_free(folder);
}

static void folder_cannot_be_made(void **state) {
    (void)state;
    char *folder = checkpoint_folder(), path[256];
    checkpoint_run *run = checkpoint_run_make("tsp=3", MF_F32, 3);
    snprintf(path, sizeof path, "%s/file", folder);
    write_file(path, "x", 1);
    run->options.checkpoints = path;
    run->options.save_every = 1;
    ASSERT_FAILS(checkpoint_run_go(run), MF_EIO, "/file");
    assert_true(run->made <= 1);
    mf_host_free(run);
    mf_host_free(folder);
}

#if defined(__SANITIZE_THREAD__)
enum { STRIDE = 211 };
#elif defined(__SANITIZE_ADDRESS__)
enum { STRIDE = 53 };
#else
enum { STRIDE = 13 };
#endif

/* From step 2 to 4 with a checkpoint after each: the n-th failure is everyone's, and costs at most what was
 * not saved. */
static void fail_each(const char *mesh, bool no_borrow, int stride, mf_fault fault, mf_status expected) {
    char *before = checkpoint_folder();
    checkpoint_run *run = checkpoint_run_make(mesh, MF_BF16, 2);
    run->no_borrow = no_borrow;
    run->options.checkpoints = before;
    ASSERT_OK(checkpoint_run_go(run));
    run->options.resume_from = checkpoint_path(before, 2, NULL);
    run->options.adam.steps = 4;
    run->options.save_every = 1;
    char from[256];
    snprintf(from, sizeof from, "%s", run->options.resume_from);
    run->options.resume_from = from;
    for (int64_t n = 1, fired = 1; fired; n += stride) {
        char *folder = checkpoint_folder();
        run->options.checkpoints = folder;
        mf_fault_arm(fault, n);
        mf_status status = checkpoint_run_go(run);
        fired = mf_fault_fired(fault);
        mf_fault_arm(fault, 0);
        if (status != (fired ? expected : MF_OK))
            fail_msg("%s: failure %lld %s, but the run ended with %s: %s", mesh, (long long)n,
                     fired ? "came" : "did not come", mf_status_name(status),
                     status ? mf_error_last()->message : "");
        assert_only_whole(run, folder, fired ? 0 : 2, fired);
        ASSERT_OK(mf_checkpoints_tidy(folder, CHECKPOINT_STEPS));
        assert_only_whole(run, folder, 0, false);
        mf_host_free(folder);
    }
    mf_host_free(run);
    mf_host_free(before);
}

static void injected_failures(void **state) {
    (void)state;
    fail_each("single", false, STRIDE, MF_FAULT_ALLOC, MF_ENOMEM);
    fail_each("tsp=3", false, STRIDE, MF_FAULT_ALLOC, MF_ENOMEM);
    fail_each("tsp=3", false, MF_TEST_SPARSE ? STRIDE : 3, MF_FAULT_COMM, MF_ECOMM);
    fail_each("dp=2,tp=2", true, STRIDE, MF_FAULT_ALLOC, MF_ENOMEM);
    fail_each("dp=2,tp=2", true, STRIDE, MF_FAULT_COMM, MF_ECOMM);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_ones_are_passed_over), cmocka_unit_test(none_is_whole),
        cmocka_unit_test(drafts_are_not_looked_at),     cmocka_unit_test(lies_are_passed_over),
        cmocka_unit_test(odd_parts_are_refused),        cmocka_unit_test(full_disk_ends_the_run),
        cmocka_unit_test(folder_cannot_be_made),        cmocka_unit_test(injected_failures)};
    signal(SIGXFSZ, SIG_IGN);
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    checkpoint_folders_remove();
    return failures;
}
