/* flag_value.h: one value, from text or JSON, checked and put where its flag wants it. */
#ifndef MF_CLI_FLAG_VALUE_H
#define MF_CLI_FLAG_VALUE_H

#include "cli/flags.h"

/* file: the configuration file that an error is to name; NULL for the command line. target: of the kind's
 * type; a list grows by one. Texts are borrowed. MF_EINVAL. */
mf_status mf_flag_set_text(const mf_flag *flag, const char *file, const char *text, void *target);
mf_status mf_flag_set_json(const mf_flag *flag, const char *file, const json_t *value, void *target);

/* "32x16": two whole numbers of at most nine digits; false: it is something else. */
bool mf_pair_read(const char *text, int64_t *first, int64_t *second);

#endif
