/* device.h: the operations that a schedule is made of, on whichever device computes them.
 *
 *     mf_device *device = NULL;
 *     MF_TRY(mf_device_memory_create("cpu", &memory));
 *     MF_TRY(mf_device_create("cpu", memory, 2, &device));
 *     // y: [n, out] = x: [n, in] times w: [out, in] transposed
 *     MF_TRY(mf_gemm(device, &(mf_gemm_args){.m = n, .n = out, .k = in,
 *                                            .a = {x, in, MF_BF16}, .b = {w, in, MF_BF16, .transposed =
 * true}, .c = y, .c_ld = out, .c_type = MF_F32}));
 *
 * Matrices are row-major; `ld` is the distance between rows in elements. "Compute type" is a call's dtype:
 * f32 or bf16. Sums are f32. Operations run in order on the calling rank; a size of 0 is allowed everywhere.
 * On a GPU they have only been asked for when the call returns: the host neither reads nor writes a device's
 * memory, but by mf_copy and what returns its result to the host.
 * A comment says of each output whether it is overwritten or accumulated (+=).
 * Errors: MF_EINVAL for impossible sizes, MF_ENOMEM for workspace, MF_ELIBRARY when a library refuses. */
#ifndef MESHFOLD_DEVICE_H
#define MESHFOLD_DEVICE_H

#include "meshfold/memory.h"

typedef struct mf_device mf_device;

/* "cpu"; "cuda", or "cuda:1" for the second GPU and so on; "cuda+cudnn": attention of long chunks by cuDNN
 * instead of by this library's own kernels, with gradients that may differ in their last bits from run to
 * run; "dry" and "dry-cuda": take the workspace of the CPU or of a GPU and compute nothing. threads: how many
 * the rank computes with. Workspace comes from `memory`, which must outlive the device and be of
 * mf_device_memory_create with the same name. Several devices may share it. MF_EUNSUPPORTED where the build
 * or the machine lacks what the name says. */
mf_status mf_device_create(const char *name, mf_memory *memory, int threads, mf_device **out);
/* Waits for what was asked of it. Accepts NULL. */
void mf_device_destroy(mf_device *device);
/* Memory that the device of this name computes on. */
mf_status mf_device_memory_create(const char *name, mf_memory **out);
/* MF_EUNSUPPORTED where mf_device_create would say so. Makes nothing. */
mf_status mf_device_check(const char *name);
/* Whether the name is of a GPU: "cuda", "cuda:1", "dry-cuda". NULL: it is not. */
bool mf_device_is_gpu(const char *name);
/* GPUs that "cuda" can name; 0 where the build or the machine has none. */
int mf_cuda_count(void);
/* Bytes that are free on the GPU of this number; 0 where there is none. */
int64_t mf_cuda_memory_bytes(int number);
/* MF_OK where there is one, else an error that says what is missing. */
mf_status mf_cuda_look(void);
/* CUDA's libraries and their versions, in words; "" where there are none. Static. */
const char *mf_cuda_description(void);
/* out: [MF_CUDA_WORDS] the GPU of this number, its size and its memory, in words. */
enum { MF_CUDA_WORDS = 320 };
mf_status mf_cuda_gpu_description(int number, char *out);
/* The GPU of a rank, of so many on this machine: ranks take turns. out: [MF_DEVICE_NAME] "cuda:1", ...; other
 * names come out as they are. */
enum { MF_DEVICE_NAME = 32 };
void mf_device_name_of_rank(const char *name, int local_rank, char *out);
/* "dry" or "dry-cuda", which takes the workspace that the device of this name would take. */
void mf_device_name_dry(const char *name, char *out);
const char *mf_device_name(const mf_device *device); /* as it was created */
mf_memory *mf_device_memory(mf_device *device);
/* Floating-point operations done so far by matrix products (2mnk each) and attention (its products, of the
 * pairs that are seen). */
double mf_device_flops(const mf_device *device);
/* The CPU's matrix library, its version and the instructions that it uses, in words. Static. */
const char *mf_cpu_description(void);

/* A device works through two queues, each in order: what is computed, and what is moved meanwhile. Where
 * nothing is queued (the CPU) all of this is done at once. */
typedef enum mf_queue { MF_QUEUE_COMPUTE, MF_QUEUE_TRANSFER, MF_QUEUES } mf_queue;

