/* run_settings.c: see run_settings.h. */
#include "cli/run_settings.h"

#include "cli/device_choice.h"
#include "cli/flag_value.h"
#include "cli/machine.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void mf_run_settings_begin(mf_run_settings *s) { s->threads = s->kv_bucket = s->zero = s->frames = -1; }

void mf_run_settings_add_model(mf_run_settings *s, mf_flag_table *t, bool init) {
    mf_table_add(t, MF_TEXT("model", &s->model, "PRESET|PATH",
                            "a preset (see below), a Hugging Face config.json (of a Llama, Mistral, Qwen2 or "
                            "Qwen3, or of a model of videos) or a folder that holds one"));
    if (!init) return;
    mf_table_add(t, MF_TEXT("init", &s->init, "DIR",
                            "start from the weights in this Hugging Face model folder, in one safetensors "
                            "file or several, and its config.json unless --model is given"));
}

void mf_run_settings_add_data(mf_run_settings *s, mf_flag_table *t, mf_words *data, bool required,
                              const char *about) {
    mf_table_add(t, (mf_flag){.name = "data",
                              .kind = MF_FLAG_LIST,
                              .target = data,
                              .value_name = "PATH",
                              .required = required,
                              .about = about});
    mf_table_add(t, MF_SWITCH("packed", &s->packed,
                              "a token sees its own document alone; documents end where the separator of a "
                              "NAME.bin stands"));
}

void mf_run_settings_add_clip(mf_run_settings *s, mf_flag_table *t, bool frames) {
    if (frames)
        mf_table_add(t, MF_INT("frames", &s->frames, NULL, 1, 1 << 20,
                               "frames of a clip, of a model of videos (default: the model's)"));
    mf_table_add(
        t, MF_TEXT("grid", &s->grid, "ROWSxCOLUMNS", "patches of a clip's frame (default: the model's)"));
}

void mf_run_settings_add_layout(mf_run_settings *s, mf_flag_table *t) {
    mf_table_add(
        t, MF_CHOICE("stream", &s->stream, "resident|gather|broadcast|ring", NULL,
                     "how weights reach the computation; sp=N with gather is ZeRO-3 (default: broadcast "
                     "for attention and ring for the MLP on tsp, else resident)"));
    mf_table_add(t, MF_CHOICE("attention-stream", &s->attention_stream, "resident|gather|broadcast|ring",
                              NULL, "the same for attention alone"));
    mf_table_add(t, MF_CHOICE("mlp-stream", &s->mlp_stream, "resident|gather|broadcast|ring", NULL,
                              "the same for the MLP alone"));
    mf_table_add(
        t, MF_CHOICE("exchange", &s->exchange, "allgather|ring|ulysses|switch", NULL,
                     "how queries see the keys of other ranks on sp and tsp (default: allgather); switch is "
                     "what dsp does"));
    mf_table_add(t, MF_INT("kv-bucket", &s->kv_bucket, NULL, 0, 1 << 20,
                           "key heads that exchange allgather gathers at once; 0: all of a shard (default)"));
    mf_table_add(t,
                 MF_CHOICE("reduction", &s->reduction, "allreduce|scatter", NULL,
                           "how partial sums become whole on tp; scatter also cuts what lies between blocks "
                           "(default: allreduce)"));
}

void mf_run_settings_add_zero(mf_run_settings *s, mf_flag_table *t) {
    mf_table_add(
        t, MF_INT("zero", &s->zero, NULL, 0, 1,
                  "1: ranks that hold the same weights (dp, and sp or dsp without a stream) each keep a "
                  "share of the optimizer's state; 0: all of it (default: 1)"));
}

void mf_run_settings_add_mesh(mf_run_settings *s, mf_flag_table *t, const char **mesh, const char *about) {
    mf_flag flag = MF_TEXT("mesh", mesh, "AXIS=N,...", about);
    flag.fallback = "single";
    mf_table_group(t, "Layout");
    mf_table_add(t, flag);
    mf_run_settings_add_layout(s, t);
}

void mf_run_settings_add_meshes(mf_run_settings *s, mf_flag_table *t, mf_words *meshes, const char *about) {
    mf_table_add(t, (mf_flag){.name = "mesh",
                              .kind = MF_FLAG_LIST,
                              .target = meshes,
                              .value_name = "MESH",
                              .required = true,
                              .about = about});
    mf_run_settings_add_layout(s, t);
    mf_run_settings_add_zero(s, t);
}

#define WAYS                                                                                                 \
    "ranks as threads, or as processes that mpiexec started; auto: mpi under mpiexec; nccl: either, a GPU "  \
    "each, and NCCL sends what is in their memory"

