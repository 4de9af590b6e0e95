/* checkpoint_find.c: the newest whole checkpoint: the first rank says which to look at, each rank reads its
 * share of the parts, and all hear what each has found. */
#include "train/checkpoint.h"

#include <stdio.h>
#include <string.h>

void mf_checkpoint_close(mf_checkpoint *c) {
    if (!c) return;
    mf_manifest_free(&c->manifest);
    mf_host_free(c->path);
    mf_host_free(c);
}

const char *mf_checkpoint_path(const mf_checkpoint *c) { return c->path; }
int64_t mf_checkpoint_step(const mf_checkpoint *c) { return c->manifest.progress.step; }
bool mf_checkpoint_is_converted(const mf_checkpoint *c) { return c->manifest.converted; }
const char *mf_checkpoint_settings(const mf_checkpoint *c) { return c->manifest.settings; }

/* Where checkpoints may be, newest first. */
typedef struct candidates {
    const char *folder;
    bool itself; /* the folder is one */
    int64_t *step;
    int count;
} candidates;

/* A folder without checkpoints in it can only be one. */
static mf_status list(const char *folder, candidates *out) {
    *out = (candidates){.folder = folder};
    MF_TRY(mf_checkpoint_steps(folder, &out->step, &out->count));
    if (out->count > 0) return MF_OK;
    out->itself = true;
    out->count = 1;
    return MF_OK;
}

static mf_status path_of(const char *folder, bool itself, int64_t step, char **out) {
    return itself ? mf_host_strdup(folder, out) : mf_checkpoint_name(folder, step, out);
}

static mf_status open_one(char *path, mf_checkpoint **out) {
    mf_status status = MF_OK;
    mf_checkpoint *c = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *c, &c));
    MF_GO(mf_host_strdup(path, &c->path));
    MF_GO(mf_manifest_read(path, &c->manifest));
    *out = c;
    return MF_OK;
fail:
    mf_checkpoint_close(c);
    return status;
}

/* Something is wrong with the checkpoint, not with this rank. */
static bool speaks_of_files(mf_status status) {
    return status == MF_EIO || status == MF_EFORMAT || status == MF_EUNSUPPORTED;
}

static mf_status none_whole(const char *folder, const char *newest) {
    return MF_FAIL(MF_EFORMAT, "%.200s: no whole checkpoint; of the newest: %.250s", folder, newest);
}

mf_status mf_checkpoint_peek(const char *folder, mf_checkpoint **out) {
    mf_status status = MF_OK;
    candidates all;
    char newest[256] = "", *path = NULL;
    *out = NULL;
    MF_TRY(list(folder, &all));
    for (int i = 0; i < all.count && !*out; i++) {
        mf_host_free(path);
        path = NULL;
        MF_GO(path_of(folder, all.itself, all.itself ? 0 : all.step[i], &path));
        status = open_one(path, out);
        if (status && !speaks_of_files(status)) MF_GO(status);
        if (status && i == 0) snprintf(newest, sizeof newest, "%.255s", mf_error_last()->message);
    }
    status = *out ? MF_OK : none_whole(folder, newest);
fail:
    mf_host_free(path);
    mf_host_free(all.step);
    return status;
}

/* What all look at next. */
typedef struct candidate {
    int64_t step;
    int left; /* 0: there is no more */
    int itself;
} candidate;

enum { WHY = 256 };
typedef struct verdict {
    int whole;
    char why[WHY];
} verdict;

typedef struct search {
    mf_comm *world;
    const char *folder;
    const mf_checkpoint_observer *observer;
    candidates all; /* rank 0's */
    int at;         /* rank 0's */
    char newest[WHY];
    verdict *verdict; /* [ranks] */
    size_t *offsets;  /* [ranks + 1] */
} search;

/* Every ranks'th part: together all. */
static mf_status check_parts(const search *s, const mf_checkpoint *c) {
    for (int i = mf_comm_rank(s->world); i < c->manifest.parts; i += mf_comm_size(s->world)) {
        char *path = NULL;
        MF_TRY(mf_part_name(c->path, i, &path));
        mf_status status = mf_digest_check(path, c->manifest.part[i]);
        mf_host_free(path);
        MF_TRY(status);
    }
    return MF_OK;
}

