/* rates_json.c: one table tells what a file calls each grid; reading and writing follow it. */
#include "plan/rates_json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A grid of the rates, and its entry: {"what": .., "type": .., "m": [..], .., "tflops": [..]}. */
typedef struct entry {
    char what[32];
    mf_dtype type;
    mf_grid *grid;
    int axes;
    const char *axis[MF_GRID_AXES];
    const char *unit; /* of its values */
    double size;      /* of the unit */
} entry;
enum { ENTRIES = 2 * (MF_FORMS + 3) + 2 * MF_OPERATIONS + MF_COMM_OPS };

static const char *const operation_axis = "bytes";

static void add(entry *list, int *n, entry e, const char *what) {
    snprintf(e.what, sizeof e.what, "%s", what);
    list[(*n)++] = e;
}

static void list_products(mf_rates *r, mf_dtype type, entry *list, int *n) {
    char what[32];
    for (int form = 0; form < MF_FORMS; form++) {
        snprintf(what, sizeof what, "gemm %s", mf_form_name(form));
        add(list, n, (entry){"", type, &r->gemm[type][form], 3, {"m", "n", "k"}, "tflops", 1e12}, what);
    }
    add(list, n, (entry){"", type, &r->gemm_result[type], 1, {"kind"}, "gigaelements_per_s", 1e9},
        "gemm result");
}

static int list_entries(mf_rates *r, entry list[ENTRIES]) {
    static const char *const attention[] = {"attention_forward", "attention_backward"};
    int n = 0;
    for (mf_dtype type = MF_F32; type <= MF_BF16; type++) {
        list_products(r, type, list, &n);
        for (int back = 0; back < 2; back++)
            add(list, &n,
                (entry){"", type, &r->attention[type][back], 2, {"head_dim", "queries"}, "tflops", 1e12},
                attention[back]);
        for (int i = MF_DO_ATTENTION_DELTA; i < MF_OPERATIONS; i++)
            add(list, &n, (entry){"", type, &r->touch[i][type], 1, {operation_axis}, "gb_per_s", 1e9},
                mf_operation_name((mf_operation)i));
    }
    for (int op = 0; op < MF_COMM_OPS; op++)
        add(list, &n, (entry){"", MF_F32, &r->transfer[op], 1, {operation_axis}, "gb_per_s", 1e9},
            mf_op_name(op));
    return n;
}

static mf_status complain(const char *where, const char *what, const char *key, const char *problem) {
    return MF_FAIL(MF_EFORMAT, "%s: %s: %s %s", where, what, key, problem);
}

bool mf_within_reason(double value) { return value >= 1e-12 && value <= 1e15; }

/* Numbers above zero; how many there are must be `count`, unless it is 0. */
static mf_status read_numbers(const char *where, const char *what, const json_t *from, const char *key,
                              int most, int count, double *out, int *read) {
    const json_t *list = json_object_get(from, key);
    if (!json_is_array(list)) return complain(where, what, key, "must be a list of numbers");
    *read = (int)json_array_size(list);
    if (count && *read != count)
        return complain(where, what, key, "must have a value for every combination of sizes");
    if (*read < 1 || *read > most) return complain(where, what, key, "has too few or too many entries");
    for (int i = 0; i < *read; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        out[i] = json_number_value(value);
        if (!json_is_number(value) || out[i] <= 0)
            return complain(where, what, key, "must hold numbers above zero");
        if (!mf_within_reason(out[i]))
            return complain(where, what, key, "must hold numbers from 1e-12 to 1e15");
    }
    return MF_OK;
}

static mf_status read_axis(const char *where, const entry *e, const json_t *from, int index,
                           mf_grid_axis *out) {
    MF_TRY(read_numbers(where, e->what, from, e->axis[index], MF_GRID_POINTS, 0, out->at, &out->points));
    for (int i = 1; i < out->points; i++)
        if (out->at[i] <= out->at[i - 1]) return complain(where, e->what, e->axis[index], "must ascend");
    return MF_OK;
}

