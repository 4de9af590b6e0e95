/* mesh.h: named axes of ranks, and how a sequence or a dimension is cut over one of them.
 *
 *     mf_mesh_spec spec;
 *     MF_TRY(mf_mesh_parse("tsp=4", &spec));               // 4 ranks
 *     mf_mesh mesh;
 *     MF_TRY(mf_mesh_create(world, &spec, &mesh));         // collective over all ranks
 *     mf_comm *axis = mf_mesh_axis(&mesh, "tsp");          // NULL: the mesh has no such axis
 *     mf_mesh_destroy(&mesh);
 */
#ifndef MESHFOLD_MESH_H
#define MESHFOLD_MESH_H

#include "meshfold/comm.h"

enum { MF_MESH_AXES = 4 };

typedef struct mf_mesh_spec {
    int axes; /* 0: one rank, the layout `single` */
    struct {
        char name[16];
        int size;
    } axis[MF_MESH_AXES];
} mf_mesh_spec;

/* "single", or NAME=SIZE pairs with commas. MF_EINVAL names what is wrong and what would work. */
mf_status mf_mesh_parse(const char *text, mf_mesh_spec *out);
int mf_mesh_ranks(const mf_mesh_spec *spec);

/* A set of a mesh's axes: bit i is axis i. */
typedef unsigned mf_axes;
/* The axis of this name; 0 where the mesh has none. */
mf_axes mf_mesh_find(const mf_mesh_spec *spec, const char *name);
/* Ranks of the set's axes together; 1 for none. */
int mf_axes_ranks(const mf_mesh_spec *spec, mf_axes axes);
/* The set's name: "tsp+sp", of axes of more than one rank; "self" where there is none. */
enum { MF_AXES_NAME = 72 };
void mf_axes_name(const mf_mesh_spec *spec, mf_axes axes, char name[MF_AXES_NAME]);

/* Ranks are row-major in the axes, the last axis fastest. */
typedef struct mf_mesh {
    mf_mesh_spec spec;
    int coords[MF_MESH_AXES];
    mf_comm *group[1 << MF_MESH_AXES]; /* by set of axes: one axis each, others once they were asked for */
    mf_comm *self;                     /* a group of this rank alone */
    mf_comm *world;                    /* all ranks */
    mf_world *launched;
} mf_mesh;

/* Collective over the world, whose size must be the mesh's. */
mf_status mf_mesh_create(mf_world *world, const mf_mesh_spec *spec, mf_mesh *out);
/* This rank as a mesh of its own, with the groups of `mesh`: valid as long, not to be destroyed. */
mf_mesh mf_mesh_alone(const mf_mesh *mesh);
/* Accepts a mesh that create left unfinished. */
void mf_mesh_destroy(mf_mesh *mesh);
/* The group of an axis; NULL: the mesh has no such axis. */
mf_comm *mf_mesh_axis(const mf_mesh *mesh, const char *name);
/* The ranks that differ from this one in these axes alone, row-major; named "tsp+sp". Owned by the mesh.
 * Collective over the mesh when the set is asked for the first time. */
mf_status mf_mesh_group(mf_mesh *mesh, mf_axes axes, mf_comm **out);

/* Where share `index` of `parts` of n things begins: shares differ by at most one, and may be empty. Cutting
 * n and then n * g with the same parts keeps each group's first member with the group (model.h's grouped
 * heads). */
static inline int64_t mf_share_begin(int64_t n, int64_t parts, int64_t index) {
    return mf_ceil_div(n * index, parts);
}

/* A run of consecutive tokens that a rank holds: rows first_row .. first_row + rows - 1 of its own. */
typedef struct mf_run {
    int64_t position, rows, first_row;
} mf_run;
enum { MF_RUNS = 2 };

/* Zigzag: the sequence in 2 * ranks chunks, of which `rank` holds number rank and its mirror image, so that
 * causal work is even. Returns the runs' number (1 when they touch); rows may be 0. Source: Llama 3, arXiv
 * 2407.21783, 3.3.2. */
int mf_cut_runs(int64_t tokens, int ranks, int rank, mf_run runs[MF_RUNS]);
/* Tokens that `rank` holds. */
int64_t mf_cut_rows(int64_t tokens, int ranks, int rank);

#endif
