/* links.h: what moves data between the GPUs of several ranks by itself (NCCL). All members of a group open a
 * link with one id, and ask it for the same moves in the same order. No call here waits for a peer: what
 * takes its time is under way until `look` says that it isn't, and nothing else is asked of the link
 * meanwhile. */
#ifndef MF_DEVICE_LINKS_H
#define MF_DEVICE_LINKS_H

#include "device/ops.h"

enum { MF_LINK_ID = 128, MF_LINK_PLACE = 96 };

typedef struct mf_link mf_link;

typedef enum mf_link_kind {
    MF_LINK_SEND,
    MF_LINK_RECV,
    MF_LINK_BROADCAST,
    MF_LINK_ALLGATHER,
    MF_LINK_REDUCE,
    MF_LINK_ALLREDUCE,
    MF_LINK_REDUCE_SCATTER
} mf_link_kind;

typedef struct mf_link_move {
    mf_link_kind kind;
    int peer;      /* send, recv: which member; broadcast, reduce: the root */
    mf_dtype type; /* of sums */
    size_t count;  /* bytes; of sums elements. allgather, reduce_scatter: of each member's part */
    const void *from;
    void *to;
} mf_link_move;

typedef struct mf_link_ops {
    /* id: [MF_LINK_ID], made by one member for all. */
    mf_status (*make_id)(void *id);
    /* place: [MF_LINK_PLACE] a text that only ranks on the same GPU of the same machine share. */
    mf_status (*place)(mf_device *device, char *place);
    /* Under way when it returns. Moves go to the device's compute queue, or to a queue of the link's own:
     * links that shared one could each wait for what lies behind the other. The link may outlive the device.
     */
    mf_status (*open)(mf_device *device, bool own_queue, const void *id, int member, int members,
                      mf_link **out);
    mf_status (*look)(mf_link *link, bool *under_way);
    /* All of a call's moves go together; may be under way when it returns. */
    mf_status (*move)(mf_link *link, const mf_link_move *moves, int count);
    /* As mf_event_follow and mf_event_record, for the link's queue. */
    mf_status (*follow)(mf_link *link, const mf_event *event);
    mf_status (*record)(mf_link *link, mf_event *event);
    /* Any thread, at any time before close: ends what is under way, also on the GPU; calls fail from then on.
     */
    void (*abort)(mf_link *link);
    /* Under way until all members have come to it. */
    mf_status (*finish)(mf_link *link);
    /* A link that is neither aborted nor finished is aborted. Accepts NULL. */
    void (*close)(mf_link *link);
} mf_link_ops;

#endif
