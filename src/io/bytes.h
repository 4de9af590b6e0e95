/* bytes.h: a run of bytes that grows, and UTF-8. */
#ifndef MF_IO_BYTES_H
#define MF_IO_BYTES_H

#include "meshfold/base.h"

/* Makes room for `more` items of `size` bytes behind the `count` that *data holds, of *room. */
mf_status mf_grow(void *data, size_t count, size_t *room, size_t more, size_t size);

/* Zeroed it is empty. */
typedef struct mf_bytes {
    uint8_t *data;
    size_t count, room;
} mf_bytes;
mf_status mf_bytes_reserve(mf_bytes *bytes, size_t more);
mf_status mf_bytes_add(mf_bytes *bytes, const void *data, size_t count);
void mf_bytes_free(mf_bytes *bytes);

uint64_t mf_hash(const void *data, size_t bytes);

/* What UTF-8 has at text[0], of `bytes` > 0. */
typedef struct mf_utf8_step {
    int bytes; /* of a character, or of what is none: a maximal subpart */
    bool valid;
    bool cut; /* not valid, but the text ends where it could still become so */
} mf_utf8_step;
mf_utf8_step mf_utf8_look(const uint8_t *text, size_t bytes);
/* Bytes at the front that are whole characters. */
size_t mf_utf8_valid(const uint8_t *text, size_t bytes);
/* Adds text, each subpart that is not UTF-8 as U+FFFD. */
mf_status mf_utf8_add_lossy(mf_bytes *out, const uint8_t *text, size_t bytes);
/* Moves whole characters of what is held to the end of out, the rest as U+FFFD; what may still become one
 * stays held, unless `all`. */
mf_status mf_utf8_hand_on(mf_bytes *held, bool all, mf_bytes *out);
extern const uint8_t mf_utf8_replacement[3];

/* Of valid text. */
static inline int mf_utf8_width(uint8_t lead) {
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}
uint32_t mf_utf8_point(const uint8_t *text);
/* The last character's first byte in text[0 .. bytes - 1]. */
size_t mf_utf8_last(const uint8_t *text, size_t bytes);
/* Returns the bytes written. */
int mf_utf8_put(uint32_t point, uint8_t out[4]);
/* Unicode's White_Space. */
bool mf_utf8_is_space(uint32_t point);

#endif
