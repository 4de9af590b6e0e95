/* spares.h: pages that were given back and are kept for the next request, for fresh ones cost page faults. */
#ifndef MF_MEMORY_SPARES_H
#define MF_MEMORY_SPARES_H

#include "meshfold/base.h"

enum { MF_SPARES = 64, MF_PAGE = 4096 };

typedef struct mf_spare {
    char *data;
    size_t bytes;
} mf_spare;

typedef struct mf_spares {
    mf_spare block[MF_SPARES]; /* apart from each other, oldest first */
    int count;
    int64_t bytes;                          /* of all of them */
    void (*drop)(void *data, size_t bytes); /* gives pages back to where they came from */
} mf_spares;

/* From the smallest block that is large enough, of which the rest stays; NULL where none is. */
void *mf_spares_take(mf_spares *spares, size_t bytes);
/* Joins the block to those that it touches. */
void mf_spares_add(mf_spares *spares, void *data, size_t bytes);
/* Gives pages back until no more than `room` bytes are kept. */
void mf_spares_drop(mf_spares *spares, int64_t room);

#endif
