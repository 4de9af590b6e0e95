/* machine.h: the device that operations are tested on: "cpu", or what MESHFOLD_TEST_DEVICE names; and memory
 * that both it and the host address. Where a device has queues, set MESHFOLD_CUDA_BLOCKING=1, so that results
 * are there when a call returns. */
#ifndef MF_TEST_MACHINE_H
#define MF_TEST_MACHINE_H

#include "meshfold/device.h"

const char *machine_name(void);
/* Exact sizes, so that a sanitizer sees a step over the end. NULL when there is none. */
void *machine_take(size_t bytes);
/* Accepts NULL. */
void machine_give_back(void *data);

#endif
