/* video_data.c: see video_data.h. */
#include "meshfold/video_data.h"
#include "io/digest.h"
#include "io/sources.h"
#include "io/video_format.h"

#include <stdio.h>
#include <string.h>

typedef struct source {
    mf_video *video;         /* owned */
    mf_condition *condition; /* owned; NULL where none is needed */
    int64_t end;             /* runs of frames in the files up to and with this one */
} source;

struct mf_video_set {
    mf_video_need need;
    int files;
    source *file; /* [files] owned */
};

static const char *plural(int64_t n) { return n == 1 ? "" : "s"; }

static mf_status check_need(const mf_video_need *n) {
    if (n->frames < 1 || n->height < 1 || n->width < 1)
        return MF_FAIL(MF_EINVAL, "clips of %lld frames of %lldx%lld are none", (long long)n->frames,
                       (long long)n->width, (long long)n->height);
    return mf_video_patch_check(n->height, n->width, n->patch);
}

/* Held against the need, and the first file's channels. */
static mf_status check_file(const mf_video_set *set, const mf_video *video) {
    const mf_video_shape *s = mf_video_shape_of(video);
    const mf_video_need *n = &set->need;
    int64_t channels = mf_video_set_channels(set);
    if (s->frames < n->frames || s->height < n->height || s->width < n->width)
        return MF_FAIL(MF_EINVAL, "%s has %lld frame%s of %lldx%lld; %lld frame%s of %lldx%lld are needed",
                       mf_video_path(video), (long long)s->frames, plural(s->frames), (long long)s->width,
                       (long long)s->height, (long long)n->frames, plural(n->frames), (long long)n->width,
                       (long long)n->height);
    if (s->channels == channels) return MF_OK;
    return MF_FAIL(MF_EINVAL, "%s has %lld channel%s, %s has %lld; all must have the same",
                   mf_video_path(video), (long long)s->channels, plural(s->channels),
                   mf_video_path(set->file[0].video), (long long)channels);
}

static mf_status open_condition(const mf_video_need *n, source *s) {
    char why[96];
    mf_condition_shape shape = {mf_video_shape_of(s->video)->clips, n->condition_tokens,
                                n->condition_channels};
    if (shape.tokens == 0) return MF_OK;
    snprintf(why, sizeof why, "a condition of %lld token%s of %lld channels is needed",
             (long long)shape.tokens, plural(shape.tokens), (long long)shape.channels);
    return mf_blame(mf_video_path(s->video),
                    mf_blame(why, mf_condition_open(mf_video_path(s->video), &shape, &s->condition)));
}

static int64_t runs_of_clip(const mf_video_set *set, const source *s) {
    return mf_video_shape_of(s->video)->frames - set->need.frames + 1;
}

static mf_status add_file(mf_video_set *set, const char *path) {
    int64_t before = set->files ? set->file[set->files - 1].end : 0;
    source *s = &set->file[set->files];
    MF_TRY(mf_video_open(path, &s->video));
    set->files++;
    MF_TRY(check_file(set, s->video));
    s->end = before + mf_video_shape_of(s->video)->clips * runs_of_clip(set, s);
    return open_condition(&set->need, s);
}

/* What a user names is to be a video, or lies beside one; what else lies in a folder may be anything. */
static bool is_meant(const char *path, const char *const *paths, int count) {
    if (mf_condition_is_named(path)) return false;
    if (mf_video_is_named(path)) return true;
    for (int i = 0; i < count; i++)
        if (strcmp(path, paths[i]) == 0) return true;
    return false;
}

static mf_status no_video(const char *const *paths, int count) {
    if (count == 0) return MF_FAIL(MF_EINVAL, "no video: no file or folder was named");
    return MF_FAIL(MF_EINVAL, "no video in %s%s: no .npy or .y4m file", paths[0],
                   count > 1 ? " and what follows it" : "");
}

mf_status mf_video_set_open(const char *const *paths, int count, const mf_video_need *need,
                            mf_video_set **out) {
    mf_status status = MF_OK;
    mf_sources list = {0};
    mf_video_set *set = NULL;
    *out = NULL;
    MF_TRY(check_need(need));
    MF_TRY(mf_host_alloc(1, sizeof *set, &set));
    set->need = *need;
    MF_GO(mf_sources_find(paths, count, &list));
    MF_GO(mf_host_alloc((size_t)list.count, sizeof *set->file, &set->file));
    for (int i = 0; i < list.count; i++)
        if (is_meant(list.item[i].path, paths, count)) MF_GO(add_file(set, list.item[i].path));
    if (set->files == 0) MF_GO(no_video(paths, count));
    *out = set;
    set = NULL;
fail:
    mf_sources_free(&list);
    mf_video_set_close(set);
    return status;
}

