/* flags.c: a command's words and its configuration file, matched with the tables. */
#include "cli/flag_value.h"

#include "io/json_file.h"

#include <string.h>

const mf_flag *mf_flags_at(const mf_flags *flags, int index) {
    for (int g = 0; g < flags->group_count; g++) {
        if (index < flags->groups[g].count) return &flags->groups[g].flags[index];
        index -= flags->groups[g].count;
    }
    return index == 0 ? &flags->config_flag : NULL;
}

static int flag_count(const mf_flags *flags) {
    int count = 1;
    for (int g = 0; g < flags->group_count; g++) count += flags->groups[g].count;
    return count;
}

static int find(const mf_flags *flags, const char *name, size_t length) {
    for (int i = 0; i < flag_count(flags); i++) {
        const char *known = mf_flags_at(flags, i)->name;
        if (strlen(known) == length && strncmp(known, name, length) == 0) return i;
    }
    return -1;
}

/* The table's name nearest to `name`, NULL when none is close. */
static const char *nearest_flag(const mf_flags *flags, const char *name) {
    mf_nearest nearest = {.word = name};
    for (int i = 0; i < flag_count(flags); i++) mf_nearest_offer(&nearest, mf_flags_at(flags, i)->name);
    return nearest.best;
}

static mf_status refuse_word(const mf_flags *flags, const char *word) {
    bool dashed = word[0] == '-' && word[1];
    const char *kind = dashed ? "unknown flag" : "unexpected word";
    char name[64];
    const char *bare = word + strspn(word, "-");
    snprintf(name, sizeof name, "%.*s", (int)strcspn(bare, "="), bare);
    const char *meant = nearest_flag(flags, name);
    int shown = dashed ? (int)strcspn(word, "=") : (int)strlen(word);
    if (meant)
        return MF_FAIL(MF_EINVAL, "%s %.*s: did you mean --%s? See %s --help", kind, shown, word, meant,
                       flags->command);
    return MF_FAIL(MF_EINVAL, "%s %.*s; see %s --help", kind, shown, word, flags->command);
}

static bool is_value(const char *word) { return word && strncmp(word, "--", 2) != 0; }

/* Sets the flag at words[0], and returns in *used how many words that took. words ends with NULL. */
static mf_status read_flag(mf_flags *flags, char **words, int *used) {
    const char *name = words[0] + 2, *equals = strchr(name, '=');
    int index = find(flags, name, equals ? (size_t)(equals - name) : strlen(name));
    if (index < 0) return refuse_word(flags, words[0]);
    const mf_flag *flag = mf_flags_at(flags, index);
    if (flags->sources[index] == MF_FROM_LINE && flag->kind != MF_FLAG_LIST)
        return MF_FAIL(MF_EINVAL, "--%s is given twice", flag->name);
    flags->sources[index] = MF_FROM_LINE;
    *used = 1;
    if (equals) return mf_flag_set_text(flag, NULL, equals + 1, flag->target);
    if (flag->kind == MF_FLAG_SWITCH) return mf_flag_set_text(flag, NULL, "true", flag->target);
    if (!is_value(words[1]))
        return MF_FAIL(MF_EINVAL, "--%s needs a value; see %s --help", flag->name, flags->command);
    do {
        MF_TRY(mf_flag_set_text(flag, NULL, words[*used], flag->target));
        (*used)++;
    } while (flag->kind == MF_FLAG_LIST && is_value(words[*used]));
    return MF_OK;
}

static mf_status read_line(mf_flags *flags, int argc, char **argv) {
    for (int i = 1, used = 0; i < argc; i += used) {
        if (is_value(argv[i]) || !argv[i][2]) return refuse_word(flags, argv[i]);
        MF_TRY(read_flag(flags, argv + i, &used));
    }
    return MF_OK;
}

/* A value that the command line has overruled is still checked, into a target of its own. */
static mf_status check_only(const mf_flag *flag, const char *file, const json_t *value) {
    union {
        int64_t integer;
        double real;
        const char *text;
        bool on;
        mf_words words;
    } target = {.words = {0}};
    mf_status status = mf_flag_set_json(flag, file, value, &target);
    if (flag->kind == MF_FLAG_LIST) mf_host_free(target.words.items);
    return status;
}

/* A source of settings in JSON. */
typedef struct origin {
    const char *name; /* for errors */
    mf_flag_source source;
} origin;

static mf_status read_member(mf_flags *flags, const origin *from, const char *name, const json_t *value) {
    int index = find(flags, name, strlen(name));
    if (index < 0) {
        const char *meant = nearest_flag(flags, name);
        return MF_FAIL(MF_EINVAL, "%s: unknown name \"%s\"%s%s%s; see %s --help", from->name, name,
                       meant ? ": did you mean \"" : "", meant ? meant : "", meant ? "\"?" : "",
                       flags->command);
    }
    const mf_flag *flag = mf_flags_at(flags, index);
    if (flag == &flags->config_flag)
        return MF_FAIL(MF_EINVAL, "%s: a configuration file can't name another", from->name);
    if (flags->sources[index] > from->source) return check_only(flag, from->name, value);
    flags->sources[index] = from->source;
    return mf_flag_set_json(flag, from->name, value, flag->target);
}

