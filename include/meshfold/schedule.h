/* schedule.h: how weights reach the computation (a stream) and how queries see other ranks' keys (an
 * exchange).
 *
 * A layout is a row of one table: which stream each part of the model takes, which exchange attention takes,
 * and on which axes. The model is written once, over whatever a stream yields:
 *
 *     mf_stream s;
 *     MF_TRY(mf_stream_open(&s, kind, store, part, MF_PASS_FORWARD));
 *     for (mf_turn turn; mf_stream_more(&s);) {
 *         MF_GO(mf_stream_turn(&s, &turn));          // turn.weights: shard turn.shard, packed
 *         ... y += x · weights ...
 *         MF_GO(mf_stream_end_turn(&s));
 *     }
 *     MF_GO(mf_stream_finish(&s));
 * fail:
 *     mf_stream_close(&s);
 *
 * All of it is collective over the store's axis: every rank passes the same parts in the same order. */
#ifndef MESHFOLD_SCHEDULE_H
#define MESHFOLD_SCHEDULE_H

#include "meshfold/device.h"
#include "meshfold/mesh.h"

/* One rank's resident shards of all streamed parts: packed, in the compute type, and their f32 gradients. */
typedef struct mf_store {
    mf_comm *comm; /* the axis that the weights are cut over */
    mf_device *device;
    mf_dtype type;
    int64_t elements;   /* this rank's */
    mf_shared weights;  /* [elements] compute type */
    mf_shared grads;    /* [elements] f32, += ; empty when forward only */
    uint64_t ring_step; /* turns of gradient rings so far: orders additions where memory is borrowed */
} mf_store;

/* What is streamed as one: attention's matrices, the MLP's, the embedding, the head. */
typedef struct mf_part {
    int64_t *offset;   /* [shards] where shard j begins in its owner's store, in elements */
    int64_t *elements; /* [shards] its size */
} mf_part;

mf_status mf_store_create(mf_comm *comm, mf_device *device, mf_dtype type, int64_t elements, bool grads,
                          mf_store *out);
void mf_store_destroy(mf_store *store);

typedef enum mf_pass {
    MF_PASS_FORWARD,  /* weights */
    MF_PASS_BACKWARD, /* weights and gradients */
    MF_PASS_GRADS     /* gradients alone */
} mf_pass;

typedef struct mf_stream_kind mf_stream_kind;
extern const mf_stream_kind mf_stream_resident; /* one turn: all that this rank uses is its own */
extern const mf_stream_kind
    mf_stream_broadcast;                    /* owner after owner; every rank has the same shard at a time */
extern const mf_stream_kind mf_stream_ring; /* shards travel; every rank has another shard at a time */

typedef struct mf_stream {
    const mf_stream_kind *kind;
    mf_store *store;
    const mf_part *part;
    mf_pass pass;
    int turn, turns;
    bool borrows;
    mf_buffer weights[2], grads[2]; /* shards in flight */
    mf_request weights_in[2], grads_out[2];
    int grads_shard[2]; /* broadcast: whose gradient is being reduced from grads[i] */
} mf_stream;

typedef struct mf_turn {
    int shard;
    const void *weights; /* packed shard; NULL in MF_PASS_GRADS */
} mf_turn;

mf_status mf_stream_open(mf_stream *stream, const mf_stream_kind *kind, mf_store *store, const mf_part *part,
                         mf_pass pass);
/* True while a turn is left. */
bool mf_stream_more(const mf_stream *stream);
/* Waits for this turn's weights and sends for the next's. */
mf_status mf_stream_turn(mf_stream *stream, mf_turn *out);
/* Where this turn's weight gradient is added (+=): [elements of the shard] f32. Ask as late as possible: it
 * waits. */
mf_status mf_stream_grads(mf_stream *stream, float **out);
mf_status mf_stream_end_turn(mf_stream *stream);
/* Waits for what is still on its way. */
mf_status mf_stream_finish(mf_stream *stream);
/* Gives memory back, after an error too. */
void mf_stream_close(mf_stream *stream);

typedef struct mf_exchange_kind mf_exchange_kind;
extern const mf_exchange_kind mf_exchange_none;      /* all keys are here */
extern const mf_exchange_kind mf_exchange_allgather; /* keys and values of a head group from all ranks */

typedef struct mf_exchange_sizes {
    mf_dtype type;
    int64_t batch, tokens; /* sequences, tokens of each over all ranks */
    int64_t kv_heads, head_dim;
    int slots; /* layers whose keys are kept */
    bool grads;
} mf_exchange_sizes;

/* Own keys and values of every kept layer, where peers can read them, and own key gradients. */
typedef struct mf_exchange {
    const mf_exchange_kind *kind;
    mf_comm *comm; /* the axis that the sequence is cut over */
    mf_device *device;
    mf_exchange_sizes sizes;
    int64_t rows;              /* tokens of each sequence that this rank holds */
    int64_t width;             /* kv_heads * head_dim */
    mf_shared keys, values;    /* [slots][batch * rows][width] compute type */
    mf_shared dkeys, dvalues;  /* [batch * rows][width] f32 */
    int slot;                  /* of the layer at work */
    int64_t first_head, heads; /* of the group at work */
    int chunks;
    mf_key_chunk *chunk;     /* [chunks] keys of all ranks for that group, by rank; chunk_begin[rank] */
    int *chunk_begin;        /* [ranks + 1] */
    mf_buffer gathered;      /* send path: [ranks][keys, values][rows of rank][heads * head_dim] */
    mf_buffer travelling[2]; /* send path: key and value gradients on their way home */
    mf_request travel;
    bool borrows;
    uint64_t published, grad_step;
} mf_exchange;

mf_status mf_exchange_create(const mf_exchange_kind *kind, mf_comm *comm, mf_device *device,
                             const mf_exchange_sizes *sizes, mf_exchange *out);
void mf_exchange_destroy(mf_exchange *exchange);
/* Before a layer's own keys are written: waits until no peer reads what the slot held. */
mf_status mf_exchange_open(mf_exchange *exchange, int slot);
/* Own keys and values of the open slot, at head `head`: [batch * rows, ...], token to token `width`. */
void *mf_exchange_keys(const mf_exchange *exchange, int64_t head);
void *mf_exchange_values(const mf_exchange *exchange, int64_t head);
float *mf_exchange_dkeys(const mf_exchange *exchange, int64_t head);
float *mf_exchange_dvalues(const mf_exchange *exchange, int64_t head);
/* Makes all ranks' keys of heads [first, first + heads) readable, own ones written: fills exchange->chunk. */
mf_status mf_exchange_acquire(mf_exchange *exchange, int64_t first, int64_t heads);
mf_status mf_exchange_release(mf_exchange *exchange);
/* Backward over an acquired group: one step a rank, own keys last. begin_grads clears own gradients, once a
 * layer. */
mf_status mf_exchange_begin_grads(mf_exchange *exchange, int slot);
/* Step t of mf_comm_size: *chunks keys of one rank, with where their gradients are added. */
mf_status mf_exchange_grads(mf_exchange *exchange, int step, const mf_key_chunk **chunk, int *chunks);
mf_status mf_exchange_end_grads(mf_exchange *exchange, int step);

/* The table. */
typedef struct mf_layout {
    const char *name;
    const char *weights_axis, *sequence_axis; /* NULL: this rank alone */
    const mf_stream_kind *attention, *mlp, *vocabulary;
    const mf_exchange_kind *exchange;
} mf_layout;
/* The layout that a mesh asks for. */
const mf_layout *mf_layout_find(const mf_mesh_spec *mesh);

#endif
