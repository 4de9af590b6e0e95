/* convert.c: models of every family between folders, types and checkpoints, tensor for tensor to the byte;
 * what is carried, what is refused; every failure leaves nothing. */
#include "support.h"

#include "io/file.h"
#include "meshfold/convert.h"

#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const families[] = {"llama3",      "llama_linear", "mistral",   "qwen2",
                                       "qwen2_plain", "qwen3",        "qwen3_tied"};
enum { FAMILIES = sizeof families / sizeof *families, SMALL = 4000 };

static char folder[64];

/* A path in the test's folder; valid until the next but seven. */
static const char *at(const char *name) {
    static char path[8][160];
    static int next;
    char *out = path[next++ % 8];
    snprintf(out, sizeof path[0], "%s/%s", folder, name);
    return out;
}

static const char *golden(const char *family) {
    static char path[512];
    snprintf(path, sizeof path, "%s/tests/golden/families/%s", MESHFOLD_SOURCE, family);
    return path;
}

static mf_status convert(const char *from, const char *to, mf_file_type type, int64_t shard_bytes) {
    mf_convert_result result;
    return mf_model_convert(
        &(mf_convert_options){.from = from, .to = to, .type = type, .shard_bytes = shard_bytes}, &result);
}

static mf_status to_checkpoint(const char *from, const char *to) {
    mf_convert_result result;
    return mf_model_convert(
        &(mf_convert_options){.from = from, .to = to, .checkpoint = true, .shard_bytes = SMALL}, &result);
}

static void clear(const char *name) { ASSERT_OK(mf_folder_remove(at(name))); }

static void assert_absent(const char *name) {
    char partial[64];
    snprintf(partial, sizeof partial, "%s.partial", name);
    assert_int_not_equal(access(at(name), F_OK), 0);
    assert_int_not_equal(access(at(partial), F_OK), 0);
}

/* The same names, types, shapes and bytes. */
static void assert_same_tensors(const char *got_folder, const char *expected_folder) {
    mf_tensor_set *got = NULL, *expected = NULL;
    const mf_tensor_info *a, *b;
    ASSERT_OK(mf_tensor_set_open(got_folder, &got));
    ASSERT_OK(mf_tensor_set_open(expected_folder, &expected));
    for (int i = 0; (a = mf_tensor_set_at(got, i)); i++)
        assert_non_null(mf_tensor_set_find(expected, a->name));
    for (int i = 0; (b = mf_tensor_set_at(expected, i)); i++) {
        a = mf_tensor_set_find(got, b->name);
        if (!a) fail_msg("%s has no %s", got_folder, b->name);
        assert_string_equal(a->type_name, b->type_name);
        assert_int_equal(a->dims, b->dims);
        assert_memory_equal(a->shape, b->shape, sizeof a->shape);
        assert_int_equal(a->bytes, b->bytes);
        if (a->bytes && memcmp(a->data, b->data, a->bytes) != 0) fail_msg("%s: other values", b->name);
    }
    mf_tensor_set_close(got);
    mf_tensor_set_close(expected);
}

static void assert_same_file(const char *a, const char *b) {
    char *x = NULL, *y = NULL;
    size_t x_bytes = 0, y_bytes = 0;
    ASSERT_OK(mf_file_read(a, &x, &x_bytes));
    ASSERT_OK(mf_file_read(b, &y, &y_bytes));
    if (x_bytes != y_bytes || memcmp(x, y, x_bytes) != 0) fail_msg("%s and %s differ", a, b);
    mf_host_free(x);
    mf_host_free(y);
}

static void assert_same_config(const char *a, const char *b) {
    char x[600], y[600];
    snprintf(x, sizeof x, "%s/config.json", a);
    snprintf(y, sizeof y, "%s/config.json", b);
    assert_same_file(x, y);
}

static void copied_as_they_are(void **state) {
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        ASSERT_OK(convert(golden(families[i]), at("one"), MF_FILE_OTHER, (int64_t)1 << 40));
        assert_int_equal(access(at("one/model.safetensors"), F_OK), 0);
        assert_same_tensors(at("one"), golden(families[i]));
        assert_same_config(at("one"), golden(families[i]));
        clear("one");
    }
}

