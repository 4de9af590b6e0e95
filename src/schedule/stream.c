/* stream.c: what all streams share: the slots in flight, the walk over turns. */
#include "schedule/kinds.h"

static int64_t largest_shard(const mf_stream *s) {
    int64_t largest = 0;
    for (int i = 0; i < mf_stream_size(s); i++) largest = mf_max(largest, s->part->elements[i]);
    return largest;
}

static bool alone(const mf_stream *s) { return mf_stream_size(s) == 1; }

/* Two of each, so that one is on its way while the other is used. */
static mf_status slots_alloc(mf_stream *s) {
    mf_memory *memory = mf_device_memory(s->store->device);
    size_t elements = (size_t)largest_shard(s);
    bool weights = s->kind->sends_weights && s->pass != MF_PASS_GRADS && !s->borrows;
    bool grads =
        s->pass != MF_PASS_FORWARD && ((s->kind->sends_grads && !s->borrows) || s->kind->reduces_grads);
    for (int i = 0; i < 2; i++) {
        if (weights)
            MF_TRY(mf_buffer_alloc(memory, MF_STREAM, elements * mf_dtype_bytes(s->store->type),
                                   "a weight shard in flight", &s->weights[i]));
        if (grads)
            MF_TRY(mf_buffer_alloc(memory, MF_STREAM, elements * sizeof(float),
                                   "a shard's gradient in flight", &s->grads[i]));
    }
    return MF_OK;
}

mf_status mf_stream_open(mf_stream *s, const mf_stream_kind *kind, mf_store *store, const mf_part *part,
                         mf_pass pass) {
    mf_status status = MF_OK;
    *s = (mf_stream){.kind = kind, .store = store, .part = part, .pass = pass};
    s->turns = kind->resident || kind->gathers ? 1 : mf_stream_size(s);
    s->borrows = mf_comm_borrows(store->comm);
    if (alone(s)) return MF_OK;
    if (kind->resident)
        return MF_FAIL(MF_EINVAL, "axis %s: weights that are cut over %d ranks can't be resident",
                       mf_comm_axis(store->comm), mf_stream_size(s));
    MF_GO(slots_alloc(s));
    if (kind->begin) MF_GO(kind->begin(s));
    return MF_OK;
fail:
    mf_stream_close(s);
    return status;
}

mf_status mf_stream_ahead(mf_store *store, const mf_stream_kind *kind, const mf_part *part) {
    if (!part || !kind->gathers || mf_comm_size(store->comm) == 1) return MF_OK;
    return mf_gather_ahead(store, part);
}

bool mf_stream_more(const mf_stream *s) { return s->turn < s->turns; }

/* An axis of one rank needs no schedule: all is its own. */
mf_status mf_stream_turn(mf_stream *s, mf_turn *out) {
    *out = (mf_turn){.shard = alone(s) ? 0 : s->kind->shard(s, s->turn)};
    if (!alone(s)) return s->kind->turn(s, &out->weights);
    out->weights = mf_own_weights(s);
    return MF_OK;
}

mf_status mf_stream_grads(mf_stream *s, float **out) {
    if (!alone(s)) return s->kind->grads(s, out);
    *out = mf_own_grads(s);
    return MF_OK;
}

mf_status mf_stream_end_turn(mf_stream *s) {
    if (!alone(s)) MF_TRY(s->kind->end_turn(s));
    s->turn++;
    return MF_OK;
}

mf_status mf_stream_finish(mf_stream *s) { return !alone(s) && s->kind->finish ? s->kind->finish(s) : MF_OK; }

/* Nothing is outstanding unless an error came. */
void mf_stream_close(mf_stream *s) {
    if (!s->store) return;
    mf_memory *memory = mf_device_memory(s->store->device);
    for (int i = 0; i < 2; i++) {
        mf_abandon(s->store->comm, &s->weights_in[i]);
        mf_abandon(s->store->comm, &s->grads_out[i]);
    }
    for (int i = 0; i < 2; i++) {
        mf_buffer_free(memory, &s->weights[i]);
        mf_buffer_free(memory, &s->grads[i]);
    }
    mf_whole_part_drop(s->store, &s->whole);
    *s = (mf_stream){0};
}

bool mf_stream_staggers(const mf_stream_kind *kind) { return kind->staggers; }
bool mf_stream_gathers(const mf_stream_kind *kind) { return kind->gathers; }

const mf_stream_kind mf_stream_resident = {.name = "resident", .resident = true};
