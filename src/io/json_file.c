/* json_file.c: see json_file.h. */
#include "io/json_file.h"

#include "meshfold/io.h"

#include <stdlib.h>
#include <string.h>

mf_status mf_json_parse(const char *path, const char *text, size_t bytes, json_t **out) {
    json_error_t error;
    *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (*out) return MF_OK;
    return MF_FAIL(MF_EFORMAT, "%s: is not valid JSON: %.200s (line %d, column %d)", path, error.text,
                   error.line, error.column);
}

mf_status mf_json_read(const char *path, json_t **out) {
    char *text = NULL;
    size_t bytes = 0;
    *out = NULL;
    MF_TRY(mf_file_read(path, &text, &bytes));
    mf_status status = mf_json_parse(path, text, bytes, out);
    mf_host_free(text);
    return status;
}

mf_status mf_json_write(const char *path, const json_t *value, size_t flags) {
    mf_status status = MF_OK;
    char *line = NULL, *text = value ? json_dumps(value, flags) : NULL;
    if (!text) return MF_FAIL(MF_ENOMEM, "no memory for %s", path);
    MF_GO(mf_format(&line, "%s\n", text));
    MF_GO(mf_file_write(path, line, strlen(line)));
fail:
    mf_host_free(line);
    free(text);
    return status;
}