/* Every file but one that has one tensor keeps to the limit, and the index says what it has to. */
static void assert_shards(const char *path, int64_t limit) {
    json_t *root = json_load_file(at("shards/model.safetensors.index.json"), 0, NULL);
    const char *name;
    json_t *file;
    int64_t total = 0, held = 0;
    mf_tensor_set *set = NULL;
    ASSERT_OK(mf_tensor_set_open(path, &set));
    for (int i = 0; mf_tensor_set_at(set, i); i++) total += (int64_t)mf_tensor_set_at(set, i)->bytes;
    assert_int_equal(json_integer_value(json_object_get(json_object_get(root, "metadata"), "total_size")),
                     total);
    json_object_foreach(json_object_get(root, "weight_map"), name, file) {
        mf_safetensors *shard = NULL;
        char in[64];
        snprintf(in, sizeof in, "shards/%s", json_string_value(file));
        ASSERT_OK(mf_safetensors_open(at(in), &shard));
        int64_t bytes = 0;
        for (int i = 0; i < mf_safetensors_count(shard); i++)
            bytes += (int64_t)mf_safetensors_at(shard, i)->bytes;
        assert_true(bytes <= limit || mf_safetensors_count(shard) == 1);
        assert_non_null(mf_safetensors_find(shard, name));
        held += (int64_t)mf_safetensors_find(shard, name)->bytes;
        mf_safetensors_close(shard);
    }
    assert_int_equal(held, total);
    mf_tensor_set_close(set);
    json_decref(root);
}

static void cut_into_shards_and_back(void **state) {
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        ASSERT_OK(convert(golden(families[i]), at("shards"), MF_FILE_OTHER, SMALL));
        assert_shards(at("shards"), SMALL);
        assert_int_not_equal(access(at("shards/model.safetensors"), F_OK), 0);
        ASSERT_OK(convert(at("shards"), at("one"), MF_FILE_OTHER, (int64_t)1 << 40));
        ASSERT_OK(convert(at("one"), at("again"), MF_FILE_OTHER, SMALL));
        assert_same_tensors(at("one"), golden(families[i]));
        assert_same_tensors(at("again"), at("shards"));
        assert_same_file(at("again/model.safetensors.index.json"), at("shards/model.safetensors.index.json"));
        clear("shards");
        clear("one");
        clear("again");
    }
}

static mf_file_type type_of_family(const char *family, const char **torch) {
    mf_tensor_set *set = NULL;
    static const char *const names[] = {"float32", "bfloat16", "float16"};
    ASSERT_OK(mf_tensor_set_open(golden(family), &set));
    mf_file_type type = mf_tensor_set_at(set, 0)->type;
    mf_tensor_set_close(set);
    *torch = names[type];
    return type;
}

/* By way of f32, and rounded to nearest: what was narrow comes back as it was. */
static void types_there_and_back(void **state) {
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        const char *torch = NULL;
        char found[MF_CONFIG_TYPE];
        mf_file_type type = type_of_family(families[i], &torch);
        ASSERT_OK(convert(golden(families[i]), at("wide"), MF_FILE_F32, SMALL));
        ASSERT_OK(mf_config_type(at("wide/config.json"), found));
        assert_string_equal(found, "float32");
        ASSERT_OK(convert(at("wide"), at("back"), type, (int64_t)1 << 40));
        ASSERT_OK(mf_config_type(at("back/config.json"), found));
        assert_string_equal(found, torch);
        assert_same_tensors(at("back"), golden(families[i]));
        clear("wide");
        clear("back");
    }
}

/* All else that a config.json says is still there. */
static void configs_keep_their_rest(void **state) {
    (void)state;
    static const char config[] =
        "{\"model_type\": \"odd\", \"torch_dtype\": \"float32\", \"eps\": 1e-05, "
        "\"theta\": 0.1, \"list\": [1, {\"deep\": 0.30000000000000004}], \"none\": null}";
    ASSERT_OK(mf_file_write(at("from.json"), config, strlen(config)));
    ASSERT_OK(mf_config_retype(at("from.json"), "bfloat16", at("to.json")));
    json_t *from = json_load_file(at("from.json"), 0, NULL), *to = json_load_file(at("to.json"), 0, NULL);
    assert_string_equal(json_string_value(json_object_get(to, "torch_dtype")), "bfloat16");
    assert_null(json_object_get(to, "dtype"));
    json_object_set_new(to, "torch_dtype", json_string("float32"));
    assert_true(json_equal(from, to));
    json_decref(from);
    json_decref(to);
    unlink(at("from.json"));
    unlink(at("to.json"));
}

static void checkpoints_and_back(void **state) {
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        mf_checkpoint *found = NULL;
        ASSERT_OK(to_checkpoint(golden(families[i]), at("checkpoint")));
        ASSERT_OK(mf_checkpoint_find_alone(at("checkpoint"), NULL, &found));
        assert_true(mf_checkpoint_is_converted(found));
        assert_int_equal(mf_checkpoint_step(found), 0);
        mf_checkpoint_close(found);
        assert_int_equal(access(at("checkpoint/part-00001.safetensors"), F_OK), 0);
        ASSERT_OK(convert(at("checkpoint"), at("back"), MF_FILE_OTHER, (int64_t)1 << 40));
        assert_same_tensors(at("back"), golden(families[i]));
        assert_same_config(at("back"), golden(families[i]));
        clear("checkpoint");
        clear("back");
    }
}

