/* cuda_pieces.c: see cuda_pieces.h. */
#include "device/cuda_pieces.h"

/* A launch of a library's attention costs some microseconds, which so many pairs a head take. */
enum { PAIRS_LEAST = 1 << 20, HEAD_DIM_MOST = 128, BYTES_ALIGNED = 16 };

int64_t mf_cuda_piece_first_kv_head(const mf_attention_args *a) {
    return a->first_head / a->group - a->first_kv_head;
}

int64_t mf_cuda_piece_kv_heads(const mf_attention_args *a) {
    return (a->first_head + a->heads - 1) / a->group - a->first_head / a->group + 1;
}

/* Every key head that is read serves as many of the call's query heads. */
static bool shares_evenly(const mf_attention_args *a) {
    return mf_cuda_piece_kv_heads(a) == 1 || (a->first_head % a->group == 0 && a->heads % a->group == 0);
}

/* Every row of so many bytes an element begins where a library may read 16 bytes at a time. */
static bool rows_aligned(const void *data, int64_t ld, int64_t element_bytes) {
    return (uintptr_t)data % BYTES_ALIGNED == 0 && ld * element_bytes % BYTES_ALIGNED == 0;
}

static bool is_aligned(const mf_attention_args *a) {
    bool aligned = a->head_dim * 2 % BYTES_ALIGNED == 0 && rows_aligned(a->q, a->q_ld, 2) &&
                   rows_aligned(a->o, a->o_ld, 2) && rows_aligned(a->lse, a->lse_ld, 4) &&
                   rows_aligned(a->d_o, a->do_ld, 2);
    for (int j = 0; j < a->key_chunks; j++)
        aligned &= rows_aligned(a->keys[j].k, a->keys[j].ld, 2) &&
                   rows_aligned(a->keys[j].v, a->keys[j].batch_ld, 2);
    return aligned;
}

/* Were all chunks alike: what a pair of them computes. */
static bool is_large(const mf_attention_args *a) {
    int64_t keys = 0;
    for (int j = 0; j < a->key_chunks; j++) keys += a->keys[j].rows;
    return a->tokens * keys >= (int64_t)PAIRS_LEAST * a->query_chunks * a->key_chunks;
}

bool mf_cuda_in_pieces(const mf_attention_args *a) {
    bool plain = a->type == MF_BF16 && !a->window && !a->first_key && a->interleave <= 1;
    return plain && a->head_dim <= HEAD_DIM_MOST && a->key_chunks > 0 && shares_evenly(a) && is_aligned(a) &&
           is_large(a);
}

typedef struct finder {
    mf_cuda_piece *out;
    int count;
} finder;

static void add(finder *f, mf_cuda_piece piece) {
    if (piece.queries > 0 && piece.keys > 0) f->out[f->count++] = piece;
}

/* Queries at positions q0 .. q1 - 1, keys at k0 .. k1 - 1. Queries before k0 see none of them; keys before
 * the first query that sees any are seen by all of those; on the rest lies the diagonal. */
static void find_pair(finder *f, const mf_query_chunk *q, const mf_key_chunk *k) {
    int64_t q0 = q->position, q1 = q0 + q->rows, k0 = k->position, k1 = k0 + k->rows;
    int64_t begin = mf_max(q0, k0), whole = mf_min(begin, k1 - 1) - k0 + 1;
    if (begin >= q1) return;
    bool all = begin >= k1 - 1;
    if (!all) whole = begin - k0;
    int64_t row = q->first_row + begin - q0, queries = q1 - begin;
    add(f, (mf_cuda_piece){row, queries, k, 0, whole, false});
    if (!all) add(f, (mf_cuda_piece){row, queries, k, whole, mf_min(k1, q1) - begin, true});
}

static void find_all(finder *f, const mf_query_chunk *q, const mf_attention_args *a) {
    for (int j = 0; j < a->key_chunks; j++) {
        if (a->all_keys)
            add(f, (mf_cuda_piece){q->first_row, q->rows, &a->keys[j], 0, a->keys[j].rows, false});
        else
            find_pair(f, q, &a->keys[j]);
    }
}

int mf_cuda_pieces(const mf_attention_args *a, mf_cuda_piece *out) {
    finder f = {.out = out};
    for (int i = 0; i < a->query_chunks; i++) find_all(&f, &a->queries[i], a);
    return f.count;
}

bool mf_cuda_pieces_direct(const mf_attention_args *a, int count, const mf_cuda_piece *pieces) {
    if (a->merge || a->o_f32 || count != a->query_chunks) return false;
    for (int i = 0; i < count; i++)
        if (pieces[i].query != a->queries[i].first_row || pieces[i].queries != a->queries[i].rows)
            return false;
    return true;
}

static int64_t most(const mf_cuda_piece *pieces, int count, bool keys) {
    int64_t rows = 0;
    for (int i = 0; i < count; i++) rows = mf_max(rows, keys ? pieces[i].keys : pieces[i].queries);
    return rows;
}

/* Forward: the sum over pieces in f32 unless o is that, and a piece's result. Backward: a piece's gradients
 * in bf16, dq before it is rounded, delta. */
int64_t mf_cuda_pieces_workspace(const mf_attention_args *a, bool backward, int count,
                                 const mf_cuda_piece *pieces) {
    int64_t row = a->heads * a->head_dim, queries = a->batch * most(pieces, count, false);
    int64_t key_row = mf_cuda_piece_kv_heads(a) * a->head_dim, keys = a->batch * most(pieces, count, true);
    if (backward) return queries * (row * (2 + 4) + a->heads * 4) + keys * key_row * 2 * 2;
    if (mf_cuda_pieces_direct(a, count, pieces)) return 0;
    return (a->o_f32 ? 0 : a->batch * a->tokens * row * 4) + queries * (row * 2 + a->heads * 4);
}

int64_t mf_cuda_library_workspace(const mf_attention_args *a, bool backward, int count,
                                  const mf_cuda_piece *pieces) {
    const int64_t least = 256;
    bool grouped = backward && mf_cuda_piece_kv_heads(a) != a->heads;
    return least + (grouped ? 2 * a->batch * a->heads * a->head_dim * most(pieces, count, true) * 2 : 0);
}
