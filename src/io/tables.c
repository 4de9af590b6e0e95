/* tables.c: see tables.h. Open addressing: the next free slot takes what finds its own in use. */
#include "io/tables.h"

#include <string.h>

/* A power of two that is at least twice the count. */
static mf_status slots_for(size_t count, size_t *out) {
    if (count > SIZE_MAX / 8) return MF_FAIL(MF_ENOMEM, "no memory for a table of %zu", count);
    *out = 16;
    while (*out < 2 * count) *out *= 2;
    return MF_OK;
}

mf_status mf_text_table_make(size_t count, mf_text_table *out) {
    size_t slots = 0;
    *out = (mf_text_table){0};
    MF_TRY(slots_for(count, &slots));
    MF_TRY(mf_host_alloc(slots, sizeof *out->slot, &out->slot));
    for (size_t i = 0; i < slots; i++) out->slot[i].id = -1;
    out->mask = slots - 1;
    return MF_OK;
}

void mf_text_table_free(mf_text_table *table) {
    mf_host_free(table->slot);
    mf_bytes_free(&table->texts);
    *table = (mf_text_table){0};
}

static mf_text_slot *slot_of(const mf_text_table *table, const void *text, size_t bytes, uint64_t hash) {
    for (size_t i = hash & table->mask;; i = (i + 1) & table->mask) {
        mf_text_slot *slot = &table->slot[i];
        if (slot->id < 0) return slot;
        if (slot->hash == (uint32_t)(hash >> 32) && slot->bytes == bytes &&
            !memcmp(table->texts.data + slot->offset, text, bytes))
            return slot;
    }
}

int32_t mf_text_table_find(const mf_text_table *table, const void *text, size_t bytes) {
    return slot_of(table, text, bytes, mf_hash(text, bytes))->id;
}

mf_status mf_text_table_add(mf_text_table *table, const void *text, size_t bytes, int32_t id) {
    uint64_t hash = mf_hash(text, bytes);
    size_t offset = table->texts.count;
    if (2 * table->count > table->mask)
        return MF_FAIL(MF_EINVAL, "a table of %zu texts is full", table->count);
    MF_TRY(mf_bytes_add(&table->texts, text, bytes));
    MF_TRY(mf_bytes_add(&table->texts, "", 1));
    *slot_of(table, text, bytes, hash) =
        (mf_text_slot){.hash = (uint32_t)(hash >> 32), .id = id, .offset = offset, .bytes = bytes};
    table->count++;
    return MF_OK;
}

mf_status mf_pair_table_make(size_t count, mf_pair_table *out) {
    size_t slots = 0;
    *out = (mf_pair_table){0};
    MF_TRY(slots_for(count, &slots));
    MF_TRY(mf_host_alloc(slots, sizeof *out->slot, &out->slot));
    memset(out->slot, 0xff, slots * sizeof *out->slot);
    out->mask = slots - 1;
    return MF_OK;
}

void mf_pair_table_free(mf_pair_table *table) {
    mf_host_free(table->slot);
    *table = (mf_pair_table){0};
}

static mf_status grow(mf_pair_table *table) {
    mf_pair_table larger;
    MF_TRY(mf_pair_table_make(table->mask + 1, &larger));
    for (size_t i = 0; i <= table->mask; i++) {
        const mf_pair_slot *slot = &table->slot[i];
        if (slot->a == UINT32_MAX && slot->b == UINT32_MAX) continue;
        mf_status status = mf_pair_table_put(&larger, slot->a, slot->b, slot->rank, slot->then);
        if (status) {
            mf_pair_table_free(&larger);
            return status;
        }
    }
    mf_pair_table_free(table);
    *table = larger;
    return MF_OK;
}

mf_status mf_pair_table_put(mf_pair_table *table, uint32_t a, uint32_t b, uint32_t rank, uint32_t then) {
    size_t i = mf_pair_hash(a, b) & table->mask;
    if (2 * table->count > table->mask) {
        MF_TRY(grow(table));
        i = mf_pair_hash(a, b) & table->mask;
    }
    mf_pair_slot *slot = &table->slot[i];
    while ((slot->a != a || slot->b != b) && (slot->a != UINT32_MAX || slot->b != UINT32_MAX))
        slot = &table->slot[i = (i + 1) & table->mask];
    if (slot->a == UINT32_MAX && slot->b == UINT32_MAX) table->count++;
    *slot = (mf_pair_slot){a, b, rank, then};
    return MF_OK;
}
