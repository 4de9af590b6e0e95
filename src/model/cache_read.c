/* cache_read.c: a sequence is read on, portion by portion, by the model's own way through its blocks. */
#include "model/cache.h"

static int ranks_of(const mf_cache *c) { return mf_comm_size(c->model->sequence); }

/* The sequence has the portion now. */
static void extend(mf_cache *c) {
    mf_cached *s = c->at;
    const mf_model *m = c->model;
    mf_run runs[MF_RUNS];
    int n = mf_cut_runs(m->options.tokens, ranks_of(c), mf_comm_rank(m->sequence), runs);
    for (int i = 0; i < n; i++)
        for (int64_t r = 0; r < runs[i].rows; r++)
            s->position[s->rows++] = (int32_t)(s->tokens + runs[i].position + r);
    for (int r = 0; r < ranks_of(c); r++) s->held[r] += mf_cut_rows(m->options.tokens, ranks_of(c), r);
    s->tokens += m->options.tokens;
}

/* A rank's share of many short portions may be more than its share of one long one. */
static mf_status check_room(const mf_cache *c, int64_t count) {
    const mf_cached *s = c->at;
    for (int r = 0; r < ranks_of(c); r++)
        if (s->held[r] + mf_cut_rows(count, ranks_of(c), r) > s->room)
            return MF_FAIL(MF_EINVAL,
                           "read in so many pieces, %lld tokens more are too many for rank %d of %s",
                           (long long)count, r, mf_comm_axis(c->model->sequence));
    return MF_OK;
}

/* own: room for this rank's ids of a portion, the host's and the device's. */
static mf_status read_portion(mf_cache *c, const int32_t *ids, int64_t count, int32_t *own, int32_t *there) {
    mf_model *m = c->model;
    MF_TRY(check_room(c, count));
    MF_TRY(mf_model_reshape(m, count, c->at->tokens));
    if (m->side->rows) mf_model_cut(m, ids, own);
    MF_TRY(mf_copy(m->device, MF_QUEUE_COMPUTE, there, own, (size_t)m->side->rows * sizeof *own));
    m->next = NULL;
    m->cache = c;
    mf_status status = mf_model_forward(m, there);
    m->cache = NULL;
    if (!status) extend(c);
    return status;
}

mf_status mf_cache_read(mf_cache *c, int sequence, const int32_t *ids, int64_t count) {
    mf_status status = MF_OK;
    int32_t *own = NULL;
    mf_buffer there = {0};
    c->at = &c->sequence[sequence];
    if (count > c->at->most - c->at->tokens)
        return MF_FAIL(MF_EINVAL, "%lld tokens more than the cache has room for",
                       (long long)(count + c->at->tokens - c->at->most));
    MF_GO(mf_host_alloc((size_t)c->chunk, sizeof *own, &own));
    MF_GO(mf_work(c->model, c->chunk, sizeof *own, "ids of a portion", &there));
    for (int64_t done = 0; done < count; done += c->chunk)
        MF_GO(read_portion(c, ids + done, mf_min(c->chunk, count - done), own, there.data));
fail:
    mf_buffer_free(c->model->memory, &there);
    mf_host_free(own);
    return status;
}
