/* reduction.c: what all reductions share: which rows a rank holds between blocks, and the type that sums
 * travel in. */
#include "schedule/kinds.h"

mf_status mf_reduction_create(const mf_reduction_kind *kind, mf_comm *comm, mf_device *device, mf_dtype type,
                              int64_t rows, int64_t width, mf_reduction *out) {
    mf_status status = MF_OK;
    int ranks = mf_comm_size(comm), rank = mf_comm_rank(comm);
    *out = (mf_reduction){.kind = ranks > 1 ? kind : &mf_reduction_none,
                          .comm = comm,
                          .device = device,
                          .type = type,
                          .rows = rows,
                          .width = width,
                          .held = rows};
    MF_GO(mf_host_alloc((size_t)ranks + 1, sizeof *out->offsets, &out->offsets));
    MF_GO(mf_host_alloc((size_t)ranks + 1, sizeof *out->byte_offsets, &out->byte_offsets));
    for (int r = 0; r <= ranks; r++) {
        out->offsets[r] = mf_share_begin(rows, ranks, r) * width;
        out->byte_offsets[r] = (size_t)out->offsets[r] * mf_dtype_bytes(type);
    }
    if (!out->kind->scatters) return MF_OK;
    out->first = mf_share_begin(rows, ranks, rank);
    out->held = mf_share_begin(rows, ranks, rank + 1) - out->first;
    return MF_OK;
fail:
    mf_reduction_destroy(out);
    return status;
}

void mf_reduction_destroy(mf_reduction *r) {
    mf_host_free(r->offsets);
    mf_host_free(r->byte_offsets);
    *r = (mf_reduction){0};
}

mf_status mf_reduction_gather(mf_reduction *r, const void *held, mf_buffer *storage, const void **all) {
    *all = held;
    if (!r->kind->scatters) return MF_OK;
    size_t bytes = (size_t)(r->rows * r->width) * mf_dtype_bytes(r->type);
    MF_TRY(mf_buffer_alloc(mf_device_memory(r->device), MF_WORKSPACE, bytes, "gathered rows", storage));
    *all = storage->data;
    return mf_allgather(r->comm, held, storage->data, r->byte_offsets, NULL);
}

mf_status mf_reduction_sum(mf_reduction *r, void *values, void **held) {
    *held = mf_within(values, r->first * r->width, r->type);
    return r->kind->sum(r, values, r->type);
}

mf_status mf_reduction_sum_f32(mf_reduction *r, float *partial, void *scratch, float **held) {
    void *sum = NULL;
    *held = mf_within(partial, r->first * r->width, MF_F32);
    if (mf_comm_size(r->comm) == 1) return MF_OK;
    if (r->type == MF_F32) return r->kind->sum(r, partial, MF_F32);
    MF_TRY(mf_convert(r->device, r->rows * r->width, partial, MF_F32, scratch, r->type));
    MF_TRY(mf_reduction_sum(r, scratch, &sum));
    return mf_convert(r->device, r->held * r->width, sum, r->type, *held, MF_F32);
}

bool mf_reduction_scatters(const mf_reduction_kind *kind) { return kind->scatters; }

static mf_status whole_already(mf_reduction *r, void *values, mf_dtype type) {
    (void)r, (void)values, (void)type;
    return MF_OK;
}

const mf_reduction_kind mf_reduction_none = {.name = "none", .sum = whole_already};
