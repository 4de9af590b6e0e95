/* rank_json.h: a mesh, and what a rank measured, under the stable names of summary.json. */
#ifndef MF_CLI_RANK_JSON_H
#define MF_CLI_RANK_JSON_H

#include "meshfold/train.h"

#include <jansson.h>

/* Both are the caller's; NULL without memory. */
json_t *mf_mesh_json(const mf_mesh_spec *mesh);
json_t *mf_rank_json(const mf_mesh_spec *mesh, const mf_rank_report *rank);

#endif
