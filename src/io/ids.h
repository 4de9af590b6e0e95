/* ids.h: files of token ids, NAME.bin, with a description, NAME.json: {"type": "uint16" or "uint32", "count":
 * .., "vocab_size": .., "separator": an id, null or not there, ...}. */
#ifndef MF_IO_IDS_H
#define MF_IO_IDS_H

#include "meshfold/io.h"

/* The path is NAME.bin, and NAME.json is there. */
bool mf_ids_described(const char *path);
mf_status mf_ids_map(const char *path, mf_text *out);
void mf_ids_unmap(mf_text *text);

#endif
