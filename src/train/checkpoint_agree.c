/* checkpoint_agree.c: what fails on several ranks at once, each in its own way, ends with one error. */
#include "train/checkpoint.h"

mf_status mf_checkpoint_agree(mf_comm *world, mf_status own) {
    mf_status status = MF_OK;
    size_t *offsets = NULL, ranks = (size_t)mf_comm_size(world);
    mf_error mine = {0}, *all = NULL;
    if (own) mine = *mf_error_last();
    mine.depth = 0; /* a trace's file names mean nothing in another process */
    MF_GO(mf_host_alloc(ranks, sizeof *all, &all));
    MF_GO(mf_host_alloc(ranks + 1, sizeof *offsets, &offsets));
    for (size_t i = 0; i <= ranks; i++) offsets[i] = i * sizeof *all;
    MF_GO(mf_allgather(world, &mine, all, offsets, NULL));
    for (size_t i = 0; i < ranks; i++)
        if (all[i].status) MF_GO(mf_error_adopt(&all[i]));
fail:
    mf_host_free(offsets);
    mf_host_free(all);
    return status;
}
