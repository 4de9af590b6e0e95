/* local_group.h: a group of ranks that are threads: what its members share, and how they meet. */
#ifndef MF_COMM_LOCAL_GROUP_H
#define MF_COMM_LOCAL_GROUP_H

#include "comm/local_meeting.h"
#include "comm/local_points.h"

typedef struct mf_local_lane {
    mf_meeting meeting;
    atomic_uint_least64_t *sequence; /* [size] the last operation each member came to, for errors */
    /* [2, size], for odd and even operations: a fast member posts the next while a slow one still looks at a
     * barrier */
    mf_header *headers;
    mf_post *posts;
} mf_local_lane;

typedef struct mf_local_signals {
    _Alignas(64) atomic_uint_least64_t value[MF_SIGNALS];
} mf_local_signals;

typedef struct mf_local_group {
    struct mf_local_group *next;
    char *axis;
    int size, left;
    int *ranks;   /* [size] */
    bool *joined; /* [size] */
    mf_local_lane lanes[MF_LANES];
    mf_gate signal_gate;
    mf_local_signals *signals; /* [size] */
    mf_points *points;         /* [size] */
} mf_local_group;

/* Posts, meets, compares. *peers: all members' posts, valid until mf_meeting_complete. Unless *met the others
 * are not there. */
mf_status mf_local_exchange(mf_comm *comm, mf_local_lane *lane, const mf_header *header, const mf_post *own,
                            const mf_post **peers, bool *met);

/* local_shared.c: as in mf_engine. */
mf_status mf_local_shared_alloc(mf_comm *comm, const mf_header *header, mf_status ready,
                                const mf_memory_source *source, mf_shared *out);
void mf_local_shared_free(mf_comm *comm, mf_shared *shared);

#endif
