/* flag_table.h: a command's flag tables, put together group by group.
 *
 *     mf_flag_table t = {0};
 *     mf_table_group(&t, "Step");
 *     mf_table_add(&t, MF_INT("steps", &s->steps, "200", 1, 1 << 30, "optimizer steps"));
 *     mf_flags flags = {.command = "meshfold train", .groups = t.group, .group_count = t.groups};
 */
#ifndef MF_CLI_FLAG_TABLE_H
#define MF_CLI_FLAG_TABLE_H

#include "cli/flags.h"

enum { MF_TABLE_GROUPS = 8, MF_TABLE_FLAGS = 16 };

/* Groups point into the table itself: it is not to be copied. */
typedef struct mf_flag_table {
    mf_flag flag[MF_TABLE_GROUPS][MF_TABLE_FLAGS];
    mf_flag_group group[MF_TABLE_GROUPS];
    int groups;
} mf_flag_table;

/* Flags added from here on are of this group. */
void mf_table_group(mf_flag_table *table, const char *title);
void mf_table_add(mf_flag_table *table, mf_flag flag);

#define MF_INT(flag, to, value, min, max, text)                                                              \
    (mf_flag) {                                                                                              \
        .name = flag, .kind = MF_FLAG_INT, .target = to, .fallback = value, .low = min, .high = max,         \
        .about = text                                                                                        \
    }
#define MF_REAL(flag, to, value, min, max, text)                                                             \
    (mf_flag) {                                                                                              \
        .name = flag, .kind = MF_FLAG_REAL, .target = to, .fallback = value, .low = min, .high = max,        \
        .about = text                                                                                        \
    }
#define MF_SWITCH(flag, to, text)                                                                            \
    (mf_flag) { .name = flag, .kind = MF_FLAG_SWITCH, .target = to, .fallback = "false", .about = text }
#define MF_TEXT(flag, to, value, text)                                                                       \
    (mf_flag) { .name = flag, .kind = MF_FLAG_TEXT, .target = to, .value_name = value, .about = text }
#define MF_CHOICE(flag, to, words, value, text)                                                              \
    (mf_flag) {                                                                                              \
        .name = flag, .kind = MF_FLAG_CHOICE, .target = to, .fallback = value, .choices = words,             \
        .about = text                                                                                        \
    }

#endif
