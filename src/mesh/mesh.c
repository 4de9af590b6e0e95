/* mesh.c: parses "tsp=4", numbers the ranks, makes one group an axis. */
#include "meshfold/mesh.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS_MAX = 1 << 20 };

static const char *const known_axes[] = {"dp", "tp", "sp", "tsp", "dsp"};

static bool axis_known(const char *name, size_t length) {
    for (size_t i = 0; i < sizeof known_axes / sizeof *known_axes; i++)
        if (strlen(known_axes[i]) == length && memcmp(known_axes[i], name, length) == 0) return true;
    return false;
}

/* How an error begins; what is too long to be a mesh is cut, so that what is wrong with it still fits. */
#define MESH "--mesh %.100s: "

/* text[0 .. length - 1]: one axis of the mesh `whole`. */
static mf_status parse_axis(const char *whole, const char *text, size_t length, mf_mesh_spec *out) {
    const char *equals = memchr(text, '=', length);
    int shown = (int)length;
    if (!equals)
        return MF_FAIL(MF_EINVAL, "--mesh: \"%.*s\" is not an axis and its size, as in tsp=4", shown, text);
    size_t name_length = (size_t)(equals - text);
    if (!axis_known(text, name_length))
        return MF_FAIL(MF_EINVAL, MESH "no axis is called \"%.*s\"; this version has: dp, tp, sp, tsp, dsp",
                       whole, (int)name_length, text);
    for (int i = 0; i < out->axes; i++)
        if (strlen(out->axis[i].name) == name_length && memcmp(out->axis[i].name, text, name_length) == 0)
            return MF_FAIL(MF_EINVAL, MESH "axis %.*s is given twice", whole, (int)name_length, text);
    if (out->axes == MF_MESH_AXES) return MF_FAIL(MF_EINVAL, MESH "more than %d axes", whole, MF_MESH_AXES);
    char *end = NULL;
    long size = equals[1] >= '0' && equals[1] <= '9' ? strtol(equals + 1, &end, 10) : 0;
    if (!end || end != text + length || size < 1 || size > RANKS_MAX)
        return MF_FAIL(MF_EINVAL, MESH "the size must be a whole number from 1 to %d", whole, RANKS_MAX);
    memcpy(out->axis[out->axes].name, text, name_length);
    out->axis[out->axes++].size = (int)size;
    return MF_OK;
}

mf_status mf_mesh_parse(const char *text, mf_mesh_spec *out) {
    *out = (mf_mesh_spec){0};
    if (strcmp(text, "single") == 0) return MF_OK;
    for (const char *at = text;;) {
        size_t length = strcspn(at, ",");
        MF_TRY(parse_axis(text, at, length, out));
        if (at[length] == '\0') break;
        at += length + 1;
    }
    int64_t ranks = 1;
    for (int i = 0; i < out->axes; i++) {
        ranks *= out->axis[i].size;
        if (ranks > RANKS_MAX) return MF_FAIL(MF_EINVAL, MESH "more than %d ranks", text, RANKS_MAX);
    }
    return MF_OK;
}

int mf_mesh_ranks(const mf_mesh_spec *spec) {
    int ranks = 1;
    for (int i = 0; i < spec->axes; i++) ranks *= spec->axis[i].size;
    return ranks;
}

mf_axes mf_mesh_find(const mf_mesh_spec *spec, const char *name) {
    for (int i = 0; i < spec->axes; i++)
        if (strcmp(spec->axis[i].name, name) == 0) return 1u << i;
    return 0;
}

int mf_axes_ranks(const mf_mesh_spec *spec, mf_axes axes) {
    int ranks = 1;
    for (int i = 0; i < spec->axes; i++)
        if (axes >> i & 1) ranks *= spec->axis[i].size;
    return ranks;
}

/* World ranks from one to the next along an axis. */
static int stride_of(const mf_mesh_spec *spec, int axis) {
    int stride = 1;
    for (int i = axis + 1; i < spec->axes; i++) stride *= spec->axis[i].size;
    return stride;
}

/* Axes of one rank add nothing to a group. */
static mf_axes longer_than_one(const mf_mesh_spec *spec, mf_axes axes) {
    for (int i = 0; i < spec->axes; i++)
        if (spec->axis[i].size == 1) axes &= ~(1u << i);
    return axes;
}

