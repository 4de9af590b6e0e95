/* json_file.c: see json_file.h. */
#include "io/json_file.h"

#include "meshfold/io.h"

#include <stdlib.h>
#include <string.h>

/* A value of three bytes may take 240 in memory. Tokenizers with half a million merges have two million. */
enum { VALUES_MOST = 1 << 23 };

/* One less than there are, or more where the text is no JSON. */
static int64_t count_values(const char *text, size_t bytes) {
    int64_t count = 0;
    bool quoted = false;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '"') quoted = !quoted;
        if (!quoted)
            count += text[i] == ',' || text[i] == '[' || text[i] == '{';
        else if (text[i] == '\\')
            i++;
    }
    return count;
}

mf_status mf_json_parse(const char *path, const char *text, size_t bytes, json_t **out) {
    json_error_t error;
    *out = NULL;
    if (count_values(text, bytes) > VALUES_MOST)
        return MF_FAIL(MF_EUNSUPPORTED, "%s: JSON of more than %d values is not supported", path,
                       VALUES_MOST);
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