/* A folder of one file with this header and these values. */
static void put_model(const char *name, const char *header, const void *data, size_t bytes) {
    uint64_t length = strlen(header);
    char *all = NULL, file[64];
    ASSERT_OK(mf_folder_make(at(name)));
    ASSERT_OK(mf_host_alloc(8 + length + bytes, 1, &all));
    memcpy(all, &length, 8);
    memcpy(all + 8, header, length);
    memcpy(all + 8 + length, data, bytes);
    snprintf(file, sizeof file, "%s/model.safetensors", name);
    ASSERT_OK(mf_file_write(at(file), all, 8 + length + bytes));
    snprintf(file, sizeof file, "%s/config.json", name);
    ASSERT_OK(mf_file_write(at(file), "{}", 2));
    mf_host_free(all);
}

static void strange_tensors_stay(void **state) {
    (void)state;
    const float values[] = {1, -2, 0.1f, INFINITY, NAN, 3.4e38f};
    char data[24 + 3 + 8] = {1, 2, 3};
    memcpy(data, values, 24);
    put_model("strange",
              "{\"cube\":{\"dtype\":\"F32\",\"shape\":[1,2,1,3],\"data_offsets\":[0,24]},"
              "\"bytes\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[24,27]},"
              "\"none\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[27,27]},"
              "\"scalar\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[27,35]}}",
              data, sizeof data);
    ASSERT_OK(convert(at("strange"), at("to"), MF_FILE_OTHER, 1));
    assert_same_tensors(at("to"), at("strange"));
    clear("to");
    ASSERT_OK(convert(at("strange"), at("to"), MF_FILE_F32, 1));
    assert_same_tensors(at("to"), at("strange"));
    clear("to");
    ASSERT_FAILS(convert(at("strange"), at("to"), MF_FILE_F16, 1), MF_EINVAL,
                 "tensor cube has the value 3.4e+38, which is too large for F16");
    assert_absent("to");
    ASSERT_FAILS(convert(at("strange"), at("to"), MF_FILE_BF16, 1), MF_EINVAL, "too large for BF16");
    assert_absent("to");
    clear("strange");
}

static void places_are_refused(void **state) {
    (void)state;
    const char *from = golden("llama3");
    ASSERT_OK(mf_folder_make(at("to")));
    ASSERT_OK(convert(from, at("to/"), MF_FILE_OTHER, SMALL)); /* an empty one is fine */
    ASSERT_FAILS(convert(from, at("to"), MF_FILE_OTHER, SMALL), MF_EINVAL, "to: is not empty (it has ");
    clear("to");
    ASSERT_OK(mf_file_write(at("to"), "x", 1));
    ASSERT_FAILS(convert(from, at("to"), MF_FILE_OTHER, SMALL), MF_EINVAL, "to: is there, and is no folder");
    ASSERT_FAILS(convert(from, at("to/within"), MF_FILE_OTHER, SMALL), MF_EINVAL,
                 "to/within: cannot be made");
    unlink(at("to"));
    ASSERT_OK(mf_folder_make(at("to.partial")));
    ASSERT_FAILS(convert(from, at("to"), MF_FILE_OTHER, SMALL), MF_EINVAL, "to.partial: is there");
    assert_int_equal(rmdir(at("to.partial")), 0); /* nothing was put there */
    ASSERT_OK(convert(from, at("new/and/to"), MF_FILE_OTHER, SMALL));
    clear("new/and/to");
    clear("new/and");
    clear("new");
}

static void flip_bit(const char *path, long place) {
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, place, place < 0 ? SEEK_END : SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, place, place < 0 ? SEEK_END : SEEK_SET), 0);
    fputc(byte ^ 4, file);
    assert_int_equal(fclose(file), 0);
}

