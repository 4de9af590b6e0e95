/* progress.c: see progress.h. */
#include "cli/progress.h"

#include "cli/text.h"
#include "meshfold/base.h"

#include <stdio.h>
#include <unistd.h>

mf_progress mf_progress_begin(void) {
    double now = mf_now_s();
    return (mf_progress){.began_s = now, .shown_s = now};
}

void mf_progress_show(mf_progress *p, int64_t done, int64_t bytes) {
    char text[32], whole[32], rate[32];
    double now = mf_now_s();
    if (!isatty(STDERR_FILENO) || now - p->shown_s < 0.2) return;
    p->shown_s = now;
    fprintf(stderr, "\r%s of %s, %s/s   ", mf_bytes_text((double)done, text),
            mf_bytes_text((double)bytes, whole), mf_bytes_text((double)done / (now - p->began_s), rate));
}

void mf_progress_end(const mf_progress *p) {
    if (p->shown_s > p->began_s) fprintf(stderr, "\r%*s\r", 50, "");
}
