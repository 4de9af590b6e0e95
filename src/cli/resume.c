/* resume.c: see resume.h. */
#include "cli/resume.h"

#include "meshfold/io.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char checkpoints[] = "checkpoints";

/* Where the last name of a path begins, slashes at its end not counted; *end: where it ends. */
static const char *last_name(const char *path, const char **end) {
    const char *last = path + strlen(path);
    while (last > path && last[-1] == '/') last--;
    *end = last;
    while (last > path && last[-1] != '/') last--;
    return last;
}

static bool is_named(const char *path, const char *name) {
    const char *end, *last = last_name(path, &end);
    return strlen(name) == (size_t)(end - last) && strncmp(last, name, strlen(name)) == 0;
}

/* "a/b" to "a", "b" to "."; owned by the caller. */
static mf_status parent_of(const char *path, char **out) {
    const char *end, *last = last_name(path, &end);
    int length = (int)(last - path);
    while (length > 1 && path[length - 1] == '/') length--;
    return length ? mf_format(out, "%.*s", length, path) : mf_format(out, ".");
}

/* A folder of checkpoints, or one: the run is whose folder that is in. */
static mf_status look_upwards(mf_resume *r) {
    mf_status status = MF_OK;
    char *parent = NULL;
    MF_GO(mf_host_strdup(r->folder, &r->from));
    if (is_named(r->folder, checkpoints)) {
        MF_GO(parent_of(r->folder, &r->run));
        return MF_OK;
    }
    MF_GO(parent_of(r->folder, &parent));
    if (is_named(parent, checkpoints)) MF_GO(parent_of(parent, &r->run));
fail:
    mf_host_free(parent);
    return status;
}

/* "a/b/" to "a/b"; owned by the caller. */
static mf_status without_slashes(const char *path, char **out) {
    const char *end;
    last_name(path, &end);
    return mf_format(out, "%.*s", (int)mf_max(end - path, 1), path);
}

static mf_status find_run(mf_resume *r) {
    struct stat found;
    MF_TRY(without_slashes(r->folder, &r->run));
    MF_TRY(mf_format(&r->from, "%s/%s", r->run, checkpoints));
    if (stat(r->from, &found) == 0 && S_ISDIR(found.st_mode)) return MF_OK;
    mf_host_free(r->from);
    mf_host_free(r->run);
    r->from = r->run = NULL;
    if (stat(r->folder, &found) != 0) return MF_FAIL(MF_EINVAL, "%s: is not there", r->folder);
    return look_upwards(r);
}

static mf_status read_settings(mf_resume *r) {
    MF_TRY(mf_checkpoint_peek(r->from, &r->found));
    MF_TRY(mf_format(&r->config, "%s/config.json", mf_checkpoint_path(r->found)));
    const char *text = mf_checkpoint_settings(r->found);
    r->kept = text ? json_loads(text, 0, NULL) : NULL;
    if (r->kept) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: has no settings of meshfold train", mf_checkpoint_path(r->found));
}

/* What a new mesh has of its own. */
static const char *const of_mesh[] = {"stream",    "attention-stream", "mlp-stream", "exchange",
                                      "reduction", "kv-bucket",        "zero",       "threads"};
/* What was said of the earlier start alone. */
static const char *const of_start[] = {"force", "json", "resume"};

static void drop(json_t *settings, const char *const *name, size_t count) {
    for (size_t i = 0; i < count; i++) json_object_del(settings, name[i]);
}

static mf_status open_run(mf_resume *r) {
    MF_TRY(find_run(r));
    return read_settings(r);
}

/* The error says which flag it comes from, and keeps its own kind. */
static mf_status blame(mf_status status) {
    char message[sizeof mf_error_last()->message];
    snprintf(message, sizeof message, "%s", mf_error_last()->message);
    return MF_FAIL(status, "--resume %.400s", message);
}

mf_status mf_resume_inherit(mf_flags *flags, void *context, json_t **out, const char **where) {
    mf_resume *r = context;
    *out = NULL;
    if (!r->folder) return MF_OK;
    mf_status status = open_run(r);
    if (status) return blame(status);
    *where = mf_checkpoint_path(r->found);
    *out = json_copy(r->kept);
    if (!*out) return MF_FAIL(MF_ENOMEM, "no memory for a run's settings");
    drop(*out, of_start, sizeof of_start / sizeof *of_start);
    if (mf_flags_given(flags, "mesh")) drop(*out, of_mesh, sizeof of_mesh / sizeof *of_mesh);
    json_object_del(*out, "out");
    if (r->run && json_object_set_new(*out, "out", json_string(r->run)))
        return MF_FAIL(MF_ENOMEM, "no memory for a run's settings");
    return MF_OK;
}

/* A converted checkpoint has a model and nothing else that a run keeps: these are the run's that goes on. */
mf_status mf_resume_check(const mf_resume *r, const mf_flags *flags, const json_t *resolved) {
    static const char *const fixed[] = {"model", "init", "seq", "packed", "seed", "dtype"};
    size_t count = mf_checkpoint_is_converted(r->found) ? 2 : sizeof fixed / sizeof *fixed;
    for (size_t i = 0; i < count; i++) {
        const json_t *is = json_object_get(resolved, fixed[i]), *was = json_object_get(r->kept, fixed[i]);
        if (!mf_flags_given(flags, fixed[i]) || json_equal(is, was)) continue;
        char *now = json_dumps(is, JSON_ENCODE_ANY), *then = was ? json_dumps(was, JSON_ENCODE_ANY) : NULL;
        mf_status status = MF_FAIL(MF_EINVAL, "--%s %.100s: a run that is resumed keeps what it has: %.100s",
                                   fixed[i], now ? now : "", then ? then : "none");
        free(now);
        free(then);
        return status;
    }
    return MF_OK;
}

void mf_resume_free(mf_resume *r) {
    mf_checkpoint_close(r->found);
    json_decref(r->kept);
    mf_host_free(r->from);
    mf_host_free(r->run);
    mf_host_free(r->config);
    *r = (mf_resume){0};
}
