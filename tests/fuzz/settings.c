/* settings.c: a --config file: what is let through, written back and read again, is the same settings. */
#include "fuzz.h"

#include "cli/run_settings.h"

#include <stdlib.h>
#include <string.h>

const fuzz_shape fuzz_input = FUZZ_JSON;

static const char name[] = "run.json", copy[] = "copy.json";

typedef struct command {
    mf_run_settings run;
    mf_words data, meshes;
    mf_flag_table table;
    mf_flags flags;
} command;

/* The table's flags of every kind that commands have. */
static void describe(command *c) {
    mf_flag_table *t = &c->table;
    *c = (command){0};
    mf_run_settings_begin(&c->run);
    mf_table_group(t, "Run");
    mf_run_settings_add_model(&c->run, t, true);
    mf_run_settings_add_data(&c->run, t, &c->data, false, "text");
    mf_run_settings_add_numbers(&c->run, t);
    mf_run_settings_add_engine(&c->run, t);
    mf_table_group(t, "Layout");
    mf_run_settings_add_meshes(&c->run, t, &c->meshes, "meshes");
    c->flags =
        (mf_flags){.command = "meshfold fuzz", .about = "", .groups = t->group, .group_count = t->groups};
}

static mf_status parse(command *c, const char *path, json_t **out) {
    char program[] = "fuzz", flag[] = "--config", value[512];
    char *words[] = {program, flag, value, NULL};
    snprintf(value, sizeof value, "%s", path);
    describe(c);
    MF_TRY(mf_flags_parse(&c->flags, 3, words));
    return mf_flags_resolved(&c->flags, out);
}

static void check_again(const json_t *settings) {
    command c;
    json_t *again = NULL;
    char *text = json_dumps(settings, JSON_REAL_PRECISION(17));
    fuzz_put(copy, text, strlen(text));
    FUZZ_CLAIM(!parse(&c, fuzz_path(copy), &again));
    FUZZ_CLAIM(json_equal(settings, again));
    free(text);
    json_decref(again);
    mf_flags_free(&c.flags);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    command c;
    json_t *settings = NULL;
    fuzz_put(name, data, bytes);
    mf_status status = parse(&c, fuzz_path(name), &settings);
    if (status)
        fuzz_check_refusal(status, strstr(mf_error_last()->message, "needs --mesh") ? "--mesh" : name);
    else
        check_again(settings);
    json_decref(settings);
    mf_flags_free(&c.flags);
    return 0;
}
