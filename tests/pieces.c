/* pieces.c: attention of chunks cut into pieces: each pair of a query and a key that it sees is in one piece,
 * once. */
#include "support.h"
#include "device/cuda_sizes/pieces.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNKS = 6, ROWS_MOST = 9, POSITIONS = 64 };

typedef struct chunks {
    mf_query_chunk query[CHUNKS];
    mf_key_chunk key[CHUNKS];
    mf_attention_args args;
} chunks;

static uint64_t drawn;
static int64_t draw(int64_t below) { return (int64_t)(mf_random_u64(7, 11, drawn++) % (uint64_t)below); }

static chunks *draw_chunks(bool all_keys) {
    static chunks c;
    memset(&c, 0, sizeof c);
    mf_attention_args *a = &c.args;
    *a = (mf_attention_args){.type = MF_BF16,
                             .batch = 1,
                             .heads = 1,
                             .group = 1,
                             .kv_heads = 1,
                             .head_dim = 8,
                             .all_keys = all_keys,
                             .queries = c.query,
                             .keys = c.key};
    a->query_chunks = 1 + (int)draw(CHUNKS);
    a->key_chunks = 1 + (int)draw(CHUNKS);
    for (int i = 0; i < a->query_chunks; i++) {
        c.query[i] = (mf_query_chunk){1 + draw(ROWS_MOST), draw(POSITIONS), a->tokens};
        a->tokens += c.query[i].rows;
    }
    for (int j = 0; j < a->key_chunks; j++)
        c.key[j] = (mf_key_chunk){.rows = 1 + draw(ROWS_MOST), .position = draw(POSITIONS)};
    return &c;
}

/* Of query row r of all, key i of chunk j: how many pieces compute it. */
static int computed(const mf_cuda_piece *piece, int count, const mf_key_chunk *chunk, int64_t r, int64_t i) {
    int times = 0;
    for (int n = 0; n < count; n++) {
        const mf_cuda_piece *p = &piece[n];
        int64_t q = r - p->query, k = i - p->key;
        bool within = p->chunk == chunk && q >= 0 && q < p->queries && k >= 0 && k < p->keys;
        times += within && (!p->causal || k <= q);
    }
    return times;
}

static void check(const chunks *c) {
    mf_cuda_piece piece[2 * CHUNKS * CHUNKS];
    int count = mf_cuda_pieces(&c->args, piece);
    assert_in_range(count, 0, 2 * c->args.query_chunks * c->args.key_chunks);
    for (int q = 0; q < c->args.query_chunks; q++)
        for (int64_t r = 0; r < c->query[q].rows; r++)
            for (int k = 0; k < c->args.key_chunks; k++)
                for (int64_t i = 0; i < c->key[k].rows; i++) {
                    bool sees = c->args.all_keys || c->key[k].position + i <= c->query[q].position + r;
                    assert_int_equal(computed(piece, count, &c->key[k], c->query[q].first_row + r, i), sees);
                }
}

static void test_each_pair_once(void **state) {
    (void)state;
    for (int i = 0; i < 20000; i++) check(draw_chunks(i % 8 == 0));
}

/* What can be written straight to its place: no query row is in two pieces or in none. */
static void test_direct(void **state) {
    (void)state;
    mf_cuda_piece piece[2 * CHUNKS * CHUNKS];
    int direct = 0;
    for (int i = 0; i < 20000; i++) {
        const chunks *c = draw_chunks(i % 8 == 0);
        int count = mf_cuda_pieces(&c->args, piece);
        if (!mf_cuda_pieces_direct(&c->args, count, piece)) continue;
        direct++;
        for (int64_t r = 0; r < c->args.tokens; r++) {
            int times = 0;
            for (int n = 0; n < count; n++)
                times += r >= piece[n].query && r < piece[n].query + piece[n].queries;
            assert_int_equal(times, 1);
        }
    }
    assert_in_range(direct, 100, 20000);
}

static mf_attention_args large(mf_query_chunk *query, mf_key_chunk *key) {
    *query = (mf_query_chunk){.rows = 4096};
    *key = (mf_key_chunk){.rows = 4096, .ld = 512, .batch_ld = 4096 * 512};
    return (mf_attention_args){.type = MF_BF16,
                               .batch = 1,
                               .tokens = 4096,
                               .heads = 8,
                               .group = 2,
                               .kv_heads = 4,
                               .head_dim = 128,
                               .query_chunks = 1,
                               .key_chunks = 1,
                               .queries = query,
                               .keys = key,
                               .q_ld = 1024,
                               .o_ld = 1024,
                               .lse_ld = 8};
}

/* What is left to this library's own kernels. */
static void test_what_goes_in_pieces(void **state) {
    (void)state;
    mf_query_chunk query;
    mf_key_chunk key;
    mf_attention_args a = large(&query, &key);
    int32_t first = 0;
    assert_true(mf_cuda_in_pieces(&a));
    a.type = MF_F32;
    assert_false(mf_cuda_in_pieces(&a));
    a = large(&query, &key), a.window = 100;
    assert_false(mf_cuda_in_pieces(&a));
    a = large(&query, &key), a.first_key = &first;
    assert_false(mf_cuda_in_pieces(&a));
    a = large(&query, &key), a.head_dim = 132;
    assert_false(mf_cuda_in_pieces(&a));
    a = large(&query, &key), a.tokens = query.rows = 16;
    assert_false(mf_cuda_in_pieces(&a));
    a = large(&query, &key), a.first_head = 1, a.heads = 6; /* 1, 2, 2 and 1 of a group of 2 */
    assert_false(mf_cuda_in_pieces(&a));
    a = large(&query, &key), a.first_head = 1, a.heads = 1;
    assert_true(mf_cuda_in_pieces(&a));
    a = large(&query, &key), key.ld = 516;
    assert_false(mf_cuda_in_pieces(&a));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_pair_once), cmocka_unit_test(test_direct),
                                       cmocka_unit_test(test_what_goes_in_pieces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
