/* generate_clips.c: clips out of noise, to files that players, numpy and people can open. */
#include "cli/generate_clips.h"

#include "cli/rank_json.h"
#include "cli/text.h"
#include "meshfold/infer.h"

#include <string.h>
#include <unistd.h>

void mf_generate_clips_add(mf_clips_settings *s, mf_run_settings *run, mf_flag_table *t) {
    mf_table_group(t, "Clips, of a model of videos");
    mf_table_add(t, MF_TEXT("out", &s->out, "FILE",
                            "where clips go: a .npy of all, or a .y4m each, NAME-1.y4m and so on if there "
                            "are several"));
    mf_table_add(
        t, MF_TEXT("sheet", &s->sheet, "FILE.png", "a picture of them: a row a clip, a column a frame"));
    mf_table_add(t, MF_INT("clips", &s->clips, "4", 1, 1 << 20, "how many"));
    mf_table_add(t, MF_INT("batch", &s->at_once, "4", 1, 1 << 16, "that a replica makes at once, at most"));
    mf_table_add(t, MF_INT("steps", &s->steps, "50", 1, 100000, "of Euler's from noise to a clip"));
    mf_table_add(
        t, MF_TEXT("condition", &s->condition, "FILE.npy",
                   "what clips show, where the model has a condition: float32 [clips, tokens, channels], "
                   "as in NAME.condition.npy; more clips begin it again"));
    mf_table_add(t, MF_REAL("guidance", &s->guidance, "1", 0, 1e3,
                            "how much farther a condition leads than none does; 1: as it is"));
    mf_run_settings_add_clip(run, t, true);
}

mf_status mf_generate_clips_check(const mf_flags *flags, bool video) {
    static const char *const of_texts[] = {"prompt",  "prompt-file", "tokenizer",
                                           "max-new", "temperature", "top-k",
                                           "top-p",   "ignore-eos",  "prefill-chunk"};
    static const char *const of_clips[] = {"out",      "sheet",     "clips",  "batch", "steps",
                                           "guidance", "condition", "frames", "grid"};
    const char *const *names = video ? of_texts : of_clips;
    size_t count = video ? sizeof of_texts / sizeof *of_texts : sizeof of_clips / sizeof *of_clips;
    for (size_t i = 0; i < count; i++)
        if (mf_flags_given(flags, names[i]))
            return MF_FAIL(MF_EINVAL, "--%s: is of %s; this model makes %s", names[i],
                           video ? "texts" : "clips", video ? "clips" : "texts");
    return MF_OK;
}

typedef struct job {
    mf_clips_request *request;
    mf_clips_options options;
    mf_video_shape shape;    /* of all clips */
    mf_video_writer *writer; /* of --out's .npy */
    float *clip;             /* [frames, height, width, channels] */
    float *all;              /* the same of all clips, for --sheet */
    float *condition;
    mf_generated_clips result;
    bool reports; /* rank 0 is in this process */
} job;

static const mf_sheet_options sheet_options = {.columns = 16};

static bool ends(const char *name, const char *end) {
    size_t a = strlen(name), b = strlen(end);
    return a >= b && strcmp(name + a - b, end) == 0;
}

static mf_status check_outputs(const job *j) {
    const mf_clips_settings *s = j->request->clips;
    int64_t channels = j->shape.channels;
    bool pixels = channels == 1 || channels == 3;
    if (!s->out && !s->sheet) return MF_FAIL(MF_EINVAL, "meshfold generate of clips needs --out or --sheet");
    if (s->out && !ends(s->out, ".npy") && !ends(s->out, ".y4m"))
        return MF_FAIL(MF_EINVAL, "--out %s: clips are written to a .npy or a .y4m", s->out);
    if (s->sheet && !ends(s->sheet, ".png"))
        return MF_FAIL(MF_EINVAL, "--sheet %s: the picture is a .png", s->sheet);
    MF_TRY(mf_check_output("out", s->out));
    MF_TRY(mf_check_output("sheet", s->sheet));
    if (s->sheet) MF_TRY(mf_blame("--sheet", mf_video_sheet_check(s->sheet, &j->shape, &sheet_options)));
    if (pixels || (!s->sheet && ends(s->out, ".npy"))) return MF_OK;
    return MF_FAIL(MF_EINVAL, "--%s: clips of %lld channels are no pixels; write them with --out FILE.npy",
                   s->sheet ? "sheet" : "out", (long long)channels);
}

