/* staging.h: what the host writes to a device's memory, or reads of it, in large portions. Where the host may
 * touch that memory itself nothing is copied, and nothing is taken.
 *
 *     mf_staging s = {.device = device, .room = bytes};
 *     MF_GO(mf_staging_place(&s, to, n, &at));     // n bytes at most s.room; write them at `at`
 *     MF_GO(mf_staging_send(&s));
 *     MF_GO(mf_staging_fetch(&s, from, n, &at));   // read them at `at`, until the next call
 *     mf_staging_close(&s);
 */
#ifndef MF_DEVICE_STAGING_H
#define MF_DEVICE_STAGING_H

#include "meshfold/device.h"

typedef struct mf_staging {
    mf_device *device;
    size_t room; /* bytes at most of a call */
    void *host;  /* [room] when it was needed */
    char *to;    /* where the first bytes that wait go */
    size_t used; /* that wait */
} mf_staging;

/* *out: where the host writes the bytes that go to `to`. Those that follow each other there go together. */
mf_status mf_staging_place(mf_staging *staging, void *to, size_t bytes, void *out);
mf_status mf_staging_send(mf_staging *staging);
/* *out: where the host reads what lies at `from`. */
mf_status mf_staging_fetch(mf_staging *staging, const void *from, size_t bytes, void *out);
/* What waits is dropped. */
void mf_staging_close(mf_staging *staging);

#endif
