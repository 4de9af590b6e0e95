/* staging.c: see staging.h. */
#include "device/staging.h"

static mf_status need_room(mf_staging *s, size_t bytes) {
    if (bytes > s->room) return MF_FAIL(MF_EINVAL, "%zu bytes at once through a room of %zu", bytes, s->room);
    return s->host ? MF_OK : mf_host_alloc(s->room, 1, &s->host);
}

mf_status mf_staging_send(mf_staging *s) {
    size_t bytes = s->used;
    s->used = 0;
    return mf_copy(s->device, MF_QUEUE_COMPUTE, s->to, s->host, bytes);
}

mf_status mf_staging_place(mf_staging *s, void *to, size_t bytes, void *out) {
    void **at = out;
    *at = to;
    if (!mf_device_holds(s->device, to)) return MF_OK;
    MF_TRY(need_room(s, bytes));
    if (s->used && ((char *)to != s->to + s->used || bytes > s->room - s->used)) MF_TRY(mf_staging_send(s));
    if (s->used == 0) s->to = to;
    *at = (char *)s->host + s->used;
    s->used += bytes;
    return MF_OK;
}

mf_status mf_staging_fetch(mf_staging *s, const void *from, size_t bytes, void *out) {
    const void **at = out;
    *at = from;
    if (!mf_device_holds(s->device, from)) return MF_OK;
    MF_TRY(need_room(s, bytes));
    *at = s->host;
    return mf_copy(s->device, MF_QUEUE_COMPUTE, s->host, from, bytes);
}

void mf_staging_close(mf_staging *s) {
    mf_host_free(s->host);
    s->host = NULL;
    s->used = 0;
}
