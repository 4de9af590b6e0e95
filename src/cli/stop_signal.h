/* stop_signal.h: a run that is asked to stop ends after its step, with a checkpoint. */
#ifndef MF_CLI_STOP_SIGNAL_H
#define MF_CLI_STOP_SIGNAL_H

#include <signal.h>

/* From here on SIGINT, SIGTERM and SIGUSR1 set the flag that is returned; another one ends the process as it
 * would without. A file that gets too large is an error of its writer's, not the end of the process. */
const volatile sig_atomic_t *mf_stop_signals_catch(void);

#endif
