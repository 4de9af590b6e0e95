/* metrics_file.c: see metrics_file.h. */
#include "cli/metrics_file.h"

#include "io/file.h"
#include "meshfold/io.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A line that a killed run has not written whole does not end. */
static bool is_kept(const char *line, ssize_t length, int64_t step) {
    long long of = 0;
    bool whole = length > 2 && strcmp(line + length - 2, "}\n") == 0;
    return whole && sscanf(line, "{\"step\":%18lld", &of) == 1 && of <= step;
}

static mf_status copy_kept(FILE *in, int64_t step, int fd, const char *path) {
    mf_status status = MF_OK;
    char *line = NULL;
    size_t room = 0;
    int64_t at = 0;
    for (ssize_t length; (length = getline(&line, &room, in)) >= 0;) {
        if (!is_kept(line, length, step)) continue;
        MF_GO(mf_fd_write(fd, line, (size_t)length, at, path));
        at += length;
    }
    if (ferror(in)) MF_GO(MF_FAIL(MF_EIO, "%s: cannot be read", path));
fail:
    free(line);
    return status;
}

static mf_status cut(const char *path, FILE *in, int64_t step) {
    mf_status status = MF_OK;
    mf_draft draft = {0};
    MF_GO(mf_draft_open(path, &draft));
    MF_GO(copy_kept(in, step, draft.fd, path));
    MF_GO(mf_draft_keep(&draft, path));
fail:
    mf_draft_drop(&draft);
    return status;
}

mf_status mf_metrics_cut(const char *folder, int64_t step) {
    mf_status status = MF_OK;
    char *path = NULL;
    MF_TRY(mf_format(&path, "%s/metrics.jsonl", folder));
    FILE *in = fopen(path, "r");
    if (in)
        status = cut(path, in, step);
    else if (errno != ENOENT)
        status = MF_FAIL(MF_EIO, "%s: cannot be opened: %s", path, strerror(errno));
    if (in) fclose(in);
    mf_host_free(path);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}
