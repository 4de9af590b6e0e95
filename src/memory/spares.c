/* spares.c: see spares.h. */
#include "memory/spares.h"

#include <string.h>

static void remove_at(mf_spares *s, int index) {
    s->bytes -= (int64_t)s->block[index].bytes;
    s->count--;
    memmove(s->block + index, s->block + index + 1, (size_t)(s->count - index) * sizeof *s->block);
}

void *mf_spares_take(mf_spares *s, size_t bytes) {
    int best = -1;
    for (int i = 0; i < s->count; i++)
        if (s->block[i].bytes >= bytes && (best < 0 || s->block[i].bytes < s->block[best].bytes)) best = i;
    if (best < 0) return NULL;
    mf_spare *from = &s->block[best];
    void *data = from->data;
    if (from->bytes == bytes) {
        remove_at(s, best);
        return data;
    }
    from->data += bytes;
    from->bytes -= bytes;
    s->bytes -= (int64_t)bytes;
    return data;
}

void mf_spares_add(mf_spares *s, void *data, size_t bytes) {
    mf_spare joined = {data, bytes};
    for (int i = s->count - 1; i >= 0; i--) {
        mf_spare other = s->block[i];
        bool before = other.data + other.bytes == joined.data,
             after = joined.data + joined.bytes == other.data;
        if (!before && !after) continue;
        if (before) joined.data = other.data;
        joined.bytes += other.bytes;
        remove_at(s, i);
    }
    if (s->count == MF_SPARES) mf_spares_drop(s, s->bytes - (int64_t)s->block[0].bytes);
    s->block[s->count++] = joined;
    s->bytes += (int64_t)joined.bytes;
}

/* The end of the oldest block goes first. */
void mf_spares_drop(mf_spares *s, int64_t room) {
    while (s->bytes > room) {
        mf_spare *oldest = &s->block[0];
        size_t excess = ((size_t)(s->bytes - room) + MF_PAGE - 1) / MF_PAGE * MF_PAGE;
        if (excess >= oldest->bytes) {
            s->drop(oldest->data, oldest->bytes);
            remove_at(s, 0);
            continue;
        }
        oldest->bytes -= excess;
        s->bytes -= (int64_t)excess;
        s->drop(oldest->data + oldest->bytes, excess);
    }
}
