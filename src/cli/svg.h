/* svg.h: what drawings inside a page have in common: lines, texts, units and ticks of an axis. Classes are
 * the page's; a drawing is MF_SVG_WIDTH wide. */
#ifndef MF_CLI_SVG_H
#define MF_CLI_SVG_H

#include <stdio.h>

enum { MF_SVG_WIDTH = 900, MF_SVG_TEXT = 7 /* of a letter, at most */ };

typedef struct mf_svg_unit {
    const char *name;
    double size;
} mf_svg_unit;
/* The largest of which `most` is at least one. */
mf_svg_unit mf_svg_bytes_unit(double most);
mf_svg_unit mf_svg_seconds_unit(double most);
/* 1, 2 or 5 times a power of ten, so that an axis up to `most` has 4 to 10 ticks. */
double mf_svg_tick(double most);

/* A figure: its caption, and a drawing of this height. */
void mf_svg_begin(FILE *out, const char *caption, double height);
void mf_svg_end(FILE *out);
void mf_svg_line(FILE *out, const char *class_name, double x1, double y1, double x2, double y2);
/* anchor: "start", "middle", "end" */
void mf_svg_text(FILE *out, const char *anchor, double x, double y, const char *text);

#endif