static void damage_is_found(void **state) {
    (void)state;
    ASSERT_FAILS(convert(at("nowhere"), at("to"), MF_FILE_OTHER, SMALL), MF_EINVAL,
                 "nowhere: has neither a model");
    ASSERT_OK(to_checkpoint(golden("qwen3"), at("checkpoint")));
    ASSERT_FAILS(to_checkpoint(at("checkpoint"), at("to")), MF_EINVAL, "checkpoint: is a checkpoint already");
    flip_bit(at("checkpoint/part-00001.safetensors"), -9);
    ASSERT_FAILS(convert(at("checkpoint"), at("to"), MF_FILE_OTHER, SMALL), MF_EFORMAT,
                 "part-00001.safetensors: its content is not what was written");
    assert_int_equal(mf_error_last()->rank, -1);
    assert_int_equal(truncate(at("checkpoint/part-00001.safetensors"), 100), 0);
    ASSERT_FAILS(convert(at("checkpoint"), at("to"), MF_FILE_OTHER, SMALL), MF_EFORMAT,
                 "has 100 bytes, but ");
    clear("checkpoint");
    ASSERT_OK(convert(golden("llama3"), at("from"), MF_FILE_OTHER, 20000));
    flip_bit(at("from/model-00002-of-00002.safetensors"), 3);
    ASSERT_FAILS(convert(at("from"), at("to"), MF_FILE_OTHER, SMALL), MF_EFORMAT,
                 "model-00002-of-00002.safetensors: ");
    unlink(at("from/model-00002-of-00002.safetensors"));
    ASSERT_FAILS(convert(at("from"), at("to"), MF_FILE_OTHER, SMALL), MF_EIO,
                 "model-00002-of-00002.safetensors: ");
    clear("from");
    ASSERT_OK(convert(golden("llama3"), at("from"), MF_FILE_OTHER, (int64_t)1 << 40));
    unlink(at("from/config.json"));
    ASSERT_FAILS(convert(at("from"), at("to"), MF_FILE_OTHER, SMALL), MF_EIO, "from/config.json");
    clear("from");
    assert_absent("to");
}

/* A checkpoint takes the model's tensors, all and nothing else. */
static void only_what_the_model_has(void **state) {
    (void)state;
    put_model("from", "{\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
              "abcdefgh", 8);
    ASSERT_FAILS(to_checkpoint(at("from"), at("to")), MF_EUNSUPPORTED,
                 "config.json: architectures is missing");
    mf_model_config config;
    ASSERT_OK(mf_config_preset("tiny", &config));
    ASSERT_OK(mf_config_save(&config, MF_F32, 8, at("from/config.json")));
    ASSERT_FAILS(to_checkpoint(at("from"), at("to")), MF_EFORMAT, "has no tensor model.layers.0.");
    clear("from");
    assert_absent("to");
}

/* Files may grow to so many bytes: the disk is full. */
static mf_status convert_with_limit(rlim_t bytes, bool checkpoint) {
    struct rlimit before, now;
    getrlimit(RLIMIT_FSIZE, &before);
    now = before;
    now.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &now);
    mf_status status = checkpoint ? to_checkpoint(golden("llama3"), at("to"))
                                  : convert(golden("llama3"), at("to"), MF_FILE_F32, SMALL);
    setrlimit(RLIMIT_FSIZE, &before);
    return status;
}

static void a_full_disk_leaves_nothing(void **state) {
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t bytes = 0; bytes < 3000; bytes += 700)
        for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
            ASSERT_FAILS(convert_with_limit(bytes, checkpoint), MF_EIO, "to.partial/");
            assert_absent("to");
        }
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    ASSERT_OK(to_checkpoint(golden("qwen3_tied"), at("checkpoint")));
    for (int kind = 0; kind < 3; kind++)
        for (int64_t n = 1, fired = 1; fired; n += MF_TEST_SPARSE ? 17 : 1) {
            mf_fault_arm(MF_FAULT_ALLOC, n);
            mf_status status = kind == 0   ? to_checkpoint(golden("qwen3_tied"), at("to"))
                               : kind == 1 ? convert(at("checkpoint"), at("to"), MF_FILE_OTHER, SMALL)
                                           : convert(golden("mistral"), at("to"), MF_FILE_F16, SMALL);
            fired = mf_fault_fired(MF_FAULT_ALLOC);
            mf_fault_arm(MF_FAULT_ALLOC, 0);
            assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
            if (fired)
                assert_absent("to");
            else
                clear("to");
        }
    clear("checkpoint");
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/mf_test_convert_XXXXXX");
    if (!mkdtemp(folder)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copied_as_they_are),       cmocka_unit_test(cut_into_shards_and_back),
        cmocka_unit_test(types_there_and_back),     cmocka_unit_test(configs_keep_their_rest),
        cmocka_unit_test(checkpoints_and_back),     cmocka_unit_test(strange_tensors_stay),
        cmocka_unit_test(places_are_refused),       cmocka_unit_test(damage_is_found),
        cmocka_unit_test(only_what_the_model_has),  cmocka_unit_test(a_full_disk_leaves_nothing),
        cmocka_unit_test(every_allocation_may_fail)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    /* Fails when a conversion left something behind. */
    return rmdir(folder) || failed;
}
