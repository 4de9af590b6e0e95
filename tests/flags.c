/* flags.c: the flag tables: what is taken, what is refused and how, files against the command line, help. */
#include "support.h"

#include "cli/flags.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORDS = 24 };

typedef struct settings {
    int64_t seq, threads;
    double lr, decay;
    const char *out, *dtype;
    bool force;
    mf_words data, mesh;
} settings;

/* One parse, with all that it borrows. */
typedef struct fixture {
    settings s;
    mf_flag model[4], run[5];
    mf_flag_group groups[2];
    mf_flags flags;
    char line[512];
    char *argv[WORDS + 1];
} fixture;

static char config_path[] = "/tmp/meshfold-flags-XXXXXX";

static void lay_out(fixture *f) {
    *f = (fixture){0};
    settings *s = &f->s;
    mf_flag model[] = {
        {"seq", MF_FLAG_INT, .target = &s->seq, .fallback = "512", .low = 1, .high = 4096, .about = "tokens"},
        {"dtype", MF_FLAG_CHOICE, .target = &s->dtype, .fallback = "bf16", .choices = "f32|bf16",
         .about = "type"},
        {"mesh", MF_FLAG_LIST, .target = &s->mesh, .fallback = "tsp=1", .value_name = "MESH",
         .about = "ranks"},
        {"data", MF_FLAG_LIST, .target = &s->data, .value_name = "PATH", .required = true, .about = "text"},
    };
    mf_flag run[] = {
        {"lr", MF_FLAG_REAL, .target = &s->lr, .fallback = "3e-4", .low = 0, .high = 1,
         .about = "learning rate"},
        {"decay", MF_FLAG_REAL, .target = &s->decay, .low = 0, .high = INFINITY, .about = "weight decay"},
        {"threads", MF_FLAG_INT, .target = &s->threads, .about = "threads of a rank"},
        {"out", MF_FLAG_TEXT, .target = &s->out, .value_name = "DIR", .about = "the run's folder"},
        {"force", MF_FLAG_SWITCH, .target = &s->force, .about = "overwrite"},
    };
    memcpy(f->model, model, sizeof model);
    memcpy(f->run, run, sizeof run);
    f->groups[0] = (mf_flag_group){"Model", f->model, 4};
    f->groups[1] = (mf_flag_group){"Run", f->run, 5};
    f->flags =
        (mf_flags){.command = "meshfold train", .about = "trains", .groups = f->groups, .group_count = 2};
}

/* Parses `line`, cut at blanks, behind the command's own name. */
static mf_status parse(fixture *f, const char *line) {
    lay_out(f);
    snprintf(f->line, sizeof f->line, "train %s", line);
    int argc = 0;
    for (char *word = strtok(f->line, " "); word; word = strtok(NULL, " ")) {
        assert_true(argc < WORDS);
        f->argv[argc++] = word;
    }
    return mf_flags_parse(&f->flags, argc, f->argv);
}

static void refuses(const char *line, mf_status expected, const char *message) {
    fixture f;
    ASSERT_FAILS(parse(&f, line), expected, message);
    mf_flags_free(&f.flags);
}

static void write_config(const char *json) {
    FILE *file = fopen(config_path, "w");
    assert_non_null(file);
    fputs(json, file);
    assert_int_equal(fclose(file), 0);
}

static mf_status parse_with_config(fixture *f, const char *json, const char *line) {
    char words[256];
    write_config(json);
    snprintf(words, sizeof words, "%s --config %s", line, config_path);
    return parse(f, words);
}

static void refuses_config(const char *json, mf_status expected, const char *message) {
    fixture f;
    ASSERT_FAILS(parse_with_config(&f, json, "--data a"), expected, message);
    assert_non_null(strstr(mf_error_last()->message, config_path));
    mf_flags_free(&f.flags);
}

