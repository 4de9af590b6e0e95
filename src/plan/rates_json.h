/* rates_json.h: rates as a cluster's file has them, in TFLOP/s and GB/s. */
#ifndef MF_PLAN_RATES_JSON_H
#define MF_PLAN_RATES_JSON_H

#include "meshfold/rates.h"

#include <jansson.h>

/* A size, a rate or a time of any machine, in whatever unit: what follows from others may be infinite. */
bool mf_within_reason(double value);
/* where: what errors begin with, as "cpu.json: device.measured[0]". MF_EFORMAT names the entry. */
mf_status mf_rates_read(const char *where, const json_t *from, mf_rates *out);
/* Owned by the caller; NULL: no memory. */
json_t *mf_rates_write(const mf_rates *rates);

#endif
