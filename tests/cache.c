/* cache.c: logits of tokens that come one by one behind what was read in portions, of every family and on
 * many layouts, held against those that transformers found for whole sequences. */
#include "golden.h"
#include "support.h"

#include "meshfold/train.h"

#include <math.h>

enum { SEQUENCES = 2 };

typedef struct trial {
    golden golden;
    const char *mesh_text;
    mf_mesh_spec mesh;
    mf_layout layout;
    mf_dtype type;
    int64_t chunk;
    int64_t read[SEQUENCES]; /* tokens that are read before the others come one by one */
    double square;           /* filled on rank 0: sum of the squared errors of tokens */
    int64_t compared;
} trial;

typedef struct member {
    mf_memory *memory;
    mf_device *device;
    mf_mesh mesh;
    mf_model *model;
    mf_cache *cache;
    float *logits; /* [SEQUENCES, vocab] */
} member;

static mf_status build(mf_world *world, const trial *t, member *m) {
    const int64_t most[SEQUENCES] = {t->golden.tokens, t->golden.tokens};
    mf_model_options options = {.config = t->golden.config,
                                .type = t->type,
                                .batch = 1,
                                .tokens = t->chunk,
                                .forward_only = true,
                                .cache = true};
    MF_TRY(mf_memory_create(NULL, &m->memory));
    MF_TRY(mf_device_create("cpu", m->memory, 1, &m->device));
    MF_TRY(mf_mesh_create(world, &t->mesh, &m->mesh));
    MF_TRY(mf_model_create(&options, &t->layout, &m->mesh, m->device, &m->model));
    MF_TRY(mf_model_load_weights(m->model, m->device, t->golden.folder));
    MF_TRY(mf_barrier(mf_model_world(m->model)));
    MF_TRY(mf_host_alloc((size_t)(SEQUENCES * t->golden.config.vocab), sizeof(float), &m->logits));
    return mf_cache_create(m->model, most, SEQUENCES, &m->cache);
}

static void drop(member *m) {
    mf_host_free(m->logits);
    mf_cache_destroy(m->cache);
    mf_model_destroy(m->model);
    mf_mesh_destroy(&m->mesh);
    mf_device_destroy(m->device);
    mf_memory_destroy(m->memory);
}

static const float *wanted(const trial *t, int sequence, int64_t token) {
    const golden *g = &t->golden;
    return golden_values(g, "logits") + (sequence * g->tokens + token) * g->config.vocab;
}

/* One more token of every sequence that has one left. */
static mf_status go_on(trial *t, member *m, bool first, bool *more) {
    const golden *g = &t->golden;
    int32_t ids[SEQUENCES];
    int sequence[SEQUENCES];
    mf_next_call call = {.sequence = sequence, .ids = ids, .logits = m->logits};
    for (int i = SEQUENCES - 1; i >= 0; i--) {
        int64_t at = mf_cache_tokens(m->cache, i);
        if (at == g->tokens) continue;
        sequence[call.count] = i;
        ids[call.count++] = g->ids[i * g->tokens + at];
    }
    *more = call.count > 0;
    if (!*more) return MF_OK;
    MF_TRY(mf_cache_next(m->cache, &call));
    for (int i = 0; i < call.count && first; i++) {
        const float *want = wanted(t, sequence[i], mf_cache_tokens(m->cache, sequence[i]) - 1);
        t->square += pow(golden_error(g->config.vocab, m->logits + i * g->config.vocab, want), 2);
        t->compared++;
    }
    return MF_OK;
}

static mf_status body(mf_world *world, void *argument) {
    trial *t = argument;
    mf_status status = MF_OK;
    member m = {0};
    MF_GO(build(world, t, &m));
    for (int i = 0; i < SEQUENCES; i++)
        MF_GO(mf_cache_read(m.cache, i, t->golden.ids + i * t->golden.tokens, t->read[i]));
    for (bool more = true; more;) MF_GO(go_on(t, &m, mf_world_rank(world) == 0, &more));
    mf_next_call beyond = {.count = 1, .sequence = &(int){0}, .ids = t->golden.ids, .logits = m.logits};
    if (mf_cache_next(m.cache, &beyond) != MF_EINVAL ||
        mf_cache_read(m.cache, 1, t->golden.ids, 1) != MF_EINVAL)
        MF_GO(MF_FAIL(MF_ELIBRARY, "more tokens than there is room for"));
    MF_GO(mf_barrier(mf_model_world(m.model)));
fail:
    drop(&m);
    return status;
}

