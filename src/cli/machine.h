/* machine.h: what the machine offers this process. */
#ifndef MF_CLI_MACHINE_H
#define MF_CLI_MACHINE_H

#include "meshfold/base.h"

enum { MF_VECTOR_SETS = 4 };

typedef struct mf_machine {
    char processor[128];              /* the system's name for it; "" where it gives none */
    int packages, cores, threads;     /* the machine's; threads are hardware threads */
    int usable_cores, usable_threads; /* those that this process may run on */
    double cpu_limit;                 /* cores' worth of time that its control group may use; 0: no limit */
    int64_t memory_bytes, available_bytes;
    int64_t memory_limit_bytes;   /* its control group's; 0: none below the machine's */
    bool vectors[MF_VECTOR_SETS]; /* by mf_vector_name */
    bool nvidia_gpu;              /* the driver shows one */
} mf_machine;

/* "avx2", "avx512f", "avx512_bf16", "amx_bf16". */
const char *mf_vector_name(int index);
/* MF_ELIBRARY when the topology can't be read. */
mf_status mf_machine_look(mf_machine *out);
/* How many ranks times threads can compute at once: usable cores, or fewer by the control group; at least 1.
 */
int mf_machine_workers(const mf_machine *machine);

#endif
