/* params.c: how each of the named tensors is cut into shards, and how shards are packed into parts.
 *
 * A rank of the tensor axis uses its own share of a matrix. The stream's axis cuts that share again: along
 * the same dimension where a turn has a shard, by rows where turns have whole matrices (then a shard is no
 * use by itself, and rows stay in one piece). */
#include "model/model.h"

#include <string.h>

/* Where the units of shard `shard` (of the stream's axis, to its size) of tensor rank `t` begin. */
static int64_t unit_begin(const mf_model *m, const mf_param *p, int t, int shard) {
    int cuts = mf_comm_size(m->tensor) * m->shards, at = t * m->shards + shard;
    if (!p->group) return mf_share_begin(p->units, cuts, at);
    int64_t heads = p->units * p->group;
    int64_t first = mf_share_begin(heads, cuts, t * m->shards),
            end = mf_share_begin(heads, cuts, (t + 1) * m->shards);
    if (shard == 0 || first == end) return first / p->group;
    return mf_ceil_div(mf_share_begin(heads, cuts, at), p->group);
}

static bool cut_by_rows(const mf_model *m, const mf_param *p) {
    return mf_stream_gathers(m->part_stream[p->part]) && m->shards > 1;
}

mf_slice mf_param_own(const mf_model *m, int param) {
    const mf_param *p = &m->param[param];
    int t = mf_comm_rank(m->tensor);
    int64_t first = unit_begin(m, p, t, 0);
    return (mf_slice){.first = first, .count = unit_begin(m, p, t, m->shards) - first};
}

/* A shard's part of a matrix, as it is stored. */
typedef struct rect {
    int64_t first_row, rows, first_col, cols;
} rect;

static rect rect_of_units(const mf_param *p, int64_t first, int64_t count) {
    if (p->cut == MF_CUT_ROWS)
        return (rect){.first_row = first * p->unit, .rows = count * p->unit, .cols = p->cols};
    return (rect){.rows = p->rows, .first_col = first * p->unit, .cols = count * p->unit};
}

static rect stored_by(const mf_model *m, int param, int t, int shard) {
    const mf_param *p = &m->param[param];
    if (!cut_by_rows(m, p)) {
        int64_t first = unit_begin(m, p, t, shard);
        return rect_of_units(p, first, unit_begin(m, p, t, shard + 1) - first);
    }
    int64_t first = unit_begin(m, p, t, 0);
    rect r = rect_of_units(p, first, unit_begin(m, p, t, m->shards) - first);
    int64_t skipped = mf_share_begin(r.rows, m->shards, shard);
    r.rows = mf_share_begin(r.rows, m->shards, shard + 1) - skipped;
    r.first_row += skipped;
    return r;
}

static rect stored(const mf_model *m, int param, int shard) {
    return stored_by(m, param, mf_comm_rank(m->tensor), shard);
}

static int64_t stored_elements(const mf_model *m, int param, int shard) {
    rect r = stored(m, param, shard);
    return r.rows * r.cols;
}

static mf_status allocate_part(mf_model *m, mf_part *part) {
    size_t shards = (size_t)m->shards;
    MF_TRY(mf_host_alloc(shards, sizeof(int64_t), &part->offset));
    MF_TRY(mf_host_alloc(shards, sizeof(int64_t), &part->elements));
    return mf_host_alloc((size_t)part->pieces * (shards + 1), sizeof(int64_t), &part->piece);
}

/* A part's matrices are neighbours among the parameters, but for those that norms stand between. */
static void lay_out_pieces(mf_model *m, int index) {
    mf_part *part = &m->part[index];
    int64_t at = 0;
    for (int i = 0; i < m->params; i++) {
        if (m->param[i].part != index) continue;
        int64_t *begin = part->piece + m->param[i].piece * (m->shards + 1);
        for (int shard = 0; shard < m->shards; shard++) {
            begin[shard] = at;
            at += stored_elements(m, i, shard);
            part->elements[shard] += stored_elements(m, i, shard);
        }
        begin[m->shards] = at;
    }
}

