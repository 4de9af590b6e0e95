/* predict.h: what a dry run says of a real one, to stand beside what was measured. */
#ifndef MF_CLI_PREDICT_H
#define MF_CLI_PREDICT_H

#include "meshfold/plan.h"

#include <jansson.h>

/* Of one rank. */
typedef struct mf_prediction {
    mf_rank_report rank;
    double step_s; /* 0: unknown, for the machine at hand was not calibrated for so many ranks and threads */
    bool packed;   /* the real run has documents, of which the dry one knows nothing */
} mf_prediction;

/* Where `meshfold calibrate` writes and others look for the machine at hand: MESHFOLD_MACHINE, else
 * meshfold/machine.json, of a GPU machine-cuda.json, in XDG_CONFIG_HOME or ~/.config. MF_EINVAL where none of
 * them is set. */
mf_status mf_machine_file(const char *device, char out[4096]);
/* The machine at hand; NULL: such a device was not calibrated there. Owned by the caller (mf_host_free). */
mf_status mf_machine_load(const char *device, mf_cluster **out);
/* Of the last step. machine: or NULL. options->steps: that the real run had after its first. borrows: as the
 * real run does. */
mf_status mf_predict(const mf_cluster *machine, const mf_measure_options *options, bool borrows, int rank,
                     mf_prediction *out);
json_t *mf_prediction_json(const mf_mesh_spec *mesh, const mf_prediction *prediction);
/* Bytes sent, or read in place, in a step. */
double mf_moved(const mf_rank_report *rank);
/* To stdout: memory by category, bytes sent or read in place, and a step's time (measured_s), line beside
 * line. */
void mf_prediction_print(const mf_prediction *prediction, const mf_rank_report *measured, double measured_s);

#endif