/* Whether anything is queued at all. */
bool mf_device_has_queues(const mf_device *device);
/* A point in a queue. */
typedef struct mf_event mf_event;
mf_status mf_event_create(mf_device *device, mf_event **out);
/* Accepts NULL. Any thread, when nobody calls anything with it. */
void mf_event_destroy(mf_event *event);
/* The event stands for all that was asked of the queue so far. */
mf_status mf_event_record(mf_device *device, mf_queue queue, mf_event *event);
/* What is asked of the queue from now on begins when the event, of any device, has come; the host goes on. */
mf_status mf_event_follow(mf_device *device, mf_queue queue, const mf_event *event);
/* The host waits until the event has come. */
mf_status mf_event_wait(const mf_event *event);
/* The host waits until all that was asked of the queue is done. Returns the device's own errors. */
mf_status mf_device_finish(mf_device *device, mf_queue queue);
/* Whether data lies in a GPU's memory, so that the host must leave it alone. */
bool mf_device_holds(const mf_device *device, const void *data);
/* The most that a GPU's pool has held for all ranks there since memory was last made on it: what is
 * accounted, and what lies unused between. 0 where there is no pool. */
int64_t mf_device_pool_peak_bytes(const mf_device *device);
/* to: [bytes] = from: [bytes], each the device's, another device's or the host's. Where one is the host's,
 * from may be changed and to be read when it returns. */
mf_status mf_copy(mf_device *device, mf_queue queue, void *to, const void *from, size_t bytes);
/* Memory of the host that copies go to and from fastest; plain memory where nothing is queued. 0 bytes: NULL.
 * What it holds at first is undefined. */
mf_status mf_pinned_take(mf_device *device, size_t bytes, void **out);
/* Accepts NULL. Any thread. */
void mf_pinned_give_back(mf_device *device, void *data);
/* Whether what one device computes can read and write the other's memory where it lies. */
bool mf_device_reaches(const mf_device *device, const mf_device *other);
/* The sum of terms, in their order, to some places, each of which may be where a term is: of f32 as f32, of
 * bf16 in f32, rounded once. n elements each, in GPUs' memory that the device can address. MF_EINVAL on a
 * device without queues. */
enum { MF_SUM_TERMS = 64 };
typedef struct mf_sum_args {
    int64_t n;
    mf_dtype type;
    int terms, places; /* MF_SUM_TERMS at most, each */
    const void *const *term;
    void *const *to;
} mf_sum_args;
mf_status mf_sum_terms(mf_device *device, mf_queue queue, const mf_sum_args *args);

typedef struct mf_matrix {
    const void *data;
    int64_t ld;
    mf_dtype type;
    bool transposed; /* stored as the transpose of what the product uses */
} mf_matrix;

/* c: [m, n] = a: [m, k] · b: [k, n], or c += with `accumulate`. a and b have one type; c is f32 or that type.
 */
typedef struct mf_gemm_args {
    int64_t m, n, k;
    mf_matrix a, b;
    void *c;
    int64_t c_ld;
    mf_dtype c_type;
    bool accumulate;
} mf_gemm_args;
mf_status mf_gemm(mf_device *device, const mf_gemm_args *args);

/* Attention (softmax over keys at positions <= the query's, above the query's - window, and from the query's
 * first_key on; or over all keys) of some query chunks over some key chunks.
 * A chunk is a run of consecutive tokens of every sequence of the batch. Keys and values are read where they
 * lie. Query head i of the call reads key head (first_head + i) / group - first_kv_head of the call. */
typedef struct mf_query_chunk {
    int64_t rows, position; /* tokens, and the position of the first */
    int64_t first_row;      /* where the chunk begins in each sequence of q, o, lse, ... */
} mf_query_chunk;

typedef struct mf_key_chunk {
    int64_t rows, position;
    const void *k, *v;    /* first token of the first sequence: [rows, kv_heads, head_dim], compute type */
    int64_t ld, batch_ld; /* elements from token to token, from sequence to sequence, of k and v */
    float *dk, *dv;       /* backward: += ; NULL in forward */
    int64_t grad_ld, grad_batch_ld;
} mf_key_chunk;