/* Sizes of every shard of every part, and where it begins in its owner's store. */
static mf_status pack(mf_model *m) {
    for (int i = 0; i < m->parts; i++) {
        MF_TRY(allocate_part(m, &m->part[i]));
        lay_out_pieces(m, i);
        for (int shard = 0; shard < m->shards && i > 0; shard++)
            m->part[i].offset[shard] = m->part[i - 1].offset[shard] + m->part[i - 1].elements[shard];
    }
    return MF_OK;
}

mf_status mf_params_build(mf_model *m) {
    MF_TRY(mf_params_name(m));
    return pack(m);
}

void mf_params_free(mf_model *m) {
    for (int i = 0; m->part && i < m->parts; i++) {
        mf_host_free(m->part[i].offset);
        mf_host_free(m->part[i].elements);
        mf_host_free(m->part[i].piece);
    }
    mf_host_free(m->part);
    mf_host_free(m->part_stream);
    mf_host_free(m->param);
}

int64_t mf_params_elements(const mf_model *m, int shard) {
    const mf_part *last = &m->part[m->parts - 1];
    return last->offset[shard] + last->elements[shard];
}

mf_status mf_config_param_list(const mf_model_config *config, mf_named_shape **out, int *count) {
    mf_status status = MF_OK;
    mf_model m = {.config = *config, .layout = mf_layout_of(&(mf_mesh_spec){0})};
    MF_GO(mf_params_name(&m));
    MF_GO(mf_host_alloc((size_t)m.params, sizeof **out, out));
    for (*count = 0; *count < m.params; (*count)++) {
        const mf_param *p = &m.param[*count];
        mf_named_shape *shape = &(*out)[*count];
        shape->rows = p->rows;
        shape->cols = p->cols;
        memcpy(shape->name, p->name, sizeof p->name);
    }
fail:
    mf_params_free(&m);
    return status;
}

/* Where a parameter's share begins in a packed shard. */
static int64_t packed_offset(const mf_model *m, int param, int shard) {
    const mf_part *part = mf_part_of(m, param);
    int64_t at = 0;
    for (int i = 0; i < m->param[param].piece; i++) {
        const int64_t *begin = part->piece + i * (m->shards + 1);
        at += begin[shard + 1] - begin[shard];
    }
    return at;
}

mf_slice mf_param_slice(const mf_model *m, int param, int shard) {
    const mf_param *p = &m->param[param];
    int t = mf_comm_rank(m->tensor);
    if (shard == MF_SHARD_WHOLE) {
        mf_slice whole = mf_param_own(m, param);
        whole.offset = mf_part_of(m, param)->piece[p->piece * (m->shards + 1)];
        return whole;
    }
    int64_t first = unit_begin(m, p, t, shard);
    return (mf_slice){.first = first,
                      .count = unit_begin(m, p, t, shard + 1) - first,
                      .offset = packed_offset(m, param, shard)};
}

int64_t mf_param_widest(const mf_model *m, int param) {
    int64_t widest = 0;
    if (cut_by_rows(m, &m->param[param])) return mf_param_own(m, param).count;
    for (int shard = 0; shard < m->shards; shard++)
        widest = mf_max(widest, mf_param_slice(m, param, shard).count);
    return widest;
}

/* Key heads that more than one tensor rank holds: those that a boundary between their query heads cuts. Fills
 * heads[tensor size], unless it is NULL, and returns their number. */
static int shared_heads(const mf_model *m, const mf_param *p, int64_t *heads) {
    int found = 0, ranks = mf_comm_size(m->tensor);
    int64_t last = -1;
    for (int t = 1; t < ranks && p->group; t++) {
        int64_t boundary = mf_share_begin(p->units * p->group, ranks * m->shards, t * m->shards);
        int64_t head = boundary / p->group;
        if (boundary % p->group == 0 || head == last) continue;
        if (heads) heads[found] = head;
        last = head;
        found++;
    }
    return found;
}

