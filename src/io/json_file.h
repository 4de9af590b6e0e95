/* json_file.h: JSON into a file. */
#ifndef MF_IO_JSON_FILE_H
#define MF_IO_JSON_FILE_H

#include "meshfold/base.h"

#include <jansson.h>

/* As json_dumps writes it with these flags, and a new line; beside its place, then renamed. value NULL: there
 * was no memory to make it, MF_ENOMEM. MF_EIO names the file. */
mf_status mf_json_write(const char *path, const json_t *value, size_t flags);

#endif
