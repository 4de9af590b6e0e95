/* device_choice.h: which device --device means on this machine. */
#ifndef MF_CLI_DEVICE_CHOICE_H
#define MF_CLI_DEVICE_CHOICE_H

#include "cli/run_settings.h"

/* --device. about: more of what it is for, or NULL. */
void mf_device_flag_add(const char **target, mf_flag_table *table, const char *name, const char *about);
/* "auto" becomes "cuda" where there is a GPU, else "cpu". MF_EUNSUPPORTED, MF_EINVAL: the device can't be
 * had;
 * --flag is what asked for it. */
mf_status mf_device_choose(const char *flag, const char **device);
/* The same where nothing is to be computed on it: "cpu" and "cuda" are any machine's. */
mf_status mf_device_choose_dry(const char *flag, const char **device);
/* What this machine calls it: of a CPU the processor. */
enum { MF_DEVICE_WORDS = MF_CUDA_WORDS };
void mf_device_words(const char *device, char out[MF_DEVICE_WORDS]);

#endif