/* Leading rows of this rank's slice that a lower tensor rank has too. */
static int64_t shared_rows(const mf_model *m, int param) {
    const mf_param *p = &m->param[param];
    int own = mf_comm_rank(m->tensor);
    rect r = stored(m, param, mf_comm_rank(m->stream));
    if (!p->group) return 0;
    int64_t heads = p->units * p->group;
    int64_t first = mf_share_begin(heads, mf_comm_size(m->tensor) * m->shards, own * m->shards);
    return mf_max(0, mf_min(r.rows, mf_ceil_div(first, p->group) * p->unit - r.first_row));
}

int mf_model_params(const mf_model *m) { return m->params; }

mf_param_view mf_model_param(const mf_model *m, int index) {
    const mf_param *p = &m->param[index];
    int own = mf_comm_rank(m->stream);
    mf_param_view v = {.name = p->name, .rows = p->rows, .cols = p->cols, .offset = p->offset};
    v.slice_rows = mf_max(p->rows, 1);
    v.slice_cols = p->cols;
    v.replicated = p->part < 0;
    if (v.replicated) return v;
    rect r = stored(m, index, own);
    v.first_row = r.first_row;
    v.slice_rows = r.rows;
    v.first_col = r.first_col;
    v.slice_cols = r.cols;
    v.offset = m->part[p->part].offset[own] + packed_offset(m, index, own);
    v.shared_rows = shared_rows(m, index);
    return v;
}

bool mf_params_are_shared(const mf_model *m) {
    return shared_heads(m, &m->param[mf_layer_param(m, 0, MF_WK)], NULL) > 0;
}

/* Between this rank's rows of the shared heads and sums: [heads][unit][cols]. */
static mf_status move_shared(mf_model *m, int param, const int64_t *heads, int count, float *sums, bool in) {
    const mf_param *p = &m->param[param];
    mf_param_view v = mf_model_param(m, param);
    for (int i = 0; i < count; i++) {
        int64_t first = mf_max(heads[i] * p->unit, v.first_row);
        int64_t rows = mf_min((heads[i] + 1) * p->unit, v.first_row + v.slice_rows) - first;
        if (rows <= 0) continue;
        float *own = (float *)m->store.grads.own + v.offset + (first - v.first_row) * v.cols;
        float *at = sums + (i * p->unit + first - heads[i] * p->unit) * v.cols;
        size_t bytes = (size_t)(rows * v.cols) * sizeof(float);
        MF_TRY(mf_copy_rows(m->device, 1, bytes, in ? at : own, bytes, in ? own : at, bytes));
    }
    return MF_OK;
}

static mf_status sum_shared(mf_model *m, int param, int64_t *heads) {
    mf_status status = MF_OK;
    const mf_param *p = &m->param[param];
    int count = shared_heads(m, p, heads);
    int64_t elements = count * p->unit * p->cols;
    mf_buffer sums = {0};
    MF_GO(mf_work(m, elements, sizeof(float), "gradients of key heads that several ranks have", &sums));
    MF_GO(mf_zero(m->device, sums.data, (size_t)elements * sizeof(float)));
    MF_GO(move_shared(m, param, heads, count, sums.data, true));
    MF_GO(mf_allreduce(m->sharers, sums.data, elements, MF_F32, NULL));
    MF_GO(move_shared(m, param, heads, count, sums.data, false));
fail:
    mf_buffer_free(m->memory, &sums);
    return status;
}

mf_status mf_params_sum_shared(mf_model *m) {
    mf_status status = MF_OK;
    int64_t *heads = NULL;
    MF_TRY(mf_host_alloc((size_t)mf_comm_size(m->tensor), sizeof *heads, &heads));
    for (int64_t layer = 0; layer < m->config.layers; layer++) {
        MF_GO(sum_shared(m, mf_layer_param(m, layer, MF_WK), heads));
        MF_GO(sum_shared(m, mf_layer_param(m, layer, MF_WV), heads));
    }
fail:
    mf_host_free(heads);
    return status;
}