typedef struct mf_attention_args {
    mf_dtype type;
    int64_t batch, tokens; /* sequences; query tokens of each in q, o, ... (all chunks together) */
    int64_t heads, first_head, group;
    int64_t kv_heads, first_kv_head;
    int64_t head_dim;
    int64_t window; /* keys that a query sees at most, its own the last; 0: all before it */
    bool all_keys;  /* every query sees every key of the list, whatever the positions; then neither window
                       nor first_key */
    /* 0 or 1: a sequence's tokens are neighbours. More: the batch is a multiple of it, and the tokens of so
     * many sequences take turns. Token t of sequence s is then row (s / interleave * tokens + t) * interleave
     * + s % interleave of q, o, lse, d_o, dq and delta. In a chunk of keys it lies s / interleave * batch_ld
     * + (t * interleave + s % interleave) * ld from the first, its gradients likewise. */
    int64_t interleave;
    /* [batch, tokens] the position of the first key that a query may see, which must not fall within a chunk;
     * NULL: 0. As q it is read where the operation computes. Whatever interleave, sequence after sequence. */
    const int32_t *first_key;
    const int32_t
        *first_key_host; /* the same where the host can read it, which counts by it; NULL: first_key */
    float scale;
    int query_chunks, key_chunks;
    const mf_query_chunk *queries;
    const mf_key_chunk *keys;
    const void *q; /* [batch, tokens, heads, head_dim], compute type, token to token q_ld */
    int64_t q_ld;
    void *o; /* as q, token to token o_ld; forward: overwritten, or merged into */
    int64_t o_ld;
    float *lse; /* [batch, tokens, heads], log of the softmax's sum, token to token lse_ld; forward: as o */
    int64_t lse_ld;
    bool merge; /* forward: o and lse hold the result over the keys of earlier calls; add this call's */
    bool o_f32; /* forward: o is f32 whatever the type, so that many calls round once */
    /* backward only */
    const void *d_o; /* gradient of o: as o, token to token do_ld, compute type */
    int64_t do_ld;
    const float *delta; /* [batch, tokens, heads] from mf_attention_delta, token to token heads */
    float *dq;          /* += ; as q, token to token dq_ld, f32 */
    int64_t dq_ld;
} mf_attention_args;

/* A query that sees no key of the list gets o = 0 and lse = -infinity; with merge it keeps its own. Merging
 * (Liu et al., arXiv 2310.01889), where keys come over several calls and each call's result is o_new,
 * lse_new: l = log(exp(lse) + exp(lse_new)), o = o exp(lse - l) + o_new exp(lse_new - l), lse = l. Where lse
 * is -infinity the new result is taken as it is, whatever o holds. o is rounded to its type every call. The
 * same threads give the same bits. Source: Dao, arXiv 2307.08691. */
mf_status mf_attention_forward(mf_device *device, const mf_attention_args *args);
/* Adds this list of keys' share to dq, and to each chunk's dk and dv; lse and delta are those of the whole
 * row, so the key chunks may come over several calls. The same threads give the same bits. */
mf_status mf_attention_backward(mf_device *device, const mf_attention_args *args);
/* delta: [batch * tokens, heads] = sum over head_dim of o * d_o. Overwrites. Reads o, d_o and the sizes of
 * args. */
mf_status mf_attention_delta(mf_device *device, const mf_attention_args *args, float *delta);

/* Results over parts of the keys become the result over all: o: [rows, heads, head_dim] compute type, row to
 * row o_ld. Where lse is NULL o is overwritten; else o holds a part too, with lse: [rows, heads], row to row
 * lse_ld, which is only read. part: [parts][rows][heads * head_dim + heads] f32: a row's results, then their
 * lse, which is -infinity where a part has no key. A row that no part has keys for becomes 0. */
typedef struct mf_attention_merge_args {
    mf_dtype type;
    int64_t rows, heads, head_dim;
    int parts;
    const float *part;
    void *o;
    int64_t o_ld;
    const float *lse;
    int64_t lse_ld;
} mf_attention_merge_args;
mf_status mf_attention_merge(mf_device *device, const mf_attention_merge_args *args);

/* y: [n, h] = x: [n, h] / rms(x) * weight: [h] (f32). x, y in compute type. Overwrites. */
mf_status mf_rmsnorm_forward(mf_device *device, int64_t n, int64_t h, float eps, mf_dtype type, const void *x,
                             const float *weight, void *y);
