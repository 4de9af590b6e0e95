/* progress.h: how far work on bytes has come, on stderr where that is a terminal.
 *
 *     mf_progress progress = mf_progress_begin();
 *     mf_progress_show(&progress, done, bytes);    // as often as one likes
 *     mf_progress_end(&progress);
 */
#ifndef MF_CLI_PROGRESS_H
#define MF_CLI_PROGRESS_H

#include <stdint.h>

typedef struct mf_progress {
    double began_s, shown_s; /* when the work began; when it was last shown, else the same */
} mf_progress;

mf_progress mf_progress_begin(void);
void mf_progress_show(mf_progress *progress, int64_t done, int64_t bytes);
/* The line is empty again. Accepts a zeroed one. */
void mf_progress_end(const mf_progress *progress);

#endif