static mf_status read_members(mf_flags *flags, const origin *from, json_t *object) {
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach(object, name, value) MF_TRY(read_member(flags, from, name, value));
    return MF_OK;
}

static mf_status read_file(mf_flags *flags) {
    MF_TRY(mf_json_read(flags->config, &flags->file));
    if (!json_is_object(flags->file)) return MF_FAIL(MF_EFORMAT, "%s: expected a JSON object", flags->config);
    return read_members(flags, &(origin){flags->config, MF_FROM_FILE}, flags->file);
}

static mf_status read_earlier(mf_flags *flags) {
    const char *where = NULL;
    MF_TRY(flags->inherit(flags, flags->inherit_context, &flags->earlier, &where));
    if (!flags->earlier) return MF_OK;
    return read_members(flags, &(origin){where, MF_FROM_EARLIER}, flags->earlier);
}

static bool asks_help(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
    return false;
}

static mf_status fall_back(mf_flags *flags) {
    for (int i = 0; i < flag_count(flags); i++) {
        const mf_flag *flag = mf_flags_at(flags, i);
        if (flags->sources[i] != MF_FROM_NOTHING) continue;
        if (flag->required)
            return MF_FAIL(MF_EINVAL, "%s needs --%s; see %s --help", flags->command, flag->name,
                           flags->command);
        if (!flag->fallback) continue;
        flags->sources[i] = MF_FROM_FALLBACK;
        MF_TRY(mf_flag_set_text(flag, NULL, flag->fallback, flag->target));
    }
    return MF_OK;
}

mf_status mf_flags_parse(mf_flags *flags, int argc, char **argv) {
    flags->config_flag = (mf_flag){"config", MF_FLAG_TEXT, .target = &flags->config, .value_name = "FILE",
                                   .about = "take flags from a JSON object; the command line wins"};
    MF_TRY(mf_host_alloc((size_t)flag_count(flags), sizeof *flags->sources, &flags->sources));
    flags->help = asks_help(argc, argv);
    if (flags->help) return MF_OK;
    MF_TRY(read_line(flags, argc, argv));
    if (flags->config) MF_TRY(read_file(flags));
    if (flags->inherit) MF_TRY(read_earlier(flags));
    return fall_back(flags);
}

void mf_flags_free(mf_flags *flags) {
    if (!flags->sources) return;
    for (int i = 0; i < flag_count(flags); i++) {
        const mf_flag *flag = mf_flags_at(flags, i);
        if (flag->kind != MF_FLAG_LIST) continue;
        mf_words *words = flag->target;
        mf_host_free(words->items);
        *words = (mf_words){0};
    }
    mf_host_free(flags->sources);
    flags->sources = NULL;
    json_decref(flags->file);
    json_decref(flags->earlier);
    flags->file = flags->earlier = NULL;
}

bool mf_flags_given(const mf_flags *flags, const char *name) {
    int index = find(flags, name, strlen(name));
    return index >= 0 && flags->sources[index] >= MF_FROM_FILE;
}

void mf_flags_settle(mf_flags *flags, const char *name) {
    int index = find(flags, name, strlen(name));
    if (index >= 0 && flags->sources[index] == MF_FROM_NOTHING) flags->sources[index] = MF_FROM_FALLBACK;
}

/* NULL when memory is out. */
static json_t *words_json(const mf_words *words) {
    json_t *array = json_array();
    for (int i = 0; i < words->count; i++)
        if (json_array_append_new(array, json_string(words->items[i]))) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *value_json(const mf_flag *flag) {
    switch (flag->kind) {
    case MF_FLAG_INT:
        return json_integer(*(const int64_t *)flag->target);
    case MF_FLAG_REAL:
        return json_real(*(const double *)flag->target);
    case MF_FLAG_SWITCH:
        return json_boolean(*(const bool *)flag->target);
    case MF_FLAG_LIST:
        return words_json(flag->target);
    default:
        return json_string(*(const char *const *)flag->target);
    }
}

mf_status mf_flags_resolved(const mf_flags *flags, json_t **out) {
    json_t *object = json_object();
    for (int i = 0; object && i < flag_count(flags) - 1; i++) {
        const mf_flag *flag = mf_flags_at(flags, i);
        if (flags->sources[i] == MF_FROM_NOTHING && flag->kind != MF_FLAG_SWITCH) continue;
        if (json_object_set_new(object, flag->name, value_json(flag))) {
            json_decref(object);
            object = NULL;
        }
    }
    *out = object;
    return object ? MF_OK : MF_FAIL(MF_ENOMEM, "no memory for the settings");
}
