/* store.c: one rank's resident shards, and how their gradients are summed over the ranks that hold the same
 * ones. With cut updates each replica gets the sum of its own share alone, updates that, and shares the new
 * weights (ZeRO-1): no more is sent than an all-reduce sends. Sums begin as soon as a part's gradient is
 * whole, while earlier layers are at work. */
#include "schedule/kinds.h"

static int replicas(const mf_store *s) { return mf_comm_size(s->replicas); }

/* Where the elements that replica `rank` updates begin. */
static int64_t share_begin(const mf_store *s, int rank) {
    return mf_share_begin(s->elements, replicas(s), rank);
}

static void choose_updates(mf_store *s, bool cut) {
    int rank = mf_comm_rank(s->replicas);
    s->cut_updates = cut;
    s->first = cut ? share_begin(s, rank) : 0;
    s->count = cut ? share_begin(s, rank + 1) - s->first : s->elements;
}

mf_status mf_store_create(const mf_store_options *o, mf_store *out) {
    mf_status status = MF_OK;
    mf_memory *memory = mf_device_memory(o->device);
    size_t count = (size_t)o->elements;
    *out = (mf_store){.comm = o->comm,
                      .replicas = o->replicas,
                      .device = o->device,
                      .type = o->type,
                      .elements = o->elements};
    choose_updates(out, o->cut_updates && replicas(out) > 1);
    out->weights.most_bytes = (size_t)o->most_elements * mf_dtype_bytes(o->type);
    out->grads.most_bytes = (size_t)o->most_elements * sizeof(float);
    MF_GO(mf_shared_alloc(o->comm, memory, MF_WEIGHTS, count * mf_dtype_bytes(o->type), "weights",
                          &out->weights));
    if (o->grads)
        MF_GO(mf_shared_alloc(o->comm, memory, MF_GRADS, count * sizeof(float), "gradients", &out->grads));
    return MF_OK;
fail:
    mf_store_destroy(out);
    return status;
}

void mf_store_destroy(mf_store *s) {
    if (!s->comm) return;
    mf_memory *memory = mf_device_memory(s->device);
    for (int i = 0; i < MF_SUMS_BEGUN; i++) mf_abandon(s->replicas, &s->sum[i]);
    mf_whole_part_drop(s, &s->ahead);
    mf_whole_part_drop(s, &s->leaving);
    mf_shared_free(s->comm, memory, &s->weights);
    mf_shared_free(s->comm, memory, &s->grads);
    *s = (mf_store){0};
}

static mf_status finish_oldest_sum(mf_store *s) {
    return mf_finish(s->replicas, &s->sum[s->sums_done++ % MF_SUMS_BEGUN]);
}

static mf_status sum_shares(mf_store *s, float *grads, int64_t begin, int64_t n, mf_request *request) {
    mf_status status = MF_OK;
    int64_t *offsets = NULL;
    MF_TRY(mf_host_alloc((size_t)replicas(s) + 1, sizeof *offsets, &offsets));
    for (int rank = 0; rank <= replicas(s); rank++)
        offsets[rank] = mf_max(0, mf_min(n, share_begin(s, rank) - begin));
    MF_GO(mf_reduce_scatter(s->replicas, grads, offsets, MF_F32, request));
fail:
    mf_host_free(offsets);
    return status;
}

mf_status mf_store_sum(mf_store *s, const mf_part *part) {
    int owner = mf_comm_rank(s->comm);
    int64_t n = part->elements[owner], begin = part->offset[owner];
    if (replicas(s) == 1) return MF_OK;
    float *grads = mf_within(s->grads.own, begin, MF_F32);
    if (s->sums_begun - s->sums_done == MF_SUMS_BEGUN) MF_TRY(finish_oldest_sum(s));
    mf_request *request = &s->sum[s->sums_begun++ % MF_SUMS_BEGUN];
    if (s->cut_updates) return sum_shares(s, grads, begin, n, request);
    return mf_allreduce(s->replicas, grads, n, MF_F32, request);
}

mf_status mf_store_complete(mf_store *s, const mf_part *part) {
    if (s->leaving.part != part) return mf_store_sum(s, part);
    s->leaving.complete = true; /* it comes home later */
    return MF_OK;
}

mf_status mf_store_settle(mf_store *s) {
    MF_TRY(mf_gather_settle(s));
    while (s->sums_done < s->sums_begun) MF_TRY(finish_oldest_sum(s));
    return MF_OK;
}

mf_status mf_store_share_updates(mf_store *s) {
    mf_status status = MF_OK;
    size_t *offsets = NULL, size = mf_dtype_bytes(s->type);
    if (!s->cut_updates) return MF_OK;
    MF_TRY(mf_host_alloc((size_t)replicas(s) + 1, sizeof *offsets, &offsets));
    for (int rank = 0; rank <= replicas(s); rank++) offsets[rank] = (size_t)share_begin(s, rank) * size;
    MF_GO(mf_allgather(s->replicas, mf_within(s->weights.own, s->first, s->type), s->weights.own, offsets,
                       NULL));
fail:
    mf_host_free(offsets);
    return status;
}
