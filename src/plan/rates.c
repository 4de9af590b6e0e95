/* rates.c: lines between what was measured. */
#include "meshfold/rates.h"

#include <math.h>
#include <string.h>

static const char *const form_names[MF_FORMS] = {"nn", "nt", "tn", "tt"};
const char *mf_form_name(int form) { return form_names[form]; }

mf_status mf_rates_add(mf_rates *rates, mf_grid *grid, int axes, const mf_grid_axis *axis,
                       const double *value) {
    int values = 1;
    for (int i = 0; i < axes; i++) values *= axis[i].points;
    if (rates->values + values > MF_RATE_VALUES)
        return MF_FAIL(MF_EINVAL, "more than %d rates", MF_RATE_VALUES);
    *grid = (mf_grid){.axes = axes, .first = rates->values};
    memcpy(grid->axis, axis, (size_t)axes * sizeof *axis);
    memcpy(rates->value + rates->values, value, (size_t)values * sizeof *value);
    rates->values += values;
    return MF_OK;
}

/* Where a size lies: after point `low`, this share of the way (by logarithms) to the next. */
typedef struct place {
    int low;
    double share;
} place;

static place find(const mf_grid_axis *axis, double size) {
    int low = 0;
    if (axis->points == 1 || size <= axis->at[0]) return (place){0, 0};
    while (low + 2 < axis->points && size > axis->at[low + 1]) low++;
    double share = log(size / axis->at[low]) / log(axis->at[low + 1] / axis->at[low]);
    return (place){low, fmin(share, 1)};
}

/* Over the corners of the box that the sizes lie in. */
static double log_of_rate(const double *value, const mf_grid *grid, const place *at) {
    double sum = 0;
    for (int corner = 0; corner < 1 << grid->axes; corner++) {
        double weight = 1;
        int index = 0;
        for (int i = 0; i < grid->axes; i++) {
            int upper = corner >> i & 1;
            weight *= upper ? at[i].share : 1 - at[i].share;
            index = index * grid->axis[i].points + at[i].low + upper;
        }
        if (weight > 0) sum += weight * log(value[index]);
    }
    return sum;
}

double mf_rates_s(const mf_rates *rates, const mf_grid *grid, const double *size, double amount) {
    place at[MF_GRID_AXES];
    double shrunk = 1;
    for (int i = 0; i < grid->axes; i++) {
        at[i] = find(&grid->axis[i], size[i]);
        shrunk *= fmin(1, size[i] / grid->axis[i].at[0]);
    }
    return amount / shrunk / exp(log_of_rate(rates->value + grid->first, grid, at));
}
