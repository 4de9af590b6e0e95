/* html.h: text that stands in a page as it is, whatever it holds. */
#ifndef MF_CLI_HTML_H
#define MF_CLI_HTML_H

#include "meshfold/base.h"

#include <stdio.h>

/* Escaped for an element's content and for an attribute in quotes. */
void mf_html_put(FILE *out, const char *text);
/* printf, and the same. What does not fit into 1000 bytes is cut off. */
void mf_html_putf(FILE *out, const char *format, ...) MF_PRINTF(2, 3);

#endif