static void takes_every_kind(void **state) {
    (void)state;
    fixture f;
    ASSERT_OK(
        parse(&f, "--seq 128 --dtype=f32 --data a b --lr=1e-3 --threads -3 --out run --force --data=--c"));
    assert_int_equal(f.s.seq, 128);
    assert_string_equal(f.s.dtype, "f32");
    assert_int_equal(f.s.data.count, 3);
    assert_string_equal(f.s.data.items[1], "b");
    assert_string_equal(f.s.data.items[2], "--c");
    assert_true(f.s.lr == 1e-3);
    assert_int_equal(f.s.threads, -3);
    assert_string_equal(f.s.out, "run");
    assert_true(f.s.force);
    assert_true(mf_flags_given(&f.flags, "seq"));
    mf_flags_free(&f.flags);
    assert_null(f.s.data.items);
    mf_flags_free(&f.flags);
}

static void falls_back(void **state) {
    (void)state;
    fixture f;
    ASSERT_OK(parse(&f, "--data a --force=false"));
    assert_int_equal(f.s.seq, 512);
    assert_string_equal(f.s.dtype, "bf16");
    assert_true(f.s.lr == 3e-4);
    assert_int_equal(f.s.mesh.count, 1);
    assert_null(f.s.out);
    assert_false(f.s.force);
    assert_false(mf_flags_given(&f.flags, "seq"));
    assert_false(mf_flags_given(&f.flags, "out"));
    mf_flags_free(&f.flags);
    refuses("--seq 4", MF_EINVAL, "meshfold train needs --data; see meshfold train --help");
}

static void refuses_words(void **state) {
    (void)state;
    refuses("--sqe 4", MF_EINVAL, "unknown flag --sqe: did you mean --seq? See meshfold train --help");
    refuses("--seq-len=4", MF_EINVAL, "unknown flag --seq-len: did you mean --seq?");
    refuses("-force", MF_EINVAL, "unknown flag -force: did you mean --force?");
    refuses("--quantum 4", MF_EINVAL, "unknown flag --quantum; see meshfold train --help");
    refuses("--", MF_EINVAL, "unknown flag --;");
    refuses("--seq 4 5", MF_EINVAL, "unexpected word 5;");
    refuses("--force yes", MF_EINVAL, "unexpected word yes;");
    refuses("--data=a b", MF_EINVAL, "unexpected word b;");
    refuses("--seq", MF_EINVAL, "--seq needs a value");
    refuses("--data --force", MF_EINVAL, "--data needs a value");
    refuses("--out --force", MF_EINVAL, "--out needs a value");
    refuses("--out=", MF_EINVAL, "--out has an empty value");
    refuses("--seq 4 --data a --seq 4", MF_EINVAL, "--seq is given twice");
    refuses("--force --force", MF_EINVAL, "--force is given twice");
    refuses("--force=yes", MF_EINVAL, "--force=yes: a switch takes no value but true or false");
    refuses("--dtype f16", MF_EINVAL, "--dtype f16: expected one of f32|bf16");
    refuses("--dtype f32|bf16", MF_EINVAL, "expected one of f32|bf16");
    refuses("--dtype bf", MF_EINVAL, "expected one of f32|bf16");
}

static void refuses_numbers(void **state) {
    (void)state;
    static const char *const integers[] = {
        "12x", "0", "4097", "1e3", "1.5", "0x10", "+4", "-", "99999999999999999999"};
    static const char *const reals[] = {"nan", "inf",   "-inf", "0x1",   "1e999",
                                        "1e",  "0.1.2", "1.5",  "-1e-9", "."};
    char line[64];
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        snprintf(line, sizeof line, "--data a --seq %s", integers[i]);
        refuses(line, MF_EINVAL, ": expected an integer from 1 to 4096");
    }
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        snprintf(line, sizeof line, "--data a --lr=%s", reals[i]);
        refuses(line, MF_EINVAL, ": expected a number from 0 to 1");
    }
    refuses("--decay -1", MF_EINVAL, "--decay -1: expected a number of at least 0");
    refuses("--threads 1k", MF_EINVAL, "--threads 1k: expected an integer");
}

