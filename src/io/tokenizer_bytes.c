/* tokenizer_bytes.c: bytes as characters that can be seen, as GPT-2's vocabulary spells them: printable ones
 * of Latin-1 stand for themselves, the other 68 follow from U+0100. */
#include "io/tokenizer.h"

uint32_t mf_byte_level_point(uint8_t byte) {
    if (byte <= 0x20) return 0x100u + byte;
    if (byte >= 0x7f && byte <= 0xa0) return 0x121u + (byte - 0x7fu);
    return byte == 0xad ? 0x143 : byte;
}

static int byte_of(uint32_t point) {
    if (point > 0x143) return -1;
    if (point == 0x143) return 0xad;
    if (point >= 0x121) return (int)(point - 0x121 + 0x7f);
    if (point >= 0x100) return (int)(point - 0x100);
    return mf_byte_level_point((uint8_t)point) == point ? (int)point : -1;
}

bool mf_byte_level_decode(const uint8_t *text, size_t bytes, uint8_t *out, size_t *count) {
    *count = 0;
    for (size_t at = 0; at < bytes; at += (size_t)mf_utf8_width(text[at])) {
        int byte = byte_of(mf_utf8_point(text + at));
        if (byte < 0) return false;
        out[(*count)++] = (uint8_t)byte;
    }
    return true;
}