static mf_status read_entry(const char *where, const entry *e, const json_t *from, mf_rates *rates) {
    mf_grid_axis axis[MF_GRID_AXES] = {{0}};
    double value[MF_GRID_POINTS * MF_GRID_POINTS * MF_GRID_POINTS];
    int values = 1;
    if (e->grid->axes) return complain(where, e->what, mf_dtype_name(e->type), "is there twice");
    for (int i = 0; i < e->axes; i++) {
        MF_TRY(read_axis(where, e, from, i, &axis[i]));
        values *= axis[i].points;
    }
    MF_TRY(read_numbers(where, e->what, from, e->unit, values, values, value, &values));
    for (int i = 0; i < values; i++) value[i] *= e->size;
    return mf_rates_add(rates, e->grid, e->axes, axis, value);
}

static mf_status find_entry(const char *where, entry *list, int n, const json_t *from, entry **out) {
    const char *what = json_string_value(json_object_get(from, "what"));
    const char *type = json_string_value(json_object_get(from, "type"));
    if (!what) return complain(where, "rates", "what", "must be a text");
    for (int i = 0; i < n; i++) {
        *out = &list[i];
        if (!strcmp(list[i].what, what) && (!type || !strcmp(mf_dtype_name(list[i].type), type)))
            return MF_OK;
    }
    return complain(where, what, type ? type : "", "is nothing that has a rate");
}

/* A whole number above zero. */
static mf_status read_count(const char *where, const json_t *from, const char *key, int *out) {
    const json_t *value = json_object_get(from, key);
    if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > 1 << 20)
        return complain(where, "measured", key, "must be a whole number above zero");
    *out = (int)json_integer_value(value);
    return MF_OK;
}

mf_status mf_rates_read(const char *where, const json_t *from, mf_rates *out) {
    entry list[ENTRIES], *found = NULL;
    int n = list_entries(out, list), one = 0;
    const json_t *rates = json_object_get(from, "rates");
    *out = (mf_rates){0};
    MF_TRY(read_count(where, from, "ranks", &out->ranks));
    MF_TRY(read_count(where, from, "threads", &out->threads));
    MF_TRY(read_numbers(where, "measured", from, "pace_tflops", 1, 1, &out->pace, &one));
    out->pace *= 1e12;
    if (!json_is_array(rates)) return complain(where, "measured", "rates", "must be a list");
    for (size_t i = 0; i < json_array_size(rates); i++) {
        MF_TRY(find_entry(where, list, n, json_array_get(rates, i), &found));
        MF_TRY(read_entry(where, found, json_array_get(rates, i), out));
    }
    return MF_OK;
}

/* Four digits say all that a measurement knows. */
static double rounded(double value) {
    double unit = pow(10, floor(log10(value)) - 3);
    return round(value / unit) * unit;
}

static json_t *write_entry(const entry *e, const mf_rates *rates) {
    json_t *out = json_pack("{s:s, s:s}", "what", e->what, "type", mf_dtype_name(e->type));
    json_t *values = json_array();
    int count = 1;
    for (int i = 0; i < e->axes; i++) {
        const mf_grid_axis *axis = &e->grid->axis[i];
        json_t *sizes = json_array();
        for (int k = 0; k < axis->points; k++)
            json_array_append_new(sizes, json_integer((json_int_t)axis->at[k]));
        json_object_set_new(out, e->axis[i], sizes);
        count *= axis->points;
    }
    for (int i = 0; i < count; i++)
        json_array_append_new(values, json_real(rounded(rates->value[e->grid->first + i] / e->size)));
    json_object_set_new(out, e->unit, values);
    return out;
}

json_t *mf_rates_write(const mf_rates *rates) {
    mf_rates copy = *rates;
    entry list[ENTRIES];
    int n = list_entries(&copy, list);
    json_t *all = json_array();
    for (int i = 0; i < n; i++)
        if (list[i].grid->axes) json_array_append_new(all, write_entry(&list[i], &copy));
    return json_pack("{s:i, s:i, s:[f], s:o}", "ranks", rates->ranks, "threads", rates->threads,
                     "pace_tflops", rounded(rates->pace / 1e12), "rates", all);
}
