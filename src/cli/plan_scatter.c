/* plan_scatter.c: tokens a second of planned layouts over their peak memory: what to choose among. */
#include "cli/plan_figures.h"

#include "cli/html.h"
#include "cli/svg.h"
#include "cli/text.h"

#include <math.h>

enum { LEFT = 70, RIGHT = MF_SVG_WIDTH - 20, TOP = 34, BOTTOM = 400, KEY = 18, DOT = 4 };

typedef struct box {
    double x, y, width, height; /* of its upper left corner */
} box;

typedef struct scatter {
    const mf_plan_table *table;
    double most_bytes, least_rate, most_rate; /* on the axes */
    mf_svg_unit unit;
    box *taken; /* [2 * planned] by dots, then by labels */
    int count;
} scatter;

static double x_at(const scatter *s, double bytes) { return LEFT + bytes / s->most_bytes * (RIGHT - LEFT); }
static double y_at(const scatter *s, double rate) {
    return BOTTOM - (rate - s->least_rate) / (s->most_rate - s->least_rate) * (BOTTOM - TOP);
}

static double x_of(const scatter *s, int row) {
    return x_at(s, (double)s->table->row[row].plan.rank.memory.peak_total);
}
static double y_of(const scatter *s, int row) { return y_at(s, s->table->row[row].plan.tokens_per_s); }

static bool overlap(const box *a, const box *b) {
    return a->x < b->x + b->width && b->x < a->x + a->width && a->y < b->y + b->height &&
           b->y < a->y + a->height;
}

static bool is_free(const scatter *s, const box *place) {
    if (place->x < LEFT || place->x + place->width > RIGHT || place->y < TOP ||
        place->y + place->height > BOTTOM)
        return false;
    for (int i = 0; i < s->count; i++)
        if (overlap(place, &s->taken[i])) return false;
    return true;
}

/* Where a label of this width stands free near (x, y), the nearest of places on circles around it; right on
 * top of all else where there is none. */
static box place_label(const scatter *s, double x, double y, double width) {
    static const double distances[] = {13, 22, 34, 50, 70, 95};
    enum { DIRECTIONS = 16, HEIGHT = 13 };
    for (int i = 0; i < (int)(sizeof distances / sizeof *distances); i++)
        for (int k = 0; k < DIRECTIONS; k++) {
            double angle = 6.2831853 * k / DIRECTIONS;
            box place = {x + distances[i] * cos(angle) - width / 2,
                         y - distances[i] * sin(angle) - HEIGHT / 2.0, width, HEIGHT};
            if (is_free(s, &place)) return place;
        }
    return (box){x - width / 2, y - HEIGHT / 2.0, width, HEIGHT};
}

static void draw_axes(const scatter *s, FILE *out) {
    double step = mf_svg_tick(s->most_bytes / s->unit.size);
    char text[64];
    for (double tick = 0; tick * s->unit.size <= s->most_bytes; tick += step) {
        double x = x_at(s, tick * s->unit.size);
        mf_svg_line(out, "grid", x, TOP, x, BOTTOM);
        snprintf(text, sizeof text, "%.4g", tick);
        mf_svg_text(out, "middle", x, BOTTOM + 16, text);
    }
    step = mf_svg_tick(s->most_rate - s->least_rate);
    for (double tick = s->least_rate; tick <= s->most_rate; tick += step) {
        mf_svg_line(out, "grid", LEFT, y_at(s, tick), RIGHT, y_at(s, tick));
        mf_svg_text(out, "end", LEFT - 6, y_at(s, tick) + 4, mf_rate_text(tick, text));
    }
    mf_svg_text(out, "start", 4, 14, "tokens/s");
    snprintf(text, sizeof text, "peak memory of a rank, %s", s->unit.name);
    mf_svg_text(out, "middle", (LEFT + RIGHT) / 2.0, BOTTOM + 34, text);
}

