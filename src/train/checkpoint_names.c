/* checkpoint_names.c: what stands in a folder of checkpoints: found by name, removed, renamed. */
#include "io/file.h"
#include "train/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STEP "step-%06lld"

mf_status mf_checkpoint_name(const char *folder, int64_t step, char **out) {
    return mf_format(out, "%s/" STEP, folder, (long long)step);
}

mf_status mf_checkpoint_draft_name(const char *folder, int64_t step, char **out) {
    return mf_format(out, "%s/." STEP ".partial", folder, (long long)step);
}

mf_status mf_part_name(const char *folder, int part, char **out) {
    return mf_format(out, "%s/part-%05d.safetensors", folder, part);
}

/* -1: the name is no checkpoint's. */
static int64_t step_of(const char *name) {
    char again[40], *end = NULL;
    if (strncmp(name, "step-", 5) != 0) return -1;
    errno = 0;
    long long step = strtoll(name + 5, &end, 10);
    if (*end || errno || step < 0) return -1;
    snprintf(again, sizeof again, STEP, step);
    return strcmp(name, again) == 0 ? step : -1;
}

static bool is_draft(const char *name) {
    size_t length = strlen(name);
    return strncmp(name, ".step-", 6) == 0 && length > 8 && strcmp(name + length - 8, ".partial") == 0;
}

typedef struct steps {
    int64_t *step;
    int count, room;
} steps;

static mf_status grow(steps *s) {
    int room = 2 * s->room + 16;
    int64_t *larger = NULL;
    if (s->count < s->room) return MF_OK;
    MF_TRY(mf_host_alloc((size_t)room, sizeof *larger, &larger));
    if (s->count) memcpy(larger, s->step, (size_t)s->count * sizeof *larger);
    mf_host_free(s->step);
    s->step = larger;
    s->room = room;
    return MF_OK;
}

static mf_status add_step(void *context, const char *name) {
    steps *s = context;
    int64_t step = step_of(name);
    if (step < 0) return MF_OK;
    MF_TRY(grow(s));
    s->step[s->count++] = step;
    return MF_OK;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

mf_status mf_checkpoint_steps(const char *folder, int64_t **out, int *count) {
    steps found = {0};
    mf_status status = mf_folder_walk(folder, add_step, &found);
    if (status) {
        mf_host_free(found.step);
        return mf_error_pass(__FILE__, __LINE__, status);
    }
    if (found.count) qsort(found.step, (size_t)found.count, sizeof *found.step, newest_first);
    *out = found.step;
    *count = found.count;
    return MF_OK;
}

/* Under a draft's name first: what is half removed must not look like a checkpoint. */
static mf_status remove_one(const char *folder, int64_t step) {
    mf_status status = MF_OK;
    char *path = NULL, *draft = NULL;
    MF_GO(mf_checkpoint_name(folder, step, &path));
    MF_GO(mf_checkpoint_draft_name(folder, step, &draft));
    MF_GO(mf_folder_remove(draft));
    MF_GO(mf_folder_rename(folder, path, draft));
    MF_GO(mf_folder_remove(draft));
fail:
    mf_host_free(draft);
    mf_host_free(path);
    return status;
}

mf_status mf_checkpoints_keep(const char *folder, int keep) {
    mf_status status = MF_OK;
    int64_t *step = NULL;
    int count = 0;
    MF_TRY(mf_checkpoint_steps(folder, &step, &count));
    for (int i = keep; i < count; i++) MF_GO(remove_one(folder, step[i]));
fail:
    mf_host_free(step);
    return status;
}

static mf_status set_aside(const char *folder, int64_t step) {
    mf_status status = MF_OK;
    char *path = NULL, *other = NULL;
    MF_GO(mf_checkpoint_name(folder, step, &path));
    for (int i = 1; !other; i++) {
        MF_GO(mf_format(&other, "%s.set-aside-%d", path, i));
        if (access(other, F_OK) != 0) break;
        mf_host_free(other);
        other = NULL;
    }
    MF_GO(mf_folder_rename(folder, path, other));
fail:
    mf_host_free(other);
    mf_host_free(path);
    return status;
}

static bool is_set_aside(const char *name) {
    return strncmp(name, "step-", 5) == 0 && strstr(name, ".set-aside-");
}

/* What a walk over a folder removes. */
typedef struct sweep {
    const char *folder;
    bool set_aside; /* these too */
} sweep;

static mf_status remove_if_spent(void *context, const char *name) {
    const sweep *s = context;
    const char *folder = s->folder;
    char *path = NULL;
    if (!is_draft(name) && !(s->set_aside && is_set_aside(name))) return MF_OK;
    MF_TRY(mf_format(&path, "%s/%s", folder, name));
    mf_status status = mf_folder_remove(path);
    mf_host_free(path);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

mf_status mf_checkpoints_tidy(const char *folder, int64_t step) {
    mf_status status = MF_OK;
    int64_t *found = NULL;
    int count = 0;
    MF_GO(mf_folder_walk(folder, remove_if_spent, &(sweep){folder, step < 0}));
    MF_GO(mf_checkpoint_steps(folder, &found, &count));
    for (int i = 0; i < count && found[i] > step; i++)
        MF_GO(step < 0 ? remove_one(folder, found[i]) : set_aside(folder, found[i]));
fail:
    mf_host_free(found);
    return status;
}