/* dx: [n, h] f32 += ; dweight: [h] += ; dy: [n, h] f32. */
typedef struct mf_rmsnorm_grad {
    int64_t n, h;
    float eps;
    mf_dtype type;
    const void *x;
    const float *weight, *dy;
    float *dx, *dweight;
} mf_rmsnorm_grad;
mf_status mf_rmsnorm_backward(mf_device *device, const mf_rmsnorm_grad *args);

/* Rotary position embedding, first half against second half of each head (Su et al., arXiv 2104.09864; the
 * arrangement of Hugging Face's Llama). cos_sin: [tokens, head_dim] f32: head_dim/2 cosines, then as many
 * sines. */
typedef struct mf_rope_args {
    mf_dtype type;
    int64_t batch, tokens, heads, head_dim;
    const float *cos_sin;
    const void
        *in; /* [batch, tokens, heads, head_dim], token to token in_ld; f32 with in_f32, else compute type */
    bool in_f32;
    int64_t in_ld;
    void *out; /* compute type, token to token out_ld. Overwritten; may be `in` when the types are equal */
    int64_t out_ld;
    bool inverse; /* the transpose, which is what a gradient needs */
} mf_rope_args;
mf_status mf_rope(mf_device *device, const mf_rope_args *args);
/* How angles are stretched so that a model reads more tokens than it was first trained on. */
typedef enum mf_rope_kind {
    MF_ROPE_PLAIN,
    MF_ROPE_LINEAR, /* all frequencies / factor (Chen et al., arXiv 2306.15595) */
    MF_ROPE_LLAMA3  /* of those that turn less than low_freq times in `original` tokens; those that turn more
                       than high_freq times stay, those between are mixed (Llama 3.1, as in transformers) */
} mf_rope_kind;
typedef struct mf_rope_scaling {
    mf_rope_kind kind;
    double factor, low_freq, high_freq;
    int64_t original;
} mf_rope_scaling;
/* Fills cos_sin: [rows, head_dim] for positions first .. first + rows - 1: pair i of a head turns by position
 * * theta^(-2i / head_dim), scaled. */
typedef struct mf_rope_table_args {
    int64_t first, rows, head_dim;
    double theta;
    mf_rope_scaling scaling;
    float *cos_sin;
} mf_rope_table_args;
mf_status mf_rope_table(mf_device *device, const mf_rope_table_args *args);

/* RMS norm over each head of rows that lie ld apart (Henry et al., arXiv 2010.04245, as in Qwen3), and its
 * backward. */
typedef struct mf_headnorm_args {
    mf_dtype type;
    int64_t rows, heads, head_dim;
    float eps;
    const float *weight; /* [head_dim] */
    void *x;             /* [rows, heads, head_dim] compute type. Forward: overwritten with its norm */
    int64_t ld;
    /* backward only: x is as forward found it */
    void *d; /* the same for the norm's gradient. Overwritten with that of x */
    int64_t d_ld;
    float *dweight; /* [head_dim] += */
} mf_headnorm_args;
mf_status mf_headnorm_forward(mf_device *device, const mf_headnorm_args *args);
mf_status mf_headnorm_backward(mf_device *device, const mf_headnorm_args *args);

/* A bias: the same vector added to every row, and its gradient. */
typedef struct mf_bias_args {
    mf_dtype type;
    int64_t rows, width;
    const float *bias; /* [width] */
    void *x;           /* forward: [rows, width] compute type += bias */
    const void *d;     /* backward: [rows, width] compute type */
    int64_t ld;        /* of x, or of d */
    float *d_bias;     /* backward: [width] += sums of d's columns */
} mf_bias_args;
mf_status mf_bias_forward(mf_device *device, const mf_bias_args *args);
mf_status mf_bias_backward(mf_device *device, const mf_bias_args *args);

/* Modulation (adaLN: Peebles & Xie, arXiv 2212.09748): values scaled, shifted or gated by vectors of the
 * sample that their row is of. Row i of a call is of sample (first_row + i) / sample_rows; the vectors are
 * f32, and those of a sample begin mod_ld elements after those of the sample before. */

