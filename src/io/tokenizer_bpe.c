/* tokenizer_bpe.c: byte-pair encoding (Sennrich et al., ACL 2016): a word's characters or bytes, merged pair
 * by pair in the order of the merges' ranks, the leftmost first. tokenizer_model.c reads it. */
#include "io/tokenizer.h"

#include <string.h>

enum { CACHE_WORDS = 1 << 15 };

static mf_status push_symbol(mf_encoder *e, int32_t id) {
    MF_TRY(mf_grow(&e->symbol, e->symbols, &e->symbol_room, 1, sizeof *e->symbol));
    e->symbol[e->symbols] = (mf_symbol){id, (int32_t)e->symbols - 1, (int32_t)e->symbols + 1};
    e->symbols++;
    return MF_OK;
}

/* Unknown characters that have come, and not yet a symbol. */
typedef struct unknowns {
    int64_t waiting;
} unknowns;

static mf_status push_unknowns(mf_encoder *e, unknowns *u) {
    const mf_bpe *bpe = &e->tokenizer->bpe;
    int64_t count = bpe->fuse_unknown ? mf_min(u->waiting, 1) : u->waiting;
    for (; count > 0; count--) MF_TRY(push_symbol(e, bpe->unknown));
    u->waiting = 0;
    return MF_OK;
}

/* A character that the vocabulary lacks: its bytes' tokens, where all are there, else the unknown token, else
 * nothing. Unknown ones wait for the next known one, and bytes go before them: so does the reference. */
static mf_status push_unknown(mf_encoder *e, const uint8_t *text, int bytes, unknowns *u) {
    const mf_bpe *bpe = &e->tokenizer->bpe;
    bool all = bpe->byte_fallback;
    for (int i = 0; i < bytes && all; i++) all = bpe->byte_token[text[i]] >= 0;
    for (int i = 0; i < bytes && all; i++) MF_TRY(push_symbol(e, bpe->byte_token[text[i]]));
    if (all || bpe->unknown < 0) return MF_OK;
    if (!bpe->fuse_unknown) MF_TRY(push_unknowns(e, u));
    u->waiting++;
    return MF_OK;
}

static mf_status push_character(mf_encoder *e, const uint8_t *text, int bytes, int32_t id, unknowns *u) {
    if (id < 0) return push_unknown(e, text, bytes, u);
    if (u->waiting) MF_TRY(push_unknowns(e, u));
    return push_symbol(e, id);
}

/* Each byte is a character of the vocabulary's. */
static mf_status push_bytes(mf_encoder *e, const uint8_t *text, size_t bytes, unknowns *u) {
    const int32_t *symbol = e->tokenizer->bpe.byte_symbol;
    for (size_t i = 0; i < bytes; i++) {
        uint8_t spelled[4];
        int width = symbol[text[i]] < 0 ? mf_utf8_put(mf_byte_level_point(text[i]), spelled) : 0;
        MF_TRY(push_character(e, spelled, width, symbol[text[i]], u));
    }
    return MF_OK;
}

static mf_status push_characters(mf_encoder *e, const uint8_t *text, size_t bytes, unknowns *u) {
    const mf_bpe *bpe = &e->tokenizer->bpe;
    for (size_t at = 0; at < bytes;) {
        int width = mf_utf8_width(text[at]);
        int32_t id = width == 1 ? bpe->byte_symbol[text[at]]
                                : mf_text_table_find(&bpe->vocabulary, text + at, (size_t)width);
        MF_TRY(push_character(e, text + at, width, id, u));
        at += (size_t)width;
    }
    return MF_OK;
}

/* The queue is a binary heap: each merge comes before the two at 2i+1 and 2i+2. */
static void queue_push(mf_encoder *e, mf_merge merge) {
    size_t at = e->queued++;
    for (; at > 0 && e->queue[(at - 1) / 2].order > merge.order; at = (at - 1) / 2)
        e->queue[at] = e->queue[(at - 1) / 2];
    e->queue[at] = merge;
}

static mf_merge queue_pop(mf_encoder *e) {
    mf_merge top = e->queue[0], last = e->queue[--e->queued];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= e->queued) break;
        if (child + 1 < e->queued && e->queue[child + 1].order < e->queue[child].order) child++;
        if (last.order <= e->queue[child].order) break;
        e->queue[at] = e->queue[child];
        at = child;
    }
    e->queue[at] = last;
    return top;
}

static const mf_pair_slot *merge_at(const mf_encoder *e, int32_t left) {
    const mf_symbol *symbol = &e->symbol[left];
    return mf_pair_table_find(&e->tokenizer->bpe.merges, (uint32_t)symbol->id,
                              (uint32_t)e->symbol[symbol->next].id);
}

static void offer(mf_encoder *e, int32_t left) {
    const mf_pair_slot *merge = merge_at(e, left);
    if (merge) queue_push(e, (mf_merge){(uint64_t)merge->rank << 32 | (uint32_t)left, merge->then});
}

