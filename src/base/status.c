/* status.c: the thread's last error, and injected faults. */
#include "meshfold/base.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local mf_error last_error;
static _Thread_local int thread_rank = -1;

static const char *const status_names[] = {
#define NAME(name, text) #name,
    MF_STATUS_LIST(NAME)
#undef NAME
};
static const char *const status_texts[] = {
#define TEXT(name, text) text,
    MF_STATUS_LIST(TEXT)
#undef TEXT
};

const char *mf_status_name(mf_status status) { return status_names[status]; }
const char *mf_status_text(mf_status status) { return status_texts[status]; }

const mf_error *mf_error_last(void) { return &last_error; }

mf_status mf_error_adopt(const mf_error *error) {
    if (error != &last_error) last_error = *error;
    return last_error.status;
}

mf_status mf_blame(const char *culprit, mf_status status) {
    char message[sizeof last_error.message];
    if (!status) return MF_OK;
    snprintf(message, sizeof message, "%s", last_error.message);
    return MF_FAIL(status, "%s: %s", culprit, message);
}

void mf_rank_set(int rank) { thread_rank = rank; }
int mf_rank_get(void) { return thread_rank; }

mf_status mf_error_pass(const char *file, int line, mf_status status) {
    mf_error *e = &last_error;
    if (e->depth < MF_ERROR_TRACE) {
        e->trace[e->depth].file = file;
        e->trace[e->depth].line = line;
        e->depth++;
    }
    return status;
}

/* Bytes of the UTF-8 character that begins here (Unicode, table 3-7); 0: none does, or a name was cut within
 * it. */
static int width_of(const char *text) {
    const unsigned char *t = (const unsigned char *)text, lead = t[0];
    int width = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    for (int i = 1; i < width; i++)
        if ((t[i] & 0xc0) != 0x80) return 0;
    bool longer_than_needed = (lead == 0xe0 && t[1] < 0xa0) || (lead == 0xf0 && t[1] < 0x90);
    bool no_character = (lead == 0xed && t[1] > 0x9f) || (lead == 0xf4 && t[1] > 0x8f);
    return longer_than_needed || no_character ? 0 : width;
}

/* One line of whole characters, whatever names from files and flags are in it. */
static void clean(char *text) {
    char *to = text;
    for (int width; *text; text += width ? width : 1) {
        width = width_of(text);
        if (width == 1 && iscntrl((unsigned char)*text)) *text = ' ';
        memmove(to, text, (size_t)width);
        to += width;
    }
    *to = 0;
}

/* What is too long loses its middle: at its ends stand where it went wrong, and why. */
static void shorten(const char *text, char *out, size_t room) {
    size_t length = strlen(text), head = room / 2, tail = room - head - sizeof "...";
    if (length < room)
        memcpy(out, text, length + 1);
    else
        snprintf(out, room, "%.*s...%s", (int)head, text, text + length - tail);
}

mf_status mf_fail_at(const char *file, int line, mf_status status, const char *format, ...) {
    char whole[8192]; /* two paths of the longest kind; and an argument may be the last message */
    last_error.status = status;
    last_error.rank = thread_rank;
    last_error.depth = 0;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(whole, sizeof whole, format, arguments);
    va_end(arguments);
    shorten(whole, last_error.message, sizeof last_error.message);
    clean(last_error.message);
    return mf_error_pass(file, line, status);
}

static atomic_llong fault_at[MF_FAULTS], fault_seen[MF_FAULTS];

void mf_fault_arm(mf_fault fault, int64_t n) {
    atomic_store(&fault_seen[fault], 0);
    atomic_store(&fault_at[fault], n);
}

bool mf_fault_hit(mf_fault fault) {
    long long at = atomic_load_explicit(&fault_at[fault], memory_order_relaxed);
    return at > 0 && atomic_fetch_add(&fault_seen[fault], 1) + 1 == at;
}

bool mf_fault_fired(mf_fault fault) {
    return atomic_load(&fault_at[fault]) > 0 &&
           atomic_load(&fault_seen[fault]) >= atomic_load(&fault_at[fault]);
}

mf_status mf_host_alloc(size_t count, size_t size, void *out) {
    bool refused = mf_fault_hit(MF_FAULT_ALLOC) || (size > 0 && count > SIZE_MAX / size);
    void *pointer = refused ? NULL : calloc(count ? count : 1, size ? size : 1);
    memcpy(out, &pointer, sizeof pointer);
    if (!pointer) return MF_FAIL(MF_ENOMEM, "no host memory for %zu x %zu bytes", count, size);
    return MF_OK;
}

void mf_host_free(void *pointer) { free(pointer); }

mf_status mf_host_strdup(const char *text, char **out) {
    size_t length = strlen(text);
    MF_TRY(mf_host_alloc(length + 1, 1, out));
    memcpy(*out, text, length);
    return MF_OK;
}