void mf_axes_name(const mf_mesh_spec *spec, mf_axes axes, char name[MF_AXES_NAME]) {
    size_t used = 0;
    mf_axes long_ones = longer_than_one(spec, axes);
    for (int i = 0; i < spec->axes; i++)
        if (long_ones >> i & 1)
            used += (size_t)snprintf(name + used, MF_AXES_NAME - used, "%s%s", used ? "+" : "",
                                     spec->axis[i].name);
    if (!used) snprintf(name, MF_AXES_NAME, "self");
}

/* The rank whose place on the axes, counted row-major, is `index`, and which is elsewhere where this one is.
 */
static int member_of(const mf_mesh *mesh, mf_axes axes, int index) {
    int rank = 0;
    for (int i = mesh->spec.axes - 1; i >= 0; i--) {
        int at = mesh->coords[i];
        if (axes >> i & 1) {
            at = index % mesh->spec.axis[i].size;
            index /= mesh->spec.axis[i].size;
        }
        rank += at * stride_of(&mesh->spec, i);
    }
    return rank;
}

static mf_status group_create(mf_mesh *mesh, mf_axes axes, const char *name, mf_comm **out) {
    mf_status status = MF_OK;
    int *ranks = NULL, size = mf_axes_ranks(&mesh->spec, axes);
    MF_TRY(mf_host_alloc((size_t)size, sizeof *ranks, &ranks));
    for (int i = 0; i < size; i++) ranks[i] = member_of(mesh, axes, i);
    MF_GO(mf_comm_create(mesh->launched, name, ranks, size, out));
fail:
    mf_host_free(ranks);
    return status;
}

static mf_status common_groups(mf_mesh *mesh) {
    mf_status status = MF_OK;
    int rank = mf_world_rank(mesh->launched), size = mf_world_size(mesh->launched), *all = NULL;
    MF_TRY(mf_host_alloc((size_t)size, sizeof *all, &all));
    for (int i = 0; i < size; i++) all[i] = i;
    MF_GO(mf_comm_create(mesh->launched, "self", &rank, 1, &mesh->self));
    MF_GO(mf_comm_create(mesh->launched, "world", all, size, &mesh->world));
fail:
    mf_host_free(all);
    return status;
}

mf_status mf_mesh_create(mf_world *world, const mf_mesh_spec *spec, mf_mesh *out) {
    *out = (mf_mesh){.spec = *spec, .launched = world};
    int ranks = mf_mesh_ranks(spec), rank = mf_world_rank(world);
    if (ranks != mf_world_size(world))
        return MF_FAIL(MF_EINVAL, "the mesh has %d ranks, but %d were started", ranks, mf_world_size(world));
    for (int i = 0; i < spec->axes; i++) out->coords[i] = rank / stride_of(spec, i) % spec->axis[i].size;
    for (int i = 0; i < spec->axes; i++)
        MF_TRY(group_create(out, 1u << i, spec->axis[i].name, &out->group[1u << i]));
    return common_groups(out);
}

mf_mesh mf_mesh_alone(const mf_mesh *mesh) {
    return (mf_mesh){.self = mesh->self, .world = mesh->self, .launched = mesh->launched};
}

void mf_mesh_destroy(mf_mesh *mesh) {
    for (int i = 0; i < 1 << MF_MESH_AXES; i++) mf_comm_destroy(mesh->group[i]);
    mf_comm_destroy(mesh->self);
    mf_comm_destroy(mesh->world);
    *mesh = (mf_mesh){0};
}

mf_comm *mf_mesh_axis(const mf_mesh *mesh, const char *name) {
    return mesh->group[mf_mesh_find(&mesh->spec, name)];
}

mf_status mf_mesh_group(mf_mesh *mesh, mf_axes axes, mf_comm **out) {
    axes = longer_than_one(&mesh->spec, axes);
    if (!axes) {
        *out = mesh->self;
        return MF_OK;
    }
    char name[MF_AXES_NAME];
    mf_axes_name(&mesh->spec, axes, name);
    if (!mesh->group[axes]) MF_TRY(group_create(mesh, axes, name, &mesh->group[axes]));
    *out = mesh->group[axes];
    return MF_OK;
}
