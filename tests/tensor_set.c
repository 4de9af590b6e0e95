/* tensor_set.c: a model's tensors in one file, in several, and where an index does not say what is there. */
#include "support.h"

#include "meshfold/io.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

static const char *in_folder(const char *name) {
    static char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* A file of one row a name, whose values are `first` and on. */
static void put_file(const char *name, const char *const *tensors, int count, float first) {
    mf_tensor_spec specs[4];
    mf_tensor_writer *writer = NULL;
    float values[] = {first, first + 1, first + 2};
    for (int i = 0; i < count; i++) specs[i] = (mf_tensor_spec){.name = tensors[i], .cols = 3};
    ASSERT_OK(mf_tensors_create(in_folder(name), specs, count, MF_BF16));
    ASSERT_OK(mf_tensors_open_writer(in_folder(name), specs, count, MF_BF16, &writer));
    for (int i = 0; i < count; i++) ASSERT_OK(mf_tensors_write(writer, i, 0, 1, 0, 3, values));
    ASSERT_OK(mf_tensors_close_writer(writer));
}

static void put_index(const char *text) {
    ASSERT_OK(mf_file_write(in_folder("model.safetensors.index.json"), text, strlen(text)));
}

static int begin(void **state) {
    (void)state;
    put_file("a.safetensors", (const char *const[]){"one", "two"}, 2, 1);
    put_file("b.safetensors", (const char *const[]){"three"}, 1, 7);
    return 0;
}

static int end(void **state) {
    static const char *const names[] = {"a.safetensors", "b.safetensors", "model.safetensors",
                                        "model.safetensors.index.json"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(in_folder(names[i]));
    return 0;
}

#define WHOLE                                                                                                \
    "{\"weight_map\": {\"one\": \"a.safetensors\", \"two\": \"a.safetensors\", \"three\": "                  \
    "\"b.safetensors\"}}"

static void check_value(const mf_tensor_set *set, const char *name, float first) {
    const mf_tensor_info *t = mf_tensor_set_find(set, name);
    float got[3];
    assert_non_null(t);
    ASSERT_OK(mf_tensor_read(t, 0, 1, 0, 3, got));
    assert_true(got[0] == first && got[2] == first + 2);
}

static void several_files(void **state) {
    (void)state;
    mf_tensor_set *set = NULL;
    put_index(WHOLE);
    ASSERT_OK(mf_tensor_set_open(folder, &set));
    assert_string_equal(mf_tensor_set_path(set), in_folder("model.safetensors.index.json"));
    check_value(set, "two", 1);
    check_value(set, "three", 7);
    assert_null(mf_tensor_set_find(set, "four"));
    assert_non_null(mf_tensor_set_at(set, 2));
    assert_null(mf_tensor_set_at(set, 3));
    mf_tensor_set_close(set);
    mf_tensor_set_close(NULL);
}

/* One file goes before an index that was left behind. */
static void one_file(void **state) {
    (void)state;
    mf_tensor_set *set = NULL;
    ASSERT_FAILS(mf_tensor_set_open(folder, &set), MF_EIO, "model.safetensors: cannot be opened");
    put_file("model.safetensors", (const char *const[]){"alone"}, 1, 3);
    put_index("nonsense");
    ASSERT_OK(mf_tensor_set_open(folder, &set));
    check_value(set, "alone", 3);
    assert_null(mf_tensor_set_at(set, 1));
    mf_tensor_set_close(set);
}

static void refuse(const char *index, mf_status status, const char *part) {
    mf_tensor_set *set = NULL;
    put_index(index);
    ASSERT_FAILS(mf_tensor_set_open(folder, &set), status, part);
    assert_null(set);
}

static void what_does_not_fit(void **state) {
    (void)state;
    refuse("", MF_EFORMAT, "is not valid JSON");
    refuse("[]", MF_EFORMAT, "has no weight_map");
    refuse("{\"weight_map\": {}}", MF_EFORMAT, "has no weight_map");
    refuse("{\"weight_map\": {\"one\": 1}}", MF_EFORMAT, "tensor one is in no file of this folder");
    refuse("{\"weight_map\": {\"one\": \"/etc/passwd\"}}", MF_EFORMAT, "tensor one is in no file");
    refuse("{\"weight_map\": {\"one\": \"c.safetensors\"}}", MF_EIO, "c.safetensors: cannot be opened");
    refuse("{\"weight_map\": {\"one\": \"a.safetensors\", \"two\": \"a.safetensors\", "
           "\"four\": \"b.safetensors\"}}",
           MF_EFORMAT, "tensor four is not in b.safetensors, where the index has it");
    refuse("{\"weight_map\": {\"one\": \"a.safetensors\"}}", MF_EFORMAT,
           "tensor two of a.safetensors is not in the index");
    put_file("b.safetensors", (const char *const[]){"three", "two"}, 2, 7);
    refuse(WHOLE, MF_EFORMAT, "tensor two is in a.safetensors and in b.safetensors");
}

static void failed_allocations(void **state) {
    (void)state;
    mf_tensor_set *set = NULL;
    put_index(WHOLE);
    for (int n = 1;; n++) {
        mf_fault_arm(MF_FAULT_ALLOC, n);
        mf_status status = mf_tensor_set_open(folder, &set);
        bool fired = mf_fault_fired(MF_FAULT_ALLOC);
        mf_fault_arm(MF_FAULT_ALLOC, 0);
        assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
        mf_tensor_set_close(set);
        if (!fired) break;
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/mf_test_tensor_set_XXXXXX");
    if (!mkdtemp(folder)) return 1;
    const struct CMUnitTest tests[] = {TEST(several_files), TEST(one_file), TEST(what_does_not_fit),
                                       TEST(failed_allocations)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
