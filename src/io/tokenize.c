/* tokenize.c: workers that take documents in turn, encode them side by side, and write in turn. */
#include "io/tokenize.h"
#include "io/bytes.h"
#include "io/file.h"
#include "io/sources.h"
#include "meshfold/io.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Bytes of lines that a worker takes at once; and of a document, at most. */
enum { PORTION = 1 << 20, DOCUMENT = INT32_MAX };

/* Shared by all workers; behind the lock but for the first four. */
typedef struct job {
    const mf_tokenize_options *options;
    mf_sources sources;
    mf_draft draft;
    int width;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int source;         /* that is read */
    int fd;             /* of it; -1: not open yet */
    int64_t at;         /* where in it */
    int64_t size;       /* its own */
    int64_t taken, put; /* portions */
    int64_t all_bytes;
    mf_tokenize_result result;
    mf_error error; /* the first */
} job;

typedef struct worker {
    job *job;
    pthread_t thread;
    mf_encoder *encoder;
    mf_bytes text; /* the portion */
    int64_t turn;  /* its number */
    int64_t documents;
    const char *path; /* where it is from */
    mf_ids ids;
    mf_bytes out;
} worker;

/* The end of the last whole line in text, or 0. */
static size_t whole_lines(const mf_bytes *text) {
    const uint8_t *last = memrchr(text->data, '\n', text->count);
    return last ? (size_t)(last - text->data) + 1 : 0;
}

static mf_status read_more(job *j, worker *w, int64_t bytes) {
    bytes = mf_min(bytes, j->size - j->at - (int64_t)w->text.count);
    if (bytes > DOCUMENT - (int64_t)w->text.count)
        return MF_FAIL(MF_EUNSUPPORTED, "%s: a document of more than %d bytes%s", w->path, DOCUMENT,
                       j->options->by_line ? "" : "; cut it into files, or take each line as one");
    MF_TRY(mf_bytes_reserve(&w->text, (size_t)bytes));
    MF_TRY(mf_fd_read(j->fd, w->text.data + w->text.count, (size_t)bytes, j->at + (int64_t)w->text.count,
                      w->path));
    w->text.count += (size_t)bytes;
    return MF_OK;
}

/* A whole file, or as many whole lines as fit into a portion, and at least one. */
static mf_status read_portion(job *j, worker *w) {
    w->path = j->sources.item[j->source].path;
    w->text.count = 0;
    if (j->fd < 0) MF_TRY(mf_regular_open(w->path, O_RDONLY, &j->fd, &j->size));
    size_t end = 0;
    while (!end && j->at + (int64_t)w->text.count < j->size) {
        int64_t more = mf_max(PORTION, (int64_t)w->text.count); /* long lines: twice as much each time */
        MF_TRY(read_more(j, w, j->options->by_line ? more : j->size));
        bool last = j->at + (int64_t)w->text.count == j->size;
        end = last || !j->options->by_line ? w->text.count : whole_lines(&w->text);
    }
    w->text.count = end;
    j->at += (int64_t)end;
    if (j->at < j->size) return MF_OK;
    close(j->fd);
    j->fd = -1;
    j->at = 0;
    j->source++;
    return MF_OK;
}

/* *any: there was a portion. */
static mf_status take(job *j, worker *w, bool *any) {
    mf_status status = MF_OK;
    pthread_mutex_lock(&j->lock);
    *any = !j->error.status && j->source < j->sources.count;
    if (*any) {
        status = read_portion(j, w);
        w->turn = j->taken++;
    }
    pthread_mutex_unlock(&j->lock);
    return status;
}

static mf_status encode_document(worker *w, const uint8_t *text, size_t bytes) {
    const mf_tokenize_options *o = w->job->options;
    if (!bytes) return MF_OK;
    mf_status status = mf_encode(w->encoder, text, (int64_t)bytes, &o->encode, &w->ids);
    if (status) return MF_FAIL(status, "%s: %s", w->path, mf_error_last()->message);
    w->documents++;
    return o->separator >= 0 ? mf_ids_add(&w->ids, o->separator) : MF_OK;
}