static mf_video_options written(const job *j, int64_t clips) {
    mf_video_options o = {.shape = j->shape, .rate = 8};
    o.shape.clips = clips;
    o.pixels = j->shape.channels == 1 || j->shape.channels == 3;
    return o;
}

/* Letters of a .y4m's name before its end. */
static int stem_of(const char *name) { return (int)(strlen(name) - strlen(".y4m")); }

/* A stream of its own for each clip. */
static mf_status write_stream(job *j, int64_t index) {
    const mf_clips_settings *s = j->request->clips;
    mf_status status = MF_OK;
    mf_video_options o = written(j, 1);
    mf_video_writer *writer = NULL;
    char *path = NULL;
    if (s->clips == 1)
        MF_TRY(mf_format(&path, "%s", s->out));
    else
        MF_TRY(mf_format(&path, "%.*s-%lld.y4m", stem_of(s->out), s->out, (long long)index + 1));
    MF_GO(mf_video_create(path, &o, &writer));
    MF_GO(mf_video_add(writer, j->clip));
    MF_GO(mf_video_finish(writer));
fail:
    mf_video_writer_close(writer);
    mf_host_free(path);
    return status;
}

static size_t clip_values(const job *j) {
    const mf_video_shape *s = &j->shape;
    return (size_t)(s->frames * s->height * s->width * s->channels);
}

static mf_status take_clip(void *context, int64_t index, const float *patches) {
    job *j = context;
    const mf_clips_settings *s = j->request->clips;
    mf_video_shape one = j->shape;
    one.clips = 1;
    MF_TRY(mf_video_from_patches(&one, j->options.model.config.video.patch, patches, j->clip));
    if (j->all) memcpy(j->all + (size_t)index * clip_values(j), j->clip, clip_values(j) * sizeof(float));
    if (j->writer) return mf_video_add(j->writer, j->clip);
    return s->out ? write_stream(j, index) : MF_OK;
}

static mf_status tell_step(void *context, int64_t done, int64_t of) {
    (void)context;
    if (!isatty(STDERR_FILENO)) return MF_OK;
    fprintf(stderr, "\rstep %lld of %lld%s", (long long)done, (long long)of, done == of ? "\r\033[K" : "");
    return MF_OK;
}

/* Those of all clips, one after another. */
static mf_status read_condition(job *j, const char *path) {
    const mf_video_config *v = &j->options.model.config.video;
    int64_t each = mf_config_condition_values(&j->options.model.config), clips = j->options.clips;
    mf_condition_shape shape = {.tokens = v->condition_tokens, .channels = v->condition_channels};
    mf_condition *condition = NULL;
    if (!each && path) return MF_FAIL(MF_EINVAL, "--condition: the model has none");
    if (!each) return MF_OK;
    if (!path)
        return MF_FAIL(MF_EINVAL,
                       "the model has a condition of %lld tokens of %lld channels: give --condition",
                       (long long)shape.tokens, (long long)shape.channels);
    MF_TRY(mf_blame("--condition", mf_condition_load(path, &shape, &condition)));
    mf_status status = mf_host_alloc((size_t)(clips * each), sizeof *j->condition, &j->condition);
    for (int64_t i = 0; i < clips && !status; i++)
        mf_condition_read(condition, i % mf_condition_clips(condition), j->condition + i * each);
    mf_condition_close(condition);
    j->options.condition = j->condition;
    return status;
}

static mf_status prepare(job *j) {
    mf_clips_request *r = j->request;
    const mf_clips_settings *s = r->clips;
    mf_clips_options *o = &j->options;
    MF_TRY(mf_run_settings_shape(r->run, false, 0, r->run->frames, &r->model));
    *o = (mf_clips_options){.model = r->model,
                            .mesh = r->spec,
                            .layout = r->layout,
                            .threads = r->threads,
                            .device = r->run->device,
                            .init_from = r->run->model,
                            .clips = s->clips,
                            .steps = s->steps,
                            .seed = r->seed,
                            .guidance = s->guidance,
                            .context = j,
                            .clip = take_clip,
                            .stepped = tell_step};
    o->model.batch = s->at_once;
    o->model.forward_only = true;
    const mf_video_config *v = &o->model.config.video;
    j->shape = (mf_video_shape){.clips = s->clips,
                                .frames = o->model.grid.frames,
                                .height = o->model.grid.rows * v->patch,
                                .width = o->model.grid.columns * v->patch,
                                .channels = v->channels};
    MF_TRY(check_outputs(j));
    MF_TRY(read_condition(j, s->condition));
    return mf_model_check(&o->model, &o->layout, &o->mesh);
}

