/* resume.h: `meshfold train --resume DIR`: which run that is, the settings that it goes on with, and those
 * that it can't change. */
#ifndef MF_CLI_RESUME_H
#define MF_CLI_RESUME_H

#include "cli/flags.h"
#include "meshfold/checkpoint.h"

typedef struct mf_resume {
    const char *folder;   /* --resume's: the run's, or a checkpoint's; NULL: a run begins. A flag's target */
    mf_checkpoint *found; /* the newest that looks whole: its settings are taken */
    json_t *kept;         /* its settings, as they were */
    char *from;           /* where mf_train is to look for checkpoints, or the one it is to take */
    char *run;            /* the run's folder; NULL: the checkpoint lies outside any */
    char *config;         /* the model's configuration, as the checkpoint has it */
} mf_resume;
/* mf_flags_inherit; context: an mf_resume. MF_EFORMAT, MF_EIO say what is wrong with the newest checkpoint.
 */
mf_status mf_resume_inherit(mf_flags *flags, void *context, json_t **out, const char **where);
/* MF_EINVAL names the flag which the command line has otherwise than the run, and which must not change. */
mf_status mf_resume_check(const mf_resume *resume, const mf_flags *flags, const json_t *resolved);
void mf_resume_free(mf_resume *resume);

#endif
