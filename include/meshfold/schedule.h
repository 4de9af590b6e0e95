/* schedule.h: how weights reach the computation (a stream), how queries see other ranks' keys (an exchange),
 * and how partial sums become whole (a reduction).
 *
 * A layout is a choice of these, each on axes of the mesh. The model is written once, over whatever a stream
 * yields:
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
 * All of it is collective over its axis: every rank passes the same parts in the same order. */
#ifndef MESHFOLD_SCHEDULE_H
#define MESHFOLD_SCHEDULE_H

#include "meshfold/device.h"
#include "meshfold/mesh.h"

/* What is streamed as one: attention's matrices, the MLP's, the embedding, the head. */
enum { MF_PIECES = 4 };
typedef struct mf_part {
    int64_t *offset;   /* [shards] where shard j begins in its owner's store, in elements */
    int64_t *elements; /* [shards] its size */
    int pieces;        /* matrices, one after the other in each shard */
    int64_t *piece; /* [pieces][shards + 1] of the whole part: where shard j's share of each matrix begins */
} mf_part;

/* A part that lies whole on this rank for a while, or is on its way. */
typedef struct mf_whole_part {
    const mf_part *part; /* NULL: none */
    mf_buffer data;
    mf_request request[MF_PIECES];
    bool complete; /* gradients: nothing more will be added to them in this step */
} mf_whole_part;

enum { MF_SUMS_BEGUN = 8 };

/* One rank's resident shards of all streamed parts: packed, in the compute type, and their f32 gradients. */
typedef struct mf_store {
    mf_comm *comm;     /* the axis that the weights are cut over */
    mf_comm *replicas; /* the ranks that hold the same shards; gradients are summed over them */
    mf_device *device;
    mf_dtype type;
    int64_t elements;              /* this rank's */
    int64_t first, count;          /* of these, the ones that this rank updates */
    bool cut_updates;              /* other replicas update the rest */
    mf_shared weights;             /* [elements] compute type */
    mf_shared grads;               /* [elements] f32, += ; empty when forward only */
    const mf_part *open_part;      /* gather: at work */
    mf_whole_part ahead;           /* gather: the next part's weights */
    mf_whole_part leaving;         /* gather: the last part's gradients, on their way to their owners */
    mf_request sum[MF_SUMS_BEGUN]; /* of gradients over replicas, under way */
    int64_t sums_begun, sums_done;
} mf_store;

typedef struct mf_store_options {
    mf_comm *comm, *replicas;
    mf_device *device;
    mf_dtype type;
    int64_t elements, most_elements; /* of this rank; the most of any of comm */
    bool grads;
    bool cut_updates; /* each replica updates its share of the elements, not all (ZeRO-1, arXiv 1910.02054) */
} mf_store_options;
/* Collective over both groups. */
mf_status mf_store_create(const mf_store_options *options, mf_store *out);
void mf_store_destroy(mf_store *store);
/* A part's gradients have all been added on this rank: begins their sum over replicas, of which each rank
 * needs what it updates. */
mf_status mf_store_complete(mf_store *store, const mf_part *part);
/* Waits for all gradients that are on their way. */
mf_status mf_store_settle(mf_store *store);
/* After an update: every replica gets the weights that the others updated. */
mf_status mf_store_share_updates(mf_store *store);

typedef enum mf_pass {
    MF_PASS_FORWARD,  /* weights */
    MF_PASS_BACKWARD, /* weights and gradients */
    MF_PASS_GRADS     /* gradients alone */
} mf_pass;

typedef struct mf_stream_kind mf_stream_kind;
extern const mf_stream_kind mf_stream_resident; /* one turn: all that this rank uses is its own */
extern const mf_stream_kind mf_stream_gather;   /* one turn: the whole part comes from all ranks */
extern const mf_stream_kind
    mf_stream_broadcast;                    /* owner after owner; every rank has the same shard at a time */