static void add_ranks(mf_run_settings *s, mf_flag_table *t) {
    mf_device_flag_add(&s->device, t, "device",
                       "what computes: cpu, cuda, or cuda:1 for the second GPU; of several GPUs ranks take "
                       "turns; auto: cuda where there is a GPU, else cpu; +cudnn after a GPU's name: cuDNN "
                       "computes attention over long chunks, whose gradients then differ from run to run");
    mf_table_add(t, MF_INT("threads", &s->threads, NULL, 1, 4096,
                           "compute threads of a rank (default: the cores divided by the ranks)"));
    mf_table_add(t, MF_SWITCH("no-borrow", &s->no_borrow,
                              "send weights, keys and gradients even where they could be read in place"));
    mf_table_add(
        t, MF_REAL("comm-timeout", &s->comm_timeout, "300", 0.01, 1e9,
                   "seconds that a rank waits for its peers, also while they compute, before the run fails"));
}

void mf_run_settings_add_engine(mf_run_settings *s, mf_flag_table *t) {
    mf_table_add(t, MF_CHOICE("engine", &s->engine, "auto|local|mpi|nccl", "auto", WAYS));
    add_ranks(s, t);
}

void mf_run_settings_add_engine_or_one(mf_run_settings *s, mf_flag_table *t) {
    mf_table_add(
        t, MF_CHOICE("engine", &s->engine, "auto|local|mpi|nccl|one-of", "auto",
                     WAYS
                     "; one-of: "
                     "one rank alone, to see its memory and its time, with stand-ins for what others send"));
    mf_table_add(t, MF_INT("rank", &s->rank, "0", 0, 1 << 20, "which rank --engine one-of computes"));
    add_ranks(s, t);
}

void mf_run_settings_add_dtype(mf_run_settings *s, mf_flag_table *t) {
    mf_table_add(t,
                 MF_CHOICE("dtype", &s->dtype, "f32|bf16", "f32",
                           "type of weights and activations in the products; sums, gradients, norms and the "
                           "optimizer's weights are f32"));
}

void mf_run_settings_add_numbers(mf_run_settings *s, mf_flag_table *t) {
    mf_run_settings_add_dtype(s, t);
    mf_table_add(
        t, MF_CHOICE("recompute", &s->recompute, "none|attention|block", "none",
                     "what the backward pass computes again instead of keeping: more time, less memory"));
}

mf_layout_words mf_run_settings_words(const mf_run_settings *s) {
    return (mf_layout_words){.stream = s->stream,
                             .attention_stream = s->attention_stream,
                             .mlp_stream = s->mlp_stream,
                             .exchange = s->exchange,
                             .reduction = s->reduction,
                             .kv_bucket = s->kv_bucket,
                             .zero = (int)s->zero};
}

mf_status mf_run_settings_layout(const mf_run_settings *s, const char *mesh, bool only, mf_mesh_spec *spec,
                                 mf_layout *layout) {
    mf_layout_words words = mf_run_settings_words(s);
    words.strict = only;
    return mf_layout_parse(mesh, &words, spec, layout);
}

static mf_status config_of_init(const char *folder, mf_model_config *out) {
    char *path = NULL;
    MF_TRY(mf_format(&path, "%s/config.json", folder));
    mf_status status = mf_config_load(path, out);
    mf_host_free(path);
    return mf_blame("--init", status);
}

static mf_recompute recompute_of(const char *word) {
    if (!word) return MF_RECOMPUTE_NONE; /* the command has no use for it */
    if (strcmp(word, "attention") == 0) return MF_RECOMPUTE_ATTENTION;
    return strcmp(word, "block") == 0 ? MF_RECOMPUTE_BLOCK : MF_RECOMPUTE_NONE;
}

mf_status mf_run_settings_model(const mf_run_settings *s, const char *command, mf_model_options *out) {
    out->type = strcmp(s->dtype, "bf16") == 0 ? MF_BF16 : MF_F32;
    out->recompute = recompute_of(s->recompute);
    out->seed = (uint64_t)s->seed;
    out->packed = s->packed;
    if (s->model) return mf_blame("--model", mf_config_find(s->model, &out->config));
    if (s->init) return config_of_init(s->init, &out->config);
    return MF_FAIL(MF_EINVAL,
                   "%s needs --model: a preset, a config.json or a folder that holds one; see %s --help",
                   command, command);
}

static mf_status read_grid(const char *text, mf_clip_grid *out) {
    int64_t rows = 0, columns = 0;
    if (!mf_pair_read(text, &rows, &columns) || rows < 1 || columns < 1 || rows > 1 << 20 ||
        columns > 1 << 20)
        return MF_FAIL(MF_EINVAL, "--grid %.100s: expected rows and columns of patches, as in 32x32", text);
    out->rows = rows;
    out->columns = columns;
    return MF_OK;
}

