/* local_move.h: moving data between ranks that are threads, once all have met. */
#ifndef MF_COMM_LOCAL_MOVE_H
#define MF_COMM_LOCAL_MOVE_H

#include "comm/ops.h"

/* What a member shows its peers until the meeting that ends the operation. */
typedef struct mf_post {
    const void *send;
    void *recv;
    void *shared;
    const size_t *offsets, *send_offsets; /* as in mf_transfer */
} mf_post;

/* Moves this member's part of what all members agree on. posts: [size]. MF_ECOMM, on all members, when the
 * blocks of an alltoall don't fit; then nothing is moved. */
mf_status mf_local_move(const mf_comm *comm, const mf_transfer *transfer, const mf_post *posts);

#endif
