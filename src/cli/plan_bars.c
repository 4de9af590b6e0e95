/* plan_bars.c: memory and time of planned layouts as stacked bars, a row below the other, its name above it.
 */
#include "cli/plan_figures.h"

#include "cli/colours.h"
#include "cli/html.h"
#include "cli/svg.h"
#include "cli/text.h"

#include <math.h>
#include <string.h>

enum { PARTS = MF_COLOURS, ROW = 40, BAR = 14, LEGEND = 20, BEGIN = 12, END = 800 };

typedef struct bars bars;
struct bars {
    const mf_plan_table *table;
    char caption[96];
    int parts;
    struct {
        char name[MF_AXIS_NAME];
        int colour;
    } part[PARTS];
    double (*value)(const bars *b, const mf_plan_row *row, int part);
    mf_svg_unit unit;
    double most; /* on the axis */
    double line; /* across all bars; 0: none */
    char line_name[64];
};

static double total(const bars *b, const mf_plan_row *row) {
    double sum = 0;
    for (int i = 0; i < b->parts; i++) sum += b->value(b, row, i);
    return sum;
}

static double longest(const bars *b) {
    double most = 0;
    for (int i = 0; i < b->table->count; i++)
        if (!b->table->row[i].refused) most = fmax(most, total(b, &b->table->row[i]));
    return most;
}

static double x_at(const bars *b, double value) { return BEGIN + value / b->most * (END - BEGIN); }

/* Names of the parts in their colours, as many on a line as fit; draws where `out`. Returns the lines. */
static int legend(const bars *b, FILE *out) {
    double x = BEGIN;
    int line = 0;
    for (int i = 0; i < b->parts; i++) {
        double width = 24 + MF_SVG_TEXT * (double)strlen(b->part[i].name);
        if (x + width > MF_SVG_WIDTH) {
            x = BEGIN;
            line++;
        }
        if (out) {
            fprintf(out, "<rect class=\"c%d\" x=\"%.1f\" y=\"%d\" width=\"12\" height=\"12\"/>\n",
                    b->part[i].colour, x, 4 + LEGEND * line);
            mf_svg_text(out, "start", x + 16, 14 + LEGEND * line, b->part[i].name);
        }
        x += width + 12;
    }
    return line + 1;
}

static void draw_axis(const bars *b, double top, double bottom, FILE *out) {
    double step = mf_svg_tick(b->most / b->unit.size);
    char text[64];
    for (double tick = 0; tick * b->unit.size <= b->most * 1.0001; tick += step) {
        double x = x_at(b, tick * b->unit.size);
        mf_svg_line(out, "grid", x, top, x, bottom);
        snprintf(text, sizeof text, "%.4g %s", tick, b->unit.name);
        mf_svg_text(out, tick == 0 ? "start" : "middle", x, bottom + 16, text);
    }
}

static void draw_line(const bars *b, double top, double bottom, FILE *out) {
    double x = x_at(b, b->line);
    if (b->line == 0) return;
    mf_svg_line(out, "limit", x, top, x, bottom);
    mf_svg_text(out, x > MF_SVG_WIDTH / 2 ? "end" : "start", x, top - 5, b->line_name);
}

/* Where a bar's total begins: not across the line. */
static double beside(const bars *b, double x) {
    double line = x_at(b, b->line) + 6;
    return x < line && line < x + 10 * MF_SVG_TEXT ? line : x;
}

static void draw_bar(const bars *b, int row, double y, FILE *out) {
    const mf_plan_row *r = &b->table->row[row];
    char name[MF_PLAN_ROW_NAME], text[64];
    double done = 0;
    mf_svg_text(out, "start", BEGIN, y + 13, mf_plan_row_name(b->table, row, name));
    for (int i = 0; i < b->parts; i++) {
        double value = b->value(b, r, i);
        if (value <= 0) continue;
        fprintf(out, "<rect class=\"c%d\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%d\"><title>",
                b->part[i].colour, x_at(b, done), y + 18, x_at(b, value) - BEGIN, BAR);
        mf_html_putf(out, "%s: %.4g %s", b->part[i].name, value / b->unit.size, b->unit.name);
        fprintf(out, "</title></rect>\n");
        done += value;
    }
    snprintf(text, sizeof text, "%.4g %s", done / b->unit.size, b->unit.name);
    mf_svg_text(out, "start", beside(b, x_at(b, done) + 6), y + 18 + BAR - 3, text);
}

