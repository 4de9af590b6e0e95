/* rank_json.c: see rank_json.h. */
#include "cli/rank_json.h"

json_t *mf_mesh_json(const mf_mesh_spec *mesh) {
    json_t *out = json_object();
    for (int i = 0; i < mesh->axes; i++)
        json_object_set_new(out, mesh->axis[i].name, json_integer(mesh->axis[i].size));
    return out;
}

static json_t *json_memory(const mf_memory_stats *stats) {
    json_t *out = json_pack("{s:I}", "total", (json_int_t)stats->peak_total);
    for (int i = 0; i < MF_CATEGORIES; i++)
        json_object_set_new(out, mf_category_name((mf_category)i), json_integer(stats->peak[i]));
    return out;
}

static json_t *json_comm(const mf_rank_report *rank) {
    json_t *out = json_array();
    for (int g = 0; g < rank->groups; g++) {
        for (int i = 0; i < MF_COMM_OPS; i++) {
            const mf_comm_stat *s = &rank->group[g].stat[i];
            if (s->calls == 0 && s->borrowed_bytes == 0) continue;
            json_array_append_new(out, json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f}", "axis",
                                                 rank->group[g].axis, "op", s->op, "calls",
                                                 (json_int_t)s->calls, "bytes", (json_int_t)s->bytes,
                                                 "borrowed_bytes", (json_int_t)s->borrowed_bytes, "exposed_s",
                                                 s->exposed_s, "total_s", s->total_s));
        }
    }
    return out;
}

json_t *mf_rank_json(const mf_mesh_spec *mesh, const mf_rank_report *rank) {
    json_t *coords = json_object(), *at_peak = json_object();
    for (int i = 0; i < mesh->axes; i++)
        json_object_set_new(coords, mesh->axis[i].name, json_integer(rank->coords[i]));
    for (int i = 0; i < MF_CATEGORIES; i++)
        json_object_set_new(at_peak, mf_category_name((mf_category)i), json_integer(rank->memory.at_peak[i]));
    json_t *out =
        json_pack("{s:i, s:o, s:I, s:o, s:o, s:I, s:o}", "rank", rank->rank, "coords", coords, "tokens",
                  (json_int_t)rank->tokens, "peak_bytes", json_memory(&rank->memory), "at_peak_bytes",
                  at_peak, "rss_peak_bytes", (json_int_t)rank->rss_peak_bytes, "comm", json_comm(rank));
    if (rank->device_pool_peak_bytes)
        json_object_set_new(out, "device_pool_peak_bytes", json_integer(rank->device_pool_peak_bytes));
    return out;
}
