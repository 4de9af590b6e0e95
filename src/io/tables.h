/* tables.h: hash tables that are filled once and looked up often: texts to ids, pairs to values. */
#ifndef MF_IO_TABLES_H
#define MF_IO_TABLES_H

#include "io/bytes.h"

typedef struct mf_text_slot {
    uint32_t hash;
    int32_t id; /* -1: free */
    size_t offset;
    size_t bytes;
} mf_text_slot;

typedef struct mf_text_table {
    mf_text_slot *slot; /* [mask + 1], at most half of them in use */
    size_t mask, count;
    mf_bytes texts; /* where the slots' texts lie, each with a 0 behind it */
} mf_text_table;
mf_status mf_text_table_make(size_t count, mf_text_table *out);
void mf_text_table_free(mf_text_table *table);
/* -1: not there. */
int32_t mf_text_table_find(const mf_text_table *table, const void *text, size_t bytes);
/* The text must not be there, and the table not full. */
mf_status mf_text_table_add(mf_text_table *table, const void *text, size_t bytes, int32_t id);

typedef struct mf_pair_slot {
    uint32_t a, b;       /* both UINT32_MAX: free */
    uint32_t rank, then; /* the values */
} mf_pair_slot;
typedef struct mf_pair_table {
    mf_pair_slot *slot;
    size_t mask, count;
} mf_pair_table;
mf_status mf_pair_table_make(size_t count, mf_pair_table *out);
void mf_pair_table_free(mf_pair_table *table);
static inline size_t mf_pair_hash(uint32_t a, uint32_t b) {
    uint64_t hash = ((uint64_t)a << 32 | b) * 0x9e3779b97f4a7c15u;
    return (size_t)(hash ^ hash >> 32);
}
/* NULL: not there. */
static inline const mf_pair_slot *mf_pair_table_find(const mf_pair_table *table, uint32_t a, uint32_t b) {
    for (size_t i = mf_pair_hash(a, b) & table->mask;; i = (i + 1) & table->mask) {
        const mf_pair_slot *slot = &table->slot[i];
        if (slot->a == a && slot->b == b) return slot;
        if (slot->a == UINT32_MAX && slot->b == UINT32_MAX) return NULL;
    }
}
/* Overwrites the values of a pair that is there. Grows. */
mf_status mf_pair_table_put(mf_pair_table *table, uint32_t a, uint32_t b, uint32_t rank, uint32_t then);

#endif