static mf_status look(const search *s, char *path, mf_checkpoint **out) {
    MF_TRY(open_one(path, out));
    mf_status status = check_parts(s, *out);
    if (!status) return MF_OK;
    mf_checkpoint_close(*out);
    *out = NULL;
    return mf_error_pass(__FILE__, __LINE__, status);
}

/* The first rank's reason that is one, or NULL: all found their share whole. */
static const char *why_not(const search *s) {
    for (int i = 0; i < mf_comm_size(s->world); i++)
        if (!s->verdict[i].whole) return s->verdict[i].why;
    return NULL;
}

/* *out stays NULL where the candidate at `path` is not whole. */
static mf_status try_one(search *s, char *path, mf_checkpoint **out) {
    verdict own = {.whole = 1};
    mf_checkpoint *c = NULL;
    mf_status status = look(s, path, &c);
    if (status && !speaks_of_files(status)) return mf_error_pass(__FILE__, __LINE__, status);
    if (status) {
        own.whole = 0;
        snprintf(own.why, sizeof own.why, "%.255s", mf_error_last()->message);
    }
    status = mf_allgather(s->world, &own, s->verdict, s->offsets, NULL);
    const char *why = status ? NULL : why_not(s);
    if (!status && !why) {
        *out = c;
        return MF_OK;
    }
    mf_checkpoint_close(c);
    MF_TRY(status);
    if (!s->newest[0]) snprintf(s->newest, sizeof s->newest, "%s", why);
    if (mf_comm_rank(s->world) == 0 && s->observer && s->observer->passed_over)
        s->observer->passed_over(s->observer->context, path, why);
    return MF_OK;
}

static candidate next_of_first(search *s) {
    const candidates *all = &s->all;
    candidate out = {.left = all->count - s->at, .itself = all->itself};
    if (out.left > 0 && !all->itself) out.step = all->step[s->at];
    s->at++;
    return out;
}

static mf_status next(search *s, mf_checkpoint **out) {
    candidate at = {0};
    char *path = NULL;
    if (mf_comm_rank(s->world) == 0) at = next_of_first(s);
    MF_TRY(mf_broadcast(s->world, &at, sizeof at, 0, NULL));
    if (at.left <= 0) return mf_checkpoint_agree(s->world, none_whole(s->folder, s->newest));
    MF_TRY(path_of(s->folder, at.itself, at.step, &path));
    mf_status status = try_one(s, path, out);
    mf_host_free(path);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

mf_status mf_checkpoint_find(mf_comm *world, const char *folder, const mf_checkpoint_observer *observer,
                             mf_checkpoint **out) {
    mf_status status = MF_OK;
    size_t ranks = (size_t)mf_comm_size(world);
    search s = {.world = world, .folder = folder, .observer = observer};
    *out = NULL;
    MF_GO(mf_host_alloc(ranks, sizeof *s.verdict, &s.verdict));
    MF_GO(mf_host_alloc(ranks + 1, sizeof *s.offsets, &s.offsets));
    for (size_t i = 0; i <= ranks; i++) s.offsets[i] = i * sizeof *s.verdict;
    if (mf_comm_rank(world) == 0) MF_GO(list(folder, &s.all));
    while (!*out) MF_GO(next(&s, out));
fail:
    mf_host_free(s.all.step);
    mf_host_free(s.offsets);
    mf_host_free(s.verdict);
    return status;
}

typedef struct finding {
    const char *folder;
    const mf_checkpoint_observer *observer;
    mf_checkpoint *found;
} finding;

static mf_status find_on_one(mf_world *world, void *argument) {
    finding *f = argument;
    mf_comm *alone = NULL;
    MF_TRY(mf_comm_create(world, "world", &(int){0}, 1, &alone));
    mf_status status = mf_checkpoint_find(alone, f->folder, f->observer, &f->found);
    mf_comm_destroy(alone);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

mf_status mf_checkpoint_find_alone(const char *folder, const mf_checkpoint_observer *observer,
                                   mf_checkpoint **out) {
    finding f = {.folder = folder, .observer = observer};
    mf_status status = mf_launch(&(mf_launch_options){.engine = "local", .ranks = 1}, find_on_one, &f);
    *out = f.found;
    if (!status) return MF_OK;
    mf_error error = *mf_error_last();
    error.rank = -1; /* the caller is no rank */
    return mf_error_adopt(&error);
}
