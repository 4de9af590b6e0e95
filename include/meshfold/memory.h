/* memory.h: the accounted allocator. Every byte of tensor memory has an owner (a rank) and a category.
 *
 *     mf_buffer scores = {0};
 *     MF_TRY(mf_buffer_alloc(memory, MF_WORKSPACE, rows * cols * 4, "scores", &scores));
 *     ... scores.data ...
 *     mf_buffer_free(memory, &scores);
 *
 * An allocator belongs to one rank and is used by that rank's thread only. */
#ifndef MESHFOLD_MEMORY_H
#define MESHFOLD_MEMORY_H

#include "meshfold/base.h"

typedef enum mf_category {
    MF_WEIGHTS,     /* resident shards in the compute type */
    MF_GRADS,       /* their f32 gradients */
    MF_OPTIMIZER,   /* moments and f32 master weights */
    MF_ACTIVATIONS, /* what forward keeps for backward, and the residual stream */
    MF_STREAM,      /* weight shards and weight gradients in flight */
    MF_EXCHANGE,    /* keys and values of other ranks, and their gradients in flight */
    MF_WORKSPACE,   /* all else */
    MF_CATEGORIES
} mf_category;

const char *mf_category_name(mf_category category);

typedef struct mf_memory mf_memory;

typedef struct mf_buffer {
    void *data; /* 64-byte aligned; NULL when empty or bytes is 0 */
    size_t bytes;
    mf_category category;
} mf_buffer;

typedef struct mf_memory_stats {
    int64_t now[MF_CATEGORIES];
    int64_t peak[MF_CATEGORIES];    /* each category's own high-water mark */
    int64_t at_peak[MF_CATEGORIES]; /* the categories at the moment of the total peak */
    int64_t now_total, peak_total;
} mf_memory_stats;

/* Where the bytes come from. NULL to mf_memory_create: mf_memory_heap. */
typedef struct mf_memory_source {
    void *(*take)(void *context, size_t bytes); /* 64-byte aligned, NULL when there is none */
    void (*give_back)(void *context, void *data, size_t bytes);
    /* NULL, or: large blocks (mf_memory_is_large) are whole pages, and any run of pages of one may be given
     * back by itself, or together with a neighbour. */
    void (*give_back_pages)(void *data, size_t bytes);
    void *context; /* the source's own */
    void (*close)(
        void *context); /* NULL, or: the allocator has ended. What was taken may still be given back */
} mf_memory_source;
/* The host's memory. give_back wants the size that was taken, and accepts NULL. */
extern const mf_memory_source mf_memory_heap;

/* Addresses that nobody may read or write: for a device that computes nothing. */
extern const mf_memory_source mf_memory_dry;

/* Copies *source. */
mf_status mf_memory_create(const mf_memory_source *source, mf_memory **out);
void mf_memory_destroy(mf_memory *memory);
/* Points into memory. */
const mf_memory_source *mf_memory_source_of(const mf_memory *memory);

/* Content is undefined. 0 bytes is allowed and allocates nothing. `what` names the buffer in errors.
 * MF_ENOMEM names the category, the size and the peak so far. */
mf_status mf_buffer_alloc(mf_memory *memory, mf_category category, size_t bytes, const char *what,
                          mf_buffer *out);
/* Accepts an empty buffer; empties it. */
void mf_buffer_free(mf_memory *memory, mf_buffer *buffer);

/* Accounts bytes that another source holds for this rank (a shared window); release undoes it. */
mf_status mf_memory_account(mf_memory *memory, mf_category category, size_t bytes, const char *what);
void mf_memory_release(mf_memory *memory, mf_category category, size_t bytes);

mf_memory_stats mf_memory_stats_get(const mf_memory *memory);
/* Starts the high-water marks anew from what is held now. */
void mf_memory_reset_peaks(mf_memory *memory);

#endif