static void reads_a_file(void **state) {
    (void)state;
    fixture f;
    const char *json = "{\"seq\": 64, \"lr\": 1, \"decay\": 0.25, \"force\": true, \"out\": \"there\","
                       " \"data\": [\"x\", \"--y\"], \"dtype\": \"f32\"}";
    ASSERT_OK(parse_with_config(&f, json, "--seq 32 --mesh tp=2 --force=false"));
    assert_int_equal(f.s.seq, 32);
    assert_true(f.s.lr == 1 && f.s.decay == 0.25);
    assert_false(f.s.force);
    assert_string_equal(f.s.out, "there");
    assert_int_equal(f.s.data.count, 2);
    assert_string_equal(f.s.data.items[1], "--y");
    assert_string_equal(f.s.dtype, "f32");
    assert_true(mf_flags_given(&f.flags, "lr"));
    mf_flags_free(&f.flags);
    ASSERT_OK(parse_with_config(&f, json, "--data mine"));
    assert_int_equal(f.s.data.count, 1);
    assert_string_equal(f.s.data.items[0], "mine");
    mf_flags_free(&f.flags);
}

static void refuses_files(void **state) {
    (void)state;
    refuses_config("{\"sqe\": 4}", MF_EINVAL, "unknown name \"sqe\": did you mean \"seq\"?");
    refuses_config("{\"--seq\": 4}", MF_EINVAL, "unknown name \"--seq\"");
    refuses_config("{\"seq\": \"4\"}", MF_EINVAL, "\"seq\" must be an integer, not a string");
    refuses_config("{\"seq\": 4.0}", MF_EINVAL, "\"seq\" must be an integer, not a number with a fraction");
    refuses_config("{\"seq\": 0}", MF_EINVAL, "\"seq\" 0: expected an integer from 1 to 4096");
    refuses_config("{\"lr\": 2.5}", MF_EINVAL, "\"lr\" 2.5: expected a number from 0 to 1");
    refuses_config("{\"dtype\": \"f16\"}", MF_EINVAL, "\"dtype\" f16: expected one of f32|bf16");
    refuses_config("{\"force\": 1}", MF_EINVAL, "\"force\" must be true or false, not an integer");
    refuses_config("{\"mesh\": \"tp=2\"}", MF_EINVAL, "\"mesh\" must be an array of strings, not a string");
    refuses_config("{\"mesh\": []}", MF_EINVAL, "\"mesh\" must be an array of strings, not an empty array");
    refuses_config("{\"mesh\": [\"tp=2\", 3]}", MF_EINVAL, "\"mesh\" must be an array of strings");
    refuses_config("{\"out\": null}", MF_EINVAL, "\"out\" must be a string, not null");
    refuses_config("{\"config\": \"other\"}", MF_EINVAL, "can't name another");
    refuses_config("{\"data\": [3]}", MF_EINVAL, "\"data\" must be"); /* though the line wins */
    refuses_config("{\"seq\": 4, \"seq\": 5}", MF_EFORMAT, "line 1");
    refuses_config("{\"seq\": ", MF_EFORMAT, "line 1");
    refuses_config("[]", MF_EFORMAT, "expected a JSON object");
    refuses("--data a --config /nowhere/run.json", MF_EIO, "/nowhere/run.json");
    refuses("--config a --config b", MF_EINVAL, "--config is given twice");
}

/* A list takes time by its length, not by its square. */
static void reads_a_long_list(void **state) {
    (void)state;
    enum { LONG = 1000000 };
    fixture f;
    char *json = NULL;
    ASSERT_OK(mf_host_alloc(4 * LONG + 32, 1, &json));
    size_t used = (size_t)sprintf(json, "{\"data\": [");
    for (int i = 0; i < LONG; i++, used += 4) memcpy(json + used, i ? ",\"x\"" : " \"x\"", 4);
    memcpy(json + used, "]}", 3);
    ASSERT_OK(parse_with_config(&f, json, "--seq 8"));
    assert_int_equal(f.s.data.count, LONG);
    assert_string_equal(f.s.data.items[LONG - 1], "x");
    mf_flags_free(&f.flags);
    mf_host_free(json);
}

