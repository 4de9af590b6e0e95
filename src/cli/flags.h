/* flags.h: a command's flags, as tables: parsed, checked, explained and written back from the same lines.
 *
 *     const mf_flag run[] = {
 *         {"seq", MF_FLAG_INT, .target = &s->seq, .fallback = "512", .low = 1, .high = 1 << 24, .about =
 * "tokens"},
 *         {"data", MF_FLAG_LIST, .target = &s->data, .value_name = "PATH", .required = true, .about =
 * "text"},
 *     };
 *     const mf_flag_group groups[] = {{"Run", run, 2}};
 *     mf_flags flags = {.command = "meshfold train", .about = "trains", .groups = groups, .group_count = 1};
 *     if ((status = mf_flags_parse(&flags, argc, argv)) == MF_OK && flags.help) mf_flags_help(&flags,
 * stdout);
 *     ... s->seq, s->data.items[0] ...
 *     mf_flags_free(&flags);
 *
 * `--name value` and `--name=value` are one; a value that begins with "--" needs the second form. Every
 * command also knows --help (or -h) and --config FILE: a JSON object of flags' names (no dashes) and values.
 * The command line wins over the file, the file over what a command inherits from an earlier one, that over
 * the fallback. What mf_flags_resolved returns can be given back as such a file. */
#ifndef MF_CLI_FLAGS_H
#define MF_CLI_FLAGS_H

#include "meshfold/base.h"

#include <jansson.h>
#include <stdio.h>

/* What a flag takes, and the type of its target. */
typedef enum mf_flag_kind {
    MF_FLAG_INT,    /* int64_t: decimal digits with an optional minus */
    MF_FLAG_REAL,   /* double: finite, decimal */
    MF_FLAG_TEXT,   /* const char *: not empty */
    MF_FLAG_CHOICE, /* const char *: one of `choices` */
    MF_FLAG_SWITCH, /* bool: --name alone, or --name=true, --name=false */
    MF_FLAG_LIST /* mf_words: every following word up to the next flag, or one after "="; more when repeated
                  */
} mf_flag_kind;

/* Points into argv, or into the configuration file that the mf_flags hold. */
typedef struct mf_words {
    const char **items;
    int count;
} mf_words;

typedef struct mf_flag {
    const char *name; /* without dashes */
    mf_flag_kind kind;
    void *target;         /* of the kind's type; untouched when nothing was given and there is no fallback */
    const char *fallback; /* as a user would write it (a list: one word); NULL: none */
    double low, high;     /* numbers: inclusive; INFINITY leaves a side open; both 0: any */
    const char *choices;  /* "f32|bf16" */
    const char *value_name; /* help's word for the value; NULL: "N", "X" or "TEXT" by kind */
    const char *about;      /* help's text */
    bool required;
} mf_flag;

typedef struct mf_flag_group {
    const char *title;
    const mf_flag *flags;
    int count;
} mf_flag_group;

typedef enum mf_flag_source {
    MF_FROM_NOTHING,
    MF_FROM_FALLBACK,
    MF_FROM_EARLIER,
    MF_FROM_FILE,
    MF_FROM_LINE
} mf_flag_source;

typedef struct mf_flags mf_flags;
/* Once the line and the file are read: settings of an earlier run, as a configuration file has them, and
 * where they stand; *out NULL: none. *out is the flags', *where lasts as long as they. */
typedef mf_status (*mf_flags_inherit)(mf_flags *flags, void *context, json_t **out, const char **where);

/* The first seven members are the caller's, zero the rest; tables and targets must outlive it. */
struct mf_flags {
    const char *command; /* "meshfold train" */
    const char *usage;   /* what follows it in help's usage line; NULL: "[flags]" */
    const char *about;   /* one line */
    const mf_flag_group *groups;
    int group_count;
    mf_flags_inherit inherit; /* NULL: never */
    void *inherit_context;

    bool help; /* --help was among the words; nothing else was looked at */

    const char *config;      /* --config's value */
    mf_flag config_flag;     /* its table line, behind all groups */
    mf_flag_source *sources; /* one a flag, in the tables' order */
    json_t *file;            /* --config's content: texts taken from it live as long */
    json_t *earlier;         /* what was inherited; the same */
};

/* Reads argv[1] .. argv[argc - 1] and the file that --config names. MF_EINVAL names the flag and what it
 * takes; MF_EIO and MF_EFORMAT name the file. mf_flags_free is due after failure too. */
mf_status mf_flags_parse(mf_flags *flags, int argc, char **argv);
/* Frees what parse made, lists included; safe on one that was never parsed. */
void mf_flags_free(mf_flags *flags);
/* True when the command line or the file gave this flag. The name must be in a table. */
bool mf_flags_given(const mf_flags *flags, const char *name);
/* Says that the command has worked this one out, where neither the user nor the table had a value. */
void mf_flags_settle(mf_flags *flags, const char *name);
/* All settings that have a value, read from their targets now, without "config". The caller owns *out.
 * MF_ENOMEM. */
mf_status mf_flags_resolved(const mf_flags *flags, json_t **out);
/* Usage, then every flag with its default, for a terminal. */
void mf_flags_help(const mf_flags *flags, FILE *out);

/* The flag at `index` over all groups, then --config's; NULL past the end. */
const mf_flag *mf_flags_at(const mf_flags *flags, int index);

/* Finds the known word that a mistyped one was meant to be:
 *     mf_nearest nearest = {.word = argv[1]};
 *     for (int i = 0; i < count; i++) mf_nearest_offer(&nearest, commands[i].name);
 *     if (nearest.best) ... "did you mean ..." */
typedef struct mf_nearest {
    const char *word;
    const char *best; /* NULL: none is close */
    int distance;
} mf_nearest;
void mf_nearest_offer(mf_nearest *nearest, const char *known);

#endif
