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
    const mf_event *ready;                /* from where on its buffers can be used; NULL: they can */
} mf_post;

/* Whether member `who` reads or writes the buffers of member `whose`. A barrier counts as though all did. */
bool mf_local_uses(const mf_comm *comm, const mf_header *header, int who, int whose);
/* MF_ECOMM, on all members, when the blocks of an alltoall don't fit. posts: [size] */
mf_status mf_local_agree(const mf_comm *comm, const mf_header *header, const mf_post *posts);
/* Moves this member's part of what all members agree on, or asks the lane's queue for it. */
mf_status mf_local_move(const mf_comm *comm, int lane, const mf_transfer *transfer, const mf_post *posts);

#endif
