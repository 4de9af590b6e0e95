/* layout.c: the layouts, as a table. */
#include "meshfold/schedule.h"

#include <string.h>

static const mf_layout layouts[] = {
    {.name = "single",
     .attention = &mf_stream_resident,
     .mlp = &mf_stream_resident,
     .vocabulary = &mf_stream_resident,
     .exchange = &mf_exchange_none},
    {.name = "tsp",
     .weights_axis = "tsp",
     .sequence_axis = "tsp",
     .attention = &mf_stream_broadcast,
     .mlp = &mf_stream_ring,
     .vocabulary = &mf_stream_ring,
     .exchange = &mf_exchange_allgather},
};

static bool has_axis(const mf_mesh_spec *mesh, const char *name) {
    for (int i = 0; i < mesh->axes; i++)
        if (strcmp(mesh->axis[i].name, name) == 0) return true;
    return false;
}

const mf_layout *mf_layout_find(const mf_mesh_spec *mesh) { return &layouts[has_axis(mesh, "tsp") ? 1 : 0]; }