extern const mf_stream_kind mf_stream_ring; /* shards travel; every rank has another shard at a time */
/* True when ranks have different shards at one time, so that nothing collective may depend on a shard. */
bool mf_stream_staggers(const mf_stream_kind *kind);
/* True when a turn has whole matrices, which are cut by rows, whatever they do. */
bool mf_stream_gathers(const mf_stream_kind *kind);

typedef struct mf_stream {
    const mf_stream_kind *kind;
    mf_store *store;
    const mf_part *part;
    mf_pass pass;
    int turn, turns;
    bool borrows;
    mf_buffer weights[2], grads[2]; /* shards in flight */
    mf_request weights_in[2], grads_out[2];
    int grads_shard[2];  /* broadcast: whose gradient is being reduced from grads[i] */
    mf_whole_part whole; /* gather */
} mf_stream;

/* A turn's shard when it has the whole part. */
enum { MF_SHARD_WHOLE = -1 };
typedef struct mf_turn {
    int shard;
    const void *weights; /* packed shard; NULL in MF_PASS_GRADS */
} mf_turn;

mf_status mf_stream_open(mf_stream *stream, const mf_stream_kind *kind, mf_store *store, const mf_part *part,
                         mf_pass pass);
/* Says which part is streamed next, and how: gather sends for it now, so that it comes while this part is at
 * work. The part that is open: it is kept. */
mf_status mf_stream_ahead(mf_store *store, const mf_stream_kind *kind, const mf_part *part);
/* True while a turn is left. */
bool mf_stream_more(const mf_stream *stream);
/* Waits for this turn's weights and sends for the next's. */
mf_status mf_stream_turn(mf_stream *stream, mf_turn *out);
/* Where this turn's weight gradient is added (+=): [elements of the shard] f32. Ask as late as possible: it
 * waits. */
mf_status mf_stream_grads(mf_stream *stream, float **out);
mf_status mf_stream_end_turn(mf_stream *stream);
/* Waits for what is still on its way; what gather sent may still be (mf_store_settle). */
mf_status mf_stream_finish(mf_stream *stream);
/* Gives memory back, after an error too. */
void mf_stream_close(mf_stream *stream);

typedef struct mf_exchange_kind mf_exchange_kind;
extern const mf_exchange_kind mf_exchange_none;      /* all keys are here */
extern const mf_exchange_kind mf_exchange_allgather; /* keys and values of some heads from all ranks */
extern const mf_exchange_kind mf_exchange_ring;      /* a rank's keys at a time, round the ring */
extern const mf_exchange_kind mf_exchange_ulysses;   /* all tokens of some heads instead of some of all */
extern const mf_exchange_kind mf_exchange_switch;    /* between blocks the cut goes to the dimension that the
                                                        next doesn't attend over: all keys are here (cut.h) */

/* Heads are numbered over the whole model; this rank has first_head .. and the key heads that these read. */
typedef struct mf_exchange_sizes {
    mf_dtype type;
    int64_t batch, tokens; /* sequences, tokens of each over all ranks */
    int64_t first_head, heads, first_kv_head, kv_heads, group, head_dim;
    int64_t bucket; /* allgather: key heads that are gathered at once; 0: all of a call */
    int slots;      /* layers whose values are kept */
    bool grads;
    bool all_keys;      /* every query sees all keys of its sequence */
    int64_t interleave; /* as mf_attention_args'; with all keys here alone */
    bool sums_at_home;  /* log-sums are wanted where the queries are, whatever the kind */
    bool packed;        /* sequences hold documents, which see nothing of each other */
} mf_exchange_sizes;

