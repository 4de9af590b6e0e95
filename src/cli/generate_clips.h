/* generate_clips.h: `meshfold generate` of a model of videos. */
#ifndef MF_CLI_GENERATE_CLIPS_H
#define MF_CLI_GENERATE_CLIPS_H

#include "cli/run_settings.h"

typedef struct mf_clips_settings {
    const char *out, *sheet, *condition;
    int64_t clips, at_once, steps;
    double guidance;
} mf_clips_settings;

/* The flags that only such a model has a use for. */
void mf_generate_clips_add(mf_clips_settings *clips, mf_run_settings *run, mf_flag_table *table);
/* What a text's model, or a video's, refuses: MF_EINVAL names the flag that was given. */
mf_status mf_generate_clips_check(const mf_flags *flags, bool video);

typedef struct mf_clips_request {
    const mf_clips_settings *clips;
    mf_run_settings *run;
    const char *mesh;
    uint64_t seed;
    bool json;
    mf_model_options model; /* config and type */
    mf_mesh_spec spec;
    mf_layout layout;
    int threads;
} mf_clips_request;
/* Makes the clips, writes them and says what it took. */
mf_status mf_generate_clips_run(mf_clips_request *request);

#endif
