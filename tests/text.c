/* text.c: texts from files and folders, whole files, and folders made. */
#include "support.h"

#include "meshfold/io.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64], path_text[128];

/* A path inside the test's folder; good until the next call. */
static const char *at(const char *name) {
    snprintf(path_text, sizeof path_text, "%s/%s", folder, name);
    return path_text;
}

static void put(const char *name, const char *content) {
    ASSERT_OK(mf_file_write(at(name), content, strlen(content)));
}

static void link_to(const char *target, const char *name) { assert_int_equal(symlink(target, at(name)), 0); }

static void expect(const char *const *paths, int count, const char *content, int files) {
    mf_text text;
    ASSERT_OK(mf_text_load(paths, count, &text));
    assert_int_equal(text.count, strlen(content));
    assert_memory_equal(text.bytes, content, strlen(content));
    assert_int_equal(text.files, files);
    mf_text_free(&text);
    assert_null(text.bytes);
}

static void test_order(void **state) {
    (void)state;
    char tree[128], single[128];
    ASSERT_OK(mf_folder_make(at("order/B/deep/er")));
    put("order/b.txt", "b");
    put("order/a.txt", "a");
    put("order/Z.txt", "Z");
    put("order/B/deep/er/x", "x");
    put("order/B/y", "y");
    put("order/empty", "");
    put("order/.hidden", "no");
    ASSERT_OK(mf_folder_make(at("order/.git")));
    put("order/.git/config", "no");
    snprintf(tree, sizeof tree, "%s", at("order"));
    snprintf(single, sizeof single, "%s", at("order/.hidden"));
    expect((const char *[]){tree}, 1, "xyZab", 6);
    expect((const char *[]){single, tree, single}, 3, "noxyZabno", 8);
    strcat(tree, "/");
    expect((const char *[]){tree}, 1, "xyZab", 6);
}

static void test_links(void **state) {
    (void)state;
    char tree[128];
    mf_text text;
    ASSERT_OK(mf_folder_make(at("links/in")));
    put("links/in/1", "one");
    put("outside", "far");
    link_to("../outside", "links/2");
    link_to("..", "links/in/up");
    link_to(".", "links/self");
    assert_int_equal(mkfifo(at("links/pipe"), 0600), 0);
    snprintf(tree, sizeof tree, "%s", at("links"));
    expect((const char *[]){tree}, 1, "farone", 2);
    link_to("nowhere", "links/dangling");
    ASSERT_FAILS(mf_text_load((const char *[]){tree}, 1, &text), MF_EIO,
                 "links/dangling: is a link that leads nowhere");
    unlink(at("links/dangling"));
    link_to("circle", "links/circle");
    ASSERT_FAILS(mf_text_load((const char *[]){tree}, 1, &text), MF_EIO, "links/circle");
}

static void test_refused(void **state) {
    (void)state;
    mf_text text;
    char good[128];
    put("good", "good");
    snprintf(good, sizeof good, "%s", at("good"));
    ASSERT_FAILS(mf_text_load((const char *[]){good, at("absent")}, 2, &text), MF_EIO,
                 "absent: cannot be read");
    assert_null(text.bytes);
    put("blank", "");
    ASSERT_FAILS(mf_text_load((const char *[]){at("blank")}, 1, &text), MF_EINVAL,
                 "blank: 1 file, all empty");
    ASSERT_OK(mf_folder_make(at("bare")));
    ASSERT_FAILS(mf_text_load((const char *[]){at("bare")}, 1, &text), MF_EINVAL, "bare: 0 files");
    ASSERT_FAILS(mf_text_load(NULL, 0, &text), MF_EINVAL, "no file or folder was named");
    assert_int_equal(mkfifo(at("pipe"), 0600), 0);
    ASSERT_FAILS(mf_text_load((const char *[]){at("pipe")}, 1, &text), MF_EIO,
                 "neither a regular file nor a folder");
}

static void test_text_faults(void **state) {
    (void)state;
    char tree[128];
    snprintf(tree, sizeof tree, "%s", at("order"));
    for (int n = 1;; n++) {
        mf_text text;
        mf_fault_arm(MF_FAULT_ALLOC, n);
        mf_status status = mf_text_load((const char *[]){tree}, 1, &text);
        bool fired = mf_fault_fired(MF_FAULT_ALLOC);
        mf_fault_arm(MF_FAULT_ALLOC, 0);
        assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
        mf_text_free(&text);
        if (!fired) break;
    }
}

static void put_ids(const void *ids, size_t bytes, const char *description) {
    ASSERT_OK(mf_file_write(at("ids.bin"), ids, bytes));
    put("ids.json", description);
}

static void refuse_ids(const char *description, const char *why) {
    mf_text text;
    put("ids.json", description);
    ASSERT_FAILS(mf_text_load((const char *[]){at("ids.bin")}, 1, &text), MF_EFORMAT, why);
}

