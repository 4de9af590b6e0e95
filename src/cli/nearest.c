/* nearest.c: edit distance between a mistyped word and the known ones. */
#include "cli/flags.h"

#include <string.h>

enum { LONGEST = 40 };

static int least(int a, int b) { return a < b ? a : b; }

/* Insertions, deletions, replacements and swaps of neighbours; both words at most LONGEST. */
static int edit_distance(const char *a, size_t a_length, const char *b, size_t b_length) {
    int rows[3][LONGEST + 1];
    int *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= b_length; j++) above[j] = (int)j;
    for (size_t i = 1; i <= a_length; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= b_length; j++) {
            row[j] = least(least(above[j], row[j - 1]) + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = least(row[j], before[j - 2] + 1);
        }
        int *spare = before;
        before = above;
        above = row;
        row = spare;
    }
    return above[b_length];
}

void mf_nearest_offer(mf_nearest *nearest, const char *known) {
    size_t length = strlen(nearest->word), known_length = strlen(known);
    if (length == 0 || length > LONGEST || known_length > LONGEST) return;
    size_t shorter = length < known_length ? length : known_length;
    size_t longer = length < known_length ? known_length : length;
    int distance = edit_distance(nearest->word, length, known, known_length);
    /* --seq-len for --seq is a likely slip although half of it is wrong */
    bool begins = shorter >= 3 && strncmp(nearest->word, known, shorter) == 0;
    if (!begins && distance > (longer < 6 ? 1 : (int)(longer / 3))) return;
    if (nearest->best && nearest->distance <= distance) return;
    nearest->best = known;
    nearest->distance = distance;
}
