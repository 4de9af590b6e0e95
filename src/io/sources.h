/* sources.h: the files that paths stand for: those named, and all in the folders named, recursively, in the
 * order of their names. */
#ifndef MF_IO_SOURCES_H
#define MF_IO_SOURCES_H

#include "meshfold/base.h"

typedef struct mf_source {
    char *path; /* owned */
    int64_t bytes;
} mf_source;

typedef struct mf_sources {
    mf_source *item;
    int count, capacity;
} mf_sources;

/* Names that begin with a dot are passed over in folders. MF_EIO names the path that is missing or
 * unreadable. */
mf_status mf_sources_find(const char *const *paths, int count, mf_sources *out);
void mf_sources_free(mf_sources *sources);

#endif
