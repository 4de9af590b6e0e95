/* generate.c: prompts are read, one after another, in portions; then all go on together, a token a step. The
 * last token of a prompt is the first that goes through a step, so that only steps have scores. */
#include "device/staging.h"
#include "io/digest.h"
#include "meshfold/infer.h"
#include "train/loop.h"

#include <math.h>

/* A prompt, on its way. Every rank keeps account of all, and steps through its replica's. */
typedef struct text {
    int32_t next; /* the token that the next step takes */
    int64_t made;
    bool done;
} text;

typedef struct session {
    const mf_generate_options *options;
    mf_run_state run;
    mf_cache *cache;
    mf_comm *replica;      /* its ranks */
    int64_t portion;       /* tokens that are read at once */
    text *text;            /* [prompts] */
    int texts;             /* of this replica: number i in the cache is prompt_of(i) */
    int *sequence;         /* [texts] of a step */
    int32_t *ids;          /* [texts] of a step */
    mf_buffer scores;      /* [texts, vocab] f32 */
    mf_staging staging;    /* for those of a text */
    mf_candidate *scratch; /* [vocab] where tokens are chosen */
    double *chosen;        /* [prompts] id + 1 of what a step brought; 0: nothing */
    mf_generation *out;    /* NULL but on rank 0 */
    double step_bytes;     /* of this rank, all steps */
    double told_s;         /* that the observer took */
} session;

static mf_status wait_for_all(session *s, double *now) {
    MF_TRY(mf_barrier(s->run.mesh.world));
    MF_TRY(mf_device_finish(s->run.device, MF_QUEUE_COMPUTE));
    *now = mf_now_s();
    return MF_OK;
}

static int64_t longest(const mf_generate_options *o) {
    int64_t most = 1;
    for (int i = 0; i < o->prompts; i++) most = mf_max(most, o->prompt[i].count - 1);
    return most;
}

static int prompt_of(const session *s, int number) { return s->run.replica + number * s->run.replicas; }

/* Of the replica's ranks the first. */
static bool chooses(const session *s) { return mf_comm_rank(s->replica) == 0; }

/* Prompts are dealt out to replicas. */
static mf_status deal(session *s) {
    mf_status status = MF_OK;
    const mf_generate_options *o = s->options;
    int64_t *most = NULL;
    MF_GO(mf_host_alloc((size_t)o->prompts, sizeof *s->text, &s->text));
    MF_GO(mf_host_alloc((size_t)o->prompts + 1, sizeof *most, &most));
    for (int i = 0; i < o->prompts; i++) s->text[i].next = o->prompt[i].ids[o->prompt[i].count - 1];
    for (; prompt_of(s, s->texts) < o->prompts; s->texts++)
        most[s->texts] = o->prompt[prompt_of(s, s->texts)].count - 1 + mf_max(1, o->most);
    MF_GO(mf_cache_create(s->run.model, most, s->texts, &s->cache));
fail:
    mf_host_free(most);
    return status;
}

/* Ranks that read other tokens would wait for each other, or make sense of nothing. */
static mf_status check_same_prompts(const session *s) {
    mf_status status = MF_OK;
    const mf_generate_options *o = s->options;
    mf_digest *own = NULL, *first = NULL;
    MF_GO(mf_host_alloc((size_t)o->prompts, sizeof *own, &own));
    MF_GO(mf_host_alloc((size_t)o->prompts, sizeof *first, &first));
    for (int i = 0; i < o->prompts; i++)
        first[i] = own[i] = mf_digest_of(o->prompt[i].ids, (size_t)o->prompt[i].count * sizeof(int32_t));
    MF_GO(mf_broadcast(s->run.mesh.world, first, (size_t)o->prompts * sizeof *first, 0, NULL));
    for (int i = 0; i < o->prompts; i++)
        if (own[i].bytes != first[i].bytes || own[i].xxh3 != first[i].xxh3)
            MF_GO(MF_FAIL(MF_EINVAL, "prompt %d is not the same as on rank 0", i + 1));
fail:
    mf_host_free(own);
    mf_host_free(first);
    return status;
}

