/* run_folder.h: the folder that --out names: whether a run may have it, and what is in it from the start. */
#ifndef MF_CLI_RUN_FOLDER_H
#define MF_CLI_RUN_FOLDER_H

#include "meshfold/base.h"

#include <jansson.h>
#include <stdio.h>

/* Writes nothing. MF_EINVAL when the folder holds something and `force` is false, or can't be made or
 * written. */
mf_status mf_run_folder_check(const char *folder, bool force);
/* Makes the folder, writes resolved.json, takes away an older run's summary and opens metrics.jsonl, which
 * the caller closes. go_on: what is in that stays. MF_EIO. */
mf_status mf_run_folder_open(const char *folder, const json_t *resolved, bool go_on, FILE **metrics);
/* Removes the checkpoints that an older run left in it. MF_EIO. */
mf_status mf_run_folder_forget(const char *folder);
/* Writes `value` to folder/name, with numbers of so many digits. MF_EIO. */
mf_status mf_run_folder_write(const char *folder, const char *name, const json_t *value, size_t digits);

#endif
