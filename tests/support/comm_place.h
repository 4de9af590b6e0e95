/* comm_place.h: the operations of comm.h for scenarios whose values are the host's: run as they are, or on a
 * device.
 *
 *     MF_TRY(place_open(world, "cuda"));          // NULL: as they are
 *     MF_TRY(place_broadcast(comm, data, bytes, root, request));
 *     MF_TRY(place_finish(comm, request));        // data: what the device's memory holds now
 *     place_close();
 *
 * On a device no copy is waited for that the queues must order by themselves: values come into a buffer by a
 * copy that is queued just before the transfer, and leave it by one that is queued just after; behind that
 * the buffer is spoilt, so that whoever reads too late is found out as well as who reads too early. One
 * thread a rank. */
#ifndef MF_TEST_COMM_PLACE_H
#define MF_TEST_COMM_PLACE_H

#include "meshfold/comm.h"

/* Makes this rank's device, and lets the world use it; where that queues nothing, values stay as they are. */
mf_status place_open(mf_world *world, const char *device);
/* Everything of this rank's is finished. Does nothing where none is open. */
void place_close(void);
/* NULL: as they are. */
mf_device *place_device(void);
/* Memory of that device, or of the host. Owned by the caller. */
mf_status place_memory(mf_memory **out);

mf_status place_broadcast(mf_comm *comm, void *buffer, size_t bytes, int root, mf_request *request);
mf_status place_allgather(mf_comm *comm, const void *send, void *recv, const size_t *offsets,
                          mf_request *request);
mf_status place_reduce(mf_comm *comm, float *buffer, int64_t count, int root, mf_request *request);
mf_status place_allreduce(mf_comm *comm, void *buffer, int64_t count, mf_dtype type, mf_request *request);
mf_status place_reduce_scatter(mf_comm *comm, void *buffer, const int64_t *offsets, mf_dtype type,
                               mf_request *request);
mf_status place_alltoall(mf_comm *comm, const void *send, const size_t *send_offsets, void *recv,
                         const size_t *recv_offsets, mf_request *request);
mf_status place_shift(mf_comm *comm, const void *send, size_t send_bytes, void *recv, size_t recv_bytes,
                      mf_request *request);
mf_status place_finish(mf_comm *comm, mf_request *request);

/* In memory of place_memory: *to = *a + b, queued. */
mf_status place_add(float *to, const float *a, float b);
mf_status place_read(const void *from, void *to, size_t bytes);
mf_status place_fill(void *to, int byte, size_t bytes);

#endif
