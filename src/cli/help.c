/* help.c: a command's help, from its tables. */
#include "cli/flags.h"

#include <string.h>

enum { COLUMNS = 100, LEFT_MOST = 34, LEFT = 96 };

/* "--data PATH...", without the indent. */
static void spell(char *out, const mf_flag *flag) {
    static const char *const words[] = {"N", "X", "TEXT", "TEXT", "", "TEXT"};
    const char *value = flag->kind == MF_FLAG_CHOICE ? flag->choices : words[flag->kind];
    if (flag->value_name) value = flag->value_name;
    if (flag->kind == MF_FLAG_SWITCH)
        snprintf(out, LEFT, "--%s", flag->name);
    else
        snprintf(out, LEFT, "--%s %s%s", flag->name, value, flag->kind == MF_FLAG_LIST ? "..." : "");
}

static int left_width(const mf_flags *flags) {
    int width = 0;
    const mf_flag *flag = NULL;
    for (int i = 0; (flag = mf_flags_at(flags, i)); i++) {
        char left[LEFT];
        spell(left, flag);
        int length = (int)strlen(left);
        if (length > width && length <= LEFT_MOST) width = length;
    }
    return width;
}

/* Words of `text` from column `indent` on, broken before COLUMNS; *column is where the line stands. */
static void wrap(FILE *out, const char *text, int indent, int *column) {
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (*column > indent && *column + 1 + length > COLUMNS) {
            fprintf(out, "\n%*s", indent, "");
            *column = indent;
        } else if (*column > indent) {
            fputc(' ', out);
            ++*column;
        }
        fprintf(out, "%.*s", length, text);
        *column += length;
        text += length;
        text += strspn(text, " ");
    }
}

static void print_flag(FILE *out, const mf_flag *flag, int width) {
    char left[LEFT], after[LEFT] = "";
    spell(left, flag);
    int indent = width + 4, column = indent;
    if ((int)strlen(left) > width)
        fprintf(out, "  %s\n%*s", left, indent, "");
    else
        fprintf(out, "  %-*s  ", width, left);
    if (flag->about) wrap(out, flag->about, indent, &column);
    if (flag->required)
        snprintf(after, sizeof after, "(required)");
    else if (flag->fallback && flag->kind != MF_FLAG_SWITCH)
        snprintf(after, sizeof after, "(default %s)", flag->fallback);
    wrap(out, after, indent, &column);
    fputc('\n', out);
}

void mf_flags_help(const mf_flags *flags, FILE *out) {
    int width = left_width(flags);
    fprintf(out, "%s: %s\n\nusage: %s %s\n", flags->command, flags->about, flags->command,
            flags->usage ? flags->usage : "[flags]");
    for (int g = 0; g < flags->group_count; g++) {
        fprintf(out, "\n%s\n", flags->groups[g].title);
        for (int i = 0; i < flags->groups[g].count; i++) print_flag(out, &flags->groups[g].flags[i], width);
    }
    fprintf(out, "\nAlways there\n");
    print_flag(out, &flags->config_flag, width);
    fprintf(out, "  %-*s  print this text\n", width, "--help");
}
