/* trace_file.h: a trace as chrome://tracing and ui.perfetto.dev read it. */
#ifndef MF_CLI_TRACE_FILE_H
#define MF_CLI_TRACE_FILE_H

#include "meshfold/base.h"

/* One process that has this name, a thread for computing and one for each axis. MF_EIO names the file. */
mf_status mf_trace_write(const mf_trace *trace, const char *name, const char *path);

#endif