/* Where rank 0 is: what it hands over is written there. */
static mf_status open_outputs(job *j) {
    const mf_clips_settings *s = j->request->clips;
    mf_video_options o = written(j, s->clips);
    MF_TRY(mf_host_alloc(clip_values(j), sizeof *j->clip, &j->clip));
    if (s->sheet) MF_TRY(mf_host_alloc(clip_values(j) * (size_t)s->clips, sizeof *j->all, &j->all));
    return s->out && ends(s->out, ".npy") ? mf_video_create(s->out, &o, &j->writer) : MF_OK;
}

static mf_status body(mf_world *world, void *argument) {
    job *j = argument;
    mf_generated_clips own = {0};
    bool first = mf_world_rank(world) == 0;
    if (first) j->reports = true;
    if (first) MF_TRY(open_outputs(j));
    return mf_generate_clips(world, &j->options, first ? &j->result : &own);
}

static mf_status close_outputs(job *j) {
    const mf_clips_settings *s = j->request->clips;
    if (j->writer) MF_TRY(mf_video_finish(j->writer));
    return s->sheet ? mf_video_sheet(s->sheet, &j->shape, j->all, &sheet_options) : MF_OK;
}

static void print(const job *j) {
    const mf_generated_clips *g = &j->result;
    const mf_clips_settings *s = j->request->clips;
    char a[32], b[32];
    int64_t peak = 0;
    for (int i = 0; i < g->ranks; i++) peak = mf_max(peak, g->rank[i].memory.peak_total);
    fprintf(stderr, "%lld clip%s of %lld frames of %lldx%lld in %s, %lld step%s: %.0f%% of peak\n",
            (long long)s->clips, mf_plural(s->clips), (long long)j->shape.frames, (long long)j->shape.width,
            (long long)j->shape.height, mf_seconds_text(g->seconds, a), (long long)s->steps,
            mf_plural(s->steps), 100 * g->flops / g->seconds / g->peak_flops);
    fprintf(stderr, "memory of a rank: peak %s; %d rank%s, %s, on %s\n", mf_bytes_text((double)peak, b),
            g->ranks, mf_plural(g->ranks), j->request->mesh, j->request->run->device);
    if (s->out && s->clips > 1 && !j->writer)
        fprintf(stderr, "wrote %.*s-1.y4m to -%lld.y4m\n", stem_of(s->out), s->out, (long long)s->clips);
    else if (s->out)
        fprintf(stderr, "wrote %s\n", s->out);
    if (s->sheet) fprintf(stderr, "wrote %s\n", s->sheet);
}

static mf_status print_json(const job *j) {
    const mf_generated_clips *g = &j->result;
    json_t *ranks = json_array();
    for (int i = 0; i < g->ranks; i++)
        json_array_append_new(ranks, mf_rank_json(&j->options.mesh, &g->rank[i]));
    json_t *out = json_pack(
        "{s:s, s:I, s:I, s:[I,I,I,I], s:f, s:f, s:o, s:o}", "device", j->request->run->device, "clips",
        (json_int_t)j->shape.clips, "steps", (json_int_t)j->request->clips->steps, "shape",
        (json_int_t)j->shape.frames, (json_int_t)j->shape.height, (json_int_t)j->shape.width,
        (json_int_t)j->shape.channels, "seconds", g->seconds, "flops_share_of_peak",
        g->flops / g->seconds / g->peak_flops, "mesh", mf_mesh_json(&j->options.mesh), "ranks", ranks);
    if (!out) return MF_FAIL(MF_ENOMEM, "no memory for the report");
    json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(out);
    return MF_OK;
}

mf_status mf_generate_clips_run(mf_clips_request *request) {
    mf_status status = MF_OK;
    job j = {.request = request};
    int ranks = mf_mesh_ranks(&request->spec);
    MF_GO(prepare(&j));
    MF_GO(mf_run_settings_check_started(request->run, request->mesh, ranks));
    MF_GO(mf_run_settings_launch(request->run, ranks, body, &j));
    if (j.reports) MF_GO(close_outputs(&j));
    if (j.reports && !request->json) print(&j);
    if (j.reports && request->json) MF_GO(print_json(&j));
fail:
    mf_video_writer_close(j.writer);
    mf_host_free(j.clip);
    mf_host_free(j.all);
    mf_host_free(j.condition);
    mf_generated_clips_free(&j.result);
    return status;
}
