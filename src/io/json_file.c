/* json_file.c: see json_file.h. */
#include "io/json_file.h"

#include "meshfold/io.h"

#include <stdlib.h>
#include <string.h>

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