static mf_status open_session(session *s) {
    const mf_generate_options *o = s->options;
    size_t vocab = (size_t)o->model.config.vocab, texts = 0;
    mf_axes all = (1u << o->mesh.axes) - 1;
    MF_TRY(mf_run_open(&s->run));
    MF_TRY(check_same_prompts(s));
    MF_TRY(mf_mesh_group(&s->run.mesh, all & ~o->layout.data, &s->replica));
    s->portion = mf_model_options_get(s->run.model)->tokens;
    MF_TRY(deal(s));
    texts = (size_t)s->texts;
    MF_TRY(mf_host_alloc(texts + 1, sizeof *s->sequence, &s->sequence));
    MF_TRY(mf_host_alloc(texts + 1, sizeof *s->ids, &s->ids));
    MF_TRY(mf_host_alloc((size_t)o->prompts, sizeof *s->chosen, &s->chosen));
    if (chooses(s)) MF_TRY(mf_host_alloc(vocab, sizeof *s->scratch, &s->scratch));
    s->staging = (mf_staging){.device = s->run.device, .room = vocab * sizeof(float)};
    return mf_buffer_alloc(s->run.memory, MF_WORKSPACE, texts * vocab * sizeof(float), "scores", &s->scores);
}

static void close_session(session *s) {
    mf_staging_close(&s->staging);
    mf_buffer_free(s->run.memory, &s->scores);
    mf_cache_destroy(s->cache);
    mf_host_free(s->text);
    mf_host_free(s->sequence);
    mf_host_free(s->ids);
    mf_host_free(s->scratch);
    mf_host_free(s->chosen);
    mf_run_close(&s->run);
}

/* What all ranks together read a second, of their own weights: the memory that steps wait for. Few weights
 * are read more often, since what else the machine does would show. */
static mf_status measure_bandwidth(session *s, double *out) {
    enum { LEAST_PASSES = 3, MOST_PASSES = 64, MOST = 1 << 26 };
    mf_model_state w = mf_model_state_get(s->run.model);
    int64_t n = mf_min(MOST, w.cut * (int64_t)mf_dtype_bytes(w.type) / (int64_t)sizeof(float));
    double best = INFINITY, bytes = (double)n * sizeof(float), begin = 0, end = 0, sum = 0;
    MF_TRY(mf_allreduce_f64(s->run.mesh.world, &bytes, 1));
    double passes = fmax(LEAST_PASSES, fmin(MOST_PASSES, (double)(4 * MOST) / bytes));
    for (int i = 0; i < passes; i++) {
        MF_TRY(wait_for_all(s, &begin));
        MF_TRY(mf_sum_squares(s->run.device, n, w.cut_weights, &sum));
        MF_TRY(wait_for_all(s, &end));
        best = fmin(best, end - begin);
    }
    *out = bytes / best;
    return MF_OK;
}

/* Whether a rank of the group was asked to stop. */
static mf_status ask(const session *s, mf_comm *group, bool *stop) {
    const volatile sig_atomic_t *enough = s->options->enough;
    double asked = enough && __atomic_load_n(enough, __ATOMIC_RELAXED);
    MF_TRY(mf_allreduce_f64(group, &asked, 1));
    *stop = asked > 0;
    return MF_OK;
}

/* A prompt up to its last token, in pieces after which progress is told. */
static mf_status read_prompt(session *s, int number, int64_t *done, int64_t of, bool *stop) {
    const mf_generate_options *o = s->options;
    const mf_prompt *p = &o->prompt[prompt_of(s, number)];
    for (int64_t at = 0; at + 1 < p->count; at += s->portion) {
        int64_t count = mf_min(s->portion, p->count - 1 - at);
        MF_TRY(ask(s, s->replica, stop));
        if (*stop) return MF_OK;
        MF_TRY(mf_cache_read(s->cache, number, p->ids + at, count));
        *done += count;
        if (s->out && o->read) MF_TRY(o->read(o->context, *done, of));
    }
    return MF_OK;
}

