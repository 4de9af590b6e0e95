/* colours.h: the colours of all plots. */
#ifndef MF_CLI_COLOURS_H
#define MF_CLI_COLOURS_H

/* Okabe and Ito's, which the colour-blind can tell apart; black last. */
static const char *const mf_colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                         "#e69f00", "#56b4e9", "#7f7f7f", "#000000"};
enum { MF_COLOURS = sizeof mf_colours / sizeof *mf_colours };

#endif
