/* plan_figures.c: what the drawings of `meshfold plan` share. */
#include "cli/plan_figures.h"

#include "cli/colours.h"

#include <math.h>
#include <string.h>

void mf_plan_figures_style(FILE *out) {
    fprintf(out, "figure{margin:2rem 0}\n"
                 "figcaption{font-weight:600;margin-bottom:.5rem}\n"
                 "svg{width:100%%;max-width:56rem;height:auto;display:block}\n"
                 "text{font:12px system-ui,sans-serif;fill:var(--ink);paint-order:stroke;stroke:var(--paper);"
                 "stroke-width:3px}\n"
                 ".grid{stroke:var(--faint)}\n"
                 ".lead{stroke:var(--ink);stroke-width:.6}\n"
                 ".limit{stroke:var(--ink);stroke-dasharray:5 4}\n");
    for (int i = 0; i < MF_COLOURS - 1; i++) fprintf(out, ".c%d{fill:%s}\n", i, mf_colours[i]);
    fprintf(out, ".c%d{fill:var(--ink)}\n", MF_COLOURS - 1);
    fprintf(out, ".fits,.short{stroke:%s;stroke-width:1.5;fill:%s}\n.short{fill:var(--paper)}\n",
            mf_colours[0], mf_colours[0]);
}

/* Letters of a mesh that fit beside all else; the table has the rest. */
enum { MESH_SHOWN = 96 };

const char *mf_plan_row_name(const mf_plan_table *t, int row, char out[MF_PLAN_ROW_NAME]) {
    const mf_plan_row *r = &t->row[row];
    const char *cut = strlen(r->mesh) > MESH_SHOWN ? "..." : "";
    int length = snprintf(out, MF_PLAN_ROW_NAME, "%d: %.*s%s", row + 1, MESH_SHOWN, r->mesh, cut);
    if (!t->options.forward_only)
        snprintf(out + length, MF_PLAN_ROW_NAME - (size_t)length, ", recompute %s",
                 mf_recompute_name(r->options.model.recompute));
    return out;
}

int mf_plan_planned(const mf_plan_table *t) {
    int planned = 0;
    for (int i = 0; i < t->count; i++) planned += !t->row[i].refused;
    return planned;
}

double mf_plan_most_memory(const mf_plan_table *t) {
    double most = 0;
    for (int i = 0; i < t->count; i++)
        if (!t->row[i].refused) most = fmax(most, (double)t->row[i].plan.rank.memory.peak_total);
    return most;
}
