/* json_file.h: JSON from and into files. */
#ifndef MF_IO_JSON_FILE_H
#define MF_IO_JSON_FILE_H

#include "meshfold/base.h"

#include <jansson.h>

/* What a file holds (path is for the error); owned by the caller. MF_EFORMAT where it is not JSON or names a
 * key twice; MF_EUNSUPPORTED where it has more than eight million values. */
mf_status mf_json_parse(const char *path, const char *text, size_t bytes, json_t **out);
mf_status mf_json_read(const char *path, json_t **out);
/* As json_dumps writes it with these flags, and a new line; beside its place, then renamed. value NULL: there
 * was no memory to make it, MF_ENOMEM. MF_EIO names the file. */
mf_status mf_json_write(const char *path, const json_t *value, size_t flags);

#endif
