/* parallel.c: independent jobs on a few threads. */
#include "plan/search.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS_MOST = 64 };

typedef struct jobs {
    mf_indexed_job job;
    void *context;
    int count;
    atomic_int next;
    atomic_bool failed;
    mf_error error; /* of whoever set `failed` */
} jobs;

static void *work(void *argument) {
    jobs *j = argument;
    while (!atomic_load(&j->failed)) {
        int index = atomic_fetch_add(&j->next, 1);
        if (index >= j->count) break;
        if (j->job(j->context, index) && !atomic_exchange(&j->failed, true)) j->error = *mf_error_last();
    }
    return NULL;
}

/* The caller works too: where no thread can be had, all the same it is done. */
mf_status mf_parallel(int threads, int count, mf_indexed_job job, void *context) {
    pthread_t helper[THREADS_MOST];
    jobs j = {.job = job, .context = context, .count = count};
    int helpers = 0, wanted = (int)mf_min(mf_min(threads, count) - 1, THREADS_MOST);
    while (helpers < wanted && pthread_create(&helper[helpers], NULL, work, &j) == 0) helpers++;
    work(&j);
    for (int i = 0; i < helpers; i++) pthread_join(helper[i], NULL);
    return atomic_load(&j.failed) ? mf_error_adopt(&j.error) : MF_OK;
}