/* Elements begin .. end - 1 of the store, of those that this rank updates. */
static mf_status squares(mf_model *m, int64_t begin, int64_t end, double *sum) {
    begin = mf_max(begin, m->store.first);
    int64_t n = mf_min(end, m->store.first + m->store.count) - begin;
    *sum = 0;
    return n > 0 ? mf_sum_squares(m->device, n, (float *)m->store.grads.own + begin, sum) : MF_OK;
}

mf_status mf_model_grad_squares(mf_model *m, double *sum) {
    *sum = 0;
    if (!m->store.cut_updates && mf_comm_rank(m->store.replicas) > 0) return MF_OK;
    MF_TRY(squares(m, 0, m->store.elements, sum));
    for (int i = 0; i < m->params; i++) {
        mf_param_view v = mf_model_param(m, i);
        double twice = 0;
        if (v.shared_rows) MF_TRY(squares(m, v.offset, v.offset + v.shared_rows * v.slice_cols, &twice));
        *sum -= twice;
    }
    return MF_OK;
}

/* This rank's part of a whole gradient: what it updates and counts; zeros elsewhere. */
static mf_status lay_out_gradient(mf_model *m, const mf_param_view *v, float *whole) {
    const float *grads = m->store.grads.own;
    int64_t width = v->slice_cols, at = v->shared_rows * width, end = v->slice_rows * width;
    if (!m->store.cut_updates && mf_comm_rank(m->store.replicas) > 0) return MF_OK;
    at = mf_max(at, m->store.first - v->offset);
    end = mf_min(end, m->store.first + m->store.count - v->offset);
    for (int64_t n = 0; at < end; at += n) { /* what is updated may begin and end within a row */
        int64_t row = at / width, col = at % width, rows = col ? 0 : (end - at) / width;
        int64_t cols = rows ? width : mf_min(width - col, end - at);
        MF_TRY(mf_copy_rows(m->device, mf_max(rows, 1), (size_t)cols * sizeof(float),
                            whole + (v->first_row + row) * v->cols + v->first_col + col,
                            (size_t)v->cols * sizeof(float), grads + v->offset + at,
                            (size_t)width * sizeof(float)));
        n = mf_max(rows, 1) * cols;
    }
    return MF_OK;
}

mf_status mf_model_collect_gradient(mf_model *m, int index, float *whole) {
    mf_param_view v = mf_model_param(m, index);
    int64_t elements = mf_max(v.rows, 1) * v.cols;
    MF_TRY(mf_zero(m->device, whole, (size_t)elements * sizeof(float)));
    if (!v.replicated)
        MF_TRY(lay_out_gradient(m, &v, whole));
    else if (mf_comm_rank(m->world) == 0)
        MF_TRY(mf_copy(m->device, MF_QUEUE_COMPUTE, whole, mf_replica_grad(m, index, 0),
                       (size_t)elements * sizeof(float)));
    return mf_reduce(m->world, whole, elements, 0, NULL);
}

static mf_status fill_param(mf_model *m, int index, float *out) {
    mf_param_view v = mf_model_param(m, index);
    const mf_param *p = &m->param[index];
    if (p->deviation == 0) return mf_fill(m->device, v.slice_rows * v.slice_cols, p->initial, out);
    return mf_fill_normal(m->device, &(mf_normal_args){.rows = v.slice_rows,
                                                       .cols = v.slice_cols,
                                                       .first = v.first_row * v.cols + v.first_col,
                                                       .index_ld = v.cols,
                                                       .seed = m->options.seed,
                                                       .key = mf_random_key(v.name),
                                                       .deviation = p->deviation,
                                                       .out = out});
}

mf_status mf_model_init(mf_model *m, float *master) {
    for (int i = 0; i < m->params; i++) {
        mf_param_view v = mf_model_param(m, i);
        float *base = v.replicated ? m->replicas.data : master;
        MF_TRY(fill_param(m, i, base ? base + v.offset : NULL));
    }
    return MF_OK;
}
