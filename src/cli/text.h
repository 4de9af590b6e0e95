/* text.h: quantities as people read them. What takes `out` writes there and returns it. */
#ifndef MF_CLI_TEXT_H
#define MF_CLI_TEXT_H

#include <stdint.h>

/* What follows a noun that is counted. */
static inline const char *mf_plural(int64_t count) { return count == 1 ? "" : "s"; }
/* "12.3 MiB" */
const char *mf_bytes_text(double bytes, char out[32]);
/* "12.3 ms"; of hours, whole seconds */
const char *mf_seconds_text(double seconds, char out[32]);
/* "1.23B" (1e9), "1.23M", "12.3k", "123" */
const char *mf_rate_text(double rate, char out[32]);

#endif
