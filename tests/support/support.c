/* support.c: see support.h. */
#include "support.h"

#include <math.h>
#include <string.h>

void assert_failure(mf_status got, mf_status expected, const char *part, const char *file, int line) {
    if (got == expected && strstr(mf_error_last()->message, part)) return;
    print_error("%s:%d: expected %s with \"%s\", got %s: %s\n", file, line, mf_status_name(expected), part,
                mf_status_name(got), got ? mf_error_last()->message : "");
    fail();
}

void fill_normal(const char *name, float scale, int64_t n, float *out) {
    uint64_t key = mf_random_key(name);
    for (int64_t i = 0; i < n; i++) out[i] = scale * mf_random_normal(7, key, (uint64_t)i);
}

double relative_error(int64_t n, const float *a, const double *b) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += b[i] * b[i];
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}