static void test_ids(void **state) {
    (void)state;
    mf_text text;
    char path[128];
    const uint8_t two[] = {1, 0, 255, 0, 0, 1, 255, 255}, four[] = {7, 0, 0, 0, 0, 0, 1, 0};
    snprintf(path, sizeof path, "%s", at("ids.bin"));
    put_ids(two, sizeof two, "{\"type\": \"uint16\", \"count\": 4, \"vocab_size\": 65536}");
    ASSERT_OK(mf_text_load((const char *[]){path}, 1, &text));
    const int32_t expected[] = {1, 255, 256, 65535};
    assert_true(text.count == 4 && text.vocab == 65536 && text.files == 1 && !text.separated);
    for (int i = 0; i < 4; i++) assert_int_equal(mf_text_at(&text, i), expected[i]);
    mf_text_free(&text);
    refuse_ids("{\"type\": \"uint16\", \"count\": 4, \"vocab_size\": 65535}", "id 3 is 65535");
    refuse_ids("{\"type\": \"uint16\", \"count\": 3, \"vocab_size\": 65536}", "has 8 bytes");
    refuse_ids("{\"type\": \"uint8\", \"count\": 4, \"vocab_size\": 99}", "type must be");
    refuse_ids("{\"type\": \"uint32\", \"count\": 0, \"vocab_size\": 99}", "count must be");
    refuse_ids("{\"type\": \"uint16\", \"count\": 4, \"vocab_size\": 65537}", "vocab_size must be");
    refuse_ids("[1]", "is no JSON object");
    refuse_ids("{\"type\": \"uint16\", \"count\": 4, \"vocab_size\": 65536, \"separator\": 65536}",
               "separator must be");
    refuse_ids("{\"type\": \"uint16\", \"count\": 4, \"vocab_size\": 65536, \"separator\": \"x\"}",
               "separator must be");
    put_ids(four, sizeof four,
            "{\"type\": \"uint32\", \"count\": 2, \"vocab_size\": 70000, \"separator\": 0}");
    ASSERT_OK(mf_text_load((const char *[]){path}, 1, &text));
    assert_true(mf_text_at(&text, 0) == 7 && mf_text_at(&text, 1) == 65536);
    assert_true(text.separated && text.separator == 0);
    mf_text_free(&text);
    ASSERT_FAILS(mf_text_load((const char *[]){path, path}, 2, &text), MF_EINVAL, "given alone");
    assert_int_equal(unlink(at("ids.json")), 0); /* without it they are bytes like any other */
    ASSERT_OK(mf_text_load((const char *[]){path}, 1, &text));
    assert_true(text.count == 8 && text.width == 0 && mf_text_at(&text, 0) == 7);
    mf_text_free(&text);
}

static void test_whole_file(void **state) {
    (void)state;
    char *content = NULL;
    size_t bytes = 0;
    static char large[100000];
    memset(large, 'x', sizeof large);
    ASSERT_OK(mf_file_write(at("whole"), large, sizeof large));
    ASSERT_OK(mf_file_read(at("whole"), &content, &bytes));
    assert_int_equal(bytes, sizeof large);
    assert_memory_equal(content, large, sizeof large);
    assert_int_equal(content[bytes], 0);
    mf_host_free(content);
    ASSERT_OK(mf_file_write(at("whole"), "new", 3));
    ASSERT_OK(mf_file_read(at("whole"), &content, &bytes));
    assert_string_equal(content, "new");
    mf_host_free(content);
    ASSERT_OK(mf_file_read("/proc/self/status", &content, &bytes)); /* states a size of 0 */
    assert_true(bytes > 0);
    mf_host_free(content);
    ASSERT_FAILS(mf_file_read(at("absent"), &content, &bytes), MF_EIO, "absent");
    ASSERT_FAILS(mf_file_read(folder, &content, &bytes), MF_EIO, "is not a regular file");
    assert_null(content);
}

/* Nothing may be left behind, and what stood there must still stand. */
static void test_write_refused(void **state) {
    (void)state;
    ASSERT_OK(mf_folder_make(at("kept")));
    put("kept/file", "old");
    ASSERT_FAILS(mf_file_write(at("kept"), "x", 1), MF_EIO, "kept: cannot be written: it exists");
    ASSERT_FAILS(mf_file_write(at("absent/file"), "x", 1), MF_EIO, "absent/file");
    ASSERT_FAILS(mf_file_write(at("kept/file/below"), "x", 1), MF_EIO, "kept/file/below");
    for (int n = 1;; n++) {
        mf_fault_arm(MF_FAULT_ALLOC, n);
        mf_status status = mf_file_write(at("kept/file"), "new", 3);
        bool fired = mf_fault_fired(MF_FAULT_ALLOC);
        mf_fault_arm(MF_FAULT_ALLOC, 0);
        char tree[128];
        snprintf(tree, sizeof tree, "%s", at("kept"));
        expect((const char *[]){tree}, 1, fired ? "old" : "new", 1);
        assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
        if (!fired) break;
    }
}

static void test_folder_make(void **state) {
    (void)state;
    struct stat info;
    ASSERT_OK(mf_folder_make(at("made/two//three/")));
    assert_int_equal(stat(at("made/two/three"), &info), 0);
    assert_true(S_ISDIR(info.st_mode));
    ASSERT_OK(mf_folder_make(at("made/two/three")));
    ASSERT_OK(mf_folder_make("/"));
    put("made/file", "x");
    ASSERT_FAILS(mf_folder_make(at("made/file/below")), MF_EIO, "made/file: cannot be made a folder");
    ASSERT_FAILS(mf_folder_make(""), MF_EINVAL, "empty name");
}

static void test_format(void **state) {
    (void)state;
    char *text = NULL;
    ASSERT_OK(mf_format(&text, "%s-%d", "rank", 7));
    assert_string_equal(text, "rank-7");
    mf_host_free(text);
}

int main(void) {
    snprintf(folder, sizeof folder, "/tmp/mf_test_text_XXXXXX");
    if (!mkdtemp(folder)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),         cmocka_unit_test(test_links),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_text_faults),
        cmocka_unit_test(test_ids),           cmocka_unit_test(test_whole_file),
        cmocka_unit_test(test_write_refused), cmocka_unit_test(test_folder_make),
        cmocka_unit_test(test_format),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) || failed;
}