/* y = norm(x) (1 + scale) + shift, with norm(x) = (x - mean) / sqrt(variance + eps) of each row. */
typedef struct mf_modulate_args {
    mf_dtype type;
    int64_t n, h;
    float eps;
    int64_t first_row, sample_rows, mod_ld;
    const void *x;              /* [n, h] compute type */
    const float *shift, *scale; /* [samples, h] */
    void *y;                    /* forward: [n, h] compute type. Overwritten */
    /* backward only */
    const float *dy;        /* [n, h] */
    float *dx;              /* [n, h] += */
    float *dshift, *dscale; /* as shift and scale: += sums over a sample's rows; both NULL: not wanted */
} mf_modulate_args;
mf_status mf_modulate_forward(mf_device *device, const mf_modulate_args *args);
mf_status mf_modulate_backward(mf_device *device, const mf_modulate_args *args);

typedef struct mf_gate_args {
    mf_dtype type;
    int64_t n, h;
    int64_t first_row, sample_rows, mod_ld;
    const float *gate;  /* [samples, h] */
    const void *in;     /* [n, h] compute type */
    const float *delta; /* mf_gate_add: [n, h] */
    void *out;          /* [n, h] compute type. Overwritten; may be in */
} mf_gate_args;
/* out = gate * in */
mf_status mf_gate_scale(mf_device *device, const mf_gate_args *args);
/* out = in + gate * delta */
mf_status mf_gate_add(mf_device *device, const mf_gate_args *args);

/* Where gate * y was added, with y = a times w transposed, and g is the sum's gradient transposed times a,
 * over one sample's rows: the gradients of w and of gate, for which y need not be kept. Row distances given.
 */
typedef struct mf_gate_grads_args {
    mf_dtype type;
    int64_t rows, cols;
    const float *g; /* [rows, cols] */
    int64_t g_ld;
    const void *w; /* [rows, cols] compute type */
    int64_t w_ld;
    const float *gate; /* [rows] */
    float *dw;         /* [rows, cols] += gate * g */
    int64_t dw_ld;
    float *dgate; /* [rows] += sums of the rows of w * g */
} mf_gate_grads_args;
mf_status mf_gate_grads(mf_device *device, const mf_gate_grads_args *args);

typedef enum mf_activation_kind {
    MF_SILU, /* x / (1 + exp(-x)) */
    MF_GELU  /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
} mf_activation_kind;
/* Activation of n rows of `width`: out = f(gate), or f(gate) * up. All compute type, row distances given. */
typedef struct mf_activation_args {
    mf_dtype type;
    mf_activation_kind kind;
    int64_t n, width;
    const void *gate, *up; /* up: NULL where nothing is gated; then d_up is not written */
    int64_t in_ld;
    void *out; /* [n, width] dense. Overwritten, in backward too: its matrix product needs it again */
    /* backward only */
    const void *d_out;   /* [n, width] dense, compute type */
    void *d_gate, *d_up; /* [n, width] dense, compute type. Overwritten */
} mf_activation_args;
mf_status mf_activation_forward(mf_device *device, const mf_activation_args *args);
mf_status mf_activation_backward(mf_device *device, const mf_activation_args *args);

/* Rows ids[i] - first of a table's slice [rows, h] (compute type) to out: [n, h] (compute type); ids outside
 * the slice leave their row as it is. */
typedef struct mf_embed_args {
    mf_dtype type;
    int64_t n, h, first, rows;
    const int32_t *ids;
    const void *table;
    void *out;
    /* backward: d_table: [rows, h] f32 += d_out: [n, h] f32 or compute type, in the order of i */
    const void *d_out;
    mf_dtype d_out_type;
    float *d_table;
} mf_embed_args;
mf_status mf_embed_forward(mf_device *device, const mf_embed_args *args);
mf_status mf_embed_backward(mf_device *device, const mf_embed_args *args);

/* Values with a place in a grid of up to three dimensions: out = y + bias + the rows of three tables side by
 * side. Row i takes rows index[(first_row + i) % sample_rows] of the tables. */
typedef struct mf_grid_embed_args {
    mf_dtype type;
    int64_t n, h, first_row, sample_rows;
    const float *y;        /* [n, h] */
    const float *bias;     /* [h] */
    const float *table[3]; /* [.., width] each */
    int64_t width[3];      /* together h */
    const int32_t *index;  /* [sample_rows][3] */
    void *out;             /* [n, h] compute type. Overwritten */
} mf_grid_embed_args;
mf_status mf_grid_embed(mf_device *device, const mf_grid_embed_args *args);

