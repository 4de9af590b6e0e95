/* cut.c: the zigzag cut of a sequence. */
#include "meshfold/mesh.h"

int mf_cut_runs(int64_t tokens, int ranks, int rank, mf_run runs[MF_RUNS]) {
    int chunks = 2 * ranks, mirror = chunks - 1 - rank;
    int64_t a = mf_share_begin(tokens, chunks, rank), a_end = mf_share_begin(tokens, chunks, rank + 1);
    int64_t b = mf_share_begin(tokens, chunks, mirror), b_end = mf_share_begin(tokens, chunks, mirror + 1);
    if (a_end == b) {
        runs[0] = (mf_run){.position = a, .rows = b_end - a};
        return 1;
    }
    runs[0] = (mf_run){.position = a, .rows = a_end - a};
    runs[1] = (mf_run){.position = b, .rows = b_end - b, .first_row = a_end - a};
    return 2;
}

int64_t mf_cut_rows(int64_t tokens, int ranks, int rank) {
    mf_run runs[MF_RUNS];
    int64_t rows = 0;
    for (int i = 0, n = mf_cut_runs(tokens, ranks, rank, runs); i < n; i++) rows += runs[i].rows;
    return rows;
}