static mf_status read_prompts(session *s) {
    double begin = 0, end = 0, sums[2] = {0}, flops = mf_device_flops(s->run.device);
    int64_t done = 0, of = 0;
    bool stop = false;
    for (int i = 0; i < s->texts; i++) of += s->options->prompt[prompt_of(s, i)].count - 1;
    MF_TRY(wait_for_all(s, &begin));
    for (int i = 0; i < s->texts && !stop; i++) MF_TRY(read_prompt(s, i, &done, of, &stop));
    MF_TRY(wait_for_all(s, &end));
    sums[0] = mf_device_flops(s->run.device) - flops;
    sums[1] = chooses(s) ? (double)done : 0;
    MF_TRY(mf_allreduce_f64(s->run.mesh.world, sums, 2));
    if (!s->out) return MF_OK;
    s->out->read = (int64_t)sums[1];
    s->out->read_s = end - begin;
    s->out->read_flops = sums[0];
    return MF_OK;
}

/* The next token of each own text that goes on. */
static mf_status step(session *s) {
    const mf_generate_options *o = s->options;
    int64_t vocab = o->model.config.vocab;
    mf_next_call call = {.sequence = s->sequence, .ids = s->ids, .logits = s->scores.data};
    for (int i = 0; i < s->texts; i++) {
        const text *t = &s->text[prompt_of(s, i)];
        if (t->done) continue;
        s->sequence[call.count] = i;
        s->ids[call.count++] = t->next;
    }
    if (!call.count) return MF_OK;
    MF_TRY(mf_cache_next(s->cache, &call));
    s->step_bytes += mf_cache_read_bytes(s->cache);
    for (int i = 0; i < call.count && chooses(s); i++) {
        int prompt = prompt_of(s, s->sequence[i]);
        int32_t id = 0;
        const float *scores = call.logits + i * vocab;
        MF_TRY(mf_staging_fetch(&s->staging, scores, (size_t)vocab * sizeof *scores, &scores));
        MF_TRY(mf_sample(&o->sampling, scores, vocab, (uint64_t)prompt, (uint64_t)s->text[prompt].made,
                         s->scratch, &id));
        s->chosen[prompt] = id + 1;
    }
    return MF_OK;
}

static bool stops(const mf_generate_options *o, int32_t id) {
    for (int i = 0; i < o->stops; i++)
        if (o->stop[i] == id) return true;
    return false;
}

/* What a new token means for a text. */
static mf_ending take(const mf_generate_options *o, text *t, int32_t id) {
    t->next = id;
    t->made++;
    t->done = stops(o, id) || t->made == o->most;
    return stops(o, id) ? MF_END_STOP : t->done ? MF_END_LENGTH : MF_END_NONE;
}

static mf_status tell(session *s, int prompt, int32_t id, mf_ending finish) {
    const mf_generate_options *o = s->options;
    double begin = mf_now_s();
    if (finish != MF_END_STOP) MF_TRY(o->token(o->context, prompt, id, MF_END_NONE));
    if (finish) MF_TRY(o->token(o->context, prompt, -1, finish));
    s->told_s += mf_now_s() - begin;
    return MF_OK;
}

/* Everyone learns what was chosen. */
static mf_status share(session *s, bool *more) {
    const mf_generate_options *o = s->options;
    bool stop = false;
    MF_TRY(mf_allreduce_f64(s->run.mesh.world, s->chosen, o->prompts));
    MF_TRY(ask(s, s->run.mesh.world, &stop));
    *more = false;
    for (int i = 0; i < o->prompts; i++) {
        int32_t id = (int32_t)s->chosen[i] - 1;
        s->chosen[i] = 0;
        if (id < 0) continue;
        mf_ending finish = take(o, &s->text[i], id);
        if (s->out) MF_TRY(tell(s, i, id, finish));
        if (s->out) s->out->made++;
        *more |= !s->text[i].done && !stop;
    }
    return MF_OK;
}