/* Of a token, the root of the mean square. */
static double error_of(const trial *t) { return sqrt(t->square / (double)t->compared); }

static void launch(trial *t, bool no_borrow) {
    ASSERT_OK(mf_layout_parse(t->mesh_text, &mf_layout_words_none, &t->mesh, &t->layout));
    mf_launch_options options = {
        .engine = "local", .ranks = mf_mesh_ranks(&t->mesh), .no_borrow = no_borrow, .timeout_s = 60};
    mf_status status = mf_launch(&options, body, t);
    if (status) fail_msg("%s, %s: %s", t->golden.folder, t->mesh_text, mf_error_last()->message);
    if (!(error_of(t) < mf_tolerance(t->type)))
        fail_msg("%s, %s, portions of %lld: logits off by %.2e", t->golden.folder, t->mesh_text,
                 (long long)t->chunk, error_of(t));
}

static const char *const meshes[] = {"single",
                                     "tsp=2",
                                     "tsp=2,stream=ring",
                                     "tsp=3,exchange=ring",
                                     "tsp=4,kv-bucket=1",
                                     "tsp=2,attention-stream=ring,exchange=ulysses",
                                     "tp=2",
                                     "tp=4,reduction=scatter",
                                     "sp=2",
                                     "sp=3,exchange=ring",
                                     "sp=2,exchange=ulysses",
                                     "tp=2,sp=2",
                                     "sp=2,tp=2",
                                     "tp=2,tsp=2",
                                     "tsp=2,tp=2,reduction=scatter"};

static void every_family_goes_on(void **state) {
    (void)state;
    static const int64_t chunks[] = {1, 2, 5, 8, 64};
    double worst = 0;
    int number = 0;
    for (int f = 0; golden_families[f]; f++)
        for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++, number++) {
            if (MF_TEST_SPARSE && number % 5) continue;
            trial t = {.mesh_text = meshes[i], .chunk = chunks[number % 5]};
            golden_open(golden_families[f], &t.golden);
            t.read[0] = number * 3 % t.golden.tokens;
            t.read[1] = number % 4;
            launch(&t, number % 2);
            worst = fmax(worst, error_of(&t));
            golden_close(&t.golden);
        }
    print_message("worst logits off by %.1e\n", worst);
}

static void bf16_goes_on(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i += MF_TEST_SPARSE ? 4 : 1) {
        trial t = {.mesh_text = meshes[i], .type = MF_BF16, .chunk = 7, .read = {11, 3}};
        golden_open("llama3", &t.golden);
        launch(&t, i % 2);
        golden_close(&t.golden);
    }
}

static void rows_can_not_decode(void **state) {
    (void)state;
    trial t = {.mesh_text = "sp=2,stream=gather", .chunk = 4};
    golden_open("llama3", &t.golden);
    ASSERT_OK(mf_layout_parse(t.mesh_text, &mf_layout_words_none, &t.mesh, &t.layout));
    mf_launch_options options = {.engine = "local", .ranks = 2, .timeout_s = 60};
    ASSERT_FAILS(mf_launch(&options, body, &t), MF_EUNSUPPORTED, "stream=gather");
    golden_close(&t.golden);
}

/* Tokens that are read one by one all fall to one rank, until it has no more room. */
static mf_status read_in_pieces(mf_world *world, void *argument) {
    trial *t = argument;
    mf_status status = MF_OK;
    member m = {0};
    MF_GO(build(world, t, &m));
    for (int i = 0; i < t->golden.tokens; i++) MF_GO(mf_cache_read(m.cache, 0, t->golden.ids + i, 1));
fail:
    drop(&m);
    return status;
}

static void pieces_that_find_no_room_are_refused(void **state) {
    (void)state;
    trial t = {.mesh_text = "tsp=3", .chunk = 64};
    golden_open("llama3", &t.golden);
    ASSERT_OK(mf_layout_parse(t.mesh_text, &mf_layout_words_none, &t.mesh, &t.layout));
    mf_launch_options options = {.engine = "local", .ranks = 3, .timeout_s = 60};
    ASSERT_FAILS(mf_launch(&options, read_in_pieces, &t), MF_EINVAL, "read in so many pieces");
    golden_close(&t.golden);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_family_goes_on), cmocka_unit_test(bf16_goes_on),
                                       cmocka_unit_test(rows_can_not_decode),
                                       cmocka_unit_test(pieces_that_find_no_room_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
