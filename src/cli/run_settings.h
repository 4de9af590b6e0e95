/* run_settings.h: the settings that every command which runs a model has in common: the model, the layout,
 * the engine, what is kept.
 *
 *     mf_run_settings_add_layout(&s, &table);
 *     ... mf_flags_parse ...
 *     MF_TRY(mf_run_settings_layout(&s, s.mesh, true, &mesh, &layout));
 *     MF_TRY(mf_run_settings_model(&s, &options));
 *     MF_TRY(mf_run_settings_launch(&s, s.mesh, ranks, body, argument));
 */
#ifndef MF_CLI_RUN_SETTINGS_H
#define MF_CLI_RUN_SETTINGS_H

#include "cli/flag_table.h"
#include "meshfold/train.h"

typedef struct mf_run_settings {
    const char *model, *init, *engine, *dtype, *recompute;
    const char *device; /* what mf_device_choose made of it */
    const char *stream, *attention_stream, *mlp_stream, *exchange, *reduction; /* NULL: not given */
    const char *grid;                                                          /* the same */
    int64_t kv_bucket, zero, threads, seed, frames;
    double comm_timeout;
    bool no_borrow, packed;
    int64_t rank;  /* of --engine one-of */
    bool launched; /* mf_run_settings_launch was reached: peers may have to be ended */
} mf_run_settings;

/* Values that mean "not given" where a flag has no fallback. Before mf_flags_parse. */
void mf_run_settings_begin(mf_run_settings *settings);
/* --model, and --init where `init`. */
void mf_run_settings_add_model(mf_run_settings *settings, mf_flag_table *table, bool init);
/* --data, a list of paths, of whose text or ids `about` says what becomes, and --packed. */
void mf_run_settings_add_data(mf_run_settings *settings, mf_flag_table *table, mf_words *data, bool required,
                              const char *about);
/* --frames and --grid, of clips; frames: where the command has no list of its own. */
void mf_run_settings_add_clip(mf_run_settings *settings, mf_flag_table *table, bool frames);
/* Streams, exchange, reduction; --mesh is the command's own. */
void mf_run_settings_add_layout(mf_run_settings *settings, mf_flag_table *table);
/* --zero, where there is an optimizer. */
void mf_run_settings_add_zero(mf_run_settings *settings, mf_flag_table *table);
/* Group "Layout": --mesh, a text of which `about` says more, and the same. */
void mf_run_settings_add_mesh(mf_run_settings *settings, mf_flag_table *table, const char **mesh,
                              const char *about);
/* A list of --mesh, which `about` explains, the same, and --zero. */
void mf_run_settings_add_meshes(mf_run_settings *settings, mf_flag_table *table, mf_words *meshes,
                                const char *about);
/* --engine, --device, --threads, --no-borrow, --comm-timeout. */
void mf_run_settings_add_engine(mf_run_settings *settings, mf_flag_table *table);
/* The same, where one rank of a mesh can be run alone: --engine one-of, --rank. */
void mf_run_settings_add_engine_or_one(mf_run_settings *settings, mf_flag_table *table);
/* --dtype alone, where nothing is kept for backward. */
void mf_run_settings_add_dtype(mf_run_settings *settings, mf_flag_table *table);
/* --dtype, --recompute. */
void mf_run_settings_add_numbers(mf_run_settings *settings, mf_flag_table *table);

/* Reads `mesh`, with the flags' layout words as defaults. only: it is the command's only mesh, so that a flag
 * which it has no use for is refused. */
mf_status mf_run_settings_layout(const mf_run_settings *settings, const char *mesh, bool only,
                                 mf_mesh_spec *spec, mf_layout *layout);
/* The flags' layout words; they last as long as the settings. */
mf_layout_words mf_run_settings_words(const mf_run_settings *settings);
/* Finds the model, and sets its type, recompute mode, seed and whether it is packed. `command` names itself
 * in errors. */
mf_status mf_run_settings_model(const mf_run_settings *settings, const char *command, mf_model_options *out);
/* Tokens of a sequence: seq, or a clip's grid: frames below 0, and --grid where it is not given, are the
 * model's, whose configuration then says what it is used with. MF_EINVAL for a flag that the model's kind has
 * no use for; seq_given: --seq is one. */
mf_status mf_run_settings_shape(const mf_run_settings *settings, bool seq_given, int64_t seq, int64_t frames,
                                mf_model_options *out);
/* Reads --data, and checks that a model of so large a vocabulary can run on it as the settings say. */
mf_status mf_run_settings_text(const mf_run_settings *settings, const mf_words *data, int64_t vocab,
                               mf_text *out);
/* Compute threads of each of so many ranks: --threads, or the cores divided by them. */
mf_status mf_run_settings_threads(const mf_run_settings *settings, int ranks, int *out);
/* Ranks run under mpiexec, as its processes. */
bool mf_run_settings_mpi(const mf_run_settings *settings);
/* --engine one-of was given. */
bool mf_run_settings_one_of(const mf_run_settings *settings);
/* As mf_launch names it. */
const char *mf_run_settings_engine(const mf_run_settings *settings);
/* MF_EINVAL when mpiexec started another number of ranks than `mesh` has. */
mf_status mf_run_settings_check_started(const mf_run_settings *settings, const char *mesh, int ranks);
/* mf_launch as the settings say. */
mf_status mf_run_settings_launch(mf_run_settings *settings, int ranks, mf_rank_body body, void *argument);

/* MF_EINVAL where a file of this name can't be written; path NULL or "-": nothing is. */
mf_status mf_check_output(const char *flag, const char *path);
/* The presets, for --help. */
void mf_print_presets(void);

#endif
