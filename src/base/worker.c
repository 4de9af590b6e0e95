/* worker.c: one thread, a ring of jobs, run in order. Used to let transfers run beside computation. */
#include "meshfold/base.h"

#include <pthread.h>

enum { CAPACITY = 64 };

struct mf_worker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct {
        mf_job job;
        void *argument;
    } ring[CAPACITY];
    uint64_t posted, finished;
    bool stop;
    int rank;
    mf_error error;  /* the first that a job had; jobs after it are passed over */
    uint64_t failed; /* that job's ticket */
};

static void *run(void *argument) {
    mf_worker *w = argument;
    mf_rank_set(w->rank);
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (w->finished == w->posted && !w->stop) pthread_cond_wait(&w->changed, &w->lock);
        if (w->finished == w->posted) break;
        mf_job job = w->ring[w->finished % CAPACITY].job;
        void *job_argument = w->ring[w->finished % CAPACITY].argument;
        if (w->error.status == MF_OK) {
            pthread_mutex_unlock(&w->lock);
            mf_status status = job(job_argument);
            pthread_mutex_lock(&w->lock);
            if (status) {
                w->error = *mf_error_last();
                w->error.status = status;
                w->failed = w->finished + 1;
            }
        }
        w->finished++;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

mf_status mf_worker_create(int rank, mf_worker **out) {
    mf_worker *w = NULL;
    *out = NULL;
    MF_TRY(mf_host_alloc(1, sizeof *w, &w));
    w->rank = rank;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (pthread_create(&w->thread, NULL, run, w)) {
        pthread_cond_destroy(&w->changed);
        pthread_mutex_destroy(&w->lock);
        mf_host_free(w);
        return MF_FAIL(MF_ENOMEM, "no thread for transfers");
    }
    *out = w;
    return MF_OK;
}

void mf_worker_destroy(mf_worker *w) {
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    mf_host_free(w);
}

mf_status mf_worker_post(mf_worker *w, mf_job job, void *argument, uint64_t *ticket) {
    pthread_mutex_lock(&w->lock);
    while (w->posted - w->finished == CAPACITY) pthread_cond_wait(&w->changed, &w->lock);
    w->ring[w->posted % CAPACITY].job = job;
    w->ring[w->posted % CAPACITY].argument = argument;
    *ticket = ++w->posted;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    return MF_OK;
}

mf_status mf_worker_wait(mf_worker *w, uint64_t ticket) {
    pthread_mutex_lock(&w->lock);
    while (w->finished < ticket) pthread_cond_wait(&w->changed, &w->lock);
    mf_status status = w->failed <= ticket ? w->error.status : MF_OK; /* a later job's is not theirs */
    if (status) mf_error_adopt(&w->error);
    pthread_mutex_unlock(&w->lock);
    return status;
}