static void draw(const bars *b, FILE *out) {
    double top = LEGEND * legend(b, NULL) + (b->line > 0 ? 26 : 8);
    double bottom = top + ROW * mf_plan_planned(b->table);
    mf_svg_begin(out, b->caption, bottom + 26);
    legend(b, out);
    draw_axis(b, top, bottom, out);
    draw_line(b, top, bottom, out);
    for (int i = 0, drawn = 0; i < b->table->count; i++)
        if (!b->table->row[i].refused) draw_bar(b, i, top + ROW * drawn++, out);
    mf_svg_end(out);
}

static double category(const bars *b, const mf_plan_row *row, int part) {
    (void)b;
    return (double)row->plan.rank.memory.at_peak[part];
}

/* A device that has many times what anything needs would leave nothing to see of the bars. */
enum { FAR_BEYOND = 4 };

void mf_plan_draw_memory(const mf_plan_table *t, FILE *out) {
    bars b = {.table = t, .parts = MF_CATEGORIES, .value = category};
    double device = t->cluster->memory_bytes;
    char memory[32];
    for (int i = 0; i < b.parts; i++) {
        snprintf(b.part[i].name, sizeof b.part[i].name, "%s", mf_category_name((mf_category)i));
        b.part[i].colour = i;
    }
    b.most = longest(&b);
    if (device < FAR_BEYOND * b.most) b.line = device;
    b.most = fmax(b.most, b.line);
    b.unit = mf_svg_bytes_unit(b.most);
    mf_bytes_text(device, memory);
    snprintf(b.caption, sizeof b.caption, "Memory of a rank at its peak, of %s", memory);
    snprintf(b.line_name, sizeof b.line_name, "a device has %s", memory);
    draw(&b, out);
}

/* Computation first, then axes, then all that have no colour of their own. */
enum { COMPUTATION, COMPUTATION_COLOUR = 6, OTHERS = PARTS - 1 };

static int part_of_axis(const bars *b, const char *axis) {
    int part = 1;
    while (part < b->parts && part < OTHERS && strcmp(b->part[part].name, axis) != 0) part++;
    return part;
}

static double computed_or_waited(const bars *b, const mf_plan_row *row, int part) {
    const mf_plan_result *p = &row->plan;
    double seconds = 0;
    if (part == COMPUTATION) return fmax(0, p->step_s - p->exposed_s);
    for (int g = 0; g < p->rank.groups; g++)
        if (part_of_axis(b, p->rank.group[g].axis) == part) seconds += mf_plan_group_waited(&p->rank, g);
    return seconds;
}

static void add_axes(bars *b, const mf_rank_report *rank) {
    for (int g = 0; g < rank->groups; g++) {
        int part = part_of_axis(b, rank->group[g].axis);
        if (part < b->parts || mf_plan_group_waited(rank, g) == 0) continue;
        snprintf(b->part[part].name, sizeof b->part[part].name, "%s",
                 part == OTHERS ? "other axes" : rank->group[g].axis);
        b->part[part].colour = part == OTHERS ? OTHERS : part - 1;
        b->parts++;
    }
}

void mf_plan_draw_time(const mf_plan_table *t, FILE *out) {
    bars b = {.table = t,
              .caption = "Time of a step: computation, and what it waited for transfers, by axis",
              .parts = 1,
              .part[COMPUTATION] = {"computation", COMPUTATION_COLOUR},
              .value = computed_or_waited};
    for (int i = 0; i < t->count; i++)
        if (!t->row[i].refused) add_axes(&b, &t->row[i].plan.rank);
    b.most = longest(&b);
    b.unit = mf_svg_seconds_unit(b.most);
    draw(&b, out);
}
