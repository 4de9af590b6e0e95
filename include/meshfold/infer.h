/* infer.h: text that a model goes on with, and clips of video out of noise.
 *
 *     mf_speech *speech = NULL;
 *     MF_TRY(mf_speech_open("models/llama", NULL, 32000, &speech));              // its tokenizer, or bytes
 *     MF_TRY(mf_speech_read(speech, "Once", 4, &ids));
 *     mf_prompt prompt = {ids.id, ids.count};
 *     mf_generate_options options = {.prompt = &prompt, .prompts = 1, .most = 100, ...};
 *     MF_TRY(mf_generate(world, &options, &generation));            // collective; from the body of mf_launch
 *     mf_generation_free(&generation);
 *     mf_speech_close(speech);
 */
#ifndef MESHFOLD_INFER_H
#define MESHFOLD_INFER_H

#include "meshfold/tokenizer.h"
#include "meshfold/train.h"

/* How a model's folder turns text into ids and back: by its tokenizer.json (or `tokenizer`, unless NULL), or,
 * where there is none, a byte a token, as `meshfold train` reads text. */
typedef struct mf_speech mf_speech;
/* MF_EINVAL where there is no tokenizer and the vocabulary is not one of bytes. */
mf_status mf_speech_open(const char *folder, const char *tokenizer, int64_t vocab, mf_speech **out);
void mf_speech_close(mf_speech *speech);
/* Adds a prompt's ids, with what the tokenizer puts before a text. MF_EINVAL where that makes none. */
mf_status mf_speech_read(mf_speech *speech, const void *text, int64_t bytes, mf_ids *out);
/* Ids that end a text: generation_config.json's eos_token_id, else config.json's, else the tokenizer's. */
enum { MF_STOPS = 16 };
int mf_speech_stops(const mf_speech *speech, int32_t out[MF_STOPS]);

/* One text as it is spoken: whole characters only. */
typedef struct mf_voice mf_voice;
mf_status mf_voice_create(const mf_speech *speech, mf_voice **out);
void mf_voice_destroy(mf_voice *voice);
/* *text: the voice's, until its next call; *bytes may be 0: a character is not whole yet. What is not UTF-8
 * becomes U+FFFD. */
mf_status mf_voice_say(mf_voice *voice, int32_t id, const char **text, size_t *bytes);
mf_status mf_voice_end(mf_voice *voice, const char **text, size_t *bytes);

/* How the next token is chosen: of scores / temperature the top_k highest (0: all), of these the fewest that
 * have top_p of the probability (1: all), one of them by chance. */
typedef struct mf_sampling {
    double temperature; /* 0: the highest score, the lowest id of equals */
    int64_t top_k;
    double top_p;
    uint64_t seed;
} mf_sampling;
typedef struct mf_candidate {
    float score;
    int32_t id;
} mf_candidate;
/* The choice depends on scores, sampling, prompt and index alone. scores: [vocab]; scratch: [vocab].
 * MF_ENONFINITE where a score is NaN or all are -infinity. */
mf_status mf_sample(const mf_sampling *sampling, const float *scores, int64_t vocab, uint64_t prompt,
                    uint64_t index, mf_candidate *scratch, int32_t *out);

typedef struct mf_prompt {
    const int32_t *ids;
    int64_t count; /* at least 1 */
} mf_prompt;

typedef enum mf_ending { MF_END_NONE, MF_END_STOP, MF_END_LENGTH } mf_ending;

typedef struct mf_generate_options {
    mf_model_options model; /* config and type; tokens: prompts are read in portions of so many at most */
    mf_mesh_spec mesh;
    mf_layout layout;
    int threads;        /* per rank */
    const char *device; /* NULL: "cpu" */
    const char *init_from;
    int prompts;
    const mf_prompt *prompt; /* [prompts] the same on every rank, else MF_EINVAL */
    int64_t most;            /* new tokens of each */
    mf_sampling sampling;
    int stops;
    int32_t stop[MF_STOPS];              /* ids that end a text */
    const volatile sig_atomic_t *enough; /* not 0 on any rank: nothing further is read or made; NULL: never */
    /* On rank 0; an error ends it. A prompt's new tokens in order, the stop not among them: finish with its
     * last call, where id is -1. */
    void *context;
    mf_status (*token)(void *context, int prompt, int32_t id, mf_ending finish);
    mf_status (*read)(void *context, int64_t done, int64_t of); /* tokens of prompts; may be NULL */
} mf_generate_options;

typedef struct mf_generation {
    int64_t read, made;    /* tokens: of prompts, all but the last of each; new ones, stops among them */
    int64_t steps;         /* in which new ones came */
    double read_s, made_s; /* without what the observers took */
    double read_flops, peak_flops; /* of all ranks; the peak measured before */
    double step_bytes;             /* of weights and cached keys that a step read, of all ranks, the mean */
    double bandwidth;    /* bytes a second that all ranks together read of their weights, measured */
    int64_t cache_bytes; /* room for keys and values on rank 0, no rank has more */
    int ranks;
    mf_rank_report *rank; /* [ranks] transfers are the last step's */
} mf_generation;
/* *out, empty before, is filled on rank 0; free it after an error too. Replicas (dp) share the prompts.
 * Collective over the world, whose size is the mesh's. */
mf_status mf_generate(mf_world *world, const mf_generate_options *options, mf_generation *out);
void mf_generation_free(mf_generation *generation);

/* Clips of a model of videos: from noise, at time 0, by `steps` steps of Euler's along its velocities to time
 * 1. The same seed gives the same clips on every layout, to rounding. */
typedef struct mf_clips_options {
    mf_model_options model; /* config, type, grid; batch: clips of each replica at once, at most */
    mf_mesh_spec mesh;
    mf_layout layout;
    int threads;           /* per rank */
    const char *device;    /* NULL: "cpu" */
    const char *init_from; /* a model folder, or NULL: weights from the seed */
    int64_t clips, steps;
    uint64_t seed;
    const float *condition; /* [clips, tokens, channels] where the model has one, the same on every rank */
    double guidance; /* a condition leads so much farther than none does (Ho & Salimans, arXiv 2207.12598): 1:
                        no more than it does by itself, and half the work */
    /* On rank 0; an error ends it. Clips come in order: patches [tokens, values]. */
    void *context;
    mf_status (*clip)(void *context, int64_t index, const float *patches);
    mf_status (*stepped)(void *context, int64_t done, int64_t of); /* may be NULL */
} mf_clips_options;
typedef struct mf_generated_clips {
    double seconds;           /* without what the observers took */
    double flops, peak_flops; /* of all ranks; the peak measured before */
    int ranks;
    mf_rank_report *rank; /* [ranks] transfers are the last step's */
} mf_generated_clips;
/* *out, empty before, is filled on rank 0; free it after an error too. Replicas (dp) share the clips.
 * Collective over the world, whose size is the mesh's. */
mf_status mf_generate_clips(mf_world *world, const mf_clips_options *options, mf_generated_clips *out);
void mf_generated_clips_free(mf_generated_clips *clips);

#endif
