/* text.c: see text.h. */
#include "cli/text.h"

#include <stdio.h>

const char *mf_bytes_text(double bytes, char out[32]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    for (; bytes >= 1024 && unit < 4; unit++) bytes /= 1024;
    snprintf(out, 32, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return out;
}

const char *mf_seconds_text(double seconds, char out[32]) {
    if (seconds >= 999.5)
        snprintf(out, 32, "%.0f s", seconds);
    else if (seconds >= 0.0999995)
        snprintf(out, 32, "%.3g s", seconds);
    else if (seconds >= 0.0000999995)
        snprintf(out, 32, "%.3g ms", 1e3 * seconds);
    else
        snprintf(out, 32, "%.3g us", 1e6 * seconds);
    return out;
}

const char *mf_rate_text(double rate, char out[32]) {
    if (rate >= 1e9)
        snprintf(out, 32, "%.2fB", rate / 1e9);
    else if (rate >= 1e6)
        snprintf(out, 32, "%.2fM", rate / 1e6);
    else if (rate >= 1e4)
        snprintf(out, 32, "%.1fk", rate / 1e3);
    else
        snprintf(out, 32, "%.0f", rate);
    return out;
}