/* Joins the symbol with its next one, and offers what it makes with its neighbours. */
static void join(mf_encoder *e, int32_t left, uint32_t then) {
    mf_symbol *symbol = &e->symbol[left], *right = &e->symbol[symbol->next];
    symbol->id = (int32_t)then;
    right->id = -1;
    symbol->next = right->next;
    if ((size_t)symbol->next < e->symbols) e->symbol[symbol->next].previous = left;
    if (symbol->previous >= 0) offer(e, symbol->previous);
    if ((size_t)symbol->next < e->symbols) offer(e, left);
}

/* What was queued may have lost its pair since. Like the reference, it still counts when the pair that is
 * there now makes the same token: where two merges make one, its place in the order is then the older pair's.
 */
static mf_status merge_all(mf_encoder *e) {
    e->queued = 0;
    /* every symbol but the last is offered once, and each join, of which there are fewer, offers two */
    MF_TRY(mf_grow(&e->queue, 0, &e->queue_room, 3 * e->symbols, sizeof *e->queue));
    for (size_t i = 0; i + 1 < e->symbols; i++) offer(e, (int32_t)i);
    while (e->queued) {
        mf_merge top = queue_pop(e);
        int32_t left = (int32_t)(uint32_t)top.order;
        if (e->symbol[left].id < 0 || (size_t)e->symbol[left].next >= e->symbols) continue;
        const mf_pair_slot *merge = merge_at(e, left);
        if (merge && merge->then == top.then) join(e, left, top.then);
    }
    return MF_OK;
}

static mf_status put_ids(mf_encoder *e) {
    MF_TRY(mf_ids_reserve(e->out, e->symbols));
    for (size_t i = 0; i < e->symbols; i++)
        if (e->symbol[i].id >= 0) e->out->id[e->out->count++] = e->symbol[i].id;
    return MF_OK;
}

static mf_status encode_word(mf_encoder *e, const uint8_t *text, size_t bytes) {
    const mf_bpe *bpe = &e->tokenizer->bpe;
    unknowns u = {0};
    if (bytes > MF_TOKENIZER_TEXT) return MF_FAIL(MF_EINVAL, "a word of %zu bytes is too long", bytes);
    if (bpe->ignore_merges) {
        int32_t id = mf_text_table_find(bpe->byte_level ? &bpe->words : &bpe->vocabulary, text, bytes);
        if (id >= 0) return mf_ids_add(e->out, id);
    }
    e->symbols = 0;
    MF_TRY(mf_grow(&e->symbol, 0, &e->symbol_room, bytes, sizeof *e->symbol));
    MF_TRY(bpe->byte_level ? push_bytes(e, text, bytes, &u) : push_characters(e, text, bytes, &u));
    MF_TRY(push_unknowns(e, &u));
    if (e->symbols > MF_TOKENIZER_TEXT)
        return MF_FAIL(MF_EINVAL, "a word of %zu symbols is too long", e->symbols);
    MF_TRY(merge_all(e));
    return put_ids(e);
}

static mf_status encode_cached(mf_encoder *e, const uint8_t *text, size_t bytes) {
    if (!e->cache) MF_TRY(mf_host_alloc(CACHE_WORDS, sizeof *e->cache, &e->cache));
    mf_cached_word *word = &e->cache[mf_hash(text, bytes) & (CACHE_WORDS - 1)];
    if (word->bytes == bytes && !memcmp(word->text, text, bytes)) {
        MF_TRY(mf_ids_reserve(e->out, word->count));
        if (word->count) memcpy(e->out->id + e->out->count, word->id, word->count * sizeof *word->id);
        e->out->count += word->count;
        return MF_OK;
    }
    int64_t before = e->out->count;
    MF_TRY(encode_word(e, text, bytes));
    size_t count = (size_t)(e->out->count - before);
    if (count > sizeof word->id / sizeof *word->id) return MF_OK;
    word->bytes = (uint8_t)bytes;
    word->count = (uint8_t)count;
    memcpy(word->text, text, bytes);
    if (count) memcpy(word->id, e->out->id + before, count * sizeof *word->id);
    return MF_OK;
}

static mf_status encode_piece(mf_encoder *e, const uint8_t *text, size_t bytes) {
    return bytes <= sizeof e->cache->text ? encode_cached(e, text, bytes) : encode_word(e, text, bytes);
}

/* Where "▁" begins behind something else, from `at` on; `bytes` when it does nowhere. */
static size_t next_space(const uint8_t *text, size_t bytes, size_t at) {
    for (; at < bytes; at++) {
        const uint8_t *space = memmem(text + at, bytes - at, "\xe2\x96\x81", 3);
        if (!space) return bytes;
        at = (size_t)(space - text);
        if (at > 0 && (at < 3 || memcmp(space - 3, space, 3) != 0)) return at;
    }
    return bytes;
}

mf_status mf_bpe_word(mf_encoder *e, const uint8_t *text, size_t bytes) {
    if (!e->tokenizer->bpe.cuts_before_space) return encode_piece(e, text, bytes);
    for (size_t begin = 0, end; begin < bytes; begin = end) {
        end = next_space(text, bytes, begin + 1);
        MF_TRY(encode_piece(e, text + begin, end - begin));
    }
    return MF_OK;
}