/* Cross-entropy over a vocabulary that comes in slices. logits: [n, width] f32 of ids first .. first + width
 * - 1. State of each row: running maximum, running sum of exp(logit - maximum), the label's logit. */
typedef struct mf_xent_args {
    int64_t n, width, first;
    const int32_t *labels; /* [n]; negative: masked */
    float *logits;
    float *maximum, *sum, *label_logit; /* [n] each; updated */
    /* gradient */
    mf_dtype type;
    float scale;    /* multiplies the gradient */
    void *d_logits; /* [n, width] compute type, overwritten; masked rows become 0. In f32 it may be logits */
} mf_xent_args;
/* Begins the state of n rows. */
mf_status mf_xent_begin(mf_device *device, const mf_xent_args *args);
mf_status mf_xent_update(mf_device *device, const mf_xent_args *args);
/* Overwrites the state of n rows with that over all columns, of which each part saw some, in the order of
 * parts. states: [parts][3][n], each part's maximum, sum and label_logit; not args' own. A part that saw
 * no column adds nothing; a NaN in a part comes through. MF_EINVAL for fewer than one part. */
mf_status mf_xent_merge(mf_device *device, const mf_xent_args *args, int parts, const float *states);
mf_status mf_xent_grad(mf_device *device, const mf_xent_args *args);
/* *loss: sum over unmasked rows of log(sum) + maximum - label_logit, in double. Overwrites. */
mf_status mf_xent_loss(mf_device *device, const mf_xent_args *args, double *loss);

typedef struct mf_normal_args {
    int64_t rows, cols, first, index_ld;
    uint64_t seed, key;
    float deviation;
    float *out;
} mf_normal_args;

/* AdamW (Loshchilov & Hutter, arXiv 1711.05101) on n elements; step counts from 1. master: [n] f32, updated;
 * weights: the same in the compute type, overwritten (NULL or master itself when the compute type is f32). */
typedef struct mf_adamw_args {
    int64_t n, step;
    float lr, beta1, beta2, eps, weight_decay;
    float grad_scale; /* the gradient is multiplied by it first: clipping */
    const float *grad;
    float *master, *moment1, *moment2;
    void *weights;
    mf_dtype type;
} mf_adamw_args;
mf_status mf_adamw(mf_device *device, const mf_adamw_args *args);

/* *sum of squares of n f32 values, in double, in an order that does not depend on the threads. */
mf_status mf_sum_squares(mf_device *device, int64_t n, const float *x, double *sum);
/* *loss: sum of (pred - target)^2 over n values, in double, in an order that does not depend on the threads.
 * d_pred: [n] = 2 scale (pred - target). Both overwrite; d_pred may be pred, or NULL: not wanted. */
typedef struct mf_squared_error_args {
    int64_t n;
    const float *pred, *target;
    float scale;
    float *d_pred;
} mf_squared_error_args;
mf_status mf_squared_error(mf_device *device, const mf_squared_error_args *args, double *loss);
/* out: [rows, width] = in: [rows, width] in another type, row distances given. Overwrites. */
typedef struct mf_cast_args {
    int64_t rows, width;
    const void *in;
    int64_t in_ld;
    mf_dtype in_type;
    void *out;
    int64_t out_ld;
    mf_dtype out_type;
} mf_cast_args;
mf_status mf_cast(mf_device *device, const mf_cast_args *args);
/* The same for n values that lie together. */
mf_status mf_convert(mf_device *device, int64_t n, const void *in, mf_dtype in_type, void *out,
                     mf_dtype out_type);
/* out: [n] = round(residual + delta): both compute type, delta f32. Overwrites. out may be residual. */
mf_status mf_add(mf_device *device, int64_t n, mf_dtype type, const void *residual, const float *delta,
                 void *out);
/* out: [rows, width] f32 += in: [rows, width] f32, row distances given. */
mf_status mf_accumulate(mf_device *device, int64_t rows, int64_t width, const float *in, int64_t in_ld,
                        float *out, int64_t out_ld);
/* out: [rows, cols] f32 = deviation * normal numbers of (seed, key) at indices first + row * index_ld +
 * column. */