static void resolved_is_a_file(void **state) {
    (void)state;
    fixture f;
    json_t *first = NULL, *again = NULL;
    ASSERT_OK(parse(&f, "--data a b --lr 0.1 --force"));
    ASSERT_OK(mf_flags_resolved(&f.flags, &first));
    mf_flags_free(&f.flags);
    assert_int_equal(json_integer_value(json_object_get(first, "seq")), 512);
    assert_int_equal(json_array_size(json_object_get(first, "data")), 2);
    assert_true(json_is_true(json_object_get(first, "force")));
    assert_null(json_object_get(first, "out"));
    assert_null(json_object_get(first, "config"));
    char *text = json_dumps(first, 0);
    ASSERT_OK(parse_with_config(&f, text, ""));
    ASSERT_OK(mf_flags_resolved(&f.flags, &again));
    assert_true(json_equal(first, again));
    mf_flags_free(&f.flags);
    free(text);
    json_decref(first);
    json_decref(again);
}

static void helps(void **state) {
    (void)state;
    fixture f;
    char *text = NULL;
    size_t size = 0;
    ASSERT_OK(parse(&f, "--nonsense --seq x --help"));
    assert_true(f.flags.help);
    FILE *out = open_memstream(&text, &size);
    mf_flags_help(&f.flags, out);
    fclose(out);
    assert_non_null(strstr(text, "usage: meshfold train [flags]\n\nModel\n"));
    assert_non_null(strstr(text, "\n  --seq N           tokens (default 512)\n"));
    assert_non_null(strstr(text, "\n  --dtype f32|bf16  type (default bf16)\n"));
    assert_non_null(strstr(text, "\n  --data PATH...    text (required)\n"));
    assert_non_null(strstr(text, "\n  --force           overwrite\n"));
    assert_non_null(strstr(text, "\n  --config FILE     "));
    free(text);
    mf_flags_free(&f.flags);
}

static const char *nearest_of_three(const char *word) {
    mf_nearest nearest = {.word = word};
    mf_nearest_offer(&nearest, "train");
    mf_nearest_offer(&nearest, "generate");
    mf_nearest_offer(&nearest, "plan");
    return nearest.best ? nearest.best : "";
}

static void finds_the_nearest(void **state) {
    (void)state;
    assert_string_equal(nearest_of_three("tarin"), "train");
    assert_string_equal(nearest_of_three("trainn"), "train");
    assert_string_equal(nearest_of_three("plna"), "plan");
    assert_string_equal(nearest_of_three("genrte"), "generate");
    assert_string_equal(nearest_of_three("gen"), "generate");
    assert_string_equal(nearest_of_three("bench"), "");
    assert_string_equal(nearest_of_three(""), "");
}

/* Every allocation of a parse fails once: an error each time, nothing lost (the sanitizers look). */
static void survives_lost_memory(void **state) {
    (void)state;
    for (int n = 1;; n++) {
        fixture f;
        lay_out(&f);
        write_config("{\"mesh\": [\"tp=2\", \"tsp=2\"], \"data\": [\"d\"]}");
        char *words[] = {"train", "--data", "a", "b", "--config", config_path, NULL};
        mf_fault_arm(MF_FAULT_ALLOC, n);
        mf_status status = mf_flags_parse(&f.flags, 6, words);
        bool fired = mf_fault_fired(MF_FAULT_ALLOC);
        mf_fault_arm(MF_FAULT_ALLOC, 0);
        mf_flags_free(&f.flags);
        assert_int_equal(status, fired ? MF_ENOMEM : MF_OK);
        if (!fired) {
            assert_true(n > 4);
            return;
        }
    }
}

static int make_file(void **state) {
    (void)state;
    int file = mkstemp(config_path);
    return file < 0 ? -1 : close(file);
}

static int remove_file(void **state) {
    (void)state;
    return unlink(config_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_every_kind),
        cmocka_unit_test(falls_back),
        cmocka_unit_test(refuses_words),
        cmocka_unit_test(refuses_numbers),
        cmocka_unit_test(reads_a_file),
        cmocka_unit_test(refuses_files),
        cmocka_unit_test(reads_a_long_list),
        cmocka_unit_test(resolved_is_a_file),
        cmocka_unit_test(helps),
        cmocka_unit_test(finds_the_nearest),
        cmocka_unit_test(survives_lost_memory),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