/* Own queries, keys and values of every kept layer, keys where peers can read them, and own key gradients. */
typedef struct mf_exchange {
    const mf_exchange_kind *kind;
    mf_comm *comm; /* the axes that the sequence is cut over */
    mf_device *device;
    mf_exchange_sizes sizes;
    int64_t rows;             /* tokens of each sequence that this rank holds */
    int64_t width, kv_width;  /* heads * head_dim, kv_heads * head_dim */
    int slots;                /* of queries, keys and log-sums as projected */
    int slot;                 /* of the layer at work */
    mf_buffer queries;        /* [slots][batch * rows][width] compute type */
    mf_buffer lse;            /* [slots][batch * rows][heads] f32 */
    mf_shared keys, values;   /* [slots][batch * rows][kv_width] compute type */
    mf_shared dkeys, dvalues; /* [batch * rows][kv_width] f32 */
    mf_buffer first_key;      /* packed: int32, of the query tokens that a call of attention has here */
    int32_t *first_key_host;  /* the same for the host, where it may not touch that; else NULL */
    bool has_documents;       /* they are filled in */
    /* Of the call at work: */
    int64_t first_kv, kv; /* key heads */
    mf_buffer delta;      /* [batch * rows][heads] f32 */
    int chunks;
    mf_key_chunk *chunk;     /* [chunks] keys of all ranks, by rank; chunk_begin[rank] */
    int *chunk_begin;        /* [ranks + 1] */
    mf_query_chunk *query;   /* [ranks * MF_RUNS] */
    mf_buffer others[2];     /* sent: keys and values of other ranks */
    mf_buffer travelling[2]; /* sent: key and value gradients on their way home */
    mf_request keys_travel, grads_travel;
    bool borrows;
    uint64_t published;         /* what own keys were signalled with */
    struct mf_ulysses *ulysses; /* its own */
} mf_exchange;

/* MF_EINVAL when this many ranks can't share a rank's query heads in the kind's way. */
mf_status mf_exchange_check(const mf_exchange_kind *kind, int ranks, int64_t heads);
/* Collective over comm. */
mf_status mf_exchange_create(const mf_exchange_kind *kind, mf_comm *comm, mf_device *device,
                             const mf_exchange_sizes *sizes, mf_exchange *out);
void mf_exchange_destroy(mf_exchange *exchange);
/* From here on sequences are of `tokens` tokens, at most those that the exchange was created with. Forward
 * only, with one slot. */
void mf_exchange_reshape(mf_exchange *exchange, int64_t tokens);
/* For the calls that follow, of an exchange that is packed: where the document of each token begins,
 * begins: [batch, tokens] of whole sequences, which are copied; NULL: with its sequence. Not collective, but
 * the same on all ranks of comm. */
mf_status mf_exchange_set_documents(mf_exchange *exchange, const int32_t *begins);
/* Before a layer's own keys are written: waits until no peer reads what the slot held. */
mf_status mf_exchange_open(mf_exchange *exchange, int slot);
/* Own values of the open slot, at head `head`: [batch * rows, ...], token to token width or kv_width. */
void *mf_exchange_queries(const mf_exchange *exchange, int64_t head);
void *mf_exchange_keys(const mf_exchange *exchange, int64_t head);
void *mf_exchange_values(const mf_exchange *exchange, int64_t head);
/* Own log-sums of the open slot's last calls, at head `head`: [batch * rows, ...], token to token
 * sizes.heads; of ulysses with sums_at_home alone. */
float *mf_exchange_sums(const mf_exchange *exchange, int64_t head);
float *mf_exchange_dkeys(const mf_exchange *exchange, int64_t head);
float *mf_exchange_dvalues(const mf_exchange *exchange, int64_t head);

/* What a call attends with: heads `first` .. of the open slot. */
typedef struct mf_attend {
    int64_t first, heads;
    int64_t window; /* keys that a query sees at most; 0: all before it */
    void *a; /* own tokens' results at `first`: [batch * rows, ...] compute type, token to token width */
    /* backward */
    const void *da; /* [batch * rows, heads, head_dim] compute type */
    float *dq;      /* the same in f32, overwritten: of the turned queries */
} mf_attend;
/* a = causal attention of own queries over all ranks' keys. Collective: the same heads everywhere. */
mf_status mf_exchange_attend(mf_exchange *exchange, const mf_attend *call);
/* Before a layer's calls of attend_backward: opens its slot and clears own key gradients. */
mf_status mf_exchange_begin_grads(mf_exchange *exchange, int slot);
/* Sets dq, and adds to own key and value gradients what all ranks' queries of these heads give. */
mf_status mf_exchange_attend_backward(mf_exchange *exchange, const mf_attend *call);