/* Where no tokens are wanted, texts are as long as they are to be. */
static mf_status end_all(const session *s) {
    const mf_generate_options *o = s->options;
    for (int i = 0; i < o->prompts && s->out; i++) MF_TRY(o->token(o->context, i, -1, MF_END_LENGTH));
    return MF_OK;
}

static mf_status go_on(session *s) {
    bool stop = false;
    double begin = mf_now_s();
    MF_TRY(ask(s, s->run.mesh.world, &stop)); /* then some prompts are not read to their end */
    if (!stop && s->options->most == 0) MF_TRY(end_all(s));
    for (bool more = !stop && s->options->most > 0; more;) {
        mf_loop_reset_stats(&s->run);
        MF_TRY(step(s));
        MF_TRY(share(s, &more));
        if (s->out) s->out->steps++;
    }
    if (s->out) s->out->made_s = mf_now_s() - begin - s->told_s;
    return MF_OK;
}

static mf_status report(session *s) {
    mf_generation *g = s->out;
    double bytes = s->step_bytes;
    MF_TRY(mf_loop_report(&s->run, g ? &g->ranks : NULL, g ? &g->rank : NULL));
    MF_TRY(mf_allreduce_f64(s->run.mesh.world, &bytes, 1));
    if (!g) return MF_OK;
    g->peak_flops = s->run.peak_flops;
    g->step_bytes = g->steps ? bytes / (double)g->steps : 0;
    g->cache_bytes = mf_cache_bytes(s->cache);
    return MF_OK;
}

static mf_status check(const mf_generate_options *o) {
    for (int i = 0; i < o->prompts; i++) {
        const mf_prompt *p = &o->prompt[i];
        if (p->count < 1) return MF_FAIL(MF_EINVAL, "prompt %d has no tokens", i + 1);
        for (int64_t k = 0; k < p->count; k++)
            if (p->ids[k] < 0 || p->ids[k] >= o->model.config.vocab)
                return MF_FAIL(MF_EINVAL, "prompt %d has token %d; the model's vocabulary is %lld", i + 1,
                               (int)p->ids[k], (long long)o->model.config.vocab);
    }
    return MF_OK;
}

mf_status mf_generate(mf_world *world, const mf_generate_options *options, mf_generation *out) {
    mf_status status = MF_OK;
    mf_train_options run = {.model = options->model,
                            .mesh = options->mesh,
                            .layout = options->layout,
                            .adam = {.steps = 1},
                            .accumulate = 1,
                            .threads = options->threads,
                            .device = options->device,
                            .init_from = options->init_from};
    session s = {.options = options,
                 .run = {.options = &run, .world = world},
                 .out = mf_world_rank(world) == 0 ? out : NULL};
    run.model.batch = 1;
    run.model.forward_only = run.model.cache = true;
    run.model.tokens = mf_min(options->model.tokens, longest(options));
    double bandwidth = 0;
    MF_TRY(check(options));
    MF_GO(open_session(&s));
    MF_GO(measure_bandwidth(&s, &bandwidth));
    MF_GO(read_prompts(&s));
    MF_GO(go_on(&s));
    MF_GO(report(&s));
    if (s.out) s.out->bandwidth = bandwidth;
    MF_GO(mf_barrier(s.run.mesh.world)); /* peers may be reading this rank's memory until here */
fail:
    if (status) status = mf_run_first_error(&s.run, status);
    close_session(&s);
    return status;
}

void mf_generation_free(mf_generation *g) {
    mf_host_free(g->rank);
    *g = (mf_generation){0};
}