mf_status mf_fill_normal(mf_device *device, const mf_normal_args *args);
/* out: [n] f32 = value. */
mf_status mf_fill(mf_device *device, int64_t n, float value, float *out);
mf_status mf_zero(mf_device *device, void *data, size_t bytes);
/* rows blocks of `bytes`, at distances given in bytes. */
mf_status mf_copy_rows(mf_device *device, int64_t rows, size_t bytes, void *out, size_t out_ld,
                       const void *in, size_t in_ld);

/* The operations above, by number. */
typedef enum mf_operation {
    MF_DO_GEMM,
    MF_DO_ATTENTION_FORWARD,
    MF_DO_ATTENTION_BACKWARD,
    MF_DO_ATTENTION_DELTA,
    MF_DO_ATTENTION_MERGE,
    MF_DO_RMSNORM_FORWARD,
    MF_DO_RMSNORM_BACKWARD,
    MF_DO_ROPE,
    MF_DO_ROPE_TABLE,
    MF_DO_HEADNORM_FORWARD,
    MF_DO_HEADNORM_BACKWARD,
    MF_DO_BIAS_FORWARD,
    MF_DO_BIAS_BACKWARD,
    MF_DO_MODULATE_FORWARD,
    MF_DO_MODULATE_BACKWARD,
    MF_DO_GATE_SCALE,
    MF_DO_GATE_ADD,
    MF_DO_GATE_GRADS,
    MF_DO_ACTIVATION_FORWARD,
    MF_DO_ACTIVATION_BACKWARD,
    MF_DO_EMBED_FORWARD,
    MF_DO_EMBED_BACKWARD,
    MF_DO_GRID_EMBED,
    MF_DO_XENT_BEGIN,
    MF_DO_XENT_UPDATE,
    MF_DO_XENT_MERGE,
    MF_DO_XENT_GRAD,
    MF_DO_XENT_LOSS,
    MF_DO_ADAMW,
    MF_DO_SUM_SQUARES,
    MF_DO_SQUARED_ERROR,
    MF_DO_CAST,
    MF_DO_ADD,
    MF_DO_ACCUMULATE,
    MF_DO_FILL,
    MF_DO_FILL_NORMAL,
    MF_DO_ZERO,
    MF_DO_COPY_ROWS,
    MF_OPERATIONS
} mf_operation;
const char *mf_operation_name(mf_operation operation); /* "gemm", ... as the functions */

/* How long a machine would take, for steps that run dry:
 *
 *     static double gemm_s(const mf_costs *c, const mf_gemm_args *a) {
 *         return 2.0 * a->m * a->n * a->k / 1e12;
 *     }
 *     mf_costs costs = {.gemm_s = gemm_s, .attention_s = ..., .touch_s = ..., .transfer_s = ...};
 *     mf_launch(&(mf_launch_options){.engine = "dry", .ranks = 8, .costs = &costs}, body, argument);
 *
 * Where a dry launch has costs, each rank's thread has a clock of its own that stands at 0 when its body
 * begins and is moved by every operation and transfer: what is measured there (mf_now_s) is predicted. Peers
 * are taken to be where this rank is. */

/* What a rank sends in one collective. */
typedef struct mf_transfer_cost {
    int op;           /* by mf_comm_op */
    double bytes;     /* that this rank sends by the ring convention */
    double payload;   /* of the whole operation */
    const int *ranks; /* [size] the group, by world ranks */
    int size;
} mf_transfer_cost;

typedef struct mf_costs mf_costs;
/* Every member is needed. All return seconds. */
struct mf_costs {
    const void *context; /* the costs' own */
    int ranks;           /* that work at one time; the costs' own too */
    double (*gemm_s)(const mf_costs *costs, const mf_gemm_args *args);
    /* pairs: of a query and a key that are computed, over all heads and sequences: queries go by tiles of 128
     * rows, and with a tile all keys that any of its rows sees. */
    double (*attention_s)(const mf_costs *costs, const mf_attention_args *args, bool backward, double pairs);
    /* An operation on this type that reads and writes so many bytes. */
    double (*touch_s)(const mf_costs *costs, mf_operation operation, mf_dtype type, double bytes);
    double (*transfer_s)(const mf_costs *costs, const mf_transfer_cost *transfer);
    bool overlaps; /* a transfer that was asked for ahead runs beside the computation */
};

/* The costs of the dry launch that this thread is in; NULL: none. */
const mf_costs *mf_costs_get(void);
void mf_costs_set(const mf_costs *costs);

#endif