mf_status mf_run_settings_shape(const mf_run_settings *s, bool seq_given, int64_t seq, int64_t frames,
                                mf_model_options *out) {
    bool video = out->config.family == MF_STDIT;
    out->tokens = seq;
    if (!video && (frames > 0 || s->grid))
        return MF_FAIL(MF_EINVAL, "--%s: is of clips, but this model reads texts",
                       s->grid ? "grid" : "frames");
    if (!video) return MF_OK;
    if (seq_given) return MF_FAIL(MF_EINVAL, "--seq: is of texts; a clip has --frames and --grid");
    if (s->packed) return MF_FAIL(MF_EINVAL, "--packed: is of texts; a clip has no documents");
    out->grid = mf_config_grid(&out->config);
    if (frames > 0) out->grid.frames = frames;
    if (s->grid) MF_TRY(read_grid(s->grid, &out->grid));
    if (mf_clip_places(&out->grid) > (1 << 28) / out->grid.frames)
        return MF_FAIL(MF_EINVAL, "clips of %lld frames of %lldx%lld patches: more than %d patches",
                       (long long)out->grid.frames, (long long)out->grid.rows, (long long)out->grid.columns,
                       1 << 28);
    out->tokens = mf_clip_tokens(&out->grid);
    out->config.video.frames = out->grid.frames;
    out->config.video.height = out->grid.rows * out->config.video.patch;
    out->config.video.width = out->grid.columns * out->config.video.patch;
    return MF_OK;
}

mf_status mf_run_settings_text(const mf_run_settings *s, const mf_words *data, int64_t vocab, mf_text *out) {
    MF_TRY(mf_blame("--data", mf_text_load(data->items, data->count, out)));
    MF_TRY(mf_text_fits(out, vocab));
    return s->packed ? mf_blame("--packed", mf_text_is_separated(out)) : MF_OK;
}

mf_status mf_run_settings_threads(const mf_run_settings *s, int ranks, int *out) {
    mf_machine machine;
    *out = (int)s->threads;
    if (s->threads > 0) return MF_OK;
    MF_TRY(mf_machine_look(&machine));
    if (mf_run_settings_mpi(s)) ranks = mf_mpi_local_ranks();
    if (mf_run_settings_one_of(s)) ranks = 1;
    *out = (int)mf_max(1, mf_machine_workers(&machine) / ranks);
    return MF_OK;
}

bool mf_run_settings_one_of(const mf_run_settings *s) { return strcmp(s->engine, "one-of") == 0; }

bool mf_run_settings_mpi(const mf_run_settings *s) {
    if (mf_run_settings_one_of(s)) return false;
    return strcmp(s->engine, "mpi") == 0 || (strcmp(s->engine, "local") != 0 && mf_launched_by_mpi());
}

const char *mf_run_settings_engine(const mf_run_settings *s) {
    if (strcmp(s->engine, "nccl") == 0) return "nccl";
    if (mf_run_settings_one_of(s)) return "one-of";
    return mf_run_settings_mpi(s) ? "mpi" : "local";
}

static mf_status check_rank(const mf_run_settings *s, const char *mesh, int ranks) {
    if (s->rank > 0 && !mf_run_settings_one_of(s))
        return MF_FAIL(MF_EINVAL, "--rank %lld: is of --engine one-of", (long long)s->rank);
    if (s->rank < ranks) return MF_OK;
    return MF_FAIL(MF_EINVAL, "--rank %lld: --mesh %s has %d rank%s, the first is 0", (long long)s->rank,
                   mesh, ranks, ranks == 1 ? "" : "s");
}

/* Said here and not by the engine, which knows nothing of meshes. */
mf_status mf_run_settings_check_started(const mf_run_settings *s, const char *mesh, int ranks) {
    int started = mf_mpi_ranks();
    MF_TRY(check_rank(s, mesh, ranks));
    if (!mf_run_settings_mpi(s) || !*mf_mpi_description() || ranks == started) return MF_OK;
    if (!mf_launched_by_mpi())
        return MF_FAIL(MF_EINVAL, "--engine mpi: --mesh %s needs mpiexec -n %d before meshfold", mesh, ranks);
    return MF_FAIL(
        MF_EINVAL,
        "--mesh %s: is %d rank%s, but mpiexec started %d: give mpiexec -n %d or a mesh of %d ranks", mesh,
        ranks, ranks == 1 ? "" : "s", started, ranks, started);
}

mf_status mf_run_settings_launch(mf_run_settings *s, int ranks, mf_rank_body body, void *argument) {
    mf_launch_options options = {.engine = mf_run_settings_engine(s),
                                 .ranks = ranks,
                                 .timeout_s = s->comm_timeout,
                                 .no_borrow = s->no_borrow,
                                 .only_rank = (int)s->rank};
    s->launched = true;
    return mf_launch(&options, body, argument);
}

mf_status mf_check_output(const char *flag, const char *path) {
    if (!path || strcmp(path, "-") == 0) return MF_OK;
    const char *slash = strrchr(path, '/');
    char folder[4096] = ".";
    if (slash) snprintf(folder, sizeof folder, "%.*s", (int)mf_max(slash - path, 1), path);
    if (access(folder, W_OK | X_OK) == 0) return MF_OK;
    return MF_FAIL(MF_EINVAL, "--%s %s: %s cannot be written: %s", flag, path, folder, strerror(errno));
}

void mf_print_presets(void) {
    const char *name, *about;
    printf("\nPresets\n");
    for (int i = 0; mf_config_preset_at(i, &name, &about); i++) printf("  %-12s %s\n", name, about);
}
