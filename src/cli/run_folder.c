/* run_folder.c: see run_folder.h. */
#include "cli/run_folder.h"

#include "io/json_file.h"
#include "meshfold/checkpoint.h"
#include "meshfold/io.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Typed numbers have no more, and come back as they were. */
enum { DIGITS_AS_TYPED = 15 };

static bool holds_something(const char *folder) {
    DIR *dir = opendir(folder);
    bool found = false;
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));)
        found = strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (dir) closedir(dir);
    return found;
}

/* Cuts the last name off a path, in place: "a/b" to "a", "/b" to "/", "b" to ".". */
static void to_parent(char *path) {
    size_t length = strlen(path);
    while (length > 0 && path[length - 1] == '/') length--;
    while (length > 0 && path[length - 1] != '/') length--;
    while (length > 1 && path[length - 1] == '/') length--;
    if (length == 0) path[length++] = '.';
    path[length] = '\0';
}

/* A folder is there, or can be made inside the nearest one that is. */
static mf_status check_place(const char *folder) {
    mf_status status = MF_OK;
    struct stat found;
    char *path = NULL;
    MF_TRY(mf_host_strdup(folder, &path));
    while (stat(path, &found) != 0) {
        bool last = strcmp(path, ".") == 0 || strcmp(path, "/") == 0;
        if (last || (errno != ENOENT && errno != ENOTDIR))
            MF_GO(MF_FAIL(MF_EINVAL, "--out %.200s: %s", folder, strerror(errno)));
        to_parent(path);
    }
    if (!S_ISDIR(found.st_mode))
        MF_GO(MF_FAIL(MF_EINVAL, "--out %s: %s is a file, not a folder; name another place", folder, path));
    if (access(path, W_OK | X_OK) != 0)
        MF_GO(MF_FAIL(MF_EINVAL, "--out %s: %s cannot be written: %s; name another place", folder, path,
                      strerror(errno)));
fail:
    mf_host_free(path);
    return status;
}

mf_status mf_run_folder_check(const char *folder, bool force) {
    MF_TRY(check_place(folder));
    if (force || !holds_something(folder)) return MF_OK;
    return MF_FAIL(MF_EINVAL,
                   "--out %s: exists and is not empty; name another folder, or give --force to write over it",
                   folder);
}

mf_status mf_run_folder_write(const char *folder, const char *name, const json_t *value, size_t digits) {
    mf_status status = MF_OK;
    char *path = NULL;
    MF_GO(mf_format(&path, "%s/%s", folder, name));
    MF_GO(mf_json_write(path, value, JSON_INDENT(2) | JSON_REAL_PRECISION(digits)));
fail:
    mf_host_free(path);
    return status;
}

/* An older run's summary beside the new one's first steps would tell a reader that these had ended. */
static mf_status remove_summary(const char *folder) {
    mf_status status = MF_OK;
    char *path = NULL;
    MF_TRY(mf_format(&path, "%s/summary.json", folder));
    if (unlink(path) != 0 && errno != ENOENT)
        status = MF_FAIL(MF_EIO, "%s: cannot be removed: %s", path, strerror(errno));
    mf_host_free(path);
    return status;
}

mf_status mf_run_folder_forget(const char *folder) {
    char *checkpoints = NULL;
    MF_TRY(mf_format(&checkpoints, "%s/checkpoints", folder));
    mf_status status = mf_checkpoints_tidy(checkpoints, -1);
    if (!status && rmdir(checkpoints) != 0 && errno != ENOENT && errno != ENOTEMPTY)
        status = MF_FAIL(MF_EIO, "%s: cannot be removed: %s", checkpoints, strerror(errno));
    mf_host_free(checkpoints);
    return status;
}

mf_status mf_run_folder_open(const char *folder, const json_t *resolved, bool go_on, FILE **metrics) {
    mf_status status = MF_OK;
    char *path = NULL, *model = NULL;
    MF_GO(mf_format(&model, "%s/model", folder));
    MF_GO(mf_format(&path, "%s/metrics.jsonl", folder));
    MF_GO(mf_folder_make(model));
    MF_GO(remove_summary(folder));
    MF_GO(mf_run_folder_write(folder, "resolved.json", resolved, DIGITS_AS_TYPED));
    *metrics = fopen(path, go_on ? "a" : "w");
    if (!*metrics) MF_GO(MF_FAIL(MF_EIO, "%s: cannot be written: %s", path, strerror(errno)));
fail:
    mf_host_free(model);
    mf_host_free(path);
    return status;
}