static mf_status encode_portion(worker *w) {
    const uint8_t *at = w->text.data;
    size_t left = w->text.count;
    w->ids.count = 0;
    w->documents = 0;
    if (!w->job->options->by_line) return encode_document(w, at, left);
    while (left > 0) {
        const uint8_t *newline = memchr(at, '\n', left);
        size_t bytes = newline ? (size_t)(newline - at) : left;
        MF_TRY(encode_document(w, at, bytes));
        bytes += newline ? 1 : 0;
        at += bytes;
        left -= bytes;
    }
    return MF_OK;
}

/* The ids as the file has them. */
static mf_status narrow(worker *w) {
    size_t width = (size_t)w->job->width;
    w->out.count = 0;
    MF_TRY(mf_bytes_reserve(&w->out, (size_t)w->ids.count * width + 1));
    for (int64_t i = 0; i < w->ids.count; i++, w->out.count += width) {
        uint32_t id = (uint32_t)w->ids.id[i];
        uint16_t narrow_id = (uint16_t)id;
        memcpy(w->out.data + w->out.count, width == 2 ? (void *)&narrow_id : (void *)&id, width);
    }
    return MF_OK;
}

/* Waits until all before have their place, and takes the next. False: another worker failed. */
static bool take_place(worker *w, int64_t *place) {
    job *j = w->job;
    pthread_mutex_lock(&j->lock);
    while (j->put != w->turn && !j->error.status) pthread_cond_wait(&j->changed, &j->lock);
    bool go_on = !j->error.status;
    if (go_on) {
        *place = j->result.ids;
        j->result.ids += w->ids.count;
        j->result.documents += w->documents;
        j->result.bytes += (int64_t)w->text.count;
        j->put++;
        if (j->options->progress) j->options->progress(j->options->context, j->result.bytes, j->all_bytes);
        pthread_cond_broadcast(&j->changed);
    }
    pthread_mutex_unlock(&j->lock);
    return go_on;
}

static mf_status work(worker *w) {
    job *j = w->job;
    for (;;) {
        bool any = false;
        int64_t place = 0;
        MF_TRY(take(j, w, &any));
        if (!any) return MF_OK;
        MF_TRY(encode_portion(w));
        MF_TRY(narrow(w));
        if (!take_place(w, &place)) return MF_OK;
        MF_TRY(mf_fd_write(j->draft.fd, w->out.data, w->out.count, place * j->width, j->options->out));
    }
}

static void *run(void *argument) {
    worker *w = argument;
    job *j = w->job;
    mf_status status = mf_encoder_create(j->options->tokenizer, &w->encoder);
    if (!status) status = work(w);
    if (status) {
        pthread_mutex_lock(&j->lock);
        if (!j->error.status) j->error = *mf_error_last();
        pthread_cond_broadcast(&j->changed);
        pthread_mutex_unlock(&j->lock);
    }
    mf_encoder_destroy(w->encoder);
    mf_bytes_free(&w->text);
    mf_bytes_free(&w->out);
    mf_ids_free(&w->ids);
    return NULL;
}

static mf_status run_all(job *j) {
    int started = 0, threads = j->options->threads > 0 ? j->options->threads : 1;
    worker *workers = NULL;
    MF_TRY(mf_host_alloc((size_t)threads, sizeof *workers, &workers));
    for (; started < threads; started++) {
        workers[started].job = j;
        if (pthread_create(&workers[started].thread, NULL, run, &workers[started])) break;
    }
    for (int i = 0; i < started; i++) pthread_join(workers[i].thread, NULL);
    mf_host_free(workers);
    if (!started) return MF_FAIL(MF_ENOMEM, "no thread to tokenize with");
    return j->error.status ? mf_error_adopt(&j->error) : MF_OK;
}

