/* html.c: see html.h. */
#include "cli/html.h"

#include <stdarg.h>

static const char *entity(char c) {
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return (unsigned char)c < ' ' ? " " : NULL; /* XML has no place for control characters */
    }
}

void mf_html_put(FILE *out, const char *text) {
    for (; *text; text++) {
        const char *escaped = entity(*text);
        if (escaped)
            fputs(escaped, out);
        else
            fputc(*text, out);
    }
}

void mf_html_putf(FILE *out, const char *format, ...) {
    char text[1000];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    mf_html_put(out, text);
}
