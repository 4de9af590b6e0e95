/* convert.c: a conversion from its beginning to its end: the draft of a folder, what stands in it beside the
 * tensors, and its publication. */
#include "train/convert.h"
#include "io/file.h"
#include "train/model_files.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* In torch's words. */
static const char *const type_names[] = {
    [MF_FILE_F32] = "float32", [MF_FILE_BF16] = "bfloat16", [MF_FILE_F16] = "float16"};
enum { TYPES = sizeof type_names / sizeof *type_names };

static mf_status refuse_name(void *context, const char *name) {
    return MF_FAIL(MF_EINVAL, "%s: is not empty (it has %.100s); name another folder", (const char *)context,
                   name);
}

/* A folder that is not there, or has nothing in it. */
static mf_status check_place(const char *to) {
    struct stat found;
    if (lstat(to, &found) != 0) {
        if (errno == ENOENT) return MF_OK;
        return MF_FAIL(MF_EINVAL, "%s: cannot be made a folder: %s", to, strerror(errno));
    }
    if (!S_ISDIR(found.st_mode)) return MF_FAIL(MF_EINVAL, "%s: is there, and is no folder", to);
    return mf_folder_walk(to, refuse_name, (void *)(uintptr_t)to);
}

/* What an earlier conversion left may be somebody's: it is not removed. */
static mf_status make_draft(mf_conversion *c, const char *to) {
    struct stat found;
    char *draft = NULL;
    MF_TRY(mf_format(&draft, "%s.partial", to));
    mf_status status =
        lstat(draft, &found) == 0
            ? MF_FAIL(MF_EINVAL, "%s: is there, as of a conversion that was killed: remove it", draft)
            : mf_folder_make(draft);
    if (status)
        mf_host_free(draft);
    else
        c->draft = draft;
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

static void choose_type(mf_conversion *c) {
    c->type = c->options->checkpoint ? MF_FILE_F32 : c->options->type;
    if (c->type != MF_FILE_OTHER || !c->checkpoint) return;
    c->type = MF_FILE_F32; /* where its config.json names no type that is known */
    for (int i = 0; i < TYPES; i++)
        if (strcmp(type_names[i], c->config_type) == 0) c->type = (mf_file_type)i;
}

/* A checkpoint's is the model's own, so that it comes back as it was. */
static mf_status write_config(const mf_conversion *c, const char *path) {
    bool same = c->options->checkpoint || c->type == MF_FILE_OTHER ||
                strcmp(type_names[c->type], c->config_type) == 0;
    return same ? mf_file_copy(c->config, path) : mf_config_retype(c->config, type_names[c->type], path);
}

static mf_status carry(const mf_conversion *c) {
    mf_status status = MF_OK;
    char *from = NULL;
    MF_TRY(mf_conversion_companion(c, &from));
    if (from && access(from, F_OK) != 0)
        snprintf(c->result->absent, sizeof c->result->absent, "%s", from);
    else if (from)
        status = mf_model_carry(from, c->draft);
    mf_host_free(from);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

/* A run that begins here knows where the tokenizer is, wherever it is started. */
static mf_status settings_of(const mf_conversion *c, char **out) {
    char *whole = realpath(c->options->from, NULL);
    if (!whole) return MF_FAIL(MF_EIO, "%s: cannot be found any more: %s", c->options->from, strerror(errno));
    json_t *settings = json_pack("{s:s}", "init", whole);
    *out = settings ? json_dumps(settings, JSON_COMPACT) : NULL;
    json_decref(settings);
    free(whole);
    return *out ? MF_OK : MF_FAIL(MF_EINVAL, "%s: its path is not UTF-8", c->options->from);
}

static mf_status write_manifest(const mf_conversion *c, const char *config) {
    mf_manifest m = {.converted = true,
                     .progress = {.loss_first = NAN, .loss_last = NAN, .loss_eval = NAN},
                     .parts = c->files,
                     .part = c->digest};
    for (int i = 0; i < c->names.count; i++)
        m.params += mf_max(c->names.param[i].rows, 1) * c->names.param[i].cols;
    MF_TRY(mf_digest_file(config, &m.config));
    MF_TRY(settings_of(c, &m.settings));
    mf_status status = mf_manifest_write(&m, c->draft);
    free(m.settings);
    return status ? mf_error_pass(__FILE__, __LINE__, status) : MF_OK;
}

/* What stands beside the tensors. */
static mf_status write_rest(const mf_conversion *c) {
    mf_status status = MF_OK;
    char *config = NULL;
    MF_GO(mf_format(&config, "%s/config.json", c->draft));
    MF_GO(write_config(c, config));
    MF_GO(c->options->checkpoint ? write_manifest(c, config) : carry(c));
fail:
    mf_host_free(config);
    return status;
}

/* "a/b" to "a", "b" to "."; owned by the caller. */
static mf_status parent_of(const char *path, char **out) {
    const char *slash = strrchr(path, '/');
    if (!slash) return mf_host_strdup(".", out);
    return mf_format(out, "%.*s", (int)mf_max(slash - path, 1), path);
}

static mf_status publish(const mf_conversion *c, const char *to) {
    mf_status status = MF_OK;
    char *parent = NULL;
    MF_GO(parent_of(to, &parent));
    MF_GO(mf_folder_sync(c->draft));
    MF_GO(mf_folder_rename(parent, c->draft, to));
fail:
    mf_host_free(parent);
    return status;
}

static mf_status convert(mf_conversion *c, const char *to) {
    MF_TRY(check_place(to));
    MF_TRY(mf_conversion_open(c));
    choose_type(c);
    MF_TRY(mf_conversion_plan(c));
    MF_TRY(make_draft(c, to));
    c->result->writing = true;
    MF_TRY(mf_conversion_write(c));
    MF_TRY(write_rest(c));
    return publish(c, to);
}

static void give_up(const mf_conversion *c) {
    mf_error error = *mf_error_last();
    if (c->draft) (void)mf_folder_remove(c->draft);
    mf_error_adopt(&error);
}

static void free_all(mf_conversion *c) {
    mf_conversion_close(c);
    for (int i = 0; c->name && i < c->count; i++) mf_host_free(c->name[i]);
    mf_host_free(c->name);
    mf_host_free(c->to);
    mf_host_free(c->first);
    mf_host_free(c->digest);
    mf_host_free(c->draft);
}

mf_status mf_model_convert(const mf_convert_options *options, mf_convert_result *result) {
    mf_status status = MF_OK;
    mf_conversion c = {.options = options, .result = result};
    char *to = NULL;
    size_t length = strlen(options->to);
    *result = (mf_convert_result){0};
    while (length > 1 && options->to[length - 1] == '/') length--;
    MF_GO(mf_format(&to, "%.*s", (int)length, options->to));
    MF_GO(convert(&c, to));
fail:
    if (status) give_up(&c);
    free_all(&c);
    mf_host_free(to);
    return status;
}