static json_t *describe(const job *j) {
    const mf_tokenizer *t = j->options->tokenizer;
    char hash[32];
    snprintf(hash, sizeof hash, "xxh3:%016llx", (unsigned long long)mf_tokenizer_hash(t));
    json_t *separator = j->options->separator < 0 ? json_null() : json_integer(j->options->separator);
    return json_pack("{s:s, s:I, s:i, s:o, s:I, s:I, s:I, s:s, s:s}", "type",
                     j->width == 2 ? "uint16" : "uint32", "count", (json_int_t)j->result.ids, "vocab_size",
                     (int)mf_tokenizer_size(t), "separator", separator, "documents",
                     (json_int_t)j->result.documents, "files", (json_int_t)j->result.files, "bytes",
                     (json_int_t)j->result.bytes, "tokenizer", mf_tokenizer_path(t), "tokenizer_hash", hash);
}

static mf_status draft_description(const job *j, const char *path, mf_draft *out) {
    mf_status status = MF_OK;
    json_t *description = describe(j);
    char *text = description ? json_dumps(description, JSON_INDENT(2)) : NULL;
    json_decref(description);
    if (!text) return MF_FAIL(MF_ENOMEM, "no memory for %s", path);
    MF_GO(mf_draft_open(path, out));
    MF_GO(mf_fd_write(out->fd, text, strlen(text), 0, path));
    MF_GO(mf_fd_write(out->fd, "\n", 1, (int64_t)strlen(text), path));
fail:
    free(text);
    return status;
}

/* Both are written before either takes its place. An older description goes first: at no time does one stand
 * beside ids that it does not describe. */
static mf_status keep(job *j) {
    char *path = NULL;
    const char *out = j->options->out;
    mf_draft description = {.fd = -1};
    mf_status status = MF_OK;
    MF_GO(mf_format(&path, "%.*s.json", (int)strlen(out) - 4, out));
    MF_GO(draft_description(j, path, &description));
    if (unlink(path) && errno != ENOENT)
        MF_GO(MF_FAIL(MF_EIO, "%s: cannot be replaced: %s", path, strerror(errno)));
    MF_GO(mf_draft_keep(&j->draft, out));
    MF_GO(mf_draft_keep(&description, path));
fail:
    mf_draft_drop(&description);
    mf_host_free(path);
    return status;
}

static mf_status check(const mf_tokenize_options *o) {
    size_t length = strlen(o->out);
    if (length < 5 || strcmp(o->out + length - 4, ".bin"))
        return MF_FAIL(MF_EINVAL, "%s: a file of ids is named NAME.bin; NAME.json is written beside it",
                       o->out);
    if (o->separator >= mf_tokenizer_size(o->tokenizer))
        return MF_FAIL(MF_EINVAL, "there is no token %d to separate documents with", (int)o->separator);
    return MF_OK;
}

mf_status mf_tokenize(const mf_tokenize_options *options, mf_tokenize_result *out) {
    mf_status status = MF_OK;
    job j = {.options = options, .fd = -1, .draft = {.fd = -1}};
    *out = (mf_tokenize_result){0};
    MF_TRY(check(options));
    MF_TRY(mf_sources_find(options->paths, options->path_count, &j.sources));
    j.result.files = j.sources.count;
    j.result.width = j.width = mf_tokenizer_size(options->tokenizer) <= 65536 ? 2 : 4;
    for (int i = 0; i < j.sources.count; i++) j.all_bytes += j.sources.item[i].bytes;
    pthread_mutex_init(&j.lock, NULL);
    pthread_cond_init(&j.changed, NULL);
    MF_GO(mf_draft_open(options->out, &j.draft));
    MF_GO(run_all(&j));
    if (!j.result.ids)
        MF_GO(MF_FAIL(MF_EINVAL, "no text in %s%s: no ids come of it", options->paths[0],
                      options->path_count > 1 ? " and what follows it" : ""));
    MF_GO(keep(&j));
    *out = j.result;
fail:
    if (j.fd >= 0) close(j.fd);
    mf_draft_drop(&j.draft);
    pthread_cond_destroy(&j.changed);
    pthread_mutex_destroy(&j.lock);
    mf_sources_free(&j.sources);
    return status;
}
