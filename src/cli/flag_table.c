/* flag_table.c: see flag_table.h. */
#include "cli/flag_table.h"

void mf_table_group(mf_flag_table *t, const char *title) {
    t->group[t->groups] = (mf_flag_group){.title = title, .flags = t->flag[t->groups]};
    t->groups++;
}

void mf_table_add(mf_flag_table *t, mf_flag flag) {
    int group = t->groups - 1;
    t->flag[group][t->group[group].count++] = flag;
}
