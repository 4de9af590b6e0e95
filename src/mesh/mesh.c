/* mesh.c: parses "tsp=4", numbers the ranks, makes one group an axis. */
#include "meshfold/mesh.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS_MAX = 1 << 20 };

static const char *const known_axes[] = {"tsp"};

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
        return MF_FAIL(MF_EINVAL, MESH "no axis is called \"%.*s\"; this version has: tsp", whole,
                       (int)name_length, text);
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
    for (int i = 0; i < out->axes; i++) ranks *= out->axis[i].size;
    if (ranks > RANKS_MAX) return MF_FAIL(MF_EINVAL, MESH "more than %d ranks", text, RANKS_MAX);
    return MF_OK;
}

int mf_mesh_ranks(const mf_mesh_spec *spec) {
    int ranks = 1;
    for (int i = 0; i < spec->axes; i++) ranks *= spec->axis[i].size;
    return ranks;
}

/* The group of ranks first, first + stride, ... */
static mf_status group_create(mf_world *world, const char *name, int first, int stride, int size,
                              mf_comm **out) {
    mf_status status = MF_OK;
    int *ranks = NULL;
    MF_TRY(mf_host_alloc((size_t)size, sizeof *ranks, &ranks));
    for (int i = 0; i < size; i++) ranks[i] = first + i * stride;
    MF_GO(mf_comm_create(world, name, ranks, size, out));
fail:
    mf_host_free(ranks);
    return status;
}

mf_status mf_mesh_create(mf_world *world, const mf_mesh_spec *spec, mf_mesh *out) {
    *out = (mf_mesh){.spec = *spec};
    int ranks = mf_mesh_ranks(spec), rank = mf_world_rank(world), rest = rank, stride = 1;
    if (ranks != mf_world_size(world))
        return MF_FAIL(MF_EINVAL, "the mesh has %d ranks, but %d were started", ranks, mf_world_size(world));
    for (int i = spec->axes - 1; i >= 0; i--) {
        out->coords[i] = rest % spec->axis[i].size;
        rest /= spec->axis[i].size;
    }
    for (int i = spec->axes - 1; i >= 0; i--) {
        int size = spec->axis[i].size, first = rank - out->coords[i] * stride;
        MF_TRY(group_create(world, spec->axis[i].name, first, stride, size, &out->comm[i]));
        stride *= spec->axis[i].size;
    }
    MF_TRY(group_create(world, "self", rank, 1, 1, &out->self));
    return group_create(world, "world", 0, 1, ranks, &out->world);
}

void mf_mesh_destroy(mf_mesh *mesh) {
    for (int i = 0; i < mesh->spec.axes; i++) mf_comm_destroy(mesh->comm[i]);
    mf_comm_destroy(mesh->self);
    mf_comm_destroy(mesh->world);
    *mesh = (mf_mesh){0};
}

mf_comm *mf_mesh_axis(const mf_mesh *mesh, const char *name) {
    for (int i = 0; i < mesh->spec.axes; i++)
        if (strcmp(mesh->spec.axis[i].name, name) == 0) return mesh->comm[i];
    return NULL;
}
