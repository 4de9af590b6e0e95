/* stop_signal.c: see stop_signal.h. */
#include "cli/stop_signal.h"

#include <stddef.h>

static volatile sig_atomic_t asked;

static const int asking[] = {SIGINT, SIGTERM, SIGUSR1};
enum { ASKING = sizeof asking / sizeof asking[0] };

static void ask(int number) {
    (void)number;
    __atomic_store_n(&asked, 1, __ATOMIC_RELAXED); /* all ranks' threads read it */
    for (int i = 0; i < ASKING; i++) signal(asking[i], SIG_DFL);
}

const volatile sig_atomic_t *mf_stop_signals_catch(void) {
    struct sigaction action = {.sa_handler = ask, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < ASKING; i++) sigaction(asking[i], &action, NULL);
    signal(SIGXFSZ, SIG_IGN);
    return &asked;
}