void mf_video_set_close(mf_video_set *set) {
    if (!set) return;
    for (int i = 0; i < set->files; i++) {
        mf_video_close(set->file[i].video);
        mf_condition_close(set->file[i].condition);
    }
    mf_host_free(set->file);
    mf_host_free(set);
}

int mf_video_set_files(const mf_video_set *set) { return set->files; }

int64_t mf_video_set_clips(const mf_video_set *set) {
    int64_t clips = 0;
    for (int i = 0; i < set->files; i++) clips += mf_video_shape_of(set->file[i].video)->clips;
    return clips;
}

int64_t mf_video_set_channels(const mf_video_set *set) {
    return mf_video_shape_of(set->file[0].video)->channels;
}

uint64_t mf_video_set_digest(const mf_video_set *set) {
    uint64_t all = mf_digest_of(&set->need, sizeof set->need).xxh3;
    for (int i = 0; i < set->files; i++) {
        const source *s = &set->file[i];
        const uint64_t parts[] = {all, mf_video_digest(s->video),
                                  s->condition ? mf_condition_digest(s->condition) : 0};
        all = mf_digest_of(parts, sizeof parts).xxh3;
    }
    return all;
}

/* The file that a run of frames of the set lies in. */
static const source *file_of(const mf_video_set *set, int64_t run) {
    int low = 0, high = set->files - 1;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (run < set->file[middle].end)
            high = middle;
        else
            low = middle + 1;
    }
    return &set->file[low];
}

/* The run's place in its file. */
static int64_t within(const mf_video_set *set, const source *s, int64_t run) {
    return s == set->file ? run : run - s[-1].end;
}

mf_video_runs mf_video_set_runs(const mf_video_set *set) {
    int64_t all = set->file[set->files - 1].end, held_out = mf_max(all / 10, 1), first = all - held_out;
    const source *s = file_of(set, first);
    int64_t before = within(set, s, first) % runs_of_clip(set, s); /* in the same clip */
    int64_t trained = first - mf_min(before, set->need.frames - 1);
    return trained > 0 ? (mf_video_runs){all, trained, held_out} : (mf_video_runs){all, all, 0};
}

/* Below `below`, of a step's clip. */
static int64_t draw(const char *what, const mf_video_pick *p, int64_t below) {
    uint64_t number =
        mf_random_u64(p->seed, mf_random_key(what), (uint64_t)p->step << 32 | (uint64_t)p->index);
    return (int64_t)(number % (uint64_t)below);
}

static int64_t draw_run(const mf_video_set *set, const mf_video_pick *p) {
    mf_video_runs runs = mf_video_set_runs(set);
    if (p->held_out && runs.held_out > 0)
        return runs.all - runs.held_out + draw("video frames", p, runs.held_out);
    return draw("video frames", p, runs.trained);
}

/* Which file, and where in it. */
static const source *draw_window(const mf_video_set *set, const mf_video_pick *p, mf_video_window *out) {
    int64_t run = draw_run(set, p);
    const source *file = file_of(set, run);
    const mf_video_shape *s = mf_video_shape_of(file->video);
    const mf_video_need *n = &set->need;
    int64_t runs = runs_of_clip(set, file), own = within(set, file, run);
    *out = (mf_video_window){.clip = own / runs,
                             .first = own % runs,
                             .frames = n->frames,
                             .y = draw("video row", p, s->height - n->height + 1),
                             .height = n->height,
                             .x = draw("video column", p, s->width - n->width + 1),
                             .width = n->width};
    return file;
}

mf_status mf_video_draw(const mf_video_set *set, const mf_video_pick *pick, float *out) {
    mf_status status = MF_OK;
    mf_video_window window;
    float *pixels = NULL;
    const mf_video_need *n = &set->need;
    mf_video_shape shape = {1, n->frames, n->height, n->width, mf_video_set_channels(set)};
    const source *file = draw_window(set, pick, &window);
    size_t values = (size_t)(n->frames * n->height * n->width * shape.channels);
    MF_GO(mf_host_alloc(values, sizeof *pixels, &pixels));
    MF_GO(mf_video_read(file->video, &window, pixels));
    MF_GO(mf_values_check(mf_video_path(file->video), pixels, (int64_t)values));
    MF_GO(mf_video_to_patches(&shape, n->patch, pixels, out));
fail:
    mf_host_free(pixels);
    return status;
}

mf_status mf_video_condition(const mf_video_set *set, const mf_video_pick *pick, float *out) {
    mf_video_window window;
    const source *file = draw_window(set, pick, &window);
    if (!file->condition)
        return MF_FAIL(MF_EINVAL, "%s: opened without its condition", mf_video_path(file->video));
    mf_condition_read(file->condition, window.clip, out);
    return mf_blame("the condition of a clip",
                    mf_values_check(mf_video_path(file->video), out,
                                    set->need.condition_tokens * set->need.condition_channels));
}
