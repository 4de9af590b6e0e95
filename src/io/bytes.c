/* bytes.c: see bytes.h. */
#include "io/bytes.h"

#include <string.h>

mf_status mf_grow(void *data, size_t count, size_t *room, size_t more, size_t size) {
    size_t wanted;
    void *old = NULL, *larger = NULL;
    if (*room - count >= more) return MF_OK;
    if (__builtin_add_overflow(count, more, &wanted) || wanted > SIZE_MAX / 2)
        return MF_FAIL(MF_ENOMEM, "no memory for %zu and %zu items more", count, more);
    if (wanted < 2 * *room) wanted = 2 * *room;
    if (wanted < 32) wanted = 32;
    memcpy(&old, data, sizeof old);
    MF_TRY(mf_host_alloc(wanted, size, &larger));
    if (count) memcpy(larger, old, count * size);
    mf_host_free(old);
    memcpy(data, &larger, sizeof larger);
    *room = wanted;
    return MF_OK;
}

mf_status mf_bytes_reserve(mf_bytes *bytes, size_t more) {
    if (bytes->room - bytes->count >= more) return MF_OK;
    return mf_grow(&bytes->data, bytes->count, &bytes->room, more, 1);
}

mf_status mf_bytes_add(mf_bytes *bytes, const void *data, size_t count) {
    if (!count) return MF_OK;
    MF_TRY(mf_bytes_reserve(bytes, count));
    memcpy(bytes->data + bytes->count, data, count);
    bytes->count += count;
    return MF_OK;
}

void mf_bytes_free(mf_bytes *bytes) {
    mf_host_free(bytes->data);
    *bytes = (mf_bytes){0};
}

/* Eight bytes a step; for tables in memory only, so its values may change. */
uint64_t mf_hash(const void *data, size_t bytes) {
    const uint64_t factor = 0x9e3779b97f4a7c15u;
    const uint8_t *at = data;
    uint64_t hash = bytes * factor, word;
    for (; bytes >= 8; bytes -= 8, at += 8) {
        memcpy(&word, at, 8);
        hash = (hash ^ word) * factor;
        hash ^= hash >> 29;
    }
    word = 0;
    for (size_t i = 0; i < bytes; i++) word |= (uint64_t)at[i] << (8 * i);
    hash = (hash ^ word) * factor;
    return hash ^ hash >> 32;
}

const uint8_t mf_utf8_replacement[3] = {0xef, 0xbf, 0xbd};

/* Bytes of the character that begins so, and the range of its second byte (Unicode 15, table 3-7). 0: none
 * does. */
static int lead_width(uint8_t lead, uint8_t *low, uint8_t *high) {
    *low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    *high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4) return 0;
    return mf_utf8_width(lead);
}

mf_utf8_step mf_utf8_look(const uint8_t *text, size_t bytes) {
    uint8_t low, high;
    int width = lead_width(text[0], &low, &high);
    if (!width) return (mf_utf8_step){.bytes = 1};
    for (int i = 1; i < width; i++) {
        if ((size_t)i == bytes) return (mf_utf8_step){.bytes = i, .cut = true};
        if (text[i] < low || text[i] > high) return (mf_utf8_step){.bytes = i};
        low = 0x80;
        high = 0xbf;
    }
    return (mf_utf8_step){.bytes = width, .valid = true};
}

size_t mf_utf8_valid(const uint8_t *text, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        uint64_t word;
        if (bytes - at >= 8 && (memcpy(&word, text + at, 8), (word & 0x8080808080808080u) == 0)) {
            at += 8;
            continue;
        }
        mf_utf8_step step = mf_utf8_look(text + at, bytes - at);
        if (!step.valid) break;
        at += (size_t)step.bytes;
    }
    return at;
}

mf_status mf_utf8_add_lossy(mf_bytes *out, const uint8_t *text, size_t bytes) {
    while (bytes > 0) {
        size_t whole = mf_utf8_valid(text, bytes);
        MF_TRY(mf_bytes_add(out, text, whole));
        text += whole;
        bytes -= whole;
        if (!bytes) break;
        size_t bad = (size_t)mf_utf8_look(text, bytes).bytes;
        MF_TRY(mf_bytes_add(out, mf_utf8_replacement, sizeof mf_utf8_replacement));
        text += bad;
        bytes -= bad;
    }
    return MF_OK;
}

mf_status mf_utf8_hand_on(mf_bytes *held, bool all, mf_bytes *out) {
    size_t keep = 0;
    /* at most the last three bytes can be a character that is cut */
    for (size_t tail = 1; !all && tail <= 3 && tail <= held->count; tail++) {
        mf_utf8_step step = mf_utf8_look(held->data + held->count - tail, tail);
        if (step.cut && (size_t)step.bytes == tail) keep = tail;
    }
    MF_TRY(mf_utf8_add_lossy(out, held->data, held->count - keep));
    if (keep) memmove(held->data, held->data + held->count - keep, keep);
    held->count = keep;
    return MF_OK;
}

uint32_t mf_utf8_point(const uint8_t *text) {
    uint32_t point = text[0];
    int width = mf_utf8_width(text[0]);
    if (width == 1) return point;
    point &= 0x7fu >> width;
    for (int i = 1; i < width; i++) point = point << 6 | (text[i] & 0x3fu);
    return point;
}

size_t mf_utf8_last(const uint8_t *text, size_t bytes) {
    size_t at = bytes;
    while (at > 0 && (text[at - 1] & 0xc0) == 0x80) at--;
    return at > 0 ? at - 1 : 0;
}

int mf_utf8_put(uint32_t point, uint8_t out[4]) {
    if (point < 0x80) {
        out[0] = (uint8_t)point;
        return 1;
    }
    int width = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (int i = width - 1; i > 0; i--, point >>= 6) out[i] = (uint8_t)(0x80 | (point & 0x3f));
    out[0] = (uint8_t)(0xf00u >> width | point);
    return width;
}

bool mf_utf8_is_space(uint32_t point) {
    if (point < 0x80) return point == ' ' || (point >= 9 && point <= 13);
    return point == 0x85 || point == 0xa0 || point == 0x1680 || (point >= 0x2000 && point <= 0x200a) ||
           point == 0x2028 || point == 0x2029 || point == 0x202f || point == 0x205f || point == 0x3000;
}
