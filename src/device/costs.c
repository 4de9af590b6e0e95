/* costs.c: the costs that this thread's dry operations take their time from. */
#include "meshfold/device.h"

static _Thread_local const mf_costs *current;

const mf_costs *mf_costs_get(void) { return current; }
void mf_costs_set(const mf_costs *costs) { current = costs; }