typedef struct mf_reduction_kind mf_reduction_kind;
extern const mf_reduction_kind mf_reduction_none;      /* sums are whole */
extern const mf_reduction_kind mf_reduction_allreduce; /* every rank gets all rows of the sum */
extern const mf_reduction_kind mf_reduction_scatter;   /* every rank gets its share of the rows */
/* True when ranks hold different rows between blocks. */
bool mf_reduction_scatters(const mf_reduction_kind *kind);

/* How values between blocks, rows of `width`, lie on the ranks that each compute a part of every sum.
 * Source: Megatron-LM, arXiv 1909.08053; with scatter, arXiv 2205.05198. */
typedef struct mf_reduction {
    const mf_reduction_kind *kind;
    mf_comm *comm;
    mf_device *device;
    mf_dtype type;
    int64_t rows, width;
    int64_t first, held;  /* rows that this rank holds between blocks */
    int64_t *offsets;     /* [ranks + 1] in elements: whose rows are whose */
    size_t *byte_offsets; /* [ranks + 1] */
} mf_reduction;
/* Not collective. */
mf_status mf_reduction_create(const mf_reduction_kind *kind, mf_comm *comm, mf_device *device, mf_dtype type,
                              int64_t rows, int64_t width, mf_reduction *out);
void mf_reduction_destroy(mf_reduction *reduction);
/* All rows: [rows, width] compute type, from those that each rank holds: [held, width]. *all is `held`
 * itself, or lies in *storage, which the caller frees. Collective. */
mf_status mf_reduction_gather(mf_reduction *reduction, const void *held, mf_buffer *storage,
                              const void **all);
/* Sums values: [rows, width] compute type, in place; *held: this rank's rows of it. Collective. */
mf_status mf_reduction_sum(mf_reduction *reduction, void *values, void **held);
/* The same for f32 partial sums; what travels has the compute type. scratch: [rows, width] compute type,
 * unused in f32. */
mf_status mf_reduction_sum_f32(mf_reduction *reduction, float *partial, void *scratch, float **held);

/* A layout: which way each part of the model takes, on which axes of the mesh. */
typedef struct mf_layout {
    mf_axes data;     /* other sequences */
    mf_axes tensor;   /* weights cut, every rank uses its own part; partial sums reduced */
    mf_axes stream;   /* weights cut, every rank uses all of them in turn */
    mf_axes sequence; /* tokens cut */
    const mf_stream_kind *attention, *mlp, *vocabulary;
    const mf_exchange_kind *exchange;
    const mf_reduction_kind *reduction;
    int64_t kv_bucket;
    bool cut_updates;
} mf_layout;

/* What can be chosen beside the axes; NULL, or kv_bucket and zero below 0: what the mesh asks for by itself.
 */
typedef struct mf_layout_words {
    const char *stream, *attention_stream, *mlp_stream, *exchange, *reduction;
    int64_t kv_bucket;
    int zero;    /* 1: optimizer state cut over replicas; 0: whole on each */
    bool strict; /* as defaults: what the mesh has no use for is refused, not passed over */
} mf_layout_words;
extern const mf_layout_words mf_layout_words_none;

/* Reads "tp=2,sp=2,exchange=ring": axes, then the names that --help lists, which go before `defaults`.
 * Defaults apply where the mesh has a use for them; what `text` itself asks for and can't have is MF_EINVAL
 * by name. */
mf_status mf_layout_parse(const char *text, const mf_layout_words *defaults, mf_mesh_spec *mesh,
                          mf_layout *out);
/* The layout that a mesh asks for by itself. */
mf_layout mf_layout_of(const mf_mesh_spec *mesh);
/* Axes whose ranks hold the same weights. */
mf_axes mf_layout_replicas(const mf_mesh_spec *mesh, const mf_layout *layout);
/* What a layout does, in one line, for people. */
enum { MF_LAYOUT_DESCRIPTION = 160 };
void mf_layout_describe(const mf_layout *layout, char out[MF_LAYOUT_DESCRIPTION]);

#endif
