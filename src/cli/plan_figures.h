/* plan_figures.h: what `meshfold plan` found, drawn: inline SVG for a page that has mf_plan_figures_style. */
#ifndef MF_CLI_PLAN_FIGURES_H
#define MF_CLI_PLAN_FIGURES_H

#include "cli/plan_table.h"

#include <stdio.h>

/* Rules for the classes that are used; the page defines the colours --ink, --paper and --faint. */
void mf_plan_figures_style(FILE *out);
/* Bars of all rows that were planned, of which there must be one: memory at the peak by category beside what
 * the device has; a step's time, computation and what it waited for by axis. */
void mf_plan_draw_memory(const mf_plan_table *table, FILE *out);
void mf_plan_draw_time(const mf_plan_table *table, FILE *out);
/* Tokens a second over peak memory, a numbered point a row. MF_ENOMEM. */
mf_status mf_plan_draw_choice(const mf_plan_table *table, FILE *out);

/* "3: tsp=8, recompute block": a row's number, as everywhere on the page, and what it is. */
enum { MF_PLAN_ROW_NAME = 200 };
const char *mf_plan_row_name(const mf_plan_table *table, int row, char out[MF_PLAN_ROW_NAME]);
/* Of the rows that were planned. */
int mf_plan_planned(const mf_plan_table *table);
double mf_plan_most_memory(const mf_plan_table *table);

#endif
