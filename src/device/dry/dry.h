/* dry.h: what the devices that compute nothing share. */
#ifndef MF_DEVICE_DRY_H
#define MF_DEVICE_DRY_H

#include "device/ops.h"

/* cuda.c */
extern const mf_workspaces mf_cuda_workspaces;

#endif
