/* cut.h: dense tensors that are cut along one of their dimensions over a group's ranks, and how the cut moves
 * to another dimension (Dynamic Sequence Parallelism, arXiv 2403.10266).
 *
 *     mf_cut video = {.comm = axis, .device = device, .element = 4, .dims = 3};   // and its sizes
 *     mf_shared by_place;                                   // mf_cut_bytes(&video, 1, own rank)
 *     MF_TRY(mf_cut_split(&video, 1, whole, by_place.own)); // own places of all frames
 *     ... attend over frames ...
 *     MF_TRY(mf_cut_switch(&video, 1, 0, &by_place, by_frame));   // own frames of all places
 *     ... attend over places ...
 *
 * Rank r has the indices mf_share_begin(size, ranks, r) and on of the dimension that is cut, and all of the
 * others, row-major: nothing needs to divide, and a rank may have none. What comes in through mf_shared is
 * read where it lies by all ranks, where mf_comm_borrows, and sent otherwise.
 *
 * Backward, a gradient goes the other way: of split it is gathered; of gather, where every rank has the same
 * gradient of the whole, it is split; of a switch it is switched back. */
#ifndef MESHFOLD_CUT_H
#define MESHFOLD_CUT_H

#include "meshfold/mesh.h"

enum { MF_CUT_DIMS = 8 };
typedef struct mf_cut {
    mf_comm *comm;
    mf_device *device;
    size_t element; /* bytes */
    int dims;
    int64_t size[MF_CUT_DIMS]; /* of the whole */
} mf_cut;

/* MF_EINVAL for impossible sizes, and for a dimension that is not there: what all calls below check first. */
mf_status mf_cut_check(const mf_cut *cut, int dim);
/* Bytes of what `rank` has where dimension `dim` is cut; of the whole with dim -1. */
size_t mf_cut_bytes(const mf_cut *cut, int dim, int rank);

/* own: this rank's share of dimension dim. Overwrites. Not collective. */
mf_status mf_cut_split(const mf_cut *cut, int dim, const void *whole, void *own);
/* whole, on every rank, from own shares of dimension dim. Overwrites. Collective. */
mf_status mf_cut_gather(const mf_cut *cut, int dim, const mf_shared *own, void *whole);
/* out: cut along `to`, from in: cut along `from`. Overwrites; from and to may be equal. Collective. */
mf_status mf_cut_switch(const mf_cut *cut, int from, int to, const mf_shared *in, void *out);
/* Before what came in to the calls above is overwritten or freed: waits until no peer reads it. Collective.
 */
mf_status mf_cut_settle(const mf_cut *cut);

#endif