static void draw_limit(const scatter *s, FILE *out) {
    char memory[32], text[64];
    double limit = s->table->cluster->memory_bytes, x = fmin(x_at(s, limit), RIGHT);
    bool beyond = limit > s->most_bytes;
    snprintf(text, sizeof text, "a device has %s%s", mf_bytes_text(limit, memory),
             beyond ? ", beyond this edge" : "");
    if (!beyond) mf_svg_line(out, "limit", x, TOP, x, BOTTOM);
    mf_svg_text(out, x > MF_SVG_WIDTH / 2 ? "end" : "start", x, TOP - 6, text);
}

static void draw_dots(scatter *s, FILE *out) {
    char name[MF_PLAN_ROW_NAME];
    for (int i = 0; i < s->table->count; i++) {
        if (s->table->row[i].refused) continue;
        double x = x_of(s, i), y = y_of(s, i);
        fprintf(out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%d\"><title>",
                s->table->row[i].plan.fits ? "fits" : "short", x, y, DOT);
        mf_html_put(out, mf_plan_row_name(s->table, i, name));
        fprintf(out, "</title></circle>\n");
        s->taken[s->count++] = (box){x - DOT - 1, y - DOT - 1, 2 * DOT + 2, 2 * DOT + 2};
    }
}

static void draw_label(scatter *s, int row, FILE *out) {
    char text[16];
    double x = x_of(s, row), y = y_of(s, row);
    int letters = snprintf(text, sizeof text, "%d", row + 1);
    box place = place_label(s, x, y, MF_SVG_TEXT * letters + 2);
    double middle = place.x + place.width / 2, centre = place.y + place.height / 2;
    double distance = hypot(middle - x, centre - y);
    if (distance > 16) /* from the dot's edge to the label's */
        mf_svg_line(out, "lead", x + (middle - x) * 5 / distance, y + (centre - y) * 5 / distance,
                    middle - (middle - x) * 8 / distance, centre - (centre - y) * 8 / distance);
    mf_svg_text(out, "middle", middle, place.y + place.height - 2, text);
    s->taken[s->count++] = place;
}

static void draw_key(const scatter *s, FILE *out) {
    char name[MF_PLAN_ROW_NAME];
    double y = BOTTOM + 62;
    for (int i = 0; i < s->table->count; i++) {
        if (s->table->row[i].refused) continue;
        mf_svg_text(out, "start", LEFT, y, mf_plan_row_name(s->table, i, name));
        y += KEY;
    }
}

/* Memory from zero on, up to the device's where that is not far; speeds from zero on too, unless all are much
 * the same. */
static void choose_axes(scatter *s) {
    double limit = s->table->cluster->memory_bytes, least = INFINITY, most = 0;
    s->most_bytes = 1.05 * mf_plan_most_memory(s->table);
    if (limit < 1.5 * s->most_bytes) s->most_bytes = fmax(s->most_bytes, 1.02 * limit);
    s->unit = mf_svg_bytes_unit(s->most_bytes);
    for (int i = 0; i < s->table->count; i++) {
        if (s->table->row[i].refused) continue;
        least = fmin(least, s->table->row[i].plan.tokens_per_s);
        most = fmax(most, s->table->row[i].plan.tokens_per_s);
    }
    s->most_rate = 1.05 * most;
    if (least < most / 2) return;
    double step = mf_svg_tick(s->most_rate - 0.9 * least);
    s->least_rate = step * floor(0.95 * least / step);
}

mf_status mf_plan_draw_choice(const mf_plan_table *t, FILE *out) {
    scatter s = {.table = t};
    int planned = mf_plan_planned(t);
    MF_TRY(mf_host_alloc(2 * (size_t)planned, sizeof *s.taken, &s.taken));
    choose_axes(&s);
    mf_svg_begin(out, "Speed over memory; hollow where it does not fit", BOTTOM + 62 + KEY * planned);
    draw_axes(&s, out);
    draw_limit(&s, out);
    draw_dots(&s, out);
    for (int i = 0; i < t->count; i++)
        if (!t->row[i].refused) draw_label(&s, i, out);
    draw_key(&s, out);
    mf_svg_end(out);
    mf_host_free(s.taken);
    return MF_OK;
}
