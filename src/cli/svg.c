/* svg.c: see svg.h. */
#include "cli/svg.h"

#include "cli/html.h"

#include <math.h>

static mf_svg_unit unit_of(const mf_svg_unit *units, double most) {
    while (units->size > most && units[1].name) units++;
    return *units;
}

mf_svg_unit mf_svg_bytes_unit(double most) {
    static const mf_svg_unit units[] = {
        {"TiB", 1099511627776.0}, {"GiB", 1073741824}, {"MiB", 1048576}, {"KiB", 1024}, {"B", 1}, {NULL, 0}};
    return unit_of(units, most);
}

mf_svg_unit mf_svg_seconds_unit(double most) {
    static const mf_svg_unit units[] = {{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {NULL, 0}};
    return unit_of(units, most);
}

double mf_svg_tick(double most) {
    double power = pow(10, floor(log10(most / 4)));
    double times = most / 4 / power;
    return power * (times >= 5 ? 5 : times >= 2 ? 2 : 1);
}

void mf_svg_begin(FILE *out, const char *caption, double height) {
    fprintf(out, "<figure>\n<figcaption>");
    mf_html_put(out, caption);
    fprintf(out, "</figcaption>\n<svg viewBox=\"0 0 %d %.0f\" role=\"img\" aria-label=\"", MF_SVG_WIDTH,
            height);
    mf_html_put(out, caption);
    fprintf(out, "\">\n");
}

void mf_svg_end(FILE *out) { fprintf(out, "</svg>\n</figure>\n"); }

void mf_svg_line(FILE *out, const char *class_name, double x1, double y1, double x2, double y2) {
    fprintf(out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class_name, x1, y1,
            x2, y2);
}

void mf_svg_text(FILE *out, const char *anchor, double x, double y, const char *text) {
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    mf_html_put(out, text);
    fprintf(out, "</text>\n");
}
