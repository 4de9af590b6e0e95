/* slots.h: where a table of open addressing begins to look for a key of plain data. */
#ifndef MF_DEVICE_SLOTS_H
#define MF_DEVICE_SLOTS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* key: of whole words, without padding. slots: how many there are. FNV's constants, a word at a time. */
static inline size_t mf_slot_of(const void *key, size_t bytes, size_t slots) {
    uint64_t hash = 0xcbf29ce484222325u, word;
    for (size_t at = 0; at < bytes; at += sizeof word) {
        memcpy(&word, (const char *)key + at, sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
    }
    return (size_t)((hash ^ hash >> 32) % slots);
}

#endif
